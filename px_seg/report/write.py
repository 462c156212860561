"""All files of a report, from the finished runs of a sweep."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from px_seg.errors import InputError
from px_seg.report import figures, tables
from px_seg.report.agreement import changed_files
from px_seg.report.analyses import figures_in, tables_in
from px_seg.report.notes import caveats
from px_seg.report.page import write_page
from px_seg.report.payoff import draw_payoff
from px_seg.report.reading import read_runs
from px_seg.report.run_rows import tidy
from px_seg.report.runs import Panel, Run, panels
from px_seg.sweep.plan import REPORT
from px_seg.tasks import TASKS, score_by


def report(folder: Path, say: Callable[[str], Any] = print) -> Path:
    """Write `report/` in the folder of a sweep, replacing an earlier one; its path.

    runs.csv has a row for each finished run; table.md the tables; curves and densities the figures, as PNG and SVG;
    index.html all of it, with predictions and settings; what `px_seg ntk` and others found of the sweep is in both.
    Only finished runs are read, and nothing but them is needed, neither data nor a GPU. Raises InputError when there is
    none, or one is damaged.
    """
    runs = read_runs(folder)
    found = panels(runs)
    target = folder / REPORT
    try:
        return _write(target, runs, found, say)
    except OSError as error:
        where = error.filename or target
        raise InputError(f"{where} cannot be written: {error.strerror}: move it elsewhere, or make room") from None


def _write(target: Path, runs: Sequence[Run], found: Sequence[Panel], say: Callable[[str], Any]) -> Path:
    target.mkdir(exist_ok=True)
    title, facts = _title(runs), _facts(runs, found)
    notes = [*caveats(found), *changed_files(runs)]
    tidy(target / "runs.csv", runs)
    text = tables.document(title, found, [*facts, *notes])
    text = "\n".join([text, *(f"{table}\n" for table in tables_in(target.parent))])
    (target / "table.md").write_text(text, encoding="utf-8")
    for former in (file for kind in ("curves", "densities", "payoff") for file in target.glob(f"{kind}*")):
        former.unlink()
    shown = {}
    if all(panel.runs for panel in found):
        figures.curves(target, "curves", found, title)
        shown["Means over seeds; shaded, one standard deviation either side; dashed, the dense network"] = "curves.svg"
    for panel in found:
        name = _named("payoff", panel)
        if draw_payoff(target, name, panel):
            what = f"{panel.score.label} against what the network costs, with quartiles"
            what += "; the front joins those that none beats in both"
            shown[f"{_where(panel)}{what}"] = f"{name}.svg"
    scope = TASKS[runs[0].results["task"]].scope
    for panel in found:
        name = _named("densities", panel)
        if not panel.runs:
            continue
        try:
            figures.densities(target, name, panel, scope)
        except InputError as error:
            notes.append(f"{_where(panel)}the weights kept in every layer are not drawn: {error}")
        else:
            shown[f"{_where(panel)}weights kept in every layer"] = f"{name}.svg"
    shown |= {f"{shows[0].upper()}{shows[1:]}": file for shows, file in figures_in(target.parent).items()}
    write_page(target / "index.html", title, facts, notes, found, shown)
    say(f"report on {len(runs)} runs: {target / 'index.html'}")
    return target


def _named(kind: str, panel: Panel) -> str:
    """The name of a panel's figure of that kind."""
    return "-".join([kind, *(re.sub(r"[^\w.=+-]", "-", part) for part in panel.group)])


def _where(panel: Panel) -> str:
    return f"{panel.title}: " if panel.title else ""


def _title(runs: Sequence[Run]) -> str:
    name = score_by(runs[0].results).label
    data = ", ".join(sorted({run.results["data"]["name"] for run in runs}))
    return f"{name} against sparsity: {_all(runs, 'encoder')} on {data}"


def _all(runs: Sequence[Run], key: str) -> str:
    return ", ".join(sorted({str(run.results[key]) for run in runs}))


def _facts(runs: Sequence[Run], found: Sequence[Panel]) -> list[str]:
    """What was done, in lines."""
    seeds = sorted({run.seed for run in runs})
    sizes = sorted({(r["data"]["train"], r["data"]["val"], r["data"]["size"]) for r in (run.results for run in runs)})
    counted = [f"{train} training and {val} validation images, {size} pixels" for train, val, size in sizes]
    return [
        f"{len(runs)} finished runs, seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}; "
        f"epochs: {_all(runs, 'epochs')}; initial weights: {_all(runs, 'weights')}",
        f"{'; '.join(counted)}; classes: {', '.join(sorted({str(run.results['data']['classes']) for run in runs}))}; "
        f"evaluation: {', '.join(sorted({run.results['data']['evaluation'] for run in runs}))}",
        f"on {_all(runs, 'device')}, precision {_all(runs, 'mixed_precision')}, processes {_all(runs, 'processes')}",
    ]
