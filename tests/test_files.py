"""Files that are there whole or not at all, and YAML in which a key stands once."""

import os
import re
from pathlib import Path

import pytest

from px_seg import InputError
from px_seg.errors import one_line
from px_seg.files import flush_tree, read_yaml, replacing, user_path, write_text


@pytest.fixture
def flushed(monkeypatch) -> list[str]:
    """The names of files and folders flushed to the disk, and of those renamed, in order."""
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def note_fsync(descriptor: int) -> None:
        done.append(f"flushed {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        fsync(descriptor)

    def note_replace(self: Path, target: Path) -> Path:
        done.append(f"renamed {self.name}")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "replace", note_replace)
    return done


def test_a_file_is_on_the_disk_before_its_name_is_and_the_name_after(tmp_path, flushed) -> None:
    write_text(tmp_path / "a.json", "{}")
    aside = flushed[1].removeprefix("renamed ")
    assert re.fullmatch(r"a\.json\.\w+\.new", aside)
    assert flushed == [f"flushed {aside}", f"renamed {aside}", f"flushed {tmp_path.name}"]
    assert (tmp_path / "a.json").read_text() == "{}"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_an_error_leaves_the_former_file(tmp_path) -> None:
    write_text(tmp_path / "a", "former")

    def interrupted() -> None:
        with replacing(tmp_path / "a") as fresh:
            fresh.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupted()
    assert (tmp_path / "a").read_text() == "former"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_tree_is_flushed_whole(tmp_path, flushed) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c").write_text("x")
    flush_tree(tmp_path)
    assert set(flushed) == {"flushed b", "flushed c", f"flushed {tmp_path.name}"}
    assert flushed[-1] == f"flushed {tmp_path.name}"


@pytest.mark.parametrize(
    ("text", "key", "lines"),
    [
        ("epochs: 1\nseed: 2\nepochs: 3\n", "epochs", "lines 1 and 3"),
        ("data:\n  size: 32\n  root: x\n  size: 64\n", "size", "lines 2 and 4"),
        ("a: {b: 1, b: 1}\n", "b", "lines 1 and 1"),
    ],
)
def test_a_key_that_stands_twice_is_refused(tmp_path, text: str, key: str, lines: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(InputError, match=rf"the configuration .*x\.yaml has the key {key} twice, on {lines}"):
        read_yaml(tmp_path / "x.yaml", "the configuration")


def test_a_key_may_stand_in_several_mappings(tmp_path) -> None:
    (tmp_path / "x.yaml").write_text("a: {b: 1}\nc: {b: 2}\nd: [{b: 3}, {b: 4}]\n")
    assert read_yaml(tmp_path / "x.yaml", "the file") == {"a": {"b": 1}, "c": {"b": 2}, "d": [{"b": 3}, {"b": 4}]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x [1]\nb:\n  - *x\n", "refers to another of its values on line 3: write the value itself there"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", "refers to another of its values on line 3"),
        (
            "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}' if n else '1'] * 9)}]\n" for n in range(30)),
            "refers to another of its values on line 2",
        ),
        ("[" * 3000 + "]" * 3000, "is nested more than 50 levels deep: no setting is"),
        ("".join(" " * n + "a:\n" for n in range(3000)), "is nested more than 50 levels deep"),
        ("a: !!python/object/apply:os.system [true]", "is not YAML: could not determine a constructor for the tag"),
        ("a: 2026-99-99", "is not YAML: month must be in 1..12"),
        ("{[1]: 2}", "is not YAML: while constructing a mapping"),
    ],
)
def test_yaml_that_could_do_harm_is_refused(tmp_path, text: str, message: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(
        InputError, match=f"the configuration .*x.yaml {re.escape(message) if '[' in text else message}"
    ):
        read_yaml(tmp_path / "x.yaml", "the configuration")


def test_what_is_no_yaml_is_said_in_a_line(tmp_path) -> None:
    (tmp_path / "x.yaml").write_text("a: [1,\n")
    with pytest.raises(InputError, match=r"the preset .*x\.yaml is not YAML: ") as caught:
        read_yaml(tmp_path / "x.yaml", "the preset")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"the preset .*none\.yaml cannot be read: No such file"):
        read_yaml(tmp_path / "none.yaml", "the preset")


def test_an_error_is_folded_into_a_line() -> None:
    assert one_line(ValueError("a\n  b\tc")) == "a b c"
    assert one_line(ValueError("a long story"), 6) == "a long"
    assert one_line(KeyboardInterrupt()) == "KeyboardInterrupt"


def test_a_path_is_refused_by_the_name_of_its_setting() -> None:
    with pytest.raises(InputError, match="--masks is empty"):
        user_path("", "--masks")
    with pytest.raises(InputError, match=r"--masks 'a\\x00b' cannot be a path"):
        user_path("a\0b", "--masks")
    with pytest.raises(InputError, match=r"--masks '~nobody-of-this-name/x' cannot be a path"):
        user_path("~nobody-of-this-name/x", "--masks")
