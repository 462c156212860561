"""How far two prunings agree."""

from collections.abc import Mapping

from torch import Tensor


def agreement(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> float:
    """Share of the weights that are live in both or pruned in both, in [0, 1].

    Raises ValueError unless both are masks of the same tensors.
    """
    if {n: m.shape for n, m in first.items()} != {n: m.shape for n, m in second.items()}:
        raise ValueError("the masks do not cover the same tensors")
    same = sum(int((mask == second[name].to(mask.device)).count_nonzero()) for name, mask in first.items())
    return same / sum(mask.numel() for mask in first.values())
