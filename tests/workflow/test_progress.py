"""What the terminal says at the end of a study."""

import json
from datetime import UTC, datetime
from pathlib import Path

from progress import summary


def made(folder: Path, stage: str, began: str) -> None:
    folder.mkdir(parents=True)
    about = {"stage": stage, "began": began, "wall_seconds": 2.0, "cpu_seconds": 3.0}
    (folder / "run.json").write_text(json.dumps(about))


def test_a_study_ends_with_what_this_call_made_and_nothing_else(tmp_path):
    made(tmp_path / "demo/world/draw", "draw", "2026-01-01T10:00:00+00:00")
    for seed in range(2):
        made(tmp_path / f"demo/runs/g/a/{seed}/train", "train", "2026-01-01T12:00:00+00:00")
    (tmp_path / "table2.md").write_text("**Ablations**\n")
    (tmp_path / "table3.md").write_text("**Encoders**\n")
    since = datetime(2026, 1, 1, 12, 0, 0, 500, UTC)  # records have whole seconds
    text = summary(str(tmp_path / "demo"), [tmp_path / "table2.md"], since)
    lines = text.splitlines()
    assert lines[:3] == [str(tmp_path / "table2.md"), "", "**Ablations**"]
    assert "Encoders" not in text
    assert [line.split()[:4] for line in lines[-2:]] == [["train", "2", "4.0", "6.0"], ["all", "2", "6.0"]]
    assert not any(line.startswith("draw") for line in lines)


def test_a_call_that_made_nothing_has_nothing_to_say(tmp_path):
    made(tmp_path / "demo/world/draw", "draw", "2026-01-01T10:00:00+00:00")
    assert summary(str(tmp_path / "demo"), [], datetime(2026, 1, 2, tzinfo=UTC)) == ""
