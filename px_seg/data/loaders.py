"""Batches that depend on the seed alone: not on workers, nor on anything else that draws random numbers."""

import atexit
import signal
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from multiprocessing import active_children
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, Subset, default_collate, get_worker_info

from px_seg.data.base import ClassificationData, SegmentationData
from px_seg.data.transforms import Transform
from px_seg.errors import InputError, one_line
from px_seg.progress import bar

D = TypeVar("D", bound=SegmentationData | ClassificationData)

PATIENCE = 1.0
"""Seconds that processes which load images are given to end when this one does."""

Key = tuple[int, int]
"""An index into a dataset and the seed of the transform applied to that sample."""


Loader: TypeAlias = DataLoader[tuple[Tensor, Tensor]]
"""Of images with their labels."""


class Transformed(Dataset[tuple[Tensor, Tensor]], Generic[D]):
    """Samples of `data` as tensors, addressed by (index, seed)."""

    def __init__(self, data: D, transform: Transform) -> None:
        self.data, self.transform = data, transform

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor]:
        return self.prepared(key, self.transform)

    def prepared(self, key: Key, transform: Callable[[Any, int], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """A sample by one of the transform's ways. InputError, in a worker too, for a file that cannot be used."""
        index, seed = key
        try:
            return transform(self.data[index], seed)
        except InputError as error:
            if get_worker_info() is None:
                raise
            raise WorkerError(one_line(error)) from None
        except Exception as error:
            files = ", ".join(map(str, self.data.files(index)))
            error.add_note(f"while preparing {files or f'sample {index}'}")
            raise


class Packed(Dataset[tuple[Tensor, Tensor]], Generic[D]):
    """Samples as `Transform.packed` has them, for a loader whose batches its `unpacked` takes."""

    def __init__(self, data: Transformed[D]) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor]:
        return self.data.prepared(key, self.data.transform.packed)


class WorkerError(InputError):
    """An InputError in a process of a data loader, which torch raises again with a traceback for its message."""

    def __init__(self, message: str) -> None:
        # Of the traceback the last line is the message, after the name of this class.
        name = f"{type(self).__module__}.{type(self).__qualname__}: "
        super().__init__(message.strip().rpartition("\n")[2].removeprefix(name))


class Shuffle(Sampler[Key]):
    """Every index once an epoch, in an order and with seeds that (seed, epoch) decide.

    Those that fill no group of `whole` at an epoch's end are left out, other ones in each epoch.
    """

    def __init__(self, length: int, seed: int, whole: int = 1) -> None:
        self.length, self.seed, self.whole, self.epoch = length, seed, whole, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length // self.whole * self.whole

    def __iter__(self) -> Iterator[Key]:
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(self.length)
        seeds = rng.integers(2**31, size=self.length)
        return iter(list(zip(order.tolist(), seeds.tolist(), strict=True))[: len(self)])


def training_loader(
    data: Transformed, batch_size: int, seed: int, workers: int, processes: int = 1, accumulation: int = 1
) -> Loader:
    """Shuffled batches, packed as `Transform.packed` has them, in the order in which processes, and the batches that an
    update accumulates, take them.

    Images that fill no whole update are left out: BatchNorm would see a short batch, and the gradient of fewer batches
    would count for less. So the images of an update depend on how many they are alone. Raises what `check_fills` does.
    """
    check_fills(len(data), batch_size, processes, accumulation)
    _end_workers_at_exit()
    return DataLoader(
        Packed(data),
        batch_size,
        sampler=Shuffle(len(data), seed, batch_size * processes * accumulation),
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=_prepared,
        pin_memory=torch.cuda.is_available(),
        generator=_own_generator(),
    )


def check_fills(length: int, batch_size: int, processes: int, accumulation: int = 1) -> None:
    """Raise InputError unless so many images fill the batches of an update on every process."""
    if length < batch_size * processes * accumulation:
        accumulated = f", {accumulation} of which make an update" if accumulation > 1 else ""
        raise InputError(
            f"{length} training images do not fill one batch of {batch_size} on each of {processes} "
            f"process(es){accumulated}: lower --batch_size"
        )


def evaluation_loader(data: Transformed, batch_size: int, workers: int, process: int, processes: int) -> Loader:
    """This process's share of `data`, every image on exactly one process.

    A batch is a list of (image, labels) pairs, packed, because whole images differ in size.
    """
    share = range(process, len(data), processes)
    _end_workers_at_exit()
    return DataLoader(
        # torch knows of no other keys than whole numbers.
        Subset(Packed(data), [(index, 0) for index in share]),  # type: ignore[misc]
        batch_size,
        num_workers=workers,
        collate_fn=list,
        worker_init_fn=_prepared,
        generator=_own_generator(),
    )


class Sized(Protocol):
    """Batches whose number is known: a loader, or a progress bar around one."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...


def all_of(batches: Sized) -> Iterator[Any]:
    """The batches. RuntimeError at the end unless they were as many as they should be: scores of fewer are none."""
    seen = 0
    for batch in batches:
        seen += 1
        yield batch
    if seen != len(batches):
        raise RuntimeError(f"the evaluation has seen {seen} of {len(batches)} batches")


def check_pruning_batches(length: int, batches: int, batch_size: int) -> None:
    """Raise InputError unless a training set of `length` images fills the batches asked for."""
    if min(batches, batch_size) < 1:
        raise InputError(f"pruning.batches and pruning.batch_size must be at least 1, got {batches} and {batch_size}")
    if batches * batch_size > length:
        raise InputError(
            f"pruning needs {batches} batches of {batch_size} images, but the training set has {length}: "
            "lower --pruning.batches or --pruning.batch_size"
        )


def drawn(data: Transformed, batches: int, batch_size: int, seed: int) -> list[list[Key]]:
    """The samples of every batch, drawn without replacement."""
    return _cut(list(Shuffle(len(data), seed))[: batches * batch_size], batch_size)


def drawn_evenly(
    data: Transformed, labels: Sequence[int], batches: int, batch_size: int, seed: int, per_class: int | None = None
) -> list[list[Key]]:
    """The samples of every batch, drawn without replacement, the classes taking turns.

    Every class thus gives as many as any other, or one fewer, until it has no more. With `per_class`
    it gives exactly that many, and the last batch is what remains. Raises InputError for a class that has fewer.
    """
    queues: dict[int, list[Key]] = {}
    for key in Shuffle(len(data), seed):
        queues.setdefault(labels[key[0]], []).append(key)
    if per_class is not None:
        for label, name in enumerate(data.data.classes):
            if (count := len(queues.get(label, []))) < per_class:
                raise InputError(
                    f"pruning.per_class asks for {per_class} images of every class, but {name} has {count}: lower it"
                )
    # The order of the first draw of each: as random as the draw.
    order = list(queues.values())
    rounds = max(map(len, order)) if per_class is None else per_class
    keys = [queue[number] for number in range(rounds) for queue in order if number < len(queue)]
    return _cut(keys if per_class is not None else keys[: batches * batch_size], batch_size)


def _cut(keys: list[Key], batch_size: int) -> list[list[Key]]:
    return [keys[start : start + batch_size] for start in range(0, len(keys), batch_size)]


def pruning_batches(
    data: Transformed, batches: list[list[Key]], process: int = 0, processes: int = 1
) -> list[tuple[Tensor, Tensor]]:
    """This process's share of the batches, whose samples `batches` names, augmented as for training.

    Held in memory, because every round of pruning walks all of them.
    """
    groups = batches[process::processes]
    total = sum(map(len, groups))
    with bar(total=total, desc="reading pruning batches", unit="image", show=process == 0) as progress:

        def read(key: Key) -> tuple[Tensor, Tensor]:
            progress.update()
            return data[key]

        shares = [[read(key) for key in group] for group in groups]
    return [tuple(default_collate(share)) for share in shares]


def _own_generator() -> torch.Generator:
    """What a loader draws its workers' seed from: the global one would move the dropout of a training."""
    return torch.Generator()


def _prepared(worker: int) -> None:
    """One thread for each worker; a signal to all processes is the main one's to answer, which ends its workers."""
    import cv2

    cv2.setNumThreads(0)
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


@cache
def _end_workers_at_exit() -> None:
    """See to it, once, that workers end with this process where something, such as a traceback, still holds a loader.

    Python ends what is left by SIGTERM, which they ignore, and would wait for them for ever.
    """
    atexit.register(_end_workers)


def _end_workers() -> None:
    left = [child for child in active_children() if child.daemon]
    if hasattr(signal, "SIGCHLD"):
        # torch would raise an error for each that is killed.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for child in left:
        child.terminate()
    for child in left:
        child.join(PATIENCE / len(left))
    for child in left:
        if child.is_alive():
            child.kill()
