"""Whole runs, small: what they write, what they hold to, and what they refuse."""

import json
import math

import pytest
import segmentation_models_pytorch as smp
import torch
import yaml
from accelerate.state import AcceleratorState
from helpers.runs import CONFIGS, TWO, go, lines, parsed, script, worker
from helpers.stopped import Interrupted, Unfinished
from safetensors.torch import load_file
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from px_seg import InputError, Masks, prunable
from px_seg.errors import TrainingDiverged
from px_seg.tasks import Segmentation


def test_a_run_writes_what_the_contract_names(tiny, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    results = go("--config", tiny, "--sparsity", 0.9, "--tracker", "tensorboard", "--output_dir", out)
    written = {path.name for path in out.iterdir()}
    assert written >= {
        *("config.yaml", "results.json", "metrics.jsonl", "masks.safetensors", "model"),
        *("curves.png", "samples.png", "samples.npz", "masks.png"),
    }
    assert "checkpoint" not in written
    assert list(out.rglob("events.out.tfevents*"))
    assert results == json.loads((out / "results.json").read_text())
    assert results["method"] == "px"
    assert set(results["seconds"]) == {"prune", "train", "evaluate"}
    assert results["class_iou"].keys() == set(lines(out)[-1]["class_iou"])
    assert results["miou"] == lines(out)[-1]["miou"]
    printed = capsys.readouterr().out
    for word in ("mIoU", "pixel accuracy", "striped disc", "backbone", "prune", str(out)):
        assert word in printed

    masks, model = Masks.load(out / "masks.safetensors"), smp.from_pretrained(str(out / "model"))
    assert list(masks) == list(prunable(model, "encoder"))
    assert masks.provenance.method == "px"
    assert masks.kept == round(0.1 * masks.total)
    assert results["backbone_sparsity"] == masks.sparsity
    weights = torch.cat([w.flatten() for w in prunable(model, None).values()])
    assert results["model_sparsity"] == pytest.approx((weights == 0).float().mean().item(), abs=1e-6)
    assert masks.revived(model.state_dict()) == {}

    # The configuration as written makes the same run again.
    again = go("--config", out / "config.yaml", "--tracker", "null", "--output_dir", tmp_path / "again")
    assert again["miou"] == results["miou"]
    first, second = (load_file(folder / "model" / "model.safetensors") for folder in (out, tmp_path / "again"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_training_lowers_the_loss(tiny, tmp_path) -> None:
    flags = ("--data.train_images", 32, "--epochs", 6, "--sparsity", 0.5, "--method", "magnitude")
    go("--config", tiny, *flags, "--output_dir", tmp_path / "out")
    losses = [line["loss"] for line in lines(tmp_path / "out")]
    assert losses[-1] < 0.7 * losses[0]


def test_a_voc_tree_runs_in_both_evaluations(voc, tiny, tmp_path) -> None:
    flags = ("--config", CONFIGS / "seg" / "voc2012.yaml", "--data.root", voc, "--data.workers", 1, "--weights", "none")
    flags += ("--encoder", "resnet18", "--data.size", 49, "--rounds", 1, "--pruning.batches", 1, "--epochs", 1)
    whole = go(*flags, "--output_dir", tmp_path / "whole")
    assert whole["data"] | {"root": ""} == {
        **{"name": "voc2012", "root": "", "classes": 21, "train": 8, "val": 4},
        **{"size": 49, "evaluation": "whole"},
    }
    crop = go(*flags, "--data.evaluation", "centre_crop", "--epochs", 0, "--output_dir", tmp_path / "crop")
    assert math.isfinite(crop["miou"])


def test_a_padded_image_is_cropped_back(voc) -> None:
    """The prediction of an image of odd size is the network's on the zero-padded one, where they overlap."""
    config = parsed("--config", CONFIGS / "seg" / "voc2012.yaml", "--data.root", voc)
    task = Segmentation(config)

    class Positions(nn.Module):
        def forward(self, x):
            assert x.shape[-2] % 8 == x.shape[-1] % 8 == 0
            rows = torch.arange(x.shape[-2]).view(1, 1, -1, 1).expand(1, 1, -1, x.shape[-1])
            return torch.cat([torch.full_like(rows, 50), rows], 1).float()

    predicted = task.predict(Positions(), torch.zeros(1, 3, 61, 37))
    assert predicted.shape == (1, 61, 37)
    assert (predicted[0, 51:] == 1).all()
    assert (predicted[0, :51] == 0).all()


def test_ignored_pixels_do_not_count_in_the_loss(tiny, generator) -> None:
    task = Segmentation(parsed("--config", str(tiny)))
    logits = torch.randn(2, 7, 4, 4, generator=generator)
    labels = torch.randint(0, 5, (2, 4, 4), generator=generator)
    labels[0] = 255
    expected = nn.functional.cross_entropy(logits[1:], labels[1:])
    torch.testing.assert_close(task.loss(logits, labels), expected)
    assert task.loss(logits, torch.full_like(labels, 255)) == 0


def test_mixed_precision_keeps_pruned_weights_at_zero(tiny, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    flags = ("--channels_last", "--optimizer.nesterov", "--sparsity", 0.95, "--epochs", 2)
    results = go("--config", tiny, *flags, "--output_dir", tmp_path / "out")
    assert math.isfinite(results["miou"])
    assert results["mixed_precision"] == "bf16"
    assert results["backbone_sparsity"] == Masks.load(tmp_path / "out" / "masks.safetensors").sparsity


@pytest.mark.parametrize(("accumulation", "updates"), [("1", 8), ("2", 4), ("3", 4)])
def test_gradients_accumulate_as_the_launcher_was_told(tiny, tmp_path, monkeypatch, accumulation, updates) -> None:
    """Two epochs of four batches; an epoch's last batches make an update even if fewer."""
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", accumulation)
    made = []
    handle = register_optimizer_step_post_hook(lambda *_: made.append(1))
    flags = ("--method", "random", "--batch_size", 2, "--epochs", 2)
    try:
        go("--config", tiny, *flags, "--output_dir", tmp_path / "out")
    finally:
        handle.remove()
    assert len(made) == updates
    rates = [line["head_lr"] for line in lines(tmp_path / "out")]
    last = [(epoch * updates / 2 - 1) / updates for epoch in (1, 2)]
    assert rates == pytest.approx([0.1 * (1 - progress) ** 0.9 for progress in last])


def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(tiny, tmp_path) -> None:
    flags = ("--config", tiny, "--epochs", 4)
    whole = go(*flags, "--output_dir", tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        go(*flags, "--output_dir", tmp_path / "cut", task=Interrupted)
    with pytest.raises(InputError, match="another configuration \\(differs in sparsity"):
        go(*flags, "--sparsity", 0.1, "--resume", "--output_dir", tmp_path / "cut")
    resumed = go(*flags, "--resume", "--output_dir", tmp_path / "cut")
    assert resumed["miou"] == whole["miou"]
    losses = [[line["loss"] for line in lines(tmp_path / name)] for name in ("whole", "cut")]
    assert losses[0] == losses[1]
    with pytest.raises(InputError, match="finished"):
        go(*flags, "--resume", "--output_dir", tmp_path / "cut")


def test_a_run_stopped_at_its_very_end_can_be_finished(tiny, tmp_path) -> None:
    flags = ("--config", tiny, "--method", "random", "--output_dir", tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        go(*flags, task=Unfinished)
    logged = lines(tmp_path / "out")[-1]
    # Killed in the middle of replacing the checkpoint: the former one is still there.
    (tmp_path / "out" / "checkpoint").rename(tmp_path / "out" / "checkpoint.old")
    results = go(*flags, "--resume", "--threads", 1)
    assert results["miou"] == pytest.approx(logged["miou"], abs=1e-3)
    assert len(lines(tmp_path / "out")) == 1


def test_what_is_damaged_is_not_resumed(tiny, tmp_path) -> None:
    out = tmp_path / "out"
    flags = ("--config", tiny, "--method", "random", "--output_dir", out, "--resume")
    with pytest.raises(KeyboardInterrupt):
        go(*flags[:-1], task=Unfinished)
    (out / "checkpoint" / "optimizer.bin").write_bytes(b"cut off")
    with pytest.raises(InputError, match="checkpoint is damaged: delete it"):
        go(*flags)
    (out / "checkpoint" / "progress.json").write_text('{"epo')
    with pytest.raises(InputError, match="checkpoint is damaged: delete it"):
        go(*flags)
    masks = Masks.load(out / "masks.safetensors")
    Masks({name: torch.ones_like(mask) for name, mask in masks.items()}, masks.provenance).save(
        out / "masks.safetensors"
    )
    with pytest.raises(InputError, match="damaged or belongs to another run: delete it"):
        go(*flags)
    (out / "config.yaml").write_text("[")
    with pytest.raises(InputError, match=r"config.yaml is damaged: delete the folder, or start again with --overwrite"):
        go(*flags)


def test_half_a_line_of_metrics_is_dropped(tiny, tmp_path) -> None:
    flags = ("--config", tiny, "--method", "random", "--output_dir", tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        go(*flags, task=Unfinished)
    with (tmp_path / "out" / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "lo')
    go(*flags, "--resume")
    assert [line["epoch"] for line in lines(tmp_path / "out")] == [1]


def test_a_run_is_not_resumed_under_another_launch(tiny, tmp_path, monkeypatch) -> None:
    flags = ("--config", tiny, "--method", "random", "--output_dir", tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        go(*flags, task=Unfinished)
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "2")
    with pytest.raises(InputError, match="gradient_accumulation_steps 1, but this launch has 2"):
        go(*flags, "--resume")


class Diverging(Segmentation):
    """The loss turns NaN at the first step of the second epoch."""

    steps = 0

    def loss(self, logits, labels):
        self.steps += 1
        return super().loss(logits, labels) * (math.nan if self.steps == 3 else 1)


def test_a_nan_loss_stops_the_run_and_keeps_the_last_good_checkpoint(tiny, tmp_path) -> None:
    out = tmp_path / "out"
    with pytest.raises(TrainingDiverged, match=r"nan at epoch 2, step 1; the last good checkpoint is .*checkpoint"):
        go("--config", tiny, "--epochs", 3, "--output_dir", out, task=Diverging)
    saved = load_file(out / "checkpoint" / "model.safetensors")
    assert all(value.isfinite().all() for value in saved.values())
    assert Masks.load(out / "masks.safetensors").revived(saved) == {}
    assert [line["epoch"] for line in lines(out)] == [1]
    with pytest.raises(TrainingDiverged, match=r"epoch 1.*; no epoch was completed; the masks are in"):
        go("--config", tiny, "--optimizer.head_lr", 1e38, "--output_dir", tmp_path / "none")


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


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sparsity", "1.0"], r"sparsity must be in \[0, 1\), got 1"),
        (["--sparsity", "-0.5"], r"sparsity must be in \[0, 1\), got -0.5"),
        (["--sparsity", "much"], "sparsity"),
        (["--method", "sparkle"], "no method 'sparkle': choose one of dense, random, random_erk"),
        (["--data.name", "coco"], "no dataset 'coco': choose one of synthetic, voc2012"),
        (["--encoder", "resnet5O"], "no encoder 'resnet5O': did you mean resnet50"),
        (["--sparsiti", "0.5"], r"sparsiti.*the valid keys are: sparsity, method"),
        (["--data.sise", "64"], r"data.sise.*data.size"),
        (["--rounds", "0"], "rounds must be a whole number from 1 to 10000"),
        (["--epochs", "-1"], "epochs must be at least 0"),
        (["--batch_size", "1"], "batch_size must be at least 2"),
        (["--batch_size", "5000"], "do not fill one batch of 5000"),
        (["--pruning.batches", "500"], "lower --pruning.batches"),
        (["--schedule.name", "cosine"], "no schedule 'cosine': choose one of multistep, poly"),
        (["--schedule.milestones", "[50]"], "between 0 and 1"),
        (["--data.evaluation", "half"], "choose one of whole, centre_crop"),
        (["--data.scale", "[2, 1]"], "the smaller first"),
        (["--data.size", "0"], "data.size must be at least 1"),
        (["--data.scale", "[0.5]"], "must be two factors"),
        (["--data.val_images", "0"], "data.val_images must be at least 1"),
        (["--seed", "-1"], "seed must be at least 0"),
        (["--threads", "0"], "threads must be at least 1"),
        (["--seed", "4294967296"], "below"),
        (["--rounds", "999999999999"], "rounds must be a whole number from 1 to 10000"),
        (["--data.size", "1000000"], "at most 8192"),
        (["--schedule.power", "-1"], "must be positive"),
        (["--optimizer.backbone_lr", "-1"], "learning rates must be at least 0"),
        (["--data.val_split", "train"], "are both train"),
        (["--output_dir", "x" * 300], "cannot be a path"),
        (["--output_dir", ""], "output_dir is empty"),
        (["--optimizer.momentum", "-1"], "optimizer: Invalid momentum"),
        (["--optimizer.nesterov", "--optimizer.momentum", "0"], "optimizer: Nesterov"),
        (["--encoder", "mit_b0"], "is not defined for paths"),
        (["--tracker", "notebook"], "no tracker 'notebook': choose one of"),
        (["--weights", "nowhere.pth"], "no file nowhere.pth"),
        (
            ["--data.name", "voc2012", "--data.root", "nowhere"],
            r"no VOC2012 tree at nowhere/VOCdevkit.*--data.download",
        ),
        (["--config", "nowhere.yaml"], "nowhere.yaml cannot be read"),
        (["--method", "dense", "--sparsity", "0.5"], "method dense means sparsity 0, not 0.5"),
        (["--pattern", "2:4", "--sparsity", "0.8"], "pattern 2:4 means sparsity 0.5, not 0.8"),
        (["--pattern", "2:4", "--method", "dense"], "leave the pattern 2:4 out"),
        (["--pattern", "2:4", "--shuffle_masks"], "would not keep the pattern 2:4"),
        (["--pattern", "2:4", "--ranking", "erk"], "leave the ranking erk out"),
        (
            ["--pattern", "2:4"],
            r"do not have: encoder.conv1 \(3\): keep them dense with --keep_dense '\[encoder.conv1\]'",
        ),
        (["--pattern", "two"], "a pattern is n:m"),
        (["--ranking", "layerwise"], "no ranking 'layerwise': choose one of global, uniform, erk"),
        (["--keep_dense", "[decoder]"], "keep_dense must name layers of the backbone"),
        (["--keep_dense", "[encoder.conv9]"], "no convolution or linear layer under 'encoder.conv9'"),
        (["--keep_dense", "encoder.conv1"], r"a list is written '\[a,b\]'"),
        (["--shuffle_masks", "--sparsity", "0"], "a dense run has none"),
        (["--method", "sparkle", "--sparsity", "0"], "no method 'sparkle'"),
        (["--method", "snip", "--pruning.batch_size", "1"], "batches of at least 2"),
        (["--method", "imp", "--epochs", "0"], "imp trains before it prunes"),
        (["--method", "snip", "--pruning.settings.loss", "1"], "no setting loss; it has none"),
        (["--pruning.settings.seed", "1"], "no seed of its own: give --seed"),
        (["--pruning.settings", "{1: 2}"], "values by name"),
        (["--sparsity", "0.99999999"], "keeps none of the 11166912 weights"),
        (["--criteria", "nowhere.py"], "no criteria file"),
        (["--criteria", ""], "criteria is empty"),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path, flags: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        go("--output_dir", tmp_path / "out", *flags)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_unknown_keys_in_a_file_are_named(tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    for content, message in {
        "sparsiti: 0.5": "there is no key sparsiti; the valid keys are: sparsity, method",
        "data: {nmae: voc2012}": "there is no key data.nmae; the valid keys are: data.name",
        "data: synthetic": "data takes nested keys",
        "data: [": "is not YAML",
        "just words": "holds no keys",
        "pattern: 2:4": 'write the pattern in quotes, such as "2:4"',
        "keep_dense:": "keep_dense has no value",
        "pruning: {settings: }": "pruning.settings has no value",
        "{method: dense, sparsity: 0.5}": "method dense means sparsity 0, not 0.5",
    }.items():
        path.write_text(content)
        with pytest.raises(InputError, match=message):
            parsed("--config", str(path))


def test_a_flag_decides_over_the_sparsity_of_a_file(tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("sparsity: 0.7")
    dense = parsed("--config", str(path), "--method", "dense")
    assert (dense.method, dense.sparsity) == ("dense", 0)
    assert parsed("--config", str(path), "--pattern", "1:4").sparsity == 0.75
    path.write_text("method: dense")
    assert parsed("--config", str(path), "--method", "snip").sparsity == 0.8


def test_presets_files_and_flags_override_each_other(tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("data: {name: voc2012, root: there}\nepochs: 3\n")
    config = parsed("--config", str(path), "--epochs", "5")
    paper = yaml.safe_load((CONFIGS / "seg" / "voc2012.yaml").read_text())
    assert (config.data.name, config.data.root, config.epochs) == ("voc2012", "there", 5)
    assert (config.output_stride, config.data.size) == (paper["output_stride"], paper["data"]["size"]) == (8, 513)
    assert parsed().data.name == "synthetic"
    assert parsed("--epochs=7", "--config", str(path)).epochs == 7
    assert parsed("--data", '{"name": "voc2012"}').encoder == paper["encoder"]


def test_the_script_ends_bad_input_with_status_two_and_one_line() -> None:
    done = script("--sparsity", "1.5")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1] == "error: sparsity must be in [0, 1), got 1.5"
    assert "Traceback" not in done.stderr


def test_two_processes_prune_and_evaluate_as_one_does(tiny, tmp_path) -> None:
    """Five validation images over two processes: without training the scores are the same."""
    flags = ("--config", tiny, "--sparsity", 0.9, "--epochs", 0)
    alone = go(*flags, "--output_dir", tmp_path / "alone")
    done = script(*flags, "--output_dir", tmp_path / "two", launcher=TWO, ACCELERATE_USE_CPU="true")
    assert done.returncode == 0, done.stderr
    shared = json.loads((tmp_path / "two" / "results.json").read_text())
    assert (alone["processes"], shared["processes"]) == (1, 2)
    masks = [Masks.load(tmp_path / name / "masks.safetensors") for name in ("alone", "two")]
    agreeing = sum(int((masks[0][name] == masks[1][name]).sum()) for name in masks[0])
    assert agreeing / masks[0].total > 0.9999
    assert shared["miou"] == pytest.approx(alone["miou"], abs=1e-4)
    assert shared["pixel_accuracy"] == pytest.approx(alone["pixel_accuracy"], abs=1e-4)
    # The epoch's line and the table, from the main process alone.
    assert done.stdout.count("mIoU") == 2


def test_an_error_of_the_main_process_ends_all_without_a_traceback(tmp_path) -> None:
    """Only the main process looks at the output folder, so the other learns of it from there."""
    (tmp_path / "notes.txt").write_text("mine")
    done = script("--output_dir", tmp_path, launcher=TWO, ACCELERATE_USE_CPU="true")
    assert done.returncode != 0
    assert f"\nerror: --output_dir {tmp_path} holds files" in f"\n{done.stderr}"
    assert f"[rank 1] error: --output_dir {tmp_path} holds files" in done.stderr
    assert "pipeline.py" not in done.stderr


def test_two_processes_train_one_model_on_different_images(tmp_path) -> None:
    worker("two_processes", tmp_path, ACCELERATE_USE_CPU="true")
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    for epoch in ("1", "2"):
        assert len(first["images"][epoch]) == len(second["images"][epoch]) == 4
        assert not set(first["images"][epoch]) & set(second["images"][epoch])
    assert first["images"]["1"] != first["images"]["2"]
    assert first["weights"] == second["weights"]
    assert first["buffers"] == second["buffers"]
    assert first["revived"] == second["revived"] == {}
