"""A run made ready: each thing is decided once."""

import pytest
from helpers.runs import go, parsed

from px_seg import InputError, prunable
from px_seg.pruning import plan
from px_seg.run import given_masks
from px_seg.run.setup import Pruning, set_up
from px_seg.sweep.command_line import read
from px_seg.tasks import Segmentation


def test_the_plan_of_the_checks_is_the_one_that_prunes(tiny, tmp_path, monkeypatch) -> None:
    made: list[plan.Plan] = []
    plan_pruning = plan.plan_pruning

    def noted(*arguments, **keywords) -> plan.Plan:
        made.append(plan_pruning(*arguments, **keywords))
        return made[-1]

    for module in ("px_seg.run.sparsify", "px_seg.pruning.iterative"):
        monkeypatch.setattr(f"{module}.plan_pruning", noted)
    go("--config", tiny, "--method", "magnitude", "--epochs", 0, "--output_dir", tmp_path / "out")
    assert len(made) == 1
    source = set_up(Segmentation, parsed("--config", tiny, "--output_dir", tmp_path / "other")).source
    assert isinstance(source, Pruning)
    assert source.plan is made[-1]


def test_the_weights_of_a_network_are_found_once_and_not_for_every_mask(tiny, tmp_path, monkeypatch) -> None:
    go("--config", tiny, "--method", "magnitude", "--epochs", 0, "--output_dir", tmp_path / "first")
    asked: list[object] = []

    def counted(*arguments) -> dict:
        asked.append(arguments)
        return prunable(*arguments)

    monkeypatch.setattr(given_masks, "prunable", counted)
    flags = ("--masks", tmp_path / "first", "--output_dir", tmp_path / "second")
    masks = set_up(Segmentation, parsed("--config", tiny, *flags)).source
    assert len(masks) > 10
    assert len(asked) <= 2


def test_a_key_that_stands_twice_is_refused_before_anything_is_done(tiny, tmp_path) -> None:
    tiny.write_text(tiny.read_text() + "epochs: 9\n")
    with pytest.raises(InputError, match=r"tiny\.yaml has the key epochs twice, on lines \d+ and \d+"):
        go("--config", tiny, "--output_dir", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    preset = tmp_path / "mine.yaml"
    preset.write_text("methods: [px]\nsparsities: [0.5]\nrun: {epochs: 1, epochs: 2}\n")
    with pytest.raises(InputError, match=r"the preset .*mine\.yaml has the key epochs twice, on lines 3 and 3"):
        read(["--preset", str(preset)], "")


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("optimizer.head_lr", ".nan"),
        ("optimizer.weight_decay", ".inf"),
        ("data.scale", "[0.5,.nan]"),
        ("sparsity", ".nan"),
    ],
)
def test_a_setting_that_is_no_number_is_refused(tiny, tmp_path, flag: str, value: str) -> None:
    with pytest.raises(InputError, match=rf"{flag} must be finite, got (nan|inf)"):
        go("--config", tiny, f"--{flag}", value, "--output_dir", tmp_path / "out")
    assert not (tmp_path / "out").exists()
