"""Detections of any method against a prepared split, from Python: all forms give the metrics that `evaluate` writes."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rmlr.detections.triplets import load_triplets
from rmlr.detections.vcoco import write_vcoco_results
from rmlr.evaluation.vcoco import evaluate_agents
from rmlr.hoi import Agents
from rmlr.learning.benchmark import Benchmark, evaluate, read_annotations
from rmlr.stages.evaluate import evaluate as evaluate_stage

GOLDEN = Path(__file__).parents[1] / "golden"
VCOCO, HICODET = GOLDEN / "vcoco" / "triplets_train.parquet", GOLDEN / "hicodet" / "clean" / "triplets.parquet"


@pytest.fixture(scope="module")
def train(vcoco_records) -> Benchmark:
    return read_annotations(str(vcoco_records), "train")


@pytest.fixture
def agents(train) -> Agents:
    """The annotated actions, as agents of score 1."""
    images = [image for image in train.images if len(image.actions)]
    rows = [(image, human, action) for image in images for human, action in image.actions.tolist()]
    return Agents(
        image_id=np.array([image.image_id for image, _, _ in rows]),
        human_boxes=np.array([image.boxes[human] for image, human, _ in rows], dtype=np.float32),
        action=np.array([action for _, _, action in rows]),
        score=np.ones(len(rows), dtype=np.float32),
    )


def table(agents: Agents) -> pd.DataFrame:
    frame = pd.DataFrame(agents.human_boxes, columns=["human_x1", "human_y1", "human_x2", "human_y2"])
    return frame.assign(image_id=agents.image_id, action=agents.action, score=agents.score)


def test_annotations_are_read_as_records(train):
    assert train.vocabulary.dataset == "vcoco"
    assert len(train.images) == 40
    human, verb, object_ = train.images[0].interactions[0].tolist()
    assert train.vocabulary.phrase(verb, None).subject == "person"
    assert train.images[0].labels[human] == train.vocabulary.person
    assert object_ < len(train.images[0].boxes)


def test_paths_data_frames_and_records_give_what_the_stage_writes(vcoco_records, train, tmp_path):
    evaluate_stage(annotations=vcoco_records, triplets=VCOCO, split="train", out=tmp_path / "out")
    written = pd.read_json(tmp_path / "out" / "metrics.json", typ="series")
    frame = pd.read_parquet(VCOCO)
    pickle = tmp_path / "mine.pkl"
    write_vcoco_results(pickle, load_triplets(VCOCO), None, train.vocabulary)
    for detections in (VCOCO, str(VCOCO), frame, frame.astype({"score": "float64"}), load_triplets(VCOCO), pickle):
        metrics = evaluate(detections, train)
        assert {name: metrics[name] for name in written.index} == pytest.approx(dict(written), abs=1e-9, nan_ok=True)
    assert dict(evaluate(VCOCO, vcoco_records, split="train")) == pytest.approx(dict(metrics), nan_ok=True)
    assert str(metrics) == (tmp_path / "out" / "summary.txt").read_text().strip()
    per_verb = pd.read_csv(tmp_path / "out" / "per_verb.csv")
    pd.testing.assert_frame_equal(metrics.frame().astype(per_verb.dtypes), per_verb)


def test_agents_are_scored_as_well(train, agents):
    found = evaluate(VCOCO, train, agents=agents)
    assert dict(evaluate(VCOCO, train, agents=table(agents))) == pytest.approx(dict(found), nan_ok=True)
    assert set(found.parts) == {"per_verb", "per_action"}
    expected = evaluate_agents(train.images, train.vocabulary, agents).metrics()
    assert found["vcoco_ap_agent"] == expected["vcoco_ap_agent"] > 0.5
    assert "vcoco_ap_agent" not in evaluate(VCOCO, train)
    assert len(found.frame("per_action")) == len(train.vocabulary.actions)
    with pytest.raises(ValueError, match="there is no table 'per_class' here, but per_verb, per_action"):
        found.frame("per_class")


def test_hicodet_has_a_table_of_classes(hicodet_records):
    metrics = evaluate(HICODET, hicodet_records)
    assert list(metrics.parts) == ["per_class"]
    assert 0 < metrics["hicodet_default_full"] < 1
    assert metrics.frame()["default"].mean() == pytest.approx(metrics["hicodet_default_full"])


def test_a_metric_of_nothing_is_nan(train):
    frame = pd.read_parquet(VCOCO)
    nothing = evaluate(frame[:0], Benchmark(train.vocabulary, [], None))
    assert math.isnan(nothing["vcoco_ap_role_1"])
    assert evaluate(frame[:0], train)["vcoco_ap_role_1"] == 0


def test_what_does_not_fit_is_refused_by_row_and_column(train, hicodet_records, agents, tmp_path):
    frame, records = pd.read_parquet(VCOCO), load_triplets(VCOCO)
    with pytest.raises(ValueError, match=r"^the table of triplets: column 'verb' is missing"):
        evaluate(frame.drop(columns="verb"), train)
    with pytest.raises(ValueError, match=r"the table of triplets: row 2 \(from 0\): column 'score' holds null"):
        evaluate(frame.assign(score=frame["score"].where(frame.index != 2, np.nan)), train)
    with pytest.raises(ValueError, match="the data frame does not fit a table: Duplicate column names"):
        evaluate(pd.concat([frame, frame["verb"]], axis=1), train)
    with pytest.raises(ValueError, match="the data frame does not fit a table: "):
        evaluate(frame.assign(verb=[object()] * len(frame)), train)
    with pytest.raises(ValueError, match=r"^the table of triplets: row \d+ .*the verb is not in 0"):
        evaluate(replace(records, verb=records.verb + 1000), train)
    with pytest.raises(ValueError, match="the table of agents: agent AP is V-COCO's; the annotations are of hicodet"):
        evaluate(HICODET, hicodet_records, agents=agents)
    write_vcoco_results(tmp_path / "mine.pkl", records, agents, train.vocabulary)
    with pytest.raises(ValueError, match=r"the table of agents: .*mine\.pkl has its own agent scores"):
        evaluate(tmp_path / "mine.pkl", train, agents=agents)
