"""Bad input of every kind, through the command line: one message, which names the file or the flag and says what is
wrong; nothing is written or changed, and nothing that a file contains is executed.

`test_faults.py` has the faults of each stage's inputs in a study that the stages made; here, files are made by hand,
and no network is trained.
"""

import dataclasses
import json
import os
import pickle
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet
from safetensors.torch import load_file, save_file
from scipy import sparse
from scipy.io import loadmat, savemat

import rmlr.study.provenance
from rmlr.__main__ import STAGES, main
from rmlr.data.features import Features
from rmlr.data.given import GivenFeatures
from rmlr.data.hicodet import read_hicodet
from rmlr.data.images import as_people_see
from rmlr.data.keypoints import load_people
from rmlr.data.records import load_annotations, save_annotations, save_vocabulary
from rmlr.data.vcoco import read_vcoco
from rmlr.model.anchored import build_detector
from rmlr.model.checkpoint import load_checkpoint, save_checkpoint
from rmlr.model.detector import save_detector, weights_digest
from rmlr.model.foreign import Foreign
from rmlr.model.network import build
from rmlr.model.pose import load_pose_network
from rmlr.study.nodes import DetectorNode, FeaturesNode, PredictNode
from rmlr.study.plan import Study

from .conftest import anno_bbox, write_json
from .own_detectors import Grid
from .stages.conftest import CARD, CHANNELS, TOKEN_DIM, VIEW, VOCABULARY, annotation, write_features

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden"
RECORDS, VOCABULARY_FILE, TRIPLETS = "records/train.json", "records/vocabulary.json", "triplets.parquet"
ROWS, COCO, IDS = "raw/vcoco/vcoco_test.json", "raw/coco/instances_val2014.json", "raw/vcoco/splits/vcoco_test.ids"
HICO, MATRICES, LABELS = "raw/hicodet/instances_test2015.json", "mat/hicodet/anno_bbox.mat", "raw/hicodet/anno.mat"
PEOPLE = "people/person_keypoints_train2014.json"
SHARD, INDEX = "features/test/shard-00000.safetensors", "features/test/index.json"
WEIGHTS, CARD_FILE = "train/weights.safetensors", "train/checkpoint.json"
GIVEN, ABOUT = "given/300.safetensors", "given/about.json"
PHOTO, POSE = "images/300.jpg", "pose/weights.pth"
IMAGES = [300, 301, 302]
WORDS = dataclasses.replace(VOCABULARY, objects=Grid.names)
SETTINGS = """\
code: digest
dataset: vcoco
vcoco: {release: drawn, unscored_roles: []}
hicodet: {release: drawn, val_images: 1}
"""
COMMANDS = {
    "prepare": "prepare --settings prepare.yaml --raw raw --out new",
    "hico": "prepare --settings hico.yaml --raw raw --out new",
    "mat": "prepare --settings hico.yaml --raw mat --out new",
    "table": "evaluate --annotations records --triplets triplets.parquet --split train --out new",
    "agents": "evaluate --annotations records --triplets triplets.parquet --agents agents.parquet --split train"
    " --out new",
    "pickle": "evaluate --annotations records --triplets mine.pkl --split train --out new",
    "folder": "evaluate --annotations hicodet --triplets mats --split test --out new",
    "predict": "predict --settings predict.yaml --annotations study --features features --weights train --out new",
    "given": "features --settings features.yaml --annotations study --split test --from given --out new",
    "detector": "features --settings features.yaml --annotations study --split test --images images"
    " --detector detector --out new",
    "detr": "features --settings features.yaml --annotations study --split test --images images --detector detr"
    " --out new",
    "photo": f"photo {PHOTO} --run run --detector detector --prior-power 1 --out new",
    "joints": "joints --settings joints.yaml --annotations people --images images --seed 0 --out new",
    "pose": "pose --settings pose.yaml --annotations study --split test --images images --features features"
    " --joints pose --out new",
    "params": "adopt upt.pt --annotations records --run shared/rmlr --params params.yaml --profile tiny --out new",
    "doctor": "doctor --params params.yaml --timeout 0",
    "fetch": "fetch --sources sources.yaml --raw new",
}

Change = Callable[[], object]


@pytest.fixture(scope="module")
def networks(tmp_path_factory) -> Path:
    """A small random network, and what it reads: records, cached features, features of another framework, photos,
    two detectors (a class of the user's, a DETR), a pose network.
    """
    folder = tmp_path_factory.mktemp("networks")
    study, images = folder / "study", [annotation(image_id) for image_id in IMAGES]
    save_vocabulary(study / "vocabulary.json", WORDS)
    for split in ("train", "val", "test"):
        save_annotations(study / f"{split}.json", images)
    write_features(folder / "features" / "test", IMAGES, list(WORDS.objects))
    (folder / "images").mkdir()
    (folder / "given").mkdir()
    about = {"detector": "mine", "objects": WORDS.objects, "image": {"shortest": 64, "longest": 64}, "stride": 16}
    write_json(folder / ABOUT, about | {"channels": CHANNELS, "token_dim": TOKEN_DIM})
    generator = np.random.default_rng(0)
    for image in images:
        pixels = generator.integers(0, 255, (image.height, image.width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / image.file_name)
        tensors = {"boxes": torch.from_numpy(image.boxes).float(), "scores": torch.tensor([0.9, 0.8])}
        tensors |= {"labels": torch.tensor([0, 1]), "tokens": torch.zeros(2, TOKEN_DIM)}
        save_file(tensors | {"map": torch.zeros(CHANNELS, 4, 4)}, folder / "given" / f"{image.image_id}.safetensors")

    weights = folder / "grid.safetensors"
    save_file({"weight": torch.ones(8, 3), "bias": torch.zeros(8)}, weights)
    for name in ("detector", "detr", "train", "run/train"):
        (folder / name).mkdir(parents=True)
    save_detector(Foreign(f"{Grid.__module__}.Grid", weights), folder / "detector")
    nodes = Study.load(ROOT / "params.yaml").nodes("tiny", dict.fromkeys([*STAGES, "cost"], "digest"))
    node = nodes["detector/base"]
    assert isinstance(node, DetectorNode)
    assert node.detector.architecture is not None
    save_detector(build_detector(node.detector.architecture, WORDS.objects, no_object_weight=0.1), folder / "detr")
    own = {
        "channels": Grid.channels,
        "token_dim": Grid.token_dim,
        "view": VIEW.model_copy(update={"image": Grid.image}),
    }
    own["detector_digest"] = weights_digest(folder / "detector")
    for name, changes in (("train", {}), ("run/train", own)):
        card = CARD.model_copy(update=changes | {"vocabulary": WORDS})
        sizes = {"channels": card.channels, "token_dim": card.token_dim, "vocabulary": WORDS}
        save_checkpoint(folder / name, card, build(card.variant, card.network, **sizes), torch.nn.Identity())

    seen, prediction = nodes["vcoco/features/base/test"], nodes["runs/shared/rmlr/0/predict"]
    assert isinstance(seen, FeaturesNode)
    assert isinstance(prediction, PredictNode)
    (folder / "features.yaml").write_text(seen.model_copy(update={"image": None}).dump())
    for name, node in {
        "predict": prediction,
        "joints": nodes["pose/joints"],
        "pose": nodes["pose/vcoco/base/test"],
    }.items():
        (folder / f"{name}.yaml").write_text(node.dump())
    category = {"id": 1, "name": "person", "keypoints": ["neck", "left_wrist"]}
    one = {"image_id": 300, "category_id": 1, "bbox": [4, 4, 26, 56], "iscrowd": 0, "num_keypoints": 2}
    records = [{"id": image.image_id, "file_name": image.file_name, "height": 64, "width": 64} for image in images]
    people = {"images": records, "annotations": [one | {"keypoints": [9, 9, 2, 20, 30, 1]}], "categories": [category]}
    for name in ("train", "val"):
        write_json(folder / "people" / f"person_keypoints_{name}2014.json", people)
    return folder


@pytest.fixture(scope="module")
def small_params() -> str:
    """`params.yaml` with one profile, one run and one table."""
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["profile"], content["profiles"] = "tiny", {"tiny": content["profiles"]["tiny"]}
    content["runs"] = {"shared": {"rmlr": content["runs"]["shared"]["rmlr"]}}
    table = content["tables"]["table2"]
    table["rows"], table["controls"] = [row for row in table["rows"] if row["runs"][0] == "shared/rmlr"], []
    figure = content["figures"]["predictions"]
    return yaml.safe_dump(content | {"tables": {"table2": table}, "figures": {"predictions": figure}}, sort_keys=False)


@pytest.fixture
def study(
    tiny_vcoco_raw,
    tiny_hicodet_raw,
    write_tiny_anno,
    vcoco_records,
    hicodet_records,
    pose_weights,
    networks,
    small_params,
    tmp_path,
    monkeypatch,
) -> None:
    """The current folder: raw annotations, records, detections, networks and photos, to damage."""
    shutil.copytree(networks, tmp_path, dirs_exist_ok=True)
    for name, records in (("records", vcoco_records), ("hicodet", hicodet_records)):
        shutil.copytree(records, tmp_path / name)
    shutil.copyfile(GOLDEN / "vcoco" / "triplets_train.parquet", tmp_path / TRIPLETS)
    (tmp_path / "pose").mkdir()
    shutil.copyfile(pose_weights, tmp_path / POSE)
    write_tiny_anno()
    (tmp_path / "mat/hicodet").mkdir(parents=True)
    (tmp_path / "prepare.yaml").write_text(SETTINGS)
    (tmp_path / "hico.yaml").write_text(SETTINGS.replace("dataset: vcoco", "dataset: hicodet"))
    (tmp_path / "params.yaml").write_text(small_params)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # a detector's class is looked for in the current folder as well
    monkeypatch.setattr(rmlr.study.provenance, "command", None)


# ---- what is done to a file


def write(name: str, content: str | bytes) -> Change:
    """A file with this content, in the place of what was there."""

    def change() -> None:
        path = Path(name)
        if path.is_dir():
            shutil.rmtree(path)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return change


def add(name: str, content: bytes) -> Change:
    """More bytes at the end of a file."""
    return lambda: Path(name).write_bytes(Path(name).read_bytes() + content)


def edit(name: str, change: Callable) -> Change:
    """A JSON file with other content."""

    def apply() -> None:
        content = json.loads(Path(name).read_text())
        change(content)
        Path(name).write_text(json.dumps(content))

    return apply


def table(change: Callable[[pa.Table], pa.Table]) -> Change:
    """The table of triplets, changed."""
    return lambda: parquet.write_table(change(parquet.read_table(TRIPLETS)), TRIPLETS)


def cell(name: str, value: object, type_: pa.DataType | None = None) -> Change:
    """The table of triplets with another value in the first row of a column."""

    def change(rows: pa.Table) -> pa.Table:
        values = [value, *rows.column(name).to_pylist()[1:]]
        column = pa.array(values, type_ or rows.column(name).type)
        return rows.set_column(rows.column_names.index(name), name, column)

    return table(change)


def cut(name: str) -> Change:
    """A file without its last third."""
    return lambda: os.truncate(name, Path(name).stat().st_size * 2 // 3)


def replace(name: str, make: Callable[[str], object]) -> Change:
    """A folder or a pipe in the place of a file."""

    def change() -> None:
        Path(name).unlink(missing_ok=True)
        make(name)

    return change


def yaml_edit(name: str, change: Callable) -> Change:
    """A YAML file with other content."""

    def apply() -> None:
        content = yaml.safe_load(Path(name).read_text())
        change(content)
        Path(name).write_text(yaml.safe_dump(content, sort_keys=False))

    return apply


def params(path: str, value: object) -> Change:
    """params.yaml with another value at a path of keys, parted by a space."""

    def change(content: dict) -> None:
        *parents, last = path.split()
        for key in parents:
            content = content[key]
        content[last] = value

    return yaml_edit("params.yaml", change)


def tensor(name: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Change:
    """A safetensors file of another program, without checksums, with other tensors."""

    def apply() -> None:
        tensors = load_file(name)
        change(tensors)
        save_file({key: value.contiguous() for key, value in tensors.items()}, name)

    return apply


def flip(name: str, place: float) -> Change:
    """A file with one bit changed, at this share of its length."""

    def change() -> None:
        content = bytearray(Path(name).read_bytes())
        content[int(place * len(content))] ^= 16
        Path(name).write_bytes(content)

    return change


def matrices(change: Callable[[dict], object]) -> Change:
    """anno_bbox.mat of what the JSON files say, changed."""

    def apply() -> None:
        sides = [json.loads(Path(f"raw/hicodet/instances_{name}2015.json").read_text()) for name in ("train", "test")]
        content = anno_bbox(*sides)
        change(content)
        savemat(MATRICES, content)

    return apply


def labels(change: Callable[[dict], object]) -> Change:
    """anno.mat, changed."""

    def apply() -> None:
        content = {key: value for key, value in loadmat(LABELS).items() if not key.startswith("__")}
        change(content)
        savemat(LABELS, content)

    return apply


def detections(change: Callable[[np.ndarray], object]) -> Change:
    """HICO-DET's one file of all classes, empty but for one cell, changed."""

    def apply() -> None:
        vocabulary = json.loads(Path("hicodet/vocabulary.json").read_text())
        images = json.loads(Path("hicodet/test.json").read_text())
        cells = np.empty((len(vocabulary["hois"]), len(images)), dtype=object)
        cells[:] = [[np.zeros((0, 0))] * len(images)] * len(cells)
        cells[0, 0] = np.array([[1.0, 1, 9, 9, 2, 2, 8, 8, 0.5]])
        other = change(cells)
        Path("mats").mkdir()
        savemat("mats/detections.mat", {"all_boxes": cells if other is None else other})

    return apply


def picklable(change: Callable[[dict], object]) -> Change:
    """V-COCO's list of one item, changed."""

    def apply() -> None:
        vocabulary = json.loads(Path(VOCABULARY_FILE).read_text())
        image = json.loads(Path(RECORDS).read_text())[0]["image_id"]
        item = {"image_id": image, "person_box": [1.0, 1.0, 9.0, 9.0]}
        item |= {f"{action}_agent": 0.5 for action in vocabulary["actions"]}
        verbs = [*vocabulary["verbs"], *vocabulary["unscored_verbs"]]
        item |= {verb.replace(" ", "_"): [1.0, 1.0, 9.0, 9.0, 0.5] for verb in verbs}
        change(item)
        Path("mine.pkl").write_bytes(pickle.dumps([item], 2))

    return apply


def agents(change: Callable[[pa.Table], pa.Table]) -> Change:
    """The table of agents, changed."""
    return lambda: parquet.write_table(
        change(parquet.read_table(GOLDEN / "vcoco" / "agents_train.parquet")), "agents.parquet"
    )


def of_class(name: str) -> Change:
    """The folder of a detector whose class is another one of `own_detectors`."""

    def change() -> None:
        write_json(Path("detector/config.json"), {"model_type": "python", "class": f"{Grid.__module__}.{name}"})

    return change


def photo(mode: str, size: tuple[int, int], kind: str = "PNG") -> Change:
    """A photo of another form."""
    return lambda: Image.new(mode, size).save(PHOTO, kind)


def torch_file(name: str, content: object) -> Change:
    """A file of `torch.save`."""
    return lambda: torch.save(content, name)


class Code:
    """Makes a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("executed",)


ALIASES = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
NESTED = "[" * 100_000

CASES: dict[str, list[tuple[str, Change, str]]] = {
    "prepare": [
        ("nested", write("prepare.yaml", NESTED), r"prepare\.yaml: expected at most 50 levels of nesting, found more"),
        (
            "aliases",
            write("prepare.yaml", f"a0: &a0 [1]\n{ALIASES}"),
            r"prepare\.yaml, line 7: expected at most 200000 values with aliases expanded, found more",
        ),
        (
            "alias in itself",
            write("prepare.yaml", "a: &a [*a]"),
            r"prepare\.yaml, line 1: an alias refers to a value that contains it",
        ),
        (
            "date",
            write("prepare.yaml", "code: 2020-13-45\n"),
            r"prepare\.yaml: a value cannot be read \(month .*\)\. Put it in quotes if it is a text",
        ),
        (
            "duplicate key",
            add("prepare.yaml", b"code: again\n"),
            r"prepare\.yaml, line 5: key 'code' is a duplicate of line 1",
        ),
        (
            "latin-1",
            add("prepare.yaml", b"# \xe9\n"),
            r"prepare\.yaml: byte 0xe9 at \d+ is not text in UTF-8\. Save the file as UTF-8",
        ),
        ("empty settings", write("prepare.yaml", ""), r"prepare\.yaml: .*: expected keys with values, got None"),
        ("binary settings", write("prepare.yaml", b"\0\1\2"), r"prepare\.yaml: not YAML: unacceptable character"),
        (
            "settings pipe",
            replace("prepare.yaml", os.mkfifo),
            r"prepare\.yaml: is not a file\. Does the path lead to a settings file\?",
        ),
        (
            "settings folder",
            replace("prepare.yaml", os.mkdir),
            r"prepare\.yaml: is not a file\. Does the path lead to a settings file\?",
        ),
        (
            "raw file",
            write("raw", ""),
            r"raw/vcoco: input of 'prepare' does not exist\. Check the path, or run the stage",
        ),
        (
            "action empty",
            edit(ROWS, lambda rows: rows[0].update(action_name="")),
            rf"{ROWS}: 0\.action_name: expected a name, got ''",
        ),
        (
            "action twice",
            edit(ROWS, lambda rows: rows.append(rows[0])),
            rf"{ROWS}: action 'stand' is listed twice, expected different names",
        ),
        (
            "action other",
            edit(ROWS, lambda rows: rows[0].update(action_name="sit")),
            rf"{ROWS}: actions and roles differ from those of raw/vcoco/vcoco_train\.json: entry 1 is "
            r"\('sit', \['agent'\]\), expected \('stand', \['agent'\]\)\. Are both of one release\?",
        ),
        (
            "action missing",
            edit(ROWS, lambda rows: rows.pop()),
            rf"{ROWS}: actions and roles differ .*: 3 entries, expected 4\. Are both of one release\?",
        ),
        ("rows cut", cut(ROWS), rf"{ROWS}: Invalid JSON: EOF .*\. Is the file cut off\? Get or make it again"),
        ("rows pipe", replace(ROWS, os.mkfifo), rf"{ROWS}: is not a file\. Is the folder the right one\?"),
        ("rows nested", write(ROWS, NESTED), rf"{ROWS}: Invalid JSON: recursion limit exceeded"),
        ("rows object", write(ROWS, "{}"), rf"{ROWS}: .*Input should be a valid array, got {{}}"),
        ("coco bytes", add(COCO, b"\xff"), rf"{COCO}: byte 0xff at \d+ is not text in UTF-8\. Save the file as UTF-8"),
        (
            "coco id",
            edit(COCO, lambda coco: coco["images"][0].update(id=2**70)),
            rf"{COCO}: images\.0\.id: Input should be less than {2**63}, got {2**70}",
        ),
        (
            "coco width",
            edit(COCO, lambda coco: coco["images"][0].update(width=0)),
            rf"{COCO}: images\.0\.width: Input should be greater than 0, got 0",
        ),
        (
            "coco far box",
            edit(COCO, lambda coco: coco["annotations"][0].update(bbox=[0, 0, 1e308, 1])),
            rf"{COCO}: annotations\.0\.bbox\.2: Input should be less than or equal to 16777216, got 1e\+308",
        ),
        (
            "coco wide image",
            edit(COCO, lambda coco: coco["images"][0].update(width=2**62)),
            rf"{COCO}: images\.0\.width: Input should be less than or equal to 16777216",
        ),
        (
            "coco box",
            edit(COCO, lambda coco: coco["annotations"][0].update(bbox=[0, 0, float("inf"), 1])),
            rf"{COCO}: annotations\.0\.bbox\.2: Input should be a finite number, got inf",
        ),
        (
            "coco category twice",
            edit(COCO, lambda coco: coco["categories"].append(coco["categories"][0])),
            rf"{COCO}: category \d is listed twice under categories\. Give each one id and name",
        ),
        (
            "coco category other",
            edit(COCO, lambda coco: coco["categories"][0].update(name="glove")),
            rf"{COCO}: categories differ from those of raw/coco/instances_train2014\.json: entry 3 is "
            r"\(9, 'glove'\), expected \(9, 'bat'\)\. Are both of one release\?",
        ),
        (
            "coco name",
            edit(COCO, lambda coco: coco["images"][0].update(file_name="../x.jpg")),
            rf"{COCO}: images\.0\.file_name: expected the name of a file below its folder.*, got '\.\./x\.jpg'",
        ),
        (
            "coco image twice",
            edit(COCO, lambda coco: coco["images"].append(coco["images"][0])),
            rf"{COCO}: image id 30 is listed twice\. Keep one of its entries",
        ),
        ("ids word", add(IDS, b"word\n"), rf"{IDS}: entry 2: expected an image id of at most 18 digits, got 'word'"),
        ("ids large", add(IDS, b"1" * 19), rf"{IDS}: entry 2: expected an image id of at most 18 digits, got '1111"),
        ("ids twice", add(IDS, b"30\n"), rf"{IDS}: image 30 is listed twice\. Keep one of them"),
        (
            "ids empty",
            write(IDS, ""),
            rf"{ROWS}: person 301 is of image 30, which is not among the 0 ids of {IDS}\. Are both of one release\?",
        ),
        (
            "ids other",
            add(IDS, b"99\n"),
            rf"{ROWS}: image 99 of the split is in no COCO instances file\..* Else remove it from {IDS}, or add it to",
        ),
        (
            "label",
            edit(ROWS, lambda rows: rows[1].update(label=[2])),
            rf"{ROWS}: 1\.label\.0: Input should be 0 or 1, got 2",
        ),
        (
            "labels too few",
            edit(ROWS, lambda rows: rows[1].update(label=[])),
            rf"{ROWS}: action 'hit': 1 ann_id, but 0 label where 1 belong",
        ),
        (
            "person text",
            edit(ROWS, lambda rows: rows[1].update(ann_id=["301"])),
            rf"{ROWS}: 1\.ann_id\.0: Input should be a valid integer, got '301'",
        ),
        (
            "roles without agent",
            edit(ROWS, lambda rows: rows[1].update(role_name=["instr", "obj", "agent"])),
            rf"{ROWS}: action 'hit': expected 'agent', then other roles, got \['instr', 'obj', 'agent'\]",
        ),
        (
            "other persons",
            edit(ROWS, lambda rows: rows[1].update(ann_id=[302])),
            rf"{ROWS}: action 'hit': lists other persons, or in another order, than 'stand'",
        ),
        (
            "agents",
            edit(ROWS, lambda rows: rows[1].update(role_object_id=[302, 0, 0])),
            rf"{ROWS}: action 'hit': the agents in role_object_id are not ann_id\. Is it role-major\?",
        ),
        (
            "object unknown",
            edit(ROWS, lambda r: r[2].update(role_object_id=[301, 999])),
            rf"{ROWS}: image 30: 'look obj' of person 301 is annotation 999, which COCO's "
            rf"instances.*do not have\. Are both of one release\?",
        ),
        (
            "person of another class",
            edit(ROWS, lambda r: [a.update(ann_id=[302], role_object_id=[302, *a["role_object_id"][1:]]) for a in r]),
            rf"{ROWS}: image 30: person 302 has COCO's category 3, not person",
        ),
        ("labels missing", edit(ROWS, lambda r: r[1].pop("label")), rf"{ROWS}: 1\.label: Field required"),
        (
            "page in place of rows",
            write(ROWS, "<html>404</html>"),
            rf"{ROWS}: Invalid JSON: expected value at line 1 column 1.*Get or make it again",
        ),
        (
            "UTF-16",
            lambda: Path(ROWS).write_bytes(Path(ROWS).read_text().encode("utf-16")),
            rf"{ROWS}: byte 0xff at 0 is not text in UTF-8\. Save the file as UTF-8",
        ),
        (
            "key twice",
            write(
                ROWS,
                '[{"action_name":"a","action_name":"b","role_name":["agent"],"image_id":[],"ann_id":[],"label":[],"role_object_id":[]}]',
            ),
            rf"{ROWS}: the key 'action_name' is 2 times in one object\. Keep one",
        ),
        (
            "unscored role",
            yaml_edit("prepare.yaml", lambda c: c["vcoco"].update(unscored_roles=["fly obj"])),
            r"raw/vcoco/vcoco_train\.json: no action-role \['fly obj'\], which the setting vcoco\.unscored_roles",
        ),
        (
            "rows missing",
            lambda: Path(ROWS).unlink(),
            r"raw/vcoco: split 'test' has neither vcoco_test\.json nor instances_vcoco_test\.json",
        ),
        (
            "release",
            yaml_edit("prepare.yaml", lambda c: c["vcoco"].update(release="vcoco-2015")),
            r"raw: the annotations are not those of the release vcoco-2015.*actions: 26 expected, 4 found",
        ),
        (
            "pairs of other images",
            lambda: (
                Path(ROWS).unlink(),
                write_json(
                    Path("raw/vcoco/instances_vcoco_test.json"),
                    {"annotations": [], "images": [30], "classes": [], "objects": []},
                ),
            )[0],
            r"raw/vcoco/instances_vcoco_test\.json: 1 images, but 0 annotations",
        ),
        (
            "pairs of other boxes",
            lambda: (
                Path(ROWS).unlink(),
                write_json(
                    Path("raw/vcoco/instances_vcoco_test.json"),
                    {
                        "annotations": [
                            {
                                "boxes_h": [[1, 1, 2, 2]],
                                "boxes_o": [[1, 1, 2, 2]],
                                "actions": [0],
                                "objects": [1],
                                "file_name": "a",
                            }
                        ],
                        "images": [30],
                        "classes": ["hit obj"],
                        "objects": ["bg", "ball"],
                    },
                ),
            )[0],
            r"raw/vcoco/instances_vcoco_test\.json: image 30: box \[1\.0, 1\.0, 2\.0, 2\.0\] of a "
            r"person is not among COCO's 2 instances",
        ),
        ("coco without categories", edit(COCO, lambda c: c.pop("categories")), rf"{COCO}: categories: Field required"),
        (
            "coco without person",
            lambda: [
                edit(f"raw/coco/instances_{n}2014.json", lambda c: c["categories"][1].update(name="human"))()
                for n in ("train", "val")
            ],
            r"raw/coco/instances_train2014\.json: no category is named 'person': human, ball, bat",
        ),
        (
            "coco box of three",
            edit(COCO, lambda c: c["annotations"][0].update(bbox=[1, 2, 3])),
            rf"{COCO}: annotations\.0\.bbox\.3: Field required",
        ),
        (
            "coco box negative",
            edit(COCO, lambda c: c["annotations"][0].update(bbox=[1, 2, -3, 4])),
            rf"{COCO}: image 30: bbox of annotation 302 is \[1\.0, 2\.0, -3\.0, 4\.0\].*expected a "
            rf"width and a height of at least 0",
        ),
        (
            "coco category unknown",
            edit(COCO, lambda c: c["annotations"][0].update(category_id=77)),
            rf"{COCO}: annotation 302: no category 77 in the file, which has \[1, 3, 9\]\. Correct category_id",
        ),
        (
            "coco annotation twice",
            edit(COCO, lambda c: c["annotations"].append(c["annotations"][0])),
            rf"{COCO}: annotation id 302 is listed twice\. Keep one of its entries",
        ),
        (
            "coco missing",
            lambda: [Path(f"raw/coco/instances_{n}2014.json").unlink() for n in ("train", "val")],
            r"raw/coco: neither instances_train2014\.json nor instances_val2014\.json\. Put COCO's there",
        ),
        ("ids of other digits", add(IDS, "٣٠".encode()), rf"{IDS}: entry 2: expected an image id of at most 18 digits"),
    ],
    "table": [
        (
            "record twice",
            edit(RECORDS, lambda records: records.append(records[0])),
            rf"{RECORDS}: image 1000 is listed 2 times\. Keep one of its records",
        ),
        (
            "record id",
            edit(RECORDS, lambda records: records[0].update(image_id=2**64)),
            rf"{RECORDS}: 0\.image_id: Input should be less than {2**63}, got {2**64}",
        ),
        (
            "record label",
            edit(RECORDS, lambda records: records[0]["labels"].__setitem__(0, 99)),
            rf"{RECORDS}: image 1000: 99 is not a label: expected 0 to 3",
        ),
        (
            "record box",
            edit(RECORDS, lambda records: records[0]["boxes"][0].__setitem__(0, float("nan"))),
            rf"{RECORDS}: 0\.boxes\.0\.0: Input should be a finite number, got nan",
        ),
        ("record nested", write(RECORDS, NESTED), rf"{RECORDS}: Invalid JSON: recursion limit exceeded"),
        (
            "vocabulary twice",
            edit(VOCABULARY_FILE, lambda vocabulary: vocabulary["objects"].append("person")),
            rf"{VOCABULARY_FILE}: object 'person' is listed twice, expected different names\. Prepare it again",
        ),
        (
            "vocabulary empty",
            edit(VOCABULARY_FILE, lambda vocabulary: vocabulary.update(objects=[])),
            rf"{VOCABULARY_FILE}: objects: Tuple should have at least 1 item",
        ),
        (
            "vocabulary person",
            edit(VOCABULARY_FILE, lambda vocabulary: vocabulary.update(person=99)),
            rf"{VOCABULARY_FILE}: person is object 99, expected 0 to 3\. Prepare it again",
        ),
        (
            "vocabulary hoi",
            edit(VOCABULARY_FILE, lambda vocabulary: vocabulary["hois"].append([99, 99])),
            rf"{VOCABULARY_FILE}: hois\.\d+ is verb 99, object 99, but there are 24 verbs and 4 "
            rf"objects\. Prepare it again",
        ),
        (
            "column twice",
            table(lambda rows: rows.append_column("score", rows.column("score"))),
            rf"{TRIPLETS}: column 'score' occurs 2 times\. See docs/evaluation\.md for the format",
        ),
        (
            "column missing",
            table(lambda rows: rows.drop_columns(["verb"])),
            rf"{TRIPLETS}: column 'verb' is missing \(int64\)\. See docs/evaluation\.md for the format",
        ),
        (
            "column text",
            table(lambda rows: rows.drop_columns(["verb"]).append_column("verb", rows["verb"].cast(pa.string()))),
            rf"{TRIPLETS}: column 'verb' is string, expected whole numbers .*\. See docs/evaluation\.md",
        ),
        (
            "score nan",
            cell("score", float("nan")),
            rf"{TRIPLETS}: row 0 \(from 0\): the score is NaN; expected a finite number, .*'image_id': 1000",
        ),
        (
            "score infinite",
            cell("score", float("inf")),
            rf"{TRIPLETS}: row 0 \(from 0\): the score is infinite; expected a finite number, .*'image_id': 1000",
        ),
        (
            "score null",
            cell("score", None),
            rf"{TRIPLETS}: row 0 \(from 0\): column 'score' holds null, expected a number",
        ),
        (
            "verb",
            cell("verb", 999),
            rf"{TRIPLETS}: row 0 \(from 0\): the verb is not in 0\.\.24\. The row: .*'verb': 999",
        ),
        (
            "image id",
            cell("image_id", 2**64 - 1, pa.uint64()),
            rf"{TRIPLETS}: row 0 .*'image_id' holds {2**64 - 1}, expected a whole number of 64 bits with a sign",
        ),
        (
            "image of another split",
            cell("image_id", 123456),
            rf"{TRIPLETS}: row 0 .*the image is not one of the 40 of the split; perhaps the rows are of another "
            r"split\. The row: .*'image_id': 123456",
        ),
        (
            "box inverted",
            cell("human_x1", 1e6),
            rf"{TRIPLETS}: row 0 .*the human box is inverted; expected x1 <= x2 .*'human_x1': 1000000\.0",
        ),
        ("cut", cut(TRIPLETS), rf"{TRIPLETS}: not a complete Parquet file .*\. Write or get it again"),
        ("empty", write(TRIPLETS, ""), rf"{TRIPLETS}: not a complete Parquet file .*0 bytes.*\. Write or get it again"),
        (
            "pipe",
            replace(TRIPLETS, os.mkfifo),
            rf"{TRIPLETS}: input of 'evaluate' is a pipe or a device\. Write its content to a file first",
        ),
        (
            "record lists",
            edit(RECORDS, lambda r: r[0]["labels"].pop()),
            rf"{RECORDS}: image 1000: 2 boxes, 1 labels, 2 is_crowd and 2 is_listed\. Prepare it again",
        ),
        (
            "record verb",
            edit(RECORDS, lambda r: r[0].update(interactions=[[0, 99, 0]])),
            rf"{RECORDS}: image 1000: \[0, 99, 0\] is an interaction.*verb is not 0 to 24",
        ),
        (
            "vocabulary data set",
            edit(VOCABULARY_FILE, lambda v: v.update(dataset="coco")),
            rf"{VOCABULARY_FILE}: dataset: Input should be 'vcoco' or 'hicodet', got 'coco'",
        ),
        (
            "text",
            write("triplets.parquet", "a,b\n1,2\n"),
            rf"{TRIPLETS}: not a complete Parquet file.*Write or get it again",
        ),
        (
            "column unknown",
            table(lambda r: r.append_column("x", r["score"])),
            rf"{TRIPLETS}: column 'x' does not belong to this table\. See docs/evaluation\.md",
        ),
        (
            "index of pandas",
            table(lambda r: r.append_column("__index_level_0__", r["score"])),
            rf"{TRIPLETS}: column '__index_level_0__' does not belong to this table \(pandas leaves its index out",
        ),
        (
            "verb fraction",
            cell("verb", 0.5, pa.float64()),
            rf"{TRIPLETS}: row 0 \(from 0\): column 'verb' holds 0\.5, expected a whole number",
        ),
        (
            "object class",
            cell("object_category", 99),
            rf"{TRIPLETS}: row 0 \(from 0\): the object category is not in 0\.\.3, nor -1 for unknown",
        ),
        (
            "object box in part",
            cell("object_x1", float("nan")),
            rf"{TRIPLETS}: row 0 \(from 0\): the object box is neither four finite numbers nor four NaN",
        ),
    ],
    "pickle": [
        (
            "garbage",
            write("mine.pkl", "garbage"),
            r"mine\.pkl: not a pickle of plain values .*\. Expected a list of dictionaries .*, by pickle\.dump",
        ),
        (
            "code",
            write("mine.pkl", pickle.dumps([Code()])),
            r"mine\.pkl: not a pickle of plain values \(it asks for posix\.mkdir, which is not run\)\. Expected a list",
        ),
        ("number", write("mine.pkl", pickle.dumps(3)), r"mine\.pkl: expected a list of dictionaries, got 3\."),
        ("list of numbers", write("mine.pkl", pickle.dumps([3])), r"mine\.pkl: item 0: expected a dictionary, got 3"),
        (
            "image of another split",
            picklable(lambda i: i.update(image_id=999999)),
            r"mine\.pkl: item 0, 'image_id': image 999999 is not one of the 40 of the split",
        ),
        (
            "box of three",
            picklable(lambda i: i.update(person_box=[1, 2, 3])),
            r"mine\.pkl: item 0, 'person_box': expected 4 number\(s\), got \[1, 2, 3\]",
        ),
        (
            "box inverted",
            picklable(lambda i: i.update(person_box=[9, 9, 1, 1])),
            r"mine\.pkl: item 0, 'hold_obj' \(25 rows like it\): the human box is inverted; expected x1 <= x2",
        ),
        (
            "key missing",
            picklable(lambda i: i.pop("hold_obj")),
            r"mine\.pkl: item 0, 'hold_obj': expected 5 number\(s\), got no such key; NaN would say "
            r"that nothing was predicted",
        ),
        (
            "score infinite",
            picklable(lambda i: i.update(hold_obj=[1, 1, 2, 2, float("inf")])),
            r"mine\.pkl: item 0, 'hold_obj': the score is infinite; expected a finite number",
        ),
        (
            "tensor",
            picklable(lambda i: i.update(hold_obj=torch.zeros(5))),
            r"mine\.pkl: not a pickle of plain values \(it asks for torch\..*which is not "
            r"run\).*torch tensors by \.tolist\(\)",
        ),
        (
            "eval",
            write("mine.pkl", b'cbuiltins\neval\n(S\'open("executed","w")\'\ntR.'),
            r"mine\.pkl: not a pickle of plain values \(it asks for builtins\.eval, which is not run\)",
        ),
        (
            "of HICO-DET",
            lambda: (
                shutil.rmtree("records"),
                shutil.copytree("hicodet", "records"),
                write("mine.pkl", pickle.dumps([]))(),
            )[2],
            r"mine\.pkl: a pickle is V-COCO's form; the annotations are of hicodet",
        ),
    ],
    "folder": [
        (
            "one of four",
            write("mats/detections_01.mat", ""),
            r"mats: detections_02\.mat is missing; expected detections_01\.mat to detections_04\.mat, .*found: 1",
        ),
        (
            "garbage",
            write("mats/detections.mat", "garbage"),
            r"mats/detections\.mat: is not a complete MATLAB file .*\. Make or get it again",
        ),
        (
            "classes missing",
            detections(lambda c: c[:1]),
            r"mats/detections\.mat: all_boxes is a cell array of 1 x 60; expected a cell array of 10 x 60",
        ),
        (
            "numbers",
            detections(lambda c: np.eye(3)),
            r"mats/detections\.mat: all_boxes is an array of float64 of 3 x 3; expected a cell array",
        ),
        (
            "columns",
            detections(lambda c: c.__setitem__((0, 0), np.eye(3))),
            r"mats/detections\.mat: all_boxes\{1,1\} \('ride airplane', image 1\) is 3 x 3 of float64; "
            r"expected N x 9 numbers",
        ),
        (
            "score nan",
            detections(lambda c: c.__setitem__((0, 0), np.full((1, 9), np.nan))),
            r"mats/detections\.mat: all_boxes\{1,1\} \('ride airplane', image 1\), row 1: the score is NaN",
        ),
        (
            "box inverted",
            detections(lambda c: c.__setitem__((0, 0), np.array([[9.0, 9, 1, 1, 1, 1, 2, 2, 0.5]]))),
            r"mats/detections\.mat: all_boxes\{1,1\} \('ride airplane', image 1\), row 1: the human box is inverted",
        ),
        (
            "sparse",
            detections(lambda c: sparse.csc_matrix(np.eye(3))),
            r"mats/detections\.mat: all_boxes is a sparse matrix\. Save it as a full one, by full\(all_boxes\)",
        ),
        (
            "both forms",
            lambda: (detections(lambda c: None)(), write("mats/detections_01.mat", "")()),
            r"mats: contains both detections\.mat and detections_01\.mat\. Remove those that are not the results",
        ),
    ],
    "doctor": [
        ("nested", write("params.yaml", NESTED), r"params\.yaml: expected at most 50 levels of nesting, found more"),
        ("list", write("params.yaml", "- a\n"), r"params\.yaml: .*: expected keys with values, got \['a'\]"),
        ("bytes", write("params.yaml", b"\xff"), r"params\.yaml: byte 0xff .*\. Save the file as UTF-8"),
    ],
    "fetch": [
        ("list", write("sources.yaml", "- a"), r"sources\.yaml: .*: expected keys with values, got \['a'\]"),
        ("bytes", write("sources.yaml", b"\xff"), r"sources\.yaml: byte 0xff .*\. Save the file as UTF-8"),
    ],
    "params": [
        (
            "seed twice",
            params("profiles tiny seeds", [1, 1]),
            r"params\.yaml: 1 setting\(s\) do not fit:.*profiles\.tiny\.seeds: each seed is one run: "
            r"1 is listed 2 times",
        ),
        (
            "no seed",
            params("profiles tiny seeds", []),
            r"params\.yaml:.*profiles\.tiny\.seeds: List should have at least 1 item",
        ),
        (
            "learning rate text",
            params("profiles tiny train vcoco learning_rate", "1e-3"),
            r"params\.yaml:.*profiles\.tiny\.train\.vcoco\.learning_rate: Input should be a valid number, got '1e-3'",
        ),
        (
            "epochs 0",
            params("profiles tiny train vcoco epochs", 0),
            r"params\.yaml:.*profiles\.tiny\.train\.vcoco\.epochs: Input should be greater than 0, got 0",
        ),
        (
            "share nan",
            params("profiles tiny train vcoco share", float("nan")),
            r"params\.yaml:.*profiles\.tiny\.train\.vcoco\.share: Input should be a finite number, got nan",
        ),
        (
            "key misspelt",
            params("profiles tiny losses focal_gama", 1.0),
            r"params\.yaml:.*profiles\.tiny\.losses\.focal_gama: Extra inputs are not permitted",
        ),
        (
            "heads",
            params("profiles tiny network ire heads", 3),
            r"params\.yaml:.*profiles\.tiny\.network\.ire: dim 8 cannot be shared evenly by 3 heads",
        ),
        (
            "layers",
            params("profiles tiny network ire layers", 10**9),
            r"params\.yaml:.*profiles\.tiny\.network\.ire\.layers: Input should be less than or equal "
            r"to 1000, got 1000000000",
        ),
        (
            "views",
            params("profiles tiny features views", 3),
            r"params\.yaml:.*profiles\.tiny\.features: views 3 needs `augment`",
        ),
        (
            "detector",
            params("profiles tiny backbones base vcoco", "nope"),
            r"params\.yaml, profiles\.tiny\.backbones\.base\.vcoco: there is no 'nope'\. There are: base, medium",
        ),
        (
            "variant",
            params("runs shared rmlr variant", "rmrl"),
            r"params\.yaml, runs\.shared\.rmlr\.variant: there is no 'rmrl'\. There are: plain",
        ),
        (
            "data set",
            params("runs shared rmlr dataset", "coco"),
            r"params\.yaml:.*runs\.shared\.rmlr\.dataset: Input should be 'vcoco' or 'hicodet', got 'coco'",
        ),
        (
            "override",
            params("runs shared rmlr overrides", {"train.epoch": 3}),
            r"params\.yaml, runs\.shared\.rmlr\.overrides: 'train\.epoch' is not a number of a run\. "
            r"Give a dotted path",
        ),
        (
            "override of another type",
            params("runs shared rmlr overrides", {"train.epochs": "three"}),
            r"params\.yaml, runs\.shared\.rmlr, with its overrides:.*train\.epochs: Input should be a "
            r"valid integer, got 'three'",
        ),
        (
            "grid and override",
            yaml_edit(
                "params.yaml",
                lambda c: c["runs"]["shared"]["rmlr"].update(
                    overrides={"train.epochs": 3}, grid={"train.epochs": [1, 2]}
                ),
            ),
            r"params\.yaml, runs\.shared\.rmlr\.grid: train\.epochs is also set by the overrides",
        ),
        (
            "grid without a name",
            params("runs shared rmlr grid", {"train.epochs": ["a/b"]}),
            r"params\.yaml, runs\.shared\.rmlr\.grid: a point cannot be named: a name has 1 to 100 letters",
        ),
        (
            "start in a circle",
            params("runs shared rmlr start", "shared/rmlr"),
            r"params\.yaml, run shared/rmlr: starts from shared/rmlr: a circle\. Remove one `start`",
        ),
        (
            "start nowhere",
            params("runs shared rmlr start", "shared/none"),
            r"params\.yaml, run shared/rmlr, start: there is no 'shared/none'",
        ),
        (
            "zero-shot V-COCO",
            params("runs shared rmlr overrides", {"train.zero_shot": "rare_first"}),
            r"params\.yaml, runs\.shared\.rmlr: train\.zero_shot is rare_first, but the run is on vcoco",
        ),
        (
            "name of a run",
            params(
                "runs shared ../x",
                {"variant": "rmlr", "dataset": "vcoco", "backbone": "base", "encoder": "main", "overrides": {}},
            ),
            r"params\.yaml:.*runs\.shared\.\.\./x\.\[key\]: a name has 1 to 100 letters.*got '\.\./x'",
        ),
        (
            "pose without a network",
            yaml_edit(
                "params.yaml",
                lambda c: (c["profiles"]["tiny"].update(pose=None), c["runs"]["shared"]["rmlr"].update(variant="pose")),
            ),
            r"params\.yaml, runs\.shared\.rmlr: its variant reads a pose network, and profile tiny has none",
        ),
        (
            "name of a table",
            params("tables tiny", {"title": "x", "rows": [{"row": {"name": "a"}, "runs": ["shared/rmlr"]}]}),
            r"params\.yaml, tables\.tiny: this name is in use\. Give the table another",
        ),
        (
            "kind of a figure",
            params("figures predictions kind", "pie"),
            r"params\.yaml:.*figures\.predictions: Input tag 'pie' found using 'kind' does not match",
        ),
        (
            "one fold",
            params("profiles tiny folds", 1),
            r"params\.yaml:.*profiles\.tiny\.folds\.count: Input should be greater than or equal to 2, got 1",
        ),
        (
            "large seed",
            params("profiles tiny detector_seed", 2**40),
            r"params\.yaml:.*profiles\.tiny\.detector_seed: Input should be less than 4294967296",
        ),
        (
            "code",
            write("params.yaml", "a: !!python/object/apply:os.mkdir [executed]\n"),
            r"params\.yaml: not YAML: could not determine a constructor for the tag.*os\.mkdir",
        ),
        ("list as key", write("params.yaml", "? [a, b]\n: 1\n"), r"params\.yaml: not YAML:.*found unhashable key"),
        (
            "long number",
            write("params.yaml", "a: " + ":".join(["59"] * 3000) + "\n"),
            r"params\.yaml:.*a: Extra inputs are not permitted, got a whole number of 17721 bits",
        ),
        (
            "two documents",
            write("params.yaml", "a: 1\n---\nb: 2\n"),
            r"params\.yaml: not YAML: expected a single document",
        ),
        (
            "tab",
            write("params.yaml", "a:\n\tb: 1\n"),
            r"params\.yaml: not YAML:.*cannot start any token.*line 2, column 1",
        ),
    ],
    "hico": [
        ("cut", cut(HICO), rf"{HICO}: Invalid JSON: EOF.*Is the file cut off\? Get or make it again"),
        (
            "lists",
            edit(HICO, lambda c: c["filenames"].pop()),
            rf"{HICO}: lists over the images differ in length: {{'annotation': 2, 'filenames': 1, 'size': 2}}",
        ),
        (
            "size",
            edit(HICO, lambda c: c["size"].__setitem__(0, [0, 5])),
            rf"{HICO}: size\.0\.0: Input should be greater than 0, got 0",
        ),
        (
            "name without a number",
            edit(HICO, lambda c: c["filenames"].__setitem__(0, "photo.jpg")),
            rf"{HICO}: photo\.jpg: the file name has no number, which is the image's id",
        ),
        (
            "number twice",
            edit(HICO, lambda c: c["filenames"].__setitem__(1, c["filenames"][0])),
            rf"{HICO}: HICO_test2015_00000001\.jpg: has the same number as",
        ),
        (
            "name outside",
            edit(HICO, lambda c: c["filenames"].__setitem__(0, "../1.jpg")),
            rf"{HICO}: filenames\.0: expected the name of a file below its folder.*got '\.\./1\.jpg'",
        ),
        (
            "other classes",
            edit(HICO, lambda c: c["correspondence"].__setitem__(0, [9, 9, 9])),
            rf"{HICO}: correspondence differs from that of raw/hicodet/instances_train2015\.json\. Are "
            rf"both of one release\?",
        ),
        (
            "class unknown",
            lambda: [
                edit(f"raw/hicodet/instances_{n}2015.json", lambda c: c["correspondence"].__setitem__(0, [0, 9, 9]))()
                for n in ("train", "test")
            ],
            rf"{HICO}: correspondence\.0 is \(HOI, object, verb\) \(0, 9, 9\): expected HOI 0, an object below 2",
        ),
        ("rare", edit(HICO, lambda c: c.update(rare=[99])), rf"{HICO}: rare has HOI 99, expected 0 to 3"),
        (
            "no person",
            lambda: [
                edit(f"raw/hicodet/instances_{n}2015.json", lambda c: c["objects"].__setitem__(1, "human"))()
                for n in ("train", "test")
            ],
            rf"{HICO}: no object is named 'person'",
        ),
        (
            "row of another class",
            edit(HICO, lambda content: content["annotation"][0]["verb"].__setitem__(0, 2)),
            rf"{HICO}: HICO_test2015_00000001\.jpg: row 0 has HOI 0, verb 2, object 1, which is not in correspondence",
        ),
        (
            "rows",
            edit(HICO, lambda content: content["annotation"][0]["boxes_o"].pop()),
            rf"{HICO}: HICO_test2015_00000001\.jpg: boxes_h, boxes_o, hoi, object and verb have \[1, "
            rf"0, 1, 1, 1\] entries",
        ),
        (
            "box",
            edit(HICO, lambda content: content["annotation"][0]["boxes_h"].__setitem__(0, [float("nan"), 9, 10, 10])),
            rf"{HICO}: annotation\.0\.boxes_h\.0\.0: Input should be a finite number, got nan",
        ),
        (
            "val of all",
            yaml_edit("hico.yaml", lambda c: c["hicodet"].update(val_images=4)),
            r"raw/hicodet/instances_train2015\.json: 4 images, of which the setting "
            r"hicodet\.val_images takes 4 for val",
        ),
        (
            "missing",
            lambda: Path(HICO).unlink(),
            r"raw/hicodet: split 'test' has neither instances_test2015\.json nor anno_bbox\.mat",
        ),
        ("labels cut", cut(LABELS), rf"{LABELS}: is not a complete MATLAB file up to version 7.*Make or get it again"),
        (
            "labels of version 7.3",
            write(LABELS, "MATLAB 7.3 MAT-file, Platform: GLNXA64"),
            rf"{LABELS}: is a MATLAB file of version 7\.3, another format \(HDF5\).*'-v7'",
        ),
        (
            "labels of other images",
            labels(lambda c: c.update(anno_test=np.zeros((2, 2)))),
            rf"{LABELS}: does not match.*anno_test is float64 of \(2, 2\), expected numbers of "
            rf"\(classes, images\) \(4, 2\)",
        ),
        (
            "labels sparse",
            labels(lambda c: c.update(anno_test=sparse.csc_matrix(np.nan_to_num(c["anno_test"])))),
            rf"{LABELS}: anno_test is a sparse matrix\. Save it as a full one, by full\(anno_test\)",
        ),
        (
            "labels without a variable",
            labels(lambda c: c.pop("anno_test")),
            rf"{LABELS}: has no variable 'anno_test', but list_train",
        ),
        (
            "labels without an object",
            labels(lambda c: c.update(anno_test=np.zeros((4, 2)))),
            rf"{LABELS}: image 1 of test has a visible pair with 'person', but none of that object's "
            rf"classes is labelled 1",
        ),
    ],
    "mat": [
        ("garbage", write(MATRICES, "garbage"), rf"{MATRICES}: is not a complete MATLAB file.*Make or get it again"),
        (
            "no variable",
            matrices(lambda c: c.pop("bbox_test")),
            rf"{MATRICES}: has no variable 'bbox_test', but bbox_train, list_action",
        ),
        (
            "numbers",
            matrices(lambda c: c.update(bbox_test=np.eye(3))),
            rf"{MATRICES}: bbox_test has no field 'filename', but none",
        ),
        (
            "class without a name",
            matrices(lambda c: c["list_action"]["nname"].__setitem__((0, 0), 5.0)),
            rf"{MATRICES}: bbox_train: objects\.0: expected a name, got ''",
        ),
        (
            "width",
            matrices(lambda c: c["bbox_test"]["size"][0, 0]["width"].__setitem__((0, 0), [1.5])),
            rf"{MATRICES}: HICO_test2015_00000001\.jpg: width is 1\.5, expected a whole number",
        ),
        (
            "class unknown",
            matrices(lambda c: c["bbox_test"]["hoi"][0, 0]["id"].__setitem__((0, 0), np.uint16(99))),
            rf"{MATRICES}: HICO_test2015_00000001\.jpg: hoi\.id is 99, but list_action has classes 1 to 4",
        ),
        (
            "classes as numbers",
            matrices(lambda c: c["bbox_test"]["hoi"].__setitem__((0, 0), np.eye(3))),
            rf"{MATRICES}: HICO_test2015_00000001\.jpg: hoi is array\(.*expected structs\. Is the file damaged\?",
        ),
        (
            "rows of no box",
            matrices(lambda c: c["bbox_test"]["hoi"][0, 0]["connection"].__setitem__((0, 0), np.array([[9, 9]]))),
            rf"{MATRICES}: HICO_test2015_00000001\.jpg: class 1 connects \[\[9, 9\]\] \(person, "
            rf"thing\), but has 1 and 1 boxes",
        ),
        (
            "boxes sparse",
            matrices(
                lambda c: c["bbox_test"]["hoi"][0, 0]["bboxhuman"].__setitem__((0, 0), sparse.csc_matrix(np.eye(4)))
            ),
            rf"{MATRICES}: HICO_test2015_00000001\.jpg: bboxhuman is <Compressed.*expected structs",
        ),
        (
            "corner text",
            matrices(lambda c: c["bbox_test"]["hoi"][0, 0]["bboxhuman"][0, 0]["x1"].__setitem__((0, 0), "left")),
            rf"{MATRICES}: HICO_test2015_00000001\.jpg: x1 is array\(\['left'\].*expected one number",
        ),
        (
            "name number",
            matrices(lambda c: c["bbox_test"]["filename"].__setitem__((0, 0), 3.0)),
            rf"{MATRICES}: bbox_test: filenames\.0: expected the name of a file below its folder",
        ),
    ],
    "agents": [
        ("missing", lambda: None, r"agents\.parquet: input of 'evaluate' does not exist\. Check the path"),
        (
            "action",
            agents(
                lambda r: r.set_column(
                    r.column_names.index("action"), "action", pa.array([99, *r["action"].to_pylist()[1:]])
                )
            ),
            r"agents\.parquet: row 0 \(from 0\): the action is not in 0\.\.25.*'action': 99",
        ),
        (
            "score",
            agents(
                lambda r: r.set_column(
                    r.column_names.index("score"), "score", pa.array([None, *r["score"].to_pylist()[1:]])
                )
            ),
            r"agents\.parquet: row 0 \(from 0\): column 'score' holds null, expected a number",
        ),
        (
            "triplets",
            lambda: shutil.copyfile(TRIPLETS, "agents.parquet"),
            r"agents\.parquet: column 'action' is missing \(int64\); column 'object_x1' does not belong to this table",
        ),
    ],
    "predict": [
        ("shard cut", cut(SHARD), rf"{SHARD}: cannot be read \(.*Is it truncated\? Make it again with `rmlr features`"),
        (
            "shard bit",
            flip(SHARD, 0.9),
            rf"{SHARD}: tensor 'maps' does not have the checksum that it was written with.*Make it "
            rf"again with `rmlr features`",
        ),
        ("shard pipe", replace(SHARD, os.mkfifo), rf"{SHARD}: is not a file\. Make it again with `rmlr features`"),
        (
            "shard images",
            tensor(SHARD, lambda t: t.update(image_ids=t["image_ids"] + 1)),
            rf"{SHARD}: tensor 'image_ids' does not name the images that index\.json does",
        ),
        (
            "shard counts",
            tensor(SHARD, lambda t: t.update(counts=t["counts"] + 1)),
            rf"{SHARD}: tensor 'counts' makes 8 instances, but the shard has 5",
        ),
        (
            "shard sizes",
            tensor(SHARD, lambda t: t.update(map_sizes=t["map_sizes"] * 2**40)),
            rf"{SHARD}: tensor 'map_sizes' makes 58028439341502200385896448 cells, but the shard has 48",
        ),
        (
            "shard labels",
            tensor(SHARD, lambda t: t.update(labels=t["labels"] + 9)),
            rf"{SHARD}: tensor 'labels' holds 9 at \[0\], expected whole numbers of at least 0 and at most 2",
        ),
        (
            "shard nan",
            tensor(SHARD, lambda t: t["maps"].fill_(torch.nan)),
            rf"{SHARD}: tensor 'maps' holds nan at \[0, 0\], expected finite numbers",
        ),
        (
            "shard boxes",
            tensor(SHARD, lambda t: t.update(boxes=t["boxes"].flip(1))),
            rf"{SHARD}: tensor 'boxes' holds \[60\.0, 30\.0, 4\.0, 4\.0\] at \[0\], expected x1 <= x2 and y1 <= y2",
        ),
        (
            "shard type",
            tensor(SHARD, lambda t: t.update(tokens=t["tokens"].double())),
            rf"{SHARD}: tensor 'tokens' is float64 of shape \[5, 5\], expected float32 of shape "
            rf"\[instances, 5\] with instances = 5",
        ),
        ("shard missing", lambda: Path(SHARD).unlink(), rf"{SHARD}: cannot be read \(No such file"),
        (
            "index image twice",
            edit(INDEX, lambda i: i["image_ids"].append(300)),
            rf"{INDEX}: \(top\): an image is listed twice in image_ids",
        ),
        (
            "index classes",
            edit(INDEX, lambda i: i.update(objects=["person", "cup", "bat"])),
            r"train/checkpoint\.json: network, features and annotations do not fit together:.*the "
            r"features have other classes, e\.g\. \['cup'\]",
        ),
        (
            "index views",
            edit(INDEX, lambda i: i.update(views=10**9)),
            rf"{INDEX}: views: Input should be less than or equal to 10000, got 1000000000",
        ),
        (
            "index of another detector",
            edit(INDEX, lambda i: i.update(detector_digest="x")),
            rf"{SHARD}: is of another network than index\.json says",
        ),
        ("weights cut", cut(WEIGHTS), rf"{WEIGHTS}: cannot be read \(.*Train again"),
        (
            "weights bit",
            flip(WEIGHTS, 0.9),
            rf"{WEIGHTS}: tensor 'reason\.encoder\.layers\.0\.mix\.weight' does not have the checksum",
        ),
        (
            "weights without a tensor",
            tensor(WEIGHTS, lambda t: t.pop(next(iter(t)))),
            rf"{WEIGHTS}: tensor 'describe\.context\.project\.0\.bias' is missing \(1 of 36 are\)",
        ),
        ("weights pickle", torch_file(WEIGHTS, {"a": Code()}), rf"{WEIGHTS}: cannot be read \("),
        ("card cut", cut(CARD_FILE), rf"{CARD_FILE}: Invalid JSON: EOF"),
        (
            "card format",
            edit(CARD_FILE, lambda c: c.update(format=3)),
            rf"{CARD_FILE}: format: Input should be 2, got 3",
        ),
        (
            "card width",
            edit(CARD_FILE, lambda c: c["network"].update(feature_dim=2**30)),
            rf"{WEIGHTS}: tensor 'describe\.context\.project\.0\.weight' is float32 of shape \[8, 4\], "
            rf"expected float32 of shape \[1073741824, 4\]",
        ),
        (
            "card layers",
            edit(CARD_FILE, lambda c: c["network"]["irm"].update(layers=10**9)),
            rf"{CARD_FILE}: network\.irm\.layers: Input should be less than or equal to 1000",
        ),
        (
            "card classes",
            edit(CARD_FILE, lambda c: c["vocabulary"].update(hois=[[9, 9]])),
            rf"{CARD_FILE}: \(top\): vocabulary: hois or person name more than its 2 verbs and 3 objects",
        ),
        (
            "settings folds",
            yaml_edit("predict.yaml", lambda c: c.update(folds=10**9)),
            r"predict\.yaml:.*folds: Input should be less than or equal to 1000",
        ),
        (
            "other verbs",
            edit("study/vocabulary.json", lambda v: v["verbs"].reverse()),
            r"train/checkpoint\.json: network, features and annotations do not fit together:.*or in another order",
        ),
    ],
    "given": [
        (
            "no description",
            lambda: Path(ABOUT).unlink(),
            rf"{ABOUT}: cannot be read \(No such file or directory\)\. docs/detectors\.md shows its form",
        ),
        (
            "other classes",
            edit(ABOUT, lambda a: a.update(objects=["person", "cup"])),
            r"given: mine: the detector's classes are not the dataset's: it has \['cup'\] in addition",
        ),
        (
            "class twice",
            edit(ABOUT, lambda a: a.update(objects=["person", "person", "ball", "bat"])),
            r"given: mine: the detector's classes have 'person' twice",
        ),
        (
            "stride",
            edit(ABOUT, lambda a: a.update(stride=8)),
            rf"{GIVEN}: tensor 'map' has \(4, 4\) cells, but about\.json says cells of 8 pixels of 64 x 64",
        ),
        (
            "picture size",
            edit(ABOUT, lambda a: a.update(image={"shortest": 2**50, "longest": 2**51})),
            r"new: the features need about.*are free\. Make room",
        ),
        ("cut", cut(GIVEN), rf"{GIVEN}: cannot be read \(.*Write it again; docs/detectors\.md shows its form"),
        ("pickle", torch_file(GIVEN, {"a": Code()}), rf"{GIVEN}: cannot be read \("),
        (
            "boxes outside",
            tensor(GIVEN, lambda t: t.update(boxes=t["boxes"] * 99)),
            rf"{GIVEN}: tensor 'boxes' holds \[396\.0, 396\.0, 2970\.0, 5940\.0\] at \[0\]: expected "
            rf"x1, y1, x2, y2 in pixels of the image, which is 64 x 64",
        ),
        (
            "fewer boxes",
            tensor(GIVEN, lambda t: t.update(boxes=t["boxes"][:1])),
            rf"{GIVEN}: tensor 'scores' is float32 of shape \[2\], expected float32 of shape "
            rf"\[instances\] with instances = 1",
        ),
        (
            "scores",
            tensor(GIVEN, lambda t: t.update(scores=t["scores"] + 1)),
            rf"{GIVEN}: tensor 'scores' holds 1\.899.*expected finite numbers of at least 0 and at most 1",
        ),
        (
            "labels",
            tensor(GIVEN, lambda t: t.update(labels=t["labels"] + 9)),
            rf"{GIVEN}: tensor 'labels' holds 9 at \[0\], expected whole numbers of at least 0 and at most 2",
        ),
        (
            "map infinite",
            tensor(GIVEN, lambda t: t["map"].fill_(torch.inf)),
            rf"{GIVEN}: tensor 'map' holds inf at \[0, 0, 0\], expected finite numbers",
        ),
        ("no map", tensor(GIVEN, lambda t: t.pop("map")), rf"{GIVEN}: tensor 'map' is missing \(1 of 5 are\)"),
        (
            "settings views",
            yaml_edit(
                "features.yaml",
                lambda c: c["features"].update(
                    views=2,
                    augment={
                        "flip": 0.5,
                        "jitter": 0.1,
                        "shortest": [64],
                        "longest": 64,
                        "crop": 0.0,
                        "crop_from": [64],
                        "crop_smallest": 32,
                        "crop_largest": 48,
                    },
                ),
            ),
            r"given: files of another framework have one view of each image, the settings say features\.views 2",
        ),
    ],
    "detector": [
        (
            "boxes outside",
            of_class("InWrongUnits"),
            r"tests\.own_detectors\.InWrongUnits: `detect` returned boxes from.*Clip them to it",
        ),
        (
            "map nan",
            of_class("NotFinite"),
            r"tests\.own_detectors\.NotFinite: `detect` returned `maps` with a number that is not finite",
        ),
        (
            "classes unknown",
            of_class("OfUnknownClasses"),
            r"tests\.own_detectors\.OfUnknownClasses: `detect` returned labels up to 5\. Expected: 0 to 2",
        ),
        ("no method", of_class("Blind"), r"tests\.own_detectors\.Blind: has no method `detect\(pixels\)`"),
        (
            "no class",
            write_json and write("detector/config.json", '{"model_type": "python"}'),
            r"detector/config\.json: class: Field required",
        ),
        (
            "class outside",
            write("detector/config.json", '{"model_type": "python", "class": "..x.Y"}'),
            r"detector/config\.json: class: String should match pattern",
        ),
        (
            "no module",
            write("detector/config.json", '{"model_type": "python", "class": "nowhere.X"}'),
            r"nowhere\.X: there is no module 'nowhere'",
        ),
        (
            "class changed",
            add("detector/detector.py", b"# more"),
            r".*own_detectors\.py: differs from its copy detector/detector\.py",
        ),
        (
            "weights cut",
            cut("detector/weights/grid.safetensors"),
            r"tests\.own_detectors\.Grid: cannot be made with weights "
            r"detector/weights/grid\.safetensors \(SafetensorError:.*RMLR_DEBUG=1 shows where",
        ),
        (
            "no weights",
            lambda: shutil.rmtree("detector/weights"),
            r"tests\.own_detectors\.Grid: cannot be made with weights None \(AssertionError",
        ),
        (
            "syntax",
            lambda: (
                write("mine.py", "def\n")(),
                write("detector/config.json", '{"model_type": "python", "class": "mine.X"}')(),
            ),
            r"mine\.py: cannot be imported \(SyntaxError: invalid syntax \(mine\.py, line 1\)\)\. "
            r"RMLR_DEBUG=1 shows where",
        ),
        ("photo cut", cut(PHOTO), rf"{PHOTO}: not a readable image \(.*Is the file cut off\? Get it again"),
        (
            "page in place of a photo",
            write(PHOTO, "<html>"),
            rf"{PHOTO}: not a readable image \(cannot identify image file",
        ),
        (
            "photo pipe",
            replace(PHOTO, os.mkfifo),
            rf"{PHOTO}: not a readable image \(a folder, pipe, socket or device\)",
        ),
        (
            "photo size",
            photo("RGB", (10, 10)),
            rf"{PHOTO}: is 10 x 10 pixels \(height, width\), image 300 is annotated as 64 x 64",
        ),
    ],
    "detr": [
        ("config garbage", write("detr/config.json", "garbage"), r"detr/config\.json: Invalid JSON: expected value"),
        (
            "config type",
            edit("detr/config.json", lambda c: c.update(model_type=["detr"])),
            r"detr/config\.json: model_type: Input should be a valid string, got \['detr'\]",
        ),
        (
            "config family",
            edit("detr/config.json", lambda c: c.update(model_type="yolo")),
            r"detr: its config\.json says model_type 'yolo'\. Expected a detector.*docs/detectors\.md",
        ),
        (
            "config width",
            edit("detr/config.json", lambda c: c.update(d_model=7)),
            r"detr: weights do not fit the architecture of its config\.json\. 51 of another shape",
        ),
        (
            "config picture",
            edit("detr/config.json", lambda c: c.update(rmlr_picture={"x": 1})),
            r"detr: rmlr_picture of its config\.json: x: Extra inputs are not permitted",
        ),
        (
            "weights bit",
            flip("detr/model.safetensors", 0.9),
            r"detr/model\.safetensors: tensor.*does not have the checksum that it was written with",
        ),
        (
            "weights without a tensor",
            tensor("detr/model.safetensors", lambda t: t.pop(next(iter(t)))),
            r"detr: weights do not fit the architecture of its config\.json\. 1 missing: bbox_predictor\.anchors",
        ),
        (
            "picture deviation",
            write("detr/preprocessor_config.json", '{"image_std":[0,0,0]}'),
            r"detr/preprocessor_config\.json: image_std\.0: Input should be greater than 0, got 0",
        ),
        (
            "picture size",
            write("detr/preprocessor_config.json", '{"size":-3}'),
            r"detr/preprocessor_config\.json: size: shortest: Input should be greater than 0, got -3",
        ),
    ],
    "photo": [
        ("cut", cut(PHOTO), rf"{PHOTO}: not a readable image \(.*Is the file cut off\? Get it again"),
        (
            "only a header",
            write(PHOTO, b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\xff\xff\xff\x7f\xff\xff\xff\x7f\x08\x02\x00\x00\x00"),
            rf"{PHOTO}: not a readable image \(",
        ),
        ("missing", lambda: Path(PHOTO).unlink(), rf"{PHOTO}: no such file or folder"),
        (
            "run without a network",
            lambda: shutil.rmtree("run/train"),
            r"run: has no trained network: expected checkpoint\.json.*Give a run's folder",
        ),
        (
            "other detector",
            add("detector/weights/grid.safetensors", b"x"),
            r"detector: is not the detector network that run/train was trained with: the SHA-256",
        ),
        (
            "description",
            write("run/MLmodel", "x: 2020-13-45"),
            r"run/MLmodel: a value cannot be read \(month must be in 1\.\.12\)",
        ),
        (
            "out has a table",
            lambda: (Path("new").mkdir(), write("new/triplets.csv", "mine")()),
            r".*new: has 'triplets\.csv' already, not made by `rmlr photo`.*Name another folder",
        ),
        (
            "list of files",
            lambda: (Path("new").mkdir(), write("new/.rmlr-made", '{"by": "photo", "file": ["a"], "bytes": [1]}\n')()),
            r".*new/\.rmlr-made: is not the list that rmlr keeps under this name\. Move it away",
        ),
    ],
    "pose": [
        ("missing", lambda: Path(POSE).unlink(), rf"{POSE}: the pose network's weights cannot be read"),
        ("cut", cut(POSE), rf"{POSE}: cannot be read as a checkpoint .*Download them, or correct the path"),
        ("bit", flip(POSE, 0.5), rf"{POSE}: cannot be read as a checkpoint \(record .*checksum"),
        (
            "code",
            torch_file(POSE, {"state_dict": Code()}),
            rf"{POSE}: cannot be read as a checkpoint \(it is damaged, or contains more than tensors "
            rf"and plain values\)",
        ),
        ("pickle", write(POSE, pickle.dumps(Code())), rf"{POSE}: cannot be read as a checkpoint"),
        ("number", torch_file(POSE, 3), rf"{POSE}: holds no `state_dict` of tensors, as MMPose's files do"),
        ("names", torch_file(POSE, {1: torch.zeros(1)}), rf"{POSE}: holds no `state_dict` of tensors"),
        ("other", torch_file(POSE, {"a": torch.zeros(1)}), rf"{POSE}: tensor 'a' is no part of a pose network"),
    ],
    "joints": [
        (
            "joints too few",
            edit(PEOPLE, lambda c: c["annotations"][0].update(keypoints=[1, 2])),
            rf"{PEOPLE}: annotations\[0\]\.keypoints: expected 3 numbers for each of 2 joints, got 2 numbers",
        ),
        (
            "other joints",
            edit(PEOPLE, lambda c: c["categories"][0].update(keypoints=["a", "b"])),
            r"people: person_keypoints_train2014\.json has the joints a, b; "
            r"person_keypoints_val2014\.json neck, left_wrist",
        ),
        (
            "image unknown",
            edit(PEOPLE, lambda c: c["annotations"][0].update(image_id=9)),
            rf"{PEOPLE}: annotations\[0\] is of image 9, which `images` does not list",
        ),
        (
            "nobody",
            edit(PEOPLE, lambda c: c.update(annotations=[])),
            rf"{PEOPLE}: no person with a known joint to train on",
        ),
    ],
}


def files() -> dict[str, bytes]:
    """All files here, except locks and the state from which an interrupted stage resumes."""
    found = [path for path in Path().rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {str(path): path.read_bytes() for path in found if not any(part.endswith(".resume") for part in path.parts)}


@pytest.mark.parametrize(
    ("command", "change", "message"),
    [
        pytest.param(COMMANDS[kind], change, message, id=f"{kind}: {name}")
        for kind, cases in CASES.items()
        for name, change, message in cases
    ],
)
def test_bad_input_is_one_message_and_leaves_no_output(study, command, change, message):
    change()
    before = files()
    with pytest.raises(SystemExit) as ended:
        main(command.split())
    assert isinstance(ended.value.code, str), "a message, which gives status 1"
    assert re.match(f"rmlr: {message}", ended.value.code, re.DOTALL), ended.value.code
    assert files() == before
    assert not Path("executed").exists()


# ---- flags

PHOTO_FLAGS = f"photo {PHOTO} --run run --detector detector --out new"
JOINTS = "joints --settings joints.yaml --annotations people --images images --out new"
EVALUATE = "evaluate --annotations records --triplets triplets.parquet --out new"
FLAGS = [  # a command, and what it says
    ("trian", "there is no command 'trian'. There are: fetch, draw, prepare"),
    (JOINTS, "parameter --seed requires an argument"),
    (f"{JOINTS} --sede 0", "Did you mean --seed"),
    (f"{JOINTS} --seed one", "Invalid value for --seed: expected a whole number, got 'one'"),
    (f"{JOINTS} --seed 1.5", "Invalid value for --seed: expected a whole number, got '1.5'"),
    (f"{JOINTS} --seed 0 --seed 1", "Parameter --seed specified multiple times"),
    (f"{JOINTS} --seed 0 more", "Unused Tokens: ['more']"),
    (f"{JOINTS} --seed -1", "--seed -1: expected a whole number from 0 to 4294967295"),
    (f"{JOINTS} --seed {2**32}", f"--seed {2**32}: expected a whole number from 0 to 4294967295"),
    (f"{EVALUATE} --split all", 'Invalid value "all" for --split. Choose from: "train", "val"'),
    (f"{EVALUATE} --split val", "triplets.parquet: row 0 (from 0) (2148 rows like it): the image is not one of the 5"),
    (f"{EVALUATE} --export csv", 'Invalid value "csv" for --export'),
    (f"{EVALUATE} --zero-shot rare", 'Invalid value "rare" for --zero-shot'),
    (f"{EVALUATE} --zero-shot rare_first --split train", "records: zero_shot is rare_first, but this is V-COCO"),
    (f"{EVALUATE} --settings predict.yaml --split test", "--split test: predict.yaml names the split"),
    (EVALUATE.replace(".parquet", ".csv"), "triplets.csv: input of 'evaluate' does not exist"),
    (EVALUATE.replace("records", "hicodet") + " --agents triplets.parquet", "agent AP is V-COCO's"),
    (EVALUATE.replace("new", "records"), "records: is or contains the input records, and would be replaced"),
    (EVALUATE.replace("new", "."), ".: is or contains the current folder, and would be replaced"),
    (COMMANDS["given"].replace("--split test", "--split trainval"), 'Invalid value "trainval" for --split'),
    (COMMANDS["given"].replace("--from given", ""), "give either --images and --detector, or --from"),
    (COMMANDS["predict"].replace("--features features", "--features nowhere"), "nowhere"),
    (COMMANDS["predict"].replace("study", "records"), "do not fit together"),
    (PHOTO_FLAGS, "run/predict/settings.yaml: does not exist"),
    (f"{PHOTO_FLAGS} --top 0", "top (--top) is 0: expected a whole number of at least 1"),
    (f"{PHOTO_FLAGS} --top 1.5", "Invalid value for --top: expected a whole number, got '1.5'"),
    (f"{PHOTO_FLAGS} --min-score nan", "min_score (--min-score) is nan: expected a number from 0 to 1"),
    (f"{PHOTO_FLAGS} --batch-size 0", "batch_size (--batch-size) is 0: expected a whole number of at least 1"),
    (f"{PHOTO_FLAGS} --prior-power -5", "prior_power (--prior-power) is -5.0: expected a number above 0"),
    (f"{PHOTO_FLAGS} --prior-power 1 --device gpu9", "device 'gpu9' cannot be used here"),
    (f"{PHOTO_FLAGS} --frames-per-second nan", "frames_per_second (--frames-per-second) is nan: expected above 0"),
    (f"{PHOTO_FLAGS} --revision abc", "run: is a folder, but revision (--revision) abc needs a model of the hub"),
    (PHOTO_FLAGS.replace("detector detector", "detector images"), "images: has no weights. Is it the right folder"),
    (PHOTO_FLAGS.replace("run run", "run owner/name"), "owner/name: no such folder. If it is a model of the hub, pin"),
    (PHOTO_FLAGS.replace(PHOTO, "*.nothing"), "*.nothing: no photo matches this pattern"),
    (PHOTO_FLAGS.replace("new", PHOTO), f"{PHOTO}: is a file, expected a folder. Name a folder"),
    ("compare study", "parameter B requires an argument"),
    ("compare study study", "study: no evaluation. Expected a folder made by `rmlr evaluate`"),
    ("compare study images --samples 5", "samples (--samples) is 5: expected 100 to 10000"),
    ("doctor --params nowhere.yaml --timeout 0", "nowhere.yaml: cannot be read (No such file or directory)"),
    ("doctor --params params.yaml --profile nope --timeout 0", "params.yaml has no profile 'nope'. There are: tiny"),
    ("cost --passes 0", "--passes 0: expected a whole number from 1"),
    ("cost --precision fp8", 'Invalid value "fp8" for --precision'),
    ("cost --out new.txt", "--out new.txt: a table (CSV); its name must end with .csv"),
    ("trace nowhere.csv --row x", "nowhere.csv"),
]


@pytest.mark.parametrize(("command", "message"), FLAGS)
def test_a_bad_flag_is_one_message_and_leaves_no_output(study, command, message, capsys):
    before = files()
    with pytest.raises(SystemExit) as ended:
        main(command.split())
    assert ended.value.code, "the status is not 0"
    lines = capsys.readouterr().err.splitlines()  # of the library of the command line, in a frame
    said = ended.value.code if isinstance(ended.value.code, str) else " ".join(line.strip("│ ") for line in lines)
    assert message in said
    assert files() == before


# ---- files with any damage, through their readers

READERS: dict[str, Callable[[Path], object]] = {  # by file: reads it with what belongs to it
    "vcoco/vcoco/vcoco_test.json": lambda folder: read_vcoco(folder / "vcoco", ["point instr"]),
    "vcoco/coco/instances_val2014.json": lambda folder: read_vcoco(folder / "vcoco", ["point instr"]),
    "hico/hicodet/instances_test2015.json": lambda folder: read_hicodet(folder / "hico", 1),
    "hico/hicodet/anno.mat": lambda folder: read_hicodet(folder / "hico", 1),
    "mat/hicodet/anno_bbox.mat": lambda folder: read_hicodet(folder / "mat", 1),
    "study/vocabulary.json": lambda folder: load_annotations(folder / "study", "test"),
    "study/test.json": lambda folder: load_annotations(folder / "study", "test"),
    INDEX: lambda folder: Features.load(folder / "features", "test").batch([0]),
    SHARD: lambda folder: Features.load(folder / "features", "test").batch([0]),
    CARD_FILE: lambda folder: load_checkpoint(folder / "train"),
    WEIGHTS: lambda folder: load_checkpoint(folder / "train"),
    ABOUT: lambda folder: GivenFeatures(folder / "given").read(annotation(300)),
    GIVEN: lambda folder: GivenFeatures(folder / "given").read(annotation(300)),
    POSE: lambda folder: load_pose_network(folder / POSE),
    PEOPLE: lambda folder: load_people(folder / PEOPLE),
    PHOTO: lambda folder: as_people_see(folder / PHOTO),
    "predict.yaml": lambda folder: PredictNode.load(folder / "predict.yaml"),
}
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda some: st.lists(some, max_size=3) | st.dictionaries(st.text(max_size=5), some, max_size=3),
    max_leaves=4,
)


@pytest.fixture(scope="module")
def readable(networks, pose_weights, tmp_path_factory) -> Path:
    """A folder with every file of `READERS`, which can be read."""
    folder = tmp_path_factory.mktemp("readable") / "files"
    shutil.copytree(networks, folder)
    shutil.copytree(GOLDEN / "vcoco", folder / "vcoco")
    shutil.copytree(GOLDEN / "hicodet" / "clean", folder / "hico")
    (folder / "pose").mkdir()
    shutil.copyfile(pose_weights, folder / POSE)
    files = [json.loads((folder / f"hico/hicodet/instances_{name}2015.json").read_text()) for name in ("train", "test")]
    (folder / "mat/hicodet").mkdir(parents=True)
    savemat(folder / "mat/hicodet/anno_bbox.mat", anno_bbox(*files))  # uncompressed: no checksum finds a bit
    save_labels(folder / "hico/hicodet/anno.mat", *files)
    for name, read in READERS.items():
        assert read(folder) is not None, name
    return folder


def save_labels(path: Path, train: dict, test: dict) -> None:
    """The anno.mat that belongs to two JSON files: every class is labelled 1 for every image."""
    names = [(train["objects"][object_], train["verbs"][verb]) for _, object_, verb in train["correspondence"]]
    actions = np.zeros((len(names), 1), dtype=[("nname", object), ("vname", object)])
    actions[:, 0] = names
    content: dict[str, object] = {"list_action": actions}
    for name, side in (("train", train), ("test", test)):
        content[f"list_{name}"] = np.array(side["filenames"], dtype=object)[:, None]
        content[f"anno_{name}"] = np.ones((len(names), len(side["filenames"])))
    savemat(path, content)


@st.composite
def bytes_changed(draw) -> Callable[[bytes], bytes]:
    """A file that is cut off, has bits flipped, or is something else."""
    kind = draw(st.sampled_from(["cut", "bits", "else"]))
    places = draw(st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 7)), min_size=1, max_size=4))
    other = draw(st.binary(max_size=50))
    if kind == "else":
        return lambda content: other
    if kind == "cut":
        return lambda content: content[: int(places[0][0] * len(content))]

    def flipped(content: bytes) -> bytes:
        changed = bytearray(content)
        for place, bit in places:
            changed[int(place * len(changed))] ^= 1 << bit
        return bytes(changed)

    return flipped


@st.composite
def values_changed(draw) -> Callable[[bytes], bytes]:
    """JSON or YAML with another value at some place, or without it."""
    steps, value = draw(st.lists(st.integers(0, 1000), min_size=1, max_size=6)), draw(ANYTHING)
    is_removed = draw(st.booleans())

    def changed(content: bytes) -> bytes:
        root: Any = {"root": (json.loads if content[:1] in b"[{" else yaml.safe_load)(content)}
        holder, key = root, "root"
        for step in steps:
            inner = holder[key]
            if not isinstance(inner, dict | list) or not inner:
                break
            holder, key = inner, list(inner)[step % len(inner)] if isinstance(inner, dict) else step % len(inner)
        if is_removed:
            del holder[key]
        else:
            holder[key] = value
        return json.dumps(root.get("root")).encode()

    return changed


def refusal(call: Callable[[], object]) -> str | None:
    """What a reader says of its file; None where it reads it. An exception of another kind is a fault of ours."""
    try:
        call()
    except (ValueError, OSError) as error:
        return str(error)
    return None


def must_be_read_or_named(folder: Path, tmp: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    """Read a file after a change: it is read, or there is one error that names it or its folder."""
    copy = tmp / "files"
    top = Path(name).parts[0]
    source = folder / top
    copy.mkdir()
    (shutil.copytree if source.is_dir() else shutil.copyfile)(source, copy / top)
    (copy / name).write_bytes(change((copy / name).read_bytes()))
    said = refusal(lambda: READERS[name](copy))
    assert said is None or (str(copy) in said and "pydantic.dev" not in said), said


SOME = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.mark.parametrize("name", READERS)
@SOME
@given(change=bytes_changed())
def test_a_file_with_damaged_bytes_is_read_or_named(readable, tmp_path_factory, name, change):
    must_be_read_or_named(readable, tmp_path_factory.mktemp("damaged"), name, change)


@pytest.mark.parametrize("name", [name for name in READERS if name.endswith((".json", ".yaml"))])
@SOME
@given(change=values_changed())
def test_a_file_with_any_other_value_is_read_or_named(readable, tmp_path_factory, name, change):
    must_be_read_or_named(readable, tmp_path_factory.mktemp("changed"), name, change)
