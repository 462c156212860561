"""How masks settle with rounds, images and the draw of the images: rows, and the tables of them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from px_seg.comparison.kind import Key
from px_seg.comparison.row_files import damaged, key_columns, key_in, number, read_csv, write_csv
from px_seg.comparison.row_tables import markdown

ROWS, COURSE, FLOW = "rounds.csv", "rounds_course.csv", "rounds_flow.csv"

REFERENCE = "reference"
"""The pruning of most rounds and all images, which the others are compared with."""

VARIED = {"rounds": "rounds", "images": "images", "draw": "other images: draw"}
"""What is varied from the reference, by the name of the column's value."""


class CoursePoint(NamedTuple):
    """The reference after one of its rounds."""

    round: int
    """From 1; 0 is before the first."""
    density: float
    overlap: float
    """Of the weights kept in the end, the share that would be kept if this round's scores decided all at once."""
    branches: dict[str, float]
    """Share of R that enters each residual sum through its branch; where there are no sums, that passes each layer.

    Nothing where paths are not defined.
    """


class RoundsRow(NamedTuple):
    """One pruning beside the reference of its method and sparsity."""

    method: str
    sparsity: float
    seed: int
    varied: str
    """A key of `VARIED`, or `REFERENCE`."""
    value: int
    """Of what is varied."""
    rounds: int
    images: int
    overlap: float
    """Of the weights that the reference keeps, the share that this pruning keeps too; as many are kept in both."""
    agreement: float
    """Share of all weights that both keep or both prune."""
    seconds: float
    masks_digest: str
    course: tuple[CoursePoint, ...] = ()
    """Of the reference alone."""


def key_of_pruning(row: RoundsRow) -> tuple[Any, ...]:
    """Which pruning a row is of."""
    return row.method, row.sparsity, row.seed, row.varied, row.value


def write_rows(folder: Path, rows: Sequence[RoundsRow]) -> None:
    """CSVs: a row a pruning; a row a round of each reference that was looked at; and a row a branch of it."""
    points = [(row, point) for row in rows for point in row.course]
    courses = [{**key_columns(row), "round": p.round, "density": p.density, "overlap": p.overlap} for row, p in points]
    flows = [
        {**key_columns(row), "round": point.round, "branch": name, "share": share}
        for row, point in points
        for name, share in point.branches.items()
    ]
    # The rows come last: those that are there have their courses.
    for file, lines in ((COURSE, courses), (FLOW, flows)):
        if lines:
            write_csv(folder / file, lines)
    write_csv(folder / ROWS, ({k: v for k, v in row._asdict().items() if k != "course"} for row in rows))


def read_rows(folder: Path) -> list[RoundsRow]:
    """The rows that `write_rows` wrote; none where there is no file. InputError for others, or damaged ones."""
    branches: dict[tuple[Key, int], dict[str, float]] = {}
    for key, place, name, share in read_csv(folder / FLOW, _flow):
        branches.setdefault((key, place), {})[name] = share
    courses: dict[Key, list[CoursePoint]] = {}
    for key, point in read_csv(folder / COURSE, _point):
        courses.setdefault(key, []).append(point._replace(branches=branches.get((key, point.round), {})))
    rows = read_csv(folder / ROWS, _row, key_of_pruning)
    if any(row.varied == REFERENCE and row[:3] not in courses for row in rows):
        raise damaged(folder / COURSE, folder / ROWS)
    return [row._replace(course=tuple(courses[row[:3]])) if row.varied == REFERENCE else row for row in rows]


def _flow(line: dict[str, str]) -> tuple[Key, int, str, float]:
    return key_in(line), int(line["round"]), line["branch"], number(line["share"], low=0)


def _point(line: dict[str, str]) -> tuple[Key, CoursePoint]:
    density, overlap = number(line["density"], 0, 1), number(line["overlap"], 0, 1)
    return key_in(line), CoursePoint(int(line["round"]), density, overlap, {})


def _row(line: dict[str, str]) -> RoundsRow:
    if line["varied"] not in (*VARIED, REFERENCE):
        raise ValueError(line)
    value, rounds, images = (int(line[key]) for key in ("value", "rounds", "images"))
    overlap, agreement = (number(line[key], 0, 1) for key in ("overlap", "agreement"))
    seconds = number(line["seconds"], low=0)
    shares = overlap, agreement, seconds
    return RoundsRow(*key_in(line), line["varied"], value, rounds, images, *shares, line["masks_digest"])


def table(rows: Sequence[RoundsRow], images: int) -> str:
    """The rows as Markdown, a line a pruning, and in words how little gives nearly the same weights."""
    head = ["method", "sparsity", "varied", "rounds", "images", "kept alike", "same weights", "seconds"]
    lines = [
        [
            f"`{row.method}`",
            f"{100 * row.sparsity:g}%",
            REFERENCE if row.varied == REFERENCE else f"{VARIED[row.varied]} {row.value}",
            f"{row.rounds}",
            f"{row.images}",
            f"{row.overlap:.2%}",
            f"{row.agreement:.3%}",
            f"{row.seconds:.1f}",
        ]
        for row in rows
    ]
    caption = (
        "How far masks agree with those of the reference, most rounds and all images: of the weights that it keeps the "
        "share that are kept as well, and of all weights the share that both keep or both prune"
    )
    return "\n".join([f"{caption}:", "", markdown(head, lines, left=3), *_fewest(rows)])


NEARLY = 0.99
"""Of the weights kept, what counts as the same mask in words."""


def _fewest(rows: Sequence[RoundsRow]) -> Iterator[str]:
    """By method and sparsity, the fewest rounds and images that keep nearly the reference's weights."""
    for key in dict.fromkeys(row[:3] for row in rows):
        own = [row for row in rows if row[:3] == key]
        if not any(row.varied == REFERENCE for row in own):
            continue
        parts = []
        for varied in ("rounds", "images"):
            near = [row.value for row in own if row.varied == varied and row.overlap >= NEARLY]
            if near:
                parts.append(f"{min(near)} {varied if min(near) > 1 else varied[:-1]}")
            elif any(row.varied == varied for row in own):
                parts.append(f"no smaller number of {varied}")
        if parts:
            said = " and ".join(parts)
            yield f"\n{key[0]} {key[1]:.2%} seed {key[2]}: {NEARLY:.0%} of the same weights with {said}, each alone"


def said(row: RoundsRow) -> str:
    """A row in words."""
    what = REFERENCE if row.varied == REFERENCE else f"{VARIED[row.varied]} {row.value}"
    return (
        f"{row.method} {row.sparsity:.2%} seed {row.seed}, {what}: rounds {row.rounds}, images {row.images}, "
        f"{row.overlap:.2%} of the weights kept are the reference's, {row.seconds:.0f} s"
    )
