"""The folder of a run, and what is in it already."""

import json

import pytest
from helpers.runs import go, parsed

from px_seg import InputError
from px_seg.data.normalisation import SYMMETRIC
from px_seg.run.folder import RunFolder


def test_a_folder_that_holds_something_is_not_touched(tiny, tmp_path) -> None:
    out = tmp_path / "out"
    flags = ("--config", tiny, "--epochs", 0, "--method", "random", "--output_dir", out)
    go(*flags)
    (out / "notes.txt").write_text("mine")
    (out / "mine.png").write_text("mine")
    before = (out / "results.json").read_text()
    with pytest.raises(InputError, match=r"already holds a run.*--overwrite"):
        go(*flags)
    # Everything else is checked before anything is deleted.
    with pytest.raises(InputError, match="there is no file"):
        go(*flags, "--overwrite", "--weights", "nowhere.pth")
    assert (out / "results.json").read_text() == before
    go(*flags, "--overwrite", "--seed", 1)
    assert json.loads((out / "results.json").read_text())["seed"] == 1
    assert (out / "notes.txt").read_text() == (out / "mine.png").read_text() == "mine"
    with pytest.raises(InputError, match="there is no run"):
        go(*flags[:-1], tmp_path / "new", "--resume")
    with pytest.raises(InputError, match="do not belong to a run"):
        go(*flags[:-1], tmp_path)


def test_a_run_of_before_a_setting_that_changes_no_result_is_the_same_run(tmp_path) -> None:
    """The images on which pruning is judged came later than many a run that a sweep is to be extended by."""
    config = parsed("--output_dir", tmp_path)
    folder = RunFolder(tmp_path)
    folder.open(config)
    written = [line for line in folder.config.read_text().splitlines() if "preservation_images" not in line]
    folder.config.write_text("\n".join(written))
    results = {"miou": 0.5, "seconds": {"prune": 1.0, "train": 1.0, "evaluate": 1.0}}
    folder.results.write_text(json.dumps(results))
    assert folder.state(config) == (False, results)
    folder.config.write_text("\n".join(line.replace("epochs: ", "epochs: 1") for line in written))
    with pytest.raises(InputError, match="differs in epochs"):
        folder.state(config)


def test_a_run_whose_images_were_normalised_otherwise_is_another(tmp_path) -> None:
    """Once all were normalised by ImageNet's statistics, and results.json said nothing of it."""
    results = {"miou": 0.5, "seconds": {"prune": 1.0, "train": 1.0, "evaluate": 1.0}}
    for encoder, had, refused in (
        ("resnet18", None, False),
        ("tu-tf_efficientnet_lite0", None, True),
        ("tu-tf_efficientnet_lite0", SYMMETRIC, False),
        ("resnet18", SYMMETRIC, True),
    ):
        config = parsed("--encoder", encoder, "--output_dir", tmp_path / f"{encoder}{had}")
        folder = RunFolder(tmp_path / f"{encoder}{had}")
        folder.open(config)
        written = results | ({"normalisation": had.as_plain()} if had else {})
        folder.results.write_text(json.dumps(written))
        if refused:
            with pytest.raises(InputError, match=r"had its images normalised by .*: delete that folder"):
                folder.finished(config)
        else:
            assert folder.finished(config) == written
