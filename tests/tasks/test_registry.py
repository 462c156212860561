"""Tasks by name: where their presets are, and the score by which their runs are compared."""

from dataclasses import dataclass

import pytest
import yaml

from px_seg import InputError
from px_seg.config import CONFIGS, SegmentationConfig
from px_seg.metrics import Score
from px_seg.sweep.plan import Request, base_config, plan_sweep
from px_seg.tasks import TASKS, Segmentation, presets, registry, score_by, task_of


@dataclass(kw_only=True)
class ThirdConfig(SegmentationConfig):
    """A run of a task that is neither.

    Args:
        depth: of something
    """

    depth: int


class Third(Segmentation):
    name = "third"
    about = "Something else."
    config_type = ThirdConfig
    scores = (Score("error", "error", higher_is_better=False, unit="m", scale=1.0, digits=3, limits=None),)


@pytest.fixture
def third(monkeypatch, tmp_path) -> type[Third]:
    """A third task, with a preset of its own."""
    content = yaml.safe_load((CONFIGS / "seg" / "synthetic.yaml").read_text())
    (tmp_path / "third").mkdir()
    (tmp_path / "third" / "synthetic.yaml").write_text(yaml.safe_dump(content | {"depth": 7, "epochs": 77}))
    monkeypatch.setattr(registry, "CONFIGS", tmp_path)
    monkeypatch.setitem(TASKS, "third", Third)
    return Third


def test_a_task_is_found_by_its_name(third) -> None:
    assert task_of("seg") is Segmentation
    assert task_of("third") is third
    with pytest.raises(InputError, match="there is no task 'fourth': choose one of seg, cls, third"):
        task_of("fourth")


def test_every_task_has_presets_of_its_own() -> None:
    assert presets(task_of("seg")) == CONFIGS / "seg"
    assert presets(task_of("cls")) == CONFIGS / "cls"


def test_a_sweep_takes_the_presets_of_its_task(third, tmp_path) -> None:
    request = Request(task="third", methods=("random",), sparsities=(0.8,), seeds=(0,), output_dir=tmp_path / "out")
    config = base_config(request, ())
    assert isinstance(config, ThirdConfig)
    assert (config.depth, config.epochs) == (7, 77)
    (cell,) = plan_sweep(request)
    assert (cell.config.method, cell.config.sparsity) == ("random", 0.8)


def test_runs_are_compared_by_the_first_score_of_their_task(third) -> None:
    assert score_by({"task": "seg", "accuracy": 1}).name == "miou"
    assert score_by({"task": "cls"}).name == "accuracy"
    assert score_by({"task": "third"}).name == "error"
