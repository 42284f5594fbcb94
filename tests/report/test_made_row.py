"""A measured row of a table, found by its name or a run."""

from pathlib import Path

import pytest

from rmlr.report.made_row import find_row
from rmlr.study.nodes import MeasuredRow, Source, TableNode

HEAD = "backbone,pose,paper_vcoco_ap_role_1,vcoco_ap_role_1,vcoco_ap_role_1_deviation,hicodet_default_full,runs,profile"


def source(run, measures):
    return Source(run=run, measures=measures, detector="", encoder="", leaks=False)


@pytest.fixture
def made(tmp_path):
    """Two rows, of which the first is measured on two data sets; the cell `pose` of both is empty."""
    runs = {"small": "shared/rmlr other/rmlr", "large": "shared/large"}
    lines = [f"{name},,58.5,{n}1.00,,{n}2.00,{of},tiny" for n, (name, of) in enumerate(runs.items(), start=4)]
    cells = tmp_path / "table9.csv"
    cells.write_text("\n".join([HEAD, *lines, "reported,,50.0,,,,,"]) + "\n")
    rows = [
        MeasuredRow(
            row={"backbone": name, "pose": ""},
            sources=[source(run, kind) for run, kind in zip(of.split(), ("vcoco", "hicodet"), strict=False)],
        )
        for name, of in runs.items()
    ]
    node = TableNode(
        code="a", profile="tiny", drawn=True, title="T", note=None, rows=rows[:1], controls=rows[1:], seeds=[0]
    )
    return cells, node


def test_empty_cells_are_no_part_of_a_rows_name(made: tuple[Path, TableNode]):
    row = find_row(*made, "large")
    assert (row.label, row.names) == ("large", {"backbone": "large", "pose": ""})


def test_a_rows_name_gives_all_its_runs_and_a_runs_name_only_this_run(made: tuple[Path, TableNode]):
    assert [one.run for one in find_row(*made, "small").sources] == ["shared/rmlr", "other/rmlr"]
    assert [one.run for one in find_row(*made, "rmlr").sources] == ["shared/rmlr", "other/rmlr"]
    assert [one.run for one in find_row(*made, "other/rmlr").sources] == ["other/rmlr"]


def test_a_column_gives_the_run_that_measured_it(made: tuple[Path, TableNode]):
    row = find_row(*made, "small").at("hicodet_default_full")
    assert [one.run for one in row.sources] == ["other/rmlr"]
    assert row.line == {"backbone": "small", "pose": "", "hicodet_default_full": "42.00"}


def test_a_row_of_the_settings_that_the_file_does_not_have_is_an_error(made: tuple[Path, TableNode]):
    cells, node = made
    cells.write_text(cells.read_text().replace("shared/large", "shared/other"))
    with pytest.raises(ValueError, match=r"table9\.csv: has no row 'large' with runs shared/large.*Make it again"):
        find_row(cells, node, "small")
