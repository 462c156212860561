"""The density after each round of pruning. How many rounds there are is `Criterion.rounds_to`'s, unless it is given."""

from px_seg.errors import InputError

MOST_ROUNDS = 10_000


def exponential(density: float, rounds: int) -> list[float]:
    """d_r = density**(r/rounds) for r = 1..rounds: the same share pruned in every round.

    Raises InputError unless 0 < density <= 1 and 1 <= rounds <= 10,000.
    """
    if not 0 < density <= 1:
        raise InputError(f"sparsity must be in [0, 1), got {1 - density:g}")
    if not isinstance(rounds, int) or not 1 <= rounds <= MOST_ROUNDS:
        raise InputError(f"rounds must be a whole number from 1 to {MOST_ROUNDS}, got {rounds}")
    return [density ** (r / rounds) for r in range(1, rounds + 1)]
