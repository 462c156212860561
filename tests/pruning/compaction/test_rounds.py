"""Rounds of pruning walk a smaller network, and keep the same weights."""

import threading

import pytest
import segmentation_models_pytorch as smp
import torch
from helpers.networks import LINEAR_PIECES, Drawn, drawn, images, unsettled
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from torch import nn

import px_seg
from px_seg import PX, Criterion, Masks, PXConserved, PXPaths, prune
from px_seg.pruning import NoPathLeft
from px_seg.pruning.compaction.recording import record
from px_seg.pruning.compaction.rounds import Shrinking
from px_seg.pruning.compaction.shrinking import share_left
from px_seg.pruning.modes import evaluating


def pruned_whole(monkeypatch: pytest.MonkeyPatch, *args, **settings) -> Masks:
    with monkeypatch.context() as patch:
        for kind in (PX, PXPaths):
            patch.setattr(kind, "by_paths", False)
        return prune(*args, **settings)


NETWORKS = {
    "segmenter": lambda: px_seg.build_segmenter("resnet18", classes=5, weights=None),
    "bottlenecks": lambda: px_seg.build_classifier("tu-test_resnet", classes=5, weights=None),
    "depthwise": lambda: px_seg.build_segmenter("tu-test_efficientnet", classes=5, weights=None),
    "concatenations": lambda: smp.Unet("tu-test_resnet", encoder_weights=None, classes=5, decoder_channels=(16,) * 5),
}


@pytest.mark.parametrize("criterion", [PX(), PXConserved(), PXPaths()], ids=["px", "px_conserved", "px_paths"])
@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
def test_the_masks_are_those_of_the_whole_network_bit_by_bit(build, criterion: Criterion, monkeypatch) -> None:
    torch.manual_seed(0)
    model = unsettled(build()).double()
    batches = [torch.randn(3, 3, 32, 32).double(), torch.randn(2, 3, 32, 32).double()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    masks = prune(model, batches, 0.97, criterion, "encoder", rounds=4)
    assert masks == pruned_whole(monkeypatch, model, batches, 0.97, criterion, "encoder", rounds=4)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
def test_a_network_is_cut_only_where_that_leaves_little(build) -> None:
    torch.manual_seed(0)
    model, batches = unsettled(build()).float(), [torch.randn(2, 3, 32, 32)]
    walked: list[int] = []

    def score(network: nn.Module, masks: Masks) -> dict[str, torch.Tensor]:
        walked.append(sum(parameter.numel() for parameter in network.parameters() if parameter.dim() > 1))
        return {name: mask.float() for name, mask in masks.items()}

    whole = sum(parameter.numel() for parameter in model.parameters() if parameter.dim() > 1)
    rounds = Shrinking(model, lambda: torch.Size((3, 32, 32)))
    # Drawn at random, they leave each channel with a weight.
    rounds.scores(prune(model, (), 0.75, px_seg.Random(), "encoder"), score)
    assert walked == [whole]
    masks = prune(model, batches, 0.98, PX(), "encoder", rounds=8)
    rounds.scores(masks, score)
    assert walked[1] < 0.8 * whole
    with evaluating(model):
        graph = record(model, torch.zeros(2, 3, 32, 32))
    assert share_left(model, graph, masks) == pytest.approx(walked[1] / whole, abs=0.05)


def test_in_float32_they_differ_where_its_rounding_decides_alone(monkeypatch) -> None:
    # Convolutions of other shapes add in another order.
    torch.manual_seed(0)
    model = unsettled(NETWORKS["segmenter"]()).float()
    batches = [torch.randn(3, 3, 64, 64), torch.randn(2, 3, 64, 64)]
    masks = prune(model, batches, 0.97, PXConserved(), "encoder", rounds=8)
    whole = pruned_whole(monkeypatch, model, batches, 0.97, PXConserved(), "encoder", rounds=8)
    assert sum(int((masks[name] != mask).sum()) for name, mask in whole.items()) <= 1e-4 * whole.kept


@pytest.mark.parametrize("criterion", [PX(), PXPaths()], ids=["px", "px_paths"])
@settings(max_examples=25, deadline=None)
@given(net=drawn(LINEAR_PIECES), seed=st.integers(0, 2**16))
def test_scores_are_those_of_the_whole_network(criterion: Criterion, net: Drawn, seed: int) -> None:
    batches = images(seed, 3)
    generator = torch.Generator().manual_seed(seed)
    masks = Masks.ones(unsettled(net))
    masks = Masks({name: torch.rand(mask.shape, generator=generator) < 0.5 for name, mask in masks.items()})
    try:
        wanted = criterion.score(net, batches, masks)
    except NoPathLeft:
        reject()
    shrinking = Shrinking(net, lambda: batches[0].shape[1:])
    found = shrinking.scores(masks, lambda network, own: criterion.score(network, batches, own))
    assert found.keys() == wanted.keys()
    for name, score in wanted.items():
        torch.testing.assert_close(found[name], score, rtol=1e-9, atol=0)


def test_later_rounds_are_given_a_smaller_network(monkeypatch) -> None:
    torch.manual_seed(0)
    model = px_seg.build_segmenter("resnet18", classes=5, weights=None)
    sizes, score = [], PX.score

    def counted(self, network: nn.Module, *args, **kwargs):
        sizes.append(sum(parameter.numel() for parameter in network.parameters()))
        return score(self, network, *args, **kwargs)

    monkeypatch.setattr(PX, "score", counted)
    prune(model, [torch.randn(2, 3, 64, 64)], 0.98, PX(), "encoder", rounds=6)
    assert sizes[0] == sum(parameter.numel() for parameter in model.parameters())
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 0.4 * sizes[0]


class Branched(nn.Module):
    """Many weights in a row, whose scores are equal but for rounding: it decides which of them go first."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU())
        self.down = nn.Sequential(nn.Conv2d(24, 24, 3, 2, padding=1, bias=False), nn.BatchNorm2d(24))
        self.shortcut, self.depthwise = nn.Conv2d(24, 24, 1, 2), nn.Conv2d(24, 24, 3, padding=2, dilation=2, groups=24)
        self.squeeze, self.excite = nn.Conv2d(24, 8, 1), nn.Conv2d(8, 24, 1)
        self.mixed, self.head = nn.Conv2d(48, 16, 3, padding=1), nn.Conv2d(16, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = torch.relu(self.down(x) + self.shortcut(x))
        y = y * torch.sigmoid(self.excite(torch.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        return self.head(torch.relu(self.mixed(torch.cat([self.depthwise(y), y], 1))))


@pytest.mark.parametrize("criterion", [PX(), PXPaths()], ids=["px", "px_paths"])
def test_a_pruning_that_is_resumed_ends_with_the_same_masks(criterion: Criterion) -> None:
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.float64):
        net = unsettled(Branched()).to(dtype)
        batches, seen = [torch.randn(2, 3, 12, 12, dtype=dtype), torch.randn(3, 3, 12, 12, dtype=dtype)], []
        masks = prune(net, batches, 0.95, criterion, rounds=12, on_round=lambda _, masks: seen.append(masks))  # noqa: B023
        for start in seen:
            assert prune(net, batches, 0.95, criterion, rounds=12, start=start) == masks


class Divided(nn.Module):
    """Computes with its number of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.one(x)
        return self.two(torch.relu(x / x.shape[1]))


class Locked(nn.Conv2d):
    """Cannot be copied."""

    def __init__(self) -> None:
        super().__init__(3, 8, 3)
        self.lock = threading.Lock()


@pytest.mark.parametrize("model", [Divided, Locked])
def test_a_network_that_cannot_be_cut_is_walked_whole(model: type[nn.Module], monkeypatch) -> None:
    torch.manual_seed(0)
    network, batches = model(), [torch.randn(2, 3, 8, 8)]
    masks = prune(network, batches, 0.9, PX(), rounds=6)
    assert masks == pruned_whole(monkeypatch, network, batches, 0.9, PX(), rounds=6)


def test_a_criterion_with_a_score_of_its_own_is_given_the_whole_network() -> None:
    class Mine(PX):
        def score(self, model, *args, **kwargs):
            return {name: score / score.numel() for name, score in super().score(model, *args, **kwargs).items()}

    class MinePaths(PXPaths):
        def score(self, *args, **kwargs):
            return super().score(*args, **kwargs)

    assert not Mine().by_paths
    assert not MinePaths().by_paths
    assert PXConserved().by_paths


def test_readings_that_look_at_constants_walk_the_whole_network() -> None:
    assert PX().by_paths
    assert PXPaths().by_paths
    assert not PX(bn="released").by_paths
    assert not PX(statistics="batches").by_paths
    assert not px_seg.SNIP().by_paths
