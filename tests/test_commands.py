"""The console command: one word chooses what is done, the help is grouped, and a wrong word is one line."""

import re
from contextlib import suppress
from typing import NamedTuple

import pytest
from helpers.sweeps import finished

import px_seg.report
from px_seg import InputError, commands
from px_seg.command_help import GROUPS, keys_of
from px_seg.commands import COMMANDS, main
from px_seg.tasks import TASKS, presets


def shown(capsys, *words: str) -> str:
    with suppress(SystemExit):
        main(list(words))
    said = capsys.readouterr()
    assert said.err == ""
    return said.out


def test_without_a_word_every_command_is_listed(capsys) -> None:
    text = shown(capsys)
    assert text == shown(capsys, "--help")
    assert set(COMMANDS) >= {"seg", "cls", "transfer", "sweep", "report", *TASKS}
    for name in COMMANDS:
        assert re.search(rf"^  {name} +\w", text, re.MULTILINE)


def test_an_unknown_command_is_one_line(capsys) -> None:
    with pytest.raises(SystemExit) as end:
        main(["sge", "--sparsity", "0.8"])
    assert end.value.code == 2
    assert capsys.readouterr().err == (
        "error: there is no command 'sge': choose one of seg, cls, transfer, sweep, sanity, report, preservation, "
        "ntk, widths, rounds, check, export, evaluate, latency, predict, demo\n"
    )


@pytest.mark.parametrize("name", TASKS)
def test_the_help_has_every_flag_once_under_a_heading(name: str, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    text = shown(capsys, name, "--help")
    listed = re.findall(r"^  --([\w.]+)", text, re.MULTILINE)
    assert sorted(listed) == sorted(["config", "print_config", *keys_of(TASKS[name].config_type)])
    assert max(map(len, text.splitlines())) <= 100
    assert len(text.splitlines()) < 180
    headings = re.findall(r"^(\w.*):$", text, re.MULTILINE)
    assert [heading for heading in GROUPS if heading in headings] == [h for h in headings if h in GROUPS]
    assert re.search(r"--sparsity X +share of the backbone", text)
    assert "(resnet18)" in text
    assert f"configs/{name}/synthetic.yaml" in text


@pytest.mark.parametrize("name", TASKS)
def test_every_task_has_presets(name: str) -> None:
    assert (presets(TASKS[name]) / "synthetic.yaml").is_file()


def test_a_command_is_given_the_other_words(monkeypatch) -> None:
    given: list[object] = []
    monkeypatch.setitem(COMMANDS, "seg", commands.Command("about", given.append))
    main(["seg", "--sparsity", "0.8"])
    assert given == [["--sparsity", "0.8"]]


def test_the_help_of_a_study_leaves_out_what_it_decides(capsys) -> None:
    text = shown(capsys, "transfer", "--help")
    assert "--tasks" in text
    assert "--masks" not in text
    assert "--data.classes" not in text


class Swept(NamedTuple):
    """What a sweep came to."""

    done: bool = True
    unfinished: tuple[str, ...] = ()


def test_a_sweep_measures_its_runs_and_reports_whatever_happens(tmp_path, monkeypatch, capsys) -> None:
    folder, said = finished(tmp_path, "px", 0.8, 0, 0.5), []
    monkeypatch.setattr(commands, "run_sweep", lambda *_: Swept())
    monkeypatch.setattr(px_seg.report, "report", lambda folder: said.append(("report", folder)))

    def swept(*words: str) -> int:
        said.clear()
        with pytest.raises(SystemExit) as end:
            main(["sweep", "--methods", "px", "--sparsities", "0.8", "--output_dir", str(tmp_path), *words])
        return end.value.code

    monkeypatch.setattr(commands, "measure_missing", lambda folders: said.append(("measure", folders)))
    assert (swept(), said) == (0, [("report", tmp_path)])
    assert (swept("--latency"), said) == (0, [("measure", [folder]), ("report", tmp_path)])

    monkeypatch.setattr(commands, "export_missing", lambda folders, formats: said.append(("export", folders, formats)))
    every = [("export", [folder], ("onnx", "int8")), ("measure", [folder]), ("report", tmp_path)]
    assert (swept("--latency", "--export", "onnx,int8"), said) == (0, every)
    assert (swept("--export", "onnx,tflite"), said) == (2, [])
    assert "error: there is no format 'tflite'" in capsys.readouterr().err

    def refuse(*_: object) -> None:
        raise InputError("no memory")

    monkeypatch.setattr(commands, "measure_missing", refuse)
    assert (swept("--latency"), said) == (2, [("report", tmp_path)])
    assert capsys.readouterr().err == "error: no memory\n"
    monkeypatch.setattr(commands, "measure_missing", lambda folders: said.append(("measure", folders)))
    monkeypatch.setattr(commands, "export_missing", refuse)
    assert (swept("--latency", "--export", "onnx"), said) == (2, every[1:])
    assert capsys.readouterr().err == "error: no memory\n"

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "export_missing", interrupted)
    assert (swept("--latency", "--export", "onnx"), said) == (130, [])


def test_the_help_of_a_sweep_is_grouped(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    text = shown(capsys, "sweep", "--help")
    assert text.startswith("usage: px_seg sweep ")
    headings = re.findall(r"^(\w.*):$", text, re.MULTILINE)
    assert [heading for heading in headings if heading in ("what is run", "where", "how")] == [
        "what is run",
        "where",
        "how",
    ]
    assert max(map(len, text.splitlines())) <= 100 + len("usage: ")


@pytest.mark.parametrize(
    "words",
    [
        ["seg", "--sparsity", "0.5", "--sparsity=0.8"],
        ["sweep", "--seeds", "0", "--preset", "demo", "--seeds", "1"],
        ["export", "run", "--format", "onnx", "--format", "int8"],
        ["seg", "--overwrite", "--data.size", "32", "--overwrite"],
    ],
)
def test_a_flag_that_is_given_twice_is_refused(words: list[str], capsys) -> None:
    twice = next(word for word in words if words.count(word) > 1 or f"{word}=0.8" in words)
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"error: {twice} is given twice: keep one\n"
