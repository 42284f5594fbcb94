"""What other repositories' scoring code says of a drawn set, run from checkouts of theirs; none of it is copied here.

Each peer is a function of (folder of checkouts, annotations, vocabulary, table) that brings the set into the peer's
own form and returns a `Case`: their evaluation, ready to run, and ours by the rules of theirs, so that a figure which
is not ours is explained and not only stated. What stands in for a missing piece is made in memory, and says why it may.
"""

import importlib.util
import json
import os
import sys
import tempfile
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from rmlr.evaluation import hicodet, vcoco
from rmlr.evaluation.average_precision import known_mean
from rmlr.hoi import NO_BOX, Annotation, Triplets, Vocabulary

Figures = dict[str, float]

VCOCO_PATCHES = [  # of the official V-COCO program: what today's NumPy no longer takes
    ("np.bool)", "bool)"),
    ("role_id[i, j - 1] = aid", "role_id[i, j - 1] = aid[0]"),
]

MISSING = 80  # QPIC's object class of a person who does something to nothing


@dataclass(frozen=True)
class Case:
    """One peer, ready to score one set."""

    evaluate: Callable[[], Figures]  # theirs; the only part that is timed as evaluation
    ours: Callable[[], Figures]  # the same by our code under their rules; none where the measure is another


def upt(folder: Path, images: Sequence[Annotation], words: Vocabulary, table: Triplets) -> Case:
    """UPT's own method `test_hico`, with pocket's association and AP meter, over a network that hands out our rows.

    Its rules: recall grid of both ends, IoU above one half, no images without an annotated pair.
    """
    import torch

    for name in ("vcoco.vcoco", "hicodet.hicodet", "datasets.transforms"):
        # UPT's and DETR's data sets, in git submodules that a checkout may lack; scoring uses nothing of them
        package, _, module = name.partition(".")
        sys.modules[package] = types.ModuleType(package)
        sys.modules[name] = types.ModuleType(name)
        setattr(sys.modules[package], module, sys.modules[name])
    sys.modules["vcoco.vcoco"].VCOCO = sys.modules["hicodet.hicodet"].HICODet = object  # pyright: ignore
    sys.path.insert(0, str(folder / "pocket"))
    engine = _load(folder / "upt" / "utils.py").CustomisedDLE

    images = [image for image in images if len(image.interactions)]
    kept = _rows_of(table, images)
    outputs, batches = [], []
    for image, rows in zip(images, _by_image(kept, images), strict=True):
        count = len(rows)
        outputs.append(
            {
                "boxes": torch.from_numpy(np.concatenate([kept.human_boxes[rows], kept.object_boxes[rows]])),
                "pairing": torch.arange(2 * count).view(2, count),
                "objects": torch.from_numpy(kept.object_category[rows]),
                "labels": torch.from_numpy(kept.verb[rows]),
                "scores": torch.from_numpy(kept.score[rows]),
            }
        )
        human, verb, object_ = image.interactions.T
        truth = {
            "boxes_h": torch.from_numpy(image.boxes[human]).float(),
            "boxes_o": torch.from_numpy(image.boxes[object_]).float(),
            "hoi": torch.from_numpy(words.hoi_of[image.labels[object_], verb]),
            "size": torch.tensor([image.height, image.width]),
        }
        batches.append(([], [truth]))  # no pixels: they would only be moved to the GPU

    class Network:
        """Hands out the rows, image by image; boxes are in pixels already, which spares UPT the scaling."""

        def __init__(self) -> None:
            self.module, self._outputs = self, iter(outputs)

        def eval(self) -> None:
            """Nothing to switch."""

        def recover_boxes(self, boxes: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
            """In pixels."""
            return boxes

        def __call__(self, pixels: list) -> list[dict]:
            return [next(self._outputs)]

    positives = np.bincount(torch.cat([truths[0]["hoi"] for _, truths in batches]), minlength=len(words.hois))
    tables = types.SimpleNamespace(
        object_n_verb_to_interaction=[[hoi if hoi >= 0 else None for hoi in row] for row in words.hoi_of.tolist()],
        anno_interaction=positives.tolist(),
    )

    class Loader(list):
        """Batches, and the two tables of the data set that the method asks for."""

        dataset = types.SimpleNamespace(dataset=tables)

    def evaluate() -> Figures:
        trainer = types.SimpleNamespace(_state=types.SimpleNamespace(net=Network()))
        ap = engine.test_hico(trainer, Loader(batches)).double().numpy()
        return _hoi_means(ap, words)

    return Case(evaluate, lambda: _hoi_means(hicodet.evaluate(images, words, kept).default_linspace, words))


def qpic_hicodet(folder: Path, images: Sequence[Annotation], words: Vocabulary, table: Triplets) -> Case:
    """QPIC's `HICOEvaluator`.

    Its rules: sides of continuous boxes one pixel longer; rows in images without an annotated pair are passed over;
    the mean is over classes with a positive.
    """
    module = _load(folder / "qpic" / "datasets" / "hico_eval.py")
    triplets = [(words.person, object_, verb) for verb, object_ in words.hois]
    rare = [triplets[hoi] for hoi in words.rare]
    common = [triplet for hoi, triplet in enumerate(triplets) if hoi not in set(words.rare)]
    truth = [_qpic_truth(image, image.interactions[:, 1]) for image in images]
    evaluator = module.HICOEvaluator([], truth, words.person, rare, common, None)
    evaluator.preds = _qpic_predictions(images, table, table.verb, words.person)

    def evaluate() -> Figures:
        found = evaluator.evaluate()
        return {"full": found["mAP"], "rare": found["mAP rare"], "non-rare": found["mAP non-rare"]}

    def ours() -> Figures:
        longer = np.array([0.0, 0.0, 1.0, 1.0], dtype=np.float32)
        annotated = [replace(image, boxes=image.boxes + longer) for image in images if len(image.interactions)]
        kept = _rows_of(table, annotated)
        kept = replace(kept, human_boxes=kept.human_boxes + longer, object_boxes=kept.object_boxes + longer)
        scores = hicodet.evaluate(annotated, words, kept)
        return _hoi_means(np.where(scores.positives > 0, scores.default, np.nan), words)

    return Case(evaluate, ours)


def qpic_vcoco(folder: Path, images: Sequence[Annotation], words: Vocabulary, table: Triplets) -> Case:
    """QPIC's `VCOCOEvaluator`: 11-point AP, object classes must agree, best pair, no don't-care. Not AP_role."""
    module = _load(folder / "qpic" / "datasets" / "vcoco_eval.py")
    evaluator = module.VCOCOEvaluator([], [], words.person, None)
    # Its 29 verbs are the 24 of the literature, at places that it names, `point instr`, and four without a role.
    place = np.array([*evaluator.thesis_map_indices, evaluator.verb_classes.index("point_instr")])
    truth = [_qpic_truth(image, place[image.interactions[:, 1]]) for image in images]
    evaluator = module.VCOCOEvaluator([], truth, words.person, None)
    evaluator.preds = _qpic_predictions(images, table, place[table.verb], words.person)
    return Case(lambda: {"mAP thesis": evaluator.evaluate()["mAP_thesis"]}, dict)


def official_indexed(folder: Path, images: Sequence[Annotation], words: Vocabulary, table: Triplets) -> Case:
    """The official V-COCO program, but that it finds the detections of an image by an index. Same rules as ours."""
    program, values = _official(folder, images, words)
    truth = program._get_vcocodb()
    items: dict[int, list[dict]] = {image.image_id: [] for image in images}
    for item in _official_items(table, words):
        items[item["image_id"]].append(item)
    scan = program._collect_detections_for_image
    program._collect_detections_for_image = lambda found, image_id: scan(found[image_id], image_id)
    return Case(
        lambda: _official_figures(program, values, truth, items, words),
        lambda: _role_figures(vcoco.evaluate(images, words, table)),
    )


def official(folder: Path, images: Sequence[Annotation], words: Vocabulary, table: Triplets, share: float) -> Case:
    """The official V-COCO program as it is, over a share of the images, each of which goes through the rows of all."""
    program, values = _official(folder, images, words)
    truth = program._get_vcocodb()[: round(share * len(images))]
    items = _official_items(table, words)

    def evaluate() -> Figures:
        _official_figures(program, values, truth, items, words)
        return {}  # those of a part of the images are nobody's

    return Case(evaluate, dict)


def _load(path: Path) -> types.ModuleType:
    """One file of a checkout as a module."""
    spec = importlib.util.spec_from_file_location(f"peer_{path.parent.name}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _rows_of(table: Triplets, images: Sequence[Annotation]) -> Triplets:
    """The rows of some images."""
    rows = np.isin(table.image_id, [image.image_id for image in images])
    return Triplets(*(getattr(table, field.name)[rows] for field in fields(Triplets)))


def _by_image(table: Triplets, images: Sequence[Annotation]) -> Iterator[np.ndarray]:
    """Indices of each image's rows."""
    order = np.argsort(table.image_id, kind="stable")
    ids = np.array([image.image_id for image in images])
    low, high = (np.searchsorted(table.image_id[order], ids, side=side) for side in ("left", "right"))
    return (order[first:last] for first, last in zip(low, high, strict=True))


def _hoi_means(ap: np.ndarray, words: Vocabulary) -> Figures:
    is_rare = np.isin(np.arange(len(words.hois)), words.rare)
    return {"full": known_mean(ap), "rare": known_mean(ap[is_rare]), "non-rare": known_mean(ap[~is_rare])}


def _role_figures(scores: vcoco.RoleScores) -> Figures:
    metrics = scores.metrics()
    return {"scenario 1": metrics["vcoco_ap_role_1"], "scenario 2": metrics["vcoco_ap_role_2"]}


def _qpic_truth(image: Annotation, verb: np.ndarray) -> dict[str, Any]:
    """An image as QPIC's data sets give it."""
    import torch

    hois = np.stack([image.interactions[:, 0], image.interactions[:, 2], verb], axis=1)
    parts = {"boxes": image.boxes.astype(np.float32), "labels": image.labels, "hois": hois}
    return {name: torch.from_numpy(part) for name, part in parts.items()}


def _qpic_predictions(images: Sequence[Annotation], table: Triplets, verb: np.ndarray, person: int) -> list[dict]:
    """The lists that QPIC's constructors make, which want every verb's score for each pair, 117 times the rows."""
    predictions = []
    category = np.where(np.isnan(table.object_boxes[:, 0]), MISSING, table.object_category)
    for rows in _by_image(table, images):
        boxes = np.concatenate([table.human_boxes[rows], table.object_boxes[rows]])
        labels = np.concatenate([np.full(len(rows), person), category[rows]])
        # Of an image they take the best hundred; a drawn one has no more.
        position = np.argsort(-table.score[rows], kind="stable")
        best = rows[position]
        predictions.append(
            {
                "predictions": [{"bbox": box, "category_id": label} for box, label in zip(boxes, labels, strict=True)],
                "hoi_prediction": [
                    {"subject_id": human, "object_id": object_, "category_id": action, "score": score}
                    for human, object_, action, score in zip(
                        position, position + len(rows), verb[best], table.score[best], strict=True
                    )
                ],
            }
        )
    return predictions


class _Item(dict):
    """An item of the pickle that, like those UPT writes, answers for roles it does not hold; here with "none"."""

    agent, role = float("nan"), [float("nan")] * 5

    def __missing__(self, key: str) -> float | list[float]:
        return self.agent if key.endswith("_agent") else self.role


def _official_items(table: Triplets, words: Vocabulary) -> list[dict]:
    """The official list, one item a row."""
    keys = [name.replace(" ", "_") for name in words.verbs + words.unscored_verbs]
    columns = (table.image_id.tolist(), table.human_boxes, table.verb.tolist())
    objects = np.column_stack([table.object_boxes, table.score])
    return [
        _Item({"image_id": image_id, "person_box": human, keys[verb]: object_})
        for image_id, human, verb, object_ in zip(*columns, objects, strict=True)
    ]


def _official(folder: Path, images: Sequence[Annotation], words: Vocabulary) -> tuple[Any, list[float]]:
    """The official program with the drawn annotations loaded, and the list in which it leaves every AP."""
    path = folder / "v-coco" / "vsrl_eval.py"
    source = path.read_text()
    for old, new in VCOCO_PATCHES:
        if old not in source:
            raise ValueError(f"{path}: '{old}' is not in it. Is it the released program?")
        source = source.replace(old, new)
    module: Any = types.ModuleType("vsrl_eval")
    exec(compile(source, str(path), "exec"), module.__dict__)
    ap, values = module.voc_ap, []
    module.voc_ap = lambda recall, precision: values.append(float(ap(recall, precision))) or values[-1]
    # It reads the pickle anew for each scenario; reading is not what is timed here.
    module.pickle = types.SimpleNamespace(load=lambda file: program.items)
    with tempfile.TemporaryDirectory() as name:
        parts = [Path(name) / part for part in ("vcoco.json", "coco.json", "ids")]
        people, objects = _official_files(images, words)
        parts[0].write_text(json.dumps(people))
        parts[1].write_text(json.dumps(objects))
        parts[2].write_text("".join(f"{image.image_id}\n" for image in images))
        program = module.VCOCOeval(*(str(part) for part in parts))
    return program, values


def _official_files(images: Sequence[Annotation], words: Vocabulary) -> tuple[list[dict], dict]:
    """The drawn annotations as V-COCO's file and as COCO's."""
    first, annotations, listed = 1, [], []
    does: dict[tuple[int, int], int] = {}  # (annotation id of a person, verb): annotation id of the object or 0
    for image in images:
        for index, (x1, y1, x2, y2) in enumerate(image.boxes.tolist()):
            category = int(image.labels[index]) + 1
            box = {"id": first + index, "image_id": image.image_id, "category_id": category, "iscrowd": 0}
            annotations.append(box | {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)})
        listed += [(image.image_id, first + int(index)) for index in np.flatnonzero(image.is_listed)]
        for person, verb, object_ in image.interactions.tolist():
            does[first + person, verb] = first + object_ if object_ != NO_BOX else 0
        first += len(image.boxes)
    people, every_role, actions = [person for _, person in listed], words.verbs + words.unscored_verbs, []
    for action in words.actions:
        verbs = [verb for verb, name in enumerate(every_role) if name.rsplit(" ", 1)[0] == action]
        actions.append(
            {
                "action_name": action,
                "role_name": ["agent", *(every_role[verb].rsplit(" ", 1)[1] for verb in verbs)],
                "image_id": [image_id for image_id, _ in listed],
                "ann_id": people,
                "label": [int(bool(verbs) and (person, verbs[0]) in does) for person in people],
                "role_object_id": people + [does.get((person, verb), 0) for verb in verbs for person in people],
            }
        )
    sizes = [{"id": image.image_id, "width": image.width, "height": image.height} for image in images]
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(words.objects)]
    return actions, {"images": sizes, "annotations": annotations, "categories": categories}


def _official_figures(program: Any, values: list[float], truth: list, items: Any, words: Vocabulary) -> Figures:
    """Both scenarios by the official program: mean AP over the roles of the headline."""
    program.items = items
    names = [
        f"{action} {role}" for action, roles in zip(program.actions, program.roles, strict=True) for role in roles[1:]
    ]
    figures = {}
    for scenario in ("scenario_1", "scenario_2"):
        values.clear()
        program._do_role_eval(truth, os.devnull, eval_type=scenario)
        assert len(values) == len(names)
        scored = [value for name, value in zip(names, values, strict=True) if name in words.verbs]
        figures[scenario.replace("_", " ")] = float(np.mean(scored))
    return figures
