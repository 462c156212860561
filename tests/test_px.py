"""PX against what it is defined to be, in float64, written out without its own code."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from px_seg import PX, InputError, Masks, UnsupportedOperation, prune


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


class Branching(nn.Module):
    """What real networks have: stride, dilation, groups, pooling, a sum, a concatenation, upsampling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.bn = nn.BatchNorm2d(6)
        self.left = nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=3, bias=False)
        self.right = nn.Conv2d(6, 6, 1)
        self.head = nn.Conv2d(12, 2, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.bn.weight.data.uniform_(-2, 2)
        self.bn.bias.data.normal_()
        self.bn.running_mean.normal_()
        self.bn.running_var.uniform_(0.2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.relu(self.bn(self.stem(x))), 3, 2, 1)
        y = F.leaky_relu(self.left(x), 0.1)
        y += F.avg_pool2d(self.right(x), 3, 1, 1)
        x = torch.cat([x, y], 1)
        x = x * torch.sigmoid(x.mean((2, 3), keepdim=True))
        return F.interpolate(self.head(F.dropout(x, 0.5, self.training)), scale_factor=2.0, mode="bilinear")

    def activations(self, x: Tensor, live: dict[str, Tensor]) -> Tensor:
        """Path activations, written out: weights read as 0 or 1, gates of the true network."""
        true = self.bn(F.conv2d(x, self.stem.weight * live["stem"], self.stem.bias, 2, 1))
        g = F.conv2d(x**2, live["stem"], None, 2, 1) * (true > 0)
        true, index = F.max_pool2d(true.relu(), 3, 2, 1, return_indices=True)
        g = g.flatten(2).gather(2, index.flatten(2)).view_as(true)
        u = F.conv2d(true, self.left.weight * live["left"], None, 1, 2, 2, 3)
        gate = torch.full_like(u, 0.1).masked_fill(u > 0, 1)
        sum_true = F.leaky_relu(u, 0.1) + F.avg_pool2d(
            F.conv2d(true, self.right.weight * live["right"], self.right.bias), 3, 1, 1
        )
        sum_g = gate**2 * F.conv2d(g, live["left"], None, 1, 2, 2, 3) + F.avg_pool2d(
            F.conv2d(g, live["right"]), 3, 1, 1
        )
        true, g = torch.cat([true, sum_true], 1), torch.cat([g, sum_g], 1)
        g = g * torch.sigmoid(true.mean((2, 3), keepdim=True)) ** 2
        return F.interpolate(F.conv2d(g, live["head"], None, 1, 1), scale_factor=2.0, mode="bilinear")

    def kernel(self, side: int, squared: dict[str, Tensor]) -> Tensor:
        """The path kernel, written out: weights read as their squares, input all ones."""
        h = F.conv2d(torch.ones(1, 3, side, side, dtype=torch.float64), squared["stem"], None, 2, 1)
        h = h * (self.bn.weight**2 / (self.bn.running_var + self.bn.eps)).view(1, -1, 1, 1)
        h = F.max_pool2d(h, 3, 2, 1)
        y = F.conv2d(h, squared["left"], None, 1, 2, 2, 3) + F.avg_pool2d(F.conv2d(h, squared["right"]), 3, 1, 1)
        return F.interpolate(
            F.conv2d(torch.cat([h, y], 1), squared["head"], None, 1, 1), scale_factor=2.0, mode="bilinear"
        )


LAYERS = ("stem", "left", "right", "head")


@pytest.mark.parametrize("sparsity", [0.0, 0.6])
def test_scores_are_what_the_bound_loses_without_the_weight(sparsity: float, generator) -> None:
    net = Branching().double()
    batches = [torch.randn(n, 3, 16, 16, dtype=torch.float64, generator=generator) for n in (2, 3)]
    masks = Masks({f"{n}.weight": torch.rand(getattr(net, n).weight.shape) >= sparsity for n in LAYERS})
    scores = PX().score(net, batches, masks)

    net.eval()
    with torch.no_grad():
        live = {n: masks[f"{n}.weight"].double() for n in LAYERS}
        squared = {n: (getattr(net, n).weight * live[n]) ** 2 for n in LAYERS}
        g = sum(net.activations(x, live).sum(0, keepdim=True) for x in batches)
        bound = (g * net.kernel(16, squared)).sum()
        for name in LAYERS:
            score = scores[f"{name}.weight"]
            assert (score >= 0).all()
            for place in itertools.product(*(range(0, side, 2) for side in score.shape)):
                without = squared | {name: squared[name].clone()}
                without[name][place] = 0
                lost = bound - (g * net.kernel(16, without)).sum()
                torch.testing.assert_close(score[place], lost, rtol=1e-9, atol=1e-12 * bound.item())
    # What every path crosses carries the whole bound.
    for name in ("stem", "head"):
        torch.testing.assert_close(scores[f"{name}.weight"].sum(), bound, rtol=1e-12, atol=0)


def test_scores_equal_a_sum_over_enumerated_paths(generator) -> None:
    net = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 3, bias=False), nn.ReLU(), nn.Linear(3, 2))
    net = net.double()
    x = torch.randn(5, 3, dtype=torch.float64, generator=generator)
    first, second, third = (net[i].weight.detach() for i in (0, 2, 4))
    scores = PX().score(net, [x])

    open_1 = x @ first.T > 0
    open_2 = (x @ first.T).relu() @ second.T > 0
    expected = {"0.weight": torch.zeros(4, 3), "2.weight": torch.zeros(3, 4), "4.weight": torch.zeros(2, 3)}
    expected = {name: value.double() for name, value in expected.items()}
    paths = list(itertools.product(range(3), range(4), range(3)))
    for k in range(2):
        g = sum((open_1[:, a] & open_2[:, b]) * x[:, s] ** 2 for s, a, b in paths).sum()
        for s, a, b in paths:
            value = (first[a, s] * second[b, a] * third[k, b]) ** 2
            for name, place in (("0.weight", (a, s)), ("2.weight", (b, a)), ("4.weight", (k, b))):
                expected[name][place] += g * value
    for name, score in scores.items():
        torch.testing.assert_close(score, expected[name], rtol=1e-12, atol=0)


def test_layer_scaling_keeps_the_ranking(generator) -> None:
    net, x = Branching().double(), [torch.randn(2, 3, 16, 16, dtype=torch.float64, generator=generator)]
    before = PX().score(net, x)
    net.head.weight.data *= 7
    after = PX().score(net, x)
    for name in before:
        torch.testing.assert_close(after[name], 49 * before[name], rtol=1e-10, atol=0)


def test_batches_can_be_cut_and_ordered_at_will(generator) -> None:
    net, x = Branching().double(), torch.randn(6, 3, 16, 16, dtype=torch.float64, generator=generator)
    whole = PX().score(net, [x])
    for split in ([x[:2], x[2:]], [(x[3:], None), (x[:3], None)]):
        for name, score in PX().score(net, split).items():
            torch.testing.assert_close(score, whole[name], rtol=1e-10, atol=0)


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


def test_a_network_without_a_path_is_refused(generator) -> None:
    net, x = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), torch.randn(3, 4, generator=generator)
    with pytest.raises(InputError, match="no path from the input to the output is left"):
        PX().score(net, [x], {"1.weight": torch.zeros(2, 4, dtype=torch.bool)})


@pytest.mark.parametrize(
    "layer",
    [
        *(nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(0.2), nn.SiLU(), nn.GELU(), nn.GELU("tanh"), nn.Hardswish()),
        *(nn.ReLU(inplace=True), nn.SiLU(inplace=True), nn.Hardtanh(-2, 0.5)),
    ],
    ids=str,
)
def test_gates_are_the_activation_over_its_input(layer: nn.Module, generator) -> None:
    """Between two identity layers the score of the last weight is x^2 gate^2 summed over samples."""
    net = nn.Sequential(nn.Linear(1, 1, bias=False), layer, nn.Linear(1, 1, bias=False)).double()
    net[0].weight.data.fill_(1)
    net[2].weight.data.fill_(1)
    u = torch.linspace(-8, 8, 33, dtype=torch.float64)[:, None]
    u = u[u != 0][:, None]
    expected = layer(u.clone()).square().sum()
    torch.testing.assert_close(PX().score(net, [u])["2.weight"].sum(), expected, rtol=1e-12, atol=0)


def test_the_model_comes_back_untouched(generator) -> None:
    net, x = Branching(), torch.randn(2, 3, 16, 16, generator=generator)
    net.train()
    net.bn.eval()
    net.stem.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    flags = {name: module.training for name, module in net.named_modules()}
    prune(net, [x], 0.5, PX(), rounds=3)
    with pytest.raises(ValueError, match="not finite"):
        PX().score(net, [x * torch.inf])
    assert {name: module.training for name, module in net.named_modules()} == flags
    assert not net.stem.weight.requires_grad
    assert all(parameter.grad is None for parameter in net.parameters())
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(x).softmax(1)


@pytest.mark.parametrize(
    ("layer", "operation"),
    [(nn.LayerNorm([3, 8, 8]), "layer_norm"), (Attention(), "softmax"), (nn.Upsample(16, mode="bicubic"), "bicubic")],
)
def test_what_has_no_paths_is_refused_by_name(layer: nn.Module, operation: str) -> None:
    net = nn.Sequential(nn.Conv2d(3, 3, 1), layer)
    with pytest.raises(UnsupportedOperation, match=rf"^1 \({type(layer).__name__}\).*{operation}"):
        PX().score(net, [torch.randn(1, 3, 8, 8)])


def test_samples_of_several_shapes_and_no_samples_are_refused() -> None:
    net = nn.Conv2d(3, 3, 1)
    with pytest.raises(ValueError, match="one shape"):
        PX().score(net, [torch.randn(1, 3, 8, 8), torch.randn(1, 3, 9, 8)])
    with pytest.raises(ValueError, match="at least one batch"):
        PX().score(net, [])
    with pytest.raises(InputError, match="fold"):
        PX(bn="unheard of")
