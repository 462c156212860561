"""The best of all scores, exactly so many."""

import pytest
import torch

from px_seg import (
    Masks,
)


@pytest.mark.parametrize("kind", ["smooth", "many ties", "two values", "sorted", "one outlier"])
def test_large_selections_equal_a_full_sort(kind: str, generator) -> None:
    """Large enough for the sampled bracket; a stable sort decides ties the same way."""
    size = 300_000
    scores = {
        "smooth": torch.rand(size, generator=generator),
        "many ties": torch.randint(0, 7, (size,), generator=generator).float(),
        "two values": (torch.rand(size, generator=generator) < 0.001).float(),
        "sorted": torch.arange(size, 0, -1).float(),
        "one outlier": torch.zeros(size).index_fill(0, torch.tensor([size - 1]), 1.0),
    }[kind]
    for density in (1e-5, 0.02, 0.2, 0.5, 0.999):
        kept = Masks({"a": torch.ones(size, dtype=torch.bool)}).keep_top({"a": scores}, density)["a"]
        order = scores.sort(descending=True, stable=True).indices[: round(density * size)]
        assert torch.equal(kept.nonzero().flatten(), order.sort().values)


def test_scores_of_several_dtypes_rank_exactly(generator) -> None:
    scores = {"a": torch.rand(1000, generator=generator).half(), "b": torch.rand(1000, generator=generator)}
    ones = Masks({name: torch.ones(1000, dtype=torch.bool) for name in scores})
    for density in (0.1, 0.5, 0.9):
        assert ones.keep_top(scores, density).kept == round(2000 * density)
    assert ones.keep_top(scores, 0.5) == ones.keep_top(scores, 0.5) != ones.keep_top(scores, 0.6)
