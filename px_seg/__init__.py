"""Path eXclusion pruning and transfer for segmentation models and classifiers.

A name is imported when it is first asked for: what uses few of them need not wait for the libraries of all.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from px_seg.deploy import compact, open_exported, predict
    from px_seg.errors import InputError
    from px_seg.models import Classifier, build_classifier, build_segmenter, load_model, save_model
    from px_seg.pruning import (
        IMP,
        NTKSAP,
        PX,
        SNIP,
        Criterion,
        Fisher,
        GraSP,
        IterativeSNIP,
        LossCriterion,
        Magnitude,
        Masks,
        NTKTrace,
        PXConserved,
        PXPaths,
        Random,
        RandomERK,
        SynFlow,
        SynFlowL2,
        TrainingCriterion,
        UnsupportedOperation,
        criterion,
        prunable,
        prune,
        register,
    )
    from px_seg.repair import recalibrate

__all__ = [
    "IMP",
    "NTKSAP",
    "PX",
    "SNIP",
    "Classifier",
    "Criterion",
    "Fisher",
    "GraSP",
    "InputError",
    "IterativeSNIP",
    "LossCriterion",
    "Magnitude",
    "Masks",
    "NTKTrace",
    "PXConserved",
    "PXPaths",
    "Random",
    "RandomERK",
    "SynFlow",
    "SynFlowL2",
    "TrainingCriterion",
    "UnsupportedOperation",
    "build_classifier",
    "build_segmenter",
    "compact",
    "criterion",
    "load_model",
    "open_exported",
    "predict",
    "prunable",
    "prune",
    "recalibrate",
    "register",
    "save_model",
]

_ELSEWHERE = {
    "InputError": "errors",
    "Classifier": "models",
    "build_classifier": "models",
    "build_segmenter": "models",
    "load_model": "models",
    "save_model": "models",
    "compact": "deploy",
    "open_exported": "deploy",
    "predict": "deploy",
    "recalibrate": "repair",
}
"""The rooms of the names that are not of pruning."""

_ROOMS = ("analysis", "data", "deploy", "models", "pruning", "repair", "report", "sweep", "tasks")


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(f"px_seg.{_ELSEWHERE.get(name, 'pruning')}"), name)
    if name in _ROOMS:
        return import_module(f"px_seg.{name}")
    raise AttributeError(f"module 'px_seg' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})
