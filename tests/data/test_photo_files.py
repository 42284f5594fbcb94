"""Annotated photos are looked at before anything is learnt from them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rmlr.data.photo_files import check_photos
from rmlr.hoi import Annotation

from ..photo_records import unannotated

WHERE = Path("my/vcoco")


def record(number: int, width: int = 20, height: int = 10) -> Annotation:
    return unannotated(number, height, width, ".jpg")


SPLITS = {"train": [record(1), record(2)], "val": [record(3, 200, 100)], "test": [record(4)]}


@pytest.fixture
def photos(tmp_path) -> Path:
    """Four noisy photos, 20 wide and 10 high, the third ten times as large."""
    folder, chance = tmp_path / "images", np.random.default_rng(0)
    folder.mkdir()
    for image in (image for images in SPLITS.values() for image in images):
        pixels = chance.integers(0, 256, (image.height, image.width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / image.file_name)
    return folder


def test_photos_of_the_recorded_sizes_pass(photos):
    assert check_photos(photos, SPLITS, WHERE, [], may_be_absent=False) == {}
    assert check_photos(photos, {"train": [], "val": [], "test": []}, WHERE, ["absent"], may_be_absent=False) == {}


def test_all_photos_of_another_size_are_named_at_once_with_their_exif_orientation(photos):
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (10, 20)).save(photos / "1.jpg", exif=turned)
    Image.new("RGB", (7, 5)).save(photos / "4.jpg")
    with pytest.raises(ValueError, match="2 of 4 photos have another size than my/vcoco says") as error:
        check_photos(photos, SPLITS, WHERE, ["absent", "damaged"], may_be_absent=True)
    assert str(error.value).splitlines()[1:-1] == [
        "  1.jpg is 10 wide and 20 high as stored, recorded as 20 and 10 (EXIF orientation 6: viewers turn or mirror "
        "it)",
        "  4.jpg is 7 wide and 5 high as stored, recorded as 20 and 10",
    ]


def test_of_very_many_mismatches_a_hundred_are_named_and_all_counted(tmp_path):
    Image.new("RGB", (7, 5)).save(tmp_path / "1.jpg")
    many = [replace(record(number), file_name="1.jpg") for number in range(120)]
    with pytest.raises(ValueError, match="120 of 120 photos have another size") as error:
        check_photos(tmp_path, {"train": many}, WHERE, [], may_be_absent=False)
    assert "  ... and 20 more" in str(error.value).splitlines()


def test_absent_photos_are_refused_allowed_or_left_out(photos, caplog):
    (photos / "2.jpg").unlink()
    (photos / "4.jpg").unlink()
    with pytest.raises(ValueError, match=r"2 of 4 annotated photos are missing:\n  2.jpg is missing\n  4.jpg"):
        check_photos(photos, SPLITS, WHERE, ["damaged"], may_be_absent=False)
    assert check_photos(photos, SPLITS, WHERE, [], may_be_absent=True) == {}
    assert list(check_photos(photos, SPLITS, WHERE, ["absent"], may_be_absent=False)) == [2, 4]
    assert "left out 2 images whose photos are absent" in caplog.text


def test_damaged_photos_are_refused_or_left_out_and_a_cut_off_one_is_damaged(photos):
    (photos / "1.jpg").write_bytes(b"no photo")
    (photos / "3.jpg").write_bytes((photos / "3.jpg").read_bytes()[:-300])
    with pytest.raises(ValueError, match=r"1 of 4 photos cannot be read:\n  .*1.jpg: not a readable image"):
        check_photos(photos, SPLITS, WHERE, ["absent"], may_be_absent=True)
    assert list(check_photos(photos, SPLITS, WHERE, ["damaged"], may_be_absent=False)) == [1, 3]


def test_without_a_folder_of_photos_nothing_is_checked_and_nothing_can_be_left_out(tmp_path):
    assert check_photos(tmp_path / "images", SPLITS, WHERE, [], may_be_absent=False) == {}
    with pytest.raises(ValueError, match="images: does not exist, so the setting leave_out cannot be applied"):
        check_photos(tmp_path / "images", SPLITS, WHERE, ["absent"], may_be_absent=True)


def test_a_photo_may_lie_in_the_folder_that_its_archive_left(photos):
    (photos / "val2017").mkdir()
    (photos / "1.jpg").rename(photos / "val2017" / "1.jpg")
    assert check_photos(photos, SPLITS, WHERE, [], may_be_absent=False) == {}
