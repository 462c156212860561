"""Criteria of one's own, from a file."""

import pytest
import torch
from helpers.runs import go

from px_seg import InputError, Masks
from px_seg.pruning import CRITERIA
from px_seg.pruning.rules import RULES
from px_seg.run.user_criteria import rules_were_taught

OWN = """
from dataclasses import dataclass
from px_seg import Criterion, prunable, register

@register("largest_first")
@dataclass(frozen=True)
class LargestFirst(Criterion):
    power: float = 1.0

    def score(self, model, batches=(), masks=None, scope=None, group=None):
        return {name: weight.detach().abs() ** self.power for name, weight in prunable(model, scope).items()}
"""


def test_a_criterion_of_ones_own_runs_from_the_command_line(tiny, tmp_path) -> None:
    own = tmp_path / "own.py"
    own.write_text(OWN)
    flags = ("--config", tiny, "--sparsity", 0.9, "--epochs", 0, "--criteria", own, "--method", "largest_first")
    try:
        results = go(*flags, "--pruning.settings.power", 2.0, "--output_dir", tmp_path / "own")
        assert results["settings"] == {"seed": 0, "power": 2.0}
        go("--config", tiny, *flags[2:6], "--method", "magnitude", "--output_dir", tmp_path / "theirs")
        masks = [Masks.load(tmp_path / name / "masks.safetensors") for name in ("own", "theirs")]
        assert masks[0] == masks[1]
    finally:
        CRITERIA.pop("largest_first", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def f(:\n    pass", r"own\.py:1 cannot be run: SyntaxError"),
        ("import px_seg\n\nnope", r"own\.py:3 cannot be run: NameError: name 'nope'"),
        (OWN.replace("largest_first", "px"), r"own\.py:\d+ cannot be run: .* a criterion 'px' already"),
        ("from px_seg import register\n\n@register('mine')\nclass A: pass", r"derived from px_seg\.Criterion"),
        ("import sys\n\nsys.exit(0)", r"own\.py:3 cannot be run: SystemExit"),
        (
            OWN.replace("'largest_first'", "x").replace('"largest_first"', '"../up"'),
            r"letters, digits, _, \., \+ and -: got '../up'",
        ),
        (OWN.replace('("largest_first")', ""), r"register a criterion with @register\(\"name\"\)"),
        (OWN.replace("def score", "def rank"), "the criterion 'largest_first' must define score"),
        (OWN.replace("float = 1.0", "float"), "the method largest_first cannot be created with"),
        (OWN.replace("weight.detach()", "wait.detach()"), r"own\.py:\d+: largest_first cannot score: NameError"),
        (
            OWN.replace("return {", "raise SystemExit(0)\n        {"),
            r"own\.py:\d+: largest_first cannot score: SystemExit",
        ),
        (OWN.replace("return {", "dict() or {"), "scores must be tensors by parameter name, got NoneType"),
        (OWN.replace("abs()", "abs()[:1]"), "the method largest_first cannot score this network: no score of shape"),
        (OWN.replace("abs()", "mul(float('nan'))"), "the scores of encoder.model.conv1.0.weight hold NaN"),
    ],
)
def test_criteria_of_ones_own_that_are_wrong(tiny, tmp_path, text: str, message: str) -> None:
    own = tmp_path / "own.py"
    own.write_text(text)
    try:
        with pytest.raises(InputError, match=message):
            go("--config", tiny, "--criteria", own, "--method", "largest_first", "--output_dir", tmp_path / "out")
    finally:
        CRITERIA.pop("largest_first", None)
    assert not (tmp_path / "out").exists()


BODY = "        return {name: weight.detach().abs() ** self.power for name, weight in prunable(model, scope).items()}"


@pytest.mark.parametrize(
    ("meddling", "changed"),
    [
        ("next(model.parameters()).data.add_(1)", "parameters or buffers"),
        ("next(model.buffers()).add_(1)", "parameters or buffers"),
        ("next(model.parameters()).requires_grad_(False)", "requires_grad"),
        ("next(model.parameters()).sum().backward()", "gradients"),
        ("model.eval() if model.training else model.train()", "modes"),
        ("model.encoder.register_forward_hook(lambda *_: None)", "hooks"),
    ],
)
def test_a_criterion_of_ones_own_leaves_the_model_as_it_was(tiny, tmp_path, meddling: str, changed: str) -> None:
    own = tmp_path / "own.py"
    own.write_text(OWN.replace(BODY, f"        {meddling}\n{BODY}"))
    flags = ("--config", tiny, "--method", "largest_first", "--epochs", 0, "--criteria", own)
    try:
        with pytest.raises(
            InputError, match=rf"own\.py: largest_first changes the model's {changed}: a criterion leaves"
        ):
            go(*flags, "--output_dir", tmp_path / "out")
    finally:
        CRITERIA.pop("largest_first", None)
    assert not (tmp_path / "out").exists()


def test_a_criterion_of_ones_own_that_meddles_later_stops_the_run(tiny, tmp_path) -> None:
    """Trying it out on two images has found nothing."""
    own = tmp_path / "own.py"
    late = "if masks is not None and float(masks['encoder.model.conv1.0.weight'].float().mean()) < 1: model.eval()"
    own.write_text(OWN.replace(BODY, f"        {late}\n{BODY}"))
    flags = ("--config", tiny, "--method", "largest_first", "--epochs", 0, "--criteria", own, "--rounds", 2)
    try:
        with pytest.raises(InputError, match="largest_first changes the model's modes"):
            go(*flags, "--sparsity", 0.99, "--output_dir", tmp_path / "out")
    finally:
        CRITERIA.pop("largest_first", None)
    assert not (tmp_path / "out" / "results.json").exists()


def test_a_file_that_fails_has_taught_px_nothing(tiny, tmp_path) -> None:
    own = tmp_path / "rules.py"
    own.write_text(
        "import torch\nfrom px_seg.pruning.rules import RULES, structural\nRULES[torch.roll] = structural\nnope"
    )
    with pytest.raises(InputError, match=r"rules\.py:4 cannot be run: NameError"):
        go("--config", tiny, "--criteria", own, "--output_dir", tmp_path / "out")
    assert torch.roll not in RULES
    assert not rules_were_taught()


def test_what_cannot_be_pruned_leaves_the_former_run_alone(tiny, tmp_path) -> None:
    flags = ("--config", tiny, "--epochs", 0, "--output_dir", tmp_path / "out")
    go(*flags, "--method", "random")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    own = tmp_path / "own.py"
    own.write_text(OWN.replace("    power", "    ranking = 'foo'\n    power"))
    try:
        for wrong in (
            ("--sparsity", 0.99999999),
            ("--criteria", own, "--method", "largest_first"),
            ("--pattern", "2:4"),
        ):
            with pytest.raises(InputError):
                go(*flags, *wrong, "--overwrite")
    finally:
        CRITERIA.pop("largest_first", None)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before
