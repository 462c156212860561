"""The names of the EfficientNet-PyTorch family, B0 to B7 and Lite, in those of timm."""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from px_seg.errors import InputError

MARKER = r"_blocks\.0\._depthwise_conv\."
"""A name that only this family has."""

FAMILY = "tu-tf_efficientnet_"
"""The encoders that compute what these weights were trained for."""

_OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_GATE = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
# A block without expansion has one norm less, and timm numbers the others anew.
_EXPANDED = {
    **{"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"},
    **{"_project_conv": "conv_pwl", "_bn2": "bn3", **_GATE},
}
_PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2", **_GATE}


def is_of_family(names: Iterable[str]) -> bool:
    """Whether tensors of these names are of such a network."""
    return any(re.match(MARKER, name) for name in names)


def named_as_timm(state: Mapping[str, Tensor], name: str, source: str) -> dict[str, Tensor]:
    """The tensors of an EfficientNet-PyTorch backbone under timm's names; names of neither are left as they are.

    The family numbers its blocks throughout, timm by stage. A stage ends where the width of the
    blocks' outputs changes, which differs from every stage to the next in all of its networks.

    Raises InputError for another encoder, above all for one of timm's that pads convolutions and stabilises norms in
    another way than TensorFlow: these weights would fit it by name, and compute something else.
    """
    if not name.startswith(FAMILY):
        raise InputError(
            f"{source} holds an EfficientNet as TensorFlow pads it, which {name} is not: "
            f"give --encoder {FAMILY}lite0, for example, of the same size as the file"
        )
    places = _places(state)
    return {_renamed(key, places, state): value for key, value in state.items()}


def _places(state: Mapping[str, Tensor]) -> dict[str, str]:
    """The stage and place of every block, by its number."""
    widths = {
        int(found[1]): len(value)
        for key, value in state.items()
        if (found := re.fullmatch(r"_blocks\.(\d+)\._project_conv\.weight", key))
    }
    places: dict[str, str] = {}
    stage, place, before = -1, 0, None
    for number, width in sorted(widths.items()):
        stage, place = (stage, place + 1) if width == before else (stage + 1, 0)
        places[str(number)], before = f"{stage}.{place}", width
    return places


def _renamed(key: str, places: Mapping[str, str], state: Mapping[str, Tensor]) -> str:
    block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)
    if block and block[1] in places:
        parts = _EXPANDED if f"_blocks.{block[1]}._expand_conv.weight" in state else _PLAIN
        return f"blocks.{places[block[1]]}.{parts.get(block[2], block[2])}.{block[3]}"
    part, dot, tensor = key.partition(".")
    return f"{_OUTSIDE.get(part, part)}{dot}{tensor}"
