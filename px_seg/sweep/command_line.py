"""From a preset and flags to a sweep: two ways to write the same thing."""

import argparse
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from px_seg.config import CONFIGS, flat
from px_seg.errors import InputError
from px_seg.files import read_yaml, user_path
from px_seg.flags import METHODS, SPARSITIES, Parser, list_of, parts, sparsities
from px_seg.sweep.launchers import LocalLauncher, SlurmLauncher, slurm_parameters
from px_seg.sweep.plan import NOTES, Request
from px_seg.tasks import TASKS


def read(argv: Sequence[str], description: str, command: str = "sweep") -> tuple[Request, argparse.Namespace]:
    """The sweep that a command line asks for, and how it is to be carried out.

    `command` is what it is called. All flags that are not the sweep's own are its runs'. Raises InputError for a flag
    or preset that cannot be read.
    """
    parser = _parser(description, command)
    own, flags = parser.parse_known_args(argv)
    preset = [] if own.preset is None else _preset_words(own.preset)
    preset_asked, preset_flags = parser.parse_known_args(preset)
    asked, _ = parser.parse_known_args([*preset, *argv])
    if len(dict(own.vary)) < len(own.vary):
        raise InputError("--vary names a key twice: give all its values at once, separated by commas")
    said = {word.removeprefix("--").partition("=")[0] for word in flags if word.startswith("--")}
    vary = {key: values for key, values in preset_asked.vary if key not in said} | dict(own.vary)
    preset_flags = _without(preset_flags, vary)
    if not asked.methods:
        raise InputError("no method to sweep: give --methods px,random,dense, for example, or a --preset")
    if asked.output_dir is None:
        if asked.preset is None:
            raise InputError("a sweep needs a folder: give --output_dir")
        asked.output_dir = f"runs/{Path(asked.preset).stem}"
    if flags and not flags[0].startswith("--"):
        raise InputError(f"{flags[0]!r} belongs to no flag")
    request = Request(
        task=asked.task,
        methods=asked.methods,
        sparsities=asked.sparsities or (),
        seeds=asked.seeds,
        output_dir=user_path(asked.output_dir, "--output_dir"),
        flags=(*preset_flags, *flags),
        vary=vary,
    )
    return request, asked


def launcher(asked: argparse.Namespace, request: Request) -> LocalLauncher | SlurmLauncher:
    """What starts the runs, by the flags that `read` returned."""
    program = ("--module", "px_seg", request.task)
    if asked.launcher == "slurm":
        if asked.gpus is not None:
            raise InputError("--gpus is for runs on this machine: give --slurm gpus_per_node=1, for example")
        folder = request.output_dir / NOTES / "slurm"
        return SlurmLauncher(program, folder, slurm_parameters(asked.slurm), asked.jobs, asked.mixed_precision)
    if asked.slurm:
        raise InputError("--slurm is for --launcher slurm: give that as well, or leave it out")
    return LocalLauncher(program, asked.jobs, asked.gpus, asked.mixed_precision)


def _parser(description: str, command: str) -> argparse.ArgumentParser:
    usage = f"px_seg {command} --preset NAME | --methods A,B [--sparsities X,Y] --output_dir DIR [--KEY VALUE ...]"
    parser = Parser(usage, description)
    add = parser.add_argument_group("what is run").add_argument
    add("--preset", metavar="NAME", help="configs/sweep/NAME.yaml, by name or as a path; flags override it")
    add("--task", default="seg", choices=TASKS, help="by default seg")
    add("--methods", type=list_of(str), metavar="A,B", help=f"{METHODS}; dense for none")
    add("--sparsities", type=sparsities, metavar="X,Y", help=SPARSITIES)
    add("--seeds", type=list_of(int), default=(0,), metavar="I,J", help="seeds of the runs; by default 0")
    varied = "a setting of the runs and its values; repeatable"
    add("--vary", type=_varied, action="append", default=[], metavar="KEY=V,W", help=varied)
    add = parser.add_argument_group("where").add_argument
    add("--output_dir", metavar="DIR", help="folder of the sweep; by default runs/NAME of the preset")
    add("--jobs", type=int, metavar="N", help="runs at a time; by default one per GPU, or one if there is none")
    add("--gpus", type=_gpus, metavar="I,J", help="GPUs to share out among the jobs; none for the CPU; by default all")
    add("--mixed_precision", default="no", metavar="NAME", help="mixed precision of each run: no, fp16 or bf16")
    add("--launcher", default="local", choices=("local", "slurm"), help="where runs start, by default local")
    add("--slurm", action="append", default=[], metavar="KEY=VALUE", help="Slurm parameter, as in submitit; repeatable")
    add = parser.add_argument_group("how").add_argument
    add("--retry", action="store_true", help="try failed runs again")
    exported = "export and evaluate every finished run, for the report: one or more of onnx,openvino,int8"
    add("--export", type=list_of(str), default=(), metavar="A,B", help=exported)
    add("--latency", action="store_true", help="measure every finished run's networks in milliseconds, for the report")
    add("--dry_run", action="store_true", help="check and print the plan, start nothing")
    return parser


def _preset_words(name: str) -> list[str]:
    """The flags that a preset stands for. Paths in it are relative to the folder of all configurations."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else CONFIGS / "sweep" / f"{name}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in (CONFIGS / "sweep").glob("*.yaml")))
        raise InputError(f"there is no preset {name!r}: choose one of {names}, or give the path of a YAML file")
    content = read_yaml(path, "the preset")
    known = ("task", "methods", "sparsities", "seeds", "vary", "jobs", "config", "run")
    if not isinstance(content, dict) or (unknown := [key for key in content if key not in known]):
        wrong = f"the unknown key {unknown[0]}" if isinstance(content, dict) else "no keys"
        raise InputError(f"the preset {path} holds {wrong}; the valid keys are: {', '.join(known)}")
    _check_preset(path, content)
    words = []
    for key in ("task", "methods", "sparsities", "seeds", "jobs"):
        if key in content:
            value = content[key]
            words += [f"--{key}", ",".join(map(str, value)) if isinstance(value, list) else str(value)]
    for key, values in content.get("vary", {}).items():
        files = [str(CONFIGS / value) for value in values] if key == "config" else [_word(value) for value in values]
        words += ["--vary", f"{key}={','.join(files)}"]
    if "config" in content:
        words += ["--config", str(CONFIGS / content["config"])]
    for key, value in flat(content.get("run", {})).items():
        words += [f"--{key}", _word(value)]
    return words


def _check_preset(path: Path, content: Mapping[str, Any]) -> None:
    """Raise InputError for a value that is not of the kind that its key takes."""

    def named(values: Any, kinds: Any) -> bool:
        return isinstance(values, list) and bool(values) and all(isinstance(value, kinds) for value in values)

    vary, run = content.get("vary", {}), content.get("run", {})
    kinds = {
        "task": (" or ".join(TASKS), lambda value: isinstance(value, str)),
        "methods": ("a list of names", lambda value: isinstance(value, str) or named(value, str)),
        "sparsities": ("a list of numbers, or paper", lambda value: value == "paper" or named(value, int | float)),
        "seeds": ("a list of whole numbers", lambda value: named(value, int)),
        "jobs": ("a whole number", lambda value: isinstance(value, int)),
        "config": ("the path of a file", lambda value: isinstance(value, str)),
        "vary": (
            "keys of a run, each with a list of values, paths for config",
            lambda _: (
                isinstance(vary, dict)
                and all(isinstance(k, str) and named(v, str if k == "config" else object) for k, v in vary.items())
            ),
        ),
        "run": ("keys of a run", lambda _: isinstance(run, dict) and _keyed_by_text(run)),
    }
    for key, value in content.items():
        takes, fits = kinds[key]
        if not fits(value):
            raise InputError(f"the preset {path}: {key} takes {takes}, got {value!r}")


def _keyed_by_text(tree: Mapping[Any, Any]) -> bool:
    inner = [value for value in tree.values() if isinstance(value, Mapping)]
    return all(isinstance(key, str) for key in tree) and all(map(_keyed_by_text, inner))


def _without(words: Sequence[str], keys: Collection[str]) -> list[str]:
    """The flags of a preset, each with a value, less those that are varied."""
    pairs = zip(words[::2], words[1::2], strict=True)
    return [word for flag, value in pairs if flag.removeprefix("--") not in keys for word in (flag, value)]


def _word(value: Any) -> str:
    """A value as a flag gives it."""
    return value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True, width=1e9).split("\n")[0]


def _gpus(text: str) -> tuple[int, ...]:
    try:
        return () if text == "none" else list_of(int)(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"takes numbers separated by commas, or none, got {text!r}") from None


def _varied(text: str) -> tuple[str, tuple[str, ...]]:
    key, equals, values = text.partition("=")
    if not equals or not key:
        raise argparse.ArgumentTypeError(f"takes a key and its values, such as pruning.batches=1,2,4: got {text!r}")
    return key.removeprefix("--"), tuple(parts(values))
