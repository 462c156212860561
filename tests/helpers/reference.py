"""PX computed the slow and plain way, sharing nothing with px_seg: copies of the model, their modules replaced.

Three copies of the network: the true one, one whose weights read as their masks, one whose weights
are squared. It knows networks whose activations, norms and pools are modules.
"""

from collections import defaultdict
from copy import deepcopy

import torch
from timm.layers import BatchNormAct2d
from timm.layers.activations import Swish
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.SiLU, nn.ReLU6, nn.Hardswish, nn.GELU, nn.ELU, nn.PReLU, nn.Mish, Swish)
POOLS = (nn.MaxPool1d, nn.MaxPool2d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)


class _Recorded(nn.Module):
    """The true network's module, which notes what the other copy needs to know."""

    def __init__(self, module: nn.Module, notes: list) -> None:
        super().__init__()
        self.module, self.notes = module, notes

    def forward(self, u: Tensor) -> Tensor:
        if isinstance(self.module, POOLS):
            self.module.return_indices = True
            out, index = self.module(u)
            self.notes.append(index)
            return out
        with torch._C.DisableTorchFunction():  # a sigmoid inside is no gate of its own
            out = self.module(u.clone())
        self.notes.append(torch.where(u == 0, 0, out / u))
        return out


class _Replayed(nn.Module):
    """Its counterpart for the path activations."""

    def __init__(self, module: nn.Module, notes: list) -> None:
        super().__init__()
        self.module, self.notes = module, notes

    def forward(self, g: Tensor) -> Tensor:
        note = self.notes.pop(0)
        if isinstance(self.module, POOLS):
            dims = 1 if isinstance(self.module, nn.MaxPool1d) else 2
            lead = g.dim() - dims
            return g.flatten(lead).gather(lead, note.flatten(lead)).view_as(note)
        return g * note**2


class _Sigmoids(TorchFunctionMode):
    """Sigmoids, which gate what they multiply: `answer` says what one returns."""

    def __init__(self, answer) -> None:
        super().__init__()
        self.answer = answer

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        return self.answer(out) if func in (torch.sigmoid, Tensor.sigmoid) else out


class _Gain(nn.Module):
    def __init__(self, norm: nn.Module, power: int) -> None:
        super().__init__()
        self.gain = (norm.weight.detach().abs() / (norm.running_var + norm.eps).sqrt()) ** power

    def forward(self, h: Tensor) -> Tensor:
        return h * self.gain.view(1, -1, *[1] * (h.dim() - 2))


def _replace(model: nn.Module, new) -> nn.Module:
    for name, child in list(model.named_children()):
        replaced = new(child)
        if replaced is child:
            _replace(child, new)
        else:
            setattr(model, name, replaced)
    return model


def _norm_and_activation(norm: nn.Module, first: nn.Module, rest) -> nn.Module:
    """BatchNorm, or timm's with an activation inside."""
    return nn.Sequential(first, rest(norm.act)) if isinstance(norm, BatchNormAct2d) else first


class Reference:
    """R and its parts for a model, batches and masks.

    `bound()` is R, `bound(name, place)` is R without that weight, and with `keep` R with that share of its power,
    which in h is the square.
    """

    def __init__(
        self, model: nn.Module, batches: list[Tensor], masks: dict[str, Tensor] | None = None, power: int = 2
    ) -> None:
        model = deepcopy(model).eval()
        live = {f"{n}.weight": torch.ones_like(m.weight) for n, m in model.named_modules() if isinstance(m, LAYERS)}
        live |= {n: m.to(live[n]) for n, m in (masks or {}).items()}
        with torch.no_grad():
            for name, mask in live.items():
                model.get_parameter(name).mul_(mask)
        self.model, self.batches, self.live = model, batches, live
        self.sample = torch.ones_like(batches[0][:1])
        self.g = self._replayed(live, lambda norm: nn.Identity())
        self.kernel = self._kernel(model, power)

    @torch.no_grad()
    def bound(self, name: str | None = None, place: tuple[int, ...] = (), keep: float = 0.0) -> Tensor:
        if name is None:
            return self._bound()
        weight = self.kernel.get_parameter(name)
        before = weight[place].clone()
        weight[place] *= keep
        try:
            return self._bound()
        finally:
            weight[place] = before

    def _bound(self) -> Tensor:
        with _Sigmoids(torch.ones_like):
            kernel = _outputs(self.kernel(self.sample))
        return sum((g * h).sum() for g, h in zip(self.g, kernel, strict=True))

    @torch.no_grad()
    def values(self, name: str | None = None, place: tuple[int, ...] = ()) -> Tensor:
        """T, the paths' squared values under the true gates; or T without the weight, the gates as they were."""
        squares = {n: self.model.get_parameter(n).detach().square() for n in self.live}
        if name is not None:
            squares[name][place] = 0
        return sum(out.sum() for out in self._replayed(squares, lambda norm: _Gain(norm, 2)))

    @torch.no_grad()
    def _replayed(self, weights: dict[str, Tensor], gain) -> list[Tensor]:
        """The outputs, summed over samples, of the network with these weights and norms and the true one's gates."""
        model = self.model
        notes: dict[int, list] = defaultdict(list)

        def recorded(module: nn.Module) -> nn.Module:
            if isinstance(module, BatchNormAct2d):
                plain = nn.BatchNorm2d(module.num_features, module.eps).to(module.weight.dtype).eval()
                plain.load_state_dict(module.state_dict())
                return nn.Sequential(plain, recorded(module.act))
            wanted = isinstance(module, (*ACTIVATIONS, *POOLS))
            return _Recorded(module, notes[id(module)]) if wanted else module

        def replayed(module: nn.Module) -> nn.Module:
            if isinstance(module, NORMS):
                return _norm_and_activation(module, gain(module), replayed)
            if isinstance(module, nn.Dropout):
                return nn.Identity()
            wanted = isinstance(module, (*ACTIVATIONS, *POOLS))
            return _Replayed(module, notes[twins[id(module)]]) if wanted else module

        paths = deepcopy(model)
        for name, weight in weights.items():
            paths.get_parameter(name).copy_(weight)
        for module in paths.modules():
            if isinstance(module, LAYERS):
                module.bias = None
        true = deepcopy(model)
        twins = {id(b): id(a) for a, b in zip(true.modules(), paths.modules(), strict=True)}
        kept = list(true.modules())  # their ids stay taken
        _replace(true, recorded)
        _replace(paths, replayed)
        total: list[Tensor] = []
        for x in self.batches:
            gates: list[Tensor] = []
            with _Sigmoids(lambda out, gates=gates: gates.append(out) or out):
                true(x.clone())
            with _Sigmoids(lambda out, gates=gates: gates.pop(0) ** 2):
                parts = [out.sum(0, keepdim=True) for out in _outputs(paths(x**2))]
            assert not any(notes.values())
            assert not gates
            total = [a + b for a, b in zip(total, parts, strict=True)] if total else parts
        del kept
        return total

    @torch.no_grad()
    def _kernel(self, model: nn.Module, power: int) -> nn.Module:
        kernel = deepcopy(model)
        for module in kernel.modules():
            if isinstance(module, LAYERS):
                module.weight.abs_().pow_(power)
                module.bias = None

        def squared(module: nn.Module) -> nn.Module:
            if isinstance(module, NORMS):
                return _norm_and_activation(module, _Gain(module, power), squared)
            return nn.Identity() if isinstance(module, (*ACTIVATIONS, nn.Dropout)) else module

        return _replace(kernel, squared)


def _outputs(out) -> list[Tensor]:
    return list(out) if isinstance(out, list | tuple) else [out]
