"""Arithmetic: float32 whatever the scale, bfloat16, and PX in float64 beside it."""

import pytest
import torch
import torch.nn.functional as F
from helpers.networks import Body, total
from torch import Tensor, nn

from px_seg import PX, InputError
from px_seg.pruning.modes import arithmetic
from px_seg.pruning.paths.scaled import Scaled


def test_float32_survives_a_bound_beyond_its_range(generator) -> None:
    """40 wide layers without normalisation: g passes 1e80, which float32 cannot hold."""
    layers = [nn.Sequential(nn.Linear(128, 128), nn.ReLU()) for _ in range(40)]
    net, x = nn.Sequential(*layers), torch.randn(4, 128, generator=generator)
    single, double = PX().score(net, [x]), None
    double = PX().score(net.double(), [x.double()])
    total = sum(score.sum() for score in double.values())
    assert total > torch.finfo(torch.float32).max
    small = sum(score.double().sum() for score in single.values())
    for name, score in single.items():
        assert score.isfinite().all()
        torch.testing.assert_close(score.double() / small, double[name] / total, rtol=1e-4, atol=1e-12)


def test_looking_for_the_largest_value_copies_no_tensor_in_channels_last_order(generator) -> None:
    x = torch.randn(2, 8, 5, 5, generator=generator).to(memory_format=torch.channels_last)
    with torch.profiler.profile(record_shapes=True) as profile:
        found = Scaled.of(x).normalised()
    assert found.values.is_contiguous(memory_format=torch.channels_last)
    assert 0.5 <= found.values.abs().max() < 1
    assert torch.equal(torch.ldexp(found.values, found.exponent), x)
    copied = [event for event in profile.events() if "copy" in event.name and list(x.shape) in event.input_shapes]
    assert not copied


class TwoDepths(nn.Module):
    """A short branch beside a deep one whose path activations pass float32's range on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(16, 16), nn.Linear(32, 2)
        self.deep = nn.Sequential(*(nn.Sequential(nn.Linear(128 if n else 16, 128), nn.ReLU()) for n in range(40)))
        self.last = nn.Linear(128, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(torch.cat([x, self.last(self.deep(x)).relu()], 1))


@pytest.mark.parametrize("end", ["pruned", "gated"])
def test_a_dead_branch_does_not_drown_a_live_one(generator, end: str) -> None:
    net, x = TwoDepths(), torch.randn(3, 16, generator=generator)
    masks = {}
    if end == "pruned":
        masks = {"last.weight": torch.zeros(16, 128, dtype=torch.bool)}
    else:
        net.last.bias.data.fill_(-1e9)
    single, double = PX().score(net, [x], masks), PX().score(net.double(), [x.double()], masks)
    assert (single["stem.weight"] > 0).all()
    for name, score in single.items():
        torch.testing.assert_close(score.double(), double[name], rtol=1e-4, atol=0)


@pytest.mark.parametrize("scale", [1e-17, 1e-12, 1e-6, 1e6, 1e10, 1e15])
@pytest.mark.parametrize("layer", [0, 2])
def test_float32_scores_keep_their_ratios_at_any_scale_of_a_layer(scale: float, layer: int) -> None:
    net = nn.Sequential(nn.Linear(4, 8, bias=False), nn.ReLU(), nn.Linear(8, 2, bias=False))
    net[layer].weight.data *= scale
    x = torch.randn(3, 4)
    single, double = PX().score(net, [x]), PX(precision="float64").score(net, [x])
    unit = single["0.weight"].double().sum() / double["0.weight"].sum()
    for name, score in single.items():
        torch.testing.assert_close(score.double(), unit * double[name], rtol=1e-5, atol=0)


@pytest.mark.parametrize("scale", [1e-25, 1e-10, 1e19, 1e25])
@pytest.mark.parametrize("what", ["images", "constant"])
def test_images_and_constants_may_be_of_any_size(scale: float, what: str) -> None:
    net, x = Body(F.relu), torch.randn(2, 3, 4, 4)
    net.first.bias.data.zero_()
    plain = PX().score(net, [x])
    if what == "constant":
        net.function = lambda x: F.relu(x * scale)
    scores = PX().score(net, [x * scale if what == "images" else x])
    for name, score in scores.items():
        torch.testing.assert_close(score / score.sum(), plain[name] / plain[name].sum(), rtol=1e-4, atol=0)


def test_bfloat16_is_near_float32_and_its_scores_are_float32() -> None:
    net = Body(lambda x: F.gelu(F.leaky_relu(x, 0.1))).eval()
    x = torch.randn(4, 3, 16, 16)
    scores, expected = PX(precision="bfloat16").score(net, [x]), PX().score(net, [x])
    for name, score in scores.items():
        assert score.dtype == torch.float32
        assert not torch.equal(score, expected[name])
        torch.testing.assert_close(score, expected[name], rtol=0.05, atol=0.01 * expected[name].max().item())


def test_half_precision_models_are_walked_in_float32() -> None:
    net, x = Body(F.relu), torch.randn(2, 3, 8, 8)
    expected = total(net.half().float(), x)
    assert total(net.half(), x).dtype == torch.float32
    torch.testing.assert_close(total(net, x), expected, rtol=1e-5, atol=0)


def test_tf32_is_switched_on_for_the_walk_alone_and_needs_a_gpu() -> None:
    switches, gpu = (torch.backends.cudnn.conv, torch.backends.cuda.matmul), torch.device("cuda")
    before = [switch.fp32_precision for switch in switches]
    for precision, wanted in (("tf32", "tf32"), (None, "ieee"), ("float32", "ieee")):
        with arithmetic(precision, gpu):
            assert [switch.fp32_precision for switch in switches] == [wanted, wanted]
        assert [switch.fp32_precision for switch in switches] == before
    with pytest.raises(InputError, match="tf32 needs an NVIDIA GPU"):
        total(Body(F.relu), torch.randn(1, 3, 4, 4), precision="tf32")
