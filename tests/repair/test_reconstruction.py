"""Weights refitted by least squares, against numpy's own solver on patches laid out by torch's unfold."""

import copy

import numpy as np
import pytest
import torch
from helpers.cases import network, pairs
from timm.layers import Conv2dSame
from torch import Tensor, nn

from px_seg import InputError, Magnitude, Random, prune, recalibrate
from px_seg.pruning import Masks
from px_seg.repair import least_squares, reconstruction

RIDGE = 0.03


def patches(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """(samples, groups, K)."""
    assert isinstance(conv.padding, tuple)
    columns = nn.functional.unfold(x, conv.kernel_size, conv.dilation, conv.padding, conv.stride)
    return columns.movedim(2, 1).reshape(-1, conv.groups, conv.weight[0].numel())


def fitted(x: np.ndarray, y: np.ndarray, start: np.ndarray, centred: bool, ridge: float) -> tuple[np.ndarray, float]:
    """Weights and constant of one channel: the penalty as further rows of an ordinary least-squares problem."""
    n, k = x.shape
    xm, ym = (x.mean(0), y.mean()) if centred else (np.zeros(k), 0.0)
    rows = np.concatenate([x - xm, np.sqrt(n * ridge) * np.eye(k)])
    wanted = np.concatenate([y - ym, np.sqrt(n * ridge) * start])
    weights = np.linalg.lstsq(rows, wanted, rcond=None)[0]
    return weights, float(ym - weights @ xm)


def expected(conv: nn.Conv2d, mask: Tensor, x: Tensor, y: Tensor, centred: bool) -> tuple[Tensor, Tensor]:
    """The refitted weight (O, K), and the constants (O,)."""
    columns = patches(conv, x).numpy()
    variance = np.mean([np.diag(np.cov(columns[:, g].T, bias=True)).mean() for g in range(conv.groups)])
    if not centred:
        variance = (columns**2).mean()
    y = y.movedim(1, -1).flatten(0, -2).numpy()
    weight, kept = conv.weight.detach().flatten(1).numpy().copy(), mask.flatten(1).numpy()
    constants = np.zeros(len(weight))
    for o in range(len(weight)):
        group = o // (len(weight) // conv.groups)
        own = columns[:, group][:, kept[o]]
        found, constants[o] = fitted(own, y[:, o], weight[o, kept[o]], centred, RIDGE * variance)
        weight[o], weight[o, kept[o]] = 0, found
    return torch.from_numpy(weight), torch.from_numpy(constants)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "shape",
    [{"padding": 1, "stride": 2}, {"groups": 2, "dilation": 2}, {"groups": 4}],
    ids=["strided", "grouped", "depthwise"],
)
def test_one_layer_is_what_numpy_finds(shape: dict, bias: bool, generator) -> None:
    conv = nn.Conv2d(4, 8, 3, bias=bias, **shape).double()
    net, x = nn.Sequential(conv), torch.randn(3, 4, 9, 9, dtype=torch.float64, generator=generator) + 0.5
    masks = prune(net, (), 0.4, Random(seed=1))
    with torch.no_grad():
        y = conv(x)
        weight, constants = expected(conv, masks["0.weight"], x, y, centred=bias)
    recalibrate(net, [x[:2], x[2:]], masks, "reconstruct", RIDGE)
    torch.testing.assert_close(conv.weight.detach().flatten(1), weight)
    if bias:
        torch.testing.assert_close(conv.bias.detach(), constants)
    assert not masks.revived(dict(net.named_parameters()))


@pytest.mark.parametrize(
    ("layer", "padded"),
    [
        (Conv2dSame(4, 6, 3, stride=2), lambda x: nn.functional.pad(x, (0, 1, 0, 1))),
        (nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), lambda x: nn.functional.pad(x, [1] * 4, "circular")),
        (nn.Conv1d(4, 6, 3, padding=2, dilation=2), lambda x: nn.functional.pad(x, (2, 2))),
    ],
    ids=["as TensorFlow pads", "circular", "one dimension"],
)
def test_a_layer_that_pads_is_a_plain_one_on_padded_images(layer: nn.Module, padded, generator) -> None:
    images = torch.randn(5, 4, *[8] * (layer.weight.dim() - 2), dtype=torch.float64, generator=generator)
    one, dilation = type(layer) is nn.Conv1d, layer.dilation
    plain = (nn.Conv1d if one else nn.Conv2d)(4, 6, 3, stride=layer.stride, dilation=dilation)
    plain.load_state_dict(layer.state_dict())
    nets = nn.Sequential(layer).double(), nn.Sequential(plain).double()
    masks = prune(nets[0], (), 0.4, Random(seed=1))
    torch.testing.assert_close(nets[0](images), nets[1](padded(images)))
    for net, seen in zip(nets, (images, padded(images)), strict=True):
        recalibrate(net, [seen], masks, "reconstruct", RIDGE)
    torch.testing.assert_close(nets[0].state_dict(), nets[1].state_dict())


@pytest.mark.parametrize("module", [reconstruction, least_squares], ids=["images", "rows"])
def test_how_much_is_worked_on_at_once_makes_no_difference(module, monkeypatch) -> None:
    net, batches = network().eval(), pairs(3, 2)
    masks, again = prune(net, (), 0.4, Magnitude()), copy.deepcopy(net)
    recalibrate(net, batches, masks, "reconstruct", RIDGE)
    monkeypatch.setattr(module, "_AT_ONCE", 1)
    recalibrate(again, batches, masks, "reconstruct", RIDGE)
    torch.testing.assert_close(net.state_dict(), again.state_dict())


def test_deeper_layers_are_fitted_on_what_the_repaired_ones_before_them_return() -> None:
    """To the dense network's outputs; a norm's running mean takes what is left of the mean."""
    net, batches = network().eval(), pairs(3, 2)
    dense, x = copy.deepcopy(net), torch.cat([images for images, _ in batches])
    masks = prune(net, (), 0.4, Magnitude())
    recalibrate(net, batches, masks, "reconstruct", RIDGE)
    for layer, norm in (("0", None), ("4", "5"), ("7", None)):
        at = int(layer)
        with torch.no_grad():
            inputs, wanted = net[:at](x), dense[: at + 1](x)
            start = copy.deepcopy(dense[at])
            weight, constants = expected(start, masks[f"{layer}.weight"], inputs, wanted, centred=True)
        torch.testing.assert_close(net[at].weight.detach().flatten(1), weight)
        if norm is None:
            torch.testing.assert_close(net[at].bias.detach(), constants)
        else:
            moved = dense[int(norm)].running_mean - net[int(norm)].running_mean
            torch.testing.assert_close(moved, constants)
            assert torch.equal(net[int(norm)].running_var, dense[int(norm)].running_var)
    # Everything else is the dense network's.
    assert torch.equal(net[1].weight, dense[1].weight)
    assert torch.equal(net[1].running_mean, dense[1].running_mean)


def test_linear_layers_a_layer_used_twice_and_channels_without_weights(generator) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.layer(self.layer(x).relu()).relu())

    net, x = Twice().double(), torch.randn(50, 4, dtype=torch.float64, generator=generator)
    with torch.no_grad():
        y = net.layer(x)
    masks = {"layer.weight": torch.ones(4, 4, dtype=torch.bool), "last.weight": torch.ones(2, 4, dtype=torch.bool)}
    masks["layer.weight"][2] = False
    masks["layer.weight"][0, :3] = False
    recalibrate(net, [x], masks, "reconstruct", 1e-9)
    design = np.concatenate([x[:, 3:].numpy(), np.ones((50, 1))], 1)
    slope, constant = np.linalg.lstsq(design, y[:, 0].numpy(), rcond=None)[0]
    assert net.layer.weight[0, 3].item() == pytest.approx(slope)
    assert net.layer.bias[0].item() == pytest.approx(constant)
    assert torch.equal(net.layer.weight[2], torch.zeros(4, dtype=torch.float64))
    assert net.layer.bias[2].item() == pytest.approx(y[:, 2].mean().item())


def test_nothing_pruned_changes_nothing_and_many_positions_are_sampled(monkeypatch) -> None:
    net, batches = network().eval(), pairs(4, 4, side=9)
    before = copy.deepcopy(net.state_dict())
    recalibrate(net, batches, Masks.ones(net), "reconstruct")
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, before[name])
    # Some of the positions give nearly the same weights.
    masks, found = prune(net, (), 0.4, Magnitude()), []
    for samples in (reconstruction.SAMPLES, (300, 400)):
        monkeypatch.setattr(reconstruction, "SAMPLES", samples)
        own = copy.deepcopy(net)
        recalibrate(own, batches, masks, "reconstruct")
        found.append(own[4].weight.detach())
    assert not torch.equal(*found)
    assert float((found[0] - found[1]).norm() / found[0].norm()) < 0.2


def test_what_cannot_be_reconstructed_is_refused(generator) -> None:
    net = nn.Sequential(nn.ConvTranspose2d(2, 2, 3), nn.ReLU())
    x = [torch.randn(2, 2, 5, 5, generator=generator)]
    with pytest.raises(InputError, match=r"0\.weight is of a transposed convolution, which cannot be repaired"):
        recalibrate(net, x, prune(net, (), 0.5, Magnitude()), "reconstruct")
    conv = nn.Sequential(nn.Conv2d(2, 2, 3))
    with pytest.raises(InputError, match="ridge must be a number above 0, got 0"):
        recalibrate(conv, x, prune(conv, (), 0.5, Magnitude()), "reconstruct", ridge=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_layer_that_sees_the_same_everywhere_keeps_its_weights(dtype: torch.dtype) -> None:
    """All weights before it are pruned, so that it reads a BatchNorm's shift alone."""
    for seed in range(20):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Conv2d(3, 6, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 1))
        nn.init.normal_(net[1].bias, std=10)
        net = net.to(dtype).eval()
        masks = {"0.weight": torch.zeros(6, 3, 1, 1, dtype=torch.bool), "3.weight": torch.rand(4, 6, 1, 1) > 0.5}
        kept, images = net[3].weight * masks["3.weight"], torch.randn(4, 3, 5, 5, dtype=dtype)
        wanted = net(images).mean((0, 2, 3))
        recalibrate(net, [images], masks, "reconstruct")
        assert torch.equal(net[3].weight, kept)
        torch.testing.assert_close(net(images).mean((0, 2, 3)), wanted, rtol=1e-4, atol=1e-4)


def test_a_norm_behind_an_activation_in_place_is_no_layers_norm() -> None:
    masks = {"0.weight": torch.rand(6, 3, 3, 3, generator=torch.Generator().manual_seed(0)) > 0.5}
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    states = []
    for inplace in (False, True):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.ReLU(inplace), nn.BatchNorm2d(6)).eval()
        recalibrate(net, [images], masks, "reconstruct")
        states.append(net.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert not states[1]["2.running_mean"].any()


def test_of_a_layer_used_twice_the_norm_behind_its_first_use_is_moved() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.one, self.other = nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.other(self.conv(self.one(self.conv(x)).relu()))

    torch.manual_seed(0)
    net, images = Twice().eval(), torch.randn(4, 3, 8, 8) + 1
    mask = torch.tensor([1, 0, 1, 0, 1, 1, 1, 0, 0]).view(3, 3, 1, 1).bool()
    recalibrate(net, [images], {"conv.weight": mask}, "reconstruct")
    assert net.one.running_mean.any()
    assert not net.other.running_mean.any()


def test_a_norm_that_shares_a_layers_outputs_with_a_shortcut_is_not_moved() -> None:
    class PreActivation(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.norm, self.conv = nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            return x + self.conv(self.norm(x).relu())

    torch.manual_seed(0)
    net, images = PreActivation().eval(), torch.randn(4, 3, 8, 8) + 1
    mask = torch.tensor([1, 0, 1, 0, 1, 1, 1, 0, 0]).view(3, 3, 1, 1).bool()
    recalibrate(net, [images], {"stem.weight": mask}, "reconstruct")
    assert not net.norm.running_mean.any()


def test_a_norm_that_reads_another_layer_as_well_is_not_moved() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other, self.norm = (*(nn.Conv2d(3, 3, 1, bias=False) for _ in "12"), nn.BatchNorm2d(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.one(x)) + self.norm(self.other(x))

    torch.manual_seed(0)
    net, images = Shared().eval(), torch.randn(4, 3, 8, 8) + 1
    mask = torch.tensor([1, 0, 1, 0, 1, 1, 1, 0, 0]).view(3, 3, 1, 1).bool()
    recalibrate(net, [images], {"one.weight": mask, "other.weight": torch.ones_like(mask)}, "reconstruct")
    assert not net.norm.running_mean.any()


def test_a_norm_without_statistics_of_its_own_is_no_obstacle() -> None:
    """What such a network computes of an image depends on the others of the batch."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3, track_running_stats=False), nn.ReLU(), nn.Conv2d(3, 3, 1))
    mask = torch.tensor([1, 0, 1, 0, 1, 1, 1, 0, 0]).view(3, 3, 1, 1).bool()
    before, images = net[3].weight.detach().clone(), torch.randn(4, 3, 8, 8)
    recalibrate(net.eval(), [images], {"3.weight": mask}, "reconstruct")
    assert not torch.equal(net[3].weight[mask], before[mask])
