"""`px_seg ntk` and `px_seg widths`: of methods and of finished runs."""

import math
from pathlib import Path

import pytest
import torch
from helpers.runs import classify, go

from px_seg import InputError, Masks, build_classifier, load_model
from px_seg.analysis import widths
from px_seg.commands import main
from px_seg.comparison import spectrum_rows, width_rows
from px_seg.comparison.measures import SpectrumMeasure, WidthMeasure
from px_seg.comparison.spectrum_rows import SpectrumRow


@pytest.fixture
def start(tmp_path) -> Path:
    torch.manual_seed(0)
    build_classifier("resnet20", 15, "none").save_pretrained(tmp_path / "start" / "model")
    return tmp_path / "start" / "model"


def compare(name: str, *words: object) -> None:
    main([name, *map(str, words)])


def refused(capsys, name: str, *words: object) -> str:
    with pytest.raises(SystemExit) as end:
        compare(name, *words)
    said = capsys.readouterr().err.rsplit("\r", 1)[-1]
    assert end.value.code == 2
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    return said


def test_spectra_of_methods_and_of_the_runs_that_they_are(small, start, tmp_path, capsys) -> None:
    """The same networks, pruned here and read from finished runs, have the same rows; and both go on where stopped."""
    given = ("--config", small, "--weights", start)
    methods = ("--methods", "magnitude,random", "--sparsities", 0.5, "--images", 3, "--outputs", 4)
    compare("ntk", "--task", "cls", *given, *methods, "--output_dir", tmp_path / "methods")
    said = capsys.readouterr().out
    assert "1 of 3: dense seed 0: trace" in said
    assert "3 images, 1 seed, 12 of their 45 outputs" in said
    rows = spectrum_rows.read_rows(tmp_path / "methods")
    assert [(row.method, row.sparsity, row.outputs, row.all_outputs) for row in rows] == [
        ("dense", 0, 12, 45),
        ("magnitude", 0.5, 12, 45),
        ("random", 0.5, 12, 45),
    ]
    dense, *pruned = rows
    assert (dense.distance, dense.alignment) == (0, pytest.approx(1))
    for row in rows:
        # A part of the outputs has a part of the trace, of which the estimate is of all.
        assert sum(row.spectrum) < row.trace < row.bound
        assert row.trace_error > 0
        assert max(row.spectrum) <= row.largest + row.largest_error
    assert all(row.distance > 0 and row.alignment < 1 for row in pruned)
    assert {"ntk.csv", "ntk_spectra.csv", "ntk.md", "ntk.png", "ntk.svg"} < {
        p.name for p in (tmp_path / "methods").iterdir()
    }

    for method in ("magnitude", "random"):
        classify(
            *given, "--method", method, "--sparsity", 0.5, "--epochs", 0, "--output_dir", tmp_path / "runs" / method
        )
    asked = (tmp_path / "runs", "--images", 3, "--outputs", 4, "--output_dir", tmp_path / "of_runs")
    compare("ntk", *asked)
    again = spectrum_rows.read_rows(tmp_path / "of_runs")
    for own, other in zip(again, rows, strict=True):
        assert own.spectrum == pytest.approx(other.spectrum, rel=1e-6)
        assert own[1:12] == pytest.approx(other[1:12], rel=1e-6)
    capsys.readouterr()
    compare("ntk", *asked)
    assert "1 of 3" not in capsys.readouterr().out
    # Other masks under the same name are other rows.
    masks = tmp_path / "runs" / "random" / "masks.safetensors"
    held = Masks.load(masks)
    held.shuffled(7).save(masks)
    message = refused(capsys, "ntk", *asked)
    assert "holds rows of random+rounds=2 at 0.5 with seed 0 by another file of criteria or masks" in message


def test_all_outputs_of_a_classifier_by_default(small, start, tmp_path) -> None:
    """Exact, and that of `px_seg.analysis.ntk_spectrum` on the images that are judged on."""
    given = ("--task", "cls", "--config", small, "--weights", start, "--ridge", 1)
    compare(
        "ntk", *given, "--methods", "magnitude", "--sparsities", 0.9, "--images", 2, "--output_dir", tmp_path / "out"
    )
    dense, _ = spectrum_rows.read_rows(tmp_path / "out")
    assert (dense.outputs, dense.all_outputs, dense.trace_error, dense.largest_error) == (30, 30, 0, 0)
    assert dense.trace == pytest.approx(sum(dense.spectrum))
    assert dense.largest == pytest.approx(max(dense.spectrum))
    assert dense.rank <= 30


def test_widths_of_finished_runs(small, start, tmp_path, capsys) -> None:
    given = ("--config", small, "--weights", start)
    flags = ("--method", "px", "--rounds", 3, "--sparsity", 0.9, "--epochs", 0)
    classify(*given, *flags, "--output_dir", tmp_path / "px")
    classify(*given, *flags, "--shuffle_masks", "--output_dir", tmp_path / "shuffled")
    classify(*given, *flags[:4], "--compact", "--sparsity", 0.98, "--epochs", 0, "--output_dir", tmp_path / "compact")
    runs = [tmp_path / name for name in ("px", "shuffled", "compact")]
    compare("widths", *runs, "--images", 4, "--output_dir", tmp_path / "out")
    rows = {row.method: row for row in width_rows.read_rows(tmp_path / "out")}
    names = ["dense", "px+rounds=3", "px+rounds=3+shuffle_masks=true", "px+compact=true+rounds=3"]
    assert sorted(rows) == sorted(names)
    assert (rows["dense"].pruned, rows["dense"].live_channels, rows["dense"].starved) == (0, 1, 0)
    plain, shuffled = rows["px+rounds=3"], rows["px+rounds=3+shuffle_masks=true"]
    assert plain.pruned == shuffled.pruned == pytest.approx(0.9, abs=1e-4)
    assert [layer.density for layer in plain.layers.values()] == [layer.density for layer in shuffled.layers.values()]
    assert plain.log10_paths != shuffled.log10_paths
    for row in rows.values():
        assert len(row.sums) == 9
        assert row.live_channels == pytest.approx(
            sum(layer.live for layer in row.layers.values()) / sum(layer.channels for layer in row.layers.values())
        )
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"widths.csv", "widths_layers.csv", "widths_sums.csv", "widths.png", "flow.svg"} < written
    # What a run says of itself is what is found here.
    masks = Masks.load(tmp_path / "px" / "masks.safetensors")
    model = load_model(tmp_path / "px")
    x = torch.rand(2, 3, 32, 32)
    assert plain.live_channels == widths(model, [x], masks).live_channels
    text = (tmp_path / "out" / "widths.md").read_text()
    assert "| `dense` | 0% | 0.00% | 100.0% | 100.0% |" in text
    table = width_rows.table([*rows.values()], 4)
    assert table.strip() == text.strip()


def test_what_is_found_of_a_sweep_is_in_its_report(small, tmp_path, capsys) -> None:
    place = tmp_path / "sweep" / "random" / "0.5" / "seed0"
    flags = ("--method", "random", "--sparsity", 0.5, "--epochs", 0)
    classify("--config", small, *flags, "--output_dir", place)
    compare("widths", tmp_path / "sweep", "--images", 2)
    compare("ntk", tmp_path / "sweep", "--images", 2, "--outputs", 2)
    assert width_rows.read_rows(tmp_path / "sweep" / "analysis" / "widths")[1].method == "random"
    compare("report", tmp_path / "sweep")
    page = (tmp_path / "sweep" / "report" / "index.html").read_text()
    for shown in (
        "channels on a path in every layer",
        "Eigenvalues of the Neural Tangent Kernel",
        "every residual sum",
    ):
        assert shown.lower() in page.lower()
    text = (tmp_path / "sweep" / "report" / "table.md").read_text()
    for name in ("widths", "ntk"):
        assert (tmp_path / "sweep" / "analysis" / name / f"{name}.md").read_text().strip() in text
    assert "live channels" in text
    # The folder of one run has no such place, and methods have no folder.
    assert "give --output_dir" in refused(capsys, "widths", place)
    assert "give --output_dir" in refused(capsys, "widths", "--methods", "random", "--sparsities", 0.5)


def test_a_sweep_of_checks_has_its_methods_names(small, tmp_path) -> None:
    """Those of the sweep's folders, not of paths in their configurations: the runs of all seeds are one method's."""
    sweep = tmp_path / "sweep"
    flags = ("--config", small, "--sparsity", 0.5, "--epochs", 0)
    for seed in (0, 1):
        own = (*flags, "--seed", seed)
        classify(*own, "--method", "magnitude", "--output_dir", sweep / "magnitude" / "0.5" / f"seed{seed}")
        given = ("--density_from", sweep / "magnitude" / "0.5" / f"seed{seed}")
        place = sweep / "random+density_from=magnitude" / "0.5" / f"seed{seed}"
        classify(*own, "--method", "random", *given, "--output_dir", place)
        place = sweep / "magnitude+reinit=true" / "0.5" / f"seed{seed}"
        classify(*own, "--method", "magnitude", "--reinit", "--output_dir", place)
    compare("widths", sweep, "--images", 2)
    names = {row.method for row in width_rows.read_rows(sweep / "analysis" / "widths")}
    assert names == {"dense", "magnitude", "magnitude+reinit=true", "random+density_from=magnitude"}
    compare("widths", sweep / "random+density_from=magnitude" / "0.5" / "seed1", "--output_dir", tmp_path / "one")
    (_, row) = width_rows.read_rows(tmp_path / "one")
    assert row.method == "random+density_from=magnitude+rounds=2"


def test_new_weights_are_not_compared_by_what_they_preserve(small, start, tmp_path, capsys) -> None:
    flags = ("--config", small, "--weights", start, "--sparsity", 0.5, "--epochs", 0, "--method", "random")
    classify(*flags, "--reinit", "--output_dir", tmp_path / "run")
    out = ("--output_dir", tmp_path / "out")
    assert "drew new weights" in refused(capsys, "preservation", tmp_path / "run", "--images", 4, *out)
    given = ("--task", "cls", "--config", small, "--weights", start, "--sparsities", 0.5)
    for name in ("preservation", "ntk"):
        message = refused(capsys, name, *given, "--methods", "random,random+reinit=true", *out)
        assert "new weights after pruning have nothing of the dense network" in message


def test_a_folder_is_of_one_command(small, start, tmp_path, capsys) -> None:
    given = ("--task", "cls", "--config", small, "--weights", start, "--methods", "random", "--sparsities", 0.5)
    asked = (*given, "--images", 4, "--output_dir", tmp_path / "out")
    compare("widths", *asked)
    for name in ("ntk", "preservation"):
        assert f"other settings (rows is widths there, {name} now)" in refused(capsys, name, *asked)
    rounds = (*given[:4], *given[4:], "--vary_rounds", "1,2", "--output_dir", tmp_path / "out")
    small.write_text(small.read_text().replace("rounds: 2\n", ""))
    assert "other settings (rows is widths there, rounds now)" in refused(capsys, "rounds", *rounds)


def test_masks_that_a_run_was_given_are_in_its_name(small, tmp_path) -> None:
    flags = ("--config", small, "--sparsity", 0.5, "--epochs", 0)
    classify(*flags, "--method", "random", "--output_dir", tmp_path / "a")
    classify("--config", small, "--epochs", 0, "--masks", tmp_path / "a", "--output_dir", tmp_path / "b")
    compare("widths", tmp_path / "a", tmp_path / "b", "--images", 2, "--output_dir", tmp_path / "out")
    names = [row.method for row in width_rows.read_rows(tmp_path / "out")]
    assert names == ["dense", "random+rounds=2", "random+masks=a"]


def test_a_segmenter_is_measured_on_some_of_its_outputs(tiny, tmp_path) -> None:
    flags = ("--config", tiny, "--method", "random", "--sparsity", 0.9, "--epochs", 0)
    go(*flags, "--output_dir", tmp_path / "run")
    compare("ntk", tmp_path / "run", "--images", 2, "--outputs", 2, "--output_dir", tmp_path / "ntk")
    dense, random = spectrum_rows.read_rows(tmp_path / "ntk")
    assert (dense.outputs, len(random.spectrum)) == (4, 4)
    assert dense.largest > dense.spectrum[0]
    compare("widths", tmp_path / "run", "--images", 2, "--output_dir", tmp_path / "widths")
    assert {name for name in width_rows.read_rows(tmp_path / "widths")[0].layers} == {
        name.removesuffix(".weight") for name in Masks.load(tmp_path / "run" / "masks.safetensors")
    }


@pytest.mark.parametrize("name", ["ntk", "widths", "preservation"])
def test_bad_input_is_one_line(name, small, start, tmp_path, capsys, monkeypatch) -> None:
    given = ("--config", small, "--weights", start)
    classify(*given, "--method", "random", "--sparsity", 0.5, "--epochs", 0, "--output_dir", tmp_path / "run")
    classify(*given, "--method", "dense", "--sparsity", 0, "--epochs", 0, "--output_dir", tmp_path / "dense")
    out = ("--output_dir", tmp_path / "out")
    assert "there is no folder nowhere" in refused(capsys, name, "nowhere", *out)
    assert "there is no finished run in" in refused(capsys, name, start, *out)
    assert "dense runs alone, without masks" in refused(capsys, name, tmp_path / "dense", *out)
    assert "leave --methods out" in refused(capsys, name, tmp_path / "run", "--methods", "px", *out)
    assert "leave --weights out" in refused(capsys, name, tmp_path / "run", "--weights", start, *out)
    assert "nothing to compare: give folders of finished runs first, or --methods" in refused(capsys, name, *out)
    assert "is a run of the task cls, not seg" in refused(capsys, name, tmp_path / "run", "--task", "seg", *out)
    assert "--images must be at least" in refused(capsys, name, tmp_path / "run", "--images", 0, *out)
    twice = refused(capsys, name, tmp_path / "run", tmp_path / "run", *out)
    assert "are both runs of random+rounds=2 at 0.5 with seed 0: leave one out" in twice
    (tmp_path / "run" / "masks.safetensors").rename(tmp_path / "hidden")
    assert "has no masks.safetensors: restore it" in refused(capsys, name, tmp_path / "run", *out)
    (tmp_path / "hidden").rename(tmp_path / "run" / "masks.safetensors")
    torch.manual_seed(1)
    build_classifier("resnet20", 15, "none").save_pretrained(start)
    assert "began with other weights than" in refused(capsys, name, tmp_path / "run", *out)
    assert not (tmp_path / "out").exists()


def test_what_a_kernel_needs_is_said_before_anything_is_pruned(small, start, tmp_path, capsys, monkeypatch) -> None:
    given = ("--task", "cls", "--config", small, "--weights", start, "--methods", "random", "--sparsities", 0.5)
    out = ("--output_dir", tmp_path / "out")
    assert "--outputs must be at most 15" in refused(capsys, "ntk", *given, "--outputs", 16, *out)
    assert "--outputs must be at least 1" in refused(capsys, "ntk", *given, "--outputs", 0, *out)
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 10**6})())
    assert "GB of memory, and 0.0 GB are free: take fewer images" in refused(capsys, "ntk", *given, *out)
    assert not (tmp_path / "out").exists()


def test_networks_with_attention_are_refused_by_name(small, tmp_path, capsys) -> None:
    given = ("--task", "cls", "--config", small, "--encoder", "mit_b0", "--weights", "none")
    for name in ("ntk", "widths"):
        asked = (*given, "--methods", "random", "--sparsities", 0.5, "--output_dir", tmp_path / "out")
        assert "is not defined for paths" in refused(capsys, name, *asked)
    assert not (tmp_path / "out").exists()


def spectrum_row(method: str, sparsity: float, seed: int, **changes: object) -> SpectrumRow:
    usual = {
        **{"outputs": 2, "all_outputs": 2, "distance": 0.5, "alignment": 0.5, "trace": 3.0, "trace_error": 0.0},
        **{"largest": 2.0, "largest_error": 0.0, "condition": 2.0, "effective_rank": 1.9, "rank": 2, "bound": 30.0},
        **{"prune_seconds": 1.0, "spectrum": (2.0, 1.0)},
    }
    return SpectrumRow(method, sparsity, seed, **{**usual, **changes})


def test_a_table_without_the_dense_network_leaves_its_shares_out(tmp_path) -> None:
    rows = [spectrum_row("px", 0.9, 0, alignment=-1e-17)]
    assert "| `px` | 90% | 0.50 | -0.000 |  |  | 2 | 1.9 | 10 |" in spectrum_rows.table(rows, 4)
    SpectrumMeasure.kind.write(tmp_path, rows)
    assert SpectrumMeasure.kind.read(tmp_path) == rows
    SpectrumMeasure.kind.draw(tmp_path, rows, "title")


def test_rows_are_read_back_and_damaged_ones_refused(tmp_path) -> None:
    rows = [
        spectrum_row("dense", 0.0, 0, trace=6.0),
        spectrum_row("px", 0.9, 0, condition=math.inf, bound=3e46),
        spectrum_row("dense", 0.0, 1),
    ]
    SpectrumMeasure.kind.write(tmp_path, rows)
    assert SpectrumMeasure.kind.read(tmp_path) == rows
    assert SpectrumMeasure.kind.read(tmp_path / "none") == []
    text = spectrum_rows.table(rows, 4)
    assert "| `px` | 90% (1 of 2 seeds) | 0.50 | 0.500 | 0.5 | 1 | ∞ | 1.9 | 1.0e+46 |" in text
    whole = (tmp_path / "ntk_spectra.csv").read_bytes()
    for damaged in (whole[:-2], whole.replace(b"px,0.9,0,2,1\n", b""), whole.replace(b",2,1\n", b",3,1\n")):
        (tmp_path / "ntk_spectra.csv").write_bytes(damaged)
        with pytest.raises(InputError, match=r"ntk_spectra\.csv is damaged"):
            SpectrumMeasure.kind.read(tmp_path)
    (tmp_path / "widths.csv").write_text("method,sparsity,seed\npx,0.9,0\n")
    with pytest.raises(InputError, match=r"widths\.csv is damaged"):
        WidthMeasure.kind.read(tmp_path)
