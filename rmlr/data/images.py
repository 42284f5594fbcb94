"""Photos as input of the detector: decode, resize, normalise, pad."""

import logging
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import ExifTags, Image
from torch import Tensor

from rmlr.hoi import Annotation
from rmlr.hoi.batch import DEVIATION, MEAN
from rmlr.study.settings import ImageSize, PictureSize

log = logging.getLogger(__name__)

TURNS = {  # EXIF orientations, and the transposition that undoes each
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True)
class ImageBatch:
    """Photos of any sizes, stacked at their top left corners."""

    pixels: Float[Tensor, "b 3 H W"]  # normalised; 0 where there is padding
    is_padding: Bool[Tensor, "b H W"]
    resized: Int[Tensor, "b 2"]  # height and width within `pixels`
    original: Int[Tensor, "b 2"]  # height and width of the picture that boxes refer to: the stored photo, or its view

    def to(self, device) -> "ImageBatch":
        """The same batch on another device."""
        return ImageBatch(*(getattr(self, name).to(device, non_blocking=True) for name in ImageBatch.__slots__))


def _open(path: Path) -> Image.Image:
    """An opened photo, of which only the header is read; ValueError names it."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError("a folder, pipe, socket or device")  # reading a pipe might block forever
        return Image.open(path)
    except Exception as error:  # Pillow's decoders raise errors of any type
        raise ValueError(
            f"{path}: not a readable image ({error}). Is the folder the right one, the file whole?"
        ) from error


def find_photo(path: Path) -> Path:
    """The path of a photo: in the folder, or in one of its subfolders, as several unpacked archives leave them."""
    if path.is_file() or not path.parent.is_dir():
        return path
    folders = (folder for folder in sorted(path.parent.iterdir()) if folder.is_dir())
    return next((place for folder in folders if (place := folder / path.name).is_file()), path)


def read_size(path: Path) -> tuple[int, int]:
    """Height and width of a stored photo."""
    with _open(find_photo(path)) as image:
        return image.height, image.width


def read_orientation(path: Path) -> int:
    """The EXIF orientation of a stored photo; 1 (as stored) if it has none."""
    with _open(find_photo(path)) as image:
        return next((number for number, turn in TURNS.items() if turn == _turn(image, path)), 1)


def read_image(path: Path) -> Image.Image:
    """A photo in RGB, from any colour mode. The pixels are as stored: an EXIF orientation is not applied.

    COCO's and HICO-DET's boxes refer to stored pixels, and DETR was trained in this way. The path may leave out the
    folder that the photo was unpacked into (`find_photo`).
    """
    with _open(find_photo(path)) as image:
        return _decoded(image, path)


def as_people_see(picture: Path | Image.Image) -> Image.Image:
    """A photo in RGB and upright, as viewers show it: unlike in `read_image`, an EXIF orientation is applied.

    Damaged EXIF data is reported and ignored: viewers show such a photo as stored.
    """
    if isinstance(picture, Image.Image):
        return _decoded(picture, "a Pillow image", upright=True)
    with _open(picture) as image:
        return _decoded(image, picture, upright=True)


def _decoded(image: Image.Image, source: Path | str, *, upright: bool = False) -> Image.Image:
    """The pixels of an opened photo in RGB, without metadata; ValueError names `source`."""
    try:
        image.load()
        turn = _turn(image, source) if upright else None
        decoded = _in_rgb(image if turn is None else image.transpose(turn))
    except Exception as error:  # as in `_open`
        raise ValueError(f"{source}: not a readable image ({error}). Is the file cut off? Get it again") from error
    decoded.info = {}  # otherwise a second reader would apply the rotation again
    return decoded


def _turn(image: Image.Image, source: Path | str) -> Image.Transpose | None:
    """The transposition that undoes the orientation in a photo's EXIF or XMP data, if any."""
    try:
        return TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception as error:  # as in `_open`
        log.warning("%s: its EXIF data is damaged (%s), so it is shown as it is stored", source, error)
        return None


def _in_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bit grey; Pillow would clip at 255
        return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


def resized_size(height: int, width: int, shortest: int, longest: int | None) -> tuple[int, int]:
    """Height and width after DETR's resize: the shortest side `shortest`, or less to keep the longest at `longest`.

    Rounded as in DETR: the shortest side to the nearest (halves to even), the other one down. So the longest side of a
    long photo may differ from `longest` by a few pixels. No side is below 1 pixel.
    """
    low, high = min(height, width), max(height, width)
    if longest is not None and high / low * shortest > longest:
        shortest = round(longest * low / high)
        if shortest == 0:
            return (longest, 1) if width < height else (1, longest)
    if low == shortest:
        return height, width
    other = int(shortest * high / low)
    return (other, shortest) if width < height else (shortest, other)


def size_within(height: int, width: int, size: PictureSize) -> tuple[int, int]:
    """Height and width of a photo as a detector sees it: as DETR resizes it, or a fixed size whatever its shape."""
    if isinstance(size, ImageSize):
        return resized_size(height, width, size.shortest, size.longest)
    return size.height, size.width


def load_batch(paths: Sequence[Path], size: PictureSize) -> ImageBatch:
    """Stored photos as a batch; see `stack`."""
    return stack((read_image(path) for path in paths), size)


def stack(photos: Iterable[Image.Image], size: PictureSize) -> ImageBatch:
    """Resize (bilinear, antialiased), normalise and pad photos in RGB; without photos, the batch is empty."""
    images, original = [], []
    for image in photos:
        height, width = size_within(image.height, image.width, size)
        original.append((image.height, image.width))
        if (height, width) != original[-1]:
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        images.append(image)
    return pad(images, original)


def pad(photos: Sequence[Image.Image], original: Sequence[tuple[int, int]]) -> ImageBatch:
    """Normalise and pad photos in RGB that have their sizes; `original` is height and width of what boxes refer to."""
    images = [np.asarray(photo) for photo in photos]
    resized = [image.shape[:2] for image in images]
    height, width = (max(sides, default=0) for sides in (zip(*resized, strict=True) if resized else ([], [])))
    pixels = np.zeros((len(images), height, width, 3), dtype=np.uint8)
    is_padding = torch.ones(len(images), height, width, dtype=torch.bool)
    for index, image in enumerate(images):
        pixels[index, : image.shape[0], : image.shape[1]] = image
        is_padding[index, : image.shape[0], : image.shape[1]] = False
    mean, deviation = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(DEVIATION).view(3, 1, 1)
    normalised = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float()
    normalised.div_(255).sub_(mean).div_(deviation)
    if is_padding.any():
        normalised.masked_fill_(is_padding[:, None], 0)
    return ImageBatch(
        pixels=normalised,
        is_padding=is_padding,
        resized=torch.tensor(resized, dtype=torch.int64).view(-1, 2),
        original=torch.tensor(original, dtype=torch.int64).view(-1, 2),
    )


def read_sized(path: Path, height: int, width: int, what: str) -> Image.Image:
    """A photo; ValueError if its size differs from the annotations of `what`."""
    photo = read_image(path)
    if (height, width) != (photo.height, photo.width):
        raise ValueError(
            f"{path}: is {photo.height} x {photo.width} pixels (height, width), {what} is annotated as {height} x "
            f"{width}. Are photos and annotations of one release?"
        )
    return photo


def read_annotated(annotation: Annotation, folder: Path) -> Image.Image:
    """The photo of a record; ValueError if its size differs from the record."""
    path = folder / annotation.file_name
    return read_sized(path, annotation.height, annotation.width, f"image {annotation.image_id}")


def load_annotated(annotations: Sequence[Annotation], folder: Path, size: PictureSize) -> ImageBatch:
    """The photos of these records; ValueError if the size of one differs from its record."""
    return stack((read_annotated(annotation, folder) for annotation in annotations), size)
