"""Make a VOC2012-like dataset of composed photographs: 20 classes, exact masks, no download of VOC.

    python scripts/make_photo_voc.py data/photo

On Debian and Ubuntu the photographs come from the distribution's own packages (run
`apt-get update` first); elsewhere give two unpacked folders with --stamps and --backgrounds.
"""

import argparse
from pathlib import Path

from px_seg.data.photo import CLASSES
from px_seg.data.photo_folder import Request, make_photo_folder
from px_seg.errors import one_line_errors


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
    given = vars(parser.parse_args())
    out = given.pop("out")
    asked = Request(**given)
    make_photo_folder(out, asked)
    many = ", ".join(f"{count} {split}" for split, count in asked.counts.items())
    print(f"{many} images of {len(CLASSES)} classes in {out / 'VOCdevkit'}")
    if asked.objects:
        print(f"{asked.objects} images of single objects a class in {out / 'objects'}")


if __name__ == "__main__":
    with one_line_errors():
        main()
