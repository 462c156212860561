"""From flags and files to a configuration, and what is refused on the way."""

from pathlib import Path

import pytest
import yaml
from helpers.runs import CONFIGS, go, parsed, script

from px_seg import InputError
from px_seg.tasks import Classification


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--data.name", "voc2012", "--epochs", "3"],
        ["--method", "dense"],
        ["--pattern", "2:4"],
        ["--config", str(CONFIGS / "seg" / "photo.yaml"), "--seed", "4"],
    ],
)
def test_the_configuration_that_is_printed_is_the_one_that_would_run(flags, capsys, tmp_path) -> None:
    with pytest.raises(SystemExit) as ended:
        parsed(*flags, "--print_config")
    assert ended.value.code is None
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    assert parsed("--config", tmp_path / "printed.yaml") == parsed(*flags)
    with pytest.raises(InputError, match="--print_config takes no value"):
        parsed(*flags, "--print_config=skip_null")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sparsity", "1.0"], r"sparsity must be in \[0, 1\), got 1"),
        (["--sparsity", "-0.5"], r"sparsity must be in \[0, 1\), got -0.5"),
        (["--sparsity", "much"], "sparsity"),
        (["--method", "sparkle"], "no method 'sparkle': choose one of dense, random, random_erk"),
        (["--data.name", "ade"], "no dataset 'ade': choose one of coco, folders, synthetic, voc2012"),
        (["--encoder", "resnet5O"], "no encoder 'resnet5O': did you mean resnet50"),
        (["--sparsiti", "0.5"], r"sparsiti.*the valid keys are: sparsity, method"),
        (["--data.sise", "64"], r"data.sise.*data.size"),
        (["--rounds", "0"], "rounds must be a whole number from 1 to 10000"),
        (["--epochs", "-1"], "epochs must be at least 0"),
        (["--evaluate_every", "0"], "evaluate_every must be at least 1 epoch, got 0"),
        (["--batch_size", "1"], "batch_size must be at least 2"),
        (["--batch_size", "5000"], "do not fill one batch of 5000"),
        (["--pruning.batches", "500"], "lower --pruning.batches"),
        (["--schedule.name", "linear"], "no schedule 'linear': choose one of multistep, poly, cosine"),
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
        (["--granularity", "channel"], "no granularity 'channel'"),
        (["--granularity", "channel", "--sparsity", "0"], "no granularity 'channel'"),
        (["--granularity", "filter", "--sparsity", "0.9998"], "fewer than the 4608 of one filter"),
        (["--pattern", "at-most 2:4", "--sparsity", "0"], "leave the pattern at-most 2:4 out"),
        (["--pattern", "at-most 2:4", "--sparsity", "0.2"], r"ask for a sparsity of 0\.\d+ or more"),
        (["--pattern", "at-most 2:4", "--method", "random_erk"], "RandomERK fixes their densities"),
        (["--pattern", "at-most 2:4 from 4096"], "no layer in scope has 4096 input and output channels"),
        (["--granularity", "filter", "--shuffle_masks"], "would not keep whole filters"),
        (["--granularity", "filter", "--pattern", "2:4"], "leave the granularity filter out"),
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


def test_clips_weights_decide_the_encoder() -> None:
    assert parsed("--weights", "clip", task=Classification).encoder == "tu-resnet50_clip"
    assert parsed("--weights", "clip").encoder == "tu-resnet50_clip"
    assert parsed("--weights", "clip", "--encoder", "tu-resnet50_clip.openai").encoder == "tu-resnet50_clip.openai"
    with pytest.raises(InputError, match="weights clip means encoder tu-resnet50_clip, not resnet50"):
        parsed("--weights", "clip", "--encoder", "resnet50")
