"""The Neural Tangent Kernel and its spectrum, against the explicit Jacobian and formulas."""

import math

import pytest
import torch
from helpers.networks import Drawn, some_masks
from torch import Tensor, nn

from px_seg import InputError, build_classifier, build_segmenter, prunable
from px_seg.analysis import (
    estimated_trace,
    kernel_alignment,
    largest_eigenvalue,
    ntk_kernel,
    ntk_spectrum,
    ntk_trace,
    spectral_distance,
    spectrum_facts,
    tangent_kernel,
)
from px_seg.analysis import spectrum as spectrum_module

PIECES = ["norm", "relu", "residual", "depthwise", "max", "upsample", "concat"]


def network(seed: int = 0, dense: bool = True) -> Drawn:
    return Drawn(PIECES, seed, dense=dense).double().eval()


def pictures(count: int, side: int = 6) -> Tensor:
    return torch.randn(count, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def explicit(net: nn.Module, x: Tensor, masks: dict[str, Tensor]) -> Tensor:
    """The Jacobian by a backward pass an output, of live weights."""
    weights = prunable(net)
    kept = {name: weight.detach().clone() for name, weight in weights.items()}
    with torch.no_grad():
        for name, weight in weights.items():
            weight.mul_(masks.get(name, torch.ones_like(weight)))
    rows = []
    for sample in x:
        for output in net(sample[None]).flatten():
            grads = torch.autograd.grad(output, list(weights.values()), retain_graph=True)
            live = [g * masks.get(n, torch.ones_like(g)) for n, g in zip(weights, grads, strict=True)]
            rows.append(torch.cat([g.flatten() for g in live]))
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(kept[name])
    return torch.stack(rows)


@pytest.mark.parametrize("density", [1.0, 0.4])
@pytest.mark.parametrize("block", [2**30, 1])
def test_the_kernel_is_the_jacobian_times_itself(density: float, block: int) -> None:
    net, x = network(), pictures(3)
    masks = dict(some_masks(net, density, 0))
    masks.pop("head.weight", None)
    jacobian = explicit(net, x, masks)
    kernel = ntk_kernel(net.train(), x, masks, block=block)
    assert net.training
    torch.testing.assert_close(kernel, jacobian @ jacobian.T, rtol=1e-10, atol=1e-10)
    spectrum = ntk_spectrum(net, x, masks)
    expected = torch.linalg.svdvals(jacobian).square()[: len(spectrum)]
    torch.testing.assert_close(spectrum[: len(expected)], expected, rtol=1e-9, atol=1e-9 * float(expected[0]))
    assert spectrum.dtype == torch.float64
    assert bool((spectrum.diff() <= 0).all())
    assert float(spectrum.sum()) == pytest.approx(ntk_trace(net, [x], masks), rel=1e-10)


def test_chosen_outputs_are_rows_of_the_whole_kernel() -> None:
    net, x = network(), pictures(2)
    outputs = torch.tensor([[0, 3, 5], [1, 2, 7]])
    each = net(x[:1]).numel()
    rows = (outputs + torch.tensor([[0], [each]])).flatten()
    whole = ntk_kernel(net, x)
    torch.testing.assert_close(ntk_kernel(net, x, outputs=outputs), whole[rows][:, rows], rtol=1e-12, atol=1e-12)


def test_estimates_are_within_their_stated_errors() -> None:
    net, x = network(), pictures(3)
    masks = some_masks(net, 0.6, 0)
    exact = ntk_trace(net, [x], masks)
    found = [
        estimated_trace(net, x, masks, probes=4, generator=torch.Generator().manual_seed(seed)) for seed in range(40)
    ]
    # A standard error covers about two thirds of the estimates, and three of them nearly all.
    within = [abs(one.trace - exact) / one.error for one in found]
    assert 20 <= sum(distance < 1 for distance in within) <= 34
    assert max(within) < 6
    assert sum(one.trace for one in found) / 40 == pytest.approx(exact, rel=0.1)
    exact_spectrum = ntk_spectrum(net, x, masks)
    for batch_size in (1, 2):
        top = largest_eigenvalue(net, x, masks, torch.Generator().manual_seed(0), batch_size)
        assert abs(top.value - float(exact_spectrum[0])) <= top.error + 1e-9 * float(exact_spectrum[0])
        assert top.error < 1e-2 * top.value


def test_the_error_of_an_eigenvalue_is_that_of_what_lanczos_found(monkeypatch) -> None:
    net, x = network(), pictures(2)
    usual = spectrum_module.eigsh

    def off(*args: object, **kwargs: object) -> tuple:
        values, vectors = usual(*args, **kwargs)
        return values * 1.01, vectors

    monkeypatch.setattr(spectrum_module, "eigsh", off)
    top = largest_eigenvalue(net, x, None, torch.Generator().manual_seed(0))
    assert top.error == pytest.approx(top.value * (1 - 1 / 1.01), rel=1e-3)


def test_a_kernel_of_zero_has_a_largest_eigenvalue_of_zero() -> None:
    net, x = nn.Sequential(nn.Flatten(), nn.Linear(12, 3, bias=False), nn.Linear(3, 2, bias=False)), pictures(2, 2)
    masks = {name: torch.zeros_like(weight, dtype=torch.bool) for name, weight in prunable(net).items()}
    assert largest_eigenvalue(net, x, masks, torch.Generator().manual_seed(0)) == (0, 0)


def test_memory_is_bounded_under_masks_as_well() -> None:
    """Pruned weights are differentiated by before they are left out: blocks are of all weights of their layers."""
    sizes = {"a": 100, "b": 100, "c": 300}
    assert list(tangent_kernel._blocks(sizes, 10, 8 * 10 * 200)) == [["a", "b"], ["c"]]
    net = nn.Sequential(nn.Flatten(), *[nn.Linear(60, 60, bias=False) for _ in range(4)]).double()
    x = torch.randn(2, 60, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    masks = {f"{i}.weight": torch.rand(60, 60, generator=torch.Generator().manual_seed(i)) < 0.01 for i in range(1, 5)}
    seen = []
    usual = tangent_kernel._jacobian

    def noted(net, names, *rest: object):
        seen.append(names)
        return usual(net, names, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tangent_kernel, "_jacobian", noted)
        ntk_kernel(net, x, masks, block=8 * 120 * 3600)
    assert max(map(len, seen)) == 1


def test_one_probe_of_a_network_with_one_output_is_exact() -> None:
    """A random sign squared is 1."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.ReLU(), nn.Linear(3, 1)).double()
    x = torch.randn(4, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = estimated_trace(net, x, None, 2, torch.Generator().manual_seed(0))
    assert found.trace == pytest.approx(ntk_trace(net, [x]), rel=1e-12)
    assert found.error == pytest.approx(0, abs=1e-9)


def test_facts_of_a_spectrum_written_out() -> None:
    spectrum = torch.tensor([4.0, 2.0, 2.0], dtype=torch.float64)
    facts = spectrum_facts(spectrum)
    assert facts[:3] == (8, 4, 2)
    assert facts.effective_rank == pytest.approx(math.exp(0.5 * math.log(2) + 2 * 0.25 * math.log(4)))
    assert facts.rank == 3
    flat = torch.ones(5, dtype=torch.float64)
    assert spectrum_facts(flat).effective_rank == pytest.approx(5)
    lacking = torch.tensor([1.0, 1e-3, 1e-17], dtype=torch.float64)
    assert spectrum_facts(lacking).condition == math.inf
    assert spectrum_facts(lacking).rank == 2
    assert spectrum_facts(torch.zeros(3, dtype=torch.float64))[:] == (0, 0, math.inf, 0, 0)


def test_distance_of_spectra_is_in_decades() -> None:
    dense = torch.tensor([100.0, 10.0, 1.0], dtype=torch.float64)
    assert spectral_distance(dense, dense) == 0
    assert spectral_distance(dense / 10, dense) == pytest.approx(1)
    assert spectral_distance(dense * torch.tensor([1.0, 10.0, 0.1]), dense) == pytest.approx(2 / 3)
    # A value of 0 is no farther than rounding of the dense network.
    cut = torch.tensor([100.0, 10.0, 0.0], dtype=torch.float64)
    assert spectral_distance(cut, dense) == pytest.approx(-math.log10(100 * 3 * 2**-52) / 3)


def test_alignment_of_kernels_against_centred_features(generator) -> None:
    x, y = (torch.randn(20, 7, dtype=torch.float64, generator=generator) for _ in range(2))
    a, b = x - x.mean(0), y - y.mean(0)
    expected = (a.T @ b).square().sum() / ((a.T @ a).norm() * (b.T @ b).norm())
    assert kernel_alignment(x @ x.T, y @ y.T) == pytest.approx(float(expected), rel=1e-12)
    assert kernel_alignment(3 * x @ x.T, x @ x.T) == pytest.approx(1)
    assert kernel_alignment(torch.ones(4, 4), torch.eye(4)) == 0


def test_real_networks_in_float32(generator) -> None:
    torch.manual_seed(0)
    net, x = build_classifier("resnet20", 4, None), torch.randn(2, 3, 32, 32, generator=generator)
    assert float(ntk_spectrum(net, x).sum()) == pytest.approx(ntk_trace(net, [x]), rel=1e-4)
    segmenter = build_segmenter("resnet18", classes=2, weights=None)
    x = torch.randn(1, 3, 32, 32, generator=generator)
    outputs = torch.tensor([[0, 70, 2000]])
    assert ntk_spectrum(segmenter, x, outputs=outputs).shape == (3,)
    top = largest_eigenvalue(segmenter, x, None, generator, 2)
    found = estimated_trace(segmenter, x, None, 2, generator)
    assert 0 < top.value < found.trace + 5 * found.error


def test_too_little_memory_is_said_before_anything_is_computed(monkeypatch) -> None:
    net, x = network(), pictures(2)
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 1000})())
    monkeypatch.setattr("px_seg.analysis.tangent_kernel.jacrev", None)
    with pytest.raises(InputError, match=r"outputs needs 0\.\d GB of memory, and 0\.0 GB are free: take fewer images"):
        ntk_kernel(net, x)
    with pytest.raises(InputError, match="images must be a tensor"):
        ntk_kernel(net, x[:0])
    with pytest.raises(InputError, match="there is a mask for other"):
        ntk_kernel(net, x, {"other.weight": torch.ones(1)})
