"""The paper's tables, ours beside theirs."""

import csv
import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Literal

import pytest
import yaml

from rmlr.report.paper import HICODET, METRICS, read_paper
from rmlr.stages.table import table
from rmlr.study.nodes import MeasuredRow, Source, TableNode
from rmlr.study.params import PAPER_TABLES
from rmlr.study.plan import Study

ROOT = Path(__file__).parents[2]

PAPER = """variant,ire,vcoco_ap_role_1,vcoco_ap_role_2
Plain model,0,58.51,63.87
RmLR,1,63.78,
"""


def source(run, measures: Literal["vcoco", "hicodet", "cost"] = "vcoco", detector="small", *, leaks=False):
    return Source(run=run, measures=measures, detector=detector, encoder="words", leaks=leaks)


def fed(*sources, **row):
    """A row, by its cells, and what feeds it; runs by their names."""
    return MeasuredRow(row=row, sources=[source(one) if isinstance(one, str) else one for one in sources])


ROWS = [fed("g/plain", variant="Plain model"), fed("shared/rmlr", variant="RmLR")]
CONTROLS = [fed("g/boxes", variant="control: boxes only")]


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
    (tmp_path / "notes.yaml").write_text("notes: []\n")

    def make(seeds, rows=ROWS, controls=CONTROLS, drawn=True, note=None):
        node = TableNode(
            code="abc",
            profile="demo",
            drawn=drawn,
            title="Ablations",
            note=note,
            rows=rows,
            controls=controls,
            seeds=seeds,
        )
        settings = tmp_path / "table.yaml"
        settings.write_text(node.dump())
        out = tmp_path / "table2"
        table(
            settings=settings,
            runs=tmp_path / "runs",
            paper=tmp_path / "paper.csv",
            notes=tmp_path / "notes.yaml",
            out=out,
            cost=tmp_path / "cost" if (tmp_path / "cost").exists() else None,
        )
        with (out / "table2.csv").open() as file:
            return list(csv.DictReader(file)), (out / "table2.md").read_text()

    return make


@pytest.fixture
def evaluated(tmp_path):
    """Writes what a run measured."""

    def write(run, **metrics):
        folder = tmp_path / "runs" / run / "0" / "evaluate"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metrics.json").write_text(json.dumps(metrics))

    return write


def test_means_deviations_and_differences_are_next_to_the_papers_points(study):
    rows, _ = study([0, 1])
    plain = rows[0]
    assert plain["variant"] == "Plain model"
    assert plain["ire"] == "0"
    assert plain["paper_vcoco_ap_role_1"] == "58.51"
    assert plain["vcoco_ap_role_1"] == "35.00"
    assert plain["vcoco_ap_role_1_deviation"] == "7.07"  # of the sample: n - 1
    assert plain["vcoco_ap_role_1_difference"] == "-23.51"
    said = {name: plain[name] for name in ("source", "runs", "seeds", "data", "detector", "profile")}
    assert list(said.values()) == ["measured", "g/plain", "0 1", "drawn world", "small", "demo"]


def test_one_seed_has_no_deviation(study):
    rows, said = study([1])
    assert rows[0]["vcoco_ap_role_1"] == "40.00"
    assert rows[0]["vcoco_ap_role_1_deviation"] == ""
    assert "one seed" in said


def test_controls_come_last_without_numbers_of_the_paper(study):
    rows, said = study([0])
    assert [row["variant"] for row in rows] == ["Plain model", "RmLR", "control: boxes only"]
    assert (rows[2]["paper_vcoco_ap_role_1"], rows[2]["vcoco_ap_role_1_difference"], rows[2]["ire"]) == ("", "", "")
    assert said.index("RmLR") < said.index("Controls") < said.index("boxes only")


def test_numbers_neither_printed_nor_measured_are_empty(study):
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
    assert {run: json.loads((tmp_path / "table2" / "metrics" / f"{run}.json").read_text()) for run in means} == means


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
        study([0], [fed("g/plain", variant="Plane model")])
    assert not (tmp_path / "table2").exists()


def test_a_run_that_was_not_evaluated_is_named(study):
    with pytest.raises(ValueError, match=r"/7/evaluate/metrics\.json.*does not exist"):
        study([7])


def test_truncated_metrics_are_named(study, tmp_path):
    path = tmp_path / "runs/g/plain/0/evaluate/metrics.json"
    path.write_text('{"vcoco_ap')
    with pytest.raises(ValueError, match=r"g/plain/0/evaluate/metrics\.json: .*Is the file cut off"):
        study([0])


HICODET_PAPER = """method,hicodet_default_full,hicodet_default_rare,hicodet_default_nonrare,hicodet_known_object_full
ATL,23.81,17.43,27.42,27.38
RmLR,36.93,29.03,39.29,
"""


@pytest.fixture
def hicodet_table(study, evaluated, tmp_path):
    """The table of two HICO-DET rows whose runs both measured the given Full, of Rare 0.2 and Non-rare 0.5."""

    def make(full):
        (tmp_path / "paper.csv").write_text(HICODET_PAPER)
        metrics = {"hicodet_default_full": full, "hicodet_default_rare": 0.2, "hicodet_default_nonrare": 0.5}
        for run in ("g/plain", "shared/rmlr"):
            evaluated(run, **metrics, hicodet_classes=12.0, hicodet_rare_classes=4.0)
        rows = [fed(source("g/plain", "hicodet"), method="ATL"), fed(source("shared/rmlr", "hicodet"), method="RmLR")]
        return study([0], rows, [])

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


# ---- rows, sources, and cells that stay empty

WIDE = """method,backbone,hicodet_default_full,hicodet_default_rare,vcoco_ap_role_1,vcoco_ap_role_2
HOTR,ResNet-50,25.10,17.34,55.2,64.4
RmLR,ResNet-50,36.93,29.03,63.78,69.81
RmLR,ResNet-101,37.41,28.81,64.17,70.23
"""


@pytest.fixture
def wide(study, evaluated, tmp_path):
    """A table of four metrics, whose second row is fed by a run of each data set."""
    (tmp_path / "paper.csv").write_text(WIDE)
    evaluated("h/rmlr", hicodet_default_full=0.25, hicodet_default_rare=0.125)
    runs = source("shared/rmlr", leaks=True), source("h/rmlr", "hicodet")
    return study([0], [fed(*runs, method="RmLR", backbone="ResNet-50")], [])


def test_each_data_set_of_a_row_is_fed_by_its_own_run(wide):
    row = wide[0][1]
    assert (row["runs"], row["source"]) == ("shared/rmlr h/rmlr", "measured")
    assert (row["hicodet_default_full"], row["vcoco_ap_role_1"]) == ("25.00", "50.00")
    assert row["hicodet_default_rare_difference"] == "-16.53"


def test_rows_that_were_not_measured_are_reported_and_empty(wide):
    for row in (wide[0][0], wide[0][2]):
        assert row["source"] == "reported"
        ours = [row[f"{name}{part}"] for name in METRICS if name in row for part in ("", "_deviation", "_difference")]
        assert len(ours) == 12
        assert not any(ours)
        assert not any(row[name] for name in ("runs", "seeds", "data", "detector", "profile"))
    assert (wide[0][0]["paper_vcoco_ap_role_2"], wide[0][2]["paper_vcoco_ap_role_2"]) == ("64.4", "70.23")


def test_many_metrics_stand_below_each_other_and_say_on_which_detector(wide, tmp_path):
    lines = [re.split(r" *\| *", line)[1:-1] for line in wide[1].splitlines() if line.startswith("|")]
    assert lines[0] == ["Method", "Backbone", "Source", "Default Full", "Default Rare", "AP_role scenario 1",
                        "AP_role scenario 2"]  # fmt: skip
    assert lines[2] == ["HOTR", "ResNet-50", "reported", "25.10", "17.34", "55.2", "64.4"]
    assert lines[3] == ["RmLR", "ResNet-50", "paper", "36.93", "29.03", "63.78", "69.81"]
    assert lines[4] == ["", "", "ours: small", "25.00", "12.50", "50.00 ‡", "60.00 ‡"]
    assert lines[5] == ["", "", "difference", "-11.93", "-16.53", "-13.78", "-9.81"]
    assert len(lines) == 7


def test_what_was_measured_on_photos_that_the_detector_knew_is_marked(wide, tmp_path):
    assert "‡ The detector's public weights have learnt from the photos of this test." in wide[1]
    assert wide[0][1]["notes"] == "shared/rmlr: its detector has learnt from the test photos"
    assert r"50.00\textsuperscript{\ddag}" in (tmp_path / "table2/table2.tex").read_text()


def test_few_metrics_stand_side_by_side_and_say_on_which_detector(study, tmp_path):
    (tmp_path / "paper.csv").write_text("method,backbone,vcoco_ap_role_1\nTIN,ResNet-50,48.7\nRmLR,ResNet-50,63.78\n")
    said = study([0], [fed("shared/rmlr", method="RmLR")], [])[1]
    lines = [re.split(r" *\| *", line)[1:-1] for line in said.splitlines() if line.startswith("|")]
    assert lines[0] == [
        "Method",
        "Backbone",
        "Source",
        "Our detector",
        "AP_role scenario 1, paper",
        "ours",
        "difference",
    ]
    assert lines[2:] == [
        ["TIN", "ResNet-50", "reported", "", "48.7", "", ""],
        ["RmLR", "ResNet-50", "measured", "small", "63.78", "50.00", "-13.78"],
    ]


def test_a_table_of_which_nothing_was_measured_has_the_papers_rows(study):
    rows, said = study([0], [], [], note="Wait.")
    assert [row["source"] for row in rows] == ["reported", "reported"]
    assert "Nothing of this table was measured. Wait." in said
    assert "Controls" not in said


def test_a_row_named_by_too_few_cells_or_an_unknown_column_is_an_error(study, tmp_path):
    (tmp_path / "paper.csv").write_text(WIDE)
    with pytest.raises(ValueError, match=r"2 rows are method 'RmLR', .*expected one.*RmLR ResNet-101"):
        study([0], [fed("shared/rmlr", method="RmLR")], [])
    with pytest.raises(ValueError, match=r"no column 'variant' that names rows, only method, backbone"):
        study([0], [fed("shared/rmlr", variant="RmLR")], [])


# ---- costs

COSTS = "method,backbone,macs_g,params_m,fps\nDETR,ResNet-50,57.02,36.59,29.1\nUPT,ResNet-50,57.11,36.86,27.5\n"


def test_costs_stand_in_their_own_units_with_how_they_were_measured(study, tmp_path):
    (tmp_path / "paper.csv").write_text(COSTS)
    (tmp_path / "cost").mkdir()
    numbers = {"macs_g": 60.17, "params_m": 41.52, "fps": 0.68}
    content = {"about": "Ours: measured on an abacus.", "rows": {"DETR ResNet-50": numbers}}
    (tmp_path / "cost/metrics.json").write_text(json.dumps(content))
    rows, said = study([0, 1], [fed(source("cost", "cost", ""), method="DETR")], [])
    assert (rows[0]["params_m"], rows[0]["params_m_difference"], rows[0]["runs"]) == ("41.52", "+4.93", "cost")
    assert (rows[0]["seeds"], rows[0]["data"], rows[1]["fps"]) == ("", "noise", "")
    assert "Ours: measured on an abacus." in said
    assert "In points" not in said
    assert "Our detector" not in said
    assert json.loads((tmp_path / "table2/metrics.json").read_text()) == {"DETR": numbers}
    with pytest.raises(ValueError, match=r"cost/metrics\.json: there is no row 'UPT ResNet-50'"):
        study([0], [fed(source("cost", "cost", ""), method="UPT")], [])


def test_a_row_fed_by_cost_needs_its_folder(study, tmp_path):
    (tmp_path / "paper.csv").write_text(COSTS)
    with pytest.raises(ValueError, match="give --cost the folder"):
        study([0], [fed(source("cost", "cost", ""), method="DETR")], [])


# ---- notes, and LaTeX

NOTE = """notes:
  - {table: other, row: {}, columns: [], note: of another table}
  - {table: paper, row: {variant: RmLR}, columns: [vcoco_ap_role_1], note: "50% & more_or_less."}
  - {table: paper, row: {variant: RmLR}, columns: [], note: A name.}
"""


def test_a_note_is_marked_at_its_cells_and_printed_below_the_table(study, tmp_path):
    (tmp_path / "notes.yaml").write_text(NOTE)
    rows, said = study([0])
    assert [row["notes"] for row in rows] == ["", "50% & more_or_less.; A name.", ""]
    assert rows[1]["paper_vcoco_ap_role_1"] == "63.78"
    assert "63.78 [a]" in said
    assert "| RmLR [b] " in said
    assert "\n\n[a] 50% & more_or_less.\n\n[b] A name.\n" in said
    assert "of another table" not in said
    page = (tmp_path / "table2/table2.tex").read_text()
    assert r"63.78\textsuperscript{a} &" in page
    assert r"\textsuperscript{a} 50\% \& more\_or\_less." in page


@pytest.mark.parametrize("where", ["row: {variant: UPT}, columns: []", "row: {variant: RmLR}, columns: [fps]"])
def test_a_note_on_what_is_not_there_is_an_error(study, tmp_path, where):
    (tmp_path / "notes.yaml").write_text(f"notes: [{{table: paper, {where}, note: Look.}}]\n")
    with pytest.raises(ValueError, match=r"paper\.csv: it has not the rows and columns that the note 'Look\.'"):
        study([0])


def must_be_whole(page):
    """Groups and environments are closed, and every line has as many columns as the head says."""
    bare = re.sub(r"\\[\\{}&%$#_]", "", page)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    for name in ("table*", "tabular"):
        assert page.count(f"\\begin{{{name}}}") == page.count(f"\\end{{{name}}}") == 1
    columns = re.search(r"\\begin\{tabular\}\{([lr]+)\}", page)
    assert columns
    lines = [line for line in page.splitlines() if line.endswith(r" \\")]
    for line in lines:
        spans = [int(width) - 1 for width in re.findall(r"\\multicolumn\{(\d+)\}", line)]
        assert line.replace(r"\&", "").count("&") + 1 + sum(spans) == len(columns[1]), line
    assert not re.search(r"[†‡±\[]", page.split(r"\toprule")[1].split(r"\end{tabular}")[0])
    return lines


def test_latex_is_whole_and_has_every_row(study, tmp_path):
    study([0, 1])
    page = (tmp_path / "table2/table2.tex").read_text()
    lines = must_be_whole(page)
    assert r"\multicolumn{3}{c}{AP\_role scenario 1}" in lines[0]
    assert lines[2].startswith(r"Plain model &  & 58.51 & 35.00 $\pm$ 7.07 & $-$23.51 & ")
    assert len(lines) == 5
    assert page.count(r"\midrule") == 2, "one under the head, one above the controls"


# ---- a table of one's own


@pytest.fixture
def own(study, tmp_path):
    """A function that makes a table that the paper does not have, of these rows and seeds; gives its folder."""

    def make(rows, controls=(), seeds=(0, 1)):
        node = TableNode(
            code="abc", profile="demo", drawn=True, title="A trial", note=None, rows=list(rows),
            controls=list(controls), seeds=list(seeds),
        )  # fmt: skip
        (tmp_path / "own.yaml").write_text(node.dump())
        table(settings=tmp_path / "own.yaml", runs=tmp_path / "runs", out=tmp_path / "mine")
        return tmp_path / "mine"

    return make


def test_a_custom_table_has_its_rows_and_metrics_and_nothing_of_the_paper(own):
    rows = fed("g/plain", variant="plain", rate="0.1"), fed("shared/rmlr", variant="rmlr")
    folder = own(rows, [fed("g/boxes", variant="boxes")])
    with (folder / "mine.csv").open() as file:
        cells = list(csv.DictReader(file))
    assert [(row["variant"], row["rate"], row["vcoco_ap_role_1"]) for row in cells] == [
        ("plain", "0.1", "35.00"), ("rmlr", "", "51.00"), ("boxes", "", "15.00")
    ]  # fmt: skip
    assert cells[0]["vcoco_ap_role_1_deviation"] == "7.07"
    assert not [column for column in cells[0] if "paper" in column or "difference" in column]
    text = (folder / "mine.md").read_text()
    lines = [re.split(r" *\| *", line)[1:-1] for line in text.splitlines() if line.startswith("|")]
    assert lines[0] == ["Variant", "Rate", "AP_role scenario 1", "AP_role scenario 2"]
    assert lines[2] == ["plain", "0.1", "35.00 ± 7.07", "45.00 ± 7.07"]
    assert lines[-1] == ["boxes", "", "15.00 ± 7.07", ""]
    assert "In points; mean ± the sample's deviation over 2 seeds; profile `demo`" in text
    assert "\n\nControls:\n\n" in text
    assert "ours" not in text
    lines = must_be_whole((folder / "mine.tex").read_text())
    assert r"\multicolumn{2}{c}{AP\_role}" in lines[0]
    assert "35.00 ± 7.07" in (folder / "mine.html").read_text()
    assert json.loads((folder / "metrics.json").read_text())["g/plain"]["vcoco_ap_role_1"] == pytest.approx(0.35)


def test_a_custom_table_of_zero_shot_runs_has_seen_and_unseen_beside_full(own, tmp_path):
    folder = tmp_path / "runs" / "zero" / "rf" / "0" / "evaluate"
    folder.mkdir(parents=True)
    parts = {"full": 0.3, "rare": 0.3, "nonrare": 0.3, "seen": 0.35, "unseen": 0.1}
    metrics = {f"{name}_{part}": value for name in HICODET for part, value in parts.items()}
    (folder / "metrics.json").write_text(json.dumps(metrics | {"hicodet_classes": 5, "hicodet_rare_classes": 2}))
    run = source("zero/rf", "hicodet")
    for is_zero_shot in (False, True):
        row = fed(run.model_copy(update={"is_zero_shot": is_zero_shot}), split="RF-UC")
        made = own([row], seeds=[0])
        with (made / "mine.csv").open() as file:
            (cells,) = csv.DictReader(file)
        shown = {column: cells.get(column) for column in ("hicodet_default_seen", "hicodet_known_object_unseen")}
        assert list(shown.values()) == (["35.00", "10.00"] if is_zero_shot else [None, None])
    lines = must_be_whole((made / "mine.tex").read_text())
    assert r"\multicolumn{5}{c}{Default} & \multicolumn{5}{c}{Known Object}" in lines[0]


def test_a_custom_table_without_a_row_says_so(own):
    folder = own([])
    assert (folder / "mine.csv").read_text().startswith("row,source,runs,")
    for name in ("mine.md", "mine.html", "mine.tex"):
        assert "Nothing of this table was measured." in (folder / name).read_text()
    must_be_whole((folder / "mine.tex").read_text())


def test_custom_rows_without_a_name_are_refused(own, study, tmp_path):
    with pytest.raises(ValueError, match="'A trial': expected rows that are named by their cells"):
        own([fed("g/plain")])
    with pytest.raises(ValueError, match="column 'fps' is measured and cannot name a row"):
        own([fed("g/plain", fps="1")])
    with pytest.raises(ValueError, match=r"--notes .*: notes are on numbers of the paper"):
        table(settings=tmp_path / "own.yaml", runs=tmp_path, notes=tmp_path / "notes.yaml", out=tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


# ---- the study's own tables

STUDY = Study.load(ROOT / "params.yaml")


@pytest.mark.parametrize("profile", ["demo", "paper"])
def test_each_of_the_nine_tables_is_whole_with_all_its_rows(profile, tmp_path):
    nodes = STUDY.nodes(profile, defaultdict(lambda: "abc"))
    costs = {" ".join(row.row.values()): dict.fromkeys(("macs_g", "params_m", "fps"), 1.0)
             for row in STUDY.tables["table4"].rows}  # fmt: skip
    (tmp_path / "cost").mkdir()
    (tmp_path / "cost/metrics.json").write_text(json.dumps({"about": "Ours: measured.", "rows": costs}))
    for run, chosen in STUDY.runs_in(profile).items():
        folder = tmp_path / "runs" / run / "0" / "evaluate"
        folder.mkdir(parents=True)
        metrics: dict[str, float] = {name: 0.5 for name, metric in METRICS.items() if metric.measures == chosen.dataset}
        metrics |= {"hicodet_classes": 600, "hicodet_rare_classes": 138}
        (folder / "metrics.json").write_text(json.dumps(metrics))
    for name in PAPER_TABLES:
        (tmp_path / f"{name}.yaml").write_text(nodes[f"tables/{name}"].dump())
        paper = ROOT / "paper" / f"{name}.csv"
        inputs = {
            "runs": tmp_path / "runs",
            "paper": paper,
            "notes": ROOT / "paper/notes.yaml",
            "cost": tmp_path / "cost",
        }
        table(settings=tmp_path / f"{name}.yaml", out=tmp_path / name, **inputs)
        must_be_whole((tmp_path / name / f"{name}.tex").read_text())
        with (tmp_path / name / f"{name}.csv").open() as file:
            rows = list(csv.DictReader(file))
        for row, printed in zip(rows, read_paper(paper), strict=False):
            for column, cell in printed.items():
                assert row[f"paper_{column}" if column in METRICS else column] == cell
                if column in METRICS:
                    assert bool(row[column]) == (row["source"] == "measured")
        said = (tmp_path / name / f"{name}.md").read_text()
        notes = [
            note for note in yaml.safe_load((ROOT / "paper/notes.yaml").read_text())["notes"] if note["table"] == name
        ]
        assert all(note["note"] in said for note in notes)
        assert "‡" not in said, "no detector of either profile has learnt from test photos"
