"""Small networks with what real ones have, drawn at random or by hand."""

import random

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

from px_seg import PX, prunable

LINEAR_PIECES = (
    "conv",
    "strided",
    "dilated",
    "grouped",
    "depthwise",
    "norm",
    "relu",
    "relu_",
    "leaky",
    "max",
    "average",
)
LINEAR_PIECES += ("residual", "residual_", "projected", "concat", "upsample", "dropout")
PIECES = (*LINEAR_PIECES, "silu", "hardswish", "squeeze", "prelu")


class Residual(nn.Module):
    def __init__(self, body: nn.Module, shortcut: nn.Module, in_place: bool = False) -> None:
        super().__init__()
        self.body, self.shortcut, self.in_place = body, shortcut, in_place
        self.last = nn.ReLU(inplace=in_place)

    def forward(self, x: Tensor) -> Tensor:
        out = self.body(x)
        if self.in_place:
            out += self.shortcut(x)
            return self.last(out)
        return self.last(out + self.shortcut(x))


class Concat(nn.Module):
    def __init__(self, one: nn.Module, other: nn.Module) -> None:
        super().__init__()
        self.one, self.other = one, other

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.other(x)], 1)


class Squeeze(nn.Module):
    """Squeeze-and-excitation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)
        self.act, self.gate = nn.ReLU(), nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.up(self.act(self.down(x.mean((2, 3), keepdim=True)))))


def _norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    norm.weight.data.uniform_(-2, 2)
    norm.bias.data.normal_()
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.2, 3)
    return norm


def _piece(name: str, c: int) -> tuple[nn.Module, int]:
    """A piece on `c` channels (a multiple of 2), and how many channels it makes of them."""
    made = {
        "conv": lambda: (nn.Conv2d(c, 4, 3, padding=1), 4),
        "strided": lambda: (nn.Conv2d(c, 6, 3, stride=2, padding=1, bias=False), 6),
        "dilated": lambda: (nn.Conv2d(c, c, 3, padding=2, dilation=2), c),
        "grouped": lambda: (nn.Conv2d(c, 4, 3, padding=1, groups=2, bias=False), 4),
        "depthwise": lambda: (nn.Conv2d(c, c, 3, padding=1, groups=c), c),
        "separable": lambda: (nn.Sequential(nn.Conv2d(c, c, 3, padding=1, groups=c), nn.Conv2d(c, 4, 1)), 4),
        "norm": lambda: (_norm(c), c),
        "relu": lambda: (nn.ReLU(), c),
        "relu_": lambda: (nn.ReLU(inplace=True), c),
        "leaky": lambda: (nn.LeakyReLU(0.2), c),
        "silu": lambda: (nn.SiLU(inplace=True), c),
        "hardswish": lambda: (nn.Hardswish(), c),
        "prelu": lambda: (nn.PReLU(c), c),
        "max": lambda: (nn.MaxPool2d(3, 2, 1), c),
        "average": lambda: (nn.AvgPool2d(2, ceil_mode=True), c),
        "upsample": lambda: (nn.Upsample(scale_factor=2, mode="bilinear"), c),
        "dropout": lambda: (nn.Dropout(0.5), c),
        "squeeze": lambda: (Squeeze(c), c),
        "residual": lambda: (Residual(_branch(c, c), nn.Identity()), c),
        "residual_": lambda: (Residual(_branch(c, c), nn.Identity(), in_place=True), c),
        "projected": lambda: (Residual(_branch(c, 4), nn.Conv2d(c, 4, 1, bias=False), in_place=True), 4),
        "concat": lambda: (Concat(nn.Conv2d(c, 2, 1), nn.Identity()), c + 2),
    }
    return made[name]()


def _branch(c: int, out: int) -> nn.Module:
    layers = [nn.Conv2d(c, 4, 3, padding=1, bias=False), _norm(4), nn.ReLU(inplace=True), nn.Conv2d(4, out, 1)]
    return nn.Sequential(*layers, _norm(out))


class Drawn(nn.Module):
    """A stem, the pieces, and a head that is either dense or one output per class."""

    def __init__(self, pieces: list[str], seed: int, dense: bool) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.stem, channels = nn.Conv2d(3, 4, 3, padding=1), 4
            body = []
            for name in pieces:
                piece, channels = _piece(name, channels)
                body.append(piece)
            self.body = nn.Sequential(*body)
            self.head = nn.Conv2d(channels, 2, 1) if dense else nn.Linear(channels, 3)
        self.dense = dense
        self.pieces = pieces
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(self.stem(x))
        if self.dense:
            return F.interpolate(self.head(y), size=x.shape[-2:], mode="bilinear")
        return self.head(y.mean((2, 3)))

    def __repr__(self) -> str:
        return f"Drawn({self.pieces}, dense={self.dense})"


def unsettled(model: nn.Module) -> nn.Module:
    """In float64, with norms of no special value, and nothing random in training that depends on the width."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.3, 2, generator=generator)
            module.weight.data.uniform_(-1.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.3, generator=generator)
        if isinstance(module, nn.Dropout | nn.Dropout2d):
            module.p = 0.0
    return model.double()


def drawn(pieces: tuple[str, ...]) -> st.SearchStrategy[Drawn]:
    """Networks of two to eight pieces, all equally likely.

    From a seed: lists that hypothesis draws itself repeat a few pieces and miss others.
    """

    def draw(seed: int) -> Drawn:
        rng = random.Random(seed)
        return Drawn(rng.choices(pieces, k=rng.randint(2, 8)), seed, rng.random() < 0.5)

    return st.integers(0, 2**32 - 1).map(draw)


def images(seed: int, *sizes: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, 3, 9, 8, dtype=torch.float64, generator=generator) for n in sizes]


def some_masks(net: nn.Module, density: float, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.rand(w.shape, generator=generator) < density for n, w in prunable(net).items()}


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
