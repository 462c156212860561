"""A compacted network: the same function, whatever is dead in it, and nothing that is dead."""

import copy
import subprocess
import sys

import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
import torchvision
from helpers.compacting import assert_same, masked, outputs
from helpers.networks import PIECES, Body, Drawn, drawn, unsettled
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import px_seg
from px_seg import InputError, Masks, prunable
from px_seg.deploy import shrink
from px_seg.pruning.compaction.narrow import Constants, Narrow, constants_as_biases

encoder = smp.encoders.get_encoder


def holes(model: nn.Module, seed: int = 0, dead: float = 0.3, density: float = 0.6, scope=None) -> Masks:
    """Masks of single weights, and of whole input and output channels."""
    generator, masks = torch.Generator().manual_seed(seed), {}
    for name, weight in prunable(model, scope).items():
        mask = torch.rand(weight.shape, generator=generator) < density
        for dim in (0, 1):
            gone = torch.rand(weight.shape[dim], generator=generator) < dead
            mask.transpose(0, dim)[gone] = False
        masks[name] = mask
    return Masks(masks)


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@settings(max_examples=60, deadline=None)
@given(net=drawn(PIECES), seed=st.integers(0, 2**16), dead=st.sampled_from([0.0, 0.3, 0.7]))
def test_networks_of_any_make_return_the_same(net: Drawn, seed: int, dead: float) -> None:
    unsettled(net)
    masks = holes(net, seed, dead)
    small = px_seg.compact(net, masks, shape=(3, 9, 8))
    for sides in ((9, 8), (12, 15)):
        x = torch.randn(3, 3, *sides, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        assert_same(masked(net, masks), small, x)


FAST = ("resnet18", "timm-efficientnet-b0", "timm-tf_efficientnet_lite0", "mobilenet_v2", "tu-ecaresnet26t")
SLOW = ("resnet50", "resnext50_32x4d", "se_resnet50", "tu-resnet50d", "tu-resnetblur50", "efficientnet-b0")
SLOW += ("densenet121", "xception", "dpn68", "inceptionv4", "mobileone_s0", "vgg11_bn", "timm-skresnet18", "mit_b0")
SLOW += ("tu-regnety_002", "tu-mobilenetv3_small_100", "tu-convnext_atto")


@pytest.mark.filterwarnings("ignore:not made smaller")
@pytest.mark.parametrize("name", [*FAST, *[pytest.param(name, marks=pytest.mark.slow) for name in SLOW]])
def test_encoders_return_the_same_features_at_any_size(name: str) -> None:
    torch.manual_seed(0)
    model = unsettled(encoder(name, weights=None))
    masks = holes(model)
    small = px_seg.compact(model, masks)
    assert size(small) < 0.95 * size(model)
    for side in (64, 75):
        assert_same(masked(model, masks), small, torch.randn(3, 3, side, side, dtype=torch.float64))


SEGMENTERS = ("DeepLabV3Plus", "Unet", "FPN", "MAnet", "Linknet", "DeepLabV3", "UnetPlusPlus", "PSPNet", "UPerNet")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:not made smaller")
@pytest.mark.parametrize("scope", ["encoder", ("-segmentation_head",)])
@pytest.mark.parametrize("name", [*SEGMENTERS, "Segformer", "PAN"])
def test_segmenters_return_the_same(name: str, scope) -> None:
    torch.manual_seed(0)
    model = unsettled(getattr(smp, name)("tu-test_resnet", encoder_weights=None, classes=4))
    masks = holes(model, scope=scope, dead=0.2)
    # PAN averages over eighths of its deepest features.
    side = 128 if name == "PAN" else 64
    small = px_seg.compact(model, masks, (3, side, side))
    assert size(small) < 0.98 * size(model)
    for sides in (side, side + 32):
        assert_same(masked(model, masks), small, torch.randn(3, 3, sides, sides, dtype=torch.float64))


CLASSIFIERS = ("resnet18", "mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5", "mnasnet0_5", "densenet121")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:not made smaller")
@pytest.mark.parametrize("name", [*CLASSIFIERS, "googlenet", "regnet_y_400mf", "efficientnet_b0", "convnext_tiny"])
@pytest.mark.filterwarnings("ignore:The default weight initialization of GoogleNet")
def test_classifiers_return_the_same(name: str) -> None:
    torch.manual_seed(0)
    model = unsettled(torchvision.models.get_model(name, num_classes=5))
    masks = holes(model)
    small = px_seg.compact(model, masks, (3, 96, 96))
    assert size(small) < size(model)
    for side in (96, 107):
        assert_same(masked(model, masks), small, torch.randn(3, 3, side, side, dtype=torch.float64))


def test_single_precision_is_as_near_as_rounding() -> None:
    torch.manual_seed(0)
    model = unsettled(px_seg.build_segmenter("resnet18", classes=5, weights=None)).float()
    masks = holes(model, scope="encoder")
    assert_same(masked(model, masks), px_seg.compact(model, masks), torch.randn(2, 3, 96, 96), 1e-5)


class Chain(nn.Module):
    """Two convolutions with a norm and a ReLU between, and one that averages nothing away."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.last = nn.Conv2d(width, 2, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x)).relu())


def dead_ends(net: Chain) -> Masks:
    """Of six channels: the first feeds nothing, and nothing feeds the second."""
    masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable(net).items()}
    masks["last.weight"][:, 0] = False
    masks["first.weight"][1] = False
    return Masks(masks)


def test_what_feeds_nothing_goes_and_what_nothing_feeds_becomes_a_constant_exact_at_borders() -> None:
    torch.manual_seed(0)
    net = unsettled(Chain())
    net.norm.bias.data[1] = 0.7
    net.norm.running_mean[1] = -0.2
    small = px_seg.compact(net, dead_ends(net), (3, 9, 9))
    assert small.first.weight.shape == (4, 3, 3, 3)
    assert small.norm.num_features == 4
    assert isinstance(small.last, Narrow)
    assert isinstance(small.last.constants, Constants)
    assert small.last.layer.weight.shape == (2, 4, 3, 3)
    # By hand: the norm's value of 0, in eval mode and in training.
    weight, norm = net.last.weight[:, 1:2], net.norm
    value = 0.2 / (norm.running_var[1] + norm.eps).sqrt() * norm.weight[1] + norm.bias[1]
    ones = torch.ones(1, 1, 5, 5, dtype=torch.float64)
    for training, constant in ((False, value.clamp(min=0)), (True, norm.bias[1])):
        wanted = F.conv2d(constant * ones, weight, padding=1)
        assert wanted[0, 0, 0, 0] != wanted[0, 0, 2, 2]
        small.last.constants.train(training)
        torch.testing.assert_close(small.last.constants(ones), wanted, rtol=1e-12, atol=0)


@pytest.mark.parametrize("momentum", [0.1, 0.02])
def test_training_takes_the_difference_that_running_statistics_make_away(momentum: float) -> None:
    """As in the masked network, whose running statistics come to be those of the constant."""
    torch.manual_seed(0)
    net = unsettled(Chain())
    net.norm.momentum, net.norm.running_mean[1], net.norm.bias.data[1] = momentum, -2.0, 0.7
    masks = dead_ends(net)
    wide, small = masked(net, masks), px_seg.compact(net, masks, (3, 9, 9))
    x = torch.randn(4, 3, 9, 9, dtype=torch.float64)

    def differs() -> float:
        wanted, found = (network.eval()(x) for network in (wide, small))
        return float((wanted - found).norm() / wanted.norm())

    with torch.no_grad():
        before = wide.eval()(x)
        assert differs() < 1e-12
        for _ in range(round(20 / momentum)):
            for network in (wide, small):
                network.train()(x)
            assert differs() < 0.3
        assert differs() < 1e-3
        # The gap that is closed here is not small.
        assert (wide.eval()(x) - before).norm() > 0.5 * before.norm()


def test_averages_over_all_batches_are_kept_as_channels() -> None:
    net = unsettled(Chain())
    net.norm.momentum, net.norm.running_mean[1], net.norm.bias.data[1] = None, -2.0, 0.7
    masks = dead_ends(net)
    small = px_seg.compact(net, masks, (3, 9, 9))
    assert small.norm.num_features == 5
    assert_same(masked(net, masks), small, torch.randn(2, 3, 9, 9, dtype=torch.float64))


def test_a_constant_of_zero_needs_nothing() -> None:
    net = unsettled(Chain())
    net.norm.bias.data[1], net.norm.running_mean[1] = -0.7, 0.0
    small = px_seg.compact(net, dead_ends(net), (3, 9, 9))
    assert not isinstance(small.last, Narrow)


class Then(nn.Module):
    """A module, and a function after it."""

    def __init__(self, inner: nn.Module, function) -> None:
        super().__init__()
        self.inner, self.function = inner, function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.inner(x))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.pad(x, (0, -x.shape[-1] % 4, 0, -x.shape[-2] % 4)),
        lambda x: x[..., ::8, ::8].sum((2, 3), keepdim=True),
    ],
    ids=["padded to a multiple", "summed"],
)
def test_what_does_nothing_at_one_size_may_do_something_at_another(function) -> None:
    net = unsettled(Body(Then(nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.ReLU()), function)))
    masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable(net).items()}
    masks["function.inner.1.weight"][1:3] = False
    small = px_seg.compact(net, masks, (3, 8, 8))
    assert_same(masked(net, masks), small, torch.randn(2, 3, 21, 18, dtype=torch.float64))


def test_no_masks_stand_for_the_zeros_among_the_weights() -> None:
    torch.manual_seed(0)
    model = unsettled(px_seg.build_classifier("resnet18", classes=3, weights=None))
    masks = holes(model, scope="encoder")
    small = px_seg.compact(masked(model, masks))
    assert size(small) == size(px_seg.compact(model, masks)) < 0.5 * size(model)
    assert_same(masked(model, masks), small, torch.randn(2, 3, 64, 64, dtype=torch.float64))


def test_a_kept_weight_that_is_zero_may_grow() -> None:
    net = Chain()
    net.first.weight.data[2] = 0
    masks = Masks.ones(net)
    assert px_seg.compact(net, masks, (3, 9, 9)).first.weight.shape[0] == 6
    assert px_seg.compact(net, None, (3, 9, 9)).first.weight.shape[0] == 5


def test_a_branch_that_makes_few_channels_is_added_to_a_stream_that_has_more() -> None:
    torch.manual_seed(0)
    model = unsettled(torchvision.models.resnet18(num_classes=3))
    masks = Masks.ones(model)
    gone = {name: mask.clone() for name, mask in masks.items()}
    gone["layer1.1.conv2.weight"][8:] = False
    small = px_seg.compact(model, Masks(gone))
    layer = small.layer1[1].conv2
    assert isinstance(layer, Narrow)
    assert layer.places.tolist() == [*range(8), *[8] * 56]
    assert layer.layer.weight.shape[0] == 8
    # The norm behind it gives the other channels their constants, so it is whole.
    assert small.layer1[1].bn2.num_features == 64


@pytest.mark.parametrize(
    ("channels", "dead", "left"), [(64, 21, 48), (64, 16, 48), (64, 50, 16), (40, 10, 32), (40, 3, 37)]
)
def test_depthwise_convolutions_keep_whole_blocks_where_there_are_channels_for_one(
    channels: int, dead: int, left: int
) -> None:
    torch.manual_seed(0)
    depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
    layers = (nn.Conv2d(3, channels, 1), nn.ReLU(), depthwise, nn.BatchNorm2d(channels), nn.ReLU())
    net = unsettled(nn.Sequential(*layers, nn.Conv2d(channels, 5, 1)))
    masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable(net).items()}
    masks["2.weight"][torch.randperm(channels)[:dead]] = False
    small = px_seg.compact(net, Masks(masks))
    assert small[2].weight.shape[0] == small[2].groups == small[0].out_channels == small[3].num_features == left
    assert_same(masked(net, Masks(masks)), small, torch.randn(2, 3, 9, 12, dtype=torch.float64))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("padding", [0, 1, "valid", "same"])
def test_constants_that_are_the_same_at_every_place_become_biases(padding: int | str, bias: bool) -> None:
    torch.manual_seed(0)
    net = Chain()
    net.last = nn.Conv2d(6, 2, 3, padding=padding, bias=bias)
    net = unsettled(net)
    net.norm.bias.data[1] = 0.7
    masks = dead_ends(net)
    small = px_seg.compact(net, masks)
    assert isinstance(small.last.constants, Constants)
    constants_as_biases(small)
    assert (small.last.constants is None) == (padding == 0)
    x = torch.randn(2, 3, 9, 12, dtype=torch.float64)
    torch.testing.assert_close(small.eval()(x), masked(net, masks).eval()(x), rtol=1e-12, atol=1e-12)


def test_masks_that_px_makes_leave_channels_without_a_path() -> None:
    torch.manual_seed(0)
    model = unsettled(px_seg.build_segmenter("resnet18", classes=5, weights=None))
    masks = px_seg.prune(model, [torch.randn(2, 3, 64, 64).double()], 0.95, px_seg.PX(), "encoder", rounds=5)
    small = shrink(model, masks)
    assert size(small.model.encoder) < 0.5 * size(model.encoder)
    assert_same(masked(model, masks), small.model, torch.randn(2, 3, 96, 64, dtype=torch.float64))
    # What is left out of the smaller weights lies on no path: no kept weight that does is lost.
    scores = px_seg.PX().score(model, [torch.randn(2, 3, 64, 64).double()], masks, "encoder")
    on_paths = sum(int((score > 0).sum()) for score in scores.values())
    assert sum(int(mask.sum()) for mask in small.masks.values()) >= on_paths


def test_training_goes_on_as_it_would_have() -> None:
    """The gradients are the masked model's, and a step under the smaller masks leads to the same network."""
    torch.manual_seed(0)
    model = unsettled(px_seg.build_segmenter("resnet18", classes=3, weights=None))
    batches = [torch.randn(2, 3, 64, 64).double()]
    masks = px_seg.prune(model, batches, 0.9, px_seg.PX(), "encoder", rounds=3)
    # Without the weights that lie on no path: what is constant feeds nothing then.
    scores = px_seg.PX().score(model, batches, masks, "encoder")
    masks = Masks({name: mask & (scores[name] > 0) for name, mask in masks.items()})
    small = shrink(model, masks)
    assert not any(isinstance(module, Constants) for module in small.model.modules())
    assert size(small.model) < 0.8 * size(model)
    x, y = torch.randn(4, 3, 64, 64, dtype=torch.float64), torch.randint(0, 3, (4, 64, 64))
    networks = [(masked(model, masks), masks), (small.model, Masks(small.masks))]
    for network, held in networks:
        network.train()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(network(x), y).backward()
            optimizer.step()
            held.apply(network)
    (wide, _), (narrow, _) = networks
    assert_same(wide, narrow, x, 1e-9)
    assert (wide.eval()(x) - masked(model, masks).eval()(x)).norm() > 0.01 * wide(x).norm()


def test_the_model_and_the_random_state_come_back_as_they_were() -> None:
    model = px_seg.build_segmenter("efficientnet-b0", classes=3, weights=None).train()
    model.encoder.eval()
    state, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    random_state = torch.get_rng_state()
    small = px_seg.compact(model, holes(model, scope="encoder"))
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert (small.training, small.encoder.training) == (True, False)
    own = {parameter.data_ptr() for parameter in model.parameters()}
    assert not own & {parameter.data_ptr() for parameter in small.parameters()}


@pytest.mark.parametrize("task", ["seg", "cls"])
def test_save_model_writes_it_and_load_model_reads_it(tmp_path, task: str) -> None:
    torch.manual_seed(0)
    build = px_seg.build_segmenter if task == "seg" else px_seg.build_classifier
    model = unsettled(build("timm-efficientnet-b0", classes=3, weights=None)).float()
    small = px_seg.compact(model, holes(model, scope="encoder"))
    assert any(isinstance(module, Constants) for module in small.modules())
    px_seg.save_model(small, tmp_path / "model")
    loaded, x = px_seg.load_model(tmp_path), torch.randn(2, 3, 64, 64)
    assert not loaded.training
    assert torch.equal(loaded(x), small.eval()(x))
    for network in (loaded, small):
        network.train()
        for module in network.modules():
            if isinstance(module, nn.Dropout):
                module.eval()
    assert torch.equal(outputs(loaded, x)[0], outputs(small, x)[0])


def test_a_network_that_cannot_be_saved_leaves_the_former_one(tmp_path) -> None:
    model = px_seg.build_segmenter("tu-test_resnet", classes=3, weights=None)
    px_seg.save_model(model, tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(InputError, match="a Conv2d cannot be saved"):
        px_seg.save_model(nn.Conv2d(3, 3, 1), tmp_path)
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(px_seg.load_model(tmp_path)(x), model.eval()(x))
    px_seg.save_model(px_seg.compact(model, holes(model, scope="encoder")), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({*names, "compact.safetensors"} - {names[-1]})


@pytest.mark.parametrize("cut", [True, False], ids=["compacted", "dense"])
def test_weights_that_do_not_fit_the_configuration_are_refused(tmp_path, cut: bool) -> None:
    model = px_seg.build_segmenter("tu-test_resnet", classes=21, weights=None)
    px_seg.save_model(px_seg.compact(model, holes(model, scope="encoder")) if cut else model, tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"classes": 21', '"classes": 3'))
    with pytest.raises(InputError, match=r"cannot be read: .*segmentation_head\.0"):
        px_seg.load_model(tmp_path)


def test_weights_of_another_network_are_one_line(tmp_path) -> None:
    px_seg.build_segmenter("resnet18", classes=3, weights=None).save_pretrained(tmp_path)
    other = tmp_path / "other"
    px_seg.build_segmenter("mobilenet_v2", classes=3, weights=None).save_pretrained(other)
    (other / "model.safetensors").replace(tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"the model in .* cannot be read: .*\.weight has the shape") as error:
        px_seg.load_model(tmp_path)
    assert "\n" not in str(error.value)


def test_an_exported_program_runs_without_px_seg_at_other_sizes(tmp_path) -> None:
    torch.manual_seed(0)
    model = unsettled(px_seg.build_segmenter("resnet18", classes=3, weights=None)).float()
    small = px_seg.compact(model, holes(model, scope="encoder")).eval()
    batch, side = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("side", min=2, max=16)
    dynamic = ({0: batch, 2: 16 * side, 3: 16 * side},)
    program = torch.export.export(small, (torch.randn(2, 3, 64, 64),), dynamic_shapes=dynamic)
    torch.export.save(program, tmp_path / "small.pt2")
    x = torch.randn(3, 3, 96, 96)
    torch.save(x, tmp_path / "x.pt")
    code = (
        "import sys, torch\nsys.modules['px_seg'] = None\n"
        "y = torch.export.load('small.pt2').module()(torch.load('x.pt'))\ntorch.save(y, 'y.pt')"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    torch.testing.assert_close(torch.load(tmp_path / "y.pt"), small(x), rtol=1e-5, atol=1e-5)


def test_masks_of_another_network_are_refused() -> None:
    net = Chain()
    with pytest.raises(InputError, match=r"first\.weight"):
        px_seg.compact(net, {"first.weight": torch.ones(2, 3, 3, 3, dtype=torch.bool)}, (3, 9, 9))
