"""The folder of a run, and what is in it already."""

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.runs import go, parsed, tiny_segmentation
from helpers.stopped import Interrupted, Unfinished
from PIL import Image

from px_seg import InputError
from px_seg.data.fingerprints import fingerprint
from px_seg.data.normalisation import SYMMETRIC
from px_seg.data.voc import VOC
from px_seg.errors import Taken
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
    folder.open(config, {}, "any")
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
        folder.open(config, {}, "any")
        written = results | ({"normalisation": had.as_plain()} if had else {})
        folder.results.write_text(json.dumps(written))
        if refused:
            with pytest.raises(InputError, match=r"had its images normalised by .*: delete that folder"):
                folder.finished(config)
        else:
            assert folder.finished(config) == written


HOLD = """
import sys
from pathlib import Path
from px_seg.files import Lock
lock = Lock.take(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_folder_in_which_a_run_is_under_way_is_not_taken_from_it(tiny, tmp_path) -> None:
    out = tmp_path / "out"
    flags = ("--config", tiny, "--method", "random", "--output_dir", out)
    with pytest.raises(KeyboardInterrupt):
        go(*flags, task=Unfinished)
    assert not (out / ".lock").exists()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(out / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
        said = rf"a run is under way in {out} \(process {holder.pid} on {socket.gethostname()}\): wait for it"
        for how in ("--resume", "--overwrite"):
            with pytest.raises(Taken, match=said):
                go(*flags, how)
        # Also what has come about since it was looked at.
        with pytest.raises(InputError, match=said):
            RunFolder(out).open(parsed(*flags, "--overwrite"), {}, "any")
        assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
        holder.kill()
    go(*flags, "--resume")


def test_a_run_goes_on_with_the_data_it_began_with_wherever_that_is(voc, tmp_path) -> None:
    flags = ("--config", tiny_segmentation(tmp_path / "tiny.yaml", encoder="tu-test_resnet"), "--data.name", "voc2012")
    flags += ("--method", "random", "--epochs", 4, "--output_dir", tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        go(*flags, "--data.root", voc, task=Interrupted)
    shutil.copytree(voc, tmp_path / "elsewhere")
    shutil.copytree(voc, tmp_path / "other")
    changed = tmp_path / "other" / "VOCdevkit" / "VOC2012" / "SegmentationClass" / "train_3.png"
    Image.open(changed).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(changed, compress_level=1)
    with pytest.raises(InputError, match=rf"began with other data, at {voc}: the files at {tmp_path / 'other'} differ"):
        go(*flags, "--data.root", tmp_path / "other", "--resume")
    go(*flags, "--data.root", tmp_path / "elsewhere", "--resume")


def test_a_fingerprint_is_of_names_sizes_and_classes(voc, tmp_path) -> None:
    def found(root: Path) -> str:
        return fingerprint({split: VOC(root, split) for split in ("train", "val")})

    first = found(voc)
    moved = voc.rename(tmp_path / "moved")
    assert found(moved) == first
    tree = moved / "VOCdevkit" / "VOC2012"
    names = tree / "ImageSets" / "Segmentation" / "train.txt"
    names.write_text(names.read_text().replace("train_1\n", ""))
    fewer = found(moved)
    for place, ending in (("JPEGImages", "jpg"), ("SegmentationClass", "png")):
        (tree / place / f"train_0.{ending}").rename(tree / place / f"another.{ending}")
    names.write_text(names.read_text().replace("train_0\n", "another\n"))
    assert len({first, fewer, found(moved)}) == 3


def test_what_a_run_did_not_write_stays_when_it_is_overwritten(tiny, tmp_path) -> None:
    out, flags = tmp_path / "out", ("--config", tiny, "--method", "random", "--output_dir", tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        go(*flags, task=Unfinished)
    written = sorted(path.relative_to(out) for path in out.rglob("*"))
    mine = [out / place / "mine.txt" for place in ("", "model", "checkpoint", "checkpoint.old", "export")]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    go(*flags, "--overwrite")
    RunFolder(out).clear()
    # Folders of checkpoints change their names.
    left = [path for path in out.rglob("*") if path.is_file()]
    assert [path.read_text() for path in left] == ["mine"] * len(mine)
    assert Path("checkpoint", "optimizer.bin") in written


def test_a_foreign_folder_is_no_run_because_of_a_few_keys(tiny, tmp_path) -> None:
    (tmp_path / "out").mkdir()
    theirs = "sparsity: 0.5\nmethod: px\ndata: {name: x}\n"
    (tmp_path / "out" / "config.yaml").write_text(theirs)
    with pytest.raises(InputError, match="holds files that do not belong to a run: choose another folder"):
        go("--config", tiny, "--method", "random", "--overwrite", "--output_dir", tmp_path / "out")
    assert (tmp_path / "out" / "config.yaml").read_text() == theirs


@pytest.mark.parametrize("name", ["metrics.jsonl", "model", "masks.safetensors"])
def test_nothing_is_written_through_a_link(tiny, tmp_path, name: str) -> None:
    out, flags = tmp_path / "out", ("--config", tiny, "--method", "random", "--output_dir", tmp_path / "out")
    go(*flags)
    theirs = tmp_path / "theirs"
    (out / name).rename(theirs)
    (out / name).symlink_to(theirs)
    before = {path: path.stat().st_mtime_ns for path in (theirs, *theirs.rglob("*"))}
    with pytest.raises(
        InputError, match=rf"{name} is a link, and would be written through: replace it by what it leads"
    ):
        go(*flags, "--overwrite")
    assert {path: path.stat().st_mtime_ns for path in (theirs, *theirs.rglob("*"))} == before
    # The folder itself may be one.
    (out / name).unlink()
    theirs.rename(out / name)
    (tmp_path / "linked").symlink_to(out)
    go(*flags[:-1], tmp_path / "linked", "--overwrite")


def test_a_run_of_before_channels_last_had_a_default_is_the_same(tiny, tmp_path) -> None:
    """It says false where nothing is said now."""
    flags = ("--config", tiny, "--method", "random", "--epochs", 0, "--output_dir", tmp_path / "out")
    go(*flags)
    config = parsed(*flags)
    file = tmp_path / "out" / "config.yaml"
    file.write_text(file.read_text().replace("channels_last: null", "channels_last: false"))
    assert RunFolder(tmp_path / "out").finished(config) is not None
