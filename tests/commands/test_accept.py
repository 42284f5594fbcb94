"""`rmlr accept`: a change of code that alters nothing."""

import json
from pathlib import Path

import pytest

from rmlr.commands.accept import accept
from rmlr.study.made import Made
from rmlr.study.nodes import EvaluateNode, PredictNode
from rmlr.study.run import run
from rmlr.study.settings import Prediction

ROOT = Path("results/tiny")
RUN = Path("runs/shared/rmlr/0")


def node(code, min_score=0.0):
    return PredictNode(
        code=code, prediction=Prediction(split="test", batch_size=4, prior_power=2.8, min_score=min_score)
    )


def want(name, section):
    path = ROOT / "settings" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(section.dump())


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A prediction whose code has changed since, one whose numbers have, and an evaluation that is current."""
    monkeypatch.chdir(tmp_path)
    for name, stage, section in (
        (RUN / "predict", "predict", node("old")),
        ("runs/shared/other/0/predict", "predict", node("old")),
        (RUN / "evaluate", "evaluate", EvaluateNode(code="same", split="test")),
    ):
        with run(stage, section, settings=None, out=ROOT / name) as record:
            (record.folder / "made.txt").write_text("made")
    want(RUN / "predict", node("new"))
    want("runs/shared/other/0/predict", node("new", 0.5))
    want(RUN / "evaluate", EvaluateNode(code="same", split="test"))
    want("runs/shared/never/0/predict", node("new"))
    return tmp_path


def test_a_change_of_code_is_accepted_with_who_when_and_why_and_another_number_is_not(study, capsys):
    accept(because="names only", results=ROOT)
    said = capsys.readouterr().out
    assert f"{ROOT / RUN / 'predict'}: accepted, code old -> new" in said
    assert "other/0/predict: left, numbers differ: prediction.min_score: 0.0 -> 0.5" in said
    assert "1 accepted, 1 current before, 1 left" in said
    folder = ROOT / RUN / "predict"
    assert PredictNode.load(folder / "settings.yaml") == node("new")
    about = json.loads((folder / "run.json").read_text())
    [entry] = about["accepted"]
    assert entry["because"] == "names only"
    assert (entry["from"], entry["to"]) == ("old", "new")
    assert entry.keys() == {"who", "when", "because", "from", "to"}
    assert about["settings"]["code"] == "old", "what it was made with stays on record"
    other = ROOT / "runs/shared/other/0/predict"
    assert PredictNode.load(other / "settings.yaml") == node("old")
    assert "accepted" not in json.loads((other / "run.json").read_text())


def test_what_was_accepted_is_still_the_stages_own_folder(study):
    accept(because="names only", results=ROOT)
    assert Made.read(ROOT / RUN / "predict", "predict").foreign() == []
    with run("predict", node("new"), settings=None, out=ROOT / RUN / "predict") as record:
        (record.folder / "made.txt").write_text("made again")
    assert (ROOT / RUN / "predict/made.txt").read_text() == "made again"


def test_only_what_is_named_is_accepted(study, capsys):
    want(RUN / "evaluate", EvaluateNode(code="newer", split="test"))
    accept(ROOT / RUN / "evaluate", because="names only", results=ROOT)
    assert "1 accepted, 0 current before, 0 left" in capsys.readouterr().out
    assert PredictNode.load(ROOT / RUN / "predict/settings.yaml") == node("old")


def test_where_a_named_result_has_other_numbers_nothing_is_accepted(study):
    with pytest.raises(ValueError, match=r"nothing was accepted:\n.*other/0/predict: prediction\.min_score: 0\.0"):
        accept(ROOT / "runs", because="names only", results=ROOT)
    assert PredictNode.load(ROOT / RUN / "predict/settings.yaml") == node("old")


def test_a_second_acceptance_is_added_to_the_first(study):
    accept(because="names only", results=ROOT)
    want(RUN / "predict", node("newest"))
    accept(because="comments only", results=ROOT)
    about = json.loads((ROOT / RUN / "predict/run.json").read_text())
    assert [(entry["to"], entry["because"]) for entry in about["accepted"]] == [
        ("new", "names only"),
        ("newest", "comments only"),
    ]


def test_settings_that_todays_code_does_not_read_are_left_or_named(study, capsys):
    path = ROOT / RUN / "predict/settings.yaml"
    path.write_text(path.read_text() + "removed_since: 3\n")
    accept(because="names only", results=ROOT)
    assert "predict: left, made with settings that the present code cannot read" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"(?s)removed_since.*make it again"):
        accept(ROOT / RUN, because="names only", results=ROOT)


def test_what_cannot_be_accepted_is_one_clear_message(study):
    with pytest.raises(ValueError, match="--because: say why"):
        accept(because="  ", results=ROOT)
    with pytest.raises(ValueError, match=r"results/tiny/runs/nobody: no finished result of results/tiny is there"):
        accept(ROOT / "runs/nobody", because="names only", results=ROOT)
    with pytest.raises(ValueError, match=r"results/demo/settings: does not exist. `snakemake -n` writes"):
        accept(because="names only", results=Path("results/demo"))
