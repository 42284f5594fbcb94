"""`rmlr cost`: Table 4 beside the paper's, and a training run told from some of its steps."""

import csv
import json
import re
import shutil
from collections import defaultdict
from pathlib import Path

import pytest

from rmlr.commands import cost as command
from rmlr.commands.cost import cost
from rmlr.learning.assembly import Given
from rmlr.learning.estimate import rehearse
from rmlr.stages.text import text
from rmlr.stages.train import train
from rmlr.study import run
from rmlr.study.encoder import Encoder
from rmlr.study.nodes import TextNode, TrainNode
from rmlr.study.plan import Study
from rmlr.study.settings import Alignment, Losses, Network, Train, TransformerSizes, Variant

from ..stages import conftest as stages
from ..stages import test_views as views

corner, made, train_node = views.corner, views.made, views.train_node
study, settings_of = stages.study, stages.settings_of  # fixtures: a small study up to training
ROOT = Path(__file__).parents[2]
PARAMS, PAPER = ROOT / "params.yaml", ROOT / "paper" / "table4.csv"
SIZES = TransformerSizes(layers=1, dim=8, heads=2, ffn_dim=8, dropout=0.1)


def measured(out: Path, *rows: str, **more) -> tuple[list[dict[str, str]], dict]:
    """Rows of the table and what was measured, of small photos."""
    how = {"side": 64, "passes": 1, "warmup": 0, "people": 2, "things": 1, "device": "cpu"} | more
    cost(rows=rows, params=PARAMS, paper=PAPER, out=out, **how)
    with out.open(newline="") as file:
        return list(csv.DictReader(file)), json.loads(out.with_suffix(".json").read_text())


def test_rows_stand_beside_the_papers_with_their_difference(tmp_path, capsys):
    table, about = measured(tmp_path / "deep" / "table4.csv", "ResNet-50")
    assert [row["method"] for row in table] == ["DETR", "UPT", "RmLR"]
    with PAPER.open(newline="") as file:
        paper = {row["method"]: row for row in csv.DictReader(file) if row["backbone"] == "ResNet-50"}
    for row in table:
        for column in ("macs_g", "params_m", "fps"):
            assert float(row[f"paper_{column}"]) == float(paper[row["method"]][column])
            difference = float(row[column]) - float(row[f"paper_{column}"])
            assert float(row[f"{column}_difference"]) == pytest.approx(difference, abs=0.011)
        assert row["detr_params_m_as_printed"] == paper["DETR"]["params_m"]
        assert float(row["paper_fps_by_detr"]) == pytest.approx(float(paper[row["method"]]["fps"]) / 29.1, abs=5e-4)
        assert 0 < float(row["fps_by_detr"]) <= 1
        assert float(row["fps"]) == pytest.approx(float(row["fps_by_detr"]) * float(table[0]["fps"]), rel=0.05)
    detr, upt, rmlr = table
    assert (detr["params_m"], detr["trained_params_m"]) == ("41.52", "0.00")
    assert (upt["trained_params_m"], rmlr["trained_params_m"]) == ("13.13", "13.94")
    assert (about["side"], about["people"], about["things"], about["pairs"]) == (64, 2, 1, 4)
    assert about["weights"] == "random"
    assert [[part["name"] for part in row["parts"]] for row in about["rows"]] == [
        ["detector"],
        ["detector", "pairs", "reasoning"],
        ["detector", "IRE", "pairs", "reasoning"],
    ]
    said = capsys.readouterr().out
    for words in ("random weights", "64 x 64", "2 people and 1 other instances", "4 pairs", "36.59 M", "IRE"):
        assert words in said
    assert not list(tmp_path.glob("**/*.part"))


def test_as_a_node_of_the_study_it_measures_for_table_4(tmp_path, settings_of):
    node = Study.load(PARAMS).nodes("tiny", defaultdict(str))["cost"]
    out = tmp_path / "cost"
    cost(settings=settings_of(node), rows=("DETR ResNet-50", "UPT ResNet-50"), paper=PAPER, out=out, device="cpu")
    found = json.loads((out / "metrics.json").read_text())
    assert found["rows"].keys() == {"DETR ResNet-50", "UPT ResNet-50"}
    with (out / "cost.csv").open(newline="") as file:
        for line in csv.DictReader(file):
            measured = found["rows"][f"{line['method']} {line['backbone']}"]
            assert measured == {name: float(line[name]) for name in ("macs_g", "params_m", "fps")}
    assert found["rows"]["DETR ResNet-50"]["params_m"] == 41.52
    assert "64 x 64 at a time with 4 pairs, median of 1 passes" in found["about"]
    assert "UPT with ResNet-50 0." in found["about"]
    assert (out / "settings.yaml").read_text() == node.dump()
    assert json.loads((out / "cost.json").read_text())["sizes"] == "paper"


def test_a_row_is_chosen_by_method_backbone_or_both():
    printed = command._read_paper(PAPER)
    assert len(command._chosen(printed, [])) == 6
    assert command._chosen(printed, ["RmLR ResNet-101", "DETR"]) == [
        ("DETR", "ResNet-50"),
        ("DETR", "ResNet-101"),
        ("RmLR", "ResNet-101"),
    ]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"rows": ("QPIC",)}, "--rows 'QPIC': .*DETR ResNet-50, .*RmLR ResNet-101"),
        ({"passes": 0}, "--passes 0: expected a whole number from 1 to 10000"),
        ({"side": 10**9}, "--side 1000000000: expected a whole number from 1 to 8192"),
        ({"device": "cuda"}, r"--device cuda: torch .* finds no GPU here\. Measure on the CPU"),
        ({"people": -1}, "--people -1: expected a whole number from 0 to 100"),
        ({"profile": "poster"}, "--profile: there is no 'poster'. There are: demo, tiny, paper"),
        ({"paper": PARAMS}, "params.yaml: expected columns method, backbone, macs_g, params_m, fps"),
        ({"paper": Path("nowhere.csv")}, "nowhere.csv: cannot be read"),
        ({"out": Path("table4.json")}, "must end with .csv"),
        ({"settings": Path("cost.yaml")}, "--settings cost.yaml: give --out, a folder"),
        ({"settings": Path("cost.yaml"), "out": Path("cost"), "train": Path("train.yaml")}, "and not --train"),
        ({"text": Path("text")}, "--text: of a training run"),
        ({"train": Path("train.yaml"), "text": Path("text")}, "give --annotations, --features as well"),
        ({"people": 99, "things": 9, "rows": ("DETR",)}, "99 people and 9 things: DETR has 100 queries"),
    ],
)
def test_what_cannot_be_measured_is_refused(flags, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        cost(**{"params": PARAMS, "paper": PAPER, "side": 32, "passes": 1, "device": "cpu"} | flags)


def test_a_row_that_is_not_ours_and_a_study_without_a_variant_are_refused(tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("method,backbone,macs_g,params_m,fps\nQPIC,ResNet-50,1,2,3\n")
    with pytest.raises(ValueError, match=r"table.csv: QPIC with ResNet-50 cannot be measured; only DETR, UPT, RmLR"):
        cost(params=PARAMS, paper=table)
    for number in ("inf", "nan", "0", "-1", "many"):
        table.write_text(f"method,backbone,macs_g,params_m,fps\nDETR,ResNet-50,1,2,{number}\n")
        with pytest.raises(ValueError, match=r"table.csv: expected columns .* with numbers above 0 in the last three"):
            cost(params=PARAMS, paper=table, device="cpu")
    params = tmp_path / "params.yaml"
    params.write_text(re.sub(r"(?m)^  upt: .*\n", "", PARAMS.read_text()).replace("variant: upt", "variant: boxes"))
    with pytest.raises(ValueError, match=r"variants for Table 4: there is no 'upt'\. There are: plain, "):
        cost(params=params, paper=PAPER, rows=("UPT ResNet-50",), side=32, passes=1, device="cpu")


# ---- a training run


def node(**schedule) -> TrainNode:
    values = {"split": "trainval", "share": 1.0, "epochs": 7, "batch_size": 4, "micro_batch_size": 2}
    values |= {"learning_rate": 1e-2, "weight_decay": 1e-4, "clip_norm": 0.1, "precision": "fp32"} | schedule
    switches = ("global_context", "ire", "ire_sentence", "ire_word", "irm_sentence", "irm_word")
    return TrainNode(
        code="",
        variant=Variant.model_validate({"network": "rmlr", "pose": False} | dict.fromkeys(switches, True)),
        network=Network(pool="covered", feature_dim=8, ire=SIZES, pair_dim=8, irm=SIZES),
        alignment=Alignment(form="anchored", residual=False, whiten=True, stack=SIZES),
        losses=Losses(
            focal_balance=0.5, focal_gamma=0.2, hoi=2.0, irm_sentence=1.0, irm_word=1.0, ire_sentence=0.1, ire_word=0.1
        ),
        train=Train.model_validate(values),
        tags={"variant": "rmlr"},
    )


@pytest.fixture
def inputs(study, settings_of, tmp_path) -> dict[str, Path]:
    encoder = Encoder(name="random vectors", model="random:6", revision=None, sha256=None, pooling="mean")
    text(settings=settings_of(TextNode(code="", encoder=encoder)), annotations=study.prepare, out=tmp_path / "text")
    return {"annotations": study.prepare, "features": study.features, "text": tmp_path / "text"}


def test_an_estimate_knows_the_steps_and_files_of_a_real_run(
    inputs,
    settings_of,
    tmp_path,
    monkeypatch,
    capsys,
):
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    out, settings = tmp_path / "estimate.csv", settings_of(node())
    before = {path: path.stat().st_mtime_ns for folder in inputs.values() for path in folder.rglob("*")}
    cost(train=settings, **inputs, steps=6, out=out)
    assert {path: path.stat().st_mtime_ns for folder in inputs.values() for path in folder.rglob("*")} == before
    assert not list((tmp_path / "scratch").glob("tmp*"))
    found = json.loads(out.with_suffix(".json").read_text())
    said = capsys.readouterr().out
    assert "35 steps in 7 epochs" in said
    assert "and no frozen network: features are cached" in said
    assert (found["shared_macs_g"], found["own_macs_g"] > 0) == (0, True)

    done = []
    monkeypatch.setattr(run.Progress, "advance", lambda bar, count=1, note="": done.append(bar.total))
    train(settings=settings, **inputs, seed=0, out=tmp_path / "train")
    assert found["steps"] == len(done) == done[0] == 7 * 5  # 18 images with a pair, by fours
    assert (found["epochs"], found["timed_steps"], found["variant"]) == (7, 3, "rmlr")
    assert 0 < found["shortest_step"] <= found["seconds_a_step"] <= found["longest_step"]
    assert 3600 * found["hours"] == pytest.approx(found["startup_seconds"] + 34 * found["seconds_a_step"])
    assert found["startup_seconds"] > 0 < found["memory_gb"]
    files = [tmp_path / "train" / name for name in ("weights.safetensors", "alignment.safetensors")]
    assert 0 <= sum(file.stat().st_size for file in files) - 1e6 * found["weights_mb"] < 10_000  # names of tensors
    resume = (tmp_path / ".train.resume" / "epoch.pt").stat().st_size
    assert found["weights_mb"] < found["resume_mb"] <= resume / 1e6
    features = sum(file.stat().st_size for file in inputs["features"].rglob("*.*"))
    assert found["features_gb"] == pytest.approx(features / 1e9)


def test_of_a_run_on_photos_an_estimate_tells_what_others_can_share(corner, tmp_path, capsys):
    settings, out = tmp_path / "online.yaml", tmp_path / "estimate.csv"
    settings.write_text(train_node(online=True).dump())
    cost(train=settings, annotations=corner.root / "prepare", text=corner.root, **corner.seen, steps=2, out=out)
    found = json.loads(out.with_suffix(".json").read_text())
    shared, own = found["shared_macs_g"], found["own_macs_g"]
    assert shared > own > 0
    said = capsys.readouterr().out
    assert f"together N runs cost {shared:.3g} + N x {own:.3g} GMAC a photo, apart N x {shared + own:.3g}" in said
    assert f"24 runs as much as {(shared + 24 * own) / (shared + own):.2g}" in said


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_a_rehearsal_ends_after_the_steps_asked_for_or_with_the_run(inputs, settings_of, steps, monkeypatch):
    monkeypatch.setattr(run, "Progress", run.Progress)  # to be put back
    total, times, memory = rehearse(train, settings_of(node(epochs=2, batch_size=10)), Given(**inputs), steps)
    assert total == 4
    assert len(times) == 1 + min(steps, 4)
    assert times == sorted(times)
    assert memory > 0


def test_what_training_refuses_an_estimate_refuses(inputs, settings_of, tmp_path):
    with pytest.raises(ValueError, match=r"nowhere/train: input of training does not exist"):
        cost(train=settings_of(node()), **inputs | {"features": tmp_path / "nowhere"})
    shutil.copytree(inputs["features"] / "test", tmp_path / "features" / "train")
    with pytest.raises(ValueError, match=r"features/val: input of training does not exist"):
        cost(train=settings_of(node()), **inputs | {"features": tmp_path / "features"})


@pytest.mark.parametrize("name", ["mine.csv", "mine.json"])
def test_a_file_that_cost_did_not_make_is_refused_before_any_work(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=rf"{re.escape(name)}: exists, and was not made by `rmlr cost`"):
        cost(params=tmp_path / "nowhere.yaml", paper=PAPER, out=tmp_path / "mine.csv")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "mine"}
