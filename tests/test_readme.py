"""The first page that a reader sees: short, its table the committed one, its links alive."""

import csv
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_readme_has_at_most_150_lines():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_readme_shows_the_numbers_of_the_committed_table():
    lines = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("|")]
    shown = {cells[0].strip(" *"): cells for cells in ([*map(str.strip, line.strip("|").split("|"))] for line in lines)}
    with (ROOT / "results/table2.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == "measured"]
    assert len(rows) == 11
    for row in rows:
        cells = shown[row["variant"]]
        assert cells[7] == f"{float(row['vcoco_ap_role_1']):.2f}", row["variant"]
        assert cells[9] == f"{float(row['vcoco_ap_role_2']):.2f}", row["variant"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page):
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []
