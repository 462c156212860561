"""How few rounds and images give the mask that many give, without training anything."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from px_seg.analysis import agreement, flow
from px_seg.comparison import round_figure, round_rows
from px_seg.comparison.folder import ComparisonFolder
from px_seg.comparison.kind import Kind
from px_seg.comparison.networks import Prepared, digests_of, files_of, prepared
from px_seg.comparison.round_rows import REFERENCE, CoursePoint, RoundsRow, key_of_pruning
from px_seg.comparison.subjects import Subject, alike, of_methods, task_named, usual
from px_seg.data.loaders import pruning_batches
from px_seg.errors import InputError
from px_seg.files import user_path
from px_seg.flags import METHODS, SPARSITIES, Parser, list_of, sparsities
from px_seg.identity import digest
from px_seg.pruning import Criterion, Masks, Plan, UnsupportedOperation, carry_out, scored
from px_seg.run.setup import Pruning, set_up
from px_seg.run.sparsify import Batches, draw_batches, make_plan
from px_seg.run.user_criteria import naming_file
from px_seg.sweep.plan import Request, base_config
from px_seg.tasks import TASKS, Task, task_of

ROUNDS = (1, 5, 10, 20, 50, 100)
"""Numbers of rounds to compare, unless told otherwise; the reference has the most."""

DRAWS = 2
"""Other draws of the pruning images, by the seeds that follow the run's own."""

LOOKS = 10
"""After how many rounds of the reference, evenly spread, it is looked at, besides the first and the last."""

KIND = Kind(
    "rounds",
    round_rows.read_rows,
    round_rows.write_rows,
    round_rows.table,
    round_figure.draw,
    round_rows.said,
    key_of_pruning,
)


class Budgets(NamedTuple):
    """What to vary; None for the usual."""

    rounds: tuple[int, ...] | None = None
    images: tuple[int, ...] | None = None
    """Powers of four up to all of them."""
    draws: tuple[int, ...] | None = None


def compare_budgets(request: Request, budgets: Budgets, say: Callable[[str], Any] = print) -> list[RoundsRow]:
    """Prune by each method with several numbers of rounds and images, and say how far the masks agree.

    The reference of a method and sparsity has the most rounds and all images of the run's pruning batches. Nothing is
    trained. In `request.output_dir`: a CSV row a pruning as soon as it is known, the masks, tables and figures. The
    same request goes on where it was stopped.

    Raises InputError, before anything is pruned, for what cannot be compared.
    """
    rounds = tuple(sorted(ROUNDS if budgets.rounds is None else budgets.rounds))
    for what, numbers in (("--vary_rounds", rounds), ("--vary_images", budgets.images or ())):
        if any(number < 1 for number in numbers):
            raise InputError(f"{what} takes numbers of at least 1, got {min(numbers)}")
    for what, numbers in (("rounds", rounds), ("images", budgets.images or ()), ("draws", budgets.draws or ())):
        if twice := [number for number in numbers if numbers.count(number) > 1]:
            raise InputError(f"--vary_{what} has {twice[0]} twice: once is enough")
    subjects = of_methods(request, with_dense=False)
    task_type = task_of(task_named(subjects[0]))
    images = []
    for subject in subjects:
        if subject.config.rounds is not None:
            given = subject.config.rounds
            raise InputError(f"{subject.method}: rounds are varied here: leave rounds {given} out")
        if subject.config.shuffle_masks or subject.config.recalibrate != "none":
            what = "shuffle_masks" if subject.config.shuffle_masks else "recalibrate"
            raise InputError(f"{subject.method}: rounds are compared by what they prune alone: leave {what} out")
        if subject.config.seed in (budgets.draws or ()):
            raise InputError(f"--vary_draws has {subject.config.seed}, the seed of the reference's own images")
        first = set_up(task_type, subject.config)
        images.append(sum(map(len, first.source.drawn)) if isinstance(first.source, Pruning) else 0)
        if budgets.images and images[-1] and max(budgets.images) > images[-1]:
            raise InputError(f"--vary_images has {max(budgets.images)}, more than the {images[-1]} images that prune")
    if first.accelerator.num_processes > 1:
        raise InputError("a comparison is carried out by one process: start it without accelerate launch")
    settings = {
        "rows": KIND.name,
        **alike(base_config(request, ())),
        **digests_of(first, []),
        "reference_rounds": rounds[-1],
    }
    folder = ComparisonFolder(KIND, request.output_dir, settings, files_of(subjects), usual(subjects[0].config))
    first.task.check_data()
    for subject in {subject.method: subject for subject in subjects}.values():
        # Two images are scored: what cannot be done shows before time is spent.
        prepared(task_type, subject)
    pruners = _Pruners(task_type, request.output_dir, rounds[-1])
    wanted: dict[tuple[Any, ...], Callable[[], RoundsRow]] = {}
    for subject, there in zip(subjects, images, strict=True):
        wanted |= {(*subject.key, REFERENCE, rounds[-1]): partial(pruners.reference, subject)}
        seed = subject.config.seed
        draws = range(seed + 1, seed + 1 + DRAWS) if budgets.draws is None else budgets.draws
        for varied, values in (
            ("rounds", rounds[:-1]),
            ("images", _counts(there, budgets.images)),
            ("draw", draws if there else ()),
        ):
            wanted |= {(*subject.key, varied, v): partial(pruners.other, subject, varied, v) for v in values}
    title = f"How masks settle, before training: {first.config.encoder}, {first.config.data.name}"
    return folder.complete(wanted, max(images), title, say)


def _counts(there: int, asked: tuple[int, ...] | None) -> list[int]:
    """Numbers of images to compare, fewer than all."""
    usual = [4**power for power in range(10)]
    return sorted({count for count in (usual if asked is None else asked) if count < there})


class _Pruners:
    """The prunings of all subjects; of one at a time the network and its images are held."""

    def __init__(self, task_type: type[Task], folder: Path, most_rounds: int) -> None:
        self.task_type, self.folder, self.most_rounds = task_type, folder, most_rounds
        self._held: tuple[Subject, _Pruner] | None = None

    def reference(self, subject: Subject) -> RoundsRow:
        return self._of(subject).reference()

    def other(self, subject: Subject, varied: str, value: int) -> RoundsRow:
        return self._of(subject).other(varied, value)

    def _of(self, subject: Subject) -> "_Pruner":
        if self._held is None or self._held[0] is not subject:
            store = _Store(self.folder / "masks", subject)
            made = prepared(self.task_type, subject)
            self._held = subject, _Pruner(self.task_type, subject, made, store, self.folder, self.most_rounds)
        return self._held[1]


class _Store:
    """Masks of one subject, as files."""

    def __init__(self, folder: Path, subject: Subject) -> None:
        method, sparsity, seed = subject.key
        self._place = folder / method / f"{sparsity:g}" / f"seed{seed}"

    def load(self, name: str, model: nn.Module) -> Masks | None:
        """The masks of that name, if there are any."""
        file = self.file(name)
        if not file.is_file():
            return None
        try:
            return Masks.load(file, model).beside(model)
        except InputError as error:
            raise InputError(f"{error}: delete it, and it is pruned again") from None

    def file(self, name: str) -> Path:
        """Where the masks of that name are."""
        return self._place / f"{name}.safetensors"

    def save(self, name: str, masks: Masks) -> None:
        self._place.mkdir(parents=True, exist_ok=True)
        masks.save(self.file(name))


class _Pruner:
    """The prunings of one subject, with a reference that each is compared with."""

    def __init__(
        self, task_type: type[Task], subject: Subject, made: Prepared, store: _Store, rows: Path, most_rounds: int
    ) -> None:
        assert made.criterion is not None
        self.task_type, self.subject, self.store = task_type, subject, store
        self.setup, self.batches, self.most = made.setup, made.batches, most_rounds
        self.rows = rows
        self.criterion: Criterion = made.criterion

    def reference(self) -> RoundsRow:
        """The pruning of most rounds and all images, and its course."""
        model, looks = self.setup.model, _looks(self.most)
        found: list[tuple[int, Masks]] = []
        plan = self._plan(self.most)
        started = time.perf_counter()
        masks = self._prune(self.most, self.batches, lambda number, now: _note(found, looks, number, now))
        spent = time.perf_counter() - started
        self.store.save(REFERENCE, masks)
        course = []
        for number, now in [(0, plan.start.beside(model)), *found]:
            at_once = masks
            if number < self.most:
                with naming_file(self.criterion, self.subject.config.method):
                    scores = scored(self.criterion, model, self.batches, now, plan.scope)
                at_once = now.keep_top(scores, masks.density, plan.keep)
            course.append(CoursePoint(number, now.density, overlap(at_once, masks), self._branches(now)))
        return self._row(REFERENCE, self.most, self.most, self.batches, masks, masks, spent, tuple(course))

    def other(self, varied: str, value: int) -> RoundsRow:
        """The pruning in which one thing is another, beside the reference."""
        reference = self.store.load(REFERENCE, self.setup.model)
        if reference is None:
            # Its file is gone, or it could not be pruned, which then says why again.
            self.store.save(REFERENCE, reference := self._prune(self.most, self.batches))
        held = {row.masks_digest for row in KIND.read(self.rows) if row[:4] == (*self.subject.key, REFERENCE)}
        if held and digest(reference.values()) not in held:
            raise InputError(f"{self.store.file(REFERENCE)} has other masks than the reference had: delete it")
        rounds = value if varied == "rounds" else self.most
        batches = self.batches
        if varied == "images":
            batches = first_images(batches, value)
        elif varied == "draw":
            batches = self._drawn(value)
        started = time.perf_counter()
        masks = self._prune(rounds, batches)
        spent = time.perf_counter() - started
        self.store.save(f"{varied}{value}", masks)
        return self._row(varied, value, rounds, batches, masks, reference, spent)

    def _plan(self, rounds: int) -> Plan:
        config = replace(self.subject.config, rounds=rounds)
        return make_plan(self.setup.model, self.setup.task, self.criterion, config)

    def _prune(self, rounds: int, batches: Batches, on_round: Callable[[int, Masks], None] | None = None) -> Masks:
        with naming_file(self.criterion, self.subject.config.method):
            return carry_out(self._plan(rounds), self.setup.model, batches, self.criterion, on_round=on_round)

    def _drawn(self, seed: int) -> Batches:
        """As many other images as the run's own."""
        config = replace(self.subject.config, seed=seed)
        task = self.task_type(config)
        return pruning_batches(task.train, draw_batches(task, self.criterion, config))

    def _branches(self, masks: Masks) -> dict[str, float]:
        images = [batch for batch, _ in self.batches] or [self.setup.task.train[0, 0][0][None]]
        try:
            found = flow(self.setup.model, images, masks)
        except UnsupportedOperation:
            return {}
        if found.sums:
            return {name: split.branch for name, split in found.sums.items()}
        return {name.removesuffix(".weight"): found.layers[name] for name in masks}

    def _row(
        self,
        varied: str,
        value: int,
        rounds: int,
        batches: Batches,
        masks: Masks,
        reference: Masks,
        spent: float,
        course: tuple[CoursePoint, ...] = (),
    ) -> RoundsRow:
        images = sum(len(part) for part, _ in batches)
        same = agreement(masks, reference)
        alike = overlap(masks, reference)
        own = digest(masks.values())
        return RoundsRow(*self.subject.key, varied, value, rounds, images, alike, same, spent, own, course)


def overlap(masks: Masks, reference: Masks) -> float:
    """Of the weights that the reference keeps, the share that the masks keep as well."""
    return sum(int((mask & reference[name]).count_nonzero()) for name, mask in masks.items()) / reference.kept


def _looks(rounds: int) -> set[int]:
    return {1, rounds} | {round(rounds * place / LOOKS) for place in range(1, LOOKS + 1)} - {0}


def _note(found: list[tuple[int, Masks]], looks: set[int], number: int, masks: Masks) -> None:
    if number in looks:
        found.append((number, masks))


def first_images(batches: Sequence[tuple[Tensor, Tensor]], count: int) -> list[tuple[Tensor, Tensor]]:
    """Batches of the first `count` images."""
    found: list[tuple[Tensor, Tensor]] = []
    for images, labels in batches:
        left = count - sum(len(part) for part, _ in found)
        if left > 0:
            found.append((images[:left], labels[:left]))
    return found


def read_budgets(argv: Sequence[str], about: str) -> tuple[Request, Budgets]:
    """What a command line asks for. All other flags are the runs'. Raises InputError for a flag that cannot be read."""
    usage = "px_seg rounds --methods A,B --sparsities X,Y --output_dir DIR [--KEY VALUE ...]"
    parser = Parser(usage, about)
    add = parser.add_argument
    add("--task", default="seg", choices=TASKS, help="by default seg")
    add("--methods", type=list_of(str), required=True, metavar="A,B", help=METHODS)
    add("--sparsities", type=sparsities, required=True, metavar="X,Y", help=SPARSITIES)
    add("--seeds", type=list_of(int), default=(0,), metavar="I,J", help="seeds of head and data order; by default 0")
    whole = list_of(int)
    usual = ",".join(map(str, ROUNDS))
    add("--vary_rounds", type=whole, metavar="I,J", help=f"numbers of rounds; by default {usual}")
    add("--vary_images", type=whole, metavar="I,J", help="numbers of images; by default powers of 4 up to all")
    others = f"seeds of other images; by default the {DRAWS} after the run's own"
    add("--vary_draws", type=whole, metavar="I,J", help=others)
    add("--output_dir", required=True, metavar="DIR", help="folder for rows, masks, tables and figures")
    asked, flags = parser.parse_known_args(argv)
    if flags and not flags[0].startswith("--"):
        raise InputError(f"{flags[0]!r} belongs to no flag")
    request = Request(
        task=asked.task,
        methods=asked.methods,
        sparsities=asked.sparsities,
        seeds=asked.seeds,
        output_dir=user_path(asked.output_dir, "--output_dir"),
        flags=tuple(flags),
    )
    return request, Budgets(asked.vary_rounds, asked.vary_images, asked.vary_draws)
