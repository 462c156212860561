"""px_seg as people install it: a wheel that needs no clone."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]

BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"

TINY = ("--data.train_images", "8", "--data.val_images", "4", "--data.size", "32", "--rounds", "2", "--epochs", "1")
TINY += ("--batch_size", "4", "--pruning.batches", "1", "--pruning.batch_size", "2", "--sparsity", "0.8")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with the wheel's files in it, and nothing of the clone."""
    root = tmp_path_factory.mktemp("wheel")
    source = root / "source"
    source.mkdir()
    for name in ("px_seg", "configs"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    command = [sys.executable, "-c", BUILD, str(root)]
    built = subprocess.run(command, cwd=source, check=True, capture_output=True, text=True).stdout.split()[-1]
    with zipfile.ZipFile(root / built) as wheel:
        wheel.extractall(root / "installed")
    return root / "installed"


def run(installed: Path, folder: Path, *words: str) -> subprocess.CompletedProcess:
    folder.mkdir(exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(installed), "ACCELERATE_USE_CPU": "true"}
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


def test_it_carries_every_configuration_the_template_and_its_types(installed) -> None:
    inside = {str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file()}
    wanted = {f"px_seg/{path.relative_to(REPOSITORY)}" for path in (REPOSITORY / "configs").rglob("*.yaml")}
    wanted |= {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "px_seg").rglob("*.py")}
    assert wanted | {"px_seg/report/page.html", "px_seg/sweep/accelerate.yaml", "px_seg/py.typed"} <= inside
    entry = next(installed.glob("*.dist-info")) / "entry_points.txt"
    assert "px_seg = px_seg.__main__:main" in entry.read_text()


def test_the_main_job_runs_from_it_in_an_empty_folder(installed, tmp_path) -> None:
    launch = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "-m", "px_seg", "seg")
    done = run(installed, tmp_path / "empty", *launch, *TINY, "--output_dir", "out")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "empty" / "out" / "results.json").read_text())
    assert (results["task"], results["data"]["name"], results["encoder"]) == ("seg", "synthetic", "resnet18")


def test_a_sweep_and_its_report_run_from_it(installed, tmp_path) -> None:
    words = ("sweep", "--methods", "random", "--sparsities", "0.8", "--gpus", "none", *TINY[:-2])
    done = run(installed, tmp_path / "empty", "-m", "px_seg", *words, "--output_dir", "out")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "empty" / "out" / "report" / "index.html").is_file()
    assert (tmp_path / "empty" / "out" / "random" / "0.8" / "seed0" / "results.json").is_file()
