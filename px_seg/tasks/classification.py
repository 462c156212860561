"""Image classification."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import default_collate

from px_seg import predictions
from px_seg.config import ClassificationConfig
from px_seg.data.base import ClassificationData
from px_seg.data.checked import Check, check_all
from px_seg.data.loaders import Key, Loader, Transformed, all_of, check_pruning_batches, drawn_evenly, evaluation_loader
from px_seg.data.normalisation import Normalisation
from px_seg.data.registry import CLASSIFICATION, found, load
from px_seg.data.survey import Survey, survey_images, too_dim
from px_seg.data.transforms import Transform, classifier_evaluation, classifier_training, to_uint8
from px_seg.errors import InputError
from px_seg.losses import balancing_weights, cross_entropy, squared
from px_seg.metrics import Score, classification_scores, confusion_of
from px_seg.models import Classifier, check_encoder, normalisation_of, save_model
from px_seg.models.ridge import Moments, ridge_regression
from px_seg.pruning.distributed import all_reduce, everyone
from px_seg.pruning.modes import evaluating
from px_seg.tasks.base import TRAINING, VALIDATION, check_parts, check_size, spread
from px_seg.tasks.loss_terms import Formula, Setting, TrainingLoss, check_classes, check_loss, class_weights

CLASSIFICATION_LOSSES = {
    "cross_entropy": Formula(cross_entropy, {"label_smoothing": Setting(0.0, 0, 1)}, weighted=True),
    "squared": Formula(squared),
}
"""What `--loss` may be made of."""

SAMPLES = 10
"""How many validation images samples.png shows."""

LISTED = 25
"""Classes up to which a table has the accuracy of each."""


class Classification:
    """Classification of whole images: a linear head on the backbone's averaged features, accuracy.

    Raises InputError when the configuration's data is not there or does not fit.
    """

    name = "cls"
    about = """Prune the backbone of a classifier at initialisation, fine-tune the network and evaluate it.

    accelerate launch -m px_seg cls --sparsity 0.9
    accelerate launch -m px_seg cls --data.name cifar100 --data.download --sparsity 0.9313"""
    config_type = ClassificationConfig
    scope = "encoder"
    scores: tuple[Score, ...] = (Score("accuracy", "accuracy"), Score("top5_accuracy", "top-5 accuracy"))
    details: tuple[str, ...] = ("confusion",)

    def __init__(self, config: ClassificationConfig) -> None:
        self.config = config
        train, val = load(CLASSIFICATION, config.data)
        self.classes = train.classes
        check_classes(config, self.classes)
        self.normalisation = normalisation_of(config.encoder, config.weights)
        train_transform, val_transform = self._transforms(config, self.normalisation)
        self.train, self.val = Transformed(train, train_transform), Transformed(val, val_transform)
        self.val_cropped = self.val
        self.also: dict[str, Transformed] = {}

    @staticmethod
    def _transforms(config: ClassificationConfig, normalisation: Normalisation) -> tuple[Transform, Transform]:
        data = config.data
        check_size(data.size, 8)
        train = classifier_training(data, normalisation)
        return train, classifier_evaluation(data.evaluation, data.size, normalisation)

    @staticmethod
    def check(config: ClassificationConfig, synchronised: bool) -> None:
        check_encoder(config.encoder)
        Classification._transforms(config, normalisation_of(config.encoder, config.weights))
        check_loss(config, CLASSIFICATION_LOSSES)
        if config.ridge is not None and not config.ridge > 0:
            raise InputError(f"ridge must be above 0, got {config.ridge}")
        if config.ridge is not None and config.reinit:
            raise InputError("a ridge head is fitted to the weights that --reinit replaces: leave one of the two out")
        if config.batch_size < 2 and not synchronised and not config.freeze_bn:
            raise InputError(
                f"batch_size must be at least 2, got {config.batch_size}: BatchNorm needs several values per channel; "
                "--freeze_bn, or --sync_bn on several GPUs, lifts this limit"
            )
        if config.pruning.per_class is not None and config.pruning.per_class < 1:
            raise InputError(f"pruning.per_class must be at least 1, got {config.pruning.per_class}")

    def check_data(self) -> list[str]:
        return check_parts(Classification, self.config, {TRAINING: self.train.data, VALIDATION: self.val.data})

    @staticmethod
    def parts(config: ClassificationConfig) -> dict[str, ClassificationData]:
        train, val = found(CLASSIFICATION, config.data)
        return {TRAINING: train, VALIDATION: val}

    @staticmethod
    def survey(data: ClassificationData, what: str, check: Check = check_all) -> Survey:
        return survey_images(data, what, check)

    @staticmethod
    def meaning(data: ClassificationData) -> list[str]:
        return []

    @staticmethod
    def problems(config: ClassificationConfig, data: ClassificationData, survey: Survey, what: str) -> list[str]:
        return too_dim(data, survey, what)

    def build_model(self) -> Classifier:
        """Backbone, average and linear layer, dense, one logit a class."""
        return Classifier(self.config.encoder, len(self.classes), list(self.classes))

    def fit_head(self, model: Classifier, accelerator: Accelerator) -> None:
        """Set the head, in place, to the class-balanced ridge regression on the features, where one is configured.

        The features are those of the training images shown as for evaluation, BatchNorm in eval mode.
        """
        if self.config.ridge is None:
            return
        device, classes = accelerator.device, len(self.classes)
        weights = balancing_weights(self._counts()).to(device)
        shown = Transformed(self.train.data, self.val.transform)
        loader = evaluation_loader(
            shown,
            self.config.batch_size,
            self.config.data.workers,
            accelerator.process_index,
            accelerator.num_processes,
        )
        width = model.head.in_features
        total = Moments(weights.new_zeros(width + 1, width + 1), weights.new_zeros(width + 1, classes))
        with evaluating(model), torch.no_grad():
            for packed in map(default_collate, all_of(loader)):
                images, labels = shown.transform.unpacked(*(part.to(device) for part in packed))
                total = total.plus(Moments.of(model.features(images), labels, weights))
        group = torch.distributed.group.WORLD if accelerator.num_processes > 1 else None
        total = Moments(*(all_reduce(group, part) for part in total))
        weight, bias = ridge_regression(total, self.config.ridge)
        with torch.no_grad():
            model.head.weight.copy_(weight)
            model.head.bias.copy_(bias)

    def pruning_draw(self) -> list[list[Key]]:
        asked = self.config.pruning
        batches = asked.batches if asked.per_class is None else 1
        check_pruning_batches(len(self.train), batches, asked.batch_size)
        labels = self.train.data.labels
        return drawn_evenly(self.train, labels, asked.batches, asked.batch_size, self.config.seed, asked.per_class)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The configured loss of logits (N, C) and labels (N,) int64."""
        return self._loss(logits, labels)

    def labelled(self, labels: Tensor) -> Tensor:
        """How many images there are, each with a label, by the weights of their classes."""
        return self._loss.mass(labels)

    @cached_property
    def _loss(self) -> TrainingLoss:
        terms = check_loss(self.config, CLASSIFICATION_LOSSES)
        return TrainingLoss(terms, CLASSIFICATION_LOSSES, class_weights(self.config, self._counts))

    def _counts(self) -> Tensor:
        """Training images of every class."""
        return torch.bincount(torch.tensor(self.train.data.labels), minlength=len(self.classes))

    def evaluate(self, model: nn.Module, loader: Loader, device: torch.device) -> dict[str, Any]:
        """`accuracy` and `class_accuracy`, the latter by class name with None where there is no image.

        With more than five classes `top5_accuracy` as well. All are of the images of all processes together, and so is
        `confusion`: images by true class, in rows, and predicted class.
        """
        classes = len(self.classes)
        counts = torch.zeros(classes, classes, dtype=torch.int64, device=device)
        among_five = torch.zeros((), dtype=torch.int64, device=device)
        model.eval()
        with torch.inference_mode():
            for packed in map(default_collate, all_of(loader)):
                images, labels = self.val.transform.unpacked(*(part.to(device) for part in packed))
                logits = model(images)
                counts += confusion_of(labels, logits.argmax(1), classes)
                among_five += (logits.topk(min(5, classes)).indices == labels[:, None]).sum()
        counts, among_five = (all_reduce(everyone(), part) for part in (counts, among_five))
        scores = classification_scores(counts)
        return {
            "accuracy": scores.accuracy,
            **({"top5_accuracy": among_five.item() / counts.sum().item()} if classes > 5 else {}),
            "class_accuracy": dict(zip(self.classes, scores.class_accuracy, strict=True)),
            "confusion": counts.tolist(),
        }

    def settings(self) -> dict[str, Any]:
        config = self.config
        return {"loss": config.loss, "class_weights": config.class_weights, "ridge": config.ridge}

    def report(self, scores: Mapping[str, Any]) -> list[str]:
        known = {name: share for name, share in scores["class_accuracy"].items() if share is not None}
        if len(known) > LISTED:
            known = dict(sorted(known.items(), key=lambda item: item[1])[:5])
        title = "accuracy by class" if len(known) == len(scores["class_accuracy"]) else "accuracy, lowest classes"
        return [f"  {title}", *(f"    {name:<20}{share:>8.2%}" for name, share in known.items())]

    def save(self, model: Classifier, folder: Path, card: Mapping[str, Any]) -> None:
        """For `px_seg.load_model`, and its images' for albumentations."""
        save_model(model, folder, model_card_kwargs={"dataset": self.config.data.name, "scores": dict(card)})
        self.val.transform.save(folder)

    def draw(self, folder: Path, model: nn.Module, scores: Mapping[str, Any], title: str) -> None:
        """samples.png and samples.npz, images with truth and prediction; confusion.png, of all images by class."""
        from px_seg.plots import classifications, confusion

        confusion(folder / "confusion.png", scores["confusion"], self.classes, "images", title)

        device = next(model.parameters()).device
        model.eval()
        by_logits = all(term.name == "cross_entropy" for term in check_loss(self.config, CLASSIFICATION_LOSSES))
        rows = []
        with torch.inference_mode():
            for index in spread(len(self.val), SAMPLES):
                image, label = self.val[index, 0]
                logits = model(image[None].to(device))[0].float().cpu()
                # Trained by squared loss an output is no logit.
                sure = float(logits.softmax(0).max()) if by_logits else None
                rows.append((to_uint8(image, self.normalisation), int(label), int(logits.argmax()), sure))
        classifications(folder / "samples.png", rows, self.classes, title)
        shown = [predictions.Prediction.of(image, truth, predicted) for image, truth, predicted, _ in rows]
        predictions.save(folder / "samples.npz", shown, self.classes)
