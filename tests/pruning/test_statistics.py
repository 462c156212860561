"""Statistics of the pruning batches, against torch's own cumulative averages on a copy."""

import copy

import pytest
import torch
from helpers.cases import by_training_mode, network, pairs, same
from torch import nn

from px_seg import PX, InputError, Magnitude, criterion, prune
from px_seg.pruning.statistics import lent_statistics, statistics_of


def test_px_reads_norms_by_the_batches_under_its_masks() -> None:
    net, batches = network(), pairs(2, 3, 2)
    masks = prune(net, (), 0.4, Magnitude())
    copied = by_training_mode(net, batches, masks)
    before = copy.deepcopy(net.state_dict())
    scores = PX(statistics="batches").score(net, batches, masks)
    assert same(scores, PX().score(copied, batches, masks))
    assert not same(scores, PX().score(net, batches, masks))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_they_have_the_names_of_buffers_and_are_only_lent() -> None:
    net, batches = network(), pairs(4)
    own, found = copy.deepcopy(net.state_dict()), statistics_of(net, batches)
    assert list(found) == ["1.running_mean", "1.running_var", "5.running_mean", "5.running_var"]
    with lent_statistics(net, found):
        assert torch.equal(net[1].running_mean, found["1.running_mean"])
    assert all(torch.equal(value, own[name]) for name, value in net.state_dict().items())
    assert net[1].momentum == 0.1


def test_what_has_no_statistics_is_refused() -> None:
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1))
    with pytest.raises(InputError, match="batches of at least 2"):
        PX(statistics="batches").score(net, [torch.randn(1, 2, 5, 5)])
    with pytest.raises(InputError, match="at least one batch"):
        statistics_of(net, [])
    for settings, message in (
        ({"statistics": "median"}, "PX has no statistics='median': choose one of own, batches"),
        ({"bn": "frozen"}, "PX has no bn='frozen': choose one of fold, batch, released"),
    ):
        with pytest.raises(InputError, match=message):
            criterion("px", **settings)


def test_variances_beyond_half_precision_are_kept() -> None:
    net, batches = network().float(), [x.float() for x, _ in pairs(4)]
    net[0].weight.data *= 1e4
    half = PX(statistics="batches").score(net.half(), batches)
    wide = PX(statistics="batches").score(net.float(), batches)
    for name, score in half.items():
        torch.testing.assert_close(score, wide[name], rtol=1e-3, atol=0)
