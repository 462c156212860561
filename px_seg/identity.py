"""What was compared, whatever it is called: a file may be replaced under its name."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor


def digest(parts: Iterable[Tensor | bytes]) -> str:
    """Sixteen hexadecimal digits that differ where bytes do, or dtypes, shapes or values of tensors."""
    found = hashlib.blake2b(digest_size=8)
    for part in parts:
        if isinstance(part, Tensor):
            found.update(f"{part.dtype} {tuple(part.shape)}".encode())
            part = part.detach().to("cpu").contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        found.update(part)
    return found.hexdigest()


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
