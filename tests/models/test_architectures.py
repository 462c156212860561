"""Decoders and heads around one backbone: what each says of itself is so, and those with paths are pruned by them."""

import pytest
import torch
from helpers.compacting import assert_same, masked
from helpers.runs import go, parsed

from px_seg import (
    PX,
    InputError,
    Masks,
    UnsupportedOperation,
    build_segmenter,
    compact,
    load_model,
    predict,
    prunable,
    prune,
)
from px_seg.models import ARCHITECTURES, stride_for
from px_seg.run.folder import default_folder


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_is_what_it_says(name: str, generator: torch.Generator) -> None:
    about = ARCHITECTURES[name]
    model = build_segmenter("resnet18", 5, None, architecture=name).eval()
    stride = stride_for(name, 16)
    assert model.encoder.output_stride == stride
    # 128 pixels are what PAN's pooling takes at least.
    side = 128 if name == "pan" else 2 * stride
    images = torch.randn(1, 3, side, side, generator=generator)
    logits = model(images)
    assert logits.shape == (1, 5, side, side)
    # No part of the backbone is there for nothing, to be pruned first.
    logits.sum().backward()
    assert [name for name, weight in prunable(model, "encoder").items() if weight.grad is None] == []
    if about.without_paths is None:
        masks = prune(model, [images], 0.5, PX(), "encoder", rounds=1)
        assert masks.sparsity == pytest.approx(0.5, abs=1e-4)
    else:
        with pytest.raises(UnsupportedOperation, match=r"decoder\..*: torch's .* is not defined"):
            prune(model, [images], 0.5, PX(), "encoder", rounds=1)
    model.train()
    if about.pooled:
        with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
            model(images)
    else:
        model(images)


@pytest.mark.parametrize("name", [name for name, about in ARCHITECTURES.items() if about.without_paths is None])
def test_one_with_paths_is_made_smaller_without_a_change(name: str, generator: torch.Generator) -> None:
    model = build_segmenter("resnet18", 4, None, architecture=name).double().eval()
    side = 2 * stride_for(name, 16)
    images = torch.randn(2, 3, side, side, generator=generator, dtype=torch.float64)
    masks = prune(model, [images], 0.8, PX(), "encoder", rounds=2, granularity="filter")
    small = compact(model, masks, (3, side, side))
    assert sum(p.numel() for p in small.parameters()) < 0.9 * sum(p.numel() for p in model.parameters())
    assert_same(masked(model, masks), small, images)


@pytest.mark.parametrize(("name", "method"), [("unet", "px"), ("fpn", "ntk_trace")])
def test_a_run_takes_another_architecture(name: str, method: str, tiny, tmp_path) -> None:
    out = tmp_path / "out"
    results = go("--config", tiny, "--architecture", name, "--method", method, "--data.size", 40, "--output_dir", out)
    assert (results["architecture"], results["output_stride"]) == (name, 32)
    model = load_model(out)
    assert type(model) is ARCHITECTURES[name].kind
    assert Masks.load(out / "masks.safetensors").revived(model.state_dict()) == {}
    assert predict(model, torch.randint(256, (37, 50, 3), dtype=torch.uint8).numpy()).shape == (37, 50)


def test_what_has_no_paths_is_refused_by_name_before_data_is_read(tiny, tmp_path) -> None:
    flags = ("--config", tiny, "--data.root", "nowhere", "--data.name", "voc2012", "--output_dir", tmp_path / "out")
    for name, method, message in (
        ("fpn", "px", "px scores by paths, which fpn has none of, by its group normalisation: choose a method such as"),
        ("manet", "synflow", "synflow scores by paths, which manet has none of, by its attention"),
        ("upernet", "px_paths", "one of the architectures deeplabv3plus, deeplabv3, unet, unetplusplus, linknet, psp"),
        ("u-net", "px", "there is no architecture 'u-net': choose one of deeplabv3plus, deeplabv3, unet"),
    ):
        with pytest.raises(InputError, match=message):
            go(*flags, "--architecture", name, "--method", method)
    with pytest.raises(InputError, match=r"data.size must be at least 128 for pan, got 32"):
        go("--config", tiny, "--architecture", "pan", "--method", "random", "--output_dir", tmp_path / "out")
    with pytest.raises(InputError, match="Unet cannot be built on resnet20, which is for classifying small images"):
        build_segmenter("resnet20", architecture="unet")


def test_its_runs_have_a_folder_of_their_own(tiny) -> None:
    config = parsed("--config", tiny, "--architecture", "unet")
    assert "/unet-tu-test_resnet/" in str(default_folder("seg", config))
