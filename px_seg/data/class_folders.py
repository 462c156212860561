"""Labelled images in folders: one folder per class, as ImageNet and Tiny-ImageNet are kept too."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS, has_file_allowed_extension

from px_seg.data.base import LabelledImage, chosen
from px_seg.data.images import Stored, photograph, stored
from px_seg.errors import InputError
from px_seg.files import user_path


class ImageFiles:
    """Image files with their classes.

    `files` has the paths of every class by its name; `classes` says which classes are wanted, and in which
    order they are labelled, by default all, sorted.
    """

    faults: Sequence[str] = ()
    channels = 3

    def __init__(self, files: Mapping[str, Sequence[Path]], classes: Sequence[str] | None, where: str) -> None:
        self.classes = chosen(sorted(files), classes, where)
        self.paths = [path for name in self.classes for path in files[name]]
        self.labels = [label for label, name in enumerate(self.classes) for _ in files[name]]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> LabelledImage:
        return LabelledImage(photograph(self.paths[index]).pixels, self.labels[index])

    def files(self, index: int) -> tuple[Path, ...]:
        return (self.paths[index],)

    def stored(self, index: int) -> Stored:
        return stored(self.paths[index])


def read_class_folders(root: str | Path, classes: Sequence[str] | None) -> tuple[ImageFiles, ImageFiles]:
    """`root`/train/CLASS/IMAGE and `root`/val/CLASS/IMAGE.

    Raises InputError when one of the two is missing, has no class folders, or has other classes than the other,
    and for a class without images.
    """
    folder = user_path(root, "--data.root")
    for split in ("train", "val"):
        if not (folder / split).is_dir():
            raise InputError(f"there is no folder {folder / split}: --data.root must hold train/CLASS/ and val/CLASS/")
    if (folder / "train").samefile(folder / "val"):
        raise InputError(
            f"train and val in {folder} are the same folder: the scores would be those of the training images"
        )
    train, val = _class_folders(folder / "train"), _class_folders(folder / "val")
    _same_classes(train, val, folder)
    return _pair(_images(train, classes), _images(val, classes), classes, folder)


def tiny_imagenet(root: str | Path, classes: Sequence[str] | None) -> tuple[ImageFiles, ImageFiles]:
    """Tiny-ImageNet as it is distributed: the images of a class in `images`, those of val listed in a file.

    A val that was sorted into class folders is read as well. `root` is the folder tiny-imagenet-200, or holds it.
    Raises InputError when it is not there, or not whole.
    """
    folder = tiny_imagenet_folder(root)
    if folder is None:
        raise InputError(
            f"there is no Tiny-ImageNet in {root} (a folder tiny-imagenet-200 with train and val in it): give its "
            "folder with --data.root, or fetch it there with --data.download"
        )
    train = _images(_class_folders(folder / "train"), classes)
    annotations = folder / "val" / "val_annotations.txt"
    as_distributed = annotations.is_file() and (folder / "val" / "images").is_dir()
    val = _annotated(annotations) if as_distributed else _images(_class_folders(folder / "val"), classes)
    _same_classes(train, val, folder)
    return _pair(train, val, classes, folder)


def tiny_imagenet_folder(root: str | Path) -> Path | None:
    """Where the dataset lies in or at `root`, if it does."""
    folder = user_path(root, "--data.root")
    places = (folder / "tiny-imagenet-200", folder)
    return next((place for place in places if (place / "train").is_dir() and (place / "val").is_dir()), None)


def _pair(
    train: Mapping[str, Sequence[Path]], val: Mapping[str, Sequence[Path]], classes: Sequence[str] | None, folder: Path
) -> tuple[ImageFiles, ImageFiles]:
    for split, files in {"train": train, "val": val}.items():
        for name in files if classes is None else classes:
            if name in files and not files[name]:
                raise InputError(f"the class {name} has no images in {folder / split} (JPEG, PNG and the like)")
    where = str(folder)
    return ImageFiles(train, classes, where), ImageFiles(val, classes, where)


def _class_folders(split: Path) -> dict[str, Path]:
    """The folder of every class, by its name."""
    found = {path.name: path for path in split.iterdir() if path.is_dir() and not path.name.startswith(".")}
    if not found:
        raise InputError(f"{split} has no class folders")
    return found


def _images(folders: Mapping[str, Path], wanted: Sequence[str] | None) -> dict[str, list[Path]]:
    """The sorted images of the wanted classes, at any depth; of the others none, unread."""
    return {
        name: sorted(path for path in folder.rglob("*") if _is_image(path)) if wanted is None or name in wanted else []
        for name, folder in folders.items()
    }


def _is_image(path: Path) -> bool:
    return has_file_allowed_extension(path.name, IMG_EXTENSIONS) and not path.name.startswith(".")


def _annotated(file: Path) -> dict[str, list[Path]]:
    """The images that the lines of Tiny-ImageNet's val_annotations.txt name: file, class, box."""
    found: dict[str, list[Path]] = {}
    images = {path.name: path for path in (file.parent / "images").iterdir() if _is_image(path)}
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is not a readable UTF-8 text file: {error}") from None
    for number, line in enumerate(lines, start=1):
        name, _, rest = line.partition("\t")
        if not line.strip():
            continue
        if not rest or name not in images:
            raise InputError(f"{file}, line {number}: there is no image {name}, or it is listed twice")
        found.setdefault(rest.partition("\t")[0], []).append(images.pop(name))
    if images:
        raise InputError(f"{file} is incomplete: {len(images)} images are not in it, for example {min(images)}")
    return {name: sorted(paths) for name, paths in found.items()}


def _same_classes(train: Iterable[str], val: Iterable[str], folder: Path) -> None:
    for has, lacks, one, other in ((train, val, "train", "val"), (val, train, "val", "train")):
        if only := sorted(set(has) - set(lacks)):
            raise InputError(
                f"train and val in {folder} have different classes: {len(only)} of {one} are not in {other} "
                f"({', '.join(only[:3])}{', ...' if len(only) > 3 else ''})"
            )
