"""Classification runs, small: scores, ridge heads, and what is refused."""

import json

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from helpers.runs import TWO, classify, go, parsed, script
from safetensors.torch import load_file

from px_seg import Classifier, InputError, Masks
from px_seg.losses import balancing_weights
from px_seg.models.ridge import Moments, ridge_regression
from px_seg.tasks import Classification


def test_a_run_writes_what_the_contract_names(small, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    results = classify("--config", small, "--sparsity", 0.9, "--output_dir", out)
    assert {path.name for path in out.iterdir()} == {
        *("config.yaml", "begun.json", "results.json", "metrics.jsonl", "masks.safetensors", "model"),
        *("curves.png", "samples.png", "samples.npz", "masks.png", "confusion.png", "confusion.csv"),
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


@pytest.mark.slow
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
        (["--loss", "hinge"], "there is no loss 'hinge': choose one of cross_entropy, squared, or a sum"),
        (["--ridge", "0"], "ridge must be above 0"),
        (["--ridge", ".nan"], "ridge must be finite"),
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


def test_fitting_a_head_gives_the_model_back_as_it_was(small) -> None:
    task = Classification(parsed("--config", small, "--ridge", 1, task=Classification))
    model = task.build_model().train()
    model.encoder.bn1.eval()
    before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    task.fit_head(model, Accelerator())
    assert model.training
    assert not model.encoder.bn1.training
    assert all(torch.equal(value, before[name]) for name, value in model.encoder.state_dict().items())
