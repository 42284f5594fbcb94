"""Fixtures that several test files share."""

import json
import os
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from scipy.io import savemat

from rmlr.study.threads import SPIN

from .web import Server

os.environ |= {name: os.environ.get(name, value) for name, value in SPIN.items()}  # before torch is loaded
os.environ["RMLR_TRACKING"] = "off"  # no test leaves a run in MLflow, but those of the tracker

settings.register_profile("tests", deadline=None)  # a busy machine is no fault of an example
settings.load_profile("tests")

LONGEST = (  # files, most seconds first: what starts last may not be long, or one worker works alone at the end
    "test_pipeline.py",
    "test_real_photos.py",
    "test_faults.py",
    "test_detector.py",
    "test_views.py",
    "test_tracking.py",
    "test_distributed.py",
    "test_train.py",
)

GOLDEN = Path(__file__).parent / "golden"

REAL_VCOCO = {  # the photos of COCO128 that V-COCO has
    "train": [368, 531],
    "val": [165, 436, 625],
    "test": [294, 328, 395, 428, 536, 564, 589],
}

COCO_CATEGORIES = [{"id": 9, "name": "bat"}, {"id": 1, "name": "person"}, {"id": 3, "name": "ball"}]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, for `--dist loadfile --no-loadscope-reorder`; all else in its own order."""
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


@pytest.fixture
def server():
    """A web server on loopback, whose pages and faults a test chooses."""
    with Server() as made:
        threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield made
        made.stopping.set()
        made.shutdown()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The real annotations and photos (RMLR_REAL_DATA, else ../shared/data beside the repository)."""
    default = Path(__file__).parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("RMLR_REAL_DATA", default))
    if not (folder / "annotations").is_dir():
        pytest.skip(f"real annotations are not at {folder}; set RMLR_REAL_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def real_vcoco(real_data) -> Path:
    """A raw folder of V-COCO's whole annotations, with some of its photos: coco/, vcoco/ and images/."""
    if not (real_data / "vcoco" / "vcoco" / "vcoco_test.json").is_file():
        pytest.skip(f"V-COCO's whole annotations are not at {real_data / 'vcoco'}")
    return real_data / "vcoco"


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


@pytest.fixture
def tiny_vcoco_raw(tmp_path) -> Path:
    """Four images in V-COCO's format: 12 and 11 train (in that order), 20 val, 30 test. Objects: person, ball, bat.

    Image 11: person 101 hits ball 103 with bat 107, looks at an unseen thing and stands; person 102 is not listed, 104
    is a crowd, 105 has no area, 106 is ignored. Image 12 has nothing. Image 20: person 201 points at ball 202 and looks
    at person 203. Image 30: person 301, before its ball 302 in the rows but after it in COCO, looks at it.
    """
    raw = tmp_path / "raw"
    train = {
        101: (11, 1, [10, 10, 20, 40], {}),
        102: (11, 1, [60, 10, 20.5, 40.25], {}),
        105: (11, 1, [1, 1, 5, 5], {"area": 0}),
        103: (11, 3, [30, 40, 8, 8], {}),
        104: (11, 1, [0, 0, 90, 9], {"iscrowd": 1}),
        106: (11, 3, [1, 1, 5, 5], {"ignore": 1}),
        107: (11, 9, [25, 20, 4, 25], {}),
        201: (20, 1, [5, 5, 30, 60], {}),
        202: (20, 3, [50, 50, 9, 9], {}),
        203: (20, 1, [60, 5, 30, 60], {}),
    }
    test = {302: (30, 3, [50, 50, 9, 9], {}), 301: (30, 1, [5, 5, 30, 60], {})}
    write_json(raw / "coco" / "instances_train2014.json", coco_file("train2014", [11, 12, 20], train))
    write_json(raw / "coco" / "instances_val2014.json", coco_file("val2014", [30], test))
    write_json(
        raw / "vcoco" / "vcoco_train.json",
        [
            vcoco_action("stand", [], [11, 11], [101, 105], [1, 1]),
            vcoco_action("hit", ["instr", "obj"], [11, 11], [101, 105], [1, 0], [107, 0], [103, 0]),
            vcoco_action("look", ["obj"], [11, 11], [101, 105], [1, 1], [0, 103]),
            vcoco_action("point", ["instr"], [11, 11], [101, 105], [0, 0], [0, 0]),
        ],
    )
    write_json(
        raw / "vcoco" / "vcoco_val.json",
        [
            vcoco_action("stand", [], [20, 20], [203, 201], [0, 0]),
            vcoco_action("hit", ["instr", "obj"], [20, 20], [203, 201], [0, 0], [0, 0], [0, 0]),
            vcoco_action("look", ["obj"], [20, 20], [203, 201], [0, 1], [0, 203]),
            vcoco_action("point", ["instr"], [20, 20], [203, 201], [0, 1], [0, 202]),
        ],
    )
    write_json(
        raw / "vcoco" / "vcoco_test.json",
        [
            vcoco_action("stand", [], [30], [301], [0]),
            vcoco_action("hit", ["instr", "obj"], [30], [301], [0], [0], [0]),
            vcoco_action("look", ["obj"], [30], [301], [1], [302]),
            vcoco_action("point", ["instr"], [30], [301], [0], [0]),
        ],
    )
    (raw / "vcoco" / "splits").mkdir()
    for split, ids in (("train", [12, 11]), ("val", [20]), ("test", [30])):
        (raw / "vcoco" / "splits" / f"vcoco_{split}.ids").write_text("".join(f"{image_id}\n" for image_id in ids))
    return raw


@pytest.fixture
def tiny_hicodet_raw(tmp_path) -> Path:
    """Six images in HICO-DET's format: 1, 2, 5 (empty) and 7 train, 1 and 3 (empty) test. Objects: apple, person."""
    raw = tmp_path / "raw"
    classes = {
        "objects": ["apple", "person"],
        "verbs": ["eat", "hug", "no_interaction"],
        "correspondence": [[0, 1, 1], [1, 1, 2], [2, 0, 0], [3, 0, 2]],
        "rare": [1],
        "non_rare": [0, 2, 3],
    }
    eat = ([1, 1, 10, 20], [5, 5, 5, 5], 2)
    hug = ([2, 3, 40, 50], [30, 3, 64, 48], 0)
    none = ([1, 1, 11, 20], [6, 6, 9, 9], 3)
    train = classes | hicodet_images("train", {1: [eat, hug], 2: [none], 5: [], 7: [eat]})
    write_json(raw / "hicodet" / "instances_train2015.json", train)
    write_json(raw / "hicodet" / "instances_test2015.json", classes | hicodet_images("test", {1: [hug], 3: []}))
    return raw


@pytest.fixture
def write_tiny_anno(tiny_hicodet_raw):
    """Writes the anno.mat that belongs to `tiny_hicodet_raw`, with some variables replaced.

    Labelled 1 is what is visible, and eating an apple in image 5 of train and 3 of test, where nothing is visible.
    """

    def write(**variables) -> None:
        actions = np.zeros((4, 1), dtype=[("nname", object), ("vname", object)])
        nouns, verbs = ("person", "person", "apple", "apple"), ("hug", "no_interaction", "eat", "no_interaction")
        actions[:, 0] = list(zip(nouns, verbs, strict=True))
        content = {
            "list_train": [f"HICO_train2015_{n:08d}.jpg" for n in (1, 2, 5, 7)],
            "list_test": [f"HICO_test2015_{n:08d}.jpg" for n in (1, 3)],
            "list_action": actions,
            "anno_train": [[1, np.nan, 0, -1], [-1, -1, -1, -1], [1, 0, 1, 1], [0, 1, -1, np.nan]],
            "anno_test": [[1, 0], [0, -1], [np.nan, 1], [0, 0]],
        } | variables
        for name in ("list_train", "list_test"):
            content[name] = np.array(content[name], dtype=object)[:, None]  # a cell array
        savemat(tiny_hicodet_raw / "hicodet" / "anno.mat", content)

    return write


@pytest.fixture(scope="session")
def save_anno_bbox():
    """Writes an anno_bbox.mat of the content of two JSON files, by `anno_bbox`."""

    def save(path: Path, train: dict, test: dict, **changes) -> None:
        savemat(path, anno_bbox(train, test, **changes), do_compression=True)

    return save


@pytest.fixture
def write_anno_bbox(tiny_hicodet_raw, save_anno_bbox):
    """Writes the anno_bbox.mat that says what the JSON files of `tiny_hicodet_raw` say."""

    def write(**changes) -> Path:
        folder = tiny_hicodet_raw / "hicodet"
        files = [json.loads((folder / f"instances_{name}2015.json").read_text()) for name in ("train", "test")]
        save_anno_bbox(folder / "anno_bbox.mat", *files, **changes)
        return folder / "anno_bbox.mat"

    return write


def matlab_struct(shape: tuple[int, int], fields: dict[str, list]) -> np.ndarray:
    """A MATLAB struct array: one value per element for each field."""
    array = np.zeros(shape, dtype=[(name, object) for name in fields])
    for name, values in fields.items():
        for index, value in enumerate(values):
            array[name][divmod(index, shape[1])] = value
    return array


def anno_bbox(train: dict, test: dict, invisible: dict | None = None, number: type = np.uint16) -> dict:
    """The variables of anno_bbox.mat, nested as in the release, of the JSON form's two files.

    An image has one `hoi` entry a class; boxes that several rows share stand in it once. `invisible` adds entries
    without boxes: (split, file name) -> classes from 1. Numbers of boxes are of the type `number`.
    """
    names = [(test["objects"][object_], test["verbs"][verb]) for _, object_, verb in test["correspondence"]]
    texts = {"vname_ing": ["doing"], "syn": ["x"], "def": ["y"], "synset": ["z"], "add_def": [""]}
    actions = {"nname": [noun for noun, _ in names], "vname": [verb for _, verb in names]}
    actions |= {key: value * len(names) for key, value in texts.items()}

    def boxes(some: list) -> np.ndarray:
        if not some:
            return np.zeros((0, 0))
        places = {"x1": 0, "x2": 2, "y1": 1, "y2": 3}  # in the release's order
        return matlab_struct((1, len(some)), {k: [number(box[at]) for box in some] for k, at in places.items()})

    def entries(image: dict, hidden: list[int]) -> np.ndarray:
        by_class: dict[int, list[tuple]] = {hoi: [] for hoi in hidden}
        for human, thing, hoi in zip(image["boxes_h"], image["boxes_o"], image["hoi"], strict=True):
            by_class.setdefault(hoi + 1, []).append((tuple(human), tuple(thing)))
        fields = {key: [] for key in ("id", "bboxhuman", "bboxobject", "connection", "invis")}
        for hoi, rows in by_class.items():
            humans, things = (list(dict.fromkeys(column)) for column in (zip(*rows, strict=True) if rows else ([], [])))
            pairs = [[humans.index(human) + 1, things.index(thing) + 1] for human, thing in rows]
            values = (np.uint16(hoi), boxes(humans), boxes(things), np.array(pairs, dtype=np.uint8), np.uint8(not rows))
            for column, value in zip(fields.values(), values, strict=True):
                column.append(value)
        return matlab_struct((1, len(by_class)), fields) if by_class else np.zeros((0, 0))

    def split(name: str, content: dict) -> np.ndarray:
        sizes = [
            matlab_struct((1, 1), {"width": [float(width)], "height": [float(height)], "depth": [3.0]})
            for width, height in content["size"]
        ]
        hidden = [(invisible or {}).get((name, file_name), []) for file_name in content["filenames"]]
        hois = [entries(image, some) for image, some in zip(content["annotation"], hidden, strict=True)]
        return matlab_struct((1, len(hois)), {"filename": content["filenames"], "size": sizes, "hoi": hois})

    return {
        "bbox_train": split("train", train),
        "bbox_test": split("test", test),
        "list_action": matlab_struct((len(names), 1), actions),
    }


@dataclass(frozen=True)
class PhotoRun:
    """Where a trained run and what it was made from lie."""

    root: Path

    @property
    def run(self) -> Path:
        return self.root / "results" / "runs" / "group" / "name" / "0"

    @property
    def detector(self) -> Path:
        return self.root / "results" / "detector"

    @property
    def photos(self) -> list[Path]:
        """Of the test split."""
        return sorted((self.root / "raw" / "images").glob("drawn_test*"))


@pytest.fixture(scope="session")
def photo_run(tmp_path_factory) -> PhotoRun:
    """A run of the tiny profile, made by the stages themselves on the drawn world; only its detector learnt nothing."""
    import torch

    from rmlr.__main__ import STAGES
    from rmlr.model.anchored import build_detector
    from rmlr.model.detector import FrozenDetector, save_detector
    from rmlr.stages import draw, features, predict, prepare, train
    from rmlr.study.nodes import DetectorNode, FeaturesNode
    from rmlr.study.plan import Study

    made = PhotoRun(tmp_path_factory.mktemp("photo_run"))
    params = Path(__file__).parents[1] / "params.yaml"
    nodes = Study.load(params).nodes("tiny", dict.fromkeys([*STAGES, "cost"], "digest"))
    results, raw = made.root / "results", made.root / "raw"
    (results / "text").mkdir(parents=True)

    def settings(name: str) -> Path:
        path = made.root / "settings.yaml"
        path.write_text(nodes[name].dump())
        return path

    draw.draw(settings=settings("world/draw"), out=raw)
    prepare.prepare(settings=settings("vcoco/prepare"), raw=raw, out=results / "prepare")

    node = nodes["detector/base"]
    assert isinstance(node, DetectorNode)
    assert node.detector.architecture is not None
    names = json.loads((results / "prepare" / "vocabulary.json").read_text())["objects"]
    torch.manual_seed(0)
    detr = build_detector(node.detector.architecture, names, no_object_weight=0.1)
    torch.nn.init.normal_(detr.bbox_predictor.layers[-1].weight, std=0.3)  # boxes that follow the picture
    person, ball, head = names.index("person"), names.index("ball"), detr.class_labels_classifier
    shape = (2, node.detector.image.shortest, node.detector.image.shortest)
    sizes = torch.tensor([shape[1:]] * 2)
    seen = FrozenDetector(detr, names)(torch.rand(2, 3, *shape[1:]), torch.zeros(shape, dtype=torch.bool), sizes, sizes)
    tokens = seen.tokens.flatten(0, 1)
    with torch.no_grad():  # about half of the queries say person, the others ball
        centred = tokens - tokens.mean(0)
        direction = torch.linalg.svd(centred).Vh[0]
        direction /= (centred @ direction).std()
        head.weight.zero_()
        head.bias.zero_()
        for label, sign in ((person, 1), (ball, -1)):
            head.weight[label] = sign * direction
            head.bias[label] = 2 - sign * tokens.mean(0) @ direction
    save_detector(detr, made.detector)

    given = {"annotations": results / "prepare"}
    for split in ("train", "val", "test"):
        name = f"vcoco/features/base/{split}"
        node = nodes[name]
        assert isinstance(node, FeaturesNode)
        nodes[name] = node.model_copy(update={"features": node.features.model_copy(update={"batch_size": 1})})
        where = {"images": raw / "images", "detector": made.detector, "out": results / "features" / split}
        features.features(settings=settings(name), **given, split=split, **where)
    given["features"] = results / "features"
    name = "runs/table2/wo_cl/0"
    out = made.run / "train"
    train.train(settings=settings(f"{name}/train"), **given, text=results / "text", seed=0, out=out)
    predict.predict(settings=settings(f"{name}/predict"), **given, weights=out, out=made.run / "predict")
    return made


@pytest.fixture(scope="session")
def vcoco_records(tmp_path_factory) -> Path:
    """The small V-COCO of `golden`, as `prepare` writes it."""
    from rmlr.data.vcoco import read_vcoco

    return _write_records(tmp_path_factory.mktemp("vcoco") / "prepare", read_vcoco(GOLDEN / "vcoco", ["point instr"]))


@pytest.fixture(scope="session")
def hicodet_records(tmp_path_factory) -> Path:
    """The small HICO-DET of `golden`, as `prepare` writes it."""
    from rmlr.data.hicodet import read_hicodet

    corpus = read_hicodet(GOLDEN / "hicodet" / "clean", 1)
    return _write_records(tmp_path_factory.mktemp("hicodet") / "prepare", corpus)


def _write_records(folder: Path, corpus) -> Path:
    from rmlr.data.records import save_annotations, save_vocabulary

    folder.mkdir()
    save_vocabulary(folder / "vocabulary.json", corpus.vocabulary)
    for split, images in corpus.splits.items():
        save_annotations(folder / f"{split}.json", images)
    return folder


def write_json(path: Path, content) -> None:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def coco_file(name: str, image_ids: list[int], annotations: dict[int, tuple]) -> dict:
    """COCO's instances file; an annotation is (image id, category id, [x, y, width, height], further keys)."""
    sizes = {"height": 70, "width": 100}
    return {
        "images": [{"id": n, "file_name": f"COCO_{name}_{n:012d}.jpg", **sizes} for n in image_ids],
        "annotations": [
            {"id": n, "image_id": image_id, "category_id": category, "bbox": box, "area": 9.0, "iscrowd": 0, **more}
            for n, (image_id, category, box, more) in annotations.items()
        ],
        "categories": COCO_CATEGORIES,
    }


def vcoco_action(name, roles, image_ids, persons, labels, *objects) -> dict:
    """One action of an official V-COCO file."""
    ids = [*persons, *(number for role in objects for number in role)]
    columns = {"image_id": image_ids, "ann_id": persons, "label": labels, "role_object_id": ids}
    return {"action_name": name, "role_name": ["agent", *roles], "include": [[]] * (1 + len(roles)), **columns}


def hicodet_images(name: str, images: dict[int, list[tuple]]) -> dict:
    """The lists over the images of a HICO-DET file; a row is (human box, object box, HOI of `tiny_hicodet_raw`)."""
    object_and_verb = [(1, 1), (1, 2), (0, 0), (0, 2)]
    return {
        "filenames": [f"HICO_{name}2015_{n:08d}.jpg" for n in images],
        "size": [[64, 50] for _ in images],
        "empty": [index for index, rows in enumerate(images.values()) if not rows],
        "annotation": [
            {
                "boxes_h": [human for human, _, _ in rows],
                "boxes_o": [thing for _, thing, _ in rows],
                "hoi": [hoi for _, _, hoi in rows],
                "object": [object_and_verb[hoi][0] for _, _, hoi in rows],
                "verb": [object_and_verb[hoi][1] for _, _, hoi in rows],
            }
            for rows in images.values()
        ],
    }


@pytest.fixture(scope="session")
def pose_weights(tmp_path_factory) -> Path:
    """A pose network as MMPose's file has it, but small and random: a ResNet of four blocks, a map of 8 channels."""
    import torch
    from torch import nn
    from torchvision.models.resnet import BasicBlock, ResNet

    torch.manual_seed(0)
    trunk, layers = ResNet(BasicBlock, [1, 1, 1, 1]), []
    for before in (512, 8, 8):
        layers += [nn.ConvTranspose2d(before, 8, 4, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    parts = {
        "backbone": trunk,
        "keypoint_head.deconv_layers": nn.Sequential(*layers),
        "keypoint_head.final_layer": nn.Conv2d(8, 14, 1),
    }
    with torch.no_grad():
        for norm in (module for part in parts.values() for module in part.modules() if hasattr(module, "running_var")):
            norm.running_mean.normal_(std=0.1)
            norm.running_var.uniform_(0.5, 2)
    state = {f"{part}.{name}": value for part, module in parts.items() for name, value in module.state_dict().items()}
    state = {name: value for name, value in state.items() if not name.startswith("backbone.fc.")}
    path = tmp_path_factory.mktemp("pose") / "pose.pth"
    torch.save({"meta": {"mmpose_version": "0.8.0"}, "state_dict": state}, path)
    return path
