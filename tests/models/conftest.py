"""Weights that several files read."""

import pytest
from helpers.published import noise
from torch import Tensor
from torchvision.models import resnet50


@pytest.fixture(scope="module")
def trunk() -> dict[str, Tensor]:
    """A ResNet-50 in torchvision's names, without its classifier."""
    return noise({name: value for name, value in resnet50().state_dict().items() if not name.startswith("fc.")})
