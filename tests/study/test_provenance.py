"""What a stage was given."""

import os
import subprocess
from pathlib import Path

import pytest

from rmlr.study import provenance
from rmlr.study.provenance import identity

# ---- what is the same work


@pytest.fixture
def given(tmp_path, monkeypatch) -> Path:
    """A folder with an input, an output, and settings that name a file; the current folder."""
    (tmp_path / "input").mkdir()
    (tmp_path / "input" / "weights.safetensors").write_bytes(b"1234")
    (tmp_path / "network.pth").write_bytes(b"5678")
    (tmp_path / "settings.yaml").write_text("weights: network.pth")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(provenance, "command", ["predict", "--split", "test", "--extra=extra", "--out", "out"])
    return tmp_path


def same_work(settings: str = "weights: network.pth") -> str | None:
    node = {"nested": [{"weights": "network.pth"}], "size": 3}
    return identity("predict", 0, settings, node, [Path("input")], [Path("out"), Path("settings.yaml")])


def test_without_a_command_nothing_is_the_same_work(given, monkeypatch):
    monkeypatch.setattr(provenance, "command", None)
    assert same_work() is None


def test_the_output_and_the_times_of_a_settings_file_and_of_hidden_files_do_not_count(given):
    before = same_work()
    (given / "out").mkdir()
    (given / "out" / "made.txt").write_text("made")
    os.utime(given / "settings.yaml", (0, 0))
    (given / "input" / ".lock").touch()
    assert before is not None
    assert same_work() == before


@pytest.mark.parametrize("name", ["input/weights.safetensors", "network.pth", "extra"])
def test_a_file_that_was_changed_in_place_counts_though_it_has_its_size_and_time(given, name):
    """Be it an input, named by the settings, or named by a flag."""
    (given / "extra").write_text("more")
    before, path = same_work(), given / name
    found = path.stat()
    path.write_bytes(b"x" * found.st_size)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert path.stat().st_mtime_ns == found.st_mtime_ns
    assert same_work() != before


def test_flags_settings_versions_and_the_current_folder_count(given, monkeypatch):
    seen = {same_work(), same_work("weights: other.pth")}
    monkeypatch.setattr(provenance, "command", ["predict", "--split", "train", "--out", "out"])
    seen.add(same_work())
    monkeypatch.setattr(provenance, "versions", lambda: {"torch": "0"})
    seen.add(same_work())
    monkeypatch.setenv("WORLD_SIZE", "2")
    seen.add(same_work())
    assert len(seen) == 5


def test_our_code_counts(given, monkeypatch):
    before = same_work()
    (given / "rmlr").mkdir()
    (given / "rmlr" / "changed.py").write_text("pass")
    monkeypatch.setattr(provenance, "PACKAGE", given / "rmlr")
    assert same_work() != before


@pytest.mark.parametrize(("changed", "is_dirty"), [(None, False), ("results/table2.csv", False), ("rmlr/a.py", True)])
def test_a_checkout_is_dirty_when_other_files_than_results_differ(tmp_path, monkeypatch, changed, is_dirty):
    for name in ("rmlr/a.py", "results/table2.csv"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("old")
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path / "rmlr")
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a", "commit", "-qm", "a"]):
        subprocess.run(["git", "-C", tmp_path, *command], check=True)
    if changed:
        (tmp_path / changed).write_text("new")
    found = provenance.commit()
    assert found is not None
    assert found["dirty"] is is_dirty
