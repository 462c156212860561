"""Runs whose files do not agree with each other."""

import json
import shutil
from pathlib import Path

import pytest
from helpers.runs import go
from helpers.sweeps import finished

from px_seg import InputError
from px_seg.report import read_runs, report
from px_seg.report.agreement import changed_files


def edited(folder: Path, **changes: object) -> None:
    """The same run with other results."""
    file = folder / "results.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "how"),
    [
        ({"method": "snip"}, "results.json has method snip, config.yaml px"),
        ({"sparsity": 0.9}, "results.json has sparsity 0.9, config.yaml 0.8"),
        ({"seed": 1}, "results.json has seed 1, config.yaml 0"),
        ({"epochs": 9}, "results.json has epochs 9, config.yaml 10"),
        ({"miou": 5.0}, "results.json has miou 5.0, which is from 0 to 1"),
        ({"miou": -1.0}, "results.json has miou -1.0, which is from 0 to 1"),
        ({"miou": 0.9}, "results.json has miou 0.9, and metrics.jsonl ends with 0.5"),
    ],
)
def test_results_that_others_of_its_files_deny_are_refused(tmp_path, changes, how: str) -> None:
    folder = finished(tmp_path, "px", 0.8, 0, 0.5)
    (folder / "metrics.jsonl").write_text('{"epoch": 1, "miou": 0.4}\n{"epoch": 2, "miou": 0.5}\n{"epoch": 3}\n')
    assert len(read_runs(tmp_path)) == 1
    edited(folder, **changes)
    with pytest.raises(InputError) as told:
        read_runs(tmp_path)
    assert f"does not agree with itself ({how}): restore its files, or delete it" in str(told.value)


@pytest.mark.parametrize("place", ["px/0.8/seed1", "snip/0.8/seed0", "px/0.9/seed0"])
def test_a_run_that_was_moved_or_copied_is_no_other_run(tmp_path, place: str) -> None:
    folder = finished(tmp_path, "px", 0.8, 0, 0.5)
    shutil.copytree(folder, tmp_path / place)
    with pytest.raises(InputError, match=r"\(it holds a run of px at 0.8 with seed 0\): restore its files, or delete"):
        read_runs(tmp_path)


def test_a_copy_with_another_seed_written_into_it_is_found_by_its_weights(tiny, tmp_path) -> None:
    first, second = (tmp_path / "random" / "0.8" / f"seed{seed}" for seed in (0, 1))
    go("--config", tiny, "--method", "random", "--sparsity", 0.8, "--output_dir", first)
    shutil.copytree(first, second)
    (second / "config.yaml").write_text((second / "config.yaml").read_text().replace("\nseed: 0\n", "\nseed: 1\n"))
    edited(second, seed=1)
    with pytest.raises(InputError, match=r"ended with the same weights, bit for bit: one is a copy of the other"):
        read_runs(tmp_path)


def test_runs_of_one_setting_have_one_dataset(tmp_path) -> None:
    """The size of their images is a setting: other sizes may have other files."""
    for seed in (0, 1):
        edited(finished(tmp_path, "px", 0.8, seed, 0.5), data_fingerprint="one")
    assert len(read_runs(tmp_path)) == 2
    edited(tmp_path / "px" / "0.8" / "seed1", data_fingerprint="other")
    with pytest.raises(InputError, match=r"seed0 and .*seed1 had different images, at .*: delete those of one"):
        read_runs(tmp_path)
    config = tmp_path / "px" / "0.8" / "seed1" / "config.yaml"
    config.write_text(config.read_text().replace("\n  size: 64\n", "\n  size: 32\n"))
    assert len(read_runs(tmp_path)) == 2


def test_files_that_are_no_mapping_are_damage(tmp_path) -> None:
    edited(finished(tmp_path, "px", 0.8, 0, 0.5), files=[1])
    with pytest.raises(InputError, match="is damaged"):
        read_runs(tmp_path)


def test_files_that_were_changed_or_deleted_are_named(tiny, tmp_path) -> None:
    out = tmp_path / "random" / "0.8" / "seed0"
    go("--config", tiny, "--method", "random", "--sparsity", 0.8, "--output_dir", out)
    assert changed_files(read_runs(tmp_path)) == []
    with (out / "masks.safetensors").open("ab") as file:
        file.write(b"x")
    (out / "model" / "model.safetensors").unlink()
    assert changed_files(read_runs(tmp_path)) == [
        f"not the files that were evaluated, by their SHA-256: {out / 'masks.safetensors'}",
        f"files of runs that are gone: {out / 'model' / 'model.safetensors'}",
    ]
    (out / "masks.safetensors").unlink()
    (out / "masks.safetensors").touch()
    report(tmp_path, print)
    assert "not the files that were evaluated" in (tmp_path / "report" / "table.md").read_text()
