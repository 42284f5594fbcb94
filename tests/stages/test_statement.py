"""The statement: verdicts by the data alone, of one seed and several, and of what was not run."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from rmlr.data.records import load_annotations, load_vocabulary, save_annotations, save_vocabulary
from rmlr.detections.triplets import save_triplets
from rmlr.evaluation import vcoco
from rmlr.hoi import Triplets
from rmlr.stages.statement import statement
from rmlr.study.nodes import Claimed, MeasuredRow, Source, StatementNode, TableNode
from rmlr.study.settings import Claim, Resampling

from .conftest import BOXES, VOCABULARY, annotation, verb_of

IMAGES = range(400, 460)
PAPER = """variant,vcoco_ap_role_1,vcoco_ap_role_2
poor,50.0,
good,60.0,70.0
twin,61.0,
absent,62.0,
"""
AREAS = """question,vector,distance,same,apart,auc,low,high
verb,human_token,cosine,30,40,0.51,0.45,0.56
verb,human_token,euclidean,30,40,0.9,0.8,0.95
verb,cue,cosine,30,40,{cue},{low},{high}
verb,boxes,cosine,30,40,0.5,0.4,0.6
place,cue,cosine,30,40,0.9,0.8,0.95
"""
RUNS = {"poor": "g/poor", "good": "g/good", "twin": "g/twin"}


def triplets_of(wrong: set[int]) -> Triplets:
    """One for each image, on the right boxes, of the right verb but for these images; those first in rank."""
    ids = np.array(list(IMAGES))
    verbs = np.array([1 - verb_of(image) if image in wrong else verb_of(image) for image in IMAGES])
    scores = np.array([0.9 if image in wrong else 0.5 for image in IMAGES])
    humans, objects = (np.tile(box, (len(ids), 1)) for box in BOXES)
    return Triplets(ids, humans, objects, np.ones(len(ids), dtype=np.int64), verbs, scores)


@pytest.fixture
def study(tmp_path):
    """A study of made-up runs, each by the images that it is wrong on in each seed; gives the statement's files."""
    prepare, paper = tmp_path / "results/vcoco/prepare", tmp_path / "paper"
    prepare.mkdir(parents=True)
    paper.mkdir()
    save_vocabulary(prepare / "vocabulary.json", VOCABULARY)
    save_annotations(prepare / "test.json", [annotation(image) for image in IMAGES])
    (paper / "table2.csv").write_text(PAPER)

    def make(runs, *claims, places=None) -> Path:
        vocabulary, annotations = load_vocabulary(prepare), load_annotations(prepare, "test")
        for name, of_seeds in runs.items():
            for seed, wrong in enumerate(of_seeds):
                folder, table = tmp_path / "results/runs" / RUNS[name] / str(seed), triplets_of(set(wrong))
                (folder / "predict").mkdir(parents=True)
                (folder / "evaluate").mkdir()
                save_triplets(folder / "predict/triplets.parquet", table)
                metrics = vcoco.evaluate(annotations, vocabulary, table).metrics()
                (folder / "evaluate/metrics.json").write_text(json.dumps(metrics))
        if places is not None:
            folder = tmp_path / "results/separation/g/good/0"
            folder.mkdir(parents=True)
            (folder / "separation.csv").write_text(AREAS.format(**places))
        seeds = list(range(len(next(iter(runs.values()), [0]))))
        rows = [
            MeasuredRow(
                row={"variant": name},
                sources=[Source(run=RUNS[name], measures="vcoco", detector="d", encoder="", leaks=False)],
            )
            for name in runs
        ]
        table = TableNode(
            code="", profile="demo", drawn=True, title="Made up", note=None, rows=rows, controls=[], seeds=seeds
        )
        node = StatementNode(
            code="",
            profile="demo",
            drawn=True,
            split="test",
            seeds=seeds,
            resampling=Resampling(samples=200, seed=0),
            tables={"table2": Claimed(table=table, claims=list(claims))},
            places=["g/good"] if places is not None else [],
            made_with={"profile": {"seeds": seeds, "pose": None}, "variants": {}, "runs": {}},
        )
        settings = tmp_path / "statement.yaml"
        settings.write_text(node.dump())
        statement(settings=settings, results=tmp_path / "results", paper=paper, out=tmp_path / "statement")
        return tmp_path / "statement"

    return make


def claim(better: str, than: str, metric: str = "vcoco_ap_role_1") -> Claim:
    return Claim(claim=f"{better} over {than}", metric=metric, better={"variant": better}, than={"variant": than})


def verdicts(folder: Path) -> dict[str, str]:
    with (folder / "statement.csv").open() as file:
        return {row["claim"]: row["verdict"] for row in csv.DictReader(file)}


FEW, MANY = range(400, 404), range(400, 430)


def test_each_verdict_is_by_the_interval_and_the_side(study):
    said = study(
        {"poor": [MANY], "good": [FEW], "twin": [range(404, 408)]}, claim("good", "poor"), claim("twin", "good")
    )
    assert verdicts(said) == {"good over poor": "agrees", "twin over good": "cannot be told apart"}
    text = (said / "statement.md").read_text()
    assert "1 agree, 0 disagree, 1 cannot be told apart" in text
    assert "with one seed, another training may give another verdict" in text
    assert "good over poor (Table 2): +" in text
    assert "the paper has +10.00" in text
    metrics = json.loads((said / "metrics.json").read_text())
    assert metrics["claims_agrees"] == 1
    assert "good over poor" in (said / "brief.html").read_text()


def test_what_is_clearly_the_other_way_round_disagrees(study):
    said = study({"poor": [FEW], "good": [MANY]}, claim("good", "poor"))
    assert verdicts(said) == {"good over poor": "disagrees"}
    assert "## Disagrees with the paper\n\n- good over poor (Table 2): -" in (said / "statement.md").read_text()


def test_a_row_that_was_not_run_is_not_measured_and_named(study):
    said = study({"good": [FEW]}, claim("absent", "good"), claim("good", "poor"))
    assert set(verdicts(said).values()) == {"not measured"}
    text = (said / "statement.md").read_text()
    assert "0 were measured here" in text
    assert "Table 2: `absent`, `poor`" in text
    assert "No table has 3 measured rows" in text


def test_nothing_run_and_nothing_claimed_is_said_so(study):
    said = study({})
    assert verdicts(said) == {}
    assert "Of 0 orderings" in (said / "statement.md").read_text()


def test_seeds_that_contradict_each_other_cannot_be_told_apart(study):
    said = study({"poor": [MANY, FEW], "good": [FEW, range(404, 420)]}, claim("good", "poor"))
    assert verdicts(said) == {"good over poor": "cannot be told apart"}
    text = (said / "statement.md").read_text()
    assert "with 2 seeds each" in text
    assert "and the spread over 2 seeds" in text
    assert "another training may give another verdict" not in text


def test_seeds_that_agree_are_told_apart(study):
    said = study({"poor": [MANY, range(401, 431)], "good": [FEW, range(402, 406)]}, claim("good", "poor"))
    assert verdicts(said) == {"good over poor": "agrees"}


@pytest.mark.parametrize(
    ("cue", "low", "high", "expected"),
    [
        (0.8, 0.75, 0.85, "agrees with the paper"),
        (0.55, 0.5, 0.6, "cannot be told"),
        (0.3, 0.2, 0.4, "disagrees: the cue tells less"),
    ],
)
def test_figure_1_is_judged_by_intervals_that_do_not_meet(study, cue, low, high, expected):
    said = study({"good": [FEW]}, places={"cue": cue, "low": low, "high": high})
    text = (said / "statement.md").read_text()
    assert f"recovers what was lost {expected}." in text
    assert "the token of the human tells nothing of what people do (AUC 0.510, 0.450 to 0.560)" in text


def test_figure_1_without_pairs_is_not_measured(study):
    said = study({"good": [FEW]}, places={"cue": "nan", "low": "nan", "high": "nan"})
    assert "recovers" not in (said / "statement.md").read_text()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (claim("poor", "good"), "the paper does not have 'poor over good': its vcoco_ap_role_1 are 50.0 and 60.0"),
        (claim("good", "poor", "vcoco_ap_role_2"), "are 70.0 and empty"),
        (claim("good", "bad"), "no rows are variant 'bad', which the claim 'good over bad' in params.yaml names"),
        (claim("good", "poor", "fps"), "is about 'fps', which is no AP of that table"),
    ],
)
def test_a_claim_that_the_paper_does_not_make_is_refused(study, wrong, message):
    with pytest.raises(ValueError, match=r"table2\.csv") as error:
        study({"poor": [FEW], "good": [FEW]}, wrong)
    assert message in str(error.value)


def test_predictions_that_are_not_what_was_evaluated_are_refused(study, tmp_path):
    study({"good": [FEW], "poor": [MANY]}, claim("good", "poor"))
    metrics = tmp_path / "results/runs/g/good/0/evaluate/metrics.json"
    metrics.write_text(metrics.read_text().replace("0.", "0.1"))
    (tmp_path / "statement/run.json").unlink()
    with pytest.raises(ValueError, match="run `rmlr evaluate` again"):
        statement(
            settings=tmp_path / "statement.yaml",
            results=tmp_path / "results",
            paper=tmp_path / "paper",
            out=tmp_path / "again",
        )


def test_pages_have_every_claim_and_setting(study):
    said = study({"poor": [MANY], "good": [FEW]}, claim("good", "poor"))
    assert '<span class="agrees">agrees</span>' in (said / "statement.html").read_text()
    assert "<pre>seeds:\n- 0\npose: null</pre>" in (said / "settings.html").read_text()
    for page in said.glob("*.html"):
        assert "http" not in page.read_text(), "nothing is fetched when it is opened"
