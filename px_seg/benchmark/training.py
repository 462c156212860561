"""What our training costs beside a plain loop of segmentation-models-pytorch and Accelerate, in one process."""

import copy
import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from segmentation_models_pytorch import DeepLabV3Plus
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import PolynomialLR
from torch.utils.data import DataLoader

from px_seg.command_line import parse
from px_seg.config import SegmentationConfig
from px_seg.cost import timings
from px_seg.data.loaders import Loader, Shuffle, training_loader
from px_seg.errors import InputError
from px_seg.pruning import Masks, Random, prune
from px_seg.run.training import Unkept, fine_tune, prepare
from px_seg.tasks import Segmentation, presets


@dataclass(frozen=True)
class Case:
    """A training to be measured: DeepLabV3+ with random weights on images drawn in memory.

    Args:
        encoder: its backbone
        batch_size: images of an update
        side: height and width of the images
        sparsity: share of the backbone's weights that are pruned
        updates: of each loop in a turn
        turns: in which the loops take turns, after one to warm up
        threads: CPU threads
    """

    encoder: str = "resnet50"
    batch_size: int = 8
    side: int = 96
    sparsity: float = 0.9
    updates: int = 4
    turns: int = 9
    threads: int = 1

    def config(self) -> SegmentationConfig:
        """Of a run; InputError for what is none."""
        if min(self.updates, self.turns, self.threads) < 1:
            raise InputError("--updates, --turns and --threads must be at least 1")
        words = {
            **{"encoder": self.encoder, "batch_size": self.batch_size, "data.size": self.side},
            **{"data.train_images": self.batch_size * self.updates, "epochs": self.turns + 1},
        }
        flags = [text for key, value in words.items() for text in (f"--{key}", str(value))]
        return parse(SegmentationConfig, flags, presets(Segmentation))


def report_steps(case: Case) -> None:
    """Print what an update takes in the plain loop, in ours, and in ours under masks, as a Markdown table."""
    config = case.config()
    torch.set_num_threads(case.threads)
    task, accelerator = Segmentation(config), Accelerator(cpu=True, step_scheduler_with_optimizer=False)
    model = task.build_model()
    masks = prune(model, (), case.sparsity, Random(), task.scope)
    loader = training_loader(task.train, config.batch_size, config.seed, 0)
    with ExitStack() as stack:

        def ours(held: Masks | None) -> Callable[[], object]:
            network = copy.deepcopy(model)
            prepared = prepare(accelerator, network, task, loader, config, config.epochs)
            if held is not None:
                stack.enter_context(held.hold(network, prepared.optimizer))
            epochs = fine_tune(accelerator, task, prepared, config.epochs, Unkept())
            return lambda: next(epochs)

        same = DataLoader(task.train, config.batch_size, sampler=Shuffle(len(task.train), config.seed))
        theirs = plain(accelerator, copy.deepcopy(model), same, config)
        loops = {"plain": lambda: next(theirs), "px_seg, dense": ours(None), "px_seg, masks held": ours(masks)}
        times = timings(accelerator.device, loops, case.turns)
    print(
        f"{case.encoder}, {case.batch_size} images of {case.side} pixels, {case.sparsity:.0%} pruned, CPU threads: "
        f"{case.threads}, torch {torch.__version__}\n"
    )
    print("| loop | ms an update | over the plain one | quartiles |\n|---|---:|---:|---:|")
    for name, own in times.items():
        ratios = sorted(spent / reference for spent, reference in zip(own, times["plain"], strict=True))
        milliseconds = 1000 * statistics.median(own) / case.updates
        low, high = (ratios[round(share * (len(ratios) - 1))] for share in (0.25, 0.75))
        print(f"| {name} | {milliseconds:.0f} | {statistics.median(ratios):.3f} | {low:.3f} to {high:.3f} |")


def plain(accelerator: Accelerator, model: DeepLabV3Plus, loader: Loader, config: SegmentationConfig) -> Iterator[None]:
    """The loop that one writes with these two libraries, for as many epochs as configured."""
    settings = config.optimizer
    inside = list(model.encoder.parameters())
    head = [*model.decoder.parameters(), *model.segmentation_head.parameters()]
    groups = [{"params": inside, "lr": settings.backbone_lr}, {"params": head, "lr": settings.head_lr}]
    optimizer = SGD(groups, momentum=settings.momentum, weight_decay=settings.weight_decay)
    schedule = PolynomialLR(optimizer, len(loader) * config.epochs, config.schedule.power)
    network, optimizer, schedule, loader = accelerator.prepare(model, optimizer, schedule, loader)
    criterion = nn.CrossEntropyLoss(ignore_index=255)
    for _ in range(config.epochs):
        network.train()
        for images, labels in loader:
            optimizer.zero_grad()
            loss = criterion(network(images), labels)
            accelerator.backward(loss)
            optimizer.step()
            schedule.step()
        yield
