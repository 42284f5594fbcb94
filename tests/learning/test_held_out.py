"""AP on val while a run trains, by either benchmark's protocol."""

import numpy as np
import pytest
import torch
from torch import nn

from rmlr.data.records import save_annotations, save_vocabulary
from rmlr.hoi import Annotation, Triplets, Vocabulary
from rmlr.learning import held_out
from rmlr.learning.held_out import HeldOutScores
from rmlr.study.settings import Prediction

BOXES = np.array([[4.0, 4.0, 30.0, 60.0], [32.0, 20.0, 48.0, 40.0]])


def annotation(image_id: int) -> Annotation:
    return Annotation(
        image_id=image_id,
        file_name=f"{image_id}.jpg",
        height=64,
        width=64,
        boxes=BOXES,
        labels=np.array([0, 1]),
        interactions=np.array([[0, image_id % 2, 1]]),
        is_crowd=np.zeros(2, dtype=bool),
        is_listed=np.array([True, False]),
        actions=np.zeros((0, 2), dtype=np.int64),
    )


@pytest.mark.parametrize(
    ("dataset", "columns"),
    [
        ("vcoco", {"vcoco_ap_role_1", "vcoco_ap_role_2"}),
        ("hicodet", {f"hicodet_{way}_{part}" for way in ("default", "known_object") for part in ("full", "nonrare")}),
    ],
)
def test_the_papers_columns_are_scored_over_all_images_in_batches(tmp_path, monkeypatch, dataset, columns):
    """A network that finds everything scores 1; no HOI is rare here, so there is no column of rare ones."""
    vocabulary = Vocabulary(dataset, ("person", "ball"), 0, ("hold obj", "throw obj"), ((0, 1), (1, 1)))
    save_vocabulary(tmp_path / "vocabulary.json", vocabulary)
    images = [annotation(image_id) for image_id in range(5)]
    save_annotations(tmp_path / "train.json", images)
    save_annotations(tmp_path / "val.json", images)
    asked = []

    def found(network, batch, is_valid_verb, **how):
        asked.append(batch)
        assert how == {"prior_power": 2.8, "min_score": 0.0}
        rows = len(batch)
        human, thing = (np.repeat(box[None], rows, 0).astype(np.float32) for box in BOXES)
        labels, verbs = np.ones(rows, np.int64), np.array(batch) % 2
        return Triplets(np.array(batch), human, thing, labels, verbs, np.full(rows, 0.5, np.float32))

    def tested(split, annotated):
        ids = [one.image_id for one in annotated]
        return ids, lambda positions, device: [ids[position] for position in positions]

    monkeypatch.setattr(held_out, "score_triplets", found)
    chosen = Prediction(split="val", batch_size=2, prior_power=2.8, min_score=0.0)
    scores = HeldOutScores(tmp_path, vocabulary, tested, chosen)(nn.Identity(), torch.device("cpu"))
    assert asked == [[0, 1], [2, 3], [4]]
    assert scores == pytest.approx({f"val/{column}": 1.0 for column in columns})
