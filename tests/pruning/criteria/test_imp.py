"""IMP, against the lottery ticket loop written out."""

import copy

import pytest
import torch
from helpers.cases import network, pairs
from helpers.criteria import loss_over
from torch import nn

from px_seg import (
    InputError,
    Masks,
    prunable,
)
from px_seg.pruning import IMP, prune


def test_imp_is_the_lottery_ticket_loop_written_out() -> None:
    """Train from the same start each time, prune the smallest of those left, rewind."""
    net, starts = network(), []

    def train(model: nn.Module, masks: Masks) -> None:
        starts.append(copy.deepcopy(model.state_dict()))
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        with masks.hold(model, optimizer):
            for _ in range(3):
                optimizer.zero_grad()
                loss_over(model.train(), pairs(4)).backward()
                optimizer.step()

    rank = IMP(train=train)
    torch.manual_seed(0)
    masks = prune(net, (), 1 - 0.8**3, rank)
    assert all(all(torch.equal(v, net.state_dict()[n]) for n, v in start.items()) for start in starts)
    assert len(starts) == 3

    torch.manual_seed(0)
    live = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable(net).items()}
    total = sum(mask.numel() for mask in live.values())
    for number in (1, 2, 3):
        ticket = copy.deepcopy(net)
        train(ticket, Masks(live))
        sizes = torch.cat([w.detach().abs().flatten() for w in prunable(ticket).values()])
        flat = torch.cat([mask.flatten() for mask in live.values()])
        order = sizes.masked_fill(~flat, -1).sort(descending=True).indices[: round(0.8**number * total)]
        flat = torch.zeros_like(flat).index_fill(0, order, True)
        live = {
            n: p.view(live[n].shape) for n, p in zip(live, flat.split([m.numel() for m in live.values()]), strict=True)
        }
    assert masks == Masks(live)


@pytest.mark.parametrize(
    ("sparsity", "rounds"), [(0.2, 1), (0.36, 2), (0.37, 3), (1 - 0.8**9, 9), (0.99, 21), (0.01, 1)]
)
def test_imp_keeps_at_least_four_fifths_in_a_round(sparsity: float, rounds: int) -> None:
    assert IMP().rounds_to(sparsity) == rounds
    with pytest.raises(InputError, match=r"IMP\(train=...\)"):
        prune(network(), (), sparsity, IMP())


def test_imp_trains_whatever_contexts_its_caller_is_in() -> None:
    dtypes = []

    def train(model: nn.Module, masks: Masks) -> None:
        loss = model(torch.randn(2, 2, 5, 5))[0, 0, 0, 0]
        loss.backward()
        dtypes.append(loss.dtype)

    with torch.inference_mode(), torch.autocast("cpu"):
        IMP(train=train).score(network().float())
    assert dtypes == [torch.float32]
