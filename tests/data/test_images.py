"""Photos: every stored form becomes RGB, DETR's sizes, padding that is told from pixels."""

import os

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rmlr.data.images import DEVIATION, MEAN, as_people_see, load_batch, read_image, read_size, resized_size
from rmlr.study.settings import ImageSize

ORANGE = (255, 102, 0)  # one of the web palette


def save(path, image, **options):
    """Store a picture and give its path."""
    image.save(path, **options)
    return path


def normalised(colour):
    """What a colour becomes in a batch."""
    return (torch.tensor(colour) / 255 - torch.tensor(MEAN)) / torch.tensor(DEVIATION)


# ---- decoding


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "CMYK", "P", "L", "LA", "1"])
def test_every_stored_mode_becomes_rgb(tmp_path, mode):
    name = "a.tif" if mode == "CMYK" else "a.png"
    colour = ORANGE if mode in ("RGB", "RGBA", "CMYK", "P") else (255, 255, 255)
    image = read_image(save(tmp_path / name, Image.new("RGB", (4, 3), colour).convert(mode)))
    assert (image.mode, image.size) == ("RGB", (4, 3))
    np.testing.assert_allclose(image.getpixel((1, 1)), colour, atol=3)


def test_a_palette_with_transparency_becomes_rgb_without_a_warning(tmp_path):
    path = save(tmp_path / "a.png", Image.new("RGB", (4, 3), ORANGE).convert("P"), transparency=b"\x00\x80")
    assert read_image(path).mode == "RGB"


def test_sixteen_bit_grey_keeps_its_brightness(tmp_path):
    grey = np.array([[0, 128 * 256, 65535]], dtype=np.uint16)
    image = read_image(save(tmp_path / "a.png", Image.fromarray(grey)))
    assert np.asarray(image).tolist() == [[[0] * 3, [128] * 3, [255] * 3]]


def test_a_cmyk_jpeg_becomes_rgb(tmp_path):
    image = read_image(save(tmp_path / "a.jpg", Image.new("RGB", (16, 16), ORANGE).convert("CMYK")))
    np.testing.assert_allclose(image.getpixel((8, 8)), ORANGE, atol=6)


def test_pixels_stay_as_stored_whatever_the_orientation_tag_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to look at
    path = save(tmp_path / "a.jpg", Image.new("RGB", (40, 20)), exif=exif)
    assert read_image(path).size == (40, 20)
    assert read_size(path) == (20, 40)


def test_people_see_a_photo_turned_by_its_orientation_tag(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to look at
    lying = Image.new("RGB", (40, 20))
    lying.paste(ORANGE, (0, 0, 10, 20))
    path = save(tmp_path / "a.png", lying, exif=exif)
    seen = as_people_see(path)
    assert (seen.mode, seen.size) == ("RGB", (20, 40))
    assert seen.getpixel((10, 5)) == ORANGE
    with Image.open(path) as opened:
        assert as_people_see(opened).tobytes() == as_people_see(seen).tobytes() == seen.tobytes()
    assert as_people_see(Image.new("L", (3, 2), 7)).getpixel((0, 0)) == (7, 7, 7)


ORIENTATION_6 = b"\x12\x01\x03\0\x01\0\0\0\x06\0\0\0"  # an entry of a TIFF directory


@pytest.mark.parametrize(
    ("exif", "size"),
    [
        (b"garbage", (40, 20)),
        (b"II", (40, 20)),
        (b"II*\0\xff\xff\xff\xff", (40, 20)),  # a directory beyond the end
        (b"II*\0\x08\0\0\0\x02\0" + ORIENTATION_6 + b"\x0f\x01\x02\0\xff\xff\xff\x7f\xff\xff\0\0" + bytes(4), (20, 40)),
        (b"II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x04\0\0\0abc\0" + bytes(4), (40, 20)),  # an orientation in words
    ],
)
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data", "ignore:Tag data larger than file")  # Pillow's own
def test_people_see_a_photo_with_damaged_exif_data(tmp_path, name, exif, size):
    path = save(tmp_path / name, Image.new("RGB", (40, 20), ORANGE), exif=b"Exif\0\0" + exif)
    assert as_people_see(path).size == size
    with Image.open(path) as opened:
        assert as_people_see(as_people_see(opened)).size == size
    assert read_image(path).size == (40, 20)


def test_what_is_no_file_is_refused_by_name_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    (tmp_path / "dangling.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "circle.jpg").symlink_to("circle.jpg")
    for path in tmp_path.iterdir():
        with pytest.raises(ValueError, match=rf"{path.name}: not a readable image \("):
            as_people_see(path)


def test_a_truncated_image_is_refused_by_name(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = save(tmp_path / "a.jpg", Image.fromarray(noise))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"a.jpg: not a readable image \(.*truncated.*\)"):
        load_batch([path], ImageSize(shortest=64, longest=64))


@pytest.mark.parametrize("content", [b"", b"<html>404</html>"])
def test_what_is_no_image_is_refused_by_name(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(ValueError, match=r"a.jpg: not a readable image"):
        read_image(tmp_path / "a.jpg")


def test_an_absent_image_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"a.jpg: not a readable image .*No such file"):
        read_size(tmp_path / "a.jpg")


# ---- sizes


@pytest.mark.parametrize(
    ("original", "limits", "expected"),
    [
        ((480, 640), (800, 1333), (800, 1066)),  # 1066.67, down
        ((640, 480), (800, 1333), (1066, 800)),
        ((500, 500), (800, 1333), (800, 800)),
        ((333, 1000), (800, 1333), (444, 1333)),  # 443.9, to the nearest
        ((250, 716), (800, 1333), (465, 1331)),  # 465.4, then 1331.76
        ((309, 755), (800, 1333), (546, 1334)),  # 545.6, then 1334.1: the rounding may pass the limit
        ((800, 1200), (800, 1333), (800, 1200)),  # fits as it is
        ((128, 128), (128, 128), (128, 128)),
        ((1, 2000), (800, 1333), (1, 2000)),  # a line: 0.67 rounds to the height it has
        ((1, 5000), (800, 1333), (1, 1333)),  # 0.27 would round to 0
        ((3000, 1), (800, 1333), (1333, 1)),
        ((2, 9000), (800, 1333), (1, 1333)),
    ],
)
def test_sizes_are_detrs(original, limits, expected):
    assert resized_size(*original, *limits) == expected


side = st.integers(50, 2000)


@given(side, side)
def test_a_turned_photo_gets_the_turned_size(height, width):
    assert resized_size(width, height, 800, 1333) == resized_size(height, width, 800, 1333)[::-1]


@given(side, side)
def test_the_shape_is_kept_to_a_pixel_and_limits_are_exceeded_only_by_rounding(height, width):
    new = resized_size(height, width, 800, 1333)
    low, high, ratio = min(new), max(new), max(height, width) / min(height, width)
    assert low <= 800
    assert high <= 1333 + ratio
    assert low == 800 or high >= 1333 - ratio - 1
    assert high == pytest.approx(low * ratio, abs=1)


# ---- batches


def test_photos_of_different_sizes_are_padded_and_padding_is_zero(tmp_path):
    wide = save(tmp_path / "wide.png", Image.new("RGB", (60, 30), ORANGE))
    tall = save(tmp_path / "tall.png", Image.new("RGB", (10, 40), ORANGE))
    batch = load_batch([wide, tall], ImageSize(shortest=20, longest=60))
    assert batch.original.tolist() == [[30, 60], [40, 10]]
    assert batch.resized.tolist() == [[20, 40], [60, 15]]
    assert batch.pixels.shape == (2, 3, 60, 40)
    for index, (height, width) in enumerate(batch.resized.tolist()):
        assert not batch.is_padding[index, :height, :width].any()
        assert (~batch.is_padding[index]).sum() == height * width
        torch.testing.assert_close(batch.pixels[index, :, height - 1, width - 1], normalised(ORANGE))
    assert (batch.pixels.permute(0, 2, 3, 1)[batch.is_padding] == 0).all()


def test_a_photo_that_fits_keeps_its_pixels(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (12, 17, 3), dtype=np.uint8)
    batch = load_batch([save(tmp_path / "a.png", Image.fromarray(noise))], ImageSize(shortest=12, longest=20))
    torch.testing.assert_close(batch.pixels[0].permute(1, 2, 0), normalised(noise.tolist()))
    assert not batch.is_padding.any()


def test_no_photo_is_an_empty_batch():
    batch = load_batch([], ImageSize(shortest=12, longest=20))
    assert (batch.pixels.shape, batch.is_padding.shape) == ((0, 3, 0, 0), (0, 0, 0))
    assert (batch.resized.shape, batch.original.shape) == ((0, 2), (0, 2))


def test_real_photos_decode_at_the_sizes_that_coco_says(real_vcoco_raw, real_data):
    from rmlr.data.vcoco import read_vcoco

    images = [image for images in read_vcoco(real_vcoco_raw, []).splits.values() for image in images]
    batch = load_batch(
        [real_vcoco_raw / "images" / image.file_name for image in images[:3]], ImageSize(shortest=100, longest=166)
    )
    assert batch.original.tolist() == [[image.height, image.width] for image in images[:3]]
    for image in images:
        assert read_size(real_vcoco_raw / "images" / image.file_name) == (image.height, image.width)
    assert read_image(real_data / "coco128" / "train2017" / "000000000086.jpg").mode == "RGB"  # stored in grey


def test_a_photo_is_found_in_the_folder_that_its_archive_was_unpacked_into(tmp_path):
    (tmp_path / "train2014").mkdir()
    Image.new("RGB", (7, 5)).save(tmp_path / "train2014/a.png")
    Image.new("RGB", (9, 9)).save(tmp_path / "b.png")
    Image.new("RGB", (1, 1)).save(tmp_path / "train2014/b.png")
    assert read_size(tmp_path / "a.png") == (5, 7)
    assert read_image(tmp_path / "a.png").size == (7, 5)
    assert read_size(tmp_path / "b.png") == (9, 9), "what lies there itself comes first"
    with pytest.raises(ValueError, match=r"c\.png"):
        read_size(tmp_path / "c.png")
