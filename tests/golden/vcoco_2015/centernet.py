"""Record what the official V-COCO program says of a real detector's output on the real test photos (README.md here).

    python -m tests.golden.vcoco_2015.centernet PATH/TO/v-coco RAW WEIGHTS

RAW holds coco/ and vcoco/ with the official rows of test, and images/val2014 with those photos that are at hand;
WEIGHTS is the folder of CenterNet's files. Kept are the detector's boxes (centernet.npz) and the program's numbers
(centernet.json).
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from rmlr.data.images import load_batch
from rmlr.data.vcoco import read_vcoco
from rmlr.detections.vcoco import write_vcoco_results
from rmlr.hoi import Agents, Annotation, Triplets, Vocabulary
from rmlr.model.detector import FrozenDetector, select_instances
from rmlr.model.foreign import Foreign
from rmlr.study.settings import Selection
from tests.golden.vcoco_2015.record import LISTED, UNSCORED, tables

HERE = Path(__file__).parent
BOXES, SAID = HERE / "centernet.npz", HERE / "centernet.json"
RULE = Selection(nms_iou=0.5, min_score=0.1, min_instances=3, max_instances=8)
QUARTERS = 4.0  # boxes are kept in quarters of a pixel


def see(photos: dict[int, Path], objects: tuple[str, ...], person: int, weights: Path) -> dict[str, np.ndarray]:
    """The boxes of each photo, by image id: image_id, boxes (quarters of a pixel), label, score."""
    frozen = FrozenDetector(Foreign("examples.centernet.CenterNet", weights), objects)
    rows: dict[str, list[np.ndarray]] = {"image_id": [], "boxes": [], "label": [], "score": []}
    for image_id, path in photos.items():
        batch = load_batch([path], frozen.size(None))
        seen = frozen(batch.pixels, batch.is_padding, batch.resized, batch.original)
        found, _ = select_instances(seen, person, RULE)
        rows["image_id"].append(np.full(len(found.scores), image_id, dtype=np.int32))
        rows["boxes"].append((found.boxes * QUARTERS).round().numpy().astype(np.uint16))
        rows["label"].append(found.labels.numpy().astype(np.uint8))
        rows["score"].append(found.scores.numpy())
    return {name: np.concatenate(parts) for name, parts in rows.items()}


def answer(
    kept: dict[str, np.ndarray], images: list[Annotation], learnt: list[Annotation], vocabulary: Vocabulary
) -> tuple[Triplets, Agents]:
    """Every human with every other box and with none, for each verb, in the order of how often training shows them.

    The merit of an answer is the product of the boxes' scores and of the verb's share of the rows of the object's class
    (or of the rows without an object) in the training annotations. Images whose annotations list no person are left
    out: the official program stops at a detection in one.
    """
    num_verbs, num_objects = len(vocabulary.verbs + vocabulary.unscored_verbs), len(vocabulary.objects)
    shown, acted = np.zeros((num_verbs, num_objects + 1)), np.zeros(len(vocabulary.actions))
    for image in learnt:
        for _, verb, thing in image.interactions.tolist():
            shown[verb, image.labels[thing] if thing >= 0 else num_objects] += 1
        np.add.at(acted, image.actions[:, 1], 1)
    share = shown / shown.sum(0, keepdims=True).clip(min=1)
    found, acts = [], []  # rows of `tables`
    nothing = np.full(4, np.nan, dtype=np.float32)
    for image in images:
        own = kept["image_id"] == image.image_id
        if not own.any() or not (image.labels == vocabulary.person).any():
            continue
        boxes = kept["boxes"][own].astype(np.float32) / np.float32(QUARTERS)
        labels, sure = kept["label"][own].tolist(), kept["score"][own].astype(np.float64).tolist()
        for human in (index for index, label in enumerate(labels) if label == vocabulary.person):
            for action, number in enumerate(acted.tolist()):
                acts.append((sure[human] * number / acted.sum(), image.image_id, boxes[human], action))
            others = [index for index in range(len(labels)) if index != human]
            answers = [(boxes[index], labels[index], sure[human] * sure[index]) for index in others]
            for box, label, merit in [*answers, (nothing, num_objects, 0.5 * sure[human])]:
                for verb in np.flatnonzero(share[:, label]).tolist():
                    found.append((merit * share[verb, label], image.image_id, boxes[human], box, verb))
    return tables(found, acts)


def load_boxes() -> dict[str, np.ndarray]:
    """The kept boxes."""
    with np.load(BOXES) as file:
        return dict(file)


def main() -> None:
    """Write centernet.npz, if it is not there, and centernet.json."""
    from tests.golden.vcoco.record import PATCHES, run_official

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="folder that holds vsrl_eval.py")
    parser.add_argument("raw", type=Path, help="folder that holds coco/, vcoco/ and images/val2014")
    parser.add_argument("weights", type=Path, help="folder of CenterNet's files")
    given = parser.parse_args()
    torch.set_num_threads(1)
    corpus = read_vcoco(given.raw, [UNSCORED])
    images, words = corpus.splits["test"], corpus.vocabulary
    if not BOXES.exists():
        photos = {image.image_id: given.raw / "images" / "val2014" / image.file_name for image in images}
        there = {image_id: path for image_id, path in photos.items() if path.exists()}
        np.savez_compressed(BOXES, **see(there, words.objects, words.person, given.weights))
    kept = load_boxes()
    triplets, agents = answer(kept, images, [*corpus.splits["train"], *corpus.splits["val"]], words)
    with tempfile.TemporaryDirectory() as folder:
        detections = Path(folder) / "detections.pkl"
        write_vcoco_results(detections, triplets, agents, words)
        said = run_official(given.checkout, given.raw, "test", detections, PATCHES + LISTED)
    counts = {"images": len(images), "photos": len(set(kept["image_id"].tolist())), "boxes": len(kept["score"])}
    counts |= {"triplets": len(triplets.score), "agents": len(agents.score)}
    SAID.write_text(json.dumps(counts | said, indent=1) + "\n")
    sys.stderr.write(f"{counts}\n")


if __name__ == "__main__":
    main()
