"""The losses of segmentation, against their formulas written out, and with ignored pixels."""

import math

import pytest
import torch
from torch import Tensor

from px_seg.tasks.loss_terms import TrainingLoss, terms_of
from px_seg.tasks.segmentation_losses import SEGMENTATION_LOSSES

CLASSES = 4


def loss_of(text: str, weights: Tensor | None = None) -> TrainingLoss:
    return TrainingLoss(terms_of(text, SEGMENTATION_LOSSES), SEGMENTATION_LOSSES, weights)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """Logits and labels of two images, a fifth of the pixels ignored, the last class nowhere."""
    draws = torch.Generator().manual_seed(3)
    logits = 2 * torch.randn(2, CLASSES, 3, 5, generator=draws, dtype=torch.float64)
    labels = torch.randint(CLASSES - 1, (2, 3, 5), generator=draws)
    labels[torch.rand(labels.shape, generator=draws) < 0.2] = 255
    assert 3 < int((labels == 255).sum()) < 12
    return logits.requires_grad_(), labels


def pixels_of(batch: tuple[Tensor, Tensor]) -> list[tuple[list[float], int]]:
    """Logits and label of every labelled pixel, as plain numbers."""
    logits, labels = batch
    rows = zip(logits.detach().movedim(1, -1).reshape(-1, CLASSES).tolist(), labels.flatten().tolist(), strict=True)
    return [(row, label) for row, label in rows if label != 255]


def softmax(row: list[float]) -> list[float]:
    powers = [math.exp(value) for value in row]
    return [power / sum(powers) for power in powers]


def overlap_loss(pixels: list[tuple[list[float], int]], alpha: float, beta: float, gamma: float = 1) -> float:
    """1 - TP / (TP + alpha FP + beta FN), as mean over all classes, 0 for those that no pixel has."""
    losses = []
    for c in range(CLASSES):
        hit = sum(softmax(row)[c] for row, label in pixels if label == c)
        false = sum(softmax(row)[c] for row, label in pixels if label != c)
        missed = sum(1 - softmax(row)[c] for row, label in pixels if label == c)
        present = any(label == c for _, label in pixels)
        losses.append(1 - hit / (hit + alpha * false + beta * missed) if present else 0)
    return (sum(losses) / CLASSES) ** gamma


def lovasz(pixels: list[tuple[list[float], int]]) -> float:
    """The Lovasz extension of the Jaccard loss |M| / |Y or M| of the set M of wrong pixels, by its definition."""
    losses = []
    for c in sorted({label for _, label in pixels}):
        truth = {place for place, (_, label) in enumerate(pixels) if label == c}
        errors = [abs((label == c) - softmax(row)[c]) for row, label in pixels]
        wrong: set[int] = set()
        total = before = 0.0
        for place in sorted(range(len(pixels)), key=lambda place: -errors[place]):
            wrong.add(place)
            now = len(wrong) / len(truth | wrong)
            total += errors[place] * (now - before)
            before = now
        losses.append(total)
    return sum(losses) / len(losses)


def focal(pixels: list[tuple[list[float], int]], gamma: float) -> float:
    losses = []
    for row, label in pixels:
        for c in range(CLASSES):
            sure = 1 / (1 + math.exp(-row[c] if label == c else row[c]))
            losses.append(-((1 - sure) ** gamma) * math.log(sure))
    return sum(losses) / len(losses)


def smoothed(row: list[float], label: int, amount: float, weights: list[float]) -> float:
    """Cross-entropy against (1 - amount) one-hot + amount uniform, by weights of classes."""
    logs = [weight * -math.log(share) for weight, share in zip(weights, softmax(row), strict=True)]
    return (1 - amount) * logs[label] + amount * sum(logs) / CLASSES


def test_every_loss_is_its_formula_over_the_labelled_pixels(batch: tuple[Tensor, Tensor]) -> None:
    pixels = pixels_of(batch)
    ones = [1.0] * CLASSES
    for text, expected in {
        "cross_entropy": sum(smoothed(row, label, 0, ones) for row, label in pixels) / len(pixels),
        "cross_entropy(label_smoothing=0.1)": sum(smoothed(*pixel, 0.1, ones) for pixel in pixels) / len(pixels),
        "dice": overlap_loss(pixels, 0.5, 0.5),
        "jaccard": overlap_loss(pixels, 1, 1),
        "tversky(alpha=0.3,beta=0.7)": overlap_loss(pixels, 0.3, 0.7),
        "tversky(alpha=0.3, beta=0.7, gamma=0.75)": overlap_loss(pixels, 0.3, 0.7, 0.75),
        "lovasz": lovasz(pixels),
        "focal": focal(pixels, 2),
        "focal(gamma=1.5)": focal(pixels, 1.5),
    }.items():
        assert loss_of(text)(*batch).item() == pytest.approx(expected, rel=1e-5), text


def test_weights_and_the_hardest_pixels_are_those_of_the_formula(batch: tuple[Tensor, Tensor]) -> None:
    pixels = pixels_of(batch)
    weights = [0.5, 2.0, 1.0, 3.0]
    each = sorted(smoothed(*pixel, 0.1, weights) for pixel in pixels)
    mass = sum(weights[label] for _, label in pixels)
    loss = loss_of("cross_entropy(label_smoothing=0.1)", torch.tensor(weights))
    assert loss(*batch).item() == pytest.approx(sum(each) / mass)
    assert loss.mass(batch[1]).item() == pytest.approx(mass)
    # A quarter of them, by their own weights.
    kept = round(len(pixels) / 4)
    loss = loss_of("cross_entropy(label_smoothing=0.1,hardest=0.25)", torch.tensor(weights))
    hardest = sorted((smoothed(*pixel, 0.1, weights), weights[pixel[1]]) for pixel in pixels)[-kept:]
    assert loss(*batch).item() == pytest.approx(sum(one for one, _ in hardest) / sum(weight for _, weight in hardest))
    plain = sorted(smoothed(*pixel, 0, [1.0] * CLASSES) for pixel in pixels)
    assert loss_of("cross_entropy(hardest=0.25)")(*batch).item() == pytest.approx(sum(plain[-kept:]) / kept)
    assert loss_of("cross_entropy(hardest=0.001)")(*batch).item() == pytest.approx(plain[-1])


EACH = [*SEGMENTATION_LOSSES, "cross_entropy(hardest=0.3)"]


@pytest.mark.parametrize("text", EACH)
def test_an_ignored_pixel_changes_nothing_and_has_no_gradient(text: str, batch: tuple[Tensor, Tensor]) -> None:
    logits, labels = batch
    loss = loss_of(text)
    found = loss(logits, labels)
    (gradient,) = torch.autograd.grad(found, logits)
    ignored = (labels == 255)[:, None].expand_as(logits)
    assert gradient[ignored].count_nonzero() == 0
    assert gradient[~ignored].count_nonzero() > 0
    changed = torch.where(ignored, 100 * torch.randn_like(logits), logits)
    torch.testing.assert_close(loss(changed, labels), found, rtol=1e-12, atol=0)


@pytest.mark.parametrize("text", EACH)
def test_a_batch_without_a_label_costs_nothing(text: str, batch: tuple[Tensor, Tensor]) -> None:
    logits, labels = batch
    found = loss_of(text)(logits, torch.full_like(labels, 255))
    (gradient,) = torch.autograd.grad(found, logits)
    assert found.item() == 0
    assert gradient.count_nonzero() == 0


@pytest.mark.parametrize("text", [*EACH, "focal(gamma=1)", "tversky(gamma=0.75)"])
@pytest.mark.parametrize("right", [True, False])
def test_a_certain_network_has_gradients_that_are_numbers(text: str, right: bool, batch: tuple[Tensor, Tensor]) -> None:
    labels = batch[1]
    shown = torch.where(labels == 255, 0, labels) if right else torch.full_like(labels, CLASSES - 1)
    logits = (1000 * torch.nn.functional.one_hot(shown, CLASSES).movedim(-1, 1).float() - 500).requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of(text)(logits, labels), logits)
    assert gradient.isfinite().all()


def test_labels_are_counted_where_a_loss_has_no_weights(batch: tuple[Tensor, Tensor]) -> None:
    weights = torch.tensor([0.5, 2.0, 1.0, 3.0])
    assert loss_of("cross_entropy+dice", weights).mass(batch[1]).item() == len(pixels_of(batch))


def test_a_sum_has_its_factors(batch: tuple[Tensor, Tensor]) -> None:
    found = loss_of("cross_entropy + 0.5 * dice+3*focal(gamma=1)")(*batch).item()
    parts = [loss_of(text)(*batch).item() for text in ("cross_entropy", "dice", "focal(gamma=1)")]
    assert found == pytest.approx(parts[0] + 0.5 * parts[1] + 3 * parts[2])


@pytest.mark.parametrize("text", EACH)
def test_descending_a_loss_labels_the_pixels(text: str, batch: tuple[Tensor, Tensor]) -> None:
    logits = batch[0].detach().clone().requires_grad_()
    labels, known = batch[1], batch[1] != 255
    optimizer = torch.optim.Adam([logits], 0.3)
    for _ in range(200):
        optimizer.zero_grad()
        loss_of(text)(logits, labels).backward()
        optimizer.step()
    assert (logits.argmax(1) == labels)[known].all()
