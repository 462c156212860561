"""The losses of segmentation, by name. All are those of segmentation-models-pytorch, but for cross-entropy."""

from collections.abc import Callable
from typing import Any

from segmentation_models_pytorch.losses import DiceLoss, FocalLoss, JaccardLoss, LovaszLoss, TverskyLoss
from torch import Tensor, nn

from px_seg.data.base import IGNORE
from px_seg.losses import cross_entropy
from px_seg.tasks.loss_terms import Formula, Setting


def _on_labelled_pixels(loss: Callable[..., nn.Module]) -> Callable[..., Tensor]:
    """The library's loss of the pixels that are labelled alone, however it would treat the others, in float32.

    Of logits (N, C, H, W) and labels (N, H, W); 0 where no pixel is labelled.
    """

    def of_labelled(logits: Tensor, labels: Tensor, **settings: Any) -> Tensor:
        known = labels != IGNORE
        if not known.any():
            return 0 * logits.sum()
        # With two sides, those of an image of one column: LovaszLoss takes what has three dimensions for one class.
        column = logits.movedim(1, -1)[known].T[None, ..., None].float()
        found: Tensor = loss("multiclass", **settings)(column, labels[known][None, ..., None])
        return found

    return of_labelled


def _tversky(logits: Tensor, labels: Tensor, alpha: float, beta: float, gamma: float) -> Tensor:
    """The library's, whose own power has no gradient at 0."""
    mean = _on_labelled_pixels(TverskyLoss)(logits, labels, alpha=alpha, beta=beta)
    return mean if gamma == 1 else mean.clamp(min=1e-6) ** gamma


_SHARE = Setting(0.5, 0, 1, open=True)

SEGMENTATION_LOSSES = {
    "cross_entropy": Formula(
        cross_entropy,
        {"label_smoothing": Setting(0.0, 0, 1), "hardest": Setting(1.0, 0, 1, open=True)},
        weighted=True,
    ),
    # Sudre et al., 2017; a class that no pixel of the batch has counts as 0.
    "dice": Formula(_on_labelled_pixels(DiceLoss)),
    "jaccard": Formula(_on_labelled_pixels(JaccardLoss)),
    # Berman, Triki and Blaschko, CVPR 2018; mean over the classes in the batch.
    "lovasz": Formula(_on_labelled_pixels(LovaszLoss)),
    # Lin et al., ICCV 2017, of every class against all others; below 1 it has no gradient where a pixel is certain.
    "focal": Formula(_on_labelled_pixels(FocalLoss), {"gamma": Setting(2.0, 1, 100)}),
    # Salehi, Erdogmus and Gholipour, 2017; the power is of the mean, as the library has it.
    "tversky": Formula(_tversky, {"alpha": _SHARE, "beta": _SHARE, "gamma": Setting(1.0, 0, 100, open=True)}),
}
"""What `--loss` may be made of. Means over the classes, but for cross-entropy, the mean over the labelled pixels."""
