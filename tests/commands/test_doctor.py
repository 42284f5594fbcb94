"""What the doctor says of a study, its data and its mirrors; on loopback."""

from pathlib import Path

import pytest
import yaml

from rmlr.commands.doctor import doctor, probe
from rmlr.fetch.sources import load_sources
from rmlr.stages.fetch import fetch

PARAMS = Path(__file__).parents[2] / "params.yaml"


def table_of(path: Path, *urls: str, **more) -> Path:
    """One source, which serves V-COCO."""
    item = {
        "file": "rows.json",
        "urls": list(urls),
        "about": 5,
        "sha256": "unpublished",
        "gives": [{"to": "v/rows.json"}],
    }
    entry = {"what": "rows", "licence": "none", "serves": ["vcoco"], "evidence": "read", "items": [item | more]}
    path.write_text(yaml.safe_dump({"rows": entry}))
    return path


@pytest.mark.parametrize(
    ("fault", "headers", "says", "is_good"),
    [
        ("", {}, "has it, 0.0 MB", True),
        ("403", {}, "403 Forbidden", False),
        ("404", {}, "404 Not Found", False),
        ("500", {}, "500 Internal Server Error", False),
        ("405", {}, "does not answer requests for headers; only a download can show", True),
        ("hang", {}, "cannot be reached (timed out)", False),
        ("", {"Content-Type": "text/html"}, "sends an HTML page instead of the file", False),
    ],
)
def test_every_mirror_says_what_it_is_like(server, tmp_path, fault, headers, says, is_good):
    good = server.put("/good.json", b"[1, 2]")
    bad = server.put("/bad.json", b"[1, 2]", always=fault, headers=headers)
    sources = load_sources(table_of(tmp_path / "t.yaml", bad, good))
    first, second = probe(sources, timeout=0.3)["rows"]
    assert (first.mirror, first.says, first.is_good) == (bad, says, is_good)
    assert (second.mirror, second.is_good) == (good, True)
    assert {method for method, _, _ in server.asked} == {"HEAD"}


def test_no_source_has_no_mirrors():
    assert probe({}, timeout=1.0) == {}


def test_a_mirror_of_another_length_and_one_that_nobody_answers_for_fail(server, tmp_path):
    other = server.put("/other.json", b"[1, 2, 3]")
    sources = load_sources(table_of(tmp_path / "t.yaml", other, "http://127.0.0.1:1/rows.json", bytes=6))
    first, second = probe(sources, timeout=1.0)["rows"]
    assert first.says == "has 9 bytes, 6 were published"
    assert "refused" in second.says
    assert not first.is_good | second.is_good


def test_what_is_missing_is_named_with_what_to_put_where_and_the_status_says_so(server, tmp_path, capsys):
    sources = table_of(tmp_path / "t.yaml", server.put("/rows.json", b"[1, 2]"))
    given = {"profile": "paper", "raw": tmp_path / "raw", "sources": sources, "params": PARAMS}
    with pytest.raises(SystemExit) as ended:
        doctor(**given)
    said = capsys.readouterr().out
    assert ended.value.code == 1
    assert "MISSING  rows" in said
    assert f"put rows.json into {tmp_path / 'raw/archives'}, then `rmlr fetch rows --raw {tmp_path / 'raw'}`" in said
    assert "answers  " in said
    assert "trainings on vcoco" in said
    assert not (tmp_path / "raw").exists()


def test_what_was_fetched_is_there(server, tmp_path, capsys):
    sources = table_of(tmp_path / "t.yaml", server.put("/rows.json", b"[1, 2]"))
    given = {"profile": "paper", "raw": tmp_path / "raw", "sources": sources, "params": PARAMS}
    fetch(**given)
    with pytest.raises(SystemExit):  # of the pose network's weights, which are in no table here
        doctor(**given)
    said = capsys.readouterr().out
    assert "there    rows" in said
    assert "`rmlr fetch" not in said


def test_a_drawn_profile_needs_nothing(tmp_path, capsys):
    doctor(profile="tiny", raw=tmp_path / "raw", params=PARAMS)
    said = capsys.readouterr().out
    assert "no source is needed" in said
    assert "Nothing is missing." in said


def test_an_unknown_profile_is_answered_with_the_list(tmp_path):
    with pytest.raises(ValueError, match=r"no profile 'papr'. There are: demo"):
        doctor(profile="papr", raw=tmp_path, params=PARAMS)


def test_a_detector_of_ones_own_that_is_not_there_is_missing(tmp_path, capsys):
    content = yaml.safe_load(PARAMS.read_text())
    own = {"python": "nowhere.at_all.Mine", "weights": str(tmp_path / "mine"), "architecture": None, "schedule": None}
    content["profiles"]["tiny"]["detectors"]["base"] |= own
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(SystemExit):
        doctor(profile="tiny", raw=tmp_path / "raw", params=tmp_path / "params.yaml")
    said = capsys.readouterr().out
    assert f"Missing: {tmp_path}/mine, weights of detector base, nowhere.at_all.Mine: put them there" in said
    assert "Missing: nowhere.at_all.Mine, the class of detector base: put its module here, or on PYTHONPATH" in said


def test_the_profile_of_real_photos_says_what_it_takes_beforehand(tmp_path, capsys):
    with pytest.raises(SystemExit):
        doctor(profile="photos", raw=tmp_path / "raw", params=PARAMS, timeout=0.0)
    said = capsys.readouterr().out
    assert "MISSING  coco-val2017, 0.82 GB (data set vcoco)" in said
    assert "detr-r50-e632da11.pth, detector base" in said
    assert "train2014" not in said
    assert "579 photos, 195 training runs (13 runs, 5 folds, 3 seeds)" in said
