"""From YAML files and flags to a configuration: two ways to write the same thing.

A run starts from the preset of its dataset, `<data.name>.yaml`; a file given with --config may
leave keys out and overrides the preset; flags override both.
"""

import re
import sys
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, TypedDict, TypeVar, Unpack, get_origin

from jsonargparse import ArgumentError, ArgumentParser

from px_seg.command_help import help_text, is_switch, keys_of
from px_seg.config import RunConfig
from px_seg.errors import InputError, one_line
from px_seg.files import read_yaml
from px_seg.models.formats import CLIP_ENCODER
from px_seg.pruning import Masks, Pattern
from px_seg.run.given_masks import mask_file, origin

C = TypeVar("C", bound=RunConfig)

PLACES = {"--data.images": ("folders", "coco"), "--data.masks": ("folders", "coco")}
"""Flags that name where data lies, and the datasets that read there."""

PRINT = "--print_config"
"""Asks for the configuration in place of the run."""


def parse(config_type: type[C], argv: Sequence[str], presets: Path, about: str = "") -> C:
    """The configuration that a command line asks for.

    `presets` is the folder of YAML files named after datasets; for any other dataset a file given with --config
    must hold everything. Raises InputError, naming the valid keys, for an unknown one, and for values of the wrong
    type. Prints the help, which begins with `about`, for --help, what it would return for --print_config, and exits.
    """
    if {"-h", "--help"} & set(argv):
        print(help_text(presets.name, about, config_type, presets / "synthetic.yaml"), end="")
        sys.exit()
    config = _resolved(config_type, [word for word in argv if word != PRINT], presets)
    if PRINT in argv:
        print(config.to_yaml(), end="")
        sys.exit()
    return config


def _resolved(config_type: type[C], argv: Sequence[str], presets: Path) -> C:
    if any(word.startswith(f"{PRINT}=") for word in argv):
        raise InputError(f"{PRINT} takes no value")
    argv = _files_first(_complete_switches(argv, config_type))
    for file in _config_files(argv):
        _reject_unknown(_read(file), config_type, file)
    config = _parse_over(presets / "synthetic.yaml", config_type, argv)
    if config.data.name != "synthetic":
        known = sorted(path.stem for path in presets.glob("*.yaml") if _read(path)["data"]["name"] == path.stem)
        preset = presets / f"{config.data.name}.yaml" if config.data.name in known else None
        if preset is None and not _config_files(argv):
            raise InputError(f"there is no dataset {config.data.name!r}: choose one of {', '.join(known)}")
        config = _parse_over(preset, config_type, argv)
    return _settled(config, argv)


def _settled(config: C, argv: Sequence[str]) -> C:
    """The configuration with the values that one setting decides for others.

    A mask file decides sparsity and method, a pattern and the dense method the sparsity, CLIP's weights the encoder.
    A flag overrides what a file says about them, and a file overrides a preset. InputError where the two contradict
    each other and are given in the same place, or the decided one in the stronger place.
    """
    unread = PLACES.keys() & {word.partition("=")[0] for word in argv}
    if wrong := [flag for flag in sorted(unread) if config.data.name not in PLACES[flag]]:
        raise InputError(
            f"{wrong[0]} is for --data.name {' or '.join(PLACES[wrong[0]])}, and data.name is {config.data.name}"
        )
    if config.weights == "clip" and config.encoder.partition(".")[0] != CLIP_ENCODER:
        config = _decided(config, argv, "weights", encoder=CLIP_ENCODER)
    if config.masks is not None:
        for key in ("rounds", "ranking", "granularity", "density_from", "pruning.settings"):
            if any(re.match(rf"--{key}\b", word) for word in argv):
                raise InputError(f"nothing is pruned with masks {config.masks}: leave --{key} out")
        source = origin(Masks.load(file := mask_file(config.masks)), file)
        return _decided(config, argv, "masks", method=source.method, sparsity=source.sparsity)
    if config.pattern is not None:
        if config.method == "dense":
            raise InputError(f"dense prunes nothing: leave the pattern {config.pattern} out")
        if (sparsity := Pattern.parse(config.pattern).sparsity) is not None:
            return _decided(config, argv, "pattern", sparsity=sparsity)
    if config.method == "dense":
        return _decided(config, argv, "method", sparsity=0.0)
    return config


class Decided(TypedDict, total=False):
    """What one setting may decide about others."""

    encoder: str
    method: str
    sparsity: float


def _decided(config: C, argv: Sequence[str], by: str, **decided: Unpack[Decided]) -> C:
    """The configuration with the values that the setting `by` decides."""
    for key, own in decided.items():
        asked, said = _strength(key, argv), getattr(config, key)
        same = abs(said - own) <= 1e-6 if isinstance(own, float) else said == own
        if asked and asked >= _strength(by, argv) and not same:
            what, value = (f"{part:g}" if isinstance(part, float) else part for part in (own, said))
            raise InputError(f"{by} {getattr(config, by)} means {key} {what}, not {value}: leave one of the two out")
    return replace(config, **decided)


def _strength(key: str, argv: Sequence[str]) -> int:
    """2 for what a flag says, 1 for what a file given with --config says, otherwise 0."""
    if any(word == f"--{key}" or word.startswith(f"--{key}=") for word in argv):
        return 2
    return int(any(key in _read(file) for file in _config_files(argv)))


def _parse_over(preset: Path | None, config_type: type[C], argv: Sequence[str]) -> C:
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False, add_help=False)
    parser.add_argument("--config", action="config", help="YAML file with any of the keys below")
    parser.add_class_arguments(config_type)
    parser.default_config_files = [] if preset is None else [str(preset)]
    try:
        parsed = parser.instantiate(parser.parse_args(list(argv)))
    except ArgumentError as error:
        message = one_line(error)
        union = re.match(
            r'Parser key "(.+?)": Does not validate against any of the Union subtypes.*? value: (.*)', message
        )
        if union and "Expected a <class 'list'>" not in message:
            kinds = re.findall(r"<class '(\w+)'>", message.split("Errors:")[0])
            names = ", ".join(["null" if kind == "NoneType" else kind for kind in sorted(kinds, key="NoneType".__eq__)])
            message = f"{union[1]} takes {names}, got {union[2]}"
        if "Expected a <class 'list'>" in message:
            message += "; a list is written '[a,b]'"
        if "unrecognized" in message:
            message += f"; the valid keys are: {', '.join(keys_of(config_type))}"
        raise InputError(message) from None
    return config_type(**{key.name: parsed[key.name] for key in fields(config_type)})


def _files_first(argv: Sequence[str]) -> list[str]:
    """The same words with --config in front: flags override files wherever they stand."""
    files: list[str] = []
    flags: list[str] = []
    words = iter(argv)
    for word in words:
        if word == "--config":
            files.append(word)
            files.extend(islice(words, 1))
        else:
            (files if word.startswith("--config=") else flags).append(word)
    return files + flags


def _config_files(argv: Sequence[str]) -> list[Path]:
    for word, value in pairwise((*argv, "--")):
        if word == "--config" and value.startswith("--"):
            raise InputError("--config takes the path of a file")
    following = [value for word, value in pairwise(argv) if word == "--config"]
    joined = [word.removeprefix("--config=") for word in argv if word.startswith("--config=")]
    return [Path(file) for file in (*following, *joined)]


def _complete_switches(argv: Sequence[str], config_type: type) -> list[str]:
    """Give a yes-or-no flag that stands alone, like --overwrite, its value."""
    switches = {f"--{name}" for name, kind in keys_of(config_type).items() if is_switch(kind)}
    completed: list[str] = []
    for place, word in enumerate(argv):
        completed.append(word)
        alone = place + 1 == len(argv) or argv[place + 1].startswith("--")
        if word in switches and alone:
            completed.append("true")
    return completed


def _read(file: Path) -> dict[str, Any]:
    content = read_yaml(file, "the configuration")
    if not isinstance(content, dict):
        raise InputError(f"the configuration {file} holds no keys")
    return content


def _reject_unknown(content: dict[str, Any], into: type, file: Path, prefix: str = "") -> None:
    known = {key.name: key.type for key in fields(into)}
    for key, value in content.items():
        if key == "pattern" and isinstance(value, int):
            raise InputError(f'{file}: write the pattern in quotes, such as "2:4": YAML otherwise reads it as a time')
        if key not in known:
            raise InputError(
                f"{file}: there is no key {prefix}{key}; the valid keys are: {', '.join(prefix + k for k in known)}"
            )
        if value is None and get_origin(known[key]) in (dict, list):
            raise InputError(f"{file}: {prefix}{key} has no value: give it one, or leave the key out")
        kind = known[key]
        if isinstance(kind, type) and is_dataclass(kind):
            if not isinstance(value, dict):
                raise InputError(f"{file}: {prefix}{key} takes nested keys, not {value!r}")
            _reject_unknown(value, kind, file, f"{prefix}{key}.")
