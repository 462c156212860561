"""PX against what it is defined to be, in float64, written out without its own code."""

import itertools
import random
import re

import pytest
import torch
from helpers.networks import PIECES, Drawn, drawn
from helpers.reference import Reference
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from px_seg import PX, InputError, Masks, UnsupportedOperation, prunable, prune
from px_seg.pruning.paths import rules

PROPERTY = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def images(seed: int, *sizes: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, 3, 9, 8, dtype=torch.float64, generator=generator) for n in sizes]


def some_masks(net: nn.Module, density: float, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.rand(w.shape, generator=generator) < density for n, w in prunable(net).items()}


def scores_of(net: nn.Module, x: list, **settings) -> dict[str, Tensor]:
    try:
        return PX(**settings).score(net, x)
    except InputError:
        reject()  # a network whose gates are all shut has no score


def check_against_the_reference(net: Drawn, density: float, seed: int) -> None:
    """Against copies of the network that share no code with px_seg, and no gradient."""
    x, masks = images(seed, 2, 1), some_masks(net, density, seed)
    reference = Reference(net, x, masks)
    bound = reference.bound()
    if bound == 0:
        reject()
    scores = PX().score(net, x, masks)
    rng = random.Random(seed)
    for name, score in scores.items():
        assert (score >= 0).all()
        for _ in range(3):
            place = tuple(rng.randrange(side) for side in score.shape)
            lost = bound - reference.bound(name, place)
            if "max" not in net.pieces:
                torch.testing.assert_close(score[place], lost, rtol=1e-9, atol=1e-13 * bound.item())
                continue
            # Without the weight another element of h may be a window's largest: R is convex in its
            # square, the score is the slope, and the loss no more than that.
            slope = (bound - reference.bound(name, place, keep=1 - 1e-6)) / 1e-6
            torch.testing.assert_close(score[place], slope, rtol=1e-6, atol=1e-9 * bound.item())
            assert lost <= score[place] + 1e-12 * bound
    # What every path crosses carries the whole bound.
    for name in ("stem.weight", "head.weight"):
        torch.testing.assert_close(scores[name].sum(), bound, rtol=1e-12, atol=0)


@pytest.mark.parametrize("density", [1.0, 0.8])
@pytest.mark.parametrize("piece", PIECES)
def test_scores_are_what_the_bound_loses_without_the_weight(piece: str, density: float) -> None:
    for dense, seed in itertools.product((True, False), range(2)):
        check_against_the_reference(Drawn([piece, "leaky", piece, "conv", piece], seed, dense), density, seed)


@PROPERTY
@given(net=drawn(PIECES), density=st.sampled_from([1.0, 0.7]), seed=st.integers(0, 99))
def test_scores_are_so_in_any_order_of_the_pieces(net: Drawn, density: float, seed: int) -> None:
    check_against_the_reference(net, density, seed)


@PROPERTY
@given(net=drawn(PIECES), factor=st.sampled_from([-3.0, 0.01, 7.0]), seed=st.integers(0, 99))
def test_scaling_a_layer_keeps_the_ranking(net: Drawn, factor: float, seed: int) -> None:
    x = images(seed, 2)
    before = scores_of(net, x)
    net.head.weight.data *= factor
    for name, score in PX().score(net, x).items():
        torch.testing.assert_close(score, factor**2 * before[name], rtol=1e-10, atol=0)


@PROPERTY
@given(net=drawn(PIECES), cut=st.integers(1, 3), seed=st.integers(0, 99))
def test_batches_can_be_cut_and_ordered_at_will(net: Drawn, cut: int, seed: int) -> None:
    (x,) = images(seed, 4)
    whole = scores_of(net, [x])
    for split in ([x[:cut], x[cut:]], [(x[cut:], None), (x[:cut], None)]):
        for name, score in PX().score(net, split).items():
            torch.testing.assert_close(score, whole[name], rtol=1e-10, atol=0)


@PROPERTY
@given(net=drawn(PIECES), seed=st.integers(0, 99))
def test_float32_agrees_with_float64(net: Drawn, seed: int) -> None:
    x = images(seed, 2)
    double, single = scores_of(net, x), scores_of(net, x, precision="float32")
    total = sum(score.sum() for score in double.values())
    for name, score in single.items():
        assert score.dtype == torch.float32
        torch.testing.assert_close(score.double(), double[name], rtol=1e-4, atol=1e-7 * total.item())


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


ALL_PIECES = ["norm", "relu_", "residual_", "squeeze", "silu", "concat", "max", "projected"]


class Broken(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise KeyboardInterrupt


def state_of(net: nn.Module) -> dict:
    """Everything about a model that scoring could leave changed."""
    return {
        "values": {name: value.clone() for name, value in net.state_dict().items()},
        "identity": {name: id(value) for name, value in [*net.named_parameters(), *net.named_buffers()]},
        "requires_grad": {name: value.requires_grad for name, value in net.named_parameters()},
        "grad": {name: value.grad for name, value in net.named_parameters()},
        "training": {name: module.training for name, module in net.named_modules()},
        "hooks": {n: (len(m._forward_hooks), len(m._forward_pre_hooks)) for n, m in net.named_modules()},
        "attributes": {name: set(module.__dict__) for name, module in net.named_modules()},
    }


@pytest.mark.parametrize("fate", ["finished", "not finite", "interrupted in a layer", "interrupted between rounds"])
def test_the_model_comes_back_untouched(fate: str) -> None:
    net = Drawn(ALL_PIECES, 0, dense=True)
    net.train()
    net.body[0].eval()
    net.stem.weight.requires_grad_(False)
    handle = net.stem.register_forward_hook(lambda *_: None)
    x = images(0, 2)
    kept = x[0].clone()
    before = state_of(net)
    flags = torch.is_grad_enabled(), torch.backends.cudnn.conv.fp32_precision
    if fate == "finished":
        prune(net, x, 0.5, PX(), rounds=3)
    elif fate == "not finite":
        with pytest.raises(ValueError, match="not finite"):
            PX().score(net, [x[0] * torch.inf])
    elif fate == "interrupted in a layer":
        relu, net.body[1] = net.body[1], Broken()
        with pytest.raises(KeyboardInterrupt):
            prune(net, x, 0.5, PX())
        net.body[1] = relu
    else:

        def interrupt(number: int, masks: Masks) -> None:
            if number == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            prune(net, x, 0.5, PX(), on_round=interrupt)
    after = state_of(net)
    for name, value in before.pop("values").items():
        assert torch.equal(after["values"][name], value)
    after.pop("values")
    assert after == before
    assert (torch.is_grad_enabled(), torch.backends.cudnn.conv.fp32_precision) == flags
    assert torch.equal(x[0], kept)
    handle.remove()


class KeepsAnOldTensor(nn.Module):
    """In-place operations on a tensor, on a view of it, and beside others that share its values."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.act, self.again = nn.ReLU(), nn.ReLU()
        self.head = nn.Conv2d(12, 2, 1)
        self.norm.bias.data.fill_(-0.3)  # the second gate shuts more than the first
        self.in_place = False

    def forward(self, x: Tensor) -> Tensor:
        first = self.conv(x)
        if not self.in_place:
            second = self.act(self.norm(first))
            third = self.again(self.norm(second)) + first
            return self.head(torch.cat([first, second, third], 1))
        second = self.norm(first)
        second.relu_()
        third = self.norm(second)
        third = third.relu_()
        third += first
        return self.head(torch.cat([first, second, third], 1))


def test_in_place_operations_leave_other_tensors_alone() -> None:
    net, x = KeepsAnOldTensor().double(), images(0, 2)
    plain = Reference(net, x).bound()
    net.in_place = True
    torch.testing.assert_close(PX().score(net, x)["head.weight"].sum(), plain, rtol=1e-12, atol=0)


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


class Frozen(nn.Module):
    """Ways in which a model hides its gradients from a caller; PX does not ask for those."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.conv, self.act, self.head = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "detach":
            return self.head(self.act(self.conv(x)).detach())
        if self.how == "function":
            return self.head(Rectify.apply(self.conv(x)))
        with torch.no_grad() if self.how == "no_grad" else torch.inference_mode():
            x = self.act(self.conv(x))
        return self.head(x)


class Rectify(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u: Tensor) -> Tensor:
        return u.relu()


@pytest.mark.parametrize("how", ["detach", "function", "no_grad", "inference_mode"])
def test_hidden_gradients_of_the_model_do_not_matter(how: str) -> None:
    net = Frozen(how).double()
    x = images(0, 2)
    with torch.inference_mode():
        scores = PX().score(net, x)
    expected = PX().score(nn.Sequential(net.conv, net.act, net.head), x)
    assert expected["0.weight"].sum() > 0
    torch.testing.assert_close(scores["conv.weight"], expected["0.weight"], rtol=1e-12, atol=0)


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


@pytest.mark.parametrize("kind", ["unknown name", "shape"])
def test_masks_of_another_model_are_refused_by_name(kind: str) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3))
    masks = {"unknown name": {"1.weight": torch.ones(1)}, "shape": {"0.weight": torch.ones(4, 3, 1, 1)}}[kind]
    with pytest.raises(InputError, match={"unknown name": "1.weight", "shape": "0.weight has shape"}[kind]):
        PX().score(net, [torch.randn(1, 3, 8, 8)], masks)


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


def test_samples_of_several_shapes_and_no_samples_are_refused() -> None:
    net = nn.Conv2d(3, 3, 1)
    with pytest.raises(ValueError, match="one shape"):
        PX().score(net, [torch.randn(1, 3, 8, 8), torch.randn(1, 3, 9, 8)])
    with pytest.raises(ValueError, match="at least one batch"):
        PX().score(net, [])
    with pytest.raises(InputError, match="fold"):
        PX(bn="unheard of")
