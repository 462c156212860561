"""VOC trees: what is read of them, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from helpers.checking import check
from helpers.runs import parsed
from PIL import Image, ImageOps

from px_seg import InputError
from px_seg.data.palette import voc_colours
from px_seg.data.registry import SEGMENTATION, load
from px_seg.data.survey import in_both, survey_masks
from px_seg.data.voc import VOC


def _with(image: Image.Image, about: Image.Exif) -> Image.Image:
    image.info["exif"] = about.tobytes()
    return image


def tree(voc):
    return voc / "VOCdevkit" / "VOC2012"


class TestVOC:
    def test_palette_indices_are_read_not_colours(self, voc) -> None:
        data = VOC(voc, "train")
        image, mask, _ = data[2]
        assert image.shape == (64, 80, 3)
        assert mask.shape == (64, 80)
        assert set(np.unique(mask)) == {0, 3, 255}
        assert len(data.classes) == 21

    @pytest.mark.parametrize("below", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
    def test_the_root_may_be_any_of_the_folders(self, voc, below: str) -> None:
        assert len(VOC(voc / below, "val")) == 4

    def test_train_aug_is_every_augmented_mask_that_val_does_not_list(self, voc) -> None:
        augmented = tree(voc) / "SegmentationClassAug"
        augmented.mkdir()
        for name in ("train_0", "train_5", "val_1"):
            mask = Image.open(tree(voc) / "SegmentationClass" / f"{name}.png")
            Image.fromarray(np.asarray(mask)).save(augmented / f"{name}.png")
        data = VOC(voc, "train_aug")
        assert data.names == ["train_0", "train_5"]
        assert VOC(voc, "train_aug", held_out="train").names == ["val_1"]
        assert set(np.unique(data[1].mask)) == {0, 6, 255}

    def test_classes_can_be_named(self, voc) -> None:
        (tree(voc) / "classes.txt").write_text("nothing\nsomething\n")
        data = VOC(voc, "train")
        assert data.classes == ("nothing", "something")
        with pytest.raises(InputError, match=r"train_1.png holds the label 2: labels are 0..1"):
            data[1]

    def test_a_missing_tree_names_the_place_and_the_download(self, tmp_path) -> None:
        with pytest.raises(InputError, match=r"nowhere/VOCdevkit/VOC2012.*--data.download"):
            VOC(tmp_path / "nowhere", "train")

    def test_a_missing_or_empty_split_is_named(self, voc) -> None:
        with pytest.raises(InputError, match=r"no split 'tset'.*the splits there are: train, val"):
            VOC(voc, "tset")
        with pytest.raises(InputError, match="SegmentationClassAug, which is missing"):
            VOC(voc, "train_aug")
        (tree(voc) / "ImageSets" / "Segmentation" / "val.txt").write_text("\n")
        with pytest.raises(InputError, match="split val is empty"):
            VOC(voc, "val")

    def test_an_image_without_its_mask_is_named(self, voc) -> None:
        (tree(voc) / "SegmentationClass" / "train_4.png").unlink()
        (tree(voc) / "JPEGImages" / "val_0.jpg").unlink()
        train, val = VOC(voc, "train"), VOC(voc, "val")
        assert (len(train), len(val)) == (7, 3)
        assert [Path(fault).name for fault in (*train.faults, *val.faults)] == ["train_4.png is missing", "val_0.jpg"]
        assert train.faults[0].startswith("the image train_4.jpg of split train has no mask: ")
        assert val.faults[0].startswith("split val lists an image that is missing: ")
        with pytest.raises(InputError, match=r"train_4.*; 1 more are wrong, and px_seg check lists all$"):
            load(SEGMENTATION, parsed("--data.name", "voc2012", "--data.root", voc).data)

    def test_a_mask_of_another_size_is_named(self, voc) -> None:
        Image.fromarray(np.zeros((7, 9), np.uint8)).save(tree(voc) / "SegmentationClass" / "train_3.png")
        with pytest.raises(InputError, match=r"train_3.png is 9x7 pixels, but its image train_3.jpg is 75x71"):
            check(VOC(voc, "train"), "train")

    def test_a_stray_label_is_named(self, voc) -> None:
        path = tree(voc) / "SegmentationClass" / "train_3.png"
        mask = np.array(Image.open(path))
        mask[0, 0] = 77
        Image.fromarray(mask).save(path)
        with pytest.raises(InputError, match=r"train_3.png holds the label 77: labels are 0..20"):
            check(VOC(voc, "train"), "train")

    def test_a_split_without_any_label_is_refused(self, voc) -> None:
        for path in (tree(voc) / "SegmentationClass").glob("val_*.png"):
            Image.fromarray(np.full_like(np.asarray(Image.open(path)), 255)).save(path)
        with pytest.raises(InputError, match="no pixel of the val images has a label"):
            check(VOC(voc, "val"), "val images")

    def test_masks_of_another_convention_are_refused(self, voc) -> None:
        """0 and 255 for background and object are background and void: any network would score 100 %."""
        masks = {path: np.array(Image.open(path)) for path in (tree(voc) / "SegmentationClass").glob("train_*.png")}
        for path, mask in masks.items():
            Image.fromarray(np.where(mask > 0, 255, 0).astype(np.uint8)).save(path)
        one = r"all labelled pixels of the images are of one class, background: 255 stands for void.* class's index, 1"
        with pytest.raises(InputError, match=one):
            check(VOC(voc, "train"), "images")
        first = next(iter(masks))
        Image.fromarray(masks[first]).save(first)
        mostly = r"of the images [\d,]+ are void, and 570 of a class other than background: .* give --data.mostly_void"
        with pytest.raises(InputError, match=mostly):
            check(VOC(voc, "train"), "images")
        assert check(VOC(voc, "train"), "images", mostly_void=True) == []

    def test_images_that_are_in_training_and_in_validation_are_noted(self, voc, tmp_path) -> None:
        lists = tree(voc) / "ImageSets" / "Segmentation"

        def notes() -> list[str]:
            train, val = VOC(voc, "train"), VOC(voc, "val")
            return in_both(survey_masks(train, "images"), survey_masks(val, "images"), val)

        assert notes() == []
        (lists / "val.txt").write_text("train_3\nval_0\n")
        (note,) = notes()
        assert note.startswith("1 of the 2 validation images are training images as well, such as ")
        assert "train_3.jpg: the scores say little of other images" in note

    def test_lists_are_read_line_by_line_and_hold_each_name_once(self, voc) -> None:
        listed = tree(voc) / "ImageSets" / "Segmentation" / "val.txt"
        listed.write_bytes(b"\xef\xbb\xbfval_0\r\n\r\nval_2\r\n")
        assert VOC(voc, "val").names == ["val_0", "val_2"]
        listed.write_text("val_0\nval_1\nval_0\n")
        with pytest.raises(InputError, match=r"val.txt lists val_0 twice"):
            VOC(voc, "val")
        listed.write_text("my cat\n")
        assert VOC(voc, "val").faults[0].endswith("my cat.jpg")
        for name in ("../val_0", "./val_0", "/val_0", "a//b", "x" * 5000, "a\0b", "é" * 200):
            listed.write_text(f"val_1\n{name}\n")
            with pytest.raises(
                InputError, match=r"val.txt lists '.{1,80}': a name is that of a file in JPEGImages"
            ) as told:
                VOC(voc, "val")
            assert len(str(told.value)) < 400
        with pytest.raises(InputError, match="cannot be train_aug"):
            VOC(voc, "train_aug", held_out="train_aug")

    def test_names_may_lead_into_folders(self, voc) -> None:
        for place, ending in (("JPEGImages", "jpg"), ("SegmentationClass", "png")):
            (tree(voc) / place / "city").mkdir()
            (tree(voc) / place / f"val_0.{ending}").rename(tree(voc) / place / "city" / f"..a.{ending}")
        (tree(voc) / "ImageSets" / "Segmentation" / "val.txt").write_text("city/..a\n")
        assert VOC(voc, "val")[0].mask.shape == (50, 90)

    @pytest.mark.parametrize("orientation", range(2, 9))
    def test_photographs_on_their_side_fit_their_masks(self, voc, orientation: int) -> None:
        """Masks as the image is stored and as it is shown; where sizes do not tell which, nothing is guessed."""
        image, mask = (tree(voc) / place for place in ("JPEGImages/train_2.jpg", "SegmentationClass/train_2.png"))
        about = Image.Exif()
        about[274] = orientation
        shown = np.array(ImageOps.exif_transpose(_with(Image.open(image), about)))
        truth = np.array(ImageOps.exif_transpose(_with(Image.open(mask), about)))
        Image.open(image).save(image, exif=about, quality=95)
        if orientation < 5:
            with pytest.raises(InputError, match=r"train_2.jpg and train_2.png: the image is to be turned, its EXIF"):
                VOC(voc, "train")[2]
            return
        for stored in (np.array(Image.open(mask)), truth):
            Image.fromarray(stored).save(mask)
            sample = VOC(voc, "train")[2]
            assert (sample.mask == truth).all()
            assert np.abs(sample.image.astype(int) - shown).mean() < 3

    def test_images_that_would_be_misread_are_refused(self, voc) -> None:
        path = tree(voc) / "JPEGImages" / "train_1.jpg"
        Image.fromarray(np.zeros((57, 85), np.float32)).save(path, format="TIFF")
        with pytest.raises(InputError, match=r"train_1.jpg holds numbers of no known range"):
            VOC(voc, "train")[1]
        Image.new("RGB", (3, 50)).save(path)
        with pytest.raises(InputError, match=r"train_1.jpg is 3x50 pixels"):
            VOC(voc, "train")[1]

    def test_a_coloured_mask_is_refused(self, voc) -> None:
        path = tree(voc) / "SegmentationClass" / "train_3.png"
        Image.open(path).convert("RGB").save(path)
        with pytest.raises(InputError, match=r"train_3.png is a RGB image"):
            check(VOC(voc, "train"), "train")

    @pytest.mark.parametrize("keep", [0.6, 0.0])
    def test_a_truncated_image_is_named(self, voc, keep: float) -> None:
        path = tree(voc) / "JPEGImages" / "train_6.jpg"
        content = path.read_bytes()
        path.write_bytes(content[: int(keep * len(content))])
        with pytest.raises(InputError, match=r"train_6.jpg is not a readable image"):
            check(VOC(voc, "train"), "train")


def test_voc_colours_are_the_published_ones() -> None:
    assert voc_colours()[[0, 1, 2, 3, 15, 20, 255]].tolist() == [
        *([0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]),
        *([192, 128, 128], [0, 64, 128], [224, 224, 192]),
    ]
