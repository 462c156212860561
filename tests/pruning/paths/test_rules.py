"""What each operation means for a path, and what is refused by name."""

import re

import pytest
import torch
import torch.nn.functional as F
from helpers.networks import Body, images, total
from helpers.reference import Reference
from torch import Tensor, nn

from px_seg import PX, UnsupportedOperation
from px_seg.pruning.paths import rules


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


class OnAView(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x.flatten(2).transpose(1, 2).relu_()
        return x


class UnderAView(OnAView):
    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        y = x.flatten(2)
        x.relu_()
        return y


@torch.jit.script
def scripted(x: Tensor) -> Tensor:
    return x * torch.tanh(x)


class Scripted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + scripted(x)


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(64, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2)
        return self.attention(x, x, x)[0]


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(64, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x.flatten(2))[0]


class OutArgument(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, x, out=torch.empty(0))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(x).softmax(1)


@pytest.mark.parametrize(
    ("layer", "operation"),
    [
        (nn.LayerNorm([3, 8, 8]), r"1 \(LayerNorm\): torch's layer_norm"),
        (nn.GroupNorm(1, 3), r"1 \(GroupNorm\): torch's group_norm"),
        (nn.InstanceNorm2d(3), r"1 \(InstanceNorm2d\): torch's instance_norm"),
        (nn.Upsample(16, mode="bicubic"), r"1 \(Upsample\): bicubic"),
        (nn.Softplus(), r"1 \(Softplus\): torch's softplus"),
        (nn.BatchNorm2d(3, track_running_stats=False), r"1 \(BatchNorm2d\): .*batch statistics"),
        (Attention(), r"1 \(Attention\): torch's softmax"),
        (Transformer(), r"1\.attention \(MultiheadAttention\): torch's multi_head_attention_forward"),
        (Recurrent(), r"1\.lstm \(LSTM\): torch's lstm"),
        (OnAView(), r"1 \(OnAView\): torch's relu_ works in place on memory that other tensors in use share"),
        (UnderAView(), r"1 \(UnderAView\): torch's relu_ works in place on memory that other tensors in use share"),
        (OutArgument(), r"1 \(OutArgument\): torch's add writes to a tensor given as `out`"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_what_has_no_paths_is_refused_by_name(layer: nn.Module, operation: str) -> None:
    net = nn.Sequential(nn.Conv2d(3, 3, 1), layer)
    with pytest.raises(UnsupportedOperation, match=operation):
        PX().score(net, [torch.randn(1, 3, 8, 8)])


def test_code_that_torch_functions_do_not_show_is_refused() -> None:
    with pytest.raises(UnsupportedOperation, match=r"1 \(Scripted\): code compiled by torch.jit hides"):
        PX().score(nn.Sequential(nn.Conv2d(3, 3, 1), Scripted()), [torch.randn(1, 3, 8, 8)])


def test_a_rule_is_added_in_one_place() -> None:
    """The example of px_seg.pruning.paths.rules, as it stands there."""
    code = re.findall(r"^    (.*)$", rules.__doc__, re.MULTILINE)
    before = dict(rules.RULES), dict(rules.GATES)
    try:
        exec("import torch\n" + "\n".join(code), {})
        norm = nn.InstanceNorm2d(4, affine=True, track_running_stats=True)
        norm.running_var.uniform_(0.5, 2)
        net = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.Softsign(), nn.Conv2d(4, 2, 1)).double()
        x = images(0, 2)
        u = net[:2].eval()(x[0])
        g = nn.functional.conv2d(x[0] ** 2, torch.ones_like(net[0].weight)) / (1 + u.abs()) ** 2
        h = (net[0].weight ** 2).sum((1, 2, 3)) / (norm.running_var + norm.eps)
        bound = (g.sum((0, 2, 3)).sum() * (net[3].weight ** 2 * h.view(1, -1, 1, 1)).sum()).detach()
        torch.testing.assert_close(PX().score(net, x)["3.weight"].sum(), bound, rtol=1e-12, atol=0)
    finally:
        for table, kept in zip((rules.RULES, rules.GATES), before, strict=True):
            table.clear()
            table.update(kept)


@pytest.mark.parametrize("kind", ["linear", "1-d"])
def test_other_dimensions(kind: str) -> None:
    if kind == "linear":
        net, shape = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)), (3, 6)
    else:
        layers = nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(4, 2, 1)
        net, shape = nn.Sequential(*layers), (3, 3, 10)
    net.double()
    x = [torch.randn(shape, dtype=torch.float64)]
    scores, reference = PX().score(net, x), Reference(net, x)
    bound = reference.bound()
    for name, score in scores.items():
        torch.testing.assert_close(score.sum(), bound, rtol=1e-12, atol=0)
        lost = bound - reference.bound(name, (0,) * score.dim())
        torch.testing.assert_close(score[(0,) * score.dim()], lost, rtol=1e-9, atol=1e-13 * bound.item())


def test_transposed_convolutions() -> None:
    net = nn.Sequential(nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), nn.ReLU(), nn.Conv2d(6, 2, 3)).double()
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    scores = PX().score(net, [x])
    u = net[0](x)
    g = nn.functional.conv_transpose2d(x**2, torch.ones_like(net[0].weight), stride=2, groups=2) * (u > 0)
    g = nn.functional.conv2d(g, torch.ones_like(net[2].weight)).sum(0)
    h = nn.functional.conv_transpose2d(torch.ones(1, 4, 5, 5).double(), net[0].weight ** 2, stride=2, groups=2)
    bound = (g * nn.functional.conv2d(h, net[2].weight ** 2)).sum().detach()
    for score in scores.values():
        torch.testing.assert_close(score.sum(), bound, rtol=1e-12, atol=0)
