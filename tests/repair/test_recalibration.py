"""Statistics gathered anew, and channels scaled to the dense network's variance."""

import copy
import itertools
import math

import pytest
import torch
from helpers.cases import by_training_mode, network, pairs
from timm.layers import StdConv2d
from torch import nn

from px_seg import InputError, Magnitude, Random, build_classifier, build_segmenter, prune, recalibrate
from px_seg.analysis import preservation
from px_seg.pruning import Masks
from px_seg.repair import recalibration, try_repair
from px_seg.repair.variance import SHRINKAGE, with_variances


def test_statistics_are_torchs_own_cumulative_averages_under_the_masks() -> None:
    net, batches = network().train(), pairs(2, 3, 2)
    masks = prune(net, (), 0.4, Magnitude())
    expected = by_training_mode(net, batches, masks)
    recalibrate(net, batches, masks)
    for name, value in net.state_dict().items():
        if "num_batches" not in name:
            torch.testing.assert_close(value, expected.state_dict()[name])
    assert all(module.training for module in net.modules())
    # Without masks the zeros in the network decide.
    again = copy.deepcopy(expected)
    recalibrate(again, batches)
    for name in ("1.running_mean", "1.running_var", "5.running_mean", "5.running_var"):
        torch.testing.assert_close(again.state_dict()[name], net.state_dict()[name])


def test_channels_have_the_dense_networks_variance() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 1))
    net.double()
    x = torch.randn(4, 3, 12, 12, dtype=torch.float64)
    masks = prune(net, (), 0.6, Random())
    found = with_variances(net, masks, x)
    pruned = copy.deepcopy(net)
    masks.apply(pruned)
    for at in (0, 2, 4):
        with torch.no_grad():
            wanted, inputs = net[: at + 1](x), found[:at](x)
            # What the pruned layer returns on the repaired layers' outputs, and the closed form on that.
            before = pruned[at](inputs)
        v, w = (out.movedim(1, -1).flatten(0, -2).var(0, unbiased=False) for out in (wanted, before))
        least = SHRINKAGE * v.mean()
        scale = ((v + least) / (w + least)).sqrt()
        torch.testing.assert_close(found[at].weight, pruned[at].weight * scale[:, None, None, None])
        with torch.no_grad():
            own = found[at](inputs).movedim(1, -1).flatten(0, -2).var(0, unbiased=False)
        alive = w > 10 * least
        torch.testing.assert_close(own[alive], v[alive], rtol=0.2, atol=0)


def test_behind_a_norm_whose_statistics_are_gathered_the_scale_has_no_effect() -> None:
    net, batches = network().eval(), pairs(4, 4)
    del net[7]
    masks, outputs = prune(net, (), 0.4, Magnitude()), []
    for repair in ("statistics", "variance"):
        own = copy.deepcopy(net)
        for norm in (own[1], own[5]):
            norm.eps = 1e-15
        recalibrate(own, batches, masks, repair)
        with torch.no_grad():
            outputs.append(own(batches[0][0]))
    torch.testing.assert_close(*outputs)


@pytest.mark.parametrize("repair", ["statistics", "variance", "reconstruct"])
def test_a_network_in_half_precision_keeps_mode_dtype_and_masks(repair: str) -> None:
    torch.manual_seed(0)
    model = build_classifier("resnet20", classes=3, weights=None).to(torch.bfloat16).train()
    model.encoder.eval()
    kinds = {name: value.dtype for name, value in model.state_dict().items()}
    masks = prune(model, (), 0.8, Magnitude(), scope="encoder")
    x = [torch.randn(4, 3, 64, 64, dtype=torch.bfloat16)]
    recalibrate(model, x, masks, repair)
    assert {name: value.dtype for name, value in model.state_dict().items()} == kinds
    assert not masks.revived(dict(model.named_parameters()))
    assert model.training
    assert not model.encoder.training
    assert all("forward" not in vars(module) for module in model.modules())


def test_reconstruction_brings_the_pruned_network_closer_to_the_dense_one() -> None:
    """On images that it was not fitted on, before any training."""
    torch.manual_seed(0)
    model = build_classifier("resnet20", classes=3, weights=None)
    images = torch.randn(24, 3, 32, 32)
    masks = prune(model, (), 0.8, Magnitude(), scope="encoder")
    errors = {}
    for repair in (None, "reconstruct"):
        own = copy.deepcopy(model)
        if repair is not None:
            recalibrate(own, [images[:16]], masks, repair)
        errors[repair] = preservation(model, masks, [images[16:]], repaired=own if repair else None).error
    assert errors["reconstruct"] < 0.8 * errors[None]


def test_what_cannot_be_repaired_is_refused_and_left_as_it_was() -> None:
    net, batches = network(), pairs(3)
    masks, before = prune(net, (), 0.4, Magnitude()), copy.deepcopy(net.state_dict())
    for arguments, message in (
        ((batches, masks, "magic"), "there is no repair 'magic': choose one of statistics, variance, reconstruct"),
        (([], masks), "there are no images: give at least one batch"),
        ((batches, None, "variance"), "variance compares the pruned network with the dense one: give it the masks"),
        ((batches, Masks({"9.weight": torch.ones(1)})), r"there is a mask for 9\.weight"),
        ((batches, Masks({"1.weight": torch.ones_like(net[1].weight)})), r"there is a mask for 1\.weight"),
        ((batches[0][0], masks), "put it in a list"),
        ((batches, [masks]), "masks must be tensors by the names of weights, got list"),
        *(
            ((batches, masks, "reconstruct", ridge), "ridge must be a number above 0, got ")
            for ridge in (0, math.inf, math.nan, "1", None)
        ),
    ):
        with pytest.raises(InputError, match=message):
            recalibrate(net, *arguments)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    plain = nn.Sequential(nn.Conv2d(2, 2, 1))
    with pytest.raises(InputError, match="no BatchNorm whose statistics variance could gather: use reconstruct"):
        recalibrate(plain, batches, Masks.ones(plain), "variance")


def test_fewer_large_images_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    net, batches = network().eval(), pairs(3, 2, 2)
    masks, own = prune(net, (), 0.4, Magnitude()), copy.deepcopy(net)
    side = batches[0][0].shape[-1]
    monkeypatch.setattr(recalibration, "PIXELS", 4 * side * side + 1)
    recalibrate(net, batches, masks, "reconstruct")
    recalibrate(own, [batches[0][0], batches[1][0][:1]], masks, "reconstruct")
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, own.state_dict()[name])


@pytest.mark.parametrize(
    ("repair", "images"),
    [
        *(("statistics", torch.zeros(1, 3, 3, 3)), ("variance", torch.zeros(1, 3, 3, 3))),
        *((repair, torch.full((2, 3, 5, 5), torch.nan)) for repair in ("statistics", "variance", "reconstruct")),
        *((repair, 1e30 * torch.randn(2, 3, 5, 5)) for repair in ("statistics", "variance")),
    ],
)
def test_a_repair_that_fails_leaves_the_model_as_it_was(repair: str, images: torch.Tensor) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    masks = {"0.weight": torch.rand(4, 3, 3, 3) > 0.5}
    with pytest.raises(InputError):
        recalibrate(net, [images], masks, repair)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_statistics_that_overflow_in_the_models_precision_are_refused() -> None:
    """65504 is the largest number of float16; statistics are gathered in float32."""
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).half().eval()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(InputError, match=r"statistics leaves 1\.running_var not finite"):
        recalibrate(net, [1e3 * torch.randn(8, 3, 4, 4)], Masks.ones(net))
    torch.testing.assert_close(net.state_dict(), before)


def test_norms_out_of_scope_keep_their_statistics() -> None:
    """A decoder that is random still computes with the statistics that the dense network's has."""
    torch.manual_seed(0)
    model = build_segmenter("tu-test_resnet", classes=3, weights=None)
    masks = prune(model, (), 0.5, Magnitude(), scope="encoder")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    recalibrate(model, [torch.randn(4, 3, 32, 32)], masks, scope="encoder")
    moved = {
        name.partition(".")[0]
        for name, value in model.state_dict().items()
        if "running" in name and not torch.equal(value, before[name])
    }
    assert moved == {"encoder"}
    with pytest.raises(InputError, match="no BatchNorm whose statistics"):
        recalibrate(model, [torch.randn(4, 3, 32, 32)], masks, scope="segmentation_head")


@pytest.mark.parametrize("repair", ["statistics", "variance", "reconstruct"])
def test_inference_mode_makes_no_difference(repair: str) -> None:
    net, batches = network().eval(), pairs(3)
    masks, again = prune(net, (), 0.4, Magnitude()), copy.deepcopy(net)
    recalibrate(net, batches, masks, repair)
    with torch.inference_mode():
        recalibrate(again, batches, masks, repair)
    torch.testing.assert_close(net.state_dict(), again.state_dict())


def test_no_more_images_are_read_than_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a source without end as well."""
    net, endless = network().eval(), itertools.repeat(torch.randn(4, 2, 5, 5))
    monkeypatch.setattr(recalibration, "IMAGES", 6)
    recalibrate(net, endless, prune(net, (), 0.4, Magnitude()), "reconstruct")


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = images.flatten(2).mT
        return self.attention(tokens, tokens, tokens, need_weights=False)[0]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.other.weight = self.one.weight

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.other(self.one(images))


class Gained(nn.Conv2d):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(images)


class TokensFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.linear(images.flatten(2).permute(2, 0, 1))


class WindowsFirst(TokensFirst):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.linear(images.flatten(2).permute(2, 0, 1).reshape(-1, 8))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Attention(), r"attention\.out_proj\.weight is not read once by its own layer"),
        (Tied(), r"one\.weight is not read once by its own layer"),
        (TokensFirst(), r"linear is given \(9, \d, 8\) for \d images"),
        (WindowsFirst(), r"linear is given \(\d+, 8\) for \d images"),
        (nn.Sequential(StdConv2d(8, 8, 3)), r"0\.weight is not read once by its own layer"),
        (nn.Sequential(Gained(8, 8, 3)), r"0\.weight is of a layer that returns something else .* \(Gained\)"),
        (nn.Sequential(nn.ConvTranspose2d(8, 8, 3)), r"0\.weight is of a transposed convolution"),
    ],
)
def test_layers_that_cannot_be_reconstructed_are_refused(model: nn.Module, message: str) -> None:
    masks = prune(model, (), 0.5, Magnitude())
    images, before = torch.randn(2, 8, 3, 3), copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match=message):
        recalibrate(model, [images], masks, "reconstruct")
    # Seen on one image as well, before anything is pruned.
    with pytest.raises(InputError, match=message):
        try_repair(model, Masks.ones(model), images[:1], "reconstruct")
    torch.testing.assert_close(model.state_dict(), before)


def test_tokens_before_images_are_refused_whatever_their_number() -> None:
    """Sixteen positions of four images can be halved as well, at the wrong place."""
    model = TokensFirst()
    with pytest.raises(InputError, match=r"linear is given \(16, 4, 8\) for 4 images"):
        recalibrate(model, [torch.randn(2, 8, 4, 4)], prune(model, (), 0.5, Magnitude()), "reconstruct")


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.conv(input=images)


def test_a_layer_may_be_called_by_its_arguments_name() -> None:
    model, images = Named(), torch.randn(2, 3, 8, 8)
    masks, again = prune(model, (), 0.5, Magnitude()), nn.Sequential(copy.deepcopy(model.conv))
    recalibrate(model, [images], masks, "reconstruct")
    recalibrate(again, [images], Masks({"0.weight": masks["conv.weight"]}), "reconstruct")
    torch.testing.assert_close(model.conv.weight, again[0].weight)
