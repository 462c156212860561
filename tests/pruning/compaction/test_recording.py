"""What a network does that its layers do not show: it is left as it is, or the whole is refused, and never wrong."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from helpers.compacting import assert_same, masked
from helpers.networks import unsettled
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

import px_seg
from px_seg import InputError, UnsupportedOperation, prunable
from px_seg.deploy import shrink


class Net(nn.Module):
    """A stem and a norm, `between`, and two layers; nothing feeds channels 1 and 2 of eight."""

    def __init__(self, between=None, **modules: nn.Module) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.mid, self.last = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 3, padding=1)
        for name, module in modules.items():
            setattr(self, name, module)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)).relu()
        x = x if self.between is None else self.between(self, x)
        return self.last(self.mid(x).relu())


def shrunk(net: nn.Module, **gone: slice):
    """The network made smaller, compared with the one under masks without these rows of layers."""
    torch.manual_seed(0)
    net = unsettled(net)
    masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable(net).items()}
    for layer, rows in (gone or {"first": slice(1, 3)}).items():
        masks[f"{layer}.weight"][rows] = False
    found = shrink(net, masks, (3, 8, 8))
    for sides in ((8, 8), (12, 10)):
        assert_same(masked(net, masks), found.model, torch.randn(3, 3, *sides, dtype=torch.float64), 1e-9)
    assert {name: mask.shape for name, mask in found.masks.items()} == {
        name: found.model.get_parameter(name).shape for name in found.masks
    }
    return found


def aside(net: nn.Module, x: Tensor) -> Tensor:
    part = x[:, :, :2]
    part += 1
    return x


def overwritten(net: nn.Module, x: Tensor) -> Tensor:
    x = x * 1
    x[:, 5] = 0
    return x


def written_into_zeros(net: nn.Module, x: Tensor) -> Tensor:
    out = x.new_zeros(x.shape)
    out[:] = x
    return out


def through_data(net: nn.Module, x: Tensor) -> Tensor:
    x.data.clamp_(max=0.5)
    return x


LEFT = {
    "fft": (lambda net, x: torch.fft.fft2(x).real, "torch's fft_fft2"),
    "permuted": (lambda net, x: x[:, [1, 0, *range(2, 8)]], "torch's __getitem__"),
    "listed": (lambda net, x: x[:, list(range(8))], "torch's __getitem__"),
    "split by size": (lambda net, x: torch.split(x, [8], 1)[0], "torch's split"),
    "chunks": (lambda net, x: torch.cat(x.chunk(2, 1)[::-1], 1), "torch's chunk"),
    "a number a channel": (lambda net, x: x * torch.arange(1.0, 9)[:, None, None], "torch's mul"),
    "sizes named": (lambda net, x: x.reshape(-1, 8, x.shape[2] * x.shape[3]).reshape(x.shape), "torch's reshape"),
    "squeezed": (lambda net, x: x.mean((2, 3), True).squeeze()[:, :, None, None] + x, "torch's squeeze"),
    "compared": (lambda net, x: x * (x > 0.1), "torch's gt"),
    "pooled over channels": (
        lambda net, x: F.max_pool2d(x.flatten(2), 3, 1, 1).reshape(x.shape),
        "torch's max_pool2d",
    ),
    "a part overwritten by a sum": (aside, "torch's add_ works in place on memory that other tensors in use share"),
    "a channel overwritten": (overwritten, "torch's __setitem__ writes into a tensor"),
    "written into zeros": (written_into_zeros, "torch's __setitem__ writes into a tensor"),
    "overwritten through data": (through_data, "torch's clamp_ is not defined for paths"),
    "a number of all elements": (lambda net, x: x * x.max().item(), "torch's item makes a float of a tensor"),
    "a choice by elements": (lambda net, x: x if x.max() > 0 else -x, "torch's __bool__ makes a bool of a tensor"),
}


@pytest.mark.parametrize(("between", "named"), LEFT.values(), ids=LEFT)
def test_what_is_not_followed_keeps_its_channels_and_is_named(between, named: str) -> None:
    found = shrunk(Net(between))
    assert f"the model: {named}" in found.left
    assert found.model.first.weight.shape[0] == 8


@pytest.mark.filterwarnings("ignore:not made smaller")
def test_a_warning_names_it_and_no_more_than_three() -> None:
    net = Net(lambda net, x: torch.cumsum(torch.roll(torch.flip(torch.fft.fft2(x).real, (2,)), 1), 2))
    with pytest.warns(UserWarning, match=r"^not made smaller: the model: torch's fft_fft2; the model: .*; and 2 more"):
        px_seg.compact(net, None, (3, 8, 8))


class Aside(nn.Module):
    """Overwrites part of what goes in, which others go on using."""

    def forward(self, x: Tensor) -> Tensor:
        x[:, :, :2] = 0
        return x.sum((2, 3), keepdim=True)


def test_a_module_that_cannot_be_followed_is_left_whole_and_the_rest_is_not() -> None:
    def between(net: Net, x: Tensor) -> Tensor:
        x = net.more(x)
        total = net.aside(x)
        return x + total

    net = Net(between, more=nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1)), aside=Aside())
    found = shrunk(net, **{"more.0": slice(0, 3), "first": slice(1, 3)})
    assert found.left == ["aside: torch's __setitem__ writes into a tensor"]
    assert found.model.more[0].layer.weight.shape[:2] == (5, 6)
    assert found.model.mid.weight.shape[1] == 8


class PlusOne(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


class TwiceTheBias(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias * 2)


class PadsByItself(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, padding=1)


class Reads(nn.Module):
    """A function of the input and a layer whose values it reads."""

    def __init__(self, layer: nn.Module, function) -> None:
        super().__init__()
        self.layer, self.function = layer, function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.layer, self.layer(x), x)


def hooked(layer: nn.Module) -> nn.Module:
    layer.register_forward_hook(lambda module, inputs, output: output + 1)
    return layer


def hooked_before(layer: nn.Module) -> nn.Module:
    layer.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 2,))
    return layer


def halved_bias(layer: nn.Module) -> nn.Module:
    parametrize.register_parametrization(layer, "bias", Halved())
    return layer


class Halved(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 2


LAYERS = {
    "more than a convolution": (PlusOne(8, 8, 1), "mid: does more than a layer of its kind"),
    "another bias": (TwiceTheBias(8, 8, 1), "mid: its values are read beside it"),
    "a hook": (hooked(nn.Conv2d(8, 8, 1)), "mid: has hooks"),
    "a hook before": (hooked_before(nn.Conv2d(8, 8, 1)), "mid: has hooks"),
    "a parametrized bias": (halved_bias(nn.Conv2d(8, 8, 1)), "mid: torch's conv2d"),
    "a transposed convolution": (nn.ConvTranspose2d(8, 8, 1), "mid: torch's conv_transpose2d"),
    "a weight read again": (
        Reads(nn.Conv2d(8, 8, 1), lambda layer, y, x: y + F.conv2d(x, layer.weight)),
        "mid.layer: its values are read beside it",
    ),
    "the weights of a norm": (
        Reads(nn.BatchNorm2d(8), lambda norm, y, x: y + x * norm.weight.view(1, -1, 1, 1)),
        "mid.layer: its values are read beside it",
    ),
    "a norm of the moment": (nn.BatchNorm2d(8, track_running_stats=False), "mid: torch's batch_norm"),
    "a group norm": (nn.GroupNorm(2, 8), "mid: torch's group_norm"),
    "an instance norm with statistics": (
        nn.InstanceNorm2d(8, track_running_stats=True),
        "mid: torch's instance_norm writes into a tensor",
    ),
}


@pytest.mark.parametrize(("layer", "named"), LAYERS.values(), ids=LAYERS)
def test_a_layer_that_is_not_an_ordinary_one_stays(layer: nn.Module, named: str) -> None:
    found = shrunk(Net(mid=layer))
    assert named in found.left
    assert found.model.first.weight.shape[0] == 8


def test_a_layer_that_pads_by_itself_is_cut_and_exact_at_borders() -> None:
    found = shrunk(Net(mid=PadsByItself(8, 8, 3)))
    assert not found.left
    assert found.model.mid.layer.weight.shape[1] == 6


def test_a_layer_that_is_used_twice_stays() -> None:
    twice = nn.Conv2d(8, 8, 1)
    assert shrunk(Net(mid=nn.Sequential(twice, nn.ReLU(), twice))).left == ["mid.0: used more than once"]


def test_a_layer_with_two_names_is_cut_under_both() -> None:
    class Named(Net):
        def __init__(self) -> None:
            super().__init__()
            self.all = nn.Sequential(self.first, self.norm, nn.ReLU(), self.mid, nn.ReLU(), self.last)

    found = shrunk(Named())
    assert found.model.all[3] is found.model.mid
    assert found.model.mid.layer.weight.shape[1] == 6


def test_code_that_asks_for_the_dtype_of_a_weight_still_may() -> None:
    net = Net(lambda net, x: x.add(1).to(net.mid.weight.dtype))
    assert shrunk(net).model.mid.weight.shape == (8, 8, 1, 1)


REFUSED = {
    "its number of channels": Net(lambda net, x: x * x.shape[1] ** -0.5),
    "its number of images": Net(lambda net, x: x / x.shape[0]),
    "its sides": Net(lambda net, x: x * x.shape[-1]),
    "its mode": Net(lambda net, x: x * (2 if net.training else 1)),
}


@pytest.mark.parametrize("net", REFUSED.values(), ids=REFUSED)
def test_what_computes_with_what_operations_do_not_show_is_refused(net: Net) -> None:
    with pytest.raises(UnsupportedOperation, match="the smaller network returns something else"):
        shrunk(net)


def test_outputs_that_are_not_found_are_refused() -> None:
    class Wrapped(Net):
        def forward(self, x: Tensor) -> SimpleNamespace:
            return SimpleNamespace(out=super().forward(x))

    with pytest.raises(UnsupportedOperation, match="returns a SimpleNamespace, whose tensors are not found"):
        shrunk(Wrapped())


MODELS = {
    "no weights": (nn.ReLU(), (3, 8, 8), "no weights that could be pruned"),
    "other channels": (nn.Conv2d(4, 2, 1), (3, 8, 8), r"does not run on images of shape \(3, 8, 8\): pass the shape"),
    "no sides": (nn.Conv2d(3, 2, 1), (3,), r"does not run on images of shape \(3,\)"),
    "lazy": (nn.LazyConv2d(2, 1), (3, 8, 8), "lazy layers without weights"),
    "meta": (nn.Conv2d(3, 2, 1, device="meta"), (3, 8, 8), "on the meta device"),
}


@pytest.mark.parametrize(("model", "shape", "named"), MODELS.values(), ids=MODELS)
def test_a_model_that_cannot_be_compacted_is_one_line(model: nn.Module, shape: tuple[int, ...], named: str) -> None:
    with pytest.raises(InputError, match=named) as error:
        px_seg.compact(model, None, shape)
    assert "\n" not in str(error.value)


def test_a_model_with_torchs_own_pruning_says_what_is_wrong() -> None:
    model = nn.Conv2d(3, 4, 1)
    prune.random_unstructured(model, "weight", 0.5)
    with pytest.raises(InputError, match="the model cannot be copied"):
        px_seg.compact(model, None, (3, 8, 8))


def test_a_compacted_model_is_not_compacted_again() -> None:
    found = shrunk(Net())
    with pytest.raises(InputError, match="compacted already"):
        px_seg.compact(found.model, None, (3, 8, 8))


def test_statistics_of_norms_of_any_kind_stay_as_they_were() -> None:
    net = Net(mid=nn.Sequential(nn.InstanceNorm2d(8, track_running_stats=True), nn.Conv2d(8, 8, 1)))
    torch.manual_seed(0)
    for _ in range(3):
        net(torch.randn(2, 3, 8, 8))
    before = {name: value.clone() for name, value in net.named_buffers()}
    with pytest.warns(UserWarning, match="not made smaller"):
        small = px_seg.compact(net.eval(), None, (3, 8, 8))
    for model in (net, small):
        for name, value in model.named_buffers():
            assert torch.equal(value, before[name])
            assert not model.training


def test_masks_of_biases_and_norms_are_cut_too() -> None:
    torch.manual_seed(0)
    net = unsettled(Net())
    masks = {name: torch.ones_like(parameter, dtype=torch.bool) for name, parameter in net.named_parameters()}
    masks["first.weight"][1:3] = False
    found = shrink(net, masks, (3, 8, 8))
    assert {n: m.shape for n, m in found.masks.items()} == {
        name: parameter.shape for name, parameter in found.model.named_parameters() if "constants" not in name
    }
