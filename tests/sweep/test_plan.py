"""The grid of a sweep: what is asked for, what is varied, what the presets say."""

from collections import Counter

import pytest
import torch
from helpers.runs import CONFIGS
from helpers.sweeps import asked, names

from px_seg import InputError
from px_seg.pruning import CRITERIA
from px_seg.pruning.rules import RULES
from px_seg.sweep import PAPER, plan_sweep
from px_seg.sweep.plan import check_sweep


def test_the_papers_sparsities_keep_64_percent_each_time() -> None:
    assert [f"{100 * s:.2f}" for s in PAPER] == [
        *("36.00", "59.04", "73.79", "83.22", "89.26", "93.13", "95.60", "97.19", "98.20")
    ]


def test_the_grid_is_every_method_sparsity_and_seed_and_one_dense_run_a_seed() -> None:
    cells = plan_sweep(
        asked("--methods", "px,snip,dense", "--sparsities", "paper", "--seeds", "0,1,2", "--output_dir", "runs/fig4")
    )
    assert len(cells) == len(set(names(cells))) == 3 * (2 * 9 + 1)
    assert "runs/fig4/px/0.9313/seed0" in names(cells)
    assert "runs/fig4/dense/0/seed2" in names(cells)
    for cell in cells:
        assert cell.config.output_dir == str(cell.folder)
        assert cell.folder.parts[-3:] == (
            *(cell.config.method, f"{cell.config.sparsity:g}", f"seed{cell.config.seed}"),
        )
    # One of each is done before the second seed begins.
    assert [cell.config.seed for cell in cells] == sorted(cell.config.seed for cell in cells)


def test_flags_and_files_reach_every_run(tmp_path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("epochs: 7\nbatch_size: 3\n")
    words = ("--config", file, "--data.size", 48, "--batch_size", 5, "--methods", "px", "--sparsities", "0.5")
    (cell,) = plan_sweep(asked(*words, "--output_dir", tmp_path / "out"))
    assert (cell.config.epochs, cell.config.data.size, cell.config.batch_size) == (7, 48, 5)


def test_what_is_varied_names_the_folders_and_the_dense_run_is_shared_where_it_feels_nothing() -> None:
    words = ("--methods", "px,dense", "--sparsities", "0.9", "--output_dir", "out")
    cells = plan_sweep(asked(*words, "--vary", "pruning.batches=1,2,4"))
    assert names(cells) == [
        "out/pruning.batches=1/px/0.9/seed0",
        "out/dense/0/seed0",
        "out/pruning.batches=2/px/0.9/seed0",
        "out/pruning.batches=4/px/0.9/seed0",
    ]
    assert [cell.config.pruning.batches for cell in cells] == [1, 2, 2, 4]
    # Where it feels what is varied, it is run for each.
    cells = plan_sweep(asked(*words, "--vary", "epochs=1,2", "--vary", "rounds=3,5"))
    assert Counter(cell.config.method for cell in cells) == {"px": 4, "dense": 2}
    assert {(c.config.epochs, c.config.rounds) for c in cells if c.config.method == "px"} == {
        *((1, 3), (1, 5), (2, 3), (2, 5))
    }
    assert all(c.config.rounds is None for c in cells if c.config.method == "dense")


def test_a_value_may_be_a_list_a_path_or_a_file_of_settings(tmp_path) -> None:
    words = ("--methods", "random", "--sparsities", "0.9", "--output_dir", "out")
    cells = plan_sweep(asked(*words, "--vary", "data.scale=[0.5,2.0],[1.0,1.0]"))
    assert [cell.config.data.scale for cell in cells] == [[0.5, 2.0], [1.0, 1.0]]
    assert names(cells)[0] == "out/data.scale=0.5-2.0/random/0.9/seed0"
    files = [CONFIGS / "cls" / f"{name}.yaml" for name in ("cifar10_resnet20", "cifar100_vgg16_bn")]
    cells = plan_sweep(asked(*words, "--task", "cls", "--vary", f"config={files[0]},{files[1]}"))
    assert [cell.config.encoder for cell in cells] == ["resnet20", "vgg16_bn"]
    assert names(cells)[1] == "out/config=cifar100_vgg16_bn/random/0.9/seed0"


def test_a_pattern_decides_the_sparsity_and_the_dense_reference_has_none() -> None:
    words = ("--methods", "magnitude,dense", "--output_dir", "out", "--keep_dense", "[encoder.conv1]")
    cells = plan_sweep(asked(*words, "--vary", "pattern=2:4,1:4"))
    assert [(c.config.method, c.config.pattern, c.config.sparsity) for c in cells] == [
        *(("magnitude", "2:4", 0.5), ("dense", None, 0.0), ("magnitude", "1:4", 0.75))
    ]
    with pytest.raises(InputError, match=r"means sparsity 0\.5: leave --sparsities out"):
        plan_sweep(asked(*words, "--pattern", "2:4", "--sparsities", "0.5"))


def test_a_file_of_criteria_is_part_of_the_runs_that_use_it_alone(tmp_path) -> None:
    """So that a method of it joins a sweep whose other runs are there."""
    own = tmp_path / "own.py"
    # A class of px_seg's own under another name is the file's as well.
    own.write_text("import px_seg\n\npx_seg.register('twin')(px_seg.Magnitude)\n")
    words = ("--methods", "dense,magnitude,twin", "--sparsities", "0.9", "--output_dir", "out")
    try:
        cells = plan_sweep(asked(*words, "--criteria", str(own)))
    finally:
        CRITERIA.pop("twin", None)
    assert {cell.method: cell.config.criteria for cell in cells} == {"dense": None, "magnitude": None, "twin": str(own)}


def test_a_file_that_teaches_px_an_operation_is_part_of_all_runs(tmp_path) -> None:
    own = tmp_path / "rules.py"
    own.write_text("import torch\nfrom px_seg.pruning.rules import RULES, structural\nRULES[torch.roll] = structural\n")
    words = ("--methods", "dense,px", "--sparsities", "0.9", "--output_dir", "out", "--criteria", str(own))
    try:
        cells = plan_sweep(asked(*words))
    finally:
        RULES.pop(torch.roll)
    assert {cell.method: cell.config.criteria for cell in cells} == {"dense": str(own), "px": str(own)}


def test_settings_of_a_methods_own_are_tried_on_the_network(tmp_path) -> None:
    """Before any run is started, and not only those of the first method."""
    words = ("--task", "cls", "--data.train_images", "40", "--sparsities", "0.9", "--output_dir", str(tmp_path / "out"))
    for method, more, message in (
        ("magnitude+keep_dense=[encoder.layer9]", (), r"encoder\.layer9"),
        ("magnitude+recalibrate=statistics", ("--encoder", "vgg11"), "no BatchNorm whose statistics statistics could"),
    ):
        request = asked(*words, *more, "--methods", f"magnitude,{method}")
        with pytest.raises(InputError, match=message):
            check_sweep(request, plan_sweep(request), 1)


def test_sparsities_that_patterns_and_granularities_do_not_allow_are_found_before_any_run(tmp_path) -> None:
    words = (
        "--task",
        "cls",
        "--methods",
        "magnitude",
        "--data.train_images",
        "40",
        "--output_dir",
        str(tmp_path / "o"),
    )
    for more, message in (
        (("--pattern", "at-most 2:4 from 64", "--sparsities", "0.9,0.2,0.8"), "leaves at most"),
        (("--granularity", "filter", "--sparsities", "0.5,0.9999,0.6"), "of one filter"),
    ):
        request = asked(*words, *more)
        with pytest.raises(InputError, match=message):
            check_sweep(request, plan_sweep(request), 1)


PRESETS = {
    # methods x sparsities x seeds + dense runs, for each combination
    "criteria_scratch": 7 * 2 * 3 + 3,
    "criteria_trained": 7 * 2 * 3 + 3,
    "demo": 3 * 3 * 2 + 2,
    "fig2": 3 * (9 * 9 * 3 + 3),
    "fig3": 9 * (9 * 9 * 3 + 3),
    "fig4": 3 * (9 * 9 * 3 + 3),
    "batches": 4 * 3 + 3,
    "rounds": 4 * 3 + 3,
    "photo": 13 * 4 * 3 + 3,
    "photo_resnet18": 13 * 4 * 3 + 3,
}


def test_every_preset_is_a_sweep() -> None:
    assert {file.stem for file in (CONFIGS / "sweep").glob("*.yaml")} == PRESETS.keys()
    for name, runs in PRESETS.items():
        cells = plan_sweep(asked("--preset", name))
        assert len(cells) == runs, name
        assert cells[0].folder.parts[:2] == ("runs", name)
    encoders = {cell.config.encoder for cell in plan_sweep(asked("--preset", "fig3")) if cell.config.weights == "clip"}
    assert encoders == {"tu-resnet50_clip"}
    assert {cell.config.data.evaluation for cell in plan_sweep(asked("--preset", "fig4"))} == {"centre_crop"}


def test_what_a_command_line_varies_or_gives_replaces_what_a_preset_varies() -> None:
    def weights(*words: str) -> set[str]:
        return {cell.config.weights for cell in plan_sweep(asked("--preset", "fig4", "--methods", "dense", *words))}

    assert weights() == {"imagenet", "mocov2", "dino"}
    assert weights("--vary", "weights=dino,none") == {"dino", "none"}
    assert weights("--weights", "none") == {"none"}


def test_the_order_of_the_flags_names_no_other_run() -> None:
    words = ("--methods", "px", "--sparsities", "0.9", "--output_dir", "out")
    first, second = ("--vary", "epochs=1,2"), ("--vary", "batch_size=4,8")
    assert set(names(plan_sweep(asked(*words, *first, *second)))) == set(
        names(plan_sweep(asked(*words, *second, *first)))
    )


def test_a_file_of_settings_decides_nothing_that_is_the_sweeps(tmp_path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("overwrite: true\n")
    with pytest.raises(InputError, match="sets overwrite: leave it out"):
        plan_sweep(asked("--methods", "px", "--sparsities", "0.9", "--output_dir", "out", "--config", file))
