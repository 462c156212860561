"""Runs from masks that are given: of another run, of another task, made in Python."""

import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.runs import classify, go, parsed, tiny_segmentation
from helpers.stopped import Unfinished
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from px_seg import InputError, Magnitude, Masks, build_classifier, prune
from px_seg.run.pipeline import run
from px_seg.tasks import Segmentation


@pytest.fixture
def tiny(tiny_resnet18: Path) -> Path:
    """Of the default backbone: that its names and shapes occur in others is what some of these tests are about."""
    return tiny_resnet18


@pytest.fixture
def ticket_of(once, tmp_path: Path) -> Callable[..., Path]:
    """The masks of a run with these flags, in its folder without its model; tests may change them."""

    def copied(*flags: object) -> Path:
        def make(folder: Path) -> None:
            config = tiny_segmentation(folder / "tiny.yaml")
            go("--config", config, "--epochs", 0, *flags, "--output_dir", folder / "seg")

        made = once("ticket" + re.sub(r"\W+", "_", " ".join(map(str, flags))), make) / "seg"
        shutil.copytree(made, tmp_path / "seg", ignore=shutil.ignore_patterns("model"))
        return tmp_path / "seg" / "masks.safetensors"

    return copied


class TestGivenMasks:
    @pytest.mark.slow
    def test_a_segmentation_ticket_classifies_and_comes_back(self, ticket_of, tiny, small, tmp_path) -> None:
        ticket = ticket_of("--sparsity", 0.7)
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

    def test_shuffling_a_ticket_keeps_its_densities(self, ticket_of, tiny, tmp_path) -> None:
        ticket = ticket_of()
        flags = ("--config", tiny, "--masks", ticket, "--shuffle_masks", "--epochs", 0)
        results = go(*flags, "--output_dir", tmp_path / "out")
        given, kept = Masks.load(ticket), Masks.load(tmp_path / "out" / "masks.safetensors")
        assert kept != given
        assert results["shuffle_masks"]
        assert kept.densities() == given.densities()

    @pytest.mark.slow
    def test_masks_of_a_part_fit_where_that_part_was_meant(self, ticket_of, tiny, tmp_path) -> None:
        ticket = ticket_of("--keep_dense", "[encoder.layer4]")
        results = go("--config", tiny, "--masks", ticket, "--epochs", 0, "--output_dir", tmp_path / "out")
        pruned = json.loads((tmp_path / "seg" / "results.json").read_text())
        assert results["backbone_sparsity"] == pruned["backbone_sparsity"] < 0.8

    def test_masks_made_in_python_are_taken(self, small, tmp_path) -> None:
        masks = prune(build_classifier("resnet20", 15, "none"), (), 0.6, Magnitude(), "encoder")
        masks.save(tmp_path / "mine.safetensors")
        flags = ("--config", small, "--masks", tmp_path / "mine.safetensors", "--epochs", 0)
        results = classify(*flags, "--output_dir", tmp_path / "out")
        assert (results["sparsity"], results["method"]) == (0.6, "magnitude")

    def test_masks_of_another_backbone_are_refused(self, ticket_of, tiny, small, tmp_path) -> None:
        ticket = ticket_of()
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
            (("--pattern", "2:4"), "leave pattern, keep_dense and density_from out"),
            (("--keep_dense", "[encoder.conv1]"), "leave pattern, keep_dense and density_from out"),
            (("--rounds", 7), "leave --rounds out"),
            (("--ranking=erk",), "leave --ranking out"),
            (("--granularity", "filter"), "leave --granularity out"),
            (("--granularity=bogus",), "leave --granularity out"),
            (("--pruning.settings.bn", "batch"), "leave --pruning.settings out"),
        ],
    )
    def test_what_contradicts_them_is_refused(self, ticket_of, tiny, tmp_path, flags, message) -> None:
        ticket = ticket_of()
        with pytest.raises(InputError, match=message):
            go("--config", tiny, "--masks", ticket, *flags, "--output_dir", tmp_path / "out")

    @pytest.mark.slow
    def test_a_pattern_is_not_shuffled(self, ticket_of, tiny, tmp_path) -> None:
        ticket = ticket_of("--pattern", "2:4", "--keep_dense", "[encoder.conv1]")
        with pytest.raises(InputError, match="shuffled masks would not keep the pattern 2:4"):
            go("--config", tiny, "--masks", ticket, "--shuffle_masks", "--output_dir", tmp_path / "out")
        results = go("--config", tiny, "--masks", ticket, "--epochs", 0, "--output_dir", tmp_path / "out")
        assert (results["pattern"], results["keep_dense"], results["sparsity"]) == ("2:4", ["encoder.conv1"], 0.5)

    def test_whole_filters_that_are_none_are_refused(self, ticket_of, tiny, tmp_path) -> None:
        ticket = ticket_of()
        masks = Masks.load(ticket)
        masks.with_provenance(granularity="filter").save(ticket)
        with pytest.raises(InputError, match=r"not all filters of encoder.* are kept or pruned whole"):
            go("--config", tiny, "--masks", ticket, "--output_dir", tmp_path / "out")
        Masks({"encoder.conv1.weight": torch.ones(())}, Masks.load(ticket).provenance).save(ticket)
        with pytest.raises(InputError, match=r"damaged|shape"):
            go("--config", tiny, "--masks", ticket, "--output_dir", tmp_path / "out")

    def test_a_configuration_made_in_python_is_held_to_the_file(self, ticket_of, tiny, tmp_path) -> None:
        ticket = ticket_of()
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
            ({"ranking": "uniform"}, r"the mask of encoder.* keeps [\d,]+ weights, and the ranking uniform would have"),
            ({"ranking": "erk"}, r"the mask of encoder.* keeps [\d,]+ weights, and the ranking erk would have kept"),
            (
                {"pattern": "at-most 2:4 from 64"},
                r"the mask of encoder.* does not keep the pattern at-most 2:4 from 64",
            ),
        ],
    )
    def test_what_a_file_says_is_held_to_its_masks(self, ticket_of, tiny, tmp_path, said, message) -> None:
        ticket = ticket_of("--method", "magnitude")
        with safe_open(ticket, framework="pt") as file:
            header = file.metadata()
        save_file(load_file(ticket), ticket, metadata={**header, **said})
        with pytest.raises(InputError, match=message):
            go("--config", tiny, "--masks", ticket, "--output_dir", tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_masks_that_keep_nothing_or_prune_a_norm_are_refused(self, ticket_of, tiny, tmp_path) -> None:
        ticket = Masks.load(ticket_of("--method", "magnitude"))
        path = tmp_path / "mine.safetensors"
        Masks({name: torch.zeros_like(mask) for name, mask in ticket.items()}).save(path)
        with pytest.raises(InputError, match="keeps no weight at all"):
            go("--config", tiny, "--masks", path)
        Masks({**ticket, "encoder.bn1.weight": torch.ones(64, dtype=torch.bool)}).save(path)
        with pytest.raises(InputError, match=r"a mask for encoder.bn1.weight, which is not a weight of a convolution"):
            go("--config", tiny, "--masks", path)

    def test_the_folder_of_a_run_stands_for_its_masks(self, ticket_of, tiny, tmp_path) -> None:
        ticket = ticket_of("--method", "magnitude")
        results = go("--config", tiny, "--masks", ticket.parent, "--epochs", 0, "--output_dir", tmp_path / "out")
        assert results["backbone_sparsity"] == Masks.load(ticket).sparsity

    @pytest.mark.slow
    def test_shuffled_masks_say_so(self, ticket_of, tiny, tmp_path) -> None:
        ticket = ticket_of("--method", "magnitude", "--shuffle_masks")
        results = go("--config", tiny, "--masks", ticket, "--epochs", 0, "--output_dir", tmp_path / "out")
        assert results["shuffle_masks"]

    @pytest.mark.slow
    def test_a_run_from_masks_is_resumed_from_the_same_ones(self, ticket_of, tiny, tmp_path) -> None:
        ticket, out = ticket_of(), tmp_path / "out"
        flags = ("--config", tiny, "--masks", ticket, "--epochs", 1, "--output_dir", out)
        with pytest.raises(KeyboardInterrupt):
            go(*flags, task=Unfinished)
        given = Masks.load(ticket)
        given.shuffled(0).save(ticket)
        with pytest.raises(InputError, match="began with masks other than"):
            go(*flags, "--resume")
        given.save(ticket)
        assert math.isfinite(go(*flags, "--resume")["miou"])
