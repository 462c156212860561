"""The highest scores of several tensors together: exact, tensor by tensor, ties broken alike everywhere."""

from collections.abc import Sequence

import torch
from torch import Tensor

_SAMPLE = 2**16
_SLACK = 2**10


def top(scores: Sequence[Tensor], live: Sequence[Tensor], count: int) -> list[Tensor]:
    """The `count` highest scores at live places, as boolean tensors of their shapes.

    `live` is boolean and shaped as `scores`; `count` is at most the number of live places. Among
    equal scores the first win, in the order of the tensors and of the elements inside them.

    Nothing larger than a tensor is copied. A regular sample brackets the lowest score that
    stays, and only what lies inside the bracket is searched for it.
    """
    if count == 0:
        return [torch.zeros_like(mask) for mask in live]
    low, high = _bracket(scores, live, count)
    above, inside = _divide(scores, live, low, high)
    if not above < count <= above + len(inside):
        # The sample misled: everything live is searched.
        above, inside = _divide(scores, live, inside.new_tensor(-torch.inf), inside.new_tensor(torch.inf))
    threshold = inside.kthvalue(len(inside) - (count - above) + 1).values
    higher = above + int((inside > threshold).count_nonzero())
    if higher + int((inside == threshold).count_nonzero()) == count:
        return [(score >= threshold) & mask for score, mask in zip(scores, live, strict=True)]
    kept, left = [], count - higher
    for score, mask in zip(scores, live, strict=True):
        place = ((score == threshold) & mask).flatten().nonzero().flatten()[:left]
        left -= len(place)
        part = ((score > threshold) & mask).flatten()
        part[place] = True
        kept.append(part.view(mask.shape))
    return kept


def top_units(scores: Sequence[Tensor], live: Sequence[Tensor], sizes: Sequence[int], count: int) -> list[Tensor]:
    """The highest scores at live places, as many as there are until their sizes would add up to more than `count`.

    `sizes` are those of one element of each tensor. Ties go as in `top`.
    """
    flat = torch.cat([score[mask] for score, mask in zip(scores, live, strict=True)])
    lengths = torch.tensor([int(mask.count_nonzero()) for mask in live], device=flat.device)
    each = torch.tensor(sizes, device=flat.device).repeat_interleave(lengths)
    order = flat.sort(descending=True, stable=True).indices
    kept = torch.zeros_like(flat, dtype=torch.bool)
    kept[order[each[order].cumsum(0) <= count]] = True
    parts = torch.split(kept, lengths.tolist())
    return [mask.masked_scatter(mask, part) for mask, part in zip(live, parts, strict=True)]


def _bracket(scores: Sequence[Tensor], live: Sequence[Tensor], count: int) -> tuple[Tensor, Tensor]:
    """A lower and an upper guess at the `count`-th highest live score."""
    step = max(1, sum(score.numel() for score in scores) // _SAMPLE)
    parts = [score.flatten()[::step][mask.flatten()[::step]] for score, mask in zip(scores, live, strict=True)]
    sample = torch.cat(parts).sort(descending=True).values
    if len(sample) == 0:
        return scores[0].new_tensor(-torch.inf), scores[0].new_tensor(torch.inf)
    total = torch.stack([mask.count_nonzero() for mask in live]).sum()
    place = count * len(sample) // int(total)
    return sample[min(len(sample) - 1, place + _SLACK)], sample[max(0, place - _SLACK)]


def _divide(scores: Sequence[Tensor], live: Sequence[Tensor], low: Tensor, high: Tensor) -> tuple[int, Tensor]:
    """How many live scores are above `high`, and those from `low` to `high`."""
    above, inside = [], []
    for score, mask in zip(scores, live, strict=True):
        over = score > high
        above.append((over & mask).count_nonzero())
        inside.append(score[(score >= low) & ~over & mask])
    return int(torch.stack(above).sum()), torch.cat(inside)


def unrankable(scores: Sequence[Tensor], live: Sequence[Tensor]) -> list[int]:
    """The places of the tensors that hold NaN or infinity where they are live."""
    ends = torch.stack([torch.stack(score.aminmax()) if score.numel() else score.new_zeros(2) for score in scores])
    suspects = (~ends.isfinite()).any(1).nonzero().flatten().tolist()
    return [place for place in suspects if not scores[place][live[place]].isfinite().all()]
