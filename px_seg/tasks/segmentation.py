"""Semantic segmentation."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from segmentation_models_pytorch.base import SegmentationModel
from torch import Tensor, nn
from torch.utils.data import default_collate

from px_seg import predictions
from px_seg.config import SegmentationConfig
from px_seg.data.base import IGNORE, SegmentationData
from px_seg.data.checked import Check, check_all
from px_seg.data.loaders import Key, Loader, Transformed, all_of, check_pruning_batches, drawn
from px_seg.data.mask_folders import MaskFolders
from px_seg.data.normalisation import Normalisation
from px_seg.data.registry import SEGMENTATION, also_of, found, load, load_also
from px_seg.data.survey import Survey, survey_masks, too_dim
from px_seg.data.transforms import Transform, centre_crop_to_stride, evaluation, to_uint8, training
from px_seg.errors import InputError
from px_seg.metrics import Score, boundary_counts, boundary_iou, confusion_of, segmentation_scores
from px_seg.models import (
    ARCHITECTURES,
    LEAST,
    Views,
    build_segmenter,
    check_segmenter,
    normalisation_of,
    save_model,
    stride_for,
    tell_normalisation,
    viewed_scores,
)
from px_seg.pruning import CRITERIA
from px_seg.pruning.distributed import all_reduce, everyone
from px_seg.tasks.base import TRAINING, VALIDATION, check_parts, check_size, further, spread
from px_seg.tasks.loss_terms import TrainingLoss, check_classes, check_loss, class_weights
from px_seg.tasks.segmentation_losses import SEGMENTATION_LOSSES

BY_CLASS = {
    "class_iou": "IoU",
    "class_boundary_iou": "boundary",
    "class_precision": "precision",
    "class_recall": "recall",
    "class_f1": "F1",
}
"""The scores of every class, and how a table calls them."""

MOST_CHANNELS = 64
"""Of an image; more are taken for a mistake."""

SAMPLES = 5
"""How many validation images samples.png shows."""


class Segmentation:
    """Semantic segmentation: DeepLabV3+ or another decoder, a loss with ignored pixels, mIoU.

    Raises InputError when the configuration's data is not there or does not fit.
    """

    name = "seg"
    about = """Prune the backbone of a segmenter at initialisation, fine-tune the network and evaluate it.

    accelerate launch -m px_seg seg --sparsity 0.8
    accelerate launch -m px_seg seg --data.name voc2012 --data.root data --sparsity 0.9313"""
    config_type = SegmentationConfig
    scope = "encoder"
    scores: tuple[Score, ...] = (Score("miou", "mIoU"), Score("pixel_accuracy", "pixel accuracy"))
    details: tuple[str, ...] = ("class_precision", "class_recall", "class_f1", "class_boundary_iou", "confusion")

    def __init__(self, config: SegmentationConfig) -> None:
        self.config = config
        self.stride = stride_for(config.architecture, config.output_stride)
        self.views = _views(config)
        self.normalisation = _normalisation(config)
        train_transform, val_transform = self._transforms(config, self.normalisation)
        train, val = load(SEGMENTATION, config.data)
        self.classes = train.classes
        check_classes(config, self.classes)
        self.train, self.val = Transformed(train, train_transform), Transformed(val, val_transform)
        self.also = {split: Transformed(data, val_transform) for split, data in load_also(config.data).items()}
        cropped = centre_crop_to_stride(config.data.size, self.stride, self.normalisation)
        self.val_cropped = Transformed(val, cropped)

    @staticmethod
    def _transforms(config: SegmentationConfig, normalisation: Normalisation) -> tuple[Transform, Transform]:
        size = config.data.size
        check_size(size)
        train = training(size, config.data.scale, stride_for(config.architecture, config.output_stride), normalisation)
        return train, evaluation(config.data.evaluation, size, normalisation)

    @staticmethod
    def check(config: SegmentationConfig, synchronised: bool) -> None:
        check_segmenter(config.encoder, config.output_stride, config.architecture)
        _check_paths(config)
        check_loss(config, SEGMENTATION_LOSSES)
        _views(config)
        if not 1 <= config.data.channels <= MOST_CHANNELS:
            raise InputError(f"data.channels must be from 1 to {MOST_CHANNELS}, got {config.data.channels}")
        Segmentation._transforms(config, _normalisation(config))
        least = LEAST.get(ARCHITECTURES[config.architecture].kind.__name__, 0)
        if config.data.size < least:
            raise InputError(f"data.size must be at least {least} for {config.architecture}, got {config.data.size}")
        pooled = ARCHITECTURES[config.architecture].pooled
        if config.batch_size < 2 and pooled and not synchronised and not config.freeze_bn:
            raise InputError(
                f"batch_size must be at least 2, got {config.batch_size}: BatchNorm in the image pooling of "
                f"{config.architecture} sees one value per channel in each image; --freeze_bn, or --sync_bn on several "
                "GPUs, lifts this limit"
            )
        if config.pruning.per_class is not None:
            raise InputError("pruning.per_class is for classification: an image to be segmented has several classes")

    def check_data(self) -> list[str]:
        parts = {TRAINING: self.train, VALIDATION: self.val}
        parts |= further(self.also)
        return check_parts(Segmentation, self.config, {what: own.data for what, own in parts.items()})

    @staticmethod
    def parts(config: SegmentationConfig) -> dict[str, SegmentationData]:
        train, val = found(SEGMENTATION, config.data)
        also = {split: found(SEGMENTATION, own)[1] for split, own in also_of(config.data).items()}
        return {TRAINING: train, VALIDATION: val, **further(also)}

    @staticmethod
    def survey(data: SegmentationData, what: str, check: Check = check_all) -> Survey:
        return survey_masks(data, what, check)

    @staticmethod
    def meaning(data: SegmentationData) -> list[str]:
        return list(data.notes) if isinstance(data, MaskFolders) else []

    @staticmethod
    def problems(config: SegmentationConfig, data: SegmentationData, survey: Survey, what: str) -> list[str]:
        return [*too_dim(data, survey, what), *wrong_labels(data, survey, what, config.data.mostly_void)]

    def build_model(self) -> SegmentationModel:
        """The configured architecture on the configured encoder, dense, its logits one channel a class."""
        config = self.config
        channels = config.data.channels
        model = build_segmenter(
            config.encoder, len(self.classes), "none", config.output_stride, config.architecture, channels
        )
        tell_normalisation(model, self.normalisation)
        return model

    def fit_head(self, model: SegmentationModel, accelerator: Accelerator) -> None:
        """Nothing: decoder and head start random."""

    def pruning_draw(self) -> list[list[Key]]:
        asked = self.config.pruning
        check_pruning_batches(len(self.train), asked.batches, asked.batch_size)
        return drawn(self.train, asked.batches, asked.batch_size, self.config.seed)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The configured loss over the labelled pixels; logits (N, C, H, W), labels (N, H, W).

        0 when every pixel of the batch is ignored.
        """
        return self._loss(logits, labels)

    def labelled(self, labels: Tensor) -> Tensor:
        """How many pixels are not ignored, by the weights of their classes."""
        return self._loss.mass(labels)

    @cached_property
    def _loss(self) -> TrainingLoss:
        terms = check_loss(self.config, SEGMENTATION_LOSSES)
        return TrainingLoss(terms, SEGMENTATION_LOSSES, class_weights(self.config, self._counts))

    def _counts(self) -> Tensor:
        """Training pixels of every class."""
        return torch.from_numpy(survey_masks(self.train.data, TRAINING).pixels()[: len(self.classes)])

    def predict(self, model: nn.Module, images: Tensor) -> Tensor:
        """Class of every pixel, (N, H, W) int64, of images (N, 3, H, W) of any size, in the configured views.

        The images are padded at the right and below to what the network accepts, and the
        prediction is cropped back.
        """
        return viewed_scores(model, images, self.stride, self.views).argmax(1)

    def evaluate(self, model: nn.Module, loader: Loader, device: torch.device) -> dict[str, Any]:
        """`miou`, `pixel_accuracy`, and by class name, with None where absent, `class_iou`, `class_precision`,
        `class_recall`, `class_f1` and `class_boundary_iou`.

        But for the last they are read off one matrix, `confusion`: pixels by true class, in rows, and predicted class,
        summed over the images of all processes.
        """
        classes = len(self.classes)
        counts = torch.zeros(classes, classes, dtype=torch.int64, device=device)
        near = torch.zeros(3, classes, dtype=torch.int64, device=device)
        model.eval()
        with torch.inference_mode():
            for batch in all_of(loader):
                for packed in _same_size(batch):
                    images, labels = self.val.transform.unpacked(*(part.to(device) for part in packed))
                    predicted = self.predict(model, images)
                    counts += confusion_of(labels, predicted, classes, IGNORE)
                    near += boundary_counts(labels, predicted, classes, IGNORE)
        counts, near = (all_reduce(everyone(), part) for part in (counts, near))
        scores = segmentation_scores(counts)
        by_class = {key: getattr(scores, key) for key in ("class_iou", "class_precision", "class_recall", "class_f1")}
        by_class["class_boundary_iou"] = boundary_iou(near)
        return {
            "miou": scores.miou,
            "pixel_accuracy": scores.pixel_accuracy,
            **{key: dict(zip(self.classes, values, strict=True)) for key, values in by_class.items()},
            "confusion": counts.tolist(),
        }

    def settings(self) -> dict[str, Any]:
        config = self.config
        return {
            "architecture": config.architecture,
            "output_stride": self.stride,
            "loss": config.loss,
            "class_weights": config.class_weights,
            "evaluation": asdict(config.evaluation),
        }

    def report(self, scores: Mapping[str, Any]) -> list[str]:
        columns = [scores[key] for key in BY_CLASS]
        rows = (
            f"    {name:<20}" + "".join(f"{'' if one is None else f'{one:.2%}':>10}" for one in shares)
            for name, *shares in ((name, *(column[name] for column in columns)) for name in self.classes)
        )
        return [f"  {'by class':<22}" + "".join(f"{head:>10}" for head in BY_CLASS.values()), *rows]

    def save(self, model: SegmentationModel, folder: Path, card: Mapping[str, Any]) -> None:
        """For `px_seg.load_model` or `segmentation_models_pytorch.from_pretrained`; its images' for albumentations."""
        save_model(model, folder, dataset=self.config.data.name, metrics=dict(card))
        self.val.transform.save(folder)

    def draw(self, folder: Path, model: nn.Module, scores: Mapping[str, Any], title: str) -> None:
        """samples.png and samples.npz: images, truth and prediction; samples_SPLIT.png of every further list.

        And confusion.png, of the pixels of every class.
        """
        from px_seg.plots import confusion, segmentations

        confusion(folder / "confusion.png", scores["confusion"], self.classes, "pixels", title)

        rows = self._shown(model, self.val)
        segmentations(folder / "samples.png", rows, self.classes, title)
        predictions.save(folder / "samples.npz", [predictions.Prediction.of(*row) for row in rows], self.classes)
        for split, images in self.also.items():
            file = folder / f"samples_{split.replace('/', '-')}.png"
            segmentations(file, self._shown(model, images), self.classes, f"{title}, {split}")

    def _shown(self, model: nn.Module, data: Transformed) -> list[tuple[Tensor, Tensor, Tensor]]:
        device = next(model.parameters()).device
        model.eval()
        rows = []
        with torch.inference_mode():
            for index in spread(len(data), SAMPLES):
                image, truth = data[index, 0]
                rows.append(
                    (to_uint8(image, self.normalisation), truth, self.predict(model, image[None].to(device))[0].cpu())
                )
        return rows


def _normalisation(config: SegmentationConfig) -> Normalisation:
    return normalisation_of(config.encoder, config.weights).for_channels(config.data.channels)


def _views(config: SegmentationConfig) -> Views:
    """How images are looked at. InputError for what is no view."""
    asked = config.evaluation
    if not asked.scales or not all(1 / 8 <= scale <= 8 for scale in asked.scales):
        raise InputError(f"evaluation.scales must be factors from 1/8 to 8, at least one, got {asked.scales}")
    architecture = ARCHITECTURES[config.architecture]
    least = max(stride_for(config.architecture, config.output_stride), LEAST.get(architecture.kind.__name__, 0))
    if asked.window is not None and asked.window < least:
        raise InputError(f"evaluation.window must be at least {least} pixels, got {asked.window}")
    return Views(asked.flip, tuple(asked.scales), asked.window)


def _check_paths(config: SegmentationConfig) -> None:
    """Raise InputError for a method that walks paths and an architecture that has none; others show once they score."""
    missing = ARCHITECTURES[config.architecture].without_paths
    if missing and config.masks is None and config.method in CRITERIA and CRITERIA[config.method].walks_paths:
        others = ", ".join(name for name, other in ARCHITECTURES.items() if other.without_paths is None)
        raise InputError(
            f"{config.method} scores by paths, which {config.architecture} has none of, by its {missing}: choose a "
            f"method such as ntk_trace or magnitude, or one of the architectures {others}"
        )


def wrong_labels(data: SegmentationData, survey: Survey, what: str, mostly_void: bool = False) -> list[str]:
    """What is wrong with the labels of a dataset as a whole, if anything is.

    That none has a labelled pixel, that all labelled pixels are of one class, which no network gets wrong, or, unless
    `mostly_void` says that this is meant, that more pixels are void than are of any class but the first: such masks
    were mostly written for another convention.
    """
    if not survey.labels:
        return []
    pixels = survey.pixels()
    present = pixels[:IGNORE].nonzero()[0]
    void, objects = int(pixels[IGNORE]), int(pixels[1:IGNORE].sum())
    if not len(present):
        return [f"no pixel of the {what} has a label: every mask is {IGNORE} throughout"]
    written = (
        f"{IGNORE} stands for void, which is neither trained nor scored; an object has its class's index, 1 or more"
    )
    if isinstance(data, MaskFolders):
        written = f"{data.code}; where an object has another value, write NAME,VALUE in {data.code.file}"
    if len(present) == 1:
        (only,) = present
        return [f"all labelled pixels of the {what} are of one class, {data.classes[only]}: {written}"]
    if void > objects and not mostly_void:
        return [
            f"of the pixels of the {what} {void:,} are void, and {objects:,} of a class other than {data.classes[0]}: "
            f"{written}; where most pixels were left without a label on purpose, give --data.mostly_void"
        ]
    return []


def _same_size(batch: Iterable[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """The samples of a batch stacked by image size."""
    groups: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
    for image, labels in batch:
        groups.setdefault(image.shape, []).append((image, labels))
    return [tuple(default_collate(group)) for group in groups.values()]
