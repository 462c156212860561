"""Criteria with settings of their own, in the grid of a sweep and in its report."""

import pytest
from helpers.sweeps import asked, names

from px_seg import InputError
from px_seg.sweep import plan_sweep
from px_seg.sweep.methods import Method, criterion_of, own_keys

WORDS = ("--sparsities", "0.9", "--output_dir", "out")


def test_a_methods_own_settings_reach_its_runs_alone_and_name_their_folders() -> None:
    methods = "px,px+rounds=10+ranking=erk,magnitude,magnitude+recalibrate=reconstruct,dense"
    cells = plan_sweep(asked("--methods", methods, "--rounds", "7", *WORDS))
    found = {cell.method: cell.config for cell in cells}
    assert {n: (c.method, c.ranking, c.rounds, c.recalibrate) for n, c in found.items()} == {
        "px": ("px", None, 7, "none"),
        "px+ranking=erk+rounds=10": ("px", "erk", 10, "none"),
        "magnitude": ("magnitude", None, 7, "none"),
        "magnitude+recalibrate=reconstruct": ("magnitude", None, 7, "reconstruct"),
        "dense": ("dense", None, None, "none"),
    }
    assert names(cells)[1] == "out/px+ranking=erk+rounds=10/0.9/seed0"
    assert [cell.name for cell in cells][1] == "px+ranking=erk+rounds=10 90.00% seed 0"


def test_a_setting_below_another_and_a_list_are_read() -> None:
    (cell,) = plan_sweep(asked("--methods", "px+pruning.batches=3+keep_dense=[encoder.conv1]", *WORDS))
    assert (cell.config.pruning.batches, cell.config.keep_dense) == (3, ["encoder.conv1"])
    assert cell.method == "px+keep_dense=encoder.conv1+pruning.batches=3"
    assert (criterion_of(cell.method), own_keys(cell.method)) == ("px", {"keep_dense", "pruning.batches"})
    several = asked("--methods", "px+keep_dense=[encoder.conv1, encoder.layer1],magnitude", *WORDS)
    assert [cell.config.keep_dense for cell in plan_sweep(several)] == [["encoder.conv1", "encoder.layer1"], []]
    assert Method.of("my+own+rounds=3") == ("my+own", (("rounds", "3"),))
    assert criterion_of("my+own+rounds=3") == "my+own"
    assert Method.of("grasp+pruning.settings.temperature=1e+2").settings[0][1] == "1e+2"


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("px+erk", r"px\+erk: 'erk' is no setting of px: write px\+KEY=VALUE"),
        ("px+rounds=", "gives rounds no value"),
        ("px+epochs=3", "epochs is not among the settings .*: rounds, .*; others are the same for all methods"),
        ("px+rankng=erk", r"px\+rankng=erk: did you mean ranking\? rankng is not among the settings"),
        ("px+rounds=3+rounds=4", "gives rounds twice"),
        ("dense+rounds=3", "the dense network is not pruned, so it has no such settings: write dense"),
        ("nothing+rounds=3", "nothing"),
        ("px+rounds=many", "rounds"),
        ("px+pruning.bathces=2", "pruning.bathces"),
    ],
)
def test_what_is_no_method_is_named(method: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan_sweep(asked("--methods", method, *WORDS))


def test_a_setting_is_a_methods_own_or_varied_but_not_both() -> None:
    with pytest.raises(InputError, match=r"px\+rounds=3 sets rounds, which --vary varies as well"):
        plan_sweep(asked("--methods", "px,px+rounds=3", "--vary", "rounds=1,2", *WORDS))
