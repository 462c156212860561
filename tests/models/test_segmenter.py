"""Segmenters at both output strides."""

import pytest
import torch
from torch import nn

from px_seg import build_segmenter


@pytest.mark.parametrize(("stride", "dilations"), [(16, {6, 12, 18}), (8, {12, 24, 36})])
def test_the_output_stride_decides_the_aspp_rates(stride: int, dilations: set[int]) -> None:
    model = build_segmenter("resnet50", classes=7, weights="none", output_stride=stride).eval()
    aspp = model.decoder.aspp[0]
    assert {m.dilation[0] for m in aspp.modules() if isinstance(m, nn.Conv2d)} - {1} == dilations
    with torch.no_grad():
        x = torch.zeros(1, 3, 64, 64)
        assert model.encoder(x)[-1].shape == (1, 2048, 64 // stride, 64 // stride)
        assert model(x).shape == (1, 7, 64, 64)
