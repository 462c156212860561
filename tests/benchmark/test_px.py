"""A round of PX beside inference."""

import pytest
import torch

from px_seg import InputError
from px_seg.benchmark.px import SCOPE, Case, Setting, measure
from px_seg.pruning import PX

SMALL = Case(encoder="resnet18", batches=1, batch_size=1, side=32, threads=1)


def test_a_round_is_that_of_prune_and_ranks_what_the_masks_left() -> None:
    case = Case(**{**vars(SMALL), "sparsity": 0.98, "masks": "px"})
    setting = Setting.of(case)
    assert setting.masks.sparsity == pytest.approx(0.98, abs=1e-4)
    walked: list[int] = []
    whole = PX().score(setting.model, setting.images, setting.masks, SCOPE)
    small = setting.shrinking.scores(
        setting.masks,
        lambda network, masks: (
            walked.append(sum(mask.numel() for mask in masks.values()))
            or PX().score(network, setting.images, masks, SCOPE)
        ),
    )
    # PX's masks leave channels without a path, and the round walks the network without them.
    assert walked[0] < 0.8 * setting.masks.total
    largest = max(float(score.max()) for score in whole.values())
    assert all(torch.allclose(small[name], whole[name], rtol=1e-3, atol=1e-6 * largest) for name in whole)
    row = measure(case, repeats=1)
    assert row["ratio"] == pytest.approx(row["round_s"] / row["inference_s"])


def test_masks_of_an_unknown_criterion_are_refused() -> None:
    with pytest.raises(InputError, match="there is no method 'best'"):
        Setting.of(Case(**{**vars(SMALL), "masks": "best"}))
