"""A folder of exported files, and what export.json in it says of them."""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from px_seg.deploy.card import Card
from px_seg.deploy.exported.network import FILES, Exported, files_of, open_exported
from px_seg.errors import InputError
from px_seg.files import UNDER_WAY, flush, locked, parse_json, sweep_up, write_text
from px_seg.run.folder import EXPORT_FILES

SUMMARY = "export.json"

RUN_ON: dict[str, dict[str, str]] = {
    "cpu": dict.fromkeys(FILES, "cpu"),
    "cuda": {"onnx": "cuda", "tensorrt": "tensorrt"},
}
"""By device, what carries exported files out there, and as `open_exported` calls it; TensorRT takes the ONNX file."""


@dataclass(frozen=True)
class ExportFolder:
    """Files of one network."""

    path: Path

    def held(self, card: Card) -> dict[str, Any]:
        """What `described` says, of a network with this card. InputError where it is of another."""
        held = self._summary()
        if held is None:
            return {}
        if Card.of_text(json.dumps(held["card"])) != card:
            raise InputError(f"{self.path} holds files of another network: give another --out, or delete it")
        return self._there(held)

    def described(self) -> dict[str, Any]:
        """What export.json says of files that are there, by format; nothing where there is none.

        Raises InputError for one that is damaged.
        """
        held = self._summary()
        return {} if held is None else self._there(held)

    def _summary(self) -> dict[str, Any] | None:
        file = self.path / SUMMARY
        if not file.exists():
            return None
        try:
            held = parse_json(file.read_text(encoding="utf-8"))
            Card.of_text(json.dumps(held["card"]))
            for about in held["files"].values():
                if about["scores"] is not None:
                    dict(about["scores"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise InputError(f"{file} is damaged: delete {self.path}, or give another --out") from None
        return held

    def _there(self, held: Mapping[str, Any]) -> dict[str, Any]:
        files = held["files"]
        return {kind: about for kind, about in files.items() if kind in FILES and (self.path / FILES[kind]).is_file()}

    @contextmanager
    def fresh(self) -> Iterator[Path]:
        """A folder within it to write to, gone at the end, and itself with it where it was new and has stayed empty.

        Waits for another process that writes there; what one that was killed has left goes. Raises InputError where
        there cannot be one.
        """
        new = not self.path.exists()
        with ExitStack() as held:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                held.enter_context(locked(self.path))
                sweep_up(self.path, EXPORT_FILES)
                place = TemporaryDirectory(dir=self.path, prefix=UNDER_WAY)
            except OSError as error:
                raise self.unwritable(error) from None
            try:
                with place as name:
                    yield Path(name)
            finally:
                if new:
                    with suppress(OSError):
                        self.path.rmdir()

    def take(self, files: Mapping[str, Path], summary: Mapping[str, Any]) -> None:
        """Put files, by format, in place of those that are there, and write export.json.

        A file that is read always has the weights that belong to it. Raises InputError where they cannot be written.
        """
        try:
            for file in files.values():
                parts = files_of(file)
                for part in parts:
                    flush(part)
                (self.path / file.name).unlink(missing_ok=True)
                for part in reversed(parts):
                    part.replace(self.path / part.name)
            write_text(self.path / SUMMARY, json.dumps(summary, indent=2) + "\n")
        except OSError as error:
            raise self.unwritable(error) from None

    def opened(self, device: str = "cpu") -> tuple[dict[str, Exported], list[str]]:
        """What can be run on a CPU or on a GPU ("cuda"), by the runtime's name, and why others were left out."""
        found, left = {}, []
        for kind, where in RUN_ON[device].items():
            file = self.path / FILES.get(kind, FILES["onnx"])
            if not file.is_file():
                continue
            try:
                found[kind] = open_exported(file, where)
            except InputError as error:
                left.append(str(error))
        return found, left

    def unwritable(self, error: OSError) -> InputError:
        """What to say where the disk is full or closed."""
        return InputError(
            f"{self.path} cannot be written to ({error.strerror or error}): make room, or give another --out"
        )
