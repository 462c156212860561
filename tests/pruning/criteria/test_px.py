"""PX is given what it can score, or says what is wrong."""

import pytest
import torch
import torch.nn.functional as F
from helpers.networks import Body
from torch import nn

from px_seg import PX, InputError, Magnitude, UnsupportedOperation, prunable, prune
from px_seg.analysis import ntk_trace, ntk_trace_bound


@pytest.mark.parametrize("where", ["bias", "running_mean", "images"])
def test_what_is_not_finite_is_refused(where: str) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    x = torch.randn(2, 3, 4, 4)
    {"bias": net[0].bias.data, "running_mean": net[1].running_mean, "images": x[0, 0, 0]}[where][0] = torch.nan
    with pytest.raises(InputError, match="not finite"):
        PX().score(net, [x])


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (torch.randn(2, 3, 8, 8), "batches must be a list of image tensors, got a single tensor"),
        ([{"image": torch.randn(2, 3, 8, 8)}], "got dict"),
        ([None], "got NoneType"),
        ([torch.empty(0, 3, 8, 8)], r"\(0, 3, 8, 8\)"),
        ([torch.zeros(2, 3, 8, 8, dtype=torch.complex64)], "complex64"),
    ],
    ids=["tensor", "dict", "None", "empty", "complex"],
)
def test_batches_that_are_none_are_refused(batches, message: str) -> None:
    for use in (lambda net: PX().score(net, batches), lambda net: prune(net, batches, 0.5, PX())):
        with pytest.raises(InputError, match=message):
            use(Body(F.relu))


def test_masks_that_px_would_not_read_are_refused() -> None:
    net, x = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), [torch.randn(2, 3, 4, 4)]
    with pytest.raises(InputError, match=r"mask of 1\.weight is not for the weight of a convolution"):
        PX().score(net, x, {"1.weight": torch.ones(4)})
    for use in (PX().score, ntk_trace, ntk_trace_bound):
        with pytest.raises(InputError, match=r"mask of 0\.weight holds values other than 0 and 1"):
            use(net, x, {"0.weight": torch.full((4, 3, 1, 1), 0.5)})


def test_tied_weights_have_the_models_own_name() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    net[2].weight = net[0].weight
    assert list(prunable(net, "2")) == ["0.weight"]
    masks = prune(net, [torch.randn(3, 4)], 0.5, PX(), scope="2", rounds=2)
    masks.apply(net)
    assert masks.kept == 8


def test_computed_weights_are_refused_and_not_computed() -> None:
    net = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 3))).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(InputError, match=r"the weight of 0 .* is computed from other parameters"):
        PX().score(net, [torch.randn(1, 3, 8, 8)])
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_requests_that_make_no_sense_are_refused() -> None:
    net, x = Body(F.relu), [torch.randn(1, 3, 4, 4)]
    net.unused = nn.Linear(2, 2)
    for arguments, message in (
        ({"scope": []}, "the scope is empty"),
        ({"scope": "unused"}, "no output of the model depends on a weight in scope"),
        ({"rounds": 2.5}, "rounds must be a whole number"),
        ({"criterion": PX}, r"criterion must be an object such as PX\(\)"),
        ({"sparsity": 0.99}, "keeps none of the 24 weights in scope"),
    ):
        with pytest.raises(InputError, match=message):
            prune(net, x, **{"sparsity": 0.5, "criterion": PX(), "rounds": 2} | arguments)
    with pytest.raises(UnsupportedOperation, match="an output of the model is that of a sigmoid"):
        PX().score(nn.Sequential(net, nn.Sigmoid()), x)


def test_other_criteria_need_no_batches() -> None:
    assert prune(Body(F.relu), (), 0.5, Magnitude()).sparsity == 0.5


def test_a_network_without_a_path_is_refused(generator) -> None:
    net, x = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), torch.randn(3, 4, generator=generator)
    with pytest.raises(InputError, match="no path from the input to the output is left"):
        PX().score(net, [x], {"1.weight": torch.zeros(2, 4, dtype=torch.bool)})


@pytest.mark.parametrize("kind", ["unknown name", "shape"])
def test_masks_of_another_model_are_refused_by_name(kind: str) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3))
    masks = {"unknown name": {"1.weight": torch.ones(1)}, "shape": {"0.weight": torch.ones(4, 3, 1, 1)}}[kind]
    with pytest.raises(InputError, match={"unknown name": "1.weight", "shape": "0.weight has shape"}[kind]):
        PX().score(net, [torch.randn(1, 3, 8, 8)], masks)


def test_samples_of_several_shapes_and_no_samples_are_refused() -> None:
    net = nn.Conv2d(3, 3, 1)
    with pytest.raises(ValueError, match="one shape"):
        PX().score(net, [torch.randn(1, 3, 8, 8), torch.randn(1, 3, 9, 8)])
    with pytest.raises(ValueError, match="at least one batch"):
        PX().score(net, [])
    with pytest.raises(InputError, match="fold"):
        PX(bn="unheard of")
