"""How well a pruned network is the dense one: against numbers worked out beside it."""

import copy

import pytest
import torch
from helpers.cases import network, pairs
from helpers.networks import Drawn, images
from torch import nn

from px_seg import InputError, Magnitude, build_classifier, build_segmenter, prune
from px_seg.analysis import preservation
from px_seg.analysis.cka import LinearCKA


def test_it_is_what_two_networks_side_by_side_show() -> None:
    net, batches = network(), pairs(3, 2)
    masks = prune(net, (), 0.4, Magnitude())
    found = preservation(net, masks, batches)
    pruned = copy.deepcopy(net).eval()
    masks.apply(pruned)
    x = torch.cat([images for images, _ in batches])
    with torch.no_grad():
        dense, sparse = net.eval()(x), pruned(x)
        stages = {name: [part[: int(name) + 1](x) for part in (net, pruned)] for name in ("0", "4", "7")}
    assert found.images == 5
    assert found.agreement == pytest.approx(float((dense.argmax(1) == sparse.argmax(1)).double().mean()))
    assert found.error == pytest.approx(float((sparse - dense).norm() / dense.norm()))
    assert list(found.cka) == ["0", "4", "7"]
    for name, (one, other) in stages.items():
        cka = LinearCKA()
        cka.add(one, other)
        assert found.cka[name] == pytest.approx(cka.value(), rel=1e-9)
    assert found.cka["7"] < 0.999


def test_nothing_pruned_is_the_dense_network_and_the_model_stays() -> None:
    net, x = Drawn(["residual_", "norm", "max"], 0, dense=True).train(), images(0, 2, 1)
    before, hooks = copy.deepcopy(net.state_dict()), sum(len(m._forward_hooks) for m in net.modules())
    found = preservation(net, {}, x)
    assert (found.agreement, found.error) == (1, 0)
    assert all(value == pytest.approx(1) for value in found.cka.values())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(module.training for module in net.modules())
    assert sum(len(m._forward_hooks) for m in net.modules()) == hooks


@pytest.mark.parametrize("build", [build_classifier, build_segmenter])
@pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet26"])
def test_the_stages_of_an_encoder_are_its_features(build, encoder: str) -> None:
    model = build(encoder, 3, None)
    masks = prune(model, (), 0.5, Magnitude(), scope="encoder")
    found = preservation(model, masks, [torch.randn(2, 3, 64, 64)])
    assert list(found.cka) == [f"encoder.{stage}" for stage in range(1, 6)]
    assert all(-1 < value < 1 for value in found.cka.values())


def test_a_layer_that_works_in_place_does_not_change_the_stage_before_it(generator) -> None:
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 1)]
    net, x = nn.Sequential(*layers), torch.randn(4, 3, 8, 8, generator=generator)
    masks = prune(net, (), 0.6, Magnitude())
    pruned = copy.deepcopy(net)
    masks.apply(pruned)
    cka = LinearCKA()
    cka.add(net[0](x), pruned[0](x))
    assert preservation(net, masks, [x], ["0"]).cka["0"] == pytest.approx(cka.value(), rel=1e-5)


def test_half_precision_and_one_output_channel() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 1, 1, bias=False)).half()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float16)
    found = preservation(net, prune(net, (), 0.5, Magnitude()), [x], stages=["1"])
    assert list(found.cka) == ["1"]
    assert 0 < found.agreement < 1
    wide = net.float()
    assert found == preservation(wide, prune(wide, (), 0.5, Magnitude()), [x.float()], stages=["1"])


def test_what_cannot_be_compared_is_refused() -> None:
    net, x = network(), [torch.randn(2, 2, 5, 5)]
    for arguments, message in (
        (({}, []), "give at least one batch"),
        (({}, x, ["nowhere"]), "there is no stage 'nowhere': name modules of the model, whose parts are 0, 1"),
        (({"0.weight": torch.ones(1)}, x), "0.weight has shape"),
        (([], x), "masks must be px_seg.Masks, or masks by parameter name: got list"),
        (({}, x, []), "stages names no module"),
    ):
        with pytest.raises(InputError, match=message):
            preservation(net, *arguments)
    apart = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1))
    apart.register_module("unused", nn.Conv2d(3, 3, 1))
    apart.forward = lambda x: apart[1](apart[0](x))
    images = [torch.randn(2, 3, 5, 5)]
    with pytest.raises(InputError, match="the stage 'unused' has no features of its own"):
        preservation(apart, {}, images, ["unused"])
    with pytest.raises(InputError, match="CKA needs at least 4 samples, got 2"):
        preservation(apart, {}, [torch.randn(2, 3, 1, 1)], "0")
    with torch.no_grad():
        apart[1].weight[0, 0] = torch.nan
    with pytest.raises(InputError, match="outputs of the dense network are NaN or infinite"):
        preservation(apart, {}, images)
    with pytest.raises(InputError, match="outputs of the pruned network are NaN or infinite"):
        # inf * 0 is NaN.
        preservation(Reciprocal(), {"weight": torch.zeros(2, 2, 1, 1, dtype=torch.bool)}, [torch.ones(2, 2, 3, 3)])
    for output, message in (
        (None, "got none"),
        (torch.ones(2, dtype=torch.bool), r"got torch\.bool"),
        ("text", "got str"),
    ):
        with pytest.raises(InputError, match=message):
            preservation(Returning(output), {}, images)


class Reciprocal(nn.Conv2d):
    def __init__(self) -> None:
        super().__init__(2, 2, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 1 / super().forward(x)


class Returning(nn.Conv2d):
    def __init__(self, output: object) -> None:
        super().__init__(3, 2, 1)
        self.output = output

    def forward(self, x: torch.Tensor) -> object:
        super().forward(x)
        return self.output


def test_a_model_without_parts_is_its_own_stage_and_an_identity_is_no_obstacle() -> None:
    """The pruned layer returns the image, which the dense one does not."""
    net = nn.Conv2d(2, 2, 1, bias=False)
    with torch.no_grad():
        net.weight[:, :, 0, 0] = torch.tensor([[1.0, 0.5], [0.5, 1.0]])
    masks = {"weight": torch.eye(2, dtype=torch.bool)[:, :, None, None]}
    found = preservation(net, masks, [torch.randn(2, 2, 5, 5)])
    assert list(found.cka) == ["output"]
    assert 0 < found.cka["output"] < 1
