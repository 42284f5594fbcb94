"""docs/extending.md: its settings, added to params.yaml, resolve to what the page says."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from rmlr.__main__ import STAGES
from rmlr.study.plan import Study

ROOT = Path(__file__).parents[1]


def merged(content: dict[str, Any], added: dict[str, Any]) -> dict[str, Any]:
    """`content` with all that `added` has below the same keys."""
    both = content.keys() & added.keys()
    nested = {key: merged(content[key], added[key]) for key in both if isinstance(added[key], dict)}
    return content | added | nested


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    found = yaml.safe_load((ROOT / "params.yaml").read_text())
    blocks = re.findall(r"^```yaml\n(.*?)^```$", (ROOT / "docs/extending.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 5
    for block in blocks:
        found = merged(found, yaml.safe_load(block))
    return found


@pytest.mark.parametrize("profile", ["demo", "tiny"])
def test_what_the_page_adds_is_made_and_nothing_else_changes(content, profile):
    code = dict.fromkeys([*STAGES, "cost"], "digest")
    before = Study.load(ROOT / "params.yaml").nodes(profile, code)
    after = Study.check(content, "params.yaml").nodes(profile, code)
    changed = [place for place, node in before.items() if after[place] != node and place != "statement"]
    assert changed == []
    seed = Study.load(ROOT / "params.yaml").profiles[profile].seeds[0]
    runs = [
        "mine/sentences",
        "mine/short",
        "mine/after_hicodet",
        *(f"sweep/weights-irm_word_{weight}" for weight in (0.1, 0.3, 1.0)),
    ]
    assert {f"runs/{run}/{seed}/train" for run in runs} | {"tables/weights"} <= after.keys() - before.keys()
    assert len(after["tables/weights"].rows) == 4
    for name in ("rare_first", "non_rare_first"):
        assert after[f"runs/zero_shot_hicodet/{name}/{seed}/evaluate"].zero_shot == name
    assert all(row.sources[0].is_zero_shot for row in after["tables/zero_shot"].rows)
