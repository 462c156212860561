"""Criteria at the edge: what they leave alone, and data, losses, numbers and settings that are not as usual."""

import copy

import pytest
import torch
from helpers.cases import WITH_DATA, WITH_LOSS, assert_close, network, pairs, same
from torch import Tensor, nn

from px_seg import (
    NTKSAP,
    SNIP,
    Criterion,
    Fisher,
    GraSP,
    InputError,
    Magnitude,
    criterion,
    prunable,
)
from px_seg.pruning import CRITERIA, prune, scored


@pytest.mark.parametrize("name", [name for name in CRITERIA if name not in ("dense", "imp")])
def test_a_score_leaves_the_model_and_its_callers_contexts_alone(name: str) -> None:
    net, batches = network().train(), pairs(2, 3)
    net[5].eval()
    net[0].weight.requires_grad = False
    state = copy.deepcopy(net.state_dict())
    rank = criterion(name)
    expected = rank.score(net, batches)
    with torch.inference_mode(), torch.autocast("cpu"):
        again = rank.score(net, batches)
    assert all(torch.equal(expected[n], again[n]) for n in expected)
    assert all(torch.equal(value, state[n]) for n, value in net.state_dict().items())
    assert [m.training for m in net.modules()] == [True, True, True, True, True, True, False, True, True]
    assert [p.requires_grad for p in net.parameters()] == [False, *[True] * 8]
    assert all(p.grad is None for p in net.parameters())
    assert net[1].momentum == 0.1
    assert all(score.shape == net.get_parameter(n).shape for n, score in expected.items())
    assert not any(score.requires_grad for score in expected.values())


@pytest.mark.parametrize("name", ["snip", "grasp", "fisher", "synflow", "synflow_l2", "px_paths"])
def test_masks_in_force_read_as_weights_of_zero(name: str) -> None:
    net, batches = network(), pairs(2, 3)
    masks = prune(net, (), 0.4, Magnitude())
    under = criterion(name).score(net, batches, masks)
    masks.apply(net)
    assert same(under, criterion(name).score(net, batches))
    assert not any(under[n][~mask].any() for n, mask in masks.items())


@pytest.mark.parametrize("name", WITH_LOSS)
def test_batches_that_a_loss_cannot_read_are_refused(name: str) -> None:
    net, ((images, labels),) = network(), pairs(2)
    rank = criterion(name)
    for wrong in ([images], [(images, None)], [(images, labels[:1])]):
        with pytest.raises(InputError, match="a pair of images and as many targets"):
            rank.score(net, wrong)
    with pytest.raises(InputError, match="all scores are 0"):
        prune(net, [(images, torch.full_like(labels, 255))], 0.5, rank, rounds=1)


@pytest.mark.parametrize("name", WITH_DATA)
def test_no_batches_are_no_data(name: str) -> None:
    with pytest.raises(InputError, match="at least one batch"):
        criterion(name).score(network(), [])
    for wrong in (None, 5, torch.zeros(2, 2, 5, 5)):
        with pytest.raises(InputError, match="batches must be a list of image tensors"):
            criterion(name).score(network(), wrong)


@pytest.mark.parametrize("name", ["snip", "fisher", "ntksap", "synflow", "px"])
def test_scores_that_are_all_zero_are_not_ranked(name: str) -> None:
    """A layer without weights cuts the network: which weights come first is no reason to keep them."""
    net = network()
    net[7].weight.data.zero_()
    cut = {"7.weight": torch.zeros_like(net[7].weight, dtype=torch.bool)}
    with pytest.raises(InputError, match=r"all scores are 0|no path"):
        scored(criterion(name), net, pairs(2), cut, scope="0")


def test_a_loss_that_is_no_loss_is_refused() -> None:
    net, batches = network(), pairs(2)
    for rank, message in (
        (SNIP(loss=lambda out, target: out), "a loss must be a single number"),
        (SNIP(loss=lambda out, target: out.detach().sum()), "no output of the model depends on a weight in scope"),
        (SNIP(loss=lambda out, target: 1.0), "a loss must be a single number"),
    ):
        with pytest.raises(InputError, match=message):
            rank.score(net, batches)


class Two(nn.Module):
    """Returns its outputs in a structure."""

    def __init__(self, structure) -> None:
        super().__init__()
        self.layer, self.structure = nn.Conv2d(2, 3, 1).double(), structure

    def forward(self, x: Tensor):
        out = self.layer(x)
        return self.structure(out)


@pytest.mark.parametrize("rank", [SNIP, GraSP, Fisher])
def test_outputs_in_a_structure_need_a_loss_that_knows_it(rank) -> None:
    plain, ((x, y),) = Two(lambda out: out), pairs(2)
    for structure, first in (
        (lambda out: (out, 0 * out), lambda out: out[0]),
        (lambda out: {"out": out}, lambda out: out["out"]),
    ):
        net = Two(structure)
        net.load_state_dict(plain.state_dict())
        with pytest.raises(InputError, match="cross-entropy needs one tensor of logits, but the model returns a"):
            rank().score(net, [(x, y)])

        def loss(out, target, first=first) -> Tensor:
            return nn.functional.cross_entropy(first(out), target, ignore_index=255)

        assert same(rank(loss=loss).score(net, [(x, y)]), rank().score(plain, [(x, y)]))


@pytest.mark.parametrize("name", ["snip", "grasp", "fisher", "ntksap", "ntk_trace", "px_paths"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    net = network().to(dtype)
    batches = [(x.to(dtype), y) for x, y in pairs(2, 3)]
    scores = criterion(name).score(net, batches)
    wide = criterion(name).score(net.float(), [(x.float(), y) for x, y in batches])
    assert all(torch.equal(score, wide[n]) for n, score in scores.items())


@pytest.mark.parametrize("name", WITH_DATA)
def test_in_float32_too_the_order_of_the_batches_changes_no_bit(name: str) -> None:
    net = network().float()
    batches = [(x.float(), y) for x, y in pairs(2, 2, 2, 2, 2, 2, 2)]
    first, second = (
        criterion(name).score(net, batches),
        criterion(name).score(net, [batches[i] for i in (3, 0, 6, 5, 1, 4, 2)]),
    )
    assert all(torch.equal(score, second[n]) for n, score in first.items())


@pytest.mark.parametrize("name", WITH_LOSS)
def test_batches_made_in_inference_mode_are_as_good(name: str) -> None:
    net = network()
    with torch.inference_mode():
        batches = pairs(2, 3)
    assert same(criterion(name).score(net, batches), criterion(name).score(net, pairs(2, 3)))


def test_a_criterion_may_be_given_a_scope_that_can_be_read_once() -> None:
    for name in CRITERIA:
        if name not in ("dense", "imp"):
            scores = criterion(name).score(network(), pairs(2), scope=(part for part in ("0", "7")))
            assert list(scores) == ["0.weight", "7.weight"]


class Forgetful(Criterion):
    """Reads the batches without having said so."""

    def score(self, model, batches=(), masks=None, scope=None, group=None):
        mean = sum(images.mean() for images, _ in batches)
        return {name: weight.detach() * mean for name, weight in prunable(model, scope).items()}


class Indifferent(Criterion):
    def score(self, model, batches=(), masks=None, scope=None, group=None):
        return {name: torch.zeros_like(weight) for name, weight in prunable(model, scope).items()}


def test_a_criterion_that_says_it_needs_no_data_gets_none() -> None:
    with pytest.raises(InputError, match="Forgetful reads the batches: set needs_data = True"):
        prune(network(), pairs(2), 0.5, Forgetful())
    with pytest.raises(InputError, match="all scores are 0"):
        prune(network(), pairs(2), 0.5, Indifferent())


def test_one_sample_is_no_batch_to_normalise_by() -> None:
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1))
    batch = torch.randn(1, 2, 5, 5), torch.zeros(1, 1, 1, dtype=torch.long)
    for rank in (SNIP(), GraSP(), NTKSAP()):
        with pytest.raises(InputError, match="batches of at least 2"):
            rank.score(net, [batch])
    assert Fisher().score(net, [batch])


def test_settings_that_make_no_sense_are_refused() -> None:
    for name, settings, message in (
        ("grasp", {"temperature": 0}, "temperature must be a number above 0"),
        ("grasp", {"temperature": "hot"}, "temperature must be a number, such as 200.0"),
        ("ntksap", {"resamplings": 1.5}, "resamplings must be a whole number, such as 1"),
        ("imp", {"keep": 1.0}, "keep must be below 1"),
        ("imp", {"epochs": 0}, "epochs must be a whole number above 0"),
        ("snip", {"loss": 1}, "no setting loss; it has none"),
        ("grasp", {"name": 1}, "no setting name; it has temperature"),
        ("random", {"seed": "one"}, "seed must be a whole number"),
        ("px", {"bn": ["fold"]}, "bn must be text, such as 'fold'"),
        ("px", {"precision": ["float64"]}, "PX has no precision"),
    ):
        with pytest.raises(InputError, match=message):
            criterion(name, **settings)
    with pytest.raises(InputError, match="dense prunes nothing"):
        prune(network(), (), 0.5, criterion("dense"))
    assert prune(network(), (), 0, criterion("dense")).sparsity == 0


@pytest.mark.parametrize("name", WITH_DATA)
def test_the_order_of_the_batches_does_not_matter(name: str) -> None:
    net, batches = network(), pairs(2, 3, 2)
    assert_close(criterion(name).score(net, batches), criterion(name).score(net, batches[::-1]), 1e-9)
