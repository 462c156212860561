"""One run from start to end: prune, fine-tune, evaluate, and write down what came of it."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from px_seg.config import RunConfig, flat
from px_seg.data.loaders import Loader, Transformed, evaluation_loader, pruning_batches, training_loader
from px_seg.data.normalisation import IMAGENET
from px_seg.devices import Agreement, broadcast_from_main, in_channels_last, main_only, only_deterministic
from px_seg.errors import InputError, Stopped, TrainingDiverged
from px_seg.files import told_when_full
from px_seg.identity import digest
from px_seg.metrics import Score
from px_seg.models import zero_scales
from px_seg.progress import print_line
from px_seg.pruning import Masks
from px_seg.run.best import keep_if_best
from px_seg.run.caching import keep_in_memory
from px_seg.run.checkpoints import CheckpointKeeper, Checkpoints, Interval, Saved, launch_settings, stop_together
from px_seg.run.compacting import compacted, compacted_as
from px_seg.run.folder import TRACKED
from px_seg.run.given_masks import notes_on
from px_seg.run.outcome import UNAVERAGED, Outcome, Trained, record
from px_seg.run.prior_training import train_under
from px_seg.run.repairing import Start, check_layers, repair, repair_between_rounds
from px_seg.run.results import scores_in, table, whole
from px_seg.run.setup import Pruning, Setup, check_shapes, data_of, set_up
from px_seg.run.sparsify import equip, find_masks, notes_on_pattern, reinitialise, resumed_masks, try_out
from px_seg.run.training import Position, Prepared, averaged, fine_tune, log_of, prepare, share_buffers
from px_seg.tasks import Task
from px_seg.termination import Termination


def run(
    task_type: type[Task],
    config: RunConfig,
    say: Callable[[str], None] = print_line,
    termination: Termination | None = None,
) -> dict[str, Any] | None:
    """Carry out the run that `config` describes and return what its results.json holds.

    `say` is given the lines for a terminal. `termination` is asked after every update whether to save and stop. On
    several processes every one calls this; only the main one writes and prints, and the others return None. The
    processes stay in touch until `px_seg.devices.leave_group`.

    Raises InputError for anything wrong with the configuration or the data, before any pruning or
    training and before anything is overwritten, TrainingDiverged when the loss or a weight is no
    longer finite, naming the last good checkpoint, and Stopped where it was told to end and has saved its work.
    """
    this: Run | None = None
    try:
        with only_deterministic(config.deterministic) as left:
            this = Run(set_up(task_type, config), say, termination or Termination())
            masks = this.prune()
            with told_when_full(this.folder.path, f"the run in {this.folder.path}"):
                start = this.repair(masks)
                held, start = this.compact(masks, start)
                trained = this.fine_tune(held, start)
                this.notes += [f"without a deterministic implementation here: {', '.join(left)}"] if left else []
                return this.record(masks, held, start, trained)
    except Stopped as stop:
        if this is not None and this.folder.opened:
            stop.untouched = False
            this.folder.note_stop(stop.cause)
        raise
    finally:
        if this is not None:
            this.folder.release()


class Run:
    """A run under way: data and network checked, the network on its device."""

    def __init__(self, setup: Setup, say: Callable[[str], None], termination: Termination) -> None:
        """Read every image once, say where the weights come from, and fit the head if that is asked for."""
        self.setup, self.say, self.termination = setup, say, termination
        self.config, self.task, self.model, self.folder = setup.config, setup.task, setup.model, setup.folder
        self.accelerator = setup.accelerator
        self.agreement = Agreement(self.accelerator)
        self.checkpoints = Checkpoints(self.accelerator, self.folder.checkpoint, say, self.agreement)
        self.resumed: Saved | None = None
        """What training goes on from, if it does; known once the folder is open."""
        self.data = ""
        """The fingerprint of the data, known once the folder is open to the main process."""
        self.masks_digest = ""
        """The digest of the masks, once there are any."""
        self.main = self.accelerator.is_main_process
        config, task = self.config, self.task
        self.train_loader = training_loader(
            *(task.train, config.batch_size, config.seed, config.data.workers),
            *(self.accelerator.num_processes, self.accelerator.gradient_accumulation_steps),
        )
        self.val_loader = self._loader(task.val)
        self.notes = main_only(self.accelerator, task.check_data) or []
        if config.data.cache:
            self.notes += keep_in_memory(task, self.accelerator, self.agreement, config.data.workers)
        self.notes += zero_scales(getattr(self.model, task.scope))
        self.notes += notes_on(setup.source, config) if isinstance(setup.source, Masks) else []
        source = setup.source
        self.notes += notes_on_pattern(self.model, source.plan) if isinstance(source, Pruning) else []
        check_shapes(self.model, task, config)
        check_layers(self.model, task, source.plan.start if isinstance(source, Pruning) else source, config)
        if self.main:
            say(f"weights: {setup.loaded or 'none, the backbone is initialised at random'}")
            if task.normalisation != IMAGENET:
                say(f"images are normalised by {task.normalisation}")
            for note in self.notes:
                say(note)
        self.model.to(self.accelerator.device)
        self.whole = whole(self.model, task)
        task.fit_head(self.model, self.accelerator)
        if in_channels_last(config, self.accelerator):
            # torch 2.11 does not say that a module takes it.
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def prune(self) -> Masks:
        """The run's masks: found, read where the run is resumed, or those given; the run's folder is open from here.

        With --reinit the model then has new weights. Pruned weights become 0 where it is trained.
        """
        source = self.setup.source
        masks = self._found(source) if isinstance(source, Pruning) else self._given(source)
        self.masks_digest = digest(masks.values())
        if self.config.reinit:
            reinitialise(self.model, self.task, self.config)
        self.resumed = self._resumed(masks) if self.config.resume else None
        return masks

    def repair(self, masks: Masks) -> Start:
        """Repair the pruned network if that is asked for, and compare it with the dense one.

        Where a training goes on, both were done, and its weights are to come from the checkpoint.
        """
        if self.resumed is not None:
            return Start.from_plain(self.resumed.known["start"])
        return repair(self.accelerator, self.model, self.task, masks, self.config)

    def compact(self, masks: Masks, start: Start) -> tuple[Masks, Start]:
        """Make the pruned network smaller if that is asked for; the masks of what is trained, and what is known of it.

        Where a training goes on, it is made as small as it was.
        """
        if not self.config.compact:
            return masks, start
        wide = _size(self.model)
        if self.resumed is None:
            small = compacted(self.accelerator, self.model, self.task, masks, self.folder)
        else:
            small = compacted_as(self.resumed.weights(), self.model, start.left, self.folder)
        self.model, narrow = small.model, _size(small.model)
        if self.main:
            idle = masks.kept - small.masks.kept
            gone = f"; {idle:,} kept weights had no effect and are gone with them" if idle else ""
            self.say(f"compacted from {wide:,} parameters to {narrow:,}{gone}")
            if narrow == wide:
                self.say("every channel is of use: --granularity filter prunes whole ones")
            for what in small.left:
                self.say(f"not made smaller: {what}")
        return small.masks, start._replace(left=small.left)

    def fine_tune(self, masks: Masks, start: Start) -> Trained:
        """Train under its masks, logging every epoch and evaluating and checkpointing as often as configured.

        With no epoch to train, the pruned network is evaluated as it is.
        """
        accelerator, config, folder = self.accelerator, self.config, self.folder
        self._start_tracker()
        prepared = prepare(accelerator, self.model, self.task, self.train_loader, config, config.epochs)
        # Before the average is made of it, which may be saved before the first update.
        masks.apply(self.model)
        prepared = averaged(prepared, config)
        begun, history = self._from_here(prepared)
        every = Interval.parse(config.checkpoint_every)
        known = {"start": start.as_plain(), "masks": self.masks_digest}
        keeper = CheckpointKeeper(
            *(self.checkpoints, every, self.termination, prepared, masks),
            known=lambda: {**known, "history": history},
        )
        scores: dict[str, Any] = {}
        with masks.hold(self.model, prepared.optimizer):
            if config.epochs and self.resumed is None:
                keeper.save(begun)
            if not history and (config.epochs == 0 or (config.evaluate_first and begun.epoch == 0)):
                line: dict[str, Any] = {"epoch": 0}
                scores = self._evaluate(line, prepared)
                self._log(line, history)
            try:
                for position in fine_tune(accelerator, self.task, prepared, config.epochs, keeper, begun):
                    share_buffers(accelerator, prepared)
                    # Saved before it is evaluated, which takes long as well.
                    keeper.save(position)
                    line = asdict(log_of(accelerator, position))
                    if position.epoch % config.evaluate_every == 0 or position.epoch == config.epochs:
                        scores = self._evaluate(line, prepared)
                        if config.keep_best and position.epoch < config.epochs:
                            keep_if_best(accelerator, self.task, folder, self._shown(prepared), history, line)
                    self._log(line, history)
            except TrainingDiverged as error:
                raise TrainingDiverged(f"{error}; the last good checkpoint is {folder.checkpoint}") from None
        for tracker in accelerator.trackers:
            tracker.finish()
        self.model = self._shown(prepared)
        if not scores:
            # A run that was stopped after its last epoch has logged its scores, but no details.
            scores = self.task.evaluate(self.model, self.val_loader, accelerator.device)
        also = {
            split: self.task.evaluate(self.model, self._loader(data), accelerator.device)
            for split, data in self.task.also.items()
        }
        return Trained(history, scores, also)

    def _from_here(self, prepared: Prepared) -> tuple[Position, list[dict[str, Any]]]:
        """Where training goes on, or begins, and the lines of metrics.jsonl until there; what was saved is restored."""
        position, history = Position(), []
        if self.resumed is not None:
            self.checkpoints.restore(self.resumed, prepared)
            position, history = self.resumed.position, list(self.resumed.known["history"])
            if self.main:
                self.say(f"resumed at epoch {max(position.epoch, 1)}, batch {position.batches}")
            if position.batches == (len(prepared.loader) if position.epoch else 0):
                # An epoch is logged once it is evaluated, and that may have come after the checkpoint.
                logged = broadcast_from_main(self.accelerator, self.folder.history)
                history += [line for line in logged if line["epoch"] == position.epoch][:1]
        if history and history[-1]["epoch"] == position.epoch:
            position = Position(position.epoch + 1)
        main_only(self.accelerator, lambda: self.folder.rewrite(history))
        return position, history

    def record(self, masks: Masks, held: Masks, start: Start, trained: Trained) -> dict[str, Any] | None:
        """Write the model, the pictures and results.json, and return what that holds; None but on the main process."""
        if not self.main:
            return None
        outcome = Outcome(self.setup, self.model, masks, held, start, trained, self.notes, self.data, self.whole)
        results = record(outcome)
        self.say(table(self.task, results, self.folder.path))
        return results

    def _found(self, source: Pruning) -> Masks:
        """The masks of a pruning, which opens the folder once the criterion is seen to work."""
        config, model, folder, accelerator = self.config, self.model, self.folder, self.accelerator

        def train(network: nn.Module, masks: Masks, epochs: int | None) -> None:
            train_under(
                *(accelerator, network, masks, self.task, self.train_loader, config, epochs or config.epochs),
                Checkpoints(accelerator, folder.pruning_checkpoint, self.say, self.agreement),
                self.termination,
            )

        criterion, plan = equip(source.criterion, self.task, train), source.plan
        batches = pruning_batches(self.task.train, source.drawn, accelerator.process_index, accelerator.num_processes)
        main_only(accelerator, lambda: try_out(model, plan, batches, criterion, config.method))
        main_only(accelerator, self._open)
        if config.resume and folder.masks.is_file():
            return resumed_masks(model, plan, folder, config)
        repair = repair_between_rounds(accelerator, self.task, config)
        with told_when_full(folder.path, f"the run in {folder.path}"):
            return find_masks(
                *(model, plan, batches, criterion, folder, config, accelerator, self.termination, self.agreement),
                repair=repair,
            )

    def _open(self) -> None:
        self.data = data_of(self.task)
        # Half of it would be a folder that is neither this run's nor another's.
        with self.termination.deferred():
            self.folder.open(self.config, launch_settings(self.accelerator), self.data)
        self.termination.check()

    def _resumed(self, masks: Masks) -> Saved | None:
        """What training goes on from. InputError for a checkpoint that was trained under other masks."""
        saved = self.checkpoints.find()
        if saved is None:
            if self.main and self.folder.history():
                self.say("there is no checkpoint: training begins again")
        elif saved.known["masks"] != self.masks_digest:
            raise InputError(
                f"the checkpoint {saved.folder} was trained under other masks than those in {self.folder.masks}: "
                "restore these, or delete the checkpoint, and --resume trains again"
            )
        return saved

    def _given(self, masks: Masks) -> Masks:
        """The same masks, written to the opened folder. InputError where a run to be resumed had others."""
        config, folder = self.config, self.folder

        def write() -> None:
            self._open()
            if config.resume and folder.masks.is_file() and Masks.load(folder.masks) != masks:
                raise InputError(
                    f"the run in {folder.path} began with masks other than those that {config.masks} holds now"
                )
            masks.save(folder.masks)

        main_only(self.accelerator, write)
        return masks

    def _loader(self, data: Transformed) -> Loader:
        """This process's share of the images."""
        accelerator, config = self.accelerator, self.config
        process, processes = accelerator.process_index, accelerator.num_processes
        return evaluation_loader(data, config.batch_size, config.data.workers, process, processes)

    def _start_tracker(self) -> None:
        if self.config.tracker:
            settings = {
                key: value if isinstance(value, int | float | str) else str(value)
                for key, value in flat(asdict(self.config)).items()
            }
            self.accelerator.init_trackers(TRACKED, settings)

    def _shown(self, prepared: Prepared) -> nn.Module:
        """The network that is evaluated and saved: the average, where there is one."""
        return self.model if prepared.average is None else prepared.average.module

    def _evaluate(self, line: dict[str, Any], prepared: Prepared) -> dict[str, Any]:
        """The scores of the network as it is; `line` gets them, those of the weights beside their average, and the
        time that they took."""
        stop_together(self.termination, self.agreement)
        started = time.perf_counter()
        scores = self.task.evaluate(self._shown(prepared), self.val_loader, self.accelerator.device)
        line |= self._without_details(scores)
        if prepared.average is not None:
            own = self.task.evaluate(self.model, self.val_loader, self.accelerator.device)
            line[UNAVERAGED] = self._without_details(own)
        line["evaluate_seconds"] = time.perf_counter() - started
        return scores

    def _without_details(self, scores: Mapping[str, Any]) -> dict[str, Any]:
        """What is logged of an epoch."""
        return {key: value for key, value in scores.items() if key not in self.task.details}

    def _log(self, line: dict[str, Any], history: list[dict[str, Any]]) -> None:
        """Add an epoch to the history, and to what is written, said and tracked."""
        history.append(line)
        if self.main:
            self.folder.log(line)
            self.say(_said(line, self.config.epochs, scores_in(self.task, line)))
        numbers = {key: value for key, value in line.items() if isinstance(value, int | float)}
        self.accelerator.log(numbers, step=line["epoch"])


def _said(line: Mapping[str, Any], epochs: int, scores: Sequence[Score]) -> str:
    parts = [f"epoch {line['epoch']}/{epochs}"]
    if "loss" in line:
        parts.append(f"loss {line['loss']:.3f}")
    parts += [f"{score.label} {score.text(line[score.name])}" for score in scores]
    return "  ".join([*parts, f"{line.get('train_seconds', 0) + line.get('evaluate_seconds', 0):.0f} s"])


def _size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
