"""A segmentation set checked as before a run, without one."""

from helpers.runs import parsed
from px_seg.data.base import SegmentationData
from px_seg.tasks import Segmentation
from px_seg.tasks.base import check_parts


def check(data: SegmentationData, what: str, mostly_void: bool = False) -> list[str]:
    config = parsed("--data.mostly_void", str(mostly_void).lower())
    return check_parts(Segmentation, config, {what: data})
