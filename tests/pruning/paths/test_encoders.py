"""Encoders as their libraries make them: scored without edits, and right."""

import math
import random

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from helpers.networks import unsettled
from helpers.reference import Reference

from px_seg import PX, UnsupportedOperation

get = smp.encoders.get_encoder


@pytest.mark.parametrize(
    "build",
    [
        lambda: torchvision.models.resnet18(num_classes=3),
        lambda: torchvision.models.efficientnet_b0(num_classes=3),
        lambda: get("resnext50_32x4d", weights=None),
        lambda: get("se_resnet50", weights=None),
        lambda: get("timm-efficientnet-b0", weights=None),
        lambda: get("timm-tf_efficientnet_lite0", weights=None),
        lambda: get("tu-resnet50_clip", weights=None),
        lambda: get("tu-resnetblur50", weights=None),
        lambda: get("densenet121", weights=None),
        lambda: get("efficientnet-b0", weights=None),
    ],
    ids=[
        *("resnet18", "efficientnet_b0", "resnext50", "se_resnet50", "timm-efficientnet-b0", "lite0", "resnet50_clip"),
        *("resnetblur50", "densenet121", "efficientnet-b0"),
    ],
)
def test_scores_of_whole_encoders_are_exact(build) -> None:
    torch.manual_seed(0)
    model = unsettled(build())
    x = [torch.randn(n, 3, 32, 32, dtype=torch.float64) for n in (2, 1)]
    scores, reference = PX().score(model, x), Reference(model, x)
    bound = reference.bound()
    # Every path crosses the first layer; a bound that leaves half the range is divided by a power of two.
    share = scores[next(iter(scores))].sum() / bound
    unit = 2.0 ** round(math.log2(share))
    assert unit == 1 or bound > 2.0**500
    torch.testing.assert_close(share, share.new_tensor(unit), rtol=1e-12, atol=0)
    scores = {name: score / unit for name, score in scores.items()}
    rng = random.Random(0)
    for name in rng.sample([name for name, score in scores.items() if score.max() > 1e-6 * bound], 4):
        # A random one of the higher scores: most are too small a part of the bound to be told by a difference.
        high = (scores[name] > scores[name].max() / 2).nonzero()
        place = tuple(high[rng.randrange(len(high))].tolist())
        slope = (bound - reference.bound(name, place, keep=1 - 1e-4)) / 1e-4  # most have a max-pool, see test_px.py
        torch.testing.assert_close(scores[name][place], slope, rtol=1e-8, atol=1e-11 * bound.item())


RESNETS = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x4d"]
RESNETS += ["se_resnet50", "se_resnext50_32x4d", "tu-resnet50d", "tu-resnetblur50", "tu-ecaresnet26t"]
EFFICIENTNETS = [f"efficientnet-b{n}" for n in range(5)] + [f"timm-efficientnet-b{n}" for n in range(5)]
EFFICIENTNETS += [f"timm-tf_efficientnet_lite{n}" for n in range(5)]
OTHERS = ["vgg11_bn", "densenet121", "mobilenet_v2", "mobileone_s0", "xception", "dpn68", "inceptionv4"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*RESNETS, *EFFICIENTNETS, *OTHERS])
def test_float32_scores_of_every_family_are_finite_and_those_of_float64(name: str) -> None:
    torch.manual_seed(0)
    model, x = get(name, weights=None), [torch.randn(1, 3, 64, 64)]
    single, double = PX().score(model, x), PX(precision="float64").score(model, x)
    unit = sum(s.double().sum() for s in single.values()) / sum(s.sum() for s in double.values())
    for weight, score in single.items():
        assert score.isfinite().all()
        # In sum over the elements: a gate may flip where the activation is 0 to float32.
        assert (score.double() - unit * double[weight]).abs().sum() <= 1e-3 * score.double().sum()


@pytest.mark.parametrize(
    ("build", "culprit"),
    [
        (lambda: get("mit_b0", weights=None), r"patch_embed1\.norm \(LayerNorm\): torch's layer_norm"),
        (lambda: get("timm-skresnet18", weights=None), r"layer1\.0\.conv1\.attn .*softmax"),
        (lambda: timm.create_model("resnet50_clip"), r"head \(AttentionPool2d\): .*attention"),
        (lambda: torchvision.models.swin_t(), r"\(LayerNorm\): torch's layer_norm"),
    ],
    ids=["mit_b0", "skresnet18", "resnet50_clip with its head", "swin_t"],
)
def test_encoders_with_attention_are_refused_by_name(build, culprit: str) -> None:
    with pytest.raises(UnsupportedOperation, match=culprit):
        PX().score(build(), [torch.randn(1, 3, 224, 224)])
