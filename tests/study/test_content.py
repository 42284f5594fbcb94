"""What files hold, as digests."""

import os

import pytest

from rmlr.study.content import Known, digest, sha256_of


def test_the_digest_of_a_folder_is_of_all_bytes_but_those_of_pictures(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"1234")
    (tmp_path / "weights.safetensors").write_bytes(b"\0" * 2_000_000)
    before = digest(tmp_path)
    (tmp_path / "photo.jpg").write_bytes(b"4321")
    assert digest(tmp_path) == before, "pictures are known by name and size"
    (tmp_path / "weights.safetensors").write_bytes(b"\0" * 1_999_999 + b"\1")
    assert digest(tmp_path) != before
    assert digest(tmp_path / "photo.jpg") != digest(tmp_path / "weights.safetensors")
    assert digest(tmp_path)["files"] == 2
    assert digest(tmp_path)["bytes"] == 2_000_004


def test_the_digest_of_one_picture_is_of_its_bytes(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"1234")
    before = digest(tmp_path / "photo.jpg")
    (tmp_path / "photo.jpg").write_bytes(b"4321")
    assert digest(tmp_path / "photo.jpg") != before


def test_how_and_when_a_folder_was_made_is_no_part_of_what_it_holds(tmp_path):
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper/index.json").write_text("{}")
    before = digest(tmp_path)
    for name in ("run.json", "settings.yaml", ".lock", "deeper/run.json", "deeper/.part"):
        (tmp_path / name).write_text("when")
    assert digest(tmp_path) == before
    (tmp_path / "deeper/index.json").rename(tmp_path / "deeper/other.json")
    assert digest(tmp_path) != before, "names count"


def test_an_empty_folder_has_a_digest(tmp_path):
    assert digest(tmp_path)["files"] == 0


@pytest.fixture
def counted(monkeypatch):
    read = []

    def count(path):
        read.append(path.name)
        return sha256_of(path)

    monkeypatch.setattr("rmlr.study.content.sha256_of", count)
    return read


def test_what_has_not_changed_is_read_once_and_never_again(tmp_path, counted):
    (tmp_path / "made").mkdir()
    for name in ("one", "two"):
        (tmp_path / "made" / name).write_text(name)
    for read_before in (0, 2):
        known = Known(tmp_path / "known.json")
        found = digest(tmp_path / "made", known)
        known.save()
        assert len(counted) == 2, read_before
    (tmp_path / "made/two").write_text("owt")
    os.utime(tmp_path / "made/two", (1, 1))
    known = Known(tmp_path / "known.json")
    assert digest(tmp_path / "made", known) != found
    assert counted == ["one", "two", "two"]


@pytest.mark.parametrize("damage", ["", "{", "[]", "null"])
def test_a_damaged_list_of_digests_is_rebuilt(tmp_path, damage):
    (tmp_path / "file").write_text("content")
    (tmp_path / "known.json").write_text(damage)
    known = Known(tmp_path / "known.json")
    assert known(tmp_path / "file") == sha256_of(tmp_path / "file")
    known.save()
    assert Known(tmp_path / "known.json")(tmp_path / "file") == sha256_of(tmp_path / "file")
