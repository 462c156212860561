"""A task is data, network, loss and metric. Tasks differ here and nowhere else."""

from collections.abc import Iterable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassConfusionMatrix

from px_seg import data
from px_seg.config import RunConfig
from px_seg.data.base import IGNORE
from px_seg.data.loaders import Transformed
from px_seg.data.transforms import evaluation, training
from px_seg.metrics import segmentation_scores
from px_seg.models import build_segmenter


class Task(Protocol):
    """What pruning, training and reporting ask of a task."""

    name: str
    scope: str
    """The part of the model that is pruned, and trained at the backbone's learning rate."""
    metrics: tuple[str, ...]
    """Names of the single-number scores, the main one first."""
    classes: tuple[str, ...]
    train: Transformed
    val: Transformed

    def build_model(self) -> nn.Module:
        """The dense network at its start; what is random comes from torch's global generator."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """A differentiable scalar."""

    def predict(self, model: nn.Module, images: Tensor) -> Tensor:
        """Predicted classes of a batch of images."""

    def evaluate(self, model: nn.Module, loader: DataLoader, device: torch.device) -> dict[str, Any]:
        """Scores over the images of all processes, under the names that results.json uses."""


class Segmentation:
    """Semantic segmentation: DeepLabV3+, cross-entropy with ignored pixels, mIoU.

    Raises InputError when the configuration's data is not there or does not fit.
    """

    name = "seg"
    scope = "encoder"
    metrics = ("miou", "pixel_accuracy")

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        train, val = data.load(config.data)
        self.classes = train.classes
        self.stride = config.output_stride
        self.train = Transformed(train, training(config.data.size, tuple(config.data.scale), self.stride))
        self.val = Transformed(val, evaluation(config.data.evaluation, config.data.size))

    def build_model(self) -> nn.Module:
        """DeepLabV3+ on the configured encoder, dense, its logits one channel a class."""
        config = self.config
        return build_segmenter(config.encoder, len(self.classes), config.weights, config.output_stride)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy over the labelled pixels; logits (N, C, H, W), labels (N, H, W).

        0 when every pixel of the batch is ignored.
        """
        total = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")
        return total / (labels != IGNORE).sum().clamp(min=1)

    def predict(self, model: nn.Module, images: Tensor) -> Tensor:
        """Class of every pixel, (N, H, W) int64, of images (N, 3, H, W) of any size.

        The images are padded at the right and below to what the network accepts, and the
        prediction is cropped back.
        """
        height, width = images.shape[-2:]
        padded = F.pad(images, (0, -width % self.stride, 0, -height % self.stride))
        return model(padded)[..., :height, :width].argmax(1)

    def evaluate(self, model: nn.Module, loader: DataLoader, device: torch.device) -> dict[str, Any]:
        """`miou`, `pixel_accuracy` and `class_iou`, the last by class name with None where absent.

        They are read off one confusion matrix, summed over the images of all processes.
        """
        metric = MulticlassConfusionMatrix(len(self.classes), ignore_index=IGNORE, validate_args=False).to(device)
        model.eval()
        with torch.inference_mode():
            for batch in loader:
                for images, labels in _same_size(batch):
                    metric.update(self.predict(model, images.to(device)), labels.to(device))
            scores = segmentation_scores(metric.compute())
        return {
            "miou": scores.miou,
            "pixel_accuracy": scores.pixel_accuracy,
            "class_iou": dict(zip(self.classes, scores.class_iou, strict=True)),
        }


def _same_size(batch: Iterable[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """The samples of a batch stacked by image size."""
    groups: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
    for image, labels in batch:
        groups.setdefault(image.shape, []).append((image, labels))
    return [(torch.stack([s[0] for s in g]), torch.stack([s[1] for s in g])) for g in groups.values()]
