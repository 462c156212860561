"""`px_seg rounds`: how masks settle with rounds, images and draws."""

from pathlib import Path

import pytest
import torch

from px_seg import InputError, Masks, build_classifier
from px_seg.analysis import agreement
from px_seg.commands import main
from px_seg.comparison.budgets import KIND, first_images, overlap
from px_seg.comparison.round_rows import REFERENCE, CoursePoint, RoundsRow, read_rows, table, write_rows


@pytest.fixture
def start(tmp_path) -> Path:
    torch.manual_seed(0)
    build_classifier("resnet20", 15, "none").save_pretrained(tmp_path / "start" / "model")
    return tmp_path / "start" / "model"


@pytest.fixture
def unset(small) -> Path:
    """The configuration without a number of rounds, which is varied here."""
    text = small.read_text()
    assert "rounds: 2\n" in text
    small.write_text(text.replace("rounds: 2\n", ""))
    return small


def asked(config: Path, start: Path, out: Path, *more: object) -> list[str]:
    usual = ("--task", "cls", "--config", config, "--weights", start, "--methods", "px", "--sparsities", 0.8)
    return ["rounds", *map(str, (*usual, "--output_dir", out, *more))]


def test_masks_are_compared_with_the_reference(unset, start, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    words = asked(unset, start, out, "--vary_rounds", "1,3,6", "--vary_images", "1,4", "--vary_draws", "5")
    main(words)
    said = capsys.readouterr().out
    rows = read_rows(out)
    assert [(row.varied, row.value, row.rounds, row.images) for row in rows] == [
        *(("reference", 6, 6, 15), ("rounds", 1, 1, 15), ("rounds", 3, 3, 15)),
        *(("images", 1, 6, 1), ("images", 4, 6, 4), ("draw", 5, 6, 15)),
    ]
    place = out / "masks" / "px" / "0.8" / "seed0"
    reference = Masks.load(place / "reference.safetensors")
    for row in rows[1:]:
        masks = Masks.load(place / f"{row.varied}{row.value}.safetensors")
        assert row.agreement == agreement(masks, reference)
        kept = sum(int((mask & reference[name]).sum()) for name, mask in masks.items())
        assert row.overlap == kept / reference.kept
        assert masks.kept == reference.kept
    assert rows[0].overlap == 1
    assert rows[1].overlap < rows[2].overlap < 1
    course = rows[0].course
    assert [point.round for point in course] == [0, 1, 2, 3, 4, 5, 6]
    assert course[0].density == 1
    assert course[-1].density == pytest.approx(0.2, abs=1e-4)
    # Before the first round all is decided at once, as one round does.
    assert course[0].overlap == pytest.approx(rows[1].overlap, abs=1e-6)
    assert course[-1].overlap == 1
    assert len(course[0].branches) == 9
    assert course[-1].branches["encoder.layer3.2"] < course[0].branches["encoder.layer3.2"]
    written = {path.name for path in out.iterdir()}
    assert {
        "rounds.csv",
        "rounds_course.csv",
        "rounds_flow.csv",
        "rounds.md",
        "rounds.png",
        "rounds_flow.svg",
    } < written
    assert (out / "rounds.md").read_text().strip() in said

    # What is there is not pruned again; what is added is compared with the same reference.
    main(asked(unset, start, out, "--vary_rounds", "2,6", "--vary_images", "1", "--vary_draws", "5"))
    again = capsys.readouterr().out
    assert "rounds 2: rounds 2" in again
    assert "images 1: rounds 6" not in again
    (place / "reference.safetensors").unlink()
    main(asked(unset, start, out, "--vary_rounds", "4,6", "--vary_images", "1", "--vary_draws", "5"))
    assert Masks.load(place / "reference.safetensors") == reference

    # Others in its place are not compared with.
    Masks.load(place / "images1.safetensors").shuffled(1).save(place / "reference.safetensors")
    capsys.readouterr()
    words = asked(unset, start, out, "--vary_rounds", "5,6", "--vary_images", "1", "--vary_draws", "5")
    with pytest.raises(SystemExit):
        main(words)
    assert "has other masks than the reference had: delete it" in capsys.readouterr().err
    (place / "reference.safetensors").write_bytes(b"damaged")
    with pytest.raises(SystemExit):
        main(words)
    assert "delete it, and it is pruned again" in capsys.readouterr().err


def test_a_network_without_paths_is_compared_without_its_flow(unset, tmp_path) -> None:
    words = ["rounds", "--task", "cls", "--config", str(unset), "--encoder", "mit_b0", "--methods", "magnitude"]
    main([*words, "--sparsities", "0.5", "--vary_rounds", "1,2", "--output_dir", str(tmp_path / "out")])
    reference, one = read_rows(tmp_path / "out")
    assert one.overlap == 1
    assert [point.branches for point in reference.course] == [{}, {}, {}]
    assert not (tmp_path / "out" / "rounds_flow.csv").exists()


def test_draws_are_of_other_images(unset, start, tmp_path) -> None:
    words = asked(unset, start, tmp_path / "out", "--vary_rounds", "1", "--vary_images", "1")
    words[words.index("0.8")] = "0.5"
    main([*words, "--seeds", "3"])
    rows = read_rows(tmp_path / "out")
    assert [(row.varied, row.value) for row in rows] == [("reference", 1), ("images", 1), ("draw", 4), ("draw", 5)]


def test_a_method_without_data_has_no_images_to_vary(unset, start, tmp_path) -> None:
    words = asked(unset, start, tmp_path / "out", "--vary_rounds", "1,2")
    words[words.index("px")] = "magnitude"
    main(words)
    rows = read_rows(tmp_path / "out")
    assert [(row.varied, row.value) for row in rows] == [("reference", 2), ("rounds", 1)]
    assert rows[1].overlap == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--vary_rounds", "0,3"), "--vary_rounds takes numbers of at least 1, got 0"),
        (("--vary_images", "400"), "--vary_images has 400, more than the 15 images that prune"),
        (("--vary_rounds", "3,3"), "--vary_rounds has 3 twice: once is enough"),
        (("--vary_images", "a"), "takes whole numbers separated by commas, got 'a'"),
        (("--vary_draws", "0"), "--vary_draws has 0, the seed of the reference's own images"),
        (("--shuffle_masks", "true"), "leave shuffle_masks out"),
        (("--recalibrate", "reconstruct"), "leave recalibrate out"),
        (("--rounds", "3"), "rounds are varied here: leave rounds 3 out"),
        (("--vary", "rounds=3"), "leave --vary out"),
        (("stray",), "unrecognized arguments: stray"),
    ],
)
def test_bad_input_is_one_line(unset, start, tmp_path, capsys, more, message) -> None:
    with pytest.raises(SystemExit) as end:
        main(asked(unset, start, tmp_path / "out", *more))
    said = capsys.readouterr().err.rsplit("\r", 1)[-1]
    assert end.value.code == 2
    assert said.count("\n") == 1
    assert said.startswith("error: ")
    assert message in said or "vary" in more[0]
    assert not (tmp_path / "out").exists()


def test_other_settings_are_another_comparison(unset, start, tmp_path, capsys) -> None:
    main(asked(unset, start, tmp_path / "out", "--vary_rounds", "1,2", "--vary_images", "1", "--vary_draws", "1"))
    with pytest.raises(SystemExit):
        main(asked(unset, start, tmp_path / "out", "--vary_rounds", "1,3"))
    assert "reference_rounds is 2 there, 3 now" in capsys.readouterr().err


def row(varied: str, value: int, overlap: float, course: tuple[CoursePoint, ...] = ()) -> RoundsRow:
    return RoundsRow("px", 0.9, 0, varied, value, 100, 64, overlap, 0.999, 1.0, "a1", course)


def test_rows_are_read_back_and_damaged_ones_refused(tmp_path) -> None:
    course = (CoursePoint(0, 1.0, 0.8, {"a": 0.5, "b": 0.25}), CoursePoint(100, 0.1, 1.0, {"a": 0.0, "b": 0.25}))
    rows = [row(REFERENCE, 100, 1.0, course), row("rounds", 10, 0.95), row("rounds", 50, 0.992), row("images", 4, 0.9)]
    write_rows(tmp_path, rows)
    assert read_rows(tmp_path) == rows
    text = table(rows, 64)
    assert "| `px` | 90% | rounds 10 | 100 | 64 | 95.00% | 99.900% | 1.0 |" in text
    assert "99% of the same weights with 50 rounds and no smaller number of images, each alone" in text
    (tmp_path / "rounds_course.csv").write_text("method,sparsity,seed,round,density,overlap\n")
    with pytest.raises(InputError, match=r"rounds_course\.csv is damaged"):
        KIND.read(tmp_path)


def test_parts_of_batches_and_overlaps(generator) -> None:
    batches = [(torch.randn(4, 1, generator=generator), torch.arange(4)) for _ in range(3)]
    parts = first_images(batches, 6)
    assert [len(images) for images, _ in parts] == [4, 2]
    assert torch.equal(parts[1][0], batches[1][0][:2])
    one, other = ({"a": torch.tensor(mask)} for mask in ([True, True, False], [True, False, True]))
    assert overlap(one, Masks(other)) == 0.5
