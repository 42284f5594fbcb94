"""The world of near-synonyms in V-COCO's official files. It has no view in HICO-DET's form, and no joints to learn."""

from collections.abc import Sequence
from pathlib import Path

from rmlr.world.files import SPLITS, Drawn, coco_instances, vcoco_actions, write_json
from rmlr.world.lexicon import ALL_THINGS, ALL_VERBS
from rmlr.world.scene import PERSON

CATEGORY_IDS = {name: number for number, name in enumerate((PERSON, *ALL_THINGS), start=1)}
ACTION_ROLES = {verb.name: {"obj": list(verb.things)} for verb in ALL_VERBS}


def write_word_files(folder: Path, pictures: Sequence[Drawn]) -> None:
    """COCO's instances and V-COCO's actions and splits, under `folder`."""
    by_split = {split: [picture for picture in pictures if picture.split == split] for split in SPLITS}
    for sub in ("coco", "vcoco/splits"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    known = [*by_split["train"], *by_split["val"]]
    write_json(folder / "coco/instances_train2014.json", coco_instances(known, CATEGORY_IDS))
    write_json(folder / "coco/instances_val2014.json", coco_instances(by_split["test"], CATEGORY_IDS))
    for split, some in by_split.items():
        write_json(folder / f"vcoco/vcoco_{split}.json", vcoco_actions(some, ACTION_ROLES))
        ids = "".join(f"{picture.image_id}\n" for picture in some)
        (folder / f"vcoco/splits/vcoco_{split}.ids").write_text(ids)
