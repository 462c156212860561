"""Images that several files read."""

from pathlib import Path

import pytest
from helpers.pictures import picture
from PIL import Image, ImageDraw

from px_seg.data.photo import CLASSES


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """train and val of two classes, three and two images each."""
    for split, count in {"train": 3, "val": 2}.items():
        for name in ("cat", "dog"):
            for number in range(count):
                picture(tmp_path / "data" / split / name / f"{number}.jpg", seed=number)
    return tmp_path / "data"


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Stand-ins for the photographs that the photo dataset is composed of: objects, and backgrounds."""
    stamps, backgrounds = tmp_path / "stamps", tmp_path / "backgrounds"
    backgrounds.mkdir()
    for label, places in enumerate(CLASSES.values()):
        (stamps / places[0]).mkdir(parents=True)
        for number in range(3):
            image = Image.new("RGBA", (60, 40))
            ImageDraw.Draw(image).ellipse((5, 5, 50, 35), fill=(10 * label, 200, 80 * number, 255))
            image.save(stamps / places[0] / f"{number}.png")
    for number in range(3):
        Image.new("RGB", (640, 480), (90, 90, 80 * number)).save(backgrounds / f"{number}.jpg")
    return stamps, backgrounds
