"""Which weights are meant."""

import pytest
from torch import nn

from px_seg import InputError, prunable


def test_a_minus_takes_a_part_out_of_the_scope(net: nn.Module) -> None:
    tree = nn.ModuleDict({"encoder": net, "head": nn.Linear(2, 2)})
    assert list(prunable(tree, ["encoder", "-encoder.0"])) == ["encoder.2.weight", "encoder.4.weight"]
    assert list(prunable(tree, ["-encoder"])) == ["head.weight"]
    assert list(prunable(tree, "-encoder")) == ["head.weight"]
    with pytest.raises(InputError, match="excludes everything"):
        prunable(tree, ["head", "-head"])
    with pytest.raises(InputError, match=r"under 'encoder\.9'"):
        prunable(tree, ["encoder", "-encoder.9"])
