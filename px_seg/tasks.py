"""A task is data, network, loss and metric. Tasks differ here and nowhere else."""

from collections.abc import Iterable, Mapping
from pathlib import Path
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
from px_seg.data.transforms import Transform, evaluation, to_uint8, training
from px_seg.errors import InputError
from px_seg.losses import cross_entropy
from px_seg.metrics import segmentation_scores
from px_seg.models import build_segmenter, check_segmenter
from px_seg.pictures import segmentations

SAMPLES = 5
"""How many validation images samples.png shows."""


LARGEST = 8192
"""Side of a training crop, in pixels, above which the number is taken for a mistake."""


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

    def __init__(self, config: RunConfig) -> None:
        """Find the data. Raises InputError when it is not there."""

    @staticmethod
    def check(config: RunConfig, synchronised: bool) -> None:
        """Raise InputError for settings that need neither data nor network to be refused.

        `synchronised` says whether BatchNorm sees the batches of several processes.
        """

    def build_model(self, weights: str | None = None) -> nn.Module:
        """The dense network at its start; what is random comes from torch's global generator.

        `weights` replaces the configured start of the backbone.
        """

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """A differentiable scalar."""

    def predict(self, model: nn.Module, images: Tensor) -> Tensor:
        """Predicted classes of a batch of images."""

    def evaluate(self, model: nn.Module, loader: DataLoader, device: torch.device) -> dict[str, Any]:
        """Scores over the images of all processes, under the names that results.json uses."""

    def report(self, scores: Mapping[str, Any]) -> list[str]:
        """The scores beyond `metrics`, as lines of the table for a terminal."""

    def draw(self, folder: Path, model: nn.Module, title: str) -> None:
        """Write the pictures that show what the model does on validation data."""


class Segmentation:
    """Semantic segmentation: DeepLabV3+, cross-entropy with ignored pixels, mIoU.

    Raises InputError when the configuration's data is not there or does not fit.
    """

    name = "seg"
    scope = "encoder"
    metrics = ("miou", "pixel_accuracy")

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.stride = config.output_stride
        train_transform, val_transform = self._transforms(config)
        train, val = data.load(config.data)
        self.classes = train.classes
        self.train, self.val = Transformed(train, train_transform), Transformed(val, val_transform)

    @staticmethod
    def _transforms(config: RunConfig) -> tuple[Transform, Transform]:
        size = config.data.size
        if not 1 <= size <= LARGEST:
            raise InputError(f"data.size must be at least 1 and at most {LARGEST}, got {size}")
        train = training(size, config.data.scale, config.output_stride)
        return train, evaluation(config.data.evaluation, size)

    @staticmethod
    def check(config: RunConfig, synchronised: bool) -> None:
        check_segmenter(config.encoder, config.weights, config.output_stride)
        Segmentation._transforms(config)
        if config.batch_size < 2 and not synchronised:
            raise InputError(
                f"batch_size must be at least 2, got {config.batch_size}: BatchNorm in DeepLabV3+'s image pooling "
                "sees one value a channel in each image; --sync_bn on several GPUs lifts this"
            )

    def build_model(self, weights: str | None = None) -> nn.Module:
        """DeepLabV3+ on the configured encoder, dense, its logits one channel a class."""
        config = self.config
        start = config.weights if weights is None else weights
        return build_segmenter(config.encoder, len(self.classes), start, config.output_stride)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy over the labelled pixels; logits (N, C, H, W), labels (N, H, W).

        0 when every pixel of the batch is ignored.
        """
        return cross_entropy(logits, labels, IGNORE)

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

    def report(self, scores: Mapping[str, Any]) -> list[str]:
        rows = (
            f"    {name:<20}{'absent' if iou is None else f'{iou:.2%}':>8}" for name, iou in scores["class_iou"].items()
        )
        return ["  IoU by class", *rows]

    def draw(self, folder: Path, model: nn.Module, title: str) -> None:
        """samples.png: images, truth and prediction."""
        last = len(self.val) - 1
        chosen = sorted({round(last * place / (SAMPLES - 1)) for place in range(SAMPLES)})
        device = next(model.parameters()).device
        model.eval()
        rows = []
        with torch.inference_mode():
            for index in chosen:
                image, truth = self.val[index, 0]
                rows.append((to_uint8(image), truth, self.predict(model, image[None].to(device))[0].cpu()))
        segmentations(folder / "samples.png", rows, self.classes, title)


def _same_size(batch: Iterable[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """The samples of a batch stacked by image size."""
    groups: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
    for image, labels in batch:
        groups.setdefault(image.shape, []).append((image, labels))
    return [(torch.stack([s[0] for s in g]), torch.stack([s[1] for s in g])) for g in groups.values()]
