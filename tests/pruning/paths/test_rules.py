"""PX at the edges: unusual networks, scales, contexts and input, each with the right score or a clear refusal."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from px_seg import PX, InputError, Magnitude, Masks, UnsupportedOperation, prunable, prune
from px_seg.analysis import ntk_trace, ntk_trace_bound
from px_seg.pruning.modes import arithmetic


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


class Body(nn.Module):
    """Two convolutions around a function."""

    def __init__(self, function, out: int = 4) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(out, 2, 1)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))


def total(net: nn.Module, x: Tensor, **settings) -> Tensor:
    return PX(**settings).score(net, [x])["last.weight"].sum()


@pytest.mark.parametrize("axis", ["same", "other"])
def test_a_depthwise_layer_waits_only_for_a_sum_over_its_channels(axis: str) -> None:
    depthwise = nn.Conv1d(4, 4, 3, padding=1, groups=4, bias=False)
    last = nn.Conv1d(4, 2, 1, bias=False) if axis == "same" else nn.Linear(6, 2, bias=False)
    net, x = nn.Sequential(depthwise, last).double(), torch.randn(2, 4, 6, dtype=torch.float64)
    step = F.conv1d if axis == "same" else F.linear
    g = step(F.conv1d(x**2, torch.ones_like(depthwise.weight), padding=1, groups=4), torch.ones_like(last.weight))
    h = step(F.conv1d(torch.ones_like(x[:1]), depthwise.weight**2, padding=1, groups=4), last.weight**2)
    bound = (g * h).sum().detach()
    for score in PX().score(net, [x]).values():
        torch.testing.assert_close(score.sum(), bound, rtol=1e-12, atol=0)


class ThroughAView(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.last = nn.Linear(1, 1), nn.Linear(2, 1)
        self.in_place = False

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.cat([x, F.relu(self.one(x), inplace=self.in_place)], 1))


def test_a_layer_of_one_weight_shares_no_memory_with_its_input() -> None:
    net, x = ThroughAView().double(), torch.randn(8, 1, dtype=torch.float64)
    plain = total(net, x)
    net.in_place = True
    torch.testing.assert_close(total(net, x), plain, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.add(x, other=1.0),
        lambda x: torch.cat(tensors=[x, x], axis=1)[:, :4],
        lambda x: (x.mean((2, 3), keepdim=True) + torch.ones(1, 4, 8, 8)).view(-1, 4, 8, 8),
        lambda x: x * torch.sigmoid(x).chunk(1, 1)[0].expand_as(x),
        lambda x: x * torch.ones(4, 1, 1).expand_as(x),
        lambda x: x / 2,
    ],
    ids=["keyword", "keywords of cat", "view of a broadcast", "parts of a gate", "constant", "quotient"],
)
def test_ways_of_calling_are_understood(function) -> None:
    assert total(Body(function), torch.randn(2, 3, 8, 8)) > 0


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: F.conv2d(input=x, weight=torch.ones(4, 4, 1, 1)), "uses a weight that is not a parameter"),
        (lambda x: torch.div(x, 2, rounding_mode="floor"), "div is called in a way that its rule does not support"),
        (lambda x: x * x, "two tensors that both carry paths"),
    ],
    ids=["weight", "rounding", "product"],
)
def test_other_ways_are_refused_by_name(function, message: str) -> None:
    with pytest.raises(UnsupportedOperation, match=rf"the model \(Body\): .*{message}"):
        PX().score(Body(function), [torch.randn(2, 3, 8, 8)])


@pytest.mark.parametrize(
    "function",
    [lambda x: x.transpose(0, 1), lambda x: x[0], lambda x: x.flatten(), lambda x: x.mean(0)],
    ids=["transposed", "first only", "flat", "mean"],
)
def test_outputs_whose_first_dimension_is_not_the_samples_are_refused(function) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), Function(function))
    with pytest.raises(UnsupportedOperation, match="an output of the model has shape"):
        PX().score(net, [torch.randn(2, 3, 8, 8)])
    with pytest.raises(UnsupportedOperation, match="an output of the model has shape"):
        PX().score(nn.Sequential(net[0], Function(lambda x: x.mean((2, 3)).squeeze())), [torch.randn(1, 3, 8, 8)])


class Function(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


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


@pytest.mark.parametrize("where", ["around", "inside"])
def test_autocast_does_not_reach_the_walk(where: str) -> None:
    def inside(x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return F.relu(F.avg_pool2d(net.middle(x), 2))

    net, x = Body(inside), torch.randn(2, 3, 8, 8)
    net.middle = nn.Conv2d(4, 4, 3)
    plain = Body(lambda x: F.relu(F.avg_pool2d(net.middle(x), 2)))
    plain.middle, plain.first, plain.last = net.middle, net.first, net.last
    expected = PX().score(plain, [x])
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=where == "around"):
        scores = PX().score(net if where == "inside" else plain, [x])
    for name, score in scores.items():
        assert torch.equal(score, expected[name])


def test_a_compiled_model_is_walked_as_it_was() -> None:
    net, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)), torch.randn(2, 3, 8, 8)
    scores = PX().score(torch.compile(net), [x])
    for name, score in PX().score(net, [x]).items():
        assert torch.equal(scores[f"_orig_mod.{name}"], score)


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


def test_the_images_are_left_alone_by_a_model_that_writes_on_its_input() -> None:
    net, x = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 2, 1)), torch.randn(2, 3, 4, 4)
    before = x.clone()
    PX().score(net, [x])
    assert torch.equal(x, before)


@pytest.mark.parametrize("where", ["bias", "running_mean", "images"])
def test_what_is_not_finite_is_refused(where: str) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    x = torch.randn(2, 3, 4, 4)
    {"bias": net[0].bias.data, "running_mean": net[1].running_mean, "images": x[0, 0, 0]}[where][0] = torch.nan
    with pytest.raises(InputError, match="not finite"):
        PX().score(net, [x])


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (torch.randn(2, 3, 8, 8), "batches must be a list of image tensors, got a single tensor"),
        ([{"image": torch.randn(2, 3, 8, 8)}], "got dict"),
        ([None], "got NoneType"),
        ([torch.empty(0, 3, 8, 8)], r"\(0, 3, 8, 8\)"),
        ([torch.zeros(2, 3, 8, 8, dtype=torch.complex64)], "complex64"),
    ],
    ids=["tensor", "dict", "None", "empty", "complex"],
)
def test_batches_that_are_none_are_refused(batches, message: str) -> None:
    for use in (lambda net: PX().score(net, batches), lambda net: prune(net, batches, 0.5, PX())):
        with pytest.raises(InputError, match=message):
            use(Body(F.relu))


def test_masks_that_px_would_not_read_are_refused() -> None:
    net, x = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), [torch.randn(2, 3, 4, 4)]
    with pytest.raises(InputError, match=r"mask of 1\.weight is not for the weight of a convolution"):
        PX().score(net, x, {"1.weight": torch.ones(4)})
    for use in (PX().score, ntk_trace, ntk_trace_bound):
        with pytest.raises(InputError, match=r"mask of 0\.weight holds values other than 0 and 1"):
            use(net, x, {"0.weight": torch.full((4, 3, 1, 1), 0.5)})


def test_tied_weights_have_the_models_own_name() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    net[2].weight = net[0].weight
    assert list(prunable(net, "2")) == ["0.weight"]
    masks = prune(net, [torch.randn(3, 4)], 0.5, PX(), scope="2", rounds=2)
    masks.apply(net)
    assert masks.kept == 8


def test_computed_weights_are_refused_and_not_computed() -> None:
    net = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 3))).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(InputError, match=r"the weight of 0 .* is computed from other parameters"):
        PX().score(net, [torch.randn(1, 3, 8, 8)])
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_requests_that_make_no_sense_are_refused() -> None:
    net, x = Body(F.relu), [torch.randn(1, 3, 4, 4)]
    net.unused = nn.Linear(2, 2)
    for arguments, message in (
        ({"scope": []}, "the scope is empty"),
        ({"scope": "unused"}, "no output of the model depends on a weight in scope"),
        ({"rounds": 2.5}, "rounds must be a whole number"),
        ({"criterion": PX}, r"criterion must be an object such as PX\(\)"),
        ({"sparsity": 0.99}, "keeps none of the 24 weights in scope"),
    ):
        with pytest.raises(InputError, match=message):
            prune(net, x, **{"sparsity": 0.5, "criterion": PX(), "rounds": 2} | arguments)
    with pytest.raises(UnsupportedOperation, match="an output of the model is that of a sigmoid"):
        PX().score(nn.Sequential(net, nn.Sigmoid()), x)


def test_scores_of_several_dtypes_rank_exactly(generator) -> None:
    scores = {"a": torch.rand(1000, generator=generator).half(), "b": torch.rand(1000, generator=generator)}
    ones = Masks({name: torch.ones(1000, dtype=torch.bool) for name in scores})
    for density in (0.1, 0.5, 0.9):
        assert ones.keep_top(scores, density).kept == round(2000 * density)
    assert ones.keep_top(scores, 0.5) == ones.keep_top(scores, 0.5) != ones.keep_top(scores, 0.6)


def test_constants_begin_paths_for_the_bound() -> None:
    net = Body(lambda x: (x + 100.0).relu()).double()
    net.first.bias = net.last.bias = None
    x = [torch.randn(2, 3, 4, 4, dtype=torch.float64)]
    exact = ntk_trace(net, x)
    assert ntk_trace_bound(net, x) < exact <= ntk_trace_bound(net, x, biases=True)


def test_other_criteria_need_no_batches() -> None:
    assert prune(Body(F.relu), (), 0.5, Magnitude()).sparsity == 0.5
