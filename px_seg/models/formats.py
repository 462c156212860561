"""Published checkpoint formats: how they name a backbone's tensors, and what else they hold."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from px_seg.errors import InputError
from px_seg.models.efficientnet import MARKER

CLIP_ENCODER = "tu-resnet50_clip"
"""CLIP's ResNet-50: three convolutions for a stem and anti-aliased strides (Radford et al., 2021, section 2.4)."""


class Rule(NamedTuple):
    """What becomes of the tensors whose whole name matches: a new name, or nothing, for a reason."""

    pattern: str
    name: str | None
    reason: str = ""


class Format(NamedTuple):
    """A way to name tensors, recognised by a name that only it has."""

    title: str
    marker: str
    """Matches the beginning of at least one name."""
    rules: tuple[Rule, ...]
    """The first that matches decides."""


CLASSIFIER = Rule(r"(?:_?fc|classifier|head|last_linear)\..*", None, "the classifier")

FORMATS = (
    Format(
        "MoCo v2",
        r"module\.encoder_q\.",
        (
            Rule(r"module\.encoder_q\.fc\..*", None, "the projection head"),
            Rule(r"module\.encoder_q\.(.*)", r"\1"),
            Rule(r"module\.encoder_k\..*", None, "the momentum encoder"),
            Rule(r"module\.queue(?:_ptr)?", None, "the queue of negatives"),
        ),
    ),
    Format(
        "CLIP",
        r"visual\.layer1\.",
        (
            Rule(r"visual\.conv([123])\.(.*)", r"stem.conv\1.conv.\2"),
            Rule(r"visual\.bn([123])\.(.*)", r"stem.conv\1.bn.\2"),
            Rule(r"visual\.layer([1-4])\.(\d+)\.(conv|bn)1\.(.*)", r"stages.<\1>.\2.conv1_1x1.\3.\4"),
            Rule(r"visual\.layer([1-4])\.(\d+)\.(conv|bn)2\.(.*)", r"stages.<\1>.\2.conv2_kxk.\3.\4"),
            Rule(r"visual\.layer([1-4])\.(\d+)\.(conv|bn)3\.(.*)", r"stages.<\1>.\2.conv3_1x1.\3.\4"),
            Rule(r"visual\.layer([1-4])\.(\d+)\.downsample\.0\.(.*)", r"stages.<\1>.\2.shortcut.conv.conv.\3"),
            Rule(r"visual\.layer([1-4])\.(\d+)\.downsample\.1\.(.*)", r"stages.<\1>.\2.shortcut.conv.bn.\3"),
            Rule(r"visual\.attnpool\..*", None, "the attention pooling"),
            Rule(
                r"(?:transformer|token_embedding|ln_final)\..*|positional_embedding|text_projection|logit_scale",
                None,
                "the text encoder",
            ),
            Rule(r"input_resolution|context_length|vocab_size", None, "sizes"),
        ),
    ),
    Format(
        "a run of px_seg",
        r"encoder\.",
        (
            Rule(r"encoder\.(.*)", r"\1"),
            Rule(r"(?:decoder|segmentation_head|head)\..*", None, "the former task's head"),
        ),
    ),
    Format("EfficientNet-PyTorch", MARKER, (Rule(r"(.*)", r"\1"),)),
    Format("data-parallel", r"module\.", (Rule(r"module\.(.*)", r"\1"),)),
)


class Mapped(NamedTuple):
    """Tensors by the names that an encoder's library gives them, and the others."""

    title: str
    tensors: dict[str, Tensor]
    left_out: dict[str, list[str]]
    """Names in the file, by the reason why they are not the backbone's."""


def mapped(state: Mapping[str, Tensor], source: str) -> Mapped:
    """The backbone's tensors of a checkpoint in any of the published formats.

    Raises InputError that lists the names that a recognised format cannot explain.
    """
    form = next((form for form in FORMATS if any(re.match(form.marker, name) for name in state)), None)
    named = _renamed(form, state, source) if form else Mapped("torchvision's or timm's names", dict(state), {})
    tensors, left_out = {}, dict(named.left_out)
    for name, tensor in named.tensors.items():
        if re.fullmatch(CLASSIFIER.pattern, name):
            left_out.setdefault(CLASSIFIER.reason, []).append(name)
        else:
            tensors[name] = tensor
    return Mapped(named.title, tensors, left_out)


def _renamed(form: Format, state: Mapping[str, Tensor], source: str) -> Mapped:
    tensors: dict[str, Tensor] = {}
    left_out: dict[str, list[str]] = {}
    unexplained = []
    for name, tensor in state.items():
        rule = next((rule for rule in form.rules if re.fullmatch(rule.pattern, name)), None)
        if rule is None:
            unexplained.append(name)
        elif rule.name is None:
            left_out.setdefault(rule.reason, []).append(name)
        else:
            new = re.sub(rule.pattern, rule.name, name)
            # CLIP counts its stages from 1, timm from 0.
            tensors[re.sub(r"<(\d)>", lambda stage: str(int(stage[1]) - 1), new)] = tensor
    if unexplained:
        raise InputError(f"{source} looks like {form.title}, but {counted(unexplained)} unknown ({some(unexplained)})")
    return Mapped(form.title, tensors, left_out)


def counted(names: list[str]) -> str:
    """How many tensors, with the verb."""
    return "1 tensor is" if len(names) == 1 else f"{len(names)} tensors are"


def some(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
