"""Videos labelled frame by frame, through OpenCV."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from px_seg.deploy.overlays import blended, shares, with_legend
from px_seg.deploy.predicting import Segmenter, Views
from px_seg.errors import InputError
from px_seg.files import replacing

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")
"""How the names of files end that are read as videos."""


def label_video(
    segmenter: Segmenter, classes: Sequence[str], source: Path, target: Path, views: Views, batch_size: int
) -> dict[str, Any]:
    """Write the video with its labels over it and a legend of all classes below, as MP4 without sound.

    Returns its height, width, number of frames and the mean share of every class. Raises InputError for a file that
    OpenCV does not read, and where none can be written.
    """
    if segmenter.channels != 3:
        raise InputError(f"{source} has 3 channels, and the network's images {segmenter.channels}")
    target.parent.mkdir(parents=True, exist_ok=True)
    total: dict[str, float] = {}
    count, size = 0, (0, 0)
    video = cv2.VideoCapture(str(source))
    try:
        with replacing(target) as fresh, _Writer(fresh, video.get(cv2.CAP_PROP_FPS) or 25.0) as writer:
            for frames in _frames(video, batch_size):
                size, count = frames.shape[1:3], count + len(frames)
                for frame, labels in zip(frames, segmenter.labels(frames, views), strict=True):
                    for name, share in shares(labels, classes).items():
                        total[name] = total.get(name, 0.0) + share
                    # All classes in every frame: all frames of a video have one size.
                    shown = Image.fromarray(blended(frame, labels))
                    writer.write(with_legend(shown, {name: name for name in classes}, classes))
            if not count:
                raise InputError(f"{source} is not a readable video: replace or remove it")
            # Containers without an index say 0 or less, and those with one are right to a frame or so.
            if count < 0.95 * video.get(cv2.CAP_PROP_FRAME_COUNT) - 2:
                expected = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
                raise InputError(f"{source} can be read up to frame {count} of {expected}: replace or repair it")
    finally:
        video.release()
    order = sorted(total, key=lambda name: -total[name])
    return {
        "height": size[0],
        "width": size[1],
        "frames": count,
        "shares": {name: round(total[name] / count, 6) for name in order},
    }


def _frames(video: cv2.VideoCapture, batch_size: int) -> Iterator[np.ndarray]:
    """Batches (N, H, W, 3) uint8 RGB."""
    batch: list[np.ndarray] = []
    while True:
        there, frame = video.read()
        if there:
            batch.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
        if batch and (not there or len(batch) == batch_size):
            yield np.stack(batch)
            batch = []
        if not there:
            return


class _Writer:
    """An MP4 file of pictures that all have one size."""

    def __init__(self, path: Path, rate: float) -> None:
        # OpenCV goes by the name's ending.
        self._path, self._moving, self._rate = path, path.with_name(f".{path.name}.mp4"), rate
        self._count = 0
        self._writer: cv2.VideoWriter | None = None

    def write(self, picture: Image.Image) -> None:
        # The format takes even sides.
        even = Image.new("RGB", tuple(side + side % 2 for side in picture.size), "white")  # type: ignore[arg-type]
        even.paste(picture)
        if self._writer is None:
            self._writer = cv2.VideoWriter(str(self._moving), cv2.VideoWriter.fourcc(*"mp4v"), self._rate, even.size)
            if not self._writer.isOpened():
                raise InputError(f"OpenCV cannot write the video {self._path}: label its frames as images")
        self._count += 1
        self._writer.write(cv2.cvtColor(np.asarray(even), cv2.COLOR_RGB2BGR))

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if self._writer is not None:
                self._writer.release()
            if kind is None:
                self._check()
                self._moving.replace(self._path)
        finally:
            self._moving.unlink(missing_ok=True)

    def _check(self) -> None:
        """Raise OSError unless all frames are in the file: OpenCV says nothing of a disk that is full."""
        written = cv2.VideoCapture(str(self._moving))
        found = int(written.get(cv2.CAP_PROP_FRAME_COUNT))
        written.release()
        if found != self._count:
            raise OSError(f"{found} of {self._count} frames of a video were written")
