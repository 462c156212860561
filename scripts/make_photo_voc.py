"""Make a VOC2012-like dataset of composed photographs: 20 classes, exact masks, no download of VOC.

    python scripts/make_photo_voc.py data/photo

On Debian and Ubuntu the photographs come from the distribution's own packages (run
`apt-get update` first); elsewhere give two unpacked folders with --stamps and --backgrounds.
"""

import argparse
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from px_seg.data.photo import CLASSES, build, build_objects, find_sources, unpack_packages
from px_seg.errors import InputError, one_line_errors

OBJECT_SIZE = 96
"""Side of an image of a single object, in pixels."""


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """An empty folder in `out` for as long as the context lasts. InputError where nothing can be written there."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        aside = tempfile.TemporaryDirectory(dir=out)
    except OSError as error:
        raise InputError(f"nothing can be written to {out}: {error.strerror}") from None
    with aside as path:
        yield Path(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder that will hold VOCdevkit/VOC2012")
    parser.add_argument("--train", type=int, default=1200, help="training images")
    seen = "validation images of objects never seen in training, and as many in val_seen of those seen there"
    parser.add_argument("--val", type=int, default=300, help=seen)
    parser.add_argument("--size", type=int, default=320, help="longest side of an image, in pixels")
    parser.add_argument("--objects", type=int, default=0, help="images of single objects for training, of every class")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stamps", type=Path, help="usr/share/tuxpaint/stamps of tuxpaint-stamps-default")
    parser.add_argument("--backgrounds", type=Path, help="folder of large photographs, searched recursively")
    given = parser.parse_args()

    if given.out.exists() and not given.out.is_dir():
        raise InputError(f"{given.out} is a file, not a folder")
    if given.seed < 0:
        raise InputError(f"--seed must be at least 0, got {given.seed}")
    if (given.out / "VOCdevkit").exists():
        raise InputError(f"{given.out} already holds a VOCdevkit: choose another folder")
    if (given.stamps is None) != (given.backgrounds is None):
        raise InputError("give both --stamps and --backgrounds, or neither")
    if min(given.train, given.val) < 1 or given.size < 64:
        raise InputError("--train and --val take at least 1 image, --size at least 64 pixels")
    if given.objects < 0:
        raise InputError(f"--objects must be at least 0, got {given.objects}")
    if given.objects and (given.out / "objects").exists():
        raise InputError(f"{given.out} already holds objects: choose another folder")
    for folder, flag in ((given.stamps, "--stamps"), (given.backgrounds, "--backgrounds")):
        if folder is not None and not folder.is_dir():
            raise InputError(f"{flag} {folder} is not a folder")
    counts = {"train": given.train, "val": given.val, "val_seen": given.val}
    # Composed aside, so that an interrupted run leaves nothing that looks finished.
    with _beside(given.out) as aside, tempfile.TemporaryDirectory() as unpacked:
        stamps, backgrounds = given.stamps, given.backgrounds
        if stamps is None:
            stamps, backgrounds = unpack_packages(Path(unpacked))
        sources = find_sources(stamps, backgrounds, given.seed)
        build(aside, sources, counts, given.size, given.seed)
        if given.objects:
            singly = {"train": given.objects, "val": math.ceil(given.objects / 4)}
            build_objects(aside, sources, singly, OBJECT_SIZE, given.seed)
        for made in sorted(aside.iterdir(), reverse=True):
            made.rename(given.out / made.name)
    many = ", ".join(f"{count} {split}" for split, count in counts.items())
    print(f"{many} images of {len(CLASSES)} classes in {given.out / 'VOCdevkit'}")
    if given.objects:
        print(f"{given.objects} images of single objects a class in {given.out / 'objects'}")


if __name__ == "__main__":
    with one_line_errors():
        main()
