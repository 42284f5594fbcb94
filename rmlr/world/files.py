"""The drawn world as it is published: V-COCO's and HICO-DET's official files, in the layout of the real releases.

Beside COCO's instances lie the joints of the people, in the layout of COCO's person files: what a pose network learns.

Both tell of the same pictures. The world has its own lists of actions, objects and HOI classes; readers find them in
these files. V-COCO's view: COCO's instances, and per action one row a listed person. HICO-DET's: one row per person,
thing and HOI, each with boxes drawn anew; a person and a thing that have nothing to do with each other are a row of
`no_interaction`; what cannot be seen is left out.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rmlr.world.chance import Dice, Stream
from rmlr.world.composition import CUSTOMS, RARITIES, draw_scene
from rmlr.world.joints import CROWDPOSE, CROWDPOSE_BONES, OUTSIDE, crowdpose_joints
from rmlr.world.scene import (
    BONES,
    HIT,
    HOLD,
    JOINTS,
    KICK,
    KINDS,
    LOOK,
    PERSON,
    PUSH,
    RIDE,
    SWING,
    THROW,
    Deed,
    Entity,
    Scene,
)

SPLITS = ("train", "val", "test")

COCO_CATEGORY_IDS = {"person": 1, "bicycle": 2, "ball": 37, "kite": 38, "bat": 39, "bottle": 44, "box": 91}

# V-COCO: actions in file order, with the kinds of thing that each role takes (empty: any)
ACTIONS: dict[str, dict[str, list[str]]] = {
    "hold": {"obj": []},
    "stand": {},
    "ride": {"instr": ["bicycle"]},
    "walk": {},
    "look": {"obj": []},
    "hit": {"instr": ["bat"], "obj": ["ball"]},
    "throw": {"obj": ["ball", "kite", "bat", "bottle", "box"]},
    "push": {"obj": ["bicycle", "bottle", "box"]},
    "kick": {"obj": []},
}

HICO_VERBS = {
    HIT: "hit", HOLD: "hold", KICK: "kick", LOOK: "look_at", PUSH: "push", RIDE: "ride", SWING: "swing", THROW: "throw",
}  # fmt: skip
NO_INTERACTION = "no_interaction"
FEW = 10  # an HOI class is rare with fewer rows in the training file
LEAST_RARE, FULL_TEST = 3, 200  # so often a rare class is in the test split, if that has so many pictures


@dataclass(frozen=True, slots=True)
class Order:
    """One picture of a split, before it is drawn."""

    split: str
    image_id: int
    file_name: str
    wanted: tuple[Deed, str] | None  # what it must show, and of which kind of thing


@dataclass(frozen=True, slots=True)
class Drawn:
    """One picture of a split, and its content."""

    split: str
    image_id: int
    file_name: str
    scene: Scene


def orders(split: str, count: int) -> list[Order]:
    """The pictures of a split. The first one shows an interaction; the rare ones are spread evenly.

    Ids are unique over all splits, not contiguous, and do not depend on how many pictures are drawn. File names are
    as in COCO, where V-COCO's train and val are parts of one training set.
    """
    rare = [
        combination
        for combination, share in RARITIES.items()
        for _ in range(max(round(share * count / 1000), LEAST_RARE if split == "test" and count >= FULL_TEST else 0))
    ]
    wanted = {1 + number * (count - 1) // len(rare): combination for number, combination in enumerate(rare)}
    wanted[0] = (HOLD, "ball")
    return [Order(split, *names, wanted.get(n)) for n, names in enumerate(picture_names(split, count))]


def picture_names(split: str, count: int) -> list[tuple[int, str]]:
    """The id and the file name of every picture of a split."""
    ids = [10 * position + {"train": 1, "val": 4, "test": 7}[split] for position in range(count)]
    part = "test" if split == "test" else "train"
    return [(id_, f"drawn_{part}_{id_:012d}.jpg") for id_ in ids]


def draw_picture(seed: int, size: int, order: Order) -> Drawn:
    """What an order asks for."""
    return Drawn(order.split, order.image_id, order.file_name, draw_scene(seed, order.image_id, size, order.wanted))


def write_files(folder: Path, pictures: Sequence[Drawn]) -> None:
    """All annotation files of both releases, under `folder`."""
    by_split = {split: [picture for picture in pictures if picture.split == split] for split in SPLITS}
    for sub in ("coco", "vcoco/splits", "hicodet"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    known = [*by_split["train"], *by_split["val"]]
    write_json(folder / "coco/instances_train2014.json", coco_instances(known))
    write_json(folder / "coco/instances_val2014.json", coco_instances(by_split["test"]))
    write_json(folder / "coco/person_keypoints_train2014.json", person_keypoints(known))
    write_json(folder / "coco/person_keypoints_val2014.json", person_keypoints(by_split["test"]))
    for split, some in by_split.items():
        write_json(folder / f"vcoco/vcoco_{split}.json", vcoco_actions(some))
        ids = "".join(f"{picture.image_id}\n" for picture in some)
        (folder / f"vcoco/splits/vcoco_{split}.ids").write_text(ids)
    rows = Counter(hoi for picture in known for hoi in hicodet_rows(picture)["hoi"])
    write_json(folder / "hicodet/instances_train2015.json", hicodet_instances(known, rows))
    write_json(folder / "hicodet/instances_test2015.json", hicodet_instances(by_split["test"], rows))


def write_json(path: Path, content: object) -> None:
    """A file of annotations."""
    path.write_text(json.dumps(content))


# ---- COCO and V-COCO


def annotation_id(picture: Drawn, entity: int) -> int:
    return 100 * picture.image_id + entity + 1


def coco_instances(pictures: Sequence[Drawn], category_ids: Mapping[str, int] = COCO_CATEGORY_IDS) -> dict:
    """COCO's instances; people carry the key points of COCO's person files, too (x, y, 2 seen, 1 hidden, 0 outside).

    `category_ids` has COCO's number of every kind of thing, the person's first.
    """
    categories = []
    for kind, number in category_ids.items():
        category = {"supercategory": kind, "id": number, "name": kind}
        if kind == PERSON:
            category["keypoints"] = list(JOINTS)
            category["skeleton"] = [[JOINTS.index(a) + 1, JOINTS.index(b) + 1] for a, b in BONES]
        categories.append(category)
    return {
        "info": {"description": "RmLR drawn world", "version": "1.0"},
        "licenses": [],
        "images": [
            {"id": p.image_id, "file_name": p.file_name, "height": p.scene.size, "width": p.scene.size, "license": 0}
            for p in pictures
        ],
        "annotations": [
            _coco_annotation(picture, number, entity, category_ids)
            for picture in pictures
            for number, entity in enumerate(picture.scene.entities)
        ],
        "categories": categories,
    }


def _coco_annotation(picture: Drawn, number: int, entity: Entity, category_ids: Mapping[str, int]) -> dict:
    x1, y1, x2, y2 = entity.box
    annotation = {
        "id": annotation_id(picture, number),
        "image_id": picture.image_id,
        "category_id": category_ids[entity.kind],
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": (x2 - x1) * (y2 - y1),  # of the box: nothing is segmented
        "iscrowd": int(entity.is_crowd),
        "segmentation": [],
    }
    if entity.joints:
        points = []
        for (x, y), is_seen in zip(entity.joints, entity.is_joint_seen, strict=True):
            is_inside = 0 <= x < picture.scene.size and 0 <= y < picture.scene.size
            points += [x, y, 2 if is_seen else 1] if is_inside else [0, 0, 0]
        annotation |= {"keypoints": points, "num_keypoints": sum(seen > 0 for seen in points[2::3])}
    return annotation


def person_keypoints(pictures: Sequence[Drawn]) -> dict:
    """COCO's person file: the people of `coco_instances` again, with CrowdPose's joints; a crowd has none."""
    whole = coco_instances(pictures)
    joints = {
        annotation_id(picture, number): points
        for picture in pictures
        for number, points in enumerate(crowdpose_joints(picture.scene))
    }
    annotations = []
    for annotation in whole["annotations"]:
        if annotation["category_id"] == COCO_CATEGORY_IDS[PERSON]:
            points = joints.get(annotation["id"], [(0, 0, OUTSIDE)] * len(CROWDPOSE))
            seen = sum(flag != OUTSIDE for _, _, flag in points)
            flat = [number for point in points for number in point]
            annotations.append(annotation | {"keypoints": flat, "num_keypoints": seen})
    category = {
        "supercategory": PERSON,
        "id": COCO_CATEGORY_IDS[PERSON],
        "name": PERSON,
        "keypoints": list(CROWDPOSE),
        "skeleton": [[CROWDPOSE.index(a) + 1, CROWDPOSE.index(b) + 1] for a, b in CROWDPOSE_BONES],
    }
    return whole | {"annotations": annotations, "categories": [category]}


def vcoco_actions(
    pictures: Sequence[Drawn], action_roles: Mapping[str, Mapping[str, list[str]]] = ACTIONS
) -> list[dict]:
    """V-COCO's list of actions, those of `action_roles`.

    `role_object_id` is role-major: all agents, then all things of the next role.
    """
    rows = [
        (picture, number)
        for picture in pictures
        for number, entity in enumerate(picture.scene.entities)
        if entity.is_listed
    ]
    done: dict[tuple[int, int, Deed], int] = {}
    for picture in pictures:
        for it in picture.scene.interactions:
            key = (picture.image_id, it.person, it.deed)
            done[key] = 0 if it.entity is None else annotation_id(picture, it.entity)
    actions = []
    for action, roles in action_roles.items():
        agents = [annotation_id(picture, number) for picture, number in rows]
        columns = [
            [done.get((picture.image_id, number, Deed(action, role)), 0) for picture, number in rows] for role in roles
        ]
        if roles:
            labels = [
                int(any((picture.image_id, number, Deed(action, role)) in done for role in roles))
                for picture, number in rows
            ]
        else:
            labels = [int(picture.scene.entities[number].stance == action) for picture, number in rows]
        actions.append(
            {
                "image_id": [picture.image_id for picture, _ in rows],
                "ann_id": agents,
                "role_object_id": agents + [identifier for column in columns for identifier in column],
                "label": labels,
                "action_name": action,
                "role_name": ["agent", *roles],
                "include": [[], *roles.values()],
            }
        )
    return actions


# ---- HICO-DET

HICO_OBJECTS = sorted(KINDS)
HICO_VERB_NAMES = sorted([*HICO_VERBS.values(), NO_INTERACTION])


def _hico_classes() -> list[tuple[str, str]]:
    """(object, verb) of every HOI class, grouped by object."""
    verbs: dict[str, set[str]] = {kind: {NO_INTERACTION, HICO_VERBS[LOOK]} for kind in KINDS}
    for kind, deeds in CUSTOMS.items():
        verbs[kind] |= {HICO_VERBS[deed] for deed in deeds if deed}
    for deed, kind in RARITIES:
        verbs[kind].add(HICO_VERBS[deed])
    verbs["ball"].add(HICO_VERBS[HIT])
    return [(kind, verb) for kind in HICO_OBJECTS for verb in sorted(verbs[kind])]


HICO_CLASSES = _hico_classes()


def hicodet_instances(pictures: Sequence[Drawn], training_rows: Counter[int]) -> dict:
    """HICO-DET's instances file, as its users know it."""
    annotation = [hicodet_rows(picture) for picture in pictures]
    rare = [hoi for hoi in range(len(HICO_CLASSES)) if training_rows[hoi] < FEW]
    return {
        "annotation": annotation,
        "filenames": [picture.file_name for picture in pictures],
        "empty": [position for position, rows in enumerate(annotation) if not rows["hoi"]],
        "objects": HICO_OBJECTS,
        "verbs": HICO_VERB_NAMES,
        "correspondence": [
            [hoi, HICO_OBJECTS.index(kind), HICO_VERB_NAMES.index(verb)]
            for hoi, (kind, verb) in enumerate(HICO_CLASSES)
        ],
        "size": [[picture.scene.size, picture.scene.size] for picture in pictures],
        "rare": rare,
        "non_rare": [hoi for hoi in range(len(HICO_CLASSES)) if hoi not in rare],
    }


def hicodet_rows(picture: Drawn) -> dict[str, list]:
    """The rows of one picture, one HOI class each."""
    scene = picture.scene
    dice = Dice(scene.seed, scene.index, Stream.HICODET_BOXES)
    rows: dict[str, list] = {"boxes_h": [], "boxes_o": [], "hoi": [], "object": [], "verb": []}
    for person, human in enumerate(scene.entities):
        for number, other in enumerate(scene.entities):
            if human.kind != PERSON or human.is_crowd or other.is_crowd or number == person:
                continue
            deeds = [it.deed for it in scene.interactions if (it.person, it.entity) == (person, number)]
            for verb in [HICO_VERBS[deed] for deed in deeds] or [NO_INTERACTION]:
                rows["boxes_h"].append(_hico_box(human.box, scene.size, dice))
                rows["boxes_o"].append(_hico_box(other.box, scene.size, dice))
                rows["hoi"].append(HICO_CLASSES.index((other.kind, verb)))
                rows["object"].append(HICO_OBJECTS.index(other.kind))
                rows["verb"].append(HICO_VERB_NAMES.index(verb))
    return rows


def _hico_box(box: tuple[float, float, float, float], size: int, dice: Dice) -> list[float]:
    """Drawn by hand: whole pixels, the first is 1, both corners inside; an edge is a pixel off now and then."""
    x1, y1, x2, y2 = (round(edge) + dice.pick({0: 0.7, -1: 0.15, 1: 0.15}) for edge in box)
    x1, y1 = min(max(x1, 0), size - 2), min(max(y1, 0), size - 2)
    x2, y2 = min(max(x2, x1 + 2), size), min(max(y2, y1 + 2), size)
    return [float(x1 + 1), float(y1 + 1), float(x2), float(y2)]
