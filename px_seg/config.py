"""The configuration of a run: dataclasses, one set for each task.

They have no defaults for anything that is part of an experiment's protocol: the YAML files hold it. How presets,
files and flags fill them is in `px_seg.command_line`.
"""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml

CONFIGS = next(
    folder for folder in (Path(__file__).parent / "configs", Path(__file__).parents[1] / "configs") if folder.is_dir()
)
"""The folder of all configurations: configs/ of the clone, which an installed package carries within it."""


@dataclass(kw_only=True)
class DataConfig:
    """What every run learns from.

    Args:
        name: name of the dataset
        size: side of the images that the network is trained on, in pixels
        evaluation: how images are prepared for evaluation
        root: the folder that holds the data
        download: fetch the data into `root` first
        workers: data-loading workers of each training process
        cache: keep images decoded in memory, list by list, where they fit, each process its own
        seed: seed of synthetic data; the run's own seed does not change the data
        train_images: number of training images, for synthetic data
        val_images: number of evaluation images, for synthetic data
    """

    name: str
    size: int
    evaluation: str
    root: str = "data"
    download: bool = False
    workers: int = 0
    cache: bool = False
    seed: int = 0
    train_images: int = 0
    val_images: int = 0


@dataclass(kw_only=True)
class SegmentationDataConfig(DataConfig):
    """What a segmentation run learns from.

    Args:
        name: synthetic, drawn in memory; voc2012, any dataset on disk laid out like VOC2012; folders, images and masks
            in two folders; or coco, annotations in COCO's JSON
        size: side of the training crop in pixels; of the image, for synthetic data
        evaluation: whole, images at their own size; or centre_crop, short side resized to `size`, then cropped
        scale: smallest and largest factor by which training images are scaled at random
        root: the folder that holds VOCdevkit, or VOC2012 itself
        images: of folders and coco: where the images are, at any depth
        masks: of folders: where the masks are, with the names of their images but for the ending; of coco: where the
            pictures of panoptic segments are
        classes: of folders: text file with a class a line, the background first: NAME, NAME,VALUE or NAME,#rrggbb
        channels: of every image: 3, RGB; 1, grey; or as many as the files have, such as 4 of RGBA, or those of .npy
            arrays; the first layer's weights are then taken in turns
        val_share: of folders: share of the images that is drawn for evaluation, where there are no folders or lists
        train_split: list of training images; train_aug reads SegmentationClassAug; of folders a folder in both, or a
            text file of names; of coco a JSON file
        val_split: list of evaluation images, likewise
        also: further lists to evaluate the trained network on
        mostly_void: most pixels that are not of the first class are void on purpose, as in sparse annotations
    """

    scale: list[float]
    images: str | None = None
    masks: str | None = None
    classes: str | None = None
    channels: int = 3
    val_share: float = 0.2
    train_split: str = "train"
    val_split: str = "val"
    also: list[str] = field(default_factory=list)
    mostly_void: bool = False


@dataclass(kw_only=True)
class ClassificationDataConfig(DataConfig):
    """What a classification run learns from.

    Args:
        name: synthetic, drawn in memory, cifar10, cifar100, tiny_imagenet, imagenet, or folder: train/CLASS/IMAGE and
            val/CLASS/IMAGE
        size: side of the images that the network sees, in pixels
        evaluation: resize, the whole image made square; or centre_crop, short side resized to 8/7 of `size`, then
            cropped
        crop: how training images are cropped: padded, made square and shifted by up to `padding`; or area, a random
            part
        padding: most pixels by which padded shifts an image; what this uncovers is filled with the mean colour
        area: smallest and largest share of the image that an area crop covers
        ratio: smallest and largest aspect ratio of an area crop, width by height
        jitter: strength of random changes of brightness, contrast and saturation
        hue: strength of random changes of hue, at most 0.5
        grey: share of the training images that are turned grey
        flip: whether training images are mirrored at random
        classes: classes to use, by the names of their folders, in this order; by default all
        root: the folder that holds the data: train and val, or what was downloaded
    """

    crop: str
    padding: int
    area: list[float]
    ratio: list[float]
    jitter: float
    hue: float
    grey: float
    flip: bool
    classes: list[str] | None = None


@dataclass
class PruningConfig:
    """The data that data-driven criteria score with, and the method's own settings.

    Args:
        batches: number of batches of training images, the same in every round and shared among the processes
        batch_size: images per batch
        per_class: images of every class, for classification; sets the number of batches instead of `batches`
        settings: settings of the method, by name, such as --pruning.settings.temperature 100 for grasp
    """

    batches: int
    batch_size: int
    per_class: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass
class OptimizerConfig:
    """SGD or AdamW, with one learning rate for the backbone and one for the rest.

    Args:
        name: sgd, the default, or adamw
        backbone_lr: learning rate of the backbone
        head_lr: learning rate of the decoder and head
        momentum: momentum of both; the first beta of adamw
        beta2: the second beta of adamw, by default 0.999
        weight_decay: weight decay of both
        nesterov: whether sgd uses Nesterov momentum
        clip: largest norm of the gradient of all weights together, to which a larger one is scaled; by default none
    """

    backbone_lr: float
    head_lr: float
    momentum: float
    weight_decay: float
    name: str = "sgd"
    nesterov: bool = False
    beta2: float = 0.999
    clip: float | None = None


@dataclass
class ScheduleConfig:
    """How the learning rates rise and fall.

    Args:
        name: multistep; poly: (1 - progress) ** power after every update; or cosine, half a wave down to 0
        milestones: shares of the training after which multistep multiplies the rates by gamma
        gamma: factor of multistep
        power: exponent of poly
        warmup: share of the training over which the rates rise linearly, before the schedule, which takes the rest
    """

    name: str
    milestones: list[float]
    gamma: float
    power: float
    warmup: float = 0.0


@dataclass(kw_only=True)
class RunConfig:
    """One run: prune, fine-tune, evaluate; what all tasks share.

    Args:
        sparsity: share of the backbone's weights to prune, in [0, 1), not counting layers in keep_dense
        method: criterion that ranks the weights: px, random, random_erk, magnitude, snip, iterative_snip, grasp,
            synflow, synflow_l2, ntksap, fisher, px_conserved, px_paths, ntk_trace, imp, dense, or one that --criteria
            registers
        rounds: rounds of scoring and pruning; by default the method's own number, 100 for px
        encoder: backbone by its name in segmentation-models-pytorch, or tu-NAME for timm's
        weights: initial weights of the backbone: none, imagenet, mocov2, dino, clip, torchvision:VERSION, timm:TAG,
            package:NAME for those an installed package ships, a file, or the folder of an earlier run
        epochs: epochs of fine-tuning
        batch_size: training images per batch, on each process
        gradient_accumulation: batches that make an update; by default as many as accelerate was told, usually 1
        ranking: which weights compete: global for all, or those of each layer, with density uniform or erk; by default
            the method's own, usually global
        pattern: n:m, such as 2:4, keeps exactly n of every m input channels; the sparsity is then 1 - n/m. "at-most
            2:4" keeps no more, at any sparsity that allows it, in layers of 256 input and output channels or more;
            "at-most 2:4 from 64" in layers of 64
        granularity: what is kept or pruned whole: weight, kernel or filter, by the sum of the scores in it
        density_from: ablation: every layer keeps as many weights as in the masks of this run or file, and the method
            chooses among those of one layer alone
        keep_dense: parts of the backbone that are not pruned, such as encoder.conv1 or encoder.layer4
        masks: use the masks in this file, or of the run in this folder, of the same backbone, instead of pruning
        shuffle_masks: ablation: permute the mask of each layer
        reinit: ablation: draw new weights after pruning
        recalibrate: repair of the pruned network before it is judged or trained, on the images that pruning draws:
            none; statistics, those of BatchNorm gathered anew; variance, channels scaled to their variance in the
            dense network first; or reconstruct, kept weights refitted to the dense layers' outputs
        recalibrate_rounds: repair the network after every round of pruning as well, so that each round scores what the
            weights kept so far have become
        compact: train, save and evaluate the pruned network without the channels that nothing needs
        loss: what training minimises: by default cross_entropy; for segmentation also dice, jaccard, lovasz, focal or
            tversky, for classification squared; or a sum such as cross_entropy(label_smoothing=0.1)+0.5*dice
        class_weights: what a label of each class counts for in cross-entropy: balanced, so that all classes weigh the
            same in the training data, or a list of numbers, one a class; by default 1
        ema: decay of an exponential moving average of the weights, which is then evaluated and saved in their place,
            such as 0.999; by default none
        freeze_encoder: the backbone stays as it is, in eval mode, and only decoder and head are trained
        freeze_bn: BatchNorm normalises with its initial statistics, in training as well
        evaluate_first: also evaluate before the first epoch
        evaluate_every: epochs from one evaluation to the next; the network is evaluated after the last one in any case
        keep_best: also keep the network of the epoch with the best main score on the validation images, in best/; false
            keeps the last one alone
        checkpoint_every: most work that an interruption may cost: a number of updates, such as 50, or of minutes, 10min
        preservation_images: validation images on which a pruned network that starts from weights is compared with the
            dense one before training; 0 for no comparison
        criteria: Python file that registers your own criteria
        seed: seed of initial weights, data order, augmentation and random pruning
        data: what the run learns from
        pruning: the data that data-driven criteria score with
        optimizer: SGD or AdamW, with one learning rate for the backbone and one for the rest
        schedule: how the learning rates rise and fall
        output_dir: folder for everything the run writes; by default under runs/, named after the run
        overwrite: replace the run that output_dir holds
        resume: continue the run that output_dir holds
        tracker: also log to this Accelerate tracker, such as tensorboard
        sync_bn: compute BatchNorm statistics over all processes (GPUs only)
        channels_last: use the channels-last memory format; by default on GPUs in mixed precision, where it is faster
        compile: train through torch.compile, which takes a minute or more before the first update
        deterministic: use torch's deterministic algorithms alone; a note says which operations have none
        threads: CPU threads of each process when there is no GPU; by default an equal share of the cores
    """

    DECIDED: ClassVar[tuple[str, ...]] = ()
    """Settings that the command decides by itself, and that cannot be given."""

    sparsity: float
    method: str
    encoder: str
    weights: str
    epochs: int
    batch_size: int
    data: DataConfig
    pruning: PruningConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    gradient_accumulation: int | None = None
    rounds: int | None = None
    ranking: str | None = None
    pattern: str | None = None
    granularity: str = "weight"
    density_from: str | None = None
    keep_dense: list[str] = field(default_factory=list)
    masks: str | None = None
    shuffle_masks: bool = False
    reinit: bool = False
    recalibrate: str = "none"
    recalibrate_rounds: bool = False
    compact: bool = False
    loss: str = "cross_entropy"
    class_weights: list[float] | str | None = None
    ema: float | None = None
    freeze_encoder: bool = False
    freeze_bn: bool = False
    evaluate_first: bool = False
    evaluate_every: int = 1
    keep_best: bool = True
    checkpoint_every: int | str = "10min"
    preservation_images: int = 64
    criteria: str | None = None
    seed: int = 0
    output_dir: str | None = None
    overwrite: bool = False
    resume: bool = False
    tracker: str | None = None
    sync_bn: bool = False
    channels_last: bool | None = None
    compile: bool = False
    deterministic: bool = False
    threads: int | None = None

    def to_yaml(self) -> str:
        """The configuration as YAML that --config reads back."""
        return yaml.safe_dump(asdict(self), sort_keys=False)


@dataclass
class EvaluationConfig:
    """How images are looked at when a network is evaluated: as they are, unless told otherwise.

    Args:
        flip: also mirrored, and the mean of both taken
        scales: at these factors of their size, and the mean of all taken; by default 1 alone
        window: in windows of this side, which overlap by a third, where an image is larger; by default whole
    """

    flip: bool = False
    scales: list[float] = field(default_factory=lambda: [1.0])
    window: int | None = None


@dataclass(kw_only=True)
class SegmentationConfig(RunConfig):
    """One segmentation run: prune, fine-tune, evaluate.

    Args:
        data: what the run learns from
        output_stride: of deeplabv3plus and deeplabv3: 8 or 16; the ASPP rates follow: 12, 24, 36 or 6, 12, 18
        architecture: decoder and head around the backbone: deeplabv3plus, by default; deeplabv3, unet, unetplusplus,
            linknet, pspnet, segformer; or fpn, manet, pan or upernet, with methods that do not walk paths
        evaluation: how images are looked at when a network is evaluated
    """

    data: SegmentationDataConfig
    output_stride: int
    architecture: str = "deeplabv3plus"
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


@dataclass(kw_only=True)
class ClassificationConfig(RunConfig):
    """One classification run: prune, fine-tune, evaluate.

    Args:
        encoder: backbone by its name in segmentation-models-pytorch, tu-NAME for timm's, resnet20, or resnet18_3x3,
            whose stem keeps the image's size
        data: what the run learns from
        ridge: penalty of a head fitted in closed form on the dense backbone's features, before pruning; by default the
            head is initialised at random
    """

    data: ClassificationDataConfig
    ridge: float | None = None


@dataclass(kw_only=True)
class TransferConfig(ClassificationConfig):
    """Tickets across tasks: masks found on each of several tasks, tried on all of them.

    Args:
        data: what the tasks are parts of
        tasks: classes of each task, by the task's name
        sources: tasks to prune on; by default all
        targets: tasks to try the masks on; by default all
    """

    DECIDED: ClassVar[tuple[str, ...]] = ("masks", "data.classes")

    tasks: dict[str, list[str]]
    sources: list[str] | None = None
    targets: list[str] | None = None


def with_defaults(written: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """A configuration as a file has it, with the defaults of settings that it lacks, because they came after it.

    `config` is any configuration of its class.
    """
    complete = dict(written)
    for key in fields(config):
        if key.default is not MISSING:
            complete.setdefault(key.name, key.default)
        elif key.default_factory is not MISSING:
            complete.setdefault(key.name, key.default_factory())
        part = getattr(config, key.name)
        if is_dataclass(part) and isinstance(complete.get(key.name), Mapping):
            complete[key.name] = with_defaults(complete[key.name], part)
    return complete


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level of dotted names."""
    names: dict[str, Any] = {}
    for key, value in tree.items():
        names |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return names
