"""A pruned network brought closer to the dense one, in closed form, before it is judged or trained."""

from px_seg.repair.recalibration import REPAIRS, check_repair, recalibrate, try_repair

__all__ = ["REPAIRS", "check_repair", "recalibrate", "try_repair"]
