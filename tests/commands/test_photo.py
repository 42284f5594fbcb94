"""rmlr photo: the tables and drawings of any photos, and what is said of those that cannot be read."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rmlr.__main__ import main
from rmlr.commands.photo import find_pictures, photo
from rmlr.learning.inference import COLUMNS, load

EVERYTHING = {"min_score": 0.0}


@pytest.fixture
def folder(photo_run, tmp_path) -> Path:
    """Three photos, and what is none."""
    made = tmp_path / "photos"
    made.mkdir()
    for path in photo_run.photos[:3]:
        shutil.copy(path, made)
    (made / "notes.txt").write_text("no photo")
    return made


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "triplets.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_tables_hold_what_the_model_says_of_each_photo(photo_run, folder, tmp_path):
    photo(str(folder), run=photo_run.run, out=tmp_path / "out", **EVERYTHING)
    model, found = load(photo_run.run), rows(tmp_path / "out")
    records = json.loads((tmp_path / "out" / "triplets.json").read_text())
    paths = sorted(folder.glob("*.jpg"))
    assert [record["image"] for record in records] == list(map(str, paths))
    for path, record in zip(paths, records, strict=True):
        triplets = model(path, **EVERYTHING)
        of_image = [row for row in found if row["image"] == str(path)]
        assert len(of_image) == len(record["triplets"]) == len(triplets) > 0
        assert (record["height"], record["width"]) == (128, 128)
        for triplet, row, entry in zip(triplets, of_image, record["triplets"], strict=True):
            assert list(row) == ["image", *COLUMNS]
            for name, value in triplet.row().items():
                if isinstance(value, str):
                    assert row[name] == entry[name] == value
                else:
                    assert float(row[name]) == pytest.approx(value, abs=0.006)
            np.testing.assert_allclose(entry["human_box"], triplet.human_box, atol=0.006)
            assert entry["score"] == pytest.approx(triplet.score, abs=1e-4)


def test_every_photo_is_drawn_and_nothing_half_written_is_left(photo_run, folder, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("kept")
    photo(str(folder), run=photo_run.run, out=out, top=2, **EVERYTHING)
    drawn = [f"{path.stem}-triplets.png" for path in folder.glob("*.jpg")]
    assert {path.name for path in out.iterdir()} == {*drawn, "triplets.csv", "triplets.json", "mine.txt"}
    for name in drawn:
        with Image.open(out / name) as page:
            assert page.width >= 360


def test_a_photo_in_which_nothing_is_found_is_drawn_all_the_same(photo_run, folder, tmp_path):
    photo(str(folder), run=photo_run.run, out=tmp_path / "out", min_score=1.0, trace=True)
    assert rows(tmp_path / "out") == []
    assert [record["triplets"] for record in json.loads((tmp_path / "out" / "triplets.json").read_text())] == [[]] * 3
    assert len(list((tmp_path / "out").glob("*-triplets.png"))) == 3
    assert not list((tmp_path / "out").glob("*-trace.png"))


def test_a_trace_is_drawn_for_each_pair(photo_run, tmp_path):
    photo(str(photo_run.photos[0]), run=photo_run.run, out=tmp_path, top=3, trace=True, **EVERYTHING)
    pairs = {
        (item.human_box, item.object_box) for item in load(photo_run.run)(photo_run.photos[0], top=3, **EVERYTHING)
    }
    with Image.open(tmp_path / f"{photo_run.photos[0].stem}-trace.png") as page:
        assert page.width >= 2 * 360
        assert page.height >= len(pairs) * 360


def test_photos_of_one_name_get_drawings_of_their_own(photo_run, tmp_path):
    given = [tmp_path / name for name in ("a/x.jpg", "b/x.jpg", "b/x.png", "y.jpg")]
    for path, source in zip(given, photo_run.photos, strict=True):
        path.parent.mkdir(exist_ok=True)
        Image.open(source).save(path)
    photo(*map(str, given), run=photo_run.run, out=tmp_path / "out", **EVERYTHING)
    names = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert names == {f"{name}-triplets.png" for name in ("a_x.jpg", "b_x.jpg", "x.png", "y")}


# ---- what cannot be read


def test_an_unreadable_photo_stops_no_other_and_is_named_at_the_end(photo_run, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("RMLR_DEBUG", "")
    broken = sorted(folder.glob("*.jpg"))[1]
    broken.write_bytes(broken.read_bytes()[:200])
    given = ["photo", str(folder), "--run", str(photo_run.run), "--out", str(tmp_path / "out"), "--min-score", "0"]
    with pytest.raises(SystemExit) as ended:
        main(given)
    assert "1 of 3 pictures could not be read" in str(ended.value.code)
    assert f"{broken}: not a readable image" in str(ended.value.code)
    assert len({row["image"] for row in rows(tmp_path / "out")}) == 2


def test_a_single_unreadable_photo_leaves_no_table(photo_run, tmp_path):
    (tmp_path / "notes.jpg").write_text("no photo")
    with pytest.raises(ValueError, match=r"^\S+notes\.jpg: not a readable image"):
        photo(str(tmp_path / "notes.jpg"), run=photo_run.run, out=tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("wrong", [{"top": 0}, {"min_score": 1.5}, {"min_score": -0.1}])
def test_numbers_out_of_range_are_refused(photo_run, folder, tmp_path, wrong):
    with pytest.raises(ValueError, match=r"expected --top of at least 1, --min-score from 0 to 1"):
        photo(str(folder), run=photo_run.run, out=tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()


# ---- which photos


def test_photos_are_found_by_file_folder_and_pattern_each_once(folder):
    one, two, three = sorted(folder.glob("*.jpg"))
    two.rename(two.with_suffix(".JPG"))
    two = two.with_suffix(".JPG")
    assert find_pictures([str(three), str(folder)]) == [three, one, two]
    assert find_pictures([str(folder / "*.jpg")]) == [one, three]
    assert find_pictures([str(folder.parent / "**" / "*.JPG")]) == [two]
    odd = folder / "what [is] this?.jpg"
    one.rename(odd)
    assert find_pictures([str(odd)]) == [odd]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("photos/nothing*.jpg", r"nothing\*\.jpg: no file fits this pattern"),
        ("photos/lost.jpg", r"lost\.jpg: no such file or folder"),
        ("empty", "empty: the folder holds no photo"),
    ],
)
def test_what_names_no_photo_is_refused(folder, name, message):
    (folder.parent / "empty").mkdir()
    with pytest.raises(ValueError, match=message):
        find_pictures([str(folder), str(folder.parent / name)])


def test_no_photo_at_all_is_refused():
    with pytest.raises(ValueError, match="no picture was given"):
        find_pictures([])
