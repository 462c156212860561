"""The tables with which a user teaches both path streams another operation; see `px_seg.pruning.paths.rules`."""

from px_seg.pruning.paths.rules import GATES, RULES, batch_norm, structural

__all__ = ["GATES", "RULES", "batch_norm", "structural"]
