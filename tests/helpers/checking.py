"""A segmentation set checked as before a run, without one."""

from px_seg import InputError
from px_seg.data.base import SegmentationData
from px_seg.data.survey import survey_masks
from px_seg.tasks.segmentation import wrong_labels


def check(data: SegmentationData, what: str, mostly_void: bool = False) -> list[str]:
    survey = survey_masks(data, what)
    for problem in wrong_labels(data, survey, what, mostly_void):
        raise InputError(problem)
    return survey.notes
