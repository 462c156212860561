"""What a round of PX costs compared with plain inference, how that grows, and how far precisions agree."""

import csv
import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from px_seg import plots
from px_seg.analysis.mask_agreement import agreement
from px_seg.benchmark.operators import breakdown
from px_seg.cost import clock, peak_bytes, seconds
from px_seg.errors import InputError
from px_seg.models import build_segmenter, check_segmenter, load_model
from px_seg.pruning import PX, Masks, criterion, prune
from px_seg.pruning.compaction.rounds import Shrinking

SCOPE = "encoder"


@dataclass(frozen=True)
class Case:
    """What is measured: DeepLabV3+ on images of noise.

    Args:
        encoder: backbone, as segmentation-models-pytorch names it
        output_stride: 8 or 16
        batches: number of batches
        batch_size: images per batch
        side: height and width of the images, a multiple of the output stride
        sparsity: sparsity of the masks in force over the backbone; 0 for none
        masks: criterion of the masks in force: random, whose masks leave every channel alive, or another, such as px,
            in ten rounds
        rounds: rounds of scoring and ranking
        precision: precision of PX's walk; by default float32
        device: cpu or cuda
        threads: CPU threads; by default as many as torch chooses
        channels_last: use the memory layout that GPUs prefer
        model: folder of a run's model, instead of random weights
    """

    encoder: str = "resnet50"
    output_stride: int = 8
    batches: int = 8
    batch_size: int = 4
    side: int = 128
    sparsity: float = 0.8
    masks: str = "random"
    rounds: int = 1
    precision: str | None = None
    device: str = "cpu"
    threads: int | None = None
    channels_last: bool = False
    model: str | None = None


@dataclass(frozen=True)
class Setting:
    """A case, built: the network, the images and the masks in force."""

    model: nn.Module
    images: list[Tensor]
    masks: Masks
    device: torch.device

    @classmethod
    def of(cls, case: Case) -> "Setting":
        """Raises InputError for what cannot be built, and for a GPU that is not there."""
        if case.device not in ("cpu", "cuda"):
            raise InputError(f"device must be cpu or cuda, got {case.device!r}")
        if case.device == "cuda" and not torch.cuda.is_available():
            raise InputError("there is no CUDA GPU on this machine: leave device out")
        if min(case.batches, case.batch_size, case.rounds, 1 if case.threads is None else case.threads) < 1:
            raise InputError("batches, batch_size, rounds and threads must be at least 1")
        check_segmenter(case.encoder, case.output_stride)
        if case.side < 1 or case.side % case.output_stride:
            raise InputError(f"side must be a multiple of the output stride {case.output_stride}, got {case.side}")
        if case.threads is not None:
            torch.set_num_threads(case.threads)
        device = torch.device(case.device)
        torch.manual_seed(0)
        model = _model(case).to(device).eval()
        generator = torch.Generator().manual_seed(0)
        shape = case.batch_size, 3, case.side, case.side
        images = [torch.randn(shape, generator=generator).to(device) for _ in range(case.batches)]
        if case.channels_last:
            # torch 2.11 does not say that a module takes it.
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            images = [x.to(memory_format=torch.channels_last) for x in images]
        pruner = criterion(case.masks)
        return cls(model, images, prune(model, images, case.sparsity, pruner, SCOPE, min(10, pruner.rounds)), device)

    @cached_property
    def shrinking(self) -> Shrinking:
        """Cuts the network for sparse rounds as `prune` does, and is kept over rounds as there."""
        return Shrinking(self.model, lambda: self.images[0].shape[1:])

    def infer(self) -> None:
        """Plain inference over the batches."""
        with torch.inference_mode():
            for x in self.images:
                self.model(x)

    def score_and_rank(self, precision: str | None, rounds: int = 1) -> None:
        """`rounds` rounds from the masks in force: score, and keep 97% of what lives."""

        def score(network: nn.Module, masks: Masks) -> dict[str, Tensor]:
            return PX(precision=precision).score(network, self.images, masks, SCOPE)

        masks = self.masks
        for _ in range(rounds):
            masks = masks.keep_top(self.shrinking.scores(masks, score), 0.97 * masks.density)

    def held(self) -> int:
        """Bytes of the model and the images, which inference and PX both need."""
        tensors = [*self.model.parameters(), *self.model.buffers(), *self.images]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def measure(case: Case, repeats: int = 3) -> dict[str, Any]:
    """Seconds and peak memory of PX's rounds and of inference over the same batches, and their ratios.

    The time ratio is that of one round; memory counts the model and the images on both sides.
    """
    setting = Setting.of(case)
    works = {"inference": setting.infer, "rounds": lambda: setting.score_and_rank(case.precision, case.rounds)}
    times = seconds(setting.device, works, repeats)
    memory = {name: setting.held() + peak_bytes(setting.device, work) for name, work in works.items()}
    return {
        **asdict(case),
        "inference_s": times["inference"],
        "round_s": times["rounds"] / case.rounds,
        "ratio": times["rounds"] / case.rounds / times["inference"],
        "inference_mib": memory["inference"] / 2**20,
        "round_mib": memory["rounds"] / 2**20,
        "memory_ratio": memory["rounds"] / memory["inference"],
    }


def spent(case: Case) -> dict[str, tuple[float, float]]:
    """Seconds in each kind of operator: during inference, and during one round."""
    setting = Setting.of(case)
    inference = breakdown(setting.device, setting.infer)
    one_round = breakdown(setting.device, lambda: setting.score_and_rank(case.precision))
    return {kind: (inference[kind], one_round[kind]) for kind in inference}


VARIATIONS: dict[str, tuple[Any, ...]] = {
    "batches": (1, 2, 4, 8, 16),
    "batch_size": (1, 2, 4, 8),
    "side": (64, 96, 128, 192),
    "rounds": (1, 2, 4),
    "encoder": ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
}


def variations(case: Case) -> dict[str, list[Case]]:
    """The case with one thing varied at a time."""
    return {name: [replace(case, **{name: value}) for value in values] for name, values in VARIATIONS.items()}


def _try(setting: Setting, precisions: list[str]) -> None:
    """Raise InputError for a precision that is unknown, or that this device lacks, before time is spent."""
    for precision in precisions:
        PX(precision=precision).score(setting.model, [setting.images[0][:1]], scope=SCOPE)


def precision_agreement(case: Case, precisions: list[str], sparsity: float, folder: Path) -> list[dict[str, Any]]:
    """Prune in float64 and in each precision; the share of the backbone's weights on which they agree.

    Masks are kept in `folder` and taken from there by a later call.
    """
    setting = Setting.of(replace(case, sparsity=0))
    _try(setting, precisions)
    exact = _pruned(setting, case, "float64", sparsity, folder)
    rows = []
    for precision in precisions:
        masks = _pruned(setting, case, precision, sparsity, folder)
        same = agreement(exact, masks)
        rows.append(
            {
                **{"encoder": case.encoder, "weights": "trained" if case.model else "random", "rounds": case.rounds},
                **{"precision": precision, "agreement": same, "of": masks.total},
                "differing": round((1 - same) * masks.total),
                **{"prune_s": masks.provenance.seconds, "float64_s": exact.provenance.seconds},
            }
        )
    return rows


def _pruned(setting: Setting, case: Case, precision: str, sparsity: float, folder: Path) -> Masks:
    weights = sum(float(weight.detach().abs().sum(dtype=torch.float64)) for weight in setting.model.parameters())
    asked = json.dumps({**asdict(case), "precision": precision, "sparsity": sparsity, "weights": weights})
    path = folder / f"{case.encoder}-{'trained' if case.model else 'random'}-{sparsity}-{precision}.safetensors"
    if path.is_file():
        masks = Masks.load(path, setting.model)
        if masks.provenance.notes.get("case") == asked:
            return masks
    took, masks = clock(
        setting.device,
        lambda: prune(setting.model, setting.images, sparsity, PX(precision=precision), SCOPE, case.rounds),
    )
    masks = masks.with_provenance(notes={"case": asked}, seconds=round(took, 3))
    masks.save(path)
    return masks


def _model(case: Case) -> nn.Module:
    if case.model is not None:
        return load_model(case.model)
    return build_segmenter(case.encoder, weights="none", output_stride=case.output_stride)


def report_round(case: Case, repeats: int) -> None:
    """Print what `measure` and `spent` find. Raises InputError for fewer than one repeat."""
    _check_repeats(repeats)
    row = measure(case, repeats)
    print(
        f"{case.encoder} at stride {case.output_stride}, {case.batches} batches of {case.batch_size}x3x{case.side}x"
        f"{case.side}, {case.sparsity:.0%} pruned by {case.masks}, {case.precision or 'float32'}, {device_name(case)}"
    )
    print(
        f"inference {row['inference_s']:.3f} s, one round {row['round_s']:.3f} s: {row['ratio']:.2f} times; "
        f"peak memory {row['inference_mib']:.0f} and {row['round_mib']:.0f} MiB: {row['memory_ratio']:.2f} times"
    )
    print(f"{'seconds in':40}inference  one round")
    for kind, (inference, one_round) in spent(case).items():
        print(f"{kind:40}{inference:9.3f}  {one_round:9.3f}")


def report_growth(case: Case, repeats: int, folder: Path) -> None:
    """Write growth.csv, growth.md and growth.png to `folder`. Raises InputError for fewer than one repeat."""
    _check_repeats(repeats)
    _make(folder)
    rows = []
    for varied, cases in variations(case).items():
        for each in cases:
            row = {"varied": varied, "value": getattr(each, varied), **measure(each, repeats)}
            print(
                f"{varied} {row['value']}: {row['ratio']:.2f} in time, {row['memory_ratio']:.2f} in memory", flush=True
            )
            rows.append(row)
    _write_csv(rows, folder / "growth.csv")
    (folder / "growth.md").write_text(_markdown(rows))
    plots.growth(folder / "growth.png", rows, device_name(case))


def report_agreement(case: Case, precisions: list[str], sparsities: list[float], folder: Path) -> None:
    """Print a line for every precision and sparsity. Raises InputError when there is none of either."""
    if not precisions or not sparsities:
        raise InputError("agreement needs at least one precision and one sparsity")
    _make(folder)
    for sparsity in sparsities:
        for row in precision_agreement(case, precisions, sparsity, folder):
            print(
                f"{row['encoder']}, {row['weights']} weights, {sparsity:.1%} pruned in {row['rounds']} rounds: "
                f"{row['precision']} agrees with float64 on {row['agreement']:.4%} of {row['of']:,} weights "
                f"({row['differing']:,} differ); {row['prune_s']:.0f} s against {row['float64_s']:.0f} s",
                flush=True,
            )


def report_prune(case: Case, precisions: list[str]) -> None:
    """Print the seconds of a whole prune, ranking and all, in each precision."""
    setting = Setting.of(replace(case, sparsity=0))
    _try(setting, precisions)
    for precision in precisions:
        criterion = PX(precision=precision)
        prune(setting.model, setting.images[:1], case.sparsity, criterion, SCOPE, 2)  # warms up, does not count
        work = partial(prune, setting.model, setting.images, case.sparsity, criterion, SCOPE, case.rounds)
        took, masks = clock(setting.device, work)
        print(
            f"{case.encoder} at stride {case.output_stride}, {case.rounds} rounds of {case.batches} batches of "
            f"{case.batch_size}x3x{case.side}x{case.side} to {masks.sparsity:.2%}, {precision}, "
            f"{'channels last, ' if case.channels_last else ''}{device_name(case)}: {took:.1f} s",
            flush=True,
        )


def _check_repeats(repeats: int) -> None:
    if repeats < 1:
        raise InputError(f"repeats must be at least 1, got {repeats}")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the folder {folder} cannot be created: {error.strerror}") from None


def device_name(case: Case) -> str:
    """The GPU's name, or how many CPU threads."""
    return torch.cuda.get_device_name() if case.device == "cuda" else f"{torch.get_num_threads()} CPU threads"


def _markdown(rows: list[dict[str, Any]]) -> str:
    lines = ["| varied | value | inference s | one round s | ratio | inference MiB | one round MiB | ratio |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for row in rows:
        lines.append(
            f"| {row['varied'].replace('_', ' ')} | {row['value']} | {row['inference_s']:.2f} | {row['round_s']:.2f} | "
            f"{row['ratio']:.2f} | {row['inference_mib']:.0f} | {row['round_mib']:.0f} | {row['memory_ratio']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def _write_csv(rows: list[dict[str, Any]], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
