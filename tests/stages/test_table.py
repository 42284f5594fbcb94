"""The paper's tables, ours beside theirs."""

import csv
import json
from pathlib import Path

import pytest

from rmlr.settings import Table, TableNode, TableRow
from rmlr.stages.table import HICODET, contradiction, table

PAPER = """variant,ire,vcoco_ap_role_1,vcoco_ap_role_2
Plain model,0,58.51,63.87
RmLR,1,63.78,
"""
ROWS = [
    TableRow(row="control: boxes only", run="g/boxes", control=True),
    TableRow(row="Plain model", run="g/plain", control=False),
    TableRow(row="RmLR", run="shared/rmlr", control=False),
]


@pytest.fixture
def study(tmp_path):
    """Metrics of three runs and two seeds, and a function that makes the table of some seeds."""
    fractions = {"g/boxes": (0.1, 0.2), "g/plain": (0.3, 0.4), "shared/rmlr": (0.5, 0.52)}
    for run, of_seeds in fractions.items():
        for seed, value in enumerate(of_seeds):
            folder = tmp_path / "runs" / run / str(seed) / "evaluate"
            folder.mkdir(parents=True)
            metrics = {"vcoco_ap_role_1": value, "vcoco_ap_role_2": None if run == "g/boxes" else value + 0.1}
            (folder / "metrics.json").write_text(json.dumps(metrics))
    (tmp_path / "paper.csv").write_text(PAPER)

    def make(seeds, rows=ROWS, drawn=True):
        chosen = Table(title="Ablations", rows=rows)
        node = TableNode(code="abc", profile="demo", drawn=drawn, table=chosen, seeds=seeds)
        settings = tmp_path / "table.yaml"
        settings.write_text(node.dump())
        out = tmp_path / "table2"
        table(settings=settings, runs=tmp_path / "runs", paper=tmp_path / "paper.csv", out=out)
        with (out / "table2.csv").open() as file:
            return list(csv.DictReader(file)), (out / "table2.md").read_text()

    return make


def test_means_deviations_and_differences_stand_beside_the_papers_points(study):
    rows, _ = study([0, 1])
    plain = rows[0]
    assert plain["variant"] == "Plain model"
    assert plain["ire"] == "0"
    assert plain["paper_vcoco_ap_role_1"] == "58.51"
    assert plain["vcoco_ap_role_1"] == "35.00"
    assert plain["vcoco_ap_role_1_deviation"] == "7.07"  # of the sample: n - 1
    assert plain["vcoco_ap_role_1_difference"] == "-23.51"
    assert (plain["seeds"], plain["profile"]) == ("2", "demo")


def test_one_seed_has_no_deviation(study):
    rows, said = study([1])
    assert rows[0]["vcoco_ap_role_1"] == "40.00"
    assert rows[0]["vcoco_ap_role_1_deviation"] == ""
    assert "one seed" in said


def test_controls_stand_last_and_beside_no_number_of_the_paper(study):
    rows, said = study([0])
    assert [row["variant"] for row in rows] == ["Plain model", "RmLR", "control: boxes only"]
    assert (rows[2]["paper_vcoco_ap_role_1"], rows[2]["vcoco_ap_role_1_difference"], rows[2]["ire"]) == ("", "", "")
    assert said.index("RmLR") < said.index("Controls") < said.index("boxes only")


def test_what_nobody_printed_or_measured_is_empty(study):
    rows, _ = study([0])
    assert rows[1]["paper_vcoco_ap_role_2"] == ""
    assert rows[1]["vcoco_ap_role_2"] == "60.00"
    assert rows[1]["vcoco_ap_role_2_difference"] == ""
    assert rows[2]["vcoco_ap_role_2"] == ""


def test_fractions_go_on_in_metrics_json(study, tmp_path):
    study([0, 1])
    means = json.loads((tmp_path / "table2" / "metrics.json").read_text())
    assert means["g/plain"]["vcoco_ap_role_1"] == pytest.approx(0.35)
    assert "vcoco_ap_role_2" not in means["g/boxes"]


def test_the_markdown_is_aligned_and_says_which_world_it_is(study):
    _, said = study([0, 1])
    lines = [line for line in said.splitlines() if line.startswith("|")]
    assert {len(line) for line in lines[:4]} == {len(lines[0])}
    assert "AP_role scenario 1" in lines[0]
    assert "35.00 ± 7.07" in said
    assert "drawn world" in said
    assert "drawn world" not in study([0], drawn=False)[1]


def test_a_row_that_the_paper_does_not_have_is_an_error_that_names_it(study, tmp_path):
    with pytest.raises(ValueError, match=r"paper\.csv.*'Plane model'"):
        study([0], [TableRow(row="Plane model", run="g/plain", control=False)])
    assert not (tmp_path / "table2").exists()


def test_a_run_that_was_not_evaluated_is_named(study):
    with pytest.raises(ValueError, match=r"/7/evaluate/metrics\.json.*does not exist"):
        study([7])


def test_truncated_metrics_are_named(study, tmp_path):
    path = tmp_path / "runs/g/plain/0/evaluate/metrics.json"
    path.write_text('{"vcoco_ap')
    with pytest.raises(ValueError, match=r"g/plain/0/evaluate/metrics\.json: not JSON"):
        study([0])


HICODET_PAPER = """method,hicodet_default_full,hicodet_default_rare,hicodet_default_nonrare,hicodet_known_object_full
ATL,23.81,17.43,27.42,27.38
RmLR,36.93,29.03,39.29,
"""


@pytest.fixture
def hicodet_table(study, tmp_path):
    """The table of two HICO-DET rows whose runs both measured the given Full, of Rare 0.2 and Non-rare 0.5."""

    def make(full):
        (tmp_path / "paper.csv").write_text(HICODET_PAPER)
        metrics = {"hicodet_default_full": full, "hicodet_default_rare": 0.2, "hicodet_default_nonrare": 0.5}
        metrics |= {"hicodet_classes": 12.0, "hicodet_rare_classes": 4.0}
        for run in ("g/plain", "shared/rmlr"):
            (tmp_path / "runs" / run / "0" / "evaluate" / "metrics.json").write_text(json.dumps(metrics))
        rows = [
            TableRow(row="ATL", run="g/plain", control=False),
            TableRow(row="RmLR", run="shared/rmlr", control=False),
        ]
        return study([0], rows)

    return make


def test_a_printed_full_that_its_rare_and_nonrare_do_not_give_is_marked(hicodet_table):
    rows, said = hicodet_table(0.4)
    assert [row["paper_hicodet_default_full_by_identity"] for row in rows] == ["25.12", ""]
    assert rows[0]["paper_hicodet_default_full"] == "23.81"  # never mended
    assert "23.81 †" in said
    assert "36.93 †" not in said
    assert "ATL, Default Full: 25.12." in said


def test_a_measured_full_that_its_rare_and_nonrare_do_not_give_is_refused(hicodet_table):
    with pytest.raises(
        ValueError, match=r"g/plain/0/evaluate/metrics\.json: hicodet_default_full is 0\.41, but .* 0\.400000\."
    ):
        hicodet_table(0.41)


def test_the_contradictions_of_the_papers_tables_are_those_known():
    found = set()
    for path in sorted((Path(__file__).parents[2] / "paper").glob("table*.csv")):
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                for setting in HICODET:
                    if (expected := contradiction(row, setting)) is not None:
                        found.add((path.stem, next(iter(row.values())), row[f"{setting}_full"], f"{expected:.2f}"))
    assert found == {
        ("table1", "ATL", "23.81", "25.12"),
        ("table1", "FCL", "27.71", "27.41"),
        ("table1", "SSRT", "31.34", "31.25"),
        ("table5", "FCMNet", "20.41", "20.59"),
        ("table5", "FCMNet", "22.04", "22.17"),
        ("table5", "Peyre et al.", "19.40", "19.43"),
        ("table9", "ResNet-101", "38.29", "38.23"),
        ("table9", "ResNet-50", "37.15", "37.92"),
    }
