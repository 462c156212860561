"""Sanity checks of a pruning method: which part of what it does makes the difference.

Frankle et al., "Pruning neural networks at initialization: why are we missing the mark?" (ICLR 2021), and Su et al.,
"Sanity-checking pruning methods: random tickets can win the jackpot" (NeurIPS 2020).
"""

from collections.abc import Mapping
from dataclasses import replace

from px_seg.errors import InputError
from px_seg.run.setup import check_settings
from px_seg.sweep.methods import DENSE, Method
from px_seg.sweep.plan import Request, plan_sweep

CHECKS: Mapping[str, str] = {
    "masks shuffled": "{}+shuffle_masks=true",
    "new weights": "{}+reinit=true",
    "random in its layers": "random+density_from=({})",
    "magnitude in its layers": "magnitude+density_from=({})",
}
"""By what is done, the method that does it to another's masks or weights, as a sweep writes it."""


CHECKING = {"shuffle_masks", "reinit", "density_from"}
"""The settings of a run that make it a check."""


def checks_of(method: str) -> dict[str, str]:
    """The checks of a method, by what they do.

    Without those that would give its own masks: a random or a magnitude mask again, in the layers where it is. A method
    that is a check itself has none.
    """
    own = Method.of(method).criterion
    if _is_check(method):
        return {}
    parts = "".join(f"+{key}={value}" for key, value in Method.of(method).settings if key == "keep_dense")
    same = {"random": "random", "random_erk": "random", "magnitude": "magnitude"}.get(own)
    found = {name: text.format(method) for name, text in CHECKS.items() if same is None or not text.startswith(same)}
    # What is not pruned there is not pruned here.
    return {name: text + parts if "density_from" in text else text for name, text in found.items()}


def named_checks(method: str) -> dict[str, str]:
    """The checks of a method by what they do, as folders and tables call them."""
    return {what: Method.of(text).name for what, text in checks_of(method).items()}


def check_requests(request: Request) -> list[Request]:
    """Two sweeps in one folder: the methods beside the dense network, and then their checks, which need those runs.

    Raises InputError for methods that are checks themselves.
    """
    methods = [method for method in request.methods if method != DENSE]
    if not methods:
        raise InputError("the dense network has no masks to check: give a method that prunes")
    for flag in request.flags:
        if (key := flag.removeprefix("--").partition("=")[0]) in CHECKING:
            raise InputError(f"--{key} is one of the checks, which every method is given here: leave it out")
    for method in methods:
        if wrong := _is_check(method):
            raise InputError(f"{method} is a check already: leave {wrong.pop()} out")
    checks = [check for method in methods for check in checks_of(method).values()]
    second = replace(request, methods=tuple(checks))
    for cell in plan_sweep(second):
        # Before the first sweep has taken its time.
        try:
            check_settings(cell.config)
        except InputError as error:
            raise InputError(f"the check {cell.method} cannot be carried out: {error}") from None
    return [replace(request, methods=(*methods, DENSE)), second]


def _is_check(method: str) -> set[str]:
    """The settings that make a method one of these checks."""
    return {key for key, _ in Method.of(method).settings} & CHECKING
