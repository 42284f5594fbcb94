"""Checks of annotated photos: which exist, which are readable, and whether their sizes match the records."""

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from rmlr.data.images import find_photo, read_image, read_orientation, read_size
from rmlr.hoi import Annotation
from rmlr.study.settings import LeftOut

log = logging.getLogger(__name__)

SHOWN = 100  # faults in one message


def check_photos(
    photos: Path,
    splits: Mapping[str, Sequence[Annotation]],
    where: Path,
    leave_out: Collection[LeftOut],
    *,
    may_be_absent: bool,
) -> dict[int, str]:
    """Compare the header of every annotated photo below `photos` with its record, which comes from `where`.

    Returns the images that the setting `leave_out` excludes: by id, with the fault. A photo is damaged if its
    header cannot be read or, if damaged ones are left out, if its pixels cannot. One ValueError names all other
    damaged photos, or all of another size, or all that are absent, unless absent ones are left out. If the folder of
    photos does not exist, nothing is checked.
    """
    if not photos.is_dir():
        if leave_out:
            raise ValueError(f"{photos}: does not exist, so the setting leave_out cannot be applied. Put photos there")
        log.info("%s: folder does not exist, so no photo was checked", photos)
        return {}
    images = [image for some in splits.values() for image in some]
    absent, damaged, other_size = _faults(photos, images, decode="damaged" in leave_out)
    if other_size:
        raise ValueError(
            f"{photos}: {len(other_size)} of {len(images)} photos have another size than {where} says:"
            f"{_lines(other_size)}\nBoxes refer to stored pixels, before any EXIF rotation: correct the sizes, and the "
            "boxes if they were drawn on the rotated photos"
        )
    if absent and not may_be_absent and "absent" not in leave_out:
        raise ValueError(
            f"{photos}: {len(absent)} of {len(images)} annotated photos are missing:{_lines(absent)}\nPut them there "
            f"under the names in {where}, or leave their images out (leave_out: [absent])"
        )
    if damaged and "damaged" not in leave_out:
        raise ValueError(
            f"{photos}: {len(damaged)} of {len(images)} photos cannot be read:{_lines(damaged)}\nGet them again, or "
            "leave their images out (leave_out: [damaged])"
        )
    right = len(images) - len(absent) - len(damaged)
    log.info("%s: %d of %d photos exist and have the recorded sizes", photos, right, len(images))
    left_out = (absent if "absent" in leave_out else {}) | damaged
    if left_out:
        log.warning("%s: left out %d images whose photos are %s", photos, len(left_out), " or ".join(leave_out))
    return left_out


def _faults(
    photos: Path, images: Sequence[Annotation], *, decode: bool
) -> tuple[dict[int, str], dict[int, str], dict[int, str]]:
    """The faults of photos by image id: absent, damaged, and of another size."""
    absent, damaged, other_size = {}, {}, {}
    for image in images:
        path = find_photo(photos / image.file_name)
        if not path.is_file():
            absent[image.image_id] = f"{image.file_name} is missing"
            continue
        try:
            height, width = read_size(path)
            if decode:
                read_image(path)
        except ValueError as error:
            damaged[image.image_id] = f"{error}"
            continue
        if (height, width) != (image.height, image.width):
            other_size[image.image_id] = (
                f"{image.file_name} is {width} wide and {height} high as stored, recorded as {image.width} and "
                f"{image.height}{_turned(path)}"
            )
    return absent, damaged, other_size


def _turned(path: Path) -> str:
    orientation = read_orientation(path)
    return "" if orientation == 1 else f" (EXIF orientation {orientation}: viewers turn or mirror it)"


def _lines(faults: Mapping[int, str]) -> str:
    more = [f"... and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else []
    return "".join(f"\n  {line}" for line in [*list(faults.values())[:SHOWN], *more])
