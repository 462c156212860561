"""Pruning over two CPU processes against one."""

from pathlib import Path

import pytest
import torch
from helpers.runs import worker
from helpers.shared_pruning import CRITERIA, SETTINGS, batches, labelled, network
from safetensors.torch import load_file

from px_seg import PX, Masks, criterion, prune
from px_seg.analysis import agreement

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(once) -> Path:
    return once("shared_pruning", lambda folder: worker("shared_pruning", folder))


def loaded(folder: Path, name: str) -> list[Masks]:
    return [Masks.load(folder / f"{name}{rank}.safetensors") for rank in (0, 1)]


@pytest.mark.parametrize(
    ("name", "settings", "rounds", "count"),
    [*((name, settings, 10, 3) for name, settings in SETTINGS.items()), ("few", {}, 3, 1)],
)
def test_masks_are_the_same_on_every_rank_and_those_of_one_process(folder, name, settings, rounds, count) -> None:
    first, second = loaded(folder, name)
    assert all(torch.equal(first[n], second[n]) for n in first)
    alone = prune(network(), batches()[:count], 0.8, PX(**settings), rounds=rounds)
    assert agreement(first, alone) > 0.9999
    assert first.provenance == alone.provenance


@pytest.mark.parametrize(
    ("name", "settings", "count"),
    [*((name, settings, 3) for name, settings in SETTINGS.items()), ("mixed", {}, 3), ("few", {}, 1)],
)
def test_scores_are_over_the_batches_of_all_processes(folder, name: str, settings: dict, count: int) -> None:
    """Float32 sums in another order; a rank that scored its own share alone would be off by half."""
    alone = PX(**settings).score(network(), batches()[:count])
    tolerance = 1e-9 if "precision" in settings else 1e-4
    for rank in (0, 1):
        for n, score in load_file(folder / f"{name}_scores{rank}.safetensors").items():
            torch.testing.assert_close(score, alone[n], rtol=tolerance, atol=tolerance * float(alone[n].max()))


def test_samples_of_two_shapes_on_two_processes_are_refused_on_both(folder) -> None:
    for rank in (0, 1):
        assert "one shape: got (3, 8, 8) and (3, 12, 12)" in (folder / f"across{rank}.txt").read_text()
    assert "one shape: got (3, 12, 12) and (3, 8, 8)" in (folder / "within1.txt").read_text()
    assert "another process could not score: all samples must have one shape" in (folder / "within0.txt").read_text()


@pytest.mark.parametrize("name", CRITERIA)
def test_every_criterion_has_the_masks_of_one_process_on_every_rank(folder, name: str) -> None:
    first, second = loaded(folder, name)
    assert first == second
    alone = prune(network(), labelled(), 0.8, criterion(name), rounds=3)
    assert agreement(first, alone) > 0.999
    assert first.provenance == alone.provenance


def test_what_one_process_cannot_score_ends_all(folder) -> None:
    assert "a pair of images and as many targets" in (folder / "unlabelled0.txt").read_text()
    assert "another process could not score: this criterion" in (folder / "unlabelled1.txt").read_text()
    for rank in (0, 1):
        assert "at least one batch" in (folder / f"none{rank}.txt").read_text()
