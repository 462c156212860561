"""What --help prints for a command that takes a configuration: its keys, grouped by what they are about."""

import argparse
import shutil
import types
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

from docstring_parser import parse as parse_docstring

from px_seg.config import RunConfig, flat
from px_seg.files import read_yaml

GROUPS: dict[str, tuple[str, ...]] = {
    "what is pruned, and by which method": (
        *("sparsity", "method", "rounds", "ranking", "pattern", "granularity", "density_from", "keep_dense", "pruning"),
        *("criteria", "masks", "shuffle_masks", "reinit", "recalibrate", "recalibrate_rounds", "compact"),
    ),
    "network": ("architecture", "encoder", "weights", "output_stride", "ridge"),
    "data": ("data",),
    "training and evaluation": (
        *("epochs", "batch_size", "gradient_accumulation", "loss", "class_weights", "optimizer", "schedule", "ema"),
        *("freeze_encoder", "freeze_bn", "evaluate_first", "evaluate_every", "evaluation", "keep_best"),
        *("checkpoint_every", "preservation_images", "seed"),
    ),
    "folder of the run": ("output_dir", "overwrite", "resume", "tracker"),
    "devices": ("channels_last", "compile", "deterministic", "sync_bn", "threads"),
}
"""Headings, and the keys below each, nested ones with everything that they hold. Other keys come last."""

WIDEST = 110


def width() -> int:
    """Columns that a help takes."""
    return min(WIDEST, shutil.get_terminal_size().columns)


def help_text(name: str, about: str, config_type: type[RunConfig], preset: Path) -> str:
    """The help of `px_seg NAME`: flags in groups, each with its value in the preset."""
    values = flat(read_yaml(preset, "the preset"))
    described = _described(config_type)
    parser = argparse.ArgumentParser(
        usage=f"px_seg {name} [--config FILE] [--KEY VALUE ...]",
        description=f"{about}\n\nIn parentheses: the values in configs/{preset.parent.name}/{preset.name}, from which "
        "a run starts\nunless --data.name says otherwise.",
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=30, width=width()),
        add_help=False,
    )
    files = parser.add_argument_group("configuration")
    files.add_argument("--config", metavar="FILE", help="YAML file with any of the keys below; flags override it")
    files.add_argument("--print_config", action="store_true", help="print the resolved configuration and exit")
    for title, keys in _grouped(config_type).items():
        group = parser.add_argument_group(title)
        for key, kind in keys.items():
            text = described[key].replace("%", "%%")
            text += f" ({_value(values[key])})" if values.get(key) not in (None, [], "", False) else ""
            if is_switch(kind):
                group.add_argument(f"--{key}", action="store_true", help=text)
            else:
                group.add_argument(f"--{key}", metavar=_metavar(kind), help=text)
    return parser.format_help()


def is_switch(kind: Any) -> bool:
    """Whether a key of this type is a yes or no, which its flag alone gives."""
    return kind in (bool, bool | None)


def keys_of(config: type, prefix: str = "") -> dict[str, Any]:
    """Every key of a configuration with its type, nested ones by their dotted names."""
    keys: dict[str, Any] = {}
    for key in fields(config):
        if isinstance(key.type, type) and is_dataclass(key.type):
            keys |= keys_of(key.type, f"{prefix}{key.name}.")
        else:
            keys[prefix + key.name] = key.type
    return keys


def _grouped(config_type: type[RunConfig]) -> dict[str, dict[str, Any]]:
    keys = {key: kind for key, kind in keys_of(config_type).items() if key not in config_type.DECIDED}
    grouped = {
        title: {key: kind for name in names for key, kind in keys.items() if key.partition(".")[0] == name}
        for title, names in GROUPS.items()
    }
    named = {name for names in GROUPS.values() for name in names}
    others = {key: kind for key, kind in keys.items() if key.partition(".")[0] not in named}
    grouped["specific to this command"] = others
    return {title: keys for title, keys in grouped.items() if keys}


def _described(config_type: type, prefix: str = "") -> dict[str, str]:
    """What the docstrings say of every key; that of a derived class overrides its base's."""
    texts: dict[str, str] = {}
    for kind in reversed(config_type.__mro__):
        for param in parse_docstring(kind.__doc__ or "").params:
            texts[prefix + param.arg_name] = " ".join((param.description or "").split())
    for key in fields(config_type):
        if isinstance(key.type, type) and is_dataclass(key.type):
            texts |= _described(key.type, f"{prefix}{key.name}.")
    return texts


def _metavar(kind: Any) -> str:
    inner = get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    kind = next(part for part in inner if part is not type(None))
    if get_origin(kind) is list:
        return "[A,B]"
    if get_origin(kind) is dict:
        return "{K: V}"
    return {int: "N", float: "X"}.get(kind, "TEXT")


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {inner}" for key, inner in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{','.join(map(str, value))}]"
    return str(value)
