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
from rmlr.study.settings import Claim, Resampling, TrainingSpread

from .conftest import BOXES, VOCABULARY, annotation, verb_of

IMAGES = range(400, 460)
PAPER = """variant,vcoco_ap_role_1,vcoco_ap_role_2
poor,50.0,
good,60.0,70.0
twin,61.0,
absent,62.0,
"""
OTHER = "encoder,vcoco_ap_role_1,vcoco_ap_role_2\nlarge,61.5,69.0\n"
AREAS = """question,vector,distance,same,apart,auc,low,high,cue_less_it,less_low,less_high
verb,human_token,cosine,30,40,0.51,0.45,0.56,{less},{low},{high}
verb,human_token,euclidean,30,40,0.9,0.8,0.95,0.1,0.05,0.2
verb,learnt_tokens,cosine,30,40,0.6,0.5,0.7,0.02,-0.08,0.12
verb,cue,cosine,30,40,0.62,0.55,0.7,0.0,0.0,0.0
verb,boxes,cosine,30,40,0.5,0.4,0.6,0.1,0.05,0.2
place,cue,cosine,30,40,0.9,0.8,0.95,0.0,0.0,0.0
"""
SPREAD = {"vcoco_ap_role_1": TrainingSpread(deviation=0.5, degrees=20, measured="made up")}  # points
COSTS = "method,macs_g,params_m\nlight,100.0,10.0\nheavy,101.0,10.1\nunmeasured,102.0,10.1\n"
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
    (paper / "table3.csv").write_text(OTHER)

    def make(
        runs, *claims, places=None, spread=SPREAD, rows_of="poor good twin absent", others=(), costs=(), counted=None
    ) -> Path:
        (paper / "table4.csv").write_text(COSTS)
        (tmp_path / "results/cost").mkdir()
        (tmp_path / "results/cost/metrics.json").write_text(json.dumps({"about": "", "rows": counted or {}}))
        (paper / "table2.csv").write_text(
            "".join(line for line in PAPER.splitlines(keepends=True) if line.split(",")[0] in f"variant {rows_of}")
        )
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
        about = {"code": "", "profile": "demo", "drawn": True, "title": "Made up", "note": None, "controls": []}
        table = TableNode(**about, rows=rows, seeds=seeds)
        source = Source(run=RUNS["twin"], measures="vcoco", detector="d", encoder="e", leaks=False)
        other = TableNode(**about, rows=[MeasuredRow(row={"encoder": "large"}, sources=[source])], seeds=seeds)
        cost = Source(run="cost", measures="cost", detector="", encoder="", leaks=False)
        priced = TableNode(
            **about, rows=[MeasuredRow(row={"method": name}, sources=[cost]) for name in counted or {}], seeds=seeds
        )
        node = StatementNode(
            code="",
            profile="demo",
            drawn=True,
            split="test",
            seeds=seeds,
            training_spread=spread,
            resampling=Resampling(samples=200, seed=0),
            tables={
                "table2": Claimed(table=table, claims=list(claims)),
                **({"table3": Claimed(table=other, claims=list(others))} if others else {}),
                **({"table4": Claimed(table=priced, claims=list(costs))} if costs else {}),
            },
            places=["g/good"] if places is not None else [],
            made_with={"profile": {"seeds": seeds, "pose": None}, "variants": {}, "runs": {}},
        )
        settings = tmp_path / "statement.yaml"
        settings.write_text(node.dump())
        statement(settings=settings, results=tmp_path / "results", paper=paper, out=tmp_path / "statement")
        return tmp_path / "statement"

    return make


def claim(better: str, than: str, metric: str = "vcoco_ap_role_1", **other) -> Claim:
    rows = {"better": {"variant": better}, "than": {"variant": than}}
    return Claim(claim=f"{better} over {than}", metric=metric, **rows, **other)


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "statement.csv").open() as file:
        return list(csv.DictReader(file))


def verdicts(folder: Path) -> dict[str, str]:
    return {row["claim"]: row["verdict"] for row in rows_of(folder)}


FEW, MANY = range(400, 404), range(400, 430)


def test_each_verdict_is_by_the_interval_and_the_side(study):
    said = study(
        {"poor": [MANY], "good": [FEW], "twin": [range(404, 408)]}, claim("good", "poor"), claim("twin", "good")
    )
    assert verdicts(said) == {"good over poor": "agrees", "twin over good": "cannot be told apart"}
    text = (said / "statement.md").read_text()
    assert "1 agree, 0 disagree, 1 cannot be told apart" in text
    assert "a standard deviation of 0.5 points of AP_role scenario 1 (made up)" in text
    assert "Of 2 comparisons of equals, 0.1 would be told apart by chance" in text
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
    assert "0 were judged here" in text
    assert "Table 2: `absent`, `poor`" in text
    assert "No table has 3 measured rows" in text


def test_nothing_run_and_nothing_claimed_is_said_so(study):
    said = study({})
    assert verdicts(said) == {}
    assert "Of 0 claims" in (said / "statement.md").read_text()


def test_seeds_that_contradict_each_other_cannot_be_told_apart(study):
    said = study({"poor": [MANY, FEW], "good": [FEW, range(404, 420)]}, claim("good", "poor"))
    assert verdicts(said) == {"good over poor": "cannot be told apart"}
    text = (said / "statement.md").read_text()
    assert "with 2 seeds each" in text
    assert "and the spread over 2 seeds" in text
    assert "standard deviation" not in text


def test_seeds_that_agree_are_told_apart(study):
    said = study({"poor": [MANY, range(401, 431)], "good": [FEW, range(402, 406)]}, claim("good", "poor"))
    assert verdicts(said) == {"good over poor": "agrees"}


def test_the_spread_between_trainings_decides_with_one_seed(study):
    runs = {"poor": [range(400, 412)], "good": [FEW]}
    assert verdicts(study(runs, claim("good", "poor"))) == {"good over poor": "agrees"}


def test_a_wide_spread_between_trainings_leaves_nothing_to_tell(study):
    wide = {"vcoco_ap_role_1": TrainingSpread(deviation=20, degrees=20, measured="made up")}
    said = study({"poor": [range(400, 412)], "good": [FEW]}, claim("good", "poor"), spread=wide)
    assert verdicts(said) == {"good over poor": "cannot be told apart"}
    (row,) = rows_of(said)
    assert float(row["smallest"]) > 2 * 20 * 2**0.5, "two trainings, and Student's t"
    text = (said / "statement.md").read_text()
    assert "good over poor (Table 2) †." in text
    assert "| +10.00 † |" in text


def test_one_seed_without_a_known_spread_gives_no_verdict(study):
    said = study({"poor": [MANY], "good": [FEW]}, claim("good", "poor"), spread={})
    assert verdicts(said) == {"good over poor": "no verdict"}
    text = (said / "statement.md").read_text()
    assert "with one seed and without a known spread there is no verdict" in text
    assert "One seed, and the spread between trainings is not known." in text
    assert json.loads((said / "metrics.json").read_text())["claims_no_verdict"] == 1


def test_few_positives_give_no_verdict(study, monkeypatch):
    monkeypatch.setattr("rmlr.report.verdicts.FEWEST_POSITIVES", 1 + len(IMAGES))
    said = study({"poor": [MANY], "good": [FEW]}, claim("good", "poor"))
    assert verdicts(said) == {"good over poor": "no verdict"}
    assert "60 positives; 61 are needed." in (said / "statement.md").read_text()


def test_a_stand_in_is_measured_and_not_counted(study):
    runs, why = {"poor": [FEW], "good": [MANY]}, "a small network is no large one"
    said = study(runs, claim("good", "poor", stand_in={"demo": why, "other": "another"}, quoted="9.8"))
    assert verdicts(said) == {"good over poor": "stand-in"}
    text = (said / "statement.md").read_text()
    assert "0 agree, 0 disagree" in text
    assert "A small network is no large one." in text
    assert "| +10.00 (9.8)" in text


def test_a_stand_in_of_another_profile_counts_for_nothing(study):
    said = study({"poor": [MANY], "good": [FEW]}, claim("good", "poor", stand_in={"tiny": "another"}))
    assert verdicts(said) == {"good over poor": "agrees"}


@pytest.mark.parametrize(
    ("wrong", "margin", "verdict"),
    [(FEW, 12, "agrees"), (MANY, 10, "disagrees"), (range(400, 409), 10, "cannot be told apart")],
)
def test_rows_are_alike_within_a_margin_by_all_their_intervals(study, wrong, margin, verdict):
    alike = Claim(claim="all alike", metric="vcoco_ap_role_1", margin=margin)
    said = study({"poor": [wrong], "good": [FEW]}, alike, rows_of="poor good")
    assert verdicts(said) == {"all alike": verdict}
    (row,) = rows_of(said)
    assert (row["margin"], row["better"], row["paper_difference"]) == (f"{margin}", "", "+10.00")
    assert float(row["low"]) <= float(row["difference"]) <= float(row["high"])
    assert "0 comparisons of equals" in (said / "statement.md").read_text()


def test_a_claim_that_the_other_scenario_contradicts_is_refused(study):
    other = Claim(
        claim="large over good",
        metric="vcoco_ap_role_1",
        better={"encoder": "large"},
        than={"variant": "good"},
        than_in="table2",
    )
    runs = {"good": [MANY], "twin": [FEW]}
    with pytest.raises(ValueError, match="the paper contradicts 'large over good' by its other scenario"):
        study(runs, others=[other])


def cost(metric: str, better: str = "heavy", margin: float = 5.0) -> Claim:
    rows = {"better": {"method": better}, "than": {"method": "light"}}
    return Claim(claim=f"{better} costs few {metric}", metric=metric, **rows, margin=margin)


def test_a_cost_is_counted_and_judged_by_its_margin(study):
    counted = {"light": {"macs_g": 200.0, "params_m": 10.0}, "heavy": {"macs_g": 206.0, "params_m": 13.0}}
    said = study(
        {"good": [FEW]}, costs=[cost("macs_g"), cost("params_m"), cost("macs_g", "unmeasured")], counted=counted
    )
    assert verdicts(said) == {
        "heavy costs few macs_g": "agrees",
        "heavy costs few params_m": "disagrees",
        "unmeasured costs few macs_g": "not measured",
    }
    row = rows_of(said)[0]
    shown = [row[name] for name in ("better", "than", "margin", "paper_difference", "difference", "low", "smallest")]
    assert shown == ["heavy", "light", "5", "+1.00", "+3.00", "", ""]
    text = (said / "statement.md").read_text()
    assert "heavy costs few params_m (Table 4): +30.00 %, counted; the paper has +1.00 %" in text
    assert "0 comparisons of equals" in text


def test_a_cost_that_nobody_measured_needs_no_file(study, tmp_path):
    said = study({"good": [FEW]}, costs=[cost("macs_g")])
    assert verdicts(said) == {"heavy costs few macs_g": "not measured"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (cost("macs_g", margin=0.5), "the paper's own costs of 'heavy costs few macs_g' are 1.00 % apart"),
        (cost("vcoco_ap_role_1"), "is about 'vcoco_ap_role_1', which is no cost of that table"),
    ],
)
def test_a_claim_on_a_cost_that_the_paper_does_not_make_is_refused(study, wrong, message):
    with pytest.raises(ValueError, match=r"table4\.csv") as error:
        study({"good": [FEW]}, costs=[wrong])
    assert message in str(error.value)


def test_a_row_of_another_table_is_compared(study, tmp_path):
    rows = {"better": {"encoder": "large"}, "than": {"variant": "poor"}}
    other = Claim(claim="large over poor", metric="vcoco_ap_role_1", **rows, than_in="table2")
    assert verdicts(study({"poor": [MANY], "twin": [FEW]}, others=[other])) == {"large over poor": "agrees"}


@pytest.mark.parametrize("rows", [{}, {"better": {"variant": "a"}}, {"margin": 1.0, "than": {"variant": "a"}}])
def test_a_claim_is_of_one_kind(rows):
    with pytest.raises(ValueError, match=r"expected `better` and `than` .* `margin` .* or all three"):
        Claim(claim="a", metric="vcoco_ap_role_1", **rows)


@pytest.mark.parametrize(
    ("less", "low", "high", "expected"),
    [
        (0.11, 0.05, 0.2, "the cue tells more (+0.110, +0.050 to +0.200)"),
        (0.11, -0.05, 0.2, "cannot be told apart (+0.110, -0.050 to +0.200)"),
        (-0.11, -0.2, -0.05, "the cue tells less (-0.110, -0.200 to -0.050)"),
    ],
)
def test_figure_1_is_judged_by_the_paired_difference(study, less, low, high, expected):
    said = study({"good": [FEW]}, places={"less": less, "low": low, "high": high})
    text = (said / "statement.md").read_text()
    assert f"g/good: the detector's token of the human against the re-mined cue: {expected}." in text
    assert "these after the network's FC against the re-mined cue: cannot be told apart (+0.020, -0.080 to" in text
    assert "the token of the human tells nothing of what people do (AUC 0.510, 0.450 to 0.560)" in text


def test_figure_1_without_pairs_is_not_measured(study):
    said = study({"good": [FEW]}, places={"less": "nan", "low": "nan", "high": "nan"})
    assert "token of the human against" not in (said / "statement.md").read_text()


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
