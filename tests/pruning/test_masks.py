"""Masks: what is one, what they keep, their files, and weights that stay 0."""

import copy

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from px_seg import InputError, Magnitude, Masks, Random, build_classifier, criterion, prunable, prune
from px_seg.pruning import Provenance


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 5, 1))


def test_only_zero_and_one_is_a_mask() -> None:
    assert Masks({"a": torch.tensor([0.0, 1.0])})["a"].dtype == torch.bool
    with pytest.raises(ValueError, match="a holds values other than 0 and 1"):
        Masks({"a": torch.tensor([0.0, 0.5])})


def test_counts() -> None:
    masks = Masks({"a": torch.tensor([True, False, False]), "b": torch.tensor([[True]])})
    assert (masks.total, masks.kept, masks.density, masks.sparsity) == (4, 2, 0.5, 0.5)
    assert masks.densities() == {"a": 1 / 3, "b": 1.0}


def test_keep_top_ranks_over_all_tensors() -> None:
    masks = Masks({"a": torch.ones(3, dtype=torch.bool), "b": torch.ones(2, dtype=torch.bool)})
    kept = masks.keep_top({"a": torch.tensor([5.0, 1, 3]), "b": torch.tensor([4.0, 2])}, 0.6)
    assert kept["a"].tolist() == [True, False, True]
    assert kept["b"].tolist() == [True, False]


def test_ties_go_to_the_first_and_the_count_is_exact() -> None:
    masks = Masks({"a": torch.ones(4, dtype=torch.bool), "b": torch.ones(4, dtype=torch.bool)})
    kept = masks.keep_top({"a": torch.zeros(4), "b": torch.tensor([1.0, 0, 0, 0])}, 0.5)
    assert kept["a"].tolist() == [True, True, True, False]
    assert kept["b"].tolist() == [True, False, False, False]


def test_a_pruned_weight_never_returns() -> None:
    masks = Masks({"a": torch.tensor([False, True, True, True])})
    assert masks.keep_top({"a": torch.tensor([9.0, 1, 2, 3])}, 0.25)["a"].tolist() == [False, False, False, True]
    with pytest.raises(ValueError, match="cannot keep 4 weights: 3 of 4"):
        masks.keep_top({"a": torch.ones(4)}, 1.0)


def test_scores_that_cannot_be_ranked_are_refused() -> None:
    masks = Masks({"a": torch.ones(4, dtype=torch.bool)})
    for wrong in (torch.nan, -torch.inf, torch.inf):
        with pytest.raises(ValueError, match="scores of a hold NaN or infinity"):
            masks.keep_top({"a": torch.tensor([1.0, wrong, 0, 0])}, 0.5)
    with pytest.raises(ValueError, match=r"no score of shape \(4,\) for a"):
        masks.keep_top({"a": torch.ones(3)}, 0.5)


def test_prunable_names_the_weights_in_scope(net: nn.Module) -> None:
    tree = nn.ModuleDict({"encoder": net, "encoder2": nn.Linear(2, 2)})
    assert list(prunable(tree, "encoder")) == ["encoder.0.weight", "encoder.3.weight"]
    assert list(prunable(tree)) == ["encoder.0.weight", "encoder.3.weight", "encoder2.weight"]
    assert list(prunable(tree, ["encoder.3", "encoder2"])) == ["encoder.3.weight", "encoder2.weight"]
    with pytest.raises(InputError, match="under 'decoder'; the model's parts are: encoder, encoder2"):
        prunable(tree, "decoder")


def test_prune_keeps_exactly_what_was_asked_and_leaves_the_model_alone(net: nn.Module) -> None:
    before = {name: value.clone() for name, value in net.state_dict().items()}
    seen = []
    masks = prune(net, (), 0.7, Magnitude(), rounds=5, on_round=lambda number, m: seen.append((number, m.kept)))
    assert masks.kept == round(0.3 * masks.total)
    assert seen == [(r, round(0.3 ** (r / 5) * masks.total)) for r in range(1, 6)]
    weights = torch.cat([weight.flatten() for weight in prunable(net).values()]).abs()
    live = torch.cat([mask.flatten() for mask in masks.values()])
    assert weights[live].min() > weights[~live].max()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("sparsity", "rounds", "message"), [(1.0, 1, "sparsity"), (-0.1, 1, "sparsity"), (0.5, 0, "rounds")]
)
def test_impossible_requests_are_refused(net: nn.Module, sparsity: float, rounds: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        prune(net, (), sparsity, Magnitude(), rounds=rounds)
    with pytest.raises(InputError, match="choose one of dense, random, random_erk, magnitude, snip"):
        criterion("sparkle")


def test_a_file_gives_the_same_masks_back(net: nn.Module, tmp_path) -> None:
    masks = prune(net, (), 0.5, Random(seed=7), scope=(name for name in ("0", "3")))
    masks = masks.with_provenance(notes={"data": "none"}, seconds=1.5, shuffled=True, seed=3)
    path = tmp_path / "masks.safetensors"
    masks.save(path)
    loaded = Masks.load(path)
    assert list(loaded) == list(masks)
    assert all(torch.equal(loaded[name], masks[name]) for name in masks)
    assert (
        loaded.provenance
        == masks.provenance
        == Provenance(
            **{"criterion": "Random", "settings": {"seed": 7}, "sparsity": 0.5, "rounds": 1, "scope": ("0", "3")},
            **{
                "ranking": "global",
                "granularity": "weight",
                "seconds": 1.5,
                "shuffled": True,
                "seed": 3,
                "notes": {"data": "none"},
            },
        )
    )
    assert path.stat().st_size < masks.total / 8 + 1000


def test_files_that_are_no_masks_are_refused(net: nn.Module, tmp_path) -> None:
    with pytest.raises(InputError, match="no mask file"):
        Masks.load(tmp_path / "missing")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(InputError, match="not a readable mask file"):
        Masks.load(tmp_path / "text")
    save_file({"a": torch.ones(1)}, tmp_path / "weights")
    with pytest.raises(InputError, match="holds no masks"):
        Masks.load(tmp_path / "weights")
    with pytest.raises(InputError, match=r"mask of 0.weight has shape \(2,\)"):
        Masks({"0.weight": torch.ones(2)}).apply(net)
    with pytest.raises(InputError, match="which the model does not have"):
        Masks({"1.5.weight": torch.ones(2)}).check(net)


class Restless(torch.optim.SGD):
    """Moves every weight, whatever its gradient."""

    def step(self, closure=None):
        super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.add_(1e-3)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
        lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
        lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.1, amsgrad=True),
        lambda p: torch.optim.Rprop(p, lr=0.1),
        lambda p: Restless(p, lr=0.1, momentum=0.9),
    ],
)
def test_pruned_weights_stay_zero_under_any_optimizer(net: nn.Module, make, generator) -> None:
    # State from before the pruning, momentum above all, must not revive anything either.
    optimizer = make(net.parameters())

    def step() -> None:
        optimizer.zero_grad()
        net(torch.randn(4, 3, 8, 8, generator=generator)).square().sum().backward()
        optimizer.step()

    step()
    remembered = copy.deepcopy(optimizer.state_dict())
    masks = prune(net, (), 0.7, Magnitude())
    with masks.hold(net, optimizer):
        for number in range(5):
            step()
            assert masks.revived(net.state_dict()) == {}
            assert not net[0].weight.grad[~masks["0.weight"]].any()
            if number == 2:
                optimizer.load_state_dict(remembered)
    assert net[0].weight[masks["0.weight"]].all()
    step()
    assert masks.revived(net.state_dict())


def test_clipping_sees_a_sparse_gradient(net: nn.Module, generator) -> None:
    """Between the backward pass and the step, also where gradients accumulate."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    masks = prune(net, (), 0.7, Magnitude())
    with masks.hold(net, optimizer):
        for _ in range(2):
            net(torch.randn(4, 3, 8, 8, generator=generator)).square().sum().backward()
            for name, mask in masks.items():
                assert not net.get_parameter(name).grad[~mask].any()
                assert net.get_parameter(name).grad[mask].any()


def test_a_gradient_that_goes_to_two_weights_is_silenced_in_one() -> None:
    """Autograd may hand both the same tensor."""
    net = nn.ModuleDict({"a": nn.Linear(3, 1, bias=False), "b": nn.Linear(3, 1, bias=False)})
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    masks = Masks({"a.weight": torch.tensor([[True, False, True]])})
    with masks.hold(net, optimizer):
        (net["a"].weight + net["b"].weight).sum().backward()
    assert net["a"].weight.grad.tolist() == [[1, 0, 1]]
    assert net["b"].weight.grad.tolist() == [[1, 1, 1]]


def test_a_file_must_cover_what_it_was_made_for(tmp_path) -> None:
    """All names and shapes of ResNet-18 occur in ResNet-34."""
    masks = prune(build_classifier("resnet18", 3, "none"), (), 0.5, Magnitude(), "encoder")
    masks.save(tmp_path / "masks.safetensors")
    assert Masks.load(tmp_path / "masks.safetensors", build_classifier("resnet18", 9, "none")) == masks
    with pytest.raises(InputError, match=r"leave out 16 of the weights, such as encoder.layer1.2.conv1.weight"):
        masks.apply(build_classifier("resnet34", 3, "none"))
    with pytest.raises(InputError, match=r"not for this model: the masks leave out 16 of the weights"):
        Masks.load(tmp_path / "masks.safetensors", build_classifier("resnet34", 3, "none"))
    with pytest.raises(InputError, match="is a folder: name the mask file in it"):
        Masks.load(tmp_path)
