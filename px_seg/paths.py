"""Paths that a user wrote."""

from pathlib import Path

from px_seg.errors import InputError


def user_path(text: str | Path, key: str) -> Path:
    """The path, `~` resolved. InputError, naming the setting, for what cannot be one."""
    if not str(text):
        raise InputError(f"{key} is empty: give a path, or leave it out")
    try:
        path = Path(text).expanduser()
        path.exists()
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{key} {str(text)[:80]!r} cannot be a path: {error}"[:200]) from None
    return path
