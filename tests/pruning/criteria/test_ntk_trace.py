"""The share of the NTK's trace against the Jacobian that defines it, written out by torch.func."""

import itertools
import math

import pytest
import torch
from helpers.cases import assert_close, network, pairs, same
from helpers.criteria import moved_statistics
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from px_seg import PX, InputError, Magnitude, NTKTrace, criterion, prunable, prune
from px_seg.analysis import ntk_trace_bound


def exact(net: nn.Module, batches: list) -> dict[str, Tensor]:
    """theta**2 times the sum over samples and outputs of squared entries of the Jacobian."""
    weights = {name: weight.detach() for name, weight in prunable(net).items()}
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for images in (batch if isinstance(batch, Tensor) else batch[0] for batch in batches):
        for sample in images:
            jacobian = jacrev(lambda w, x=sample: functional_call(net, w, (x[None],)).flatten())(weights)
            for name, part in jacobian.items():
                total[name] += part.square().sum(0) * weights[name] ** 2
    return {name: part.detach() for name, part in total.items()}


def tiny() -> tuple[nn.Module, Tensor]:
    """Two outputs of two samples: sixteen vectors of signs. No biases, so that paths are all there is."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 3, bias=False), nn.ReLU())
    return nn.Sequential(*net, nn.Linear(3, 2, bias=False)).double(), torch.randn(2, 3, dtype=torch.float64)


class Given(NTKTrace):
    """Takes its signs from here."""

    now: Tensor

    def signs(self, outputs, *key):
        return [Given.now.view(outputs[0].shape)]


def over_all_signs(net: nn.Module, x: Tensor, masks=None) -> dict[str, Tensor]:
    vectors = list(itertools.product((1.0, -1.0), repeat=4))
    total = {name: torch.zeros_like(weight) for name, weight in prunable(net).items()}
    for vector in vectors:
        Given.now = torch.tensor(vector, dtype=torch.float64)
        for name, score in Given(probes=1).score(net, [x], masks).items():
            total[name] += score / len(vectors)
    return {name: part.detach() for name, part in total.items()}


def test_over_all_vectors_of_signs_the_mean_is_the_share_itself() -> None:
    net, x = tiny()
    assert_close(over_all_signs(net, x), exact(net, [x]), 1e-12)


def test_pruned_weights_have_no_share_and_no_say_in_the_others() -> None:
    net, x = tiny()
    masks = prune(net, (), 0.4, Magnitude())
    under = over_all_signs(net, x, masks)
    masks.apply(net)
    assert_close(under, exact(net, [x]), 1e-12)


def test_no_share_is_above_that_of_the_bound() -> None:
    """By Cauchy-Schwarz over the paths through the weight, output by output."""
    net, x = tiny()
    shares, bounds = over_all_signs(net, x), PX().score(net, [x])
    assert all((share <= bounds[name] * (1 + 1e-12)).all() for name, share in shares.items())
    trace = sum(float((share / prunable(net)[name].detach() ** 2).sum()) for name, share in shares.items())
    assert 0 < trace <= ntk_trace_bound(net, [x])


def test_the_estimate_is_unbiased() -> None:
    net, batches = network().eval(), pairs(2, 1, side=3)
    shares, seeds = exact(net, batches), 150
    drawn = [NTKTrace(seed=seed, probes=1).score(net, batches) for seed in range(seeds)]
    for name, share in shares.items():
        # Elements of a layer share their signs, so their mean is one number a seed.
        means = torch.stack([scores[name].mean() for scores in drawn])
        z = (means.mean() - share.mean()) / (means.std() / math.sqrt(seeds))
        assert abs(z) < 4, f"{name}: {z}"


def test_more_probes_come_closer() -> None:
    net, batches = network().eval(), pairs(2, 1, side=3)
    shares = exact(net, batches)

    def distance(probes: int) -> float:
        errors = []
        for seed in range(20):
            scores = NTKTrace(seed=seed, probes=probes).score(net, batches)
            errors += [float(((scores[name] - share) / share.max()).square().mean()) for name, share in shares.items()]
        return sum(errors) / len(errors)

    # The variance of a mean of n is 1/n of one's.
    assert distance(16) == pytest.approx(distance(1) / 16, rel=0.4)


def test_labels_and_the_mode_of_norms_and_dropout_do_not_count() -> None:
    net, batches = network(), pairs(2, 3)
    expected = NTKTrace().score(net.train(), batches)
    assert same(expected, NTKTrace().score(net.eval(), [(x, torch.zeros_like(y)) for x, y in batches]))
    assert same(expected, NTKTrace().score(net, [x for x, _ in batches]))
    assert not same(expected, NTKTrace().score(moved_statistics(net), batches))


def test_signs_are_drawn_afresh_in_every_round_pass_and_probe(monkeypatch) -> None:
    """By what distinguishes them: the weights kept, the images, how often these came before, and the probe."""
    net, batches, keys = network(), pairs(3, 2), []

    def noted(self, outputs, *key):
        keys.append(key)
        return draw(self, outputs, *key)

    draw = NTKTrace.signs
    monkeypatch.setattr(NTKTrace, "signs", noted)
    rank = NTKTrace(pass_size=2)
    rank.score(net, [*batches, batches[1]])
    # Passes of 2, 1, 2 and 2 images, two probes each.
    assert len(keys) == len(set(keys)) == 8
    rank.score(net, batches, prune(net, (), 0.4, Magnitude()))
    assert len(keys) == len(set(keys)) == 14
    outputs = [torch.zeros(4, 2), torch.zeros(4, 6, 5, 5)]
    drawn = [NTKTrace(seed=seed).signs(outputs, key) for seed in (0, 1) for key in (1, 2)]
    assert all(set(signs[1].unique().tolist()) == {1.0, -1.0} for signs in drawn)
    for first, second in itertools.combinations(drawn, 2):
        assert not torch.equal(first[1], second[1])
    assert torch.equal(drawn[0][1], NTKTrace().signs(outputs, 1)[1])


def test_fewer_images_a_pass_have_less_noise() -> None:
    """A mixed term of two images is as large as an image's own: the variance grows with the images of a pass."""
    net, batches = network().eval(), pairs(8, side=3)
    shares = exact(net, batches)

    def distance(pass_size: int) -> float:
        errors = []
        for seed in range(30):
            scores = NTKTrace(seed=seed, pass_size=pass_size).score(net, batches)
            errors += [float(((scores[name] - share) / share.max()).square().mean()) for name, share in shares.items()]
        return sum(errors) / len(errors)

    single, whole = distance(1), distance(0)
    assert 3 < whole / single < 20
    assert distance(8) == whole


def test_outputs_beyond_float32_are_conserved() -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Conv2d(3, 2, 1))
    net[1].weight.data *= 1e25
    scores = NTKTrace(conserve=1.0).score(net, [torch.randn(2, 2, 3, 3)])
    assert all(score.sum().item() == pytest.approx(1, rel=1e-4) for score in scores.values())


def test_settings_that_make_no_sense_are_refused() -> None:
    for settings, message in (
        ({"probes": 0}, "probes must be a whole number above 0"),
        ({"probes": 1.5}, "probes must be a whole number, such as 2"),
        ({"pass_size": -1}, "pass_size must be a whole number, 0 for whole batches; got -1"),
        ({"conserve": -0.1}, "conserve must be a number from 0 to 1"),
    ):
        with pytest.raises(InputError, match=message):
            criterion("ntk_trace", **settings)
