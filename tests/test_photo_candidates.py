"""The candidates of docs/photo/candidates.py, against what they claim to be."""

import sys
from collections.abc import Iterator

import pytest
import torch
from helpers.runs import REPOSITORY
from torch import nn

import px_seg
from px_seg.pruning import CRITERIA
from px_seg.run.user_criteria import load_criteria


@pytest.fixture(autouse=True, scope="module")
def _registered() -> Iterator[None]:
    before = dict(CRITERIA)
    load_criteria(REPOSITORY / "docs" / "photo" / "candidates.py")
    yield
    CRITERIA.clear()
    CRITERIA.update(before)
    for name in [name for name in sys.modules if name.startswith("px_seg_criteria_")]:
        del sys.modules[name]


@pytest.fixture
def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(3, 8, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=4),
        nn.ReLU(),
        nn.Conv2d(8, 6, 1),
    )
    return nn.Sequential(*layers).double().eval()


@pytest.fixture
def batches() -> list[torch.Tensor]:
    return list(torch.randn(2, 4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize(
    ("candidate", "densities", "weights"),
    [("trace_densities", "ntk_trace", "magnitude"), ("magnitude_densities", "magnitude", "ntk_trace")],
)
def test_layers_keep_as_many_as_by_one_criterion_and_those_of_another(
    network, batches, candidate, densities, weights
) -> None:
    masks = px_seg.prune(network, batches, 0.6, px_seg.criterion(candidate))
    assert masks.densities() == px_seg.prune(network, batches, 0.6, px_seg.criterion(densities)).densities()
    scores = px_seg.criterion(weights).score(network, batches)
    for name, mask in masks.items():
        assert scores[name][mask].min() >= scores[name][~mask].max()


def test_a_brain_surgeons_score_is_what_the_best_layer_without_the_weight_loses(network, batches) -> None:
    scores = px_seg.criterion("brain_surgeon").score(network, batches)
    for layer in (0, 2):
        with torch.no_grad():
            x, conv = network[:layer](torch.cat(batches)), network[layer]
            outputs = conv(x)
        columns = nn.functional.unfold(x, conv.kernel_size, 1, conv.padding, conv.stride)
        columns = columns.movedim(1, 2).reshape(-1, conv.groups, conv.weight[0].numel())
        grams = torch.einsum("sgi,sgj->gij", columns, columns)
        ridge = 0.01 * grams.diagonal(dim1=1, dim2=2).mean()
        for channel, j in ((0, 0), (5, 7)):
            hessian = grams[channel * conv.groups // conv.out_channels]
            hessian = hessian + ridge * torch.eye(len(hessian), dtype=torch.float64)
            others = [i for i in range(len(hessian)) if i != j]
            lost = conv.weight[channel].detach().flatten()[j]
            # The others answer to the change -lost of weight j.
            change = torch.zeros(len(hessian), dtype=torch.float64)
            change[j] = -lost
            change[others] = torch.linalg.solve(hessian[others][:, others], hessian[others, j] * lost)
            expected = change @ hessian @ change / outputs.square().sum()
            torch.testing.assert_close(scores[f"{layer}.weight"].flatten(1)[channel, j], expected)


@pytest.mark.parametrize("candidate", ["magnitude_between", "trace_between"])
def test_between_rounds_the_network_is_reconstructed(network, batches, candidate) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    masks = px_seg.prune(network, batches, 0.6, px_seg.criterion(candidate), rounds=2)
    assert masks.sparsity == pytest.approx(0.6, abs=0.01)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    plain = {"magnitude_between": px_seg.Magnitude(), "trace_between": px_seg.NTKTrace()}[candidate]
    assert px_seg.prune(network, batches, 0.6, px_seg.criterion(candidate), rounds=1) == px_seg.prune(
        network, batches, 0.6, plain, rounds=1
    )
    other = px_seg.prune(network, batches, 0.6, plain, rounds=2)
    assert any((mask != other[name]).any() for name, mask in masks.items())


def test_the_trace_in_rounds_with_reconstruction_between_is_a_method_of_a_run_as_well(network, batches) -> None:
    candidate = px_seg.prune(network, batches, 0.8, px_seg.criterion("trace_between"))
    whole = px_seg.prune(
        network,
        batches,
        0.8,
        px_seg.criterion("ntk_trace"),
        rounds=5,
        repair=lambda own, masks: px_seg.recalibrate(own, batches, masks, "reconstruct"),
    )
    assert candidate == whole
