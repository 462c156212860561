"""The configuration of a run: dataclasses that YAML files and flags both fill.

A run starts from the preset of its dataset, `configs/<data.name>.yaml`; a file given with
--config may leave keys out and overrides the preset; flags override both. The dataclasses
have no defaults for anything that is part of an experiment's protocol: the presets hold it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, get_origin

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from px_seg.errors import InputError
from px_seg.pruning import Pattern


@dataclass
class DataConfig:
    """What the run learns from.

    Args:
        name: synthetic, drawn in memory, or voc2012, any dataset on disk laid out as VOC2012 is
        size: side of the training crop in pixels; of the image, for synthetic data
        scale: smallest and largest random scaling of a training image
        evaluation: whole images of any size, or centre_crop: short side resized to `size`, then cropped
        root: the folder that holds VOCdevkit, or VOC2012 itself
        train_split: list of training images; train_aug reads SegmentationClassAug
        val_split: list of evaluation images
        download: fetch VOC2012 into `root` first
        workers: processes that read images, on each training process
        seed: what synthetic data is drawn from; the run's own seed does not change the data
        train_images: number of training images, for synthetic data
        val_images: number of evaluation images, for synthetic data
    """

    name: str
    size: int
    scale: list[float]
    evaluation: str
    root: str = "data"
    train_split: str = "train"
    val_split: str = "val"
    download: bool = False
    workers: int = 0
    seed: int = 0
    train_images: int = 0
    val_images: int = 0


@dataclass
class PruningConfig:
    """The data that data-driven criteria score with, and the method's own settings.

    Args:
        batches: number of batches of training images, the same in every round; processes share them
        batch_size: images in each
        settings: of the method, by name, as --pruning.settings.temperature 100 for grasp
    """

    batches: int
    batch_size: int
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass
class OptimizerConfig:
    """SGD, with one learning rate for the backbone and one for the rest.

    Args:
        backbone_lr: learning rate of the backbone
        head_lr: learning rate of decoder and head
        momentum: momentum of both
        weight_decay: weight decay of both
        nesterov: whether the momentum is Nesterov's
    """

    backbone_lr: float
    head_lr: float
    momentum: float
    weight_decay: float
    nesterov: bool = False


@dataclass
class ScheduleConfig:
    """How the learning rates fall.

    Args:
        name: multistep, or poly: (1 - progress) ** power after every update
        milestones: shares of the training after which multistep multiplies the rates by gamma
        gamma: factor of multistep
        power: exponent of poly
    """

    name: str
    milestones: list[float]
    gamma: float
    power: float


@dataclass
class RunConfig:
    """One run: prune, fine-tune, evaluate.

    Args:
        sparsity: share of the backbone's weights to prune, in [0, 1), layers in keep_dense not counted
        method: criterion that ranks the weights: px, random, random_erk, magnitude, snip, iterative_snip, grasp,
            synflow, synflow_l2, ntksap, fisher, imp, dense, or one of your own
        rounds: rounds of scoring and pruning; by default the method's own number, 100 for px
        encoder: backbone by its name in segmentation-models-pytorch
        output_stride: 8 or 16; the ASPP rates follow: 12, 24, 36 or 6, 12, 18
        weights: start of the backbone: imagenet, none, or a file of its weights
        epochs: epochs of fine-tuning
        batch_size: training images in a batch, on each process
        ranking: which weights compete: global, or each layer by itself with density uniform or erk; by default the
            method's own, global for most
        pattern: n:m, exactly n of every m input channels live, as 2:4; the sparsity is then 1 - n/m
        keep_dense: parts of the backbone that are not pruned, as encoder.conv1 or encoder.layer4
        shuffle_masks: ablation: permute the mask of each layer
        reinit: ablation: draw new weights after pruning
        criteria: Python file that registers criteria of your own
        seed: of initial weights, data order, augmentation and random pruning
        data: what the run learns from
        pruning: the data that data-driven criteria score with
        optimizer: SGD, with one learning rate for the backbone and one for the rest
        schedule: how the learning rates fall
        output_dir: folder for everything the run writes; by default under runs/, named after the run
        overwrite: replace the run that output_dir holds
        resume: go on with the run that output_dir holds
        tracker: also log to this Accelerate tracker, tensorboard for one
        sync_bn: BatchNorm statistics over all processes (GPUs only)
        channels_last: channels-last memory format, faster with mixed precision on GPUs
        threads: CPU threads of each process when there is no GPU; by default an equal share of the cores
    """

    sparsity: float
    method: str
    encoder: str
    output_stride: int
    weights: str
    epochs: int
    batch_size: int
    data: DataConfig
    pruning: PruningConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    rounds: int | None = None
    ranking: str | None = None
    pattern: str | None = None
    keep_dense: list[str] = field(default_factory=list)
    shuffle_masks: bool = False
    reinit: bool = False
    criteria: str | None = None
    seed: int = 0
    output_dir: str | None = None
    overwrite: bool = False
    resume: bool = False
    tracker: str | None = None
    sync_bn: bool = False
    channels_last: bool = False
    threads: int | None = None

    def save(self, path: Path) -> None:
        """Write the configuration as YAML that --config reads back."""
        path.write_text(yaml.safe_dump(asdict(self), sort_keys=False))


def parse(argv: Sequence[str], presets: Path, description: str) -> RunConfig:
    """The configuration that a command line asks for.

    `presets` is the folder of YAML files named after datasets. Raises InputError, naming the
    valid keys, for an unknown one, and for values of the wrong type. Prints the help and exits
    for --help.
    """
    argv = _files_first(_complete_switches(argv))
    for file in _config_files(argv):
        _reject_unknown(_read(file), RunConfig, file)
    config = _parse_over(presets / "synthetic.yaml", argv, description)
    if config.data.name != "synthetic":
        known = sorted(path.stem for path in presets.glob("*.yaml") if _read(path)["data"]["name"] == path.stem)
        if config.data.name not in known:
            raise InputError(f"there is no dataset {config.data.name!r}: choose one of {', '.join(known)}")
        config = _parse_over(presets / f"{config.data.name}.yaml", argv, description)
    return _settled(config, argv)


def _settled(config: RunConfig, argv: Sequence[str]) -> RunConfig:
    """The configuration with the sparsity that its method or pattern has.

    A flag overrides what a file says of the sparsity, and a file a preset. InputError where both are said in one
    place, or the sparsity in the stronger, and contradict each other.
    """
    if config.pattern is not None:
        if config.method == "dense":
            raise InputError(f"dense prunes nothing: leave the pattern {config.pattern} out")
        decided, own = "pattern", Pattern.parse(config.pattern).sparsity
    elif config.method == "dense":
        decided, own = "method", 0.0
    else:
        return config
    asked = _strength("sparsity", argv)
    if asked and asked >= _strength(decided, argv) and abs(config.sparsity - own) > 1e-6:
        raise InputError(
            f"{decided} {getattr(config, decided)} has a sparsity of {own:g}, not {config.sparsity:g}: "
            "leave one of the two out"
        )
    return replace(config, sparsity=own)


def _strength(key: str, argv: Sequence[str]) -> int:
    """2 for what a flag says, 1 for what a file given with --config says, otherwise 0."""
    if any(word == f"--{key}" or word.startswith(f"--{key}=") for word in argv):
        return 2
    return int(any(key in _read(file) for file in _config_files(argv)))


def _parse_over(preset: Path, argv: Sequence[str], description: str) -> RunConfig:
    # The first paragraph: argparse would run the examples after it together.
    parser = ArgumentParser(exit_on_error=False, description=description.split("\n\n")[0])
    parser.add_argument("--config", action="config", help="YAML file of any of the keys below")
    parser.add_class_arguments(RunConfig)
    parser.default_config_files = [str(preset)]
    try:
        parsed = parser.instantiate(parser.parse_args(list(argv)))
    except ArgumentError as error:
        message = " ".join(str(error).split())
        if "Expected a <class 'list'>" in message:
            message += "; a list is written '[a,b]'"
        if "unrecognized" in message:
            message += f"; the valid keys are: {', '.join(_keys(RunConfig))}"
        raise InputError(message) from None
    return RunConfig(**{key.name: parsed[key.name] for key in fields(RunConfig)})


def _files_first(argv: Sequence[str]) -> list[str]:
    """The same words with --config in front: flags override files wherever they stand."""
    files, flags = [], []
    words = iter(argv)
    for word in words:
        if word == "--config":
            files.append(word)
            files.extend(islice(words, 1))
        else:
            (files if word.startswith("--config=") else flags).append(word)
    return files + flags


def _config_files(argv: Sequence[str]) -> list[Path]:
    following = [value for word, value in pairwise(argv) if word == "--config"]
    joined = [word.removeprefix("--config=") for word in argv if word.startswith("--config=")]
    return [Path(file) for file in (*following, *joined)]


def _complete_switches(argv: Sequence[str]) -> list[str]:
    """Give a yes-or-no flag that stands alone, like --overwrite, its value."""
    switches = {f"--{name}" for name, kind in _keys(RunConfig).items() if kind is bool}
    completed: list[str] = []
    for place, word in enumerate(argv):
        completed.append(word)
        alone = place + 1 == len(argv) or argv[place + 1].startswith("--")
        if word in switches and alone:
            completed.append("true")
    return completed


def _read(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text())
    except OSError as error:
        raise InputError(f"the configuration {file} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"the configuration {file} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise InputError(f"the configuration {file} holds no keys")
    return content


def _reject_unknown(content: dict[str, Any], into: type, file: Path, prefix: str = "") -> None:
    known = {key.name: key.type for key in fields(into)}
    for key, value in content.items():
        if key == "pattern" and isinstance(value, int):
            raise InputError(f'{file}: write the pattern in quotes, as "2:4": YAML reads a time in it otherwise')
        if key not in known:
            raise InputError(
                f"{file}: there is no key {prefix}{key}; the valid keys are: {', '.join(prefix + k for k in known)}"
            )
        if value is None and get_origin(known[key]) in (dict, list):
            raise InputError(f"{file}: {prefix}{key} has no value: give it one, or leave the key out")
        if is_dataclass(known[key]):
            if not isinstance(value, dict):
                raise InputError(f"{file}: {prefix}{key} takes keys of its own, not {value!r}")
            _reject_unknown(value, known[key], file, f"{prefix}{key}.")


def _keys(config: type, prefix: str = "") -> dict[str, Any]:
    """Every key of a configuration with its type, nested ones by their dotted names."""
    keys: dict[str, Any] = {}
    for key in fields(config):
        nested = is_dataclass(key.type)
        keys |= _keys(key.type, f"{prefix}{key.name}.") if nested else {prefix + key.name: key.type}
    return keys
