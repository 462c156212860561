"""What a run came to: the contents of results.json, which RunFolder.finish writes, and the table for a terminal."""

import math
import platform
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from px_seg.analysis.flops import count_flops
from px_seg.analysis.path_counts import effective_paths
from px_seg.analysis.sparse_units import SparseLayer, of_sparse_units, sparse_layers
from px_seg.config import RunConfig
from px_seg.metrics import Score
from px_seg.pruning import CRITERIA, Masks, UnsupportedOperation, prunable
from px_seg.pruning.scope import Scope
from px_seg.tasks import Task

REPAIRED = {
    "statistics": "statistics gathered anew",
    "variance": "variances and statistics repaired",
    "reconstruct": "reconstructed",
}
"""How a repair is called in a title."""

PACKAGES = ("px_seg", "torch", "torchvision", "segmentation-models-pytorch", "timm", "accelerate", "albumentations")


EFFECTIVE = ("effective_sparsity", "live_channels", "log10_paths")
"""What results.json says of paths."""


class Whole(NamedTuple):
    """Sizes of a network with everything in it."""

    backbone: int
    """Weights of the backbone's convolutions."""
    weights: int
    """Of all convolutions and linear layers."""
    parameters: int
    flops: int
    """Of one image."""
    channels: int
    """Outputs of the backbone's convolutions that paths pass, all layers together; 0 where paths are not defined."""


def whole(model: nn.Module, task: Task) -> Whole:
    """The sizes of a run's network before anything of it is left out."""
    image, _ = task.train[0, 0]
    scoped, every = (sum(weight.numel() for weight in prunable(model, part).values()) for part in (task.scope, None))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    channels = 0
    with suppress(UnsupportedOperation):
        channels = sum(effective_paths(model, Masks.ones(model, task.scope), image.shape).widths.values())
    return Whole(scoped, every, parameters, count_flops(model, prunable(model), image.shape).total, channels)


def collect(
    task: Task,
    config: RunConfig,
    scores: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    model: nn.Module,
    dense: Whole,
    seconds: Mapping[str, float],
    environment: Mapping[str, Any],
    saved: Path,
) -> dict[str, Any]:
    """The contents of results.json.

    Sparsities and operations are counted on `weights`, the state dict in the file `saved`, over the convolution and
    linear weights of `model`, as shares of those of the network before it was compacted; `environment` is added as it
    is.
    """
    image, _ = task.train[0, 0]
    backbone = {"kept": _kept(weights, model, task.scope), "total": dense.backbone}
    every = {"kept": _kept(weights, model, None), "total": dense.weights}
    return {
        "task": task.name,
        "method": config.method,
        "sparsity": config.sparsity,
        "backbone_sparsity": 1 - backbone["kept"] / backbone["total"],
        "model_sparsity": 1 - every["kept"] / every["total"],
        **_effective(weights, model, dense, task.scope, image.shape),
        **scores,
        "backbone_weights": backbone,
        "model_weights": every,
        "parameters": {"kept": _kept_parameters(weights, model), "total": dense.parameters},
        "flops": {"kept": count_flops(model, weights, image.shape).kept, "total": dense.flops},
        "sparse_layers": {name: layer._asdict() for name, layer in sparse_layers(model, weights, image.shape).items()},
        "checkpoint_bytes": {"file": saved.stat().st_size, "compressed": _compressed_bytes(saved)},
        "seed": config.seed,
        "data": {
            "name": config.data.name,
            "root": config.data.root,
            "classes": len(task.classes),
            "train": len(task.train),
            "val": len(task.val),
            "size": config.data.size,
            "evaluation": config.data.evaluation,
        },
        "encoder": config.encoder,
        **task.settings(),
        "weights": config.weights,
        "normalisation": task.normalisation.as_plain(),
        "epochs": config.epochs,
        "seconds": dict(seconds),
        **environment,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }


def pruned_by(masks: Masks, config: RunConfig, batches: int) -> dict[str, Any]:
    """How the masks came about, and what was done to network and training beside, for results.json.

    `batches` is the number that pruning scored with, 0 where it scored without.
    """
    made = masks.provenance
    return {
        "rounds": made.rounds or 0,
        "ranking": made.ranking,
        "pattern": made.pattern,
        "granularity": made.granularity,
        "density_from": config.density_from,
        "masks": config.masks,
        "keep_dense": made.kept_dense,
        "empty_layers": [name for name, density in masks.densities().items() if density == 0],
        "pruning": {
            "batches": batches,
            "batch_size": config.pruning.batch_size if batches else 0,
            "per_class": config.pruning.per_class if batches else None,
        },
        "settings": dict(made.settings or {}),
        "criteria": config.criteria,
        "shuffle_masks": made.shuffled,
        "reinit": config.reinit,
        "recalibrate": config.recalibrate,
        "recalibrate_rounds": made.repaired is not None,
        "compact": config.compact,
        "optimizer": config.optimizer.name,
        "ema": config.ema,
        "freeze_encoder": config.freeze_encoder,
        "freeze_bn": config.freeze_bn,
    }


def compacted_sizes(model: nn.Module, task: Task) -> dict[str, int]:
    """What a network that was made smaller takes as it is, zeros among its weights included."""
    sizes = whole(model, task)
    return {"parameters": sizes.parameters, "flops": sizes.flops}


def sparse_layers_of(results: Mapping[str, Any]) -> dict[str, SparseLayer]:
    """The layers that sparse matrix units can take; none where an earlier version did not look for them."""
    return {name: SparseLayer(**layer) for name, layer in results.get("sparse_layers", {}).items()}


def _kept(weights: Mapping[str, Tensor], model: nn.Module, scope: Scope) -> int:
    return sum(int(weights[name].count_nonzero()) for name in prunable(model, scope))


def _effective(
    weights: Mapping[str, Tensor], model: nn.Module, dense: Whole, scope: Scope, shape: Sequence[int]
) -> dict[str, float | None]:
    """What of the part in scope is of use to images of this shape (Vysogorets and Kempe, JMLR 2023), of `dense`.

    The share of the weights that are 0 or lie on no path, the share of the channels that lie on one, and the decimal
    logarithm of the number of paths through the whole network, None where there is none. All None for a network in
    which paths are not defined.
    """
    device = next(model.parameters()).device
    live = {name: (weights[name] != 0).to(device) for name in prunable(model, scope)}
    try:
        found = effective_paths(model, live, shape)
    except UnsupportedOperation:
        return dict.fromkeys(EFFECTIVE)
    shares = 1 - sum(found.weights.values()) / dense.backbone, sum(found.channels.values()) / dense.channels
    paths = found.log10_paths if math.isfinite(found.log10_paths) else None
    return dict(zip(EFFECTIVE, (*shares, paths), strict=True))


def _kept_parameters(weights: Mapping[str, Tensor], model: nn.Module) -> int:
    """Of all parameters, norms and biases included, those that were not pruned."""
    total = sum(parameter.numel() for parameter in model.parameters())
    return total - sum(weights[name].numel() - int(weights[name].count_nonzero()) for name in prunable(model))


def _compressed_bytes(file: Path) -> int:
    """Size of the file after zlib at its fastest: what zeros save when it is stored or sent."""
    packer, size = zlib.compressobj(1), 0
    with file.open("rb") as stream:
        while part := stream.read(2**20):
            size += len(packer.compress(part))
    return size + len(packer.flush())


def scores_in(task: type[Task] | Task, results: Mapping[str, Any]) -> list[Score]:
    """The task's scores that these results have, the main one first."""
    return [score for score in task.scores if score.name in results]


def described(results: Mapping[str, Any]) -> str:
    """What was done to the network, for a title."""
    if not results["sparsity"]:
        return "dense, new weights" if results["reinit"] else "dense"
    method = f"masks of {results['method']}" if results["masks"] else results["method"]
    parts = [method, f"{results['backbone_sparsity']:.2%} of the backbone pruned"]
    if results["pattern"]:
        parts.append(results["pattern"])
    elif results.get("density_from"):
        parts.append(f"with the layer densities of {results['density_from']}")
    elif results["method"] in CRITERIA and results["ranking"] != CRITERIA[results["method"]].ranking:
        parts.append(f"ranked {results['ranking']}")
    if results["granularity"] not in (None, "weight"):
        parts.append(f"by {results['granularity']}s")
    if kept := results["keep_dense"]:
        parts.append(f"{kept[0] if len(kept) == 1 else f'{len(kept)} parts'} kept dense")
    parts += ["masks shuffled"] if results["shuffle_masks"] else []
    if results["recalibrate"] in REPAIRED:
        parts.append(REPAIRED[results["recalibrate"]] + (" after every round" if results["recalibrate_rounds"] else ""))
    return ", ".join(parts + (["new weights"] if results["reinit"] else []))


def _before(results: Mapping[str, Any], score: Score) -> str:
    if "before_training" not in results:
        return ""
    return f"  (before training {score.text(results['before_training'][score.name])})"


def _best(task: Task, results: Mapping[str, Any]) -> list[str]:
    best = results.get("best")
    if best is None or best["folder"] != "best":
        return []
    score = next(score for score in task.scores if score.name == best["by"])
    title, value = f"best epoch, {best['epoch']}", score.text(best[score.name])
    return [f"  {title:<22}{value:>8}  (on the same images, which chose it; in best/)"]


def _smaller(results: Mapping[str, Any]) -> list[str]:
    if "compacted" not in results:
        return []
    shares = ((key, results["compacted"][key], results[key]["total"]) for key in ("parameters", "flops"))
    lines = [f"    {key:<20}{size / whole:>8.2%}  {size:,} of {whole:,}" for key, size, whole in shares]
    return ["  compacted, zeros included", *lines]


def table(task: Task, results: Mapping[str, Any], folder: Path) -> str:
    """What a run came to, for a terminal."""
    parts = {"backbone": results["backbone_weights"], "whole model": results["model_weights"]}
    lines = [
        f"{described(results)}, {results['data']['name']}, seed {results['seed']}",
        *(
            f"  {score.label:<22}{score.text(results[score.name]):>8}{_before(results, score)}"
            for score in scores_in(task, results)
        ),
        *(
            f"  {f'{score.label} on {split}':<22}{score.text(own[score.name]):>8}"
            for split, own in results.get("also", {}).items()
            for score in scores_in(task, own)
        ),
        *_best(task, results),
        *task.report(results),
        "  weights kept",
        *(
            f"    {name:<20}{part['kept'] / part['total']:>8.2%}  {part['kept']:,} of {part['total']:,}"
            for name, part in parts.items()
        ),
        *_smaller(results),
        "  seconds",
        *(f"    {stage:<20}{spent:>8.1f}" for stage, spent in results["seconds"].items()),
    ]
    if sparse := sparse_layers_of(results):
        lines.append(f"  {of_sparse_units(sparse)}")
    if results["empty_layers"]:
        lines.append(f"  layers with no weights left: {', '.join(results['empty_layers'])}")
    return "\n".join([*lines, f"written to {folder}"])
