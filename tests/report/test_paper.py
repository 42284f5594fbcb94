"""The paper's rows, and what is read beside them."""

import csv
import json
from collections import defaultdict
from pathlib import Path

import pytest

from rmlr.report.paper import HICODET, METRICS, Notes, contradiction, read_metrics, read_paper, read_rows
from rmlr.study.nodes import TableNode
from rmlr.study.params import PAPER_TABLES
from rmlr.study.plan import Study

ROOT = Path(__file__).parents[2]
STUDY = Study.load(ROOT / "params.yaml")


def test_the_contradictions_of_the_papers_tables_are_those_known():
    found = set()
    for path in sorted((ROOT / "paper").glob("table*.csv")):
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


@pytest.mark.parametrize("profile", STUDY.profiles)
def test_every_row_of_every_profiles_tables_is_one_of_the_papers(profile):
    nodes = STUDY.nodes(profile, defaultdict(lambda: "abc"))
    assert STUDY.tables.keys() >= set(PAPER_TABLES)
    for name in PAPER_TABLES:
        node = nodes[f"tables/{name}"]
        assert isinstance(node, TableNode)
        paper = ROOT / "paper" / f"{name}.csv"
        rows = read_rows(paper, node)
        assert len(rows) == len(read_paper(paper)) + len(node.controls)
        assert len({row.label for row in rows}) == len(rows)
        measured = {metric.measures for column, metric in METRICS.items() if column in rows[0].printed}
        for row in rows:
            if row.sources:
                assert {source.measures for source in row.sources} == measured, f"{name}, {row.label}"


def test_the_literature_is_reported_and_the_papers_own_methods_are_measured():
    nodes = STUDY.nodes("demo", defaultdict(lambda: "abc"))
    measured = {}
    for name in ("table1", "table2", "table4", "table5", "table6", "table7", "table8", "table9"):
        node = nodes[f"tables/{name}"]
        assert isinstance(node, TableNode)
        measured[name] = {row.label for row in read_rows(ROOT / "paper" / f"{name}.csv", node) if row.sources}
    both = {"RmLR ResNet-50", "RmLR ResNet-101"}
    assert measured["table1"] == both | {"UPT ResNet-50", "UPT ResNet-101"}
    assert measured["table5"] == measured["table6"] == both
    assert [len(measured[f"table{number}"]) for number in (4, 7, 8, 9)] == [6, 10, 4, 4]


def test_every_note_belongs_to_a_table_of_the_paper():
    for note in Notes.load(ROOT / "paper/notes.yaml").notes:
        rows = read_paper(ROOT / "paper" / f"{note.table}.csv")
        fitting = [row for row in rows if row.items() >= note.row.items()]
        assert fitting, note
        assert set(note.columns) <= rows[0].keys(), note


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("variant,fps\n", "found no row"),
        ("", "found no row"),
        ("variant,fps\nRmLR\n", "row 'RmLR' has 1 cells, the header 2"),
        ("variant,fps\nRmLR,1,2\n", "row 'RmLR' has 3 cells, the header 2"),
    ],
)
def test_a_table_of_the_paper_that_is_cut_off_is_named(tmp_path, text, message):
    path = tmp_path / "table2.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"table2\.csv: .*{message}"):
        read_paper(path)


@pytest.mark.parametrize(
    "content",
    ["[]", "{", '{"vcoco_ap_role_1": "much"}', '{"vcoco_ap_role_1": Infinity}', '{"vcoco_ap_role_1": {}}', "\xff"],
)
def test_damaged_metrics_are_named(tmp_path, content):
    path = tmp_path / "metrics.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=r"metrics\.json: "):
        read_metrics(path)


def test_a_full_without_the_number_of_its_classes_is_refused(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps({f"hicodet_default_{part}": 0.5 for part in ("full", "rare", "nonrare")}))
    with pytest.raises(ValueError, match=r"hicodet_default_full is 0\.5, but Rare and Non-rare give nan"):
        read_metrics(path)


def test_metrics_without_a_number_are_refused_by_name_and_leave_no_empty_cells(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"metrics\.json: .*at least 1 item"):
        read_metrics(path)
