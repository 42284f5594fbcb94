"""Fixtures that several test files share."""

import json
import os
import shutil
from pathlib import Path

import pytest

REAL_VCOCO = {  # the photos of COCO128 that V-COCO has
    "train": [368, 531],
    "val": [165, 436, 625],
    "test": [294, 328, 395, 428, 536, 564, 589],
}


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The real annotations and photos (RMLR_REAL_DATA, else ../shared/data beside the repository)."""
    default = Path(__file__).parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("RMLR_REAL_DATA", default))
    if not (folder / "annotations").is_dir():
        pytest.skip(f"real annotations are not at {folder}; set RMLR_REAL_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def real_vcoco_raw(real_data, tmp_path_factory) -> Path:
    """A raw folder of the twelve real photos that V-COCO and COCO128 share: coco/, vcoco/ and images/.

    Official rows for train and val, fredzzhang's pairs for test (whose official ones are not among our data). COCO's
    2017 instances hold the same annotation ids and boxes as those of 2014; they are written under the names of 2014.
    """
    raw = tmp_path_factory.mktemp("real_vcoco")
    (raw / "coco").mkdir()
    (raw / "images").mkdir()
    (raw / "vcoco" / "splits").mkdir(parents=True)
    coco = json.loads((real_data / "coco128" / "annotations" / "instances_train2017.json").read_text())
    for name, splits in (("train2014", ("train", "val")), ("val2014", ("test",))):
        ids = [image_id for split in splits for image_id in REAL_VCOCO[split]]
        part = {
            "images": [image for image in coco["images"] if image["id"] in ids],
            "annotations": [annotation for annotation in coco["annotations"] if annotation["image_id"] in ids],
            "categories": coco["categories"],
        }
        (raw / "coco" / f"instances_{name}.json").write_text(json.dumps(part))
        for image in part["images"]:
            photo = real_data / "coco128" / "train2017" / image["file_name"]
            shutil.copyfile(photo, raw / "images" / image["file_name"])
    for split, ids in REAL_VCOCO.items():
        (raw / "vcoco" / "splits" / f"vcoco_{split}.ids").write_text("".join(f"{image_id}\n" for image_id in ids))
    for split in ("train", "val"):
        rows = json.loads((real_data / "annotations" / f"vcoco_{split}.json").read_text())
        rows = [_restrict_rows(action, REAL_VCOCO[split]) for action in rows]
        (raw / "vcoco" / f"vcoco_{split}.json").write_text(json.dumps(rows))
    pairs = json.loads((real_data / "annotations" / "instances_vcoco_test.json").read_text())
    kept = [index for index, image_id in enumerate(pairs["images"]) if image_id in REAL_VCOCO["test"]]
    pairs |= {key: [pairs[key][index] for index in kept] for key in ("images", "annotations")}
    (raw / "vcoco" / "instances_vcoco_test.json").write_text(json.dumps(pairs))
    return raw


def _restrict_rows(action: dict, image_ids: list[int]) -> dict:
    """One action of an official V-COCO file, with the rows of some images only."""
    persons = len(action["ann_id"])
    kept = [row for row, image_id in enumerate(action["image_id"]) if image_id in image_ids]
    part = {key: [action[key][row] for row in kept] for key in ("image_id", "ann_id", "label")}
    roles = range(len(action["role_name"]))
    return (
        action
        | part
        | {"role_object_id": [action["role_object_id"][persons * role + row] for role in roles for row in kept]}
    )
