"""The tables of a report, in Markdown."""

import json
import shlex
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any, NamedTuple

from px_seg.analysis.sparse_units import UNITS, share_of, short
from px_seg.deploy.runs import images_in
from px_seg.deploy.tensorrt import sparse_command
from px_seg.metrics import Score
from px_seg.report.payoff import points
from px_seg.report.run_rows import preserved_columns
from px_seg.report.runs import FORMATS, RUNTIMES, TORCH, Panel
from px_seg.report.statistics import LEVEL, Difference, Summary, paired_difference, rank_correlation, summary
from px_seg.run.folder import EXPORTED_WHOLE
from px_seg.run.results import sparse_layers_of
from px_seg.sweep.methods import DENSE, criterion_of
from px_seg.sweep.sanity import named_checks

FEWEST = 4
"""Methods that a rank correlation is told of."""


class Table(NamedTuple):
    """Cells as Markdown, in which ** makes bold; the first column names the row."""

    caption: str
    head: list[str]
    rows: list[list[str]]


def scores(panel: Panel) -> Table:
    """Mean and standard deviation by method and sparsity; the best pruned one of each sparsity is bold.

    Of the dense network alone where nothing else was run.
    """
    score = panel.score
    name = f"{score.label} in {score.unit}" if score.unit else score.label
    if not panel.runs:
        return Table(f"{name}, {_spread(panel)}", ["", score.label], [[DENSE, _dense(panel)]])
    means = {(m, s): _mean(panel, m, s) for s in panel.sparsities for m in _present(panel, s)}
    best = {s: score.best(mean for (_, other), mean in means.items() if other == s) for s in panel.sparsities}
    rows = [[DENSE, *[_dense(panel)] * len(panel.sparsities)]] if panel.dense else []
    for method in panel.methods:
        row = [method]
        for sparsity in panel.sparsities:
            values = list(panel.scores(method, sparsity).values())
            cell = _written(summary(values), score) if values else ""
            top = len(panel.methods) > 1 and means.get((method, sparsity)) == best[sparsity]
            row.append(f"**{cell}**" if top else cell)
        rows.append(row)
    end = "highest" if score.higher_is_better else "lowest"
    caption = f"{name}, {_spread(panel)}, by sparsity of the backbone; bold: the {end} mean of the pruned networks"
    return Table(caption, ["", *_heads(panel.sparsities)], rows)


def differences(panel: Panel) -> Table | None:
    """Of every method from the dense network, and of the first and of magnitude, in all its forms, from every other.

    None where there is neither.
    """
    if not panel.runs or (not panel.dense and len(panel.methods) == 1):
        return None
    references = [m for m in panel.methods if m == panel.methods[0] or criterion_of(m) == "magnitude"]
    others = len(panel.methods) > 1
    head = ["method", "sparsity"]
    head += ["minus dense"] if panel.dense else []
    head += [f"{reference} minus it" for reference in references if others]
    rows = []
    for sparsity in panel.sparsities:
        for method in _present(panel, sparsity):
            row = [method, f"{sparsity:.2%}"]
            own = panel.scores(method, sparsity)
            if panel.dense:
                row.append(_change(paired_difference(own, panel.scores(DENSE, 0)), panel.score))
            for reference in references if others else []:
                change = paired_difference(panel.scores(reference, sparsity), own)
                row.append("" if method == reference else _change(change, panel.score))
            rows.append(row)
    unit = {"%": " in points", "": ""}.get(panel.score.unit, f" in {panel.score.unit}")
    caption = f"Differences{unit}, over runs of the same seed"
    if len({run.seed for run in panel.runs}) > 1:
        caption += f", with {LEVEL:.0%} intervals (Student's t)"
    return Table(caption, head, rows)


def costs(panel: Panel) -> Table:
    """What is left of the network, and what pruning and training took, means over seeds."""
    head = ["method", "sparsity", "effective", "live channels", "empty layers", "parameters kept", "FLOPs kept"]
    everyone = [run.results for run in (*panel.dense, *panel.runs)]
    stages = [stage for stage in ("prune", "repair", "train") if any(stage in r["seconds"] for r in everyone)]
    head += ["checkpoint", "compressed", *stages]
    rows = []
    for sparsity, method in panel.cells:
        several = [run.results for run in panel.of(method, sparsity)]
        rows.append(
            [
                method,
                f"{sparsity:.2%}",
                _share(several, "effective_sparsity", 2),
                _share(several, "live_channels", 1),
                f"{mean(len(r['empty_layers']) for r in several):.3g}",
                _kept(several, "parameters", 1e6, "M"),
                _kept(several, "flops", 1e9, "G"),
                f"{mean(r['checkpoint_bytes']['file'] for r in several) / 1e6:.1f} MB",
                f"{mean(r['checkpoint_bytes']['compressed'] for r in several) / 1e6:.1f} MB",
                *(f"{mean(r['seconds'].get(stage, 0.0) for r in several):.0f} s" for stage in stages),
            ]
        )
    caption = (
        "What is left, and what it took: effective sparsity, which counts kept weights on no path as pruned; the "
        "backbone's channels on a path; "
        "all parameters and operations of the whole network, not counting multiplications by 0; the checkpoint as "
        "saved, with its zeros, and compressed by zlib"
    )
    return Table(caption, head, rows)


def sanity_table(panel: Panel) -> Table | None:
    """The checks of each method beside it (`px_seg.sweep.sanity`); None where none was run."""
    rows = []
    for sparsity in panel.sparsities:
        present = _present(panel, sparsity)
        for method in present:
            checks = {what: name for what, name in named_checks(method).items() if name in present}
            own = panel.scores(method, sparsity)
            for what, name in {"as it is": method, **checks}.items() if checks else ():
                found = panel.scores(name, sparsity)
                change = "" if name == method else _change(paired_difference(found, own), panel.score)
                written = _written(summary(list(found.values())), panel.score)
                rows.append([method, f"{sparsity:.2%}", what, written, change])
    caption = (
        f"Sanity checks, {panel.score.label}: the method's masks shuffled inside every layer, its masks on new "
        "weights, and as many weights in every layer, chosen at random or by magnitude; a check that is no worse says "
        "that the method's choice inside the layers, or of the weights' values, makes no difference"
    )
    return Table(caption, ["method", "sparsity", "", panel.score.title, "minus the method"], rows) if rows else None


def payoff_table(panel: Panel) -> Table | None:
    """What the smallest networks of the runs cost where they were measured; None where none was."""
    found = points(panel)
    exported = any(point.runtime != TORCH for point in found)
    rows = [
        [
            point.method,
            f"{point.sparsity:.2%}",
            *[RUNTIMES[point.runtime]] * exported,
            f"{point.milliseconds:.1f} ({point.quartiles[0]:.1f} to {point.quartiles[1]:.1f})",
            f"{point.share:.2f}",
            f"{point.megabytes:.1f}",
            f"{point.gflops:.3g}",
            panel.score.number(point.score),
        ]
        for point in found
    ]
    caption = (
        f"What the networks cost, those that are pruned compacted, on {_measured_on(panel)}: milliseconds of a forward "
        "pass and their quartiles, by the share of torch's dense network's, with which each was measured in turns; "
        f"megabytes of parameters{', or of the exported file' if exported else ''}; operations, zeros included"
    )
    head = ["method", "sparsity", *["in"] * exported, "ms", "of dense", "MB", "GFLOPs", panel.score.label]
    return Table(caption, head, rows) if rows else None


def exported_table(panel: Panel) -> Table | None:
    """What networks score in torch and in files that were exported, means over seeds; None where none was evaluated."""
    shown = [one for one in panel.runtimes if FORMATS.get(one, one) == one]
    if shown == [TORCH]:
        return None
    rows = []
    for sparsity, method in panel.cells:
        several = panel.of(method, sparsity)
        found = [[score for run in several if (score := run.score_in(one)) is not None] for one in shown]
        cells = [panel.score.number(mean(own)) if len(own) == len(several) else "" for own in found]
        rows.append([method, f"{sparsity:.2%}", *cells])
    name = f"{panel.score.label} in {panel.score.unit}" if panel.score.unit else panel.score.label
    head = ["method", "sparsity", *(RUNTIMES[one] for one in shown)]
    return Table(f"{name} of exported files, means over seeds; empty where not all seeds were exported", head, rows)


def sparse_table(panel: Panel) -> Table | None:
    """Which layers sparse matrix units can take, of the lowest seed; None where there are none."""
    rows, run = [], None
    for sparsity, method in panel.cells:
        first = min(panel.of(method, sparsity), key=lambda run: run.seed)
        if layers := sparse_layers_of(first.results):
            wide = {name: layer for name, layer in layers.items() if layer.is_wide}
            counts = [part for own in (layers, wide) for part in (str(len(own)), f"{share_of(own):.0%}")]
            rows.append([method, f"{sparsity:.2%}", *counts, ", ".join(short(wide))])
            run = run or first
    if run is None:
        return None
    command = sparse_command(run.folder / EXPORTED_WHOLE / "model.onnx", run.results["data"]["size"])
    caption = (
        "Layers that sparse matrix units can take, with at most 2 of every 4 weights along their input channels, and "
        f"their share of all operations; of those {UNITS.channels} channels wide or more, in and out, where the units "
        f"gain, the names. What TensorRT makes of them: px_seg export {shlex.quote(str(run.folder))} --no_compact; "
        f"{command} (without --fp16 from TensorRT 11 on). Of the lowest seed"
    )
    head = ["method", "sparsity", "layers", "operations", "wide", "operations", "wide layers"]
    return Table(caption, head, rows)


def _measured_on(panel: Panel) -> str:
    setting = json.loads(panel.measured_in or "{}")
    words = [images_in(setting.get("batch_size"), setting.get("size")), setting.get("processor")]
    if threads := setting.get("threads"):
        words.append(f"{threads} thread{'s' if threads > 1 else ''}")
    words += ["torch.compile"] if setting.get("compiled") else []
    return ", ".join(map(str, words))


def preserved(panel: Panel) -> Table | None:
    """How well the pruned networks were the dense one before training, means over seeds; None where it is not known."""
    rows = []
    for sparsity in panel.sparsities:
        for method in _present(panel, sparsity):
            found = [preserved_columns(run.results) for run in panel.of(method, sparsity)]
            if all(found):
                common = [key for key in found[0] if all(key in one for one in found)]
                rows.append([method, f"{sparsity:.2%}", *(f"{mean(one[key] for one in found):.3f}" for key in common)])
    caption = (
        "What pruning left of the dense network's function before training: linear CKA of the last features, "
        "share of equal predictions, and relative error of the outputs, on validation images"
    )
    head = ["method", "sparsity", "CKA", "agreement", "error"]
    if max(map(len, rows), default=0) > len(head):
        caption += "; then the same after the repair"
        head += ["CKA repaired", "agreement repaired", "error repaired"]
    return Table(caption, head, [row + [""] * (len(head) - len(row)) for row in rows]) if rows else None


def predicted(panel: Panel) -> Table | None:
    """Does what was preserved before training rank the methods as their scores after it do? None where too few say.

    Spearman's correlation over methods, of means over seeds, signed so that 1 is the same order; of a repaired network
    what was preserved after the repair.
    """
    rows = []
    for sparsity in panel.sparsities:
        known = {}
        for method in _present(panel, sparsity):
            several = [_at_start(run.results) for run in panel.of(method, sparsity)]
            if all(several):
                known[method] = {key: mean(one[key] for one in several) for key in several[0]}
        if len(known) < FEWEST:
            continue
        better = 1 if panel.score.higher_is_better else -1
        ranks = [better * _mean(panel, method, sparsity) for method in known]
        row = [f"{sparsity:.2%}", str(len(known))]
        for key, sign in (("cka", 1), ("agreement", 1), ("error", -1)):
            found = rank_correlation([sign * own[key] for own in known.values()], ranks)
            row.append("" if found is None else f"{found:+.2f}".replace("-", "\N{MINUS SIGN}"))
        rows.append(row)
    caption = (
        f"Does what is preserved before training predict {panel.score.label}? Spearman's rank correlation over "
        "methods, 1 for the same order, with linear CKA of the last features, agreement, and error (less is better)"
    )
    return Table(caption, ["sparsity", "methods", "CKA", "agreement", "error"], rows) if rows else None


def made(panel: Panel) -> list[Table]:
    """All tables of a panel that say something."""
    tables = [scores(panel), differences(panel), sanity_table(panel), predicted(panel)]
    for split in panel.also:
        seen = panel.on(split)
        for table in (scores(seen), differences(seen), predicted(seen), exported_table(seen)):
            tables.append(table and table._replace(caption=f"On {split}: {table.caption}"))
    tables += [preserved(panel), costs(panel), exported_table(panel), payoff_table(panel), sparse_table(panel)]
    return [table for table in tables if table is not None]


def markdown(table: Table) -> str:
    """The table with its caption above it."""
    rule = ["---", *["---:"] * (len(table.head) - 1)]
    lines = [f"| {' | '.join(row)} |" for row in (table.head, rule, *table.rows)]
    return "\n".join([f"{table.caption}:", "", *lines])


def document(title: str, all_panels: Sequence[Panel], notes: Sequence[str]) -> str:
    """All tables as one Markdown page."""
    parts = [f"# {title}"]
    parts += ["\n".join(f"- {note}" for note in notes)] if notes else []
    for panel in all_panels:
        parts += [f"## {panel.title}"] if panel.title else []
        parts += [markdown(table) for table in made(panel)]
    return "\n\n".join(parts) + "\n"


def _at_start(results: Mapping[str, Any]) -> dict[str, float]:
    """What a run says of its network as training began, repaired or not; empty where it says nothing."""
    found = preserved_columns(results)
    prefix = "repaired" if "repaired_cka" in found else "preserved"
    return {key: found[f"{prefix}_{key}"] for key in ("cka", "agreement", "error")} if found else {}


def _present(panel: Panel, sparsity: float) -> list[str]:
    return [method for method in panel.methods if panel.of(method, sparsity)]


def _mean(panel: Panel, method: str, sparsity: float) -> float:
    return summary(list(panel.scores(method, sparsity).values())).mean


def _heads(sparsities: Sequence[float]) -> list[str]:
    return [f"{sparsity:.2%}" for sparsity in sparsities]


def _dense(panel: Panel) -> str:
    return _written(summary([run.score for run in panel.dense]), panel.score)


def _spread(panel: Panel) -> str:
    counts = {len(panel.of(m, s)) for s in panel.sparsities for m in _present(panel, s)}
    counts |= {len(panel.dense)} - {0}
    if counts == {1}:
        return "one seed"
    seeds = str(min(counts)) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
    return f"mean ± standard deviation over {seeds} seeds"


def _written(value: Summary, score: Score) -> str:
    mean_, deviation, _ = value
    return score.number(mean_) if deviation is None else f"{score.number(mean_)} ± {score.number(deviation)}"


def _change(value: Difference | None, score: Score) -> str:
    if value is None:
        return "no common seed"
    if value.interval is None:
        return score.change(value.mean)
    low, high = value.interval
    return f"{score.change(value.mean)} [{score.change(low)}, {score.change(high)}]"


def _share(several: Sequence[Mapping[str, Any]], key: str, digits: int) -> str:
    """A mean share; blank for runs of earlier versions, and where paths are not defined."""
    known = [value for results in several if (value := results.get(key)) is not None]
    return f"{mean(known):.{digits}%}" if len(known) == len(several) else ""


def _kept(several: Sequence[dict[str, Any]], what: str, unit: float, name: str) -> str:
    kept = mean(results[what]["kept"] for results in several)
    return f"{kept / unit:.3g} {name} ({kept / several[0][what]['total']:.1%})"
