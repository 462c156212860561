"""The images that a run keeps."""

import pytest
import torch

from px_seg import InputError, predictions
from px_seg.predictions import Prediction


def test_samples_come_back_and_damaged_ones_are_named(tmp_path) -> None:
    path = tmp_path / "samples.npz"
    whole = Prediction.of(torch.zeros(2, 3, 3, dtype=torch.uint8), torch.tensor([[1, 2, 255]] * 2), torch.ones(2, 3))
    single = Prediction.of(torch.zeros(4, 4, 3, dtype=torch.uint8), 7, 8)
    predictions.save(path, [whole, single], ["a", "é"])
    (first, second), classes = predictions.load(path)
    assert classes == ["a", "é"]
    assert first.truth.tolist() == [[1, 2, 255]] * 2
    assert (int(second.truth), int(second.predicted)) == (7, 8)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(InputError, match="missing or damaged"):
        predictions.load(path)
