"""The walk leaves the model, its tensors and its caller's contexts alone."""

import pytest
import torch
import torch.nn.functional as F
from helpers.networks import Body, Drawn, images, total
from helpers.reference import Reference
from torch import Tensor, nn

from px_seg import PX, Masks, prune

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


def test_the_images_are_left_alone_by_a_model_that_writes_on_its_input() -> None:
    net, x = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 2, 1)), torch.randn(2, 3, 4, 4)
    before = x.clone()
    PX().score(net, [x])
    assert torch.equal(x, before)
