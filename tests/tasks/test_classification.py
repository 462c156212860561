"""Classification runs, small, and masks and weights that pass between the two tasks."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator
from helpers.runs import CONFIGS, TWO, classify, go, lines, parsed, script
from helpers.stopped import Interrupted, Unfinished
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from px_seg import Classifier, InputError, Magnitude, Masks, build_classifier, prune
from px_seg.losses import cross_entropy, squared
from px_seg.metrics import classification_scores
from px_seg.models.ridge import Moments, balancing_weights, ridge_regression
from px_seg.run.pipeline import run
from px_seg.tasks import Classification, Segmentation


def test_a_run_writes_what_the_contract_names(small, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    results = classify("--config", small, "--sparsity", 0.9, "--output_dir", out)
    assert {path.name for path in out.iterdir()} == {
        *("config.yaml", "results.json", "metrics.jsonl", "masks.safetensors", "model"),
        *("curves.png", "samples.png", "samples.npz", "masks.png"),
    }
    assert (results["task"], results["method"], results["loss"]) == ("cls", "px", "cross_entropy")
    printed = capsys.readouterr().out
    for word in ("accuracy", "top-5 accuracy", "striped disc", "backbone", str(out)):
        assert word in printed

    masks, model = Masks.load(out / "masks.safetensors"), Classifier.from_pretrained(str(out / "model")).eval()
    assert masks.kept == round(0.1 * masks.total)
    assert masks.revived(model.state_dict()) == {}
    assert results["backbone_sparsity"] == masks.sparsity

    # Accuracies, from the saved model and nothing of the metrics' code.
    val = parsed("--config", small, task=Classification)
    task = Classification(val)
    with torch.no_grad():
        ranked = [(model(image[None])[0].argsort(descending=True), label) for image, label in _shown(task)]
    assert results["accuracy"] == pytest.approx(np.mean([int(order[0] == label) for order, label in ranked]))
    assert results["top5_accuracy"] == pytest.approx(np.mean([int(label in order[:5]) for order, label in ranked]))
    third = [int(order[0] == 3) for order, label in ranked if label == 3]
    assert results["class_accuracy"][task.classes[3]] == pytest.approx(np.mean(third))

    again = classify("--config", out / "config.yaml", "--output_dir", tmp_path / "again")
    first, second = (load_file(folder / "model" / "model.safetensors") for folder in (out, tmp_path / "again"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert again["accuracy"] == results["accuracy"]


def _shown(task: Classification):
    return [task.val[index, 0] for index in range(len(task.val))]


def test_every_criterion_that_asks_a_loss_asks_the_tasks(small, tmp_path) -> None:
    """SNIP of squared loss is not SNIP of cross-entropy."""
    masks = []
    for loss in ("cross_entropy", "squared"):
        flags = ("--method", "snip", "--epochs", 0, "--loss", loss, "--output_dir", tmp_path / loss)
        classify("--config", small, *flags)
        masks.append(Masks.load(tmp_path / loss / "masks.safetensors"))
    assert masks[0] != masks[1]
    assert masks[0].kept == masks[1].kept


def test_few_classes_have_no_top_five(small, tmp_path) -> None:
    flags = ("--data.classes", "[dotted ring,striped bar]", "--epochs", 0, "--output_dir", tmp_path / "out")
    results = classify("--config", small, *flags)
    assert "top5_accuracy" not in results
    assert list(results["class_accuracy"]) == ["dotted ring", "striped bar"]


def test_label_255_is_a_class_like_any_other() -> None:
    """Of a thousand classes one has the number that label maps ignore."""
    logits = torch.randn(3, 300, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([255, 1, 255])
    torch.testing.assert_close(cross_entropy(logits, labels), nn.functional.cross_entropy(logits, labels))


def test_squared_loss_is_the_mean_squared_difference_from_one_hot() -> None:
    outputs = torch.tensor([[0.5, 0.0, 1.0], [0.0, 2.0, 0.0]])
    expected = (0.25 + 0 + 0 + 0 + 1 + 0) / 6
    assert squared(outputs, torch.tensor([2, 1])).item() == pytest.approx(expected)


def test_scores_are_read_off_the_confusion_matrix() -> None:
    scores = classification_scores(torch.tensor([[3, 1, 0], [0, 0, 0], [2, 0, 4]]))
    assert scores.accuracy == 0.7
    assert scores.class_accuracy == (0.75, None, 4 / 6)
    with pytest.raises(ValueError, match="no image"):
        classification_scores(torch.zeros(2, 2))


class TestRidge:
    def test_it_solves_the_weighted_problem(self) -> None:
        """Against least squares with the penalty as further rows, by NumPy."""
        rng = np.random.default_rng(0)
        labels = np.array([0] * 40 + [1] * 10 + [2] * 5)
        features, penalty = rng.normal(size=(55, 7)) + labels[:, None], 0.7
        counts = torch.tensor([40, 10, 5])
        weights = balancing_weights(counts)
        # Every class weighs the same, and all together as much as there are images.
        torch.testing.assert_close(weights * counts, torch.full((3,), 55 / 3, dtype=torch.float64))
        halves = (slice(20), slice(20, 55))
        parts = [Moments.of(torch.tensor(features[part]), torch.tensor(labels[part]), weights) for part in halves]
        weight, bias = ridge_regression(parts[0].plus(parts[1]), penalty)

        root = np.sqrt(weights.numpy()[labels])[:, None]
        rows = np.vstack([root * np.hstack([features, np.ones((55, 1))]), np.sqrt(penalty) * np.eye(8)[:7]])
        expected, *_ = np.linalg.lstsq(rows, np.vstack([root * np.eye(3)[labels], np.zeros((7, 3))]), rcond=None)
        np.testing.assert_allclose(weight.numpy(), expected[:7].T, rtol=1e-9)
        np.testing.assert_allclose(bias.numpy(), expected[7], rtol=1e-9)

    def test_the_head_is_fitted_on_dense_features_before_pruning(self, small, tmp_path) -> None:
        flags = ("--config", small, "--ridge", 2.0, "--epochs", 0, "--sparsity", 0.5, "--data.seed", 3)
        classify(*flags, "--output_dir", tmp_path / "out")
        classify(*flags[:-4], "--sparsity", 0, "--data.seed", 3, "--output_dir", tmp_path / "dense")
        sparse, dense = (Classifier.from_pretrained(str(tmp_path / name / "model")).eval() for name in ("out", "dense"))
        assert torch.equal(sparse.head.weight, dense.head.weight)
        task = Classification(parsed(*flags, task=Classification))
        with torch.no_grad():
            shown = [task.val.transform(task.train.data[index], 0) for index in range(len(task.train))]
            features = dense.features(torch.stack([image for image, _ in shown])).double().numpy()
        labels = np.array([int(label) for _, label in shown])
        weights = len(labels) / (15 * np.bincount(labels))[labels]
        extended = np.hstack([features, np.ones((len(labels), 1))])
        gradient = (weights[:, None] * (extended @ _head(dense).T - np.eye(15)[labels])).T @ extended
        gradient[:, :-1] += 2.0 * _head(dense)[:, :-1]
        assert np.abs(gradient).max() < 1e-4 * np.abs(extended.sum(0)).max()

    def test_it_is_not_kept_where_the_weights_are_replaced(self, small) -> None:
        with pytest.raises(InputError, match="--reinit replaces"):
            classify("--config", small, "--ridge", 1, "--reinit")


def _head(model: Classifier) -> np.ndarray:
    return np.hstack([model.head.weight.detach().double().numpy(), model.head.bias.detach().double().numpy()[:, None]])


def test_frozen_batchnorm_keeps_its_statistics_and_a_rate_of_zero_its_head(small, tmp_path) -> None:
    flags = ("--config", small, "--optimizer.head_lr", 0, "--optimizer.backbone_lr", 0.001, "--evaluate_first")
    states = {}
    for name, more in {"start": ("--epochs", 0), "frozen": ("--freeze_bn",), "moving": ()}.items():
        results = classify(*flags, *more, "--output_dir", tmp_path / name)
        states[name] = load_file(tmp_path / name / "model" / "model.safetensors")
    statistics = [name for name in states["start"] if "running" in name]
    assert all(torch.equal(states["frozen"][name], states["start"][name]) for name in statistics)
    assert not any(torch.equal(states["moving"][name], states["start"][name]) for name in statistics)
    scales = [name for name in states["start"] if "bn" in name and name.endswith("weight")]
    assert not all(torch.equal(states["frozen"][name], states["start"][name]) for name in scales)
    assert torch.equal(states["frozen"]["head.weight"], states["start"]["head.weight"])

    start = json.loads((tmp_path / "start" / "results.json").read_text())
    assert [line["epoch"] for line in lines(tmp_path / "moving")] == [0, 1]
    assert results["before_training"]["accuracy"] == start["accuracy"] == lines(tmp_path / "moving")[0]["accuracy"]


class TestGivenMasks:
    def ticket(self, tiny: Path, tmp_path: Path, *flags: object) -> Path:
        go("--config", tiny, "--epochs", 0, *flags, "--output_dir", tmp_path / "seg")
        return tmp_path / "seg" / "masks.safetensors"

    def test_a_segmentation_ticket_classifies_and_comes_back(self, tiny, small, tmp_path) -> None:
        ticket = self.ticket(tiny, tmp_path, "--sparsity", 0.7)
        flags = ("--config", small, "--encoder", "resnet18", "--masks", ticket, "--output_dir", tmp_path / "cls")
        results = classify(*flags)
        assert (results["method"], results["sparsity"], results["masks"]) == ("px", 0.7, str(ticket))
        assert results["seconds"]["prune"] == 0
        given, kept = Masks.load(ticket), Masks.load(tmp_path / "cls" / "masks.safetensors")
        assert kept == given
        saved = load_file(tmp_path / "cls" / "model" / "model.safetensors")
        assert given.revived(saved) == {}
        assert results["backbone_sparsity"] == given.sparsity

        # From there to segmentation, weights and all.
        weights = ("--weights", tmp_path / "cls", "--masks", tmp_path / "cls" / "masks.safetensors")
        back = go("--config", tiny, *weights, "--epochs", 0, "--output_dir", tmp_path / "back")
        assert back["weights_loaded"]["left_out"] == {"the former task's head": 2}
        # That the start was a pruned network is said: without its masks it would pass for a dense one.
        assert back["weights_loaded"]["zeros"] == pytest.approx(0.7, abs=1e-3)
        again = load_file(tmp_path / "back" / "model" / "model.safetensors")
        assert all(torch.equal(again[name], saved[name]) for name in given)

    def test_shuffling_a_ticket_keeps_its_densities(self, tiny, tmp_path) -> None:
        ticket = self.ticket(tiny, tmp_path)
        flags = ("--config", tiny, "--masks", ticket, "--shuffle_masks", "--epochs", 0)
        results = go(*flags, "--output_dir", tmp_path / "out")
        given, kept = Masks.load(ticket), Masks.load(tmp_path / "out" / "masks.safetensors")
        assert kept != given
        assert results["shuffle_masks"]
        assert kept.densities() == given.densities()

    def test_masks_of_a_part_fit_where_that_part_was_meant(self, tiny, tmp_path) -> None:
        ticket = self.ticket(tiny, tmp_path, "--keep_dense", "[encoder.layer4]")
        results = go("--config", tiny, "--masks", ticket, "--epochs", 0, "--output_dir", tmp_path / "out")
        pruned = json.loads((tmp_path / "seg" / "results.json").read_text())
        assert results["backbone_sparsity"] == pruned["backbone_sparsity"] < 0.8

    def test_masks_made_in_python_are_taken(self, small, tmp_path) -> None:
        masks = prune(build_classifier("resnet20", 15, "none"), (), 0.6, Magnitude(), "encoder")
        masks.save(tmp_path / "mine.safetensors")
        flags = ("--config", small, "--masks", tmp_path / "mine.safetensors", "--epochs", 0)
        results = classify(*flags, "--output_dir", tmp_path / "out")
        assert (results["sparsity"], results["method"]) == (0.6, "magnitude")

    def test_masks_of_another_backbone_are_refused(self, tiny, small, tmp_path) -> None:
        ticket = self.ticket(tiny, tmp_path)
        for encoder in ("resnet34", "resnet50", "resnet20"):
            out = tmp_path / encoder
            with pytest.raises(InputError, match=rf"not for this model|backbone resnet18, not {encoder}"):
                classify("--config", small, "--encoder", encoder, "--masks", ticket, "--output_dir", out)
            assert not out.exists()
        # Names and shapes of ResNet-18 all occur in ResNet-34: without the name of the backbone the gaps tell.
        Masks(Masks.load(ticket)).save(tmp_path / "bare.safetensors")
        with pytest.raises(InputError, match=r"has no masks for 16 of its weights, such as encoder.layer1.2.conv1"):
            classify("--config", small, "--encoder", "resnet34", "--masks", tmp_path / "bare.safetensors")
        ticket.write_bytes(ticket.read_bytes()[:1000])
        with pytest.raises(InputError, match="is not a readable mask file"):
            classify("--config", small, "--masks", ticket)
        with pytest.raises(InputError, match="there is no mask file"):
            classify("--config", small, "--masks", tmp_path / "nowhere.safetensors")

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (("--sparsity", 0.9), "means sparsity 0.8, not 0.9: leave one of the two out"),
            (("--method", "snip"), "means method px, not snip: leave one of the two out"),
            (("--pattern", "2:4"), "leave pattern and keep_dense out"),
            (("--keep_dense", "[encoder.conv1]"), "leave pattern and keep_dense out"),
            (("--rounds", 7), "leave --rounds out"),
            (("--ranking=erk",), "leave --ranking out"),
            (("--pruning.settings.bn", "batch"), "leave --pruning.settings out"),
        ],
    )
    def test_what_contradicts_them_is_refused(self, tiny, tmp_path, flags, message) -> None:
        ticket = self.ticket(tiny, tmp_path)
        with pytest.raises(InputError, match=message):
            go("--config", tiny, "--masks", ticket, *flags, "--output_dir", tmp_path / "out")

    def test_a_pattern_is_not_shuffled(self, tiny, tmp_path) -> None:
        ticket = self.ticket(tiny, tmp_path, "--pattern", "2:4", "--keep_dense", "[encoder.conv1]")
        with pytest.raises(InputError, match="shuffled masks would not keep the pattern 2:4"):
            go("--config", tiny, "--masks", ticket, "--shuffle_masks", "--output_dir", tmp_path / "out")
        results = go("--config", tiny, "--masks", ticket, "--epochs", 0, "--output_dir", tmp_path / "out")
        assert (results["pattern"], results["keep_dense"], results["sparsity"]) == ("2:4", ["encoder.conv1"], 0.5)

    def test_a_configuration_made_in_python_is_held_to_the_file(self, tiny, tmp_path) -> None:
        ticket = self.ticket(tiny, tmp_path)
        config = replace(parsed("--config", tiny, "--masks", ticket), sparsity=0.3, output_dir=str(tmp_path / "out"))
        with pytest.raises(InputError, match=r"holds masks of px at 0.8, not of px at 0.3"):
            run(Segmentation, config)

    @pytest.mark.parametrize(
        ("said", "message"),
        [
            ({"sparsity": "0.1"}, r"says that 10.0000% of the weights are pruned, but 80.00.*% are: it is damaged"),
            ({"sparsity": "nan"}, "says that nan% of the weights are pruned"),
            ({"sparsity": "much"}, "description of where the masks come from cannot be read"),
            ({"settings": "{"}, "description of where the masks come from cannot be read"),
            ({"rounds": "many"}, "description of where the masks come from cannot be read"),
            ({"scope": "5"}, "description of where the masks come from cannot be read"),
            ({"scope": '["decoder9"]'}, "not for this model"),
            ({"method": "../../x"}, "description of where the masks come from cannot be read"),
        ],
    )
    def test_what_a_file_says_is_held_to_its_masks(self, tiny, tmp_path, said, message) -> None:
        ticket = self.ticket(tiny, tmp_path, "--method", "magnitude")
        with safe_open(ticket, framework="pt") as file:
            header = file.metadata()
        save_file(load_file(ticket), ticket, metadata={**header, **said})
        with pytest.raises(InputError, match=message):
            go("--config", tiny, "--masks", ticket, "--output_dir", tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_masks_that_keep_nothing_or_prune_a_norm_are_refused(self, tiny, tmp_path) -> None:
        ticket = Masks.load(self.ticket(tiny, tmp_path, "--method", "magnitude"))
        path = tmp_path / "mine.safetensors"
        Masks({name: torch.zeros_like(mask) for name, mask in ticket.items()}).save(path)
        with pytest.raises(InputError, match="keeps no weight at all"):
            go("--config", tiny, "--masks", path)
        Masks({**ticket, "encoder.bn1.weight": torch.ones(64, dtype=torch.bool)}).save(path)
        with pytest.raises(InputError, match=r"a mask for encoder.bn1.weight, which is not a weight of a convolution"):
            go("--config", tiny, "--masks", path)

    def test_the_folder_of_a_run_stands_for_its_masks(self, tiny, tmp_path) -> None:
        ticket = self.ticket(tiny, tmp_path, "--method", "magnitude")
        results = go("--config", tiny, "--masks", ticket.parent, "--epochs", 0, "--output_dir", tmp_path / "out")
        assert results["backbone_sparsity"] == Masks.load(ticket).sparsity

    def test_shuffled_masks_say_so(self, tiny, tmp_path) -> None:
        ticket = self.ticket(tiny, tmp_path, "--method", "magnitude", "--shuffle_masks")
        results = go("--config", tiny, "--masks", ticket, "--epochs", 0, "--output_dir", tmp_path / "out")
        assert results["shuffle_masks"]

    def test_a_run_from_masks_is_resumed_from_the_same_ones(self, tiny, tmp_path) -> None:
        ticket, out = self.ticket(tiny, tmp_path), tmp_path / "out"
        flags = ("--config", tiny, "--masks", ticket, "--epochs", 1, "--output_dir", out)
        with pytest.raises(KeyboardInterrupt):
            go(*flags, task=Unfinished)
        given = Masks.load(ticket)
        given.shuffled(0).save(ticket)
        with pytest.raises(InputError, match="began with masks other than"):
            go(*flags, "--resume")
        given.save(ticket)
        assert math.isfinite(go(*flags, "--resume")["miou"])


def test_the_loaded_weights_are_reported(small, tmp_path, capsys) -> None:
    build_classifier("resnet20", 3, "none").save_pretrained(tmp_path / "model")
    flags = ("--config", small, "--weights", tmp_path / "model", "--epochs", 0, "--output_dir", tmp_path / "out")
    results = classify(*flags)
    source = str(tmp_path / "model" / "model.safetensors")
    assert results["weights_loaded"] == {
        **{"source": source, "format": "a run of px_seg"},
        **{"matched": 126, "left_out": {"the former task's head": 2}, "zeros": 0},
    }
    assert f"weights: 126 tensors from {source} (a run of px_seg)" in capsys.readouterr().out


def test_an_evaluation_before_training_leaves_the_training_as_it_was(tiny, tmp_path) -> None:
    """DeepLabV3+ has dropout, whose numbers come from the same stream as a loader's seed."""
    for name, flags in {"with": ("--evaluate_first",), "without": ()}.items():
        go("--config", tiny, "--method", "random", *flags, "--output_dir", tmp_path / name)
    first, second = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("with", "without"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_resumed_before_its_first_checkpoint_logs_its_start_once(tiny, tmp_path) -> None:
    flags = (
        "--config",
        tiny,
        "--method",
        "random",
        "--evaluate_first",
        "--epochs",
        4,
        "--output_dir",
        tmp_path / "out",
    )
    # Two updates an epoch: the sixth is reached in the third, or at once where it is counted from five.
    with pytest.raises(KeyboardInterrupt):
        go(*flags, task=type("AtOnce", (Interrupted,), {"steps": 5}))
    assert [line["epoch"] for line in lines(tmp_path / "out")] == [0]
    go(*flags, "--resume")
    assert [line["epoch"] for line in lines(tmp_path / "out")] == [0, 1, 2, 3, 4]


def test_flags_are_not_shortened() -> None:
    with pytest.raises(InputError, match="spars"):
        parsed("--spars", 0.5, "--method", "dense")


def test_a_dataset_without_preset_takes_a_whole_file(tree_config) -> None:
    assert parsed("--config", tree_config, task=Classification).data.name == "voc_classes"
    with pytest.raises(InputError, match="no dataset 'voc_classes': choose one of cifar10"):
        parsed("--data.name", "voc_classes", task=Classification)


@pytest.fixture
def tree_config(small, tmp_path) -> Path:
    settings = yaml.safe_load(small.read_text())
    settings["data"]["name"] = "voc_classes"
    path = tmp_path / "other.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def test_scales_of_zero_and_other_starts_are_noted(small, tiny, tmp_path) -> None:
    results = classify(
        *("--config", small, "--encoder", "tu-resnet26", "--method", "random", "--epochs", 0),
        *("--output_dir", tmp_path / "timm"),
    )
    assert results["notes"][0].startswith("8 of the backbone's 29 BatchNorms have scale 0")
    flags = ("--config", small, "--method", "random", "--epochs", 0)
    assert classify(*flags, "--output_dir", tmp_path / "first")["notes"] == []
    flags = ("--config", small, "--masks", tmp_path / "first", "--epochs", 0)
    assert classify(*flags, "--output_dir", tmp_path / "same")["notes"] == []
    other = classify(*flags, "--seed", 1, "--output_dir", tmp_path / "other")
    assert other["notes"] == ["the masks were found on weights none, seed 0: this run starts from none, seed 1"]


def test_clips_weights_decide_the_encoder() -> None:
    assert parsed("--weights", "clip", task=Classification).encoder == "tu-resnet50_clip"
    assert parsed("--weights", "clip").encoder == "tu-resnet50_clip"
    assert parsed("--weights", "clip", "--encoder", "tu-resnet50_clip.openai").encoder == "tu-resnet50_clip.openai"
    with pytest.raises(InputError, match="weights clip means encoder tu-resnet50_clip, not resnet50"):
        parsed("--weights", "clip", "--encoder", "resnet50")


def test_two_processes_classify_as_one_does(small, tmp_path) -> None:
    """Ridge head, masks and both accuracies: 30 and 20 images over two processes, one of which has an uneven share."""
    flags = ("--config", small, "--ridge", 1, "--epochs", 0, "--data.val_images", 21, "--sparsity", 0.5)
    alone = classify(*flags, "--output_dir", tmp_path / "alone")
    done = script(*flags, "--output_dir", tmp_path / "two", name="cls", launcher=TWO, ACCELERATE_USE_CPU="true")
    assert done.returncode == 0, done.stderr
    shared = json.loads((tmp_path / "two" / "results.json").read_text())
    assert (alone["processes"], shared["processes"]) == (1, 2)
    assert shared["accuracy"] == alone["accuracy"]
    assert shared["top5_accuracy"] == alone["top5_accuracy"]
    heads = [load_file(tmp_path / name / "model" / "model.safetensors")["head.weight"] for name in ("alone", "two")]
    torch.testing.assert_close(*heads, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--loss", "hinge"], "no loss 'hinge': choose one of cross_entropy, squared"),
        (["--ridge", "0"], "ridge must be above 0"),
        (["--ridge", ".nan"], "ridge must be above 0"),
        (["--ridge", "much"], "^ridge takes float, null, got much$"),
        (["--encoder", "tu-swin_tiny_patch4_window7_224", "--method", "random"], "cannot take images of 64x64 pixels"),
        (["--pruning.per_class", "2", "--pruning.batch_size", "0"], "must be at least 1, got 1 and 0"),
        (["--data.name", "folder", "--data.root", "~nobody-of-this-name/x"], "data.root .* cannot be a path"),
        (["--masks", ""], "masks is empty"),
        (["--data.crop", "none"], "no data.crop 'none': choose one of padded, area"),
        (["--data.evaluation", "whole"], "choose one of resize, centre_crop"),
        (["--data.padding", "-1"], "data.padding must be at least 0"),
        (["--data.crop", "area", "--data.area", "[0.5]"], "data.area must be two shares"),
        (["--data.jitter", "2"], "must be in"),
        (["--data.size", "4"], "data.size must be at least 8"),
        (["--data.classes", "[disc]"], "no class 'disc': choose data.classes from striped disc"),
        (["--data.classes", "[dotted disc]"], "at least two classes"),
        (["--data.classes", "[dotted disc,dotted disc]"], "names a class twice"),
        (["--pruning.per_class", "0"], "per_class must be at least 1"),
        (["--pruning.per_class", "101"], "asks for 101 images of every class, but .* has 100"),
        (["--pruning.batches", "500"], "lower --pruning.batches"),
        (["--encoder", "resnet19"], "did you mean resnet"),
        (["--batch_size", "1"], "batch_size must be at least 2"),
        (["--data.name", "mnist"], "no dataset 'mnist': choose one of cifar10, cifar100, folder"),
        (["--data.name", "folder", "--data.root", "nowhere"], "no folder nowhere/train"),
        (["--data.name", "cifar10", "--data.root", "nowhere"], "no complete cifar10 in nowhere.*--data.download"),
        (["--data.name", "tiny_imagenet", "--data.root", "nowhere"], "no Tiny-ImageNet in nowhere.*--data.download"),
        (["--data.name", "imagenet", "--data.root", "nowhere"], "no ImageNet in nowhere|torchvision needs scipy"),
        (["--data.name", "imagenet", "--data.download"], "cannot be downloaded without an account"),
        (["--output_stride", "8"], r"output_stride.*the valid keys are"),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path, flags: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        classify("--output_dir", tmp_path / "out", *flags, *(["--weights", "none"] if "--data.name" in flags else []))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_pruning_by_class_is_not_for_label_maps() -> None:
    with pytest.raises(InputError, match="per_class is for classification"):
        go("--pruning.per_class", 2)


@pytest.mark.parametrize("path", sorted((CONFIGS / "cls").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_preset_is_a_whole_configuration(path: Path) -> None:
    config = parsed("--config", path, task=Classification)
    Classification.check(config, synchronised=False)
    keys = yaml.safe_load(path.read_text()).keys()
    assert keys >= {"sparsity", "method", "encoder", "weights", "epochs", "batch_size", "data", "pruning", "loss"}


@pytest.mark.parametrize(
    ("name", "network", "epochs", "batch", "batches", "rate", "decay", "nesterov", "after"),
    [
        ("cifar10", "resnet50", 182, 256, (4, 256), 0.1, 1e-4, False, [91, 136]),
        ("cifar100", "resnet50", 182, 256, (4, 256), 0.1, 1e-4, False, [91, 136]),
        ("tiny_imagenet", "resnet50", 182, 256, (4, 256), 0.1, 1e-4, False, [91, 136]),
        ("cifar10_resnet20", "resnet20", 160, 128, (2, 128), 0.1, 1e-4, False, [80, 120]),
        ("cifar100_vgg16_bn", "vgg16_bn", 160, 256, (4, 256), 0.1, 5e-4, True, [60, 120]),
        ("tiny_imagenet_resnet18", "resnet18_3x3", 200, 256, (8, 256), 0.2, 1e-4, False, [100, 150]),
        ("imagenet", "resnet50", 90, 448, (23, 448), 0.1, 1e-4, False, [30, 60, 80]),
        ("ntk_spectrum", "resnet20", 160, 128, (2, 128), 0.1, 1e-4, False, [80, 120]),
        ("../transfer/imagenet", "resnet50", 90, 64, (2, 64), 5e-5, 1e-4, False, [30, 60, 80]),
    ],
)
def test_the_papers_numbers_are_in_the_files(
    name, network, epochs, batch, batches, rate, decay, nesterov, after
) -> None:
    """METHOD's table, written out again."""
    content = yaml.safe_load((CONFIGS / "cls" / f"{name}.yaml").read_text())
    assert (content["encoder"], content["epochs"], content["batch_size"]) == (network, epochs, batch)
    assert (content["pruning"]["batches"], content["pruning"]["batch_size"]) == batches
    optimizer = content["optimizer"]
    assert (optimizer["backbone_lr"], optimizer["weight_decay"], optimizer.get("nesterov", False)) == (
        *(rate, decay, nesterov),
    )
    assert optimizer["momentum"] == 0.9
    assert content["schedule"]["name"] == "multistep"
    assert [share * epochs for share in content["schedule"]["milestones"]] == pytest.approx(after)


def test_fitting_a_head_gives_the_model_back_as_it_was(small) -> None:
    task = Classification(parsed("--config", small, "--ridge", 1, task=Classification))
    model = task.build_model().train()
    model.encoder.bn1.eval()
    before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    task.fit_head(model, Accelerator())
    assert model.training
    assert not model.encoder.bn1.training
    assert all(torch.equal(value, before[name]) for name, value in model.encoder.state_dict().items())
