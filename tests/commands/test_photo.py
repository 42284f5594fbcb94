"""rmlr photo: the tables and drawings of any photos, and what is said of those that cannot be read."""

import csv
import fcntl
import io
import json
import os
import shutil
import socket
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rmlr.__main__ import main
from rmlr.commands.photo import LONGEST, find_pictures, photo, result_names
from rmlr.data.video import frames_of_file, video_writer
from rmlr.learning.answers import COLUMNS
from rmlr.learning.inference import load
from rmlr.study.made import MADE

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
            assert list(row) == ["image", *COLUMNS, "drawing"]
            assert row["drawing"] == record["drawn"][0] == f"{path.stem}-triplets.png"
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
    assert {path.name for path in out.iterdir()} == {*drawn, "triplets.csv", "triplets.json", "mine.txt", MADE}
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


@pytest.mark.parametrize(
    "wrong",
    [{"top": 0}, {"min_score": 1.5}, {"min_score": float("nan")}, {"prior_power": -5.0}, {"prior_power": 0.0}],
)
def test_numbers_out_of_range_are_refused(photo_run, folder, tmp_path, wrong):
    with pytest.raises(ValueError, match=rf"{next(iter(wrong))} \(--\S+\) is \S+: expected a"):
        photo(str(folder), run=photo_run.run, out=tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()


def broken_pictures(folder: Path, photo: Path) -> dict[str, str]:
    """Fills a folder with what is no readable picture; by file name, as it is printed, what must be said of it."""
    whole = photo.read_bytes()
    (folder / "empty.jpg").touch()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "notes.jpg").write_text("no photo")
    (folder / "dangling.jpg").symlink_to("nowhere.jpg")
    (folder / "circle.jpg").symlink_to("circle.jpg")
    (folder / "device.jpg").symlink_to("/dev/zero")
    (folder / "unreadable.jpg").symlink_to("/proc/self/mem")  # a file whose reading fails, also for root
    os.mkfifo(folder / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(folder / "socket.jpg"))
    bomb = bytearray(png(Image.new("RGB", (3, 2))))
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2  # width and height in the header
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    (folder / "bomb.png").write_bytes(bomb)
    (Path(os.fsdecode(os.fsencode(folder) + b"/broken-\xff.jpg"))).write_text("no photo")
    (folder / "broken\n.jpg").write_text("no photo")
    said = {
        "empty.jpg": "cannot identify",
        "cut.jpg": "truncated",
        "notes.jpg": "cannot identify",
        "dangling.jpg": "No such file",
        "circle.jpg": "symbolic links",
        "device.jpg": "a folder, pipe, socket or device",
        "unreadable.jpg": "",
        "pipe.jpg": "a folder, pipe, socket or device",
        "socket.jpg": "a folder, pipe, socket or device",
        "bomb.png": "decompression bomb",
        "broken-\\xff.jpg": "cannot identify",
        "broken\\n.jpg": "cannot identify",
    }
    assert len(said) == len(list(folder.iterdir()))
    return said


def odd_pictures(folder: Path, photo: Path) -> list[str]:
    """Fills a folder with readable pictures of odd sizes, EXIF data and names; gives their names, as in the table."""
    Image.new("RGB", (5000, 1), "red").save(folder / "line.png")
    Image.new("RGB", (1, 3000), "red").save(folder / "pole.png")
    Image.new("RGB", (1, 1), "red").save(folder / "dot.png")
    picture = Image.open(photo)
    picture.save(folder / "exif.png", exif=b"Exif\0\0garbage")
    picture.save(folder / "exif.jpg", exif=b"Exif\0\0garbage")
    longest = [245 * "n" + ".jpg", 125 * "ü" + ".jpg", 125 * "ü" + ".png"]
    for name in longest:
        picture.save(folder / name)
    shutil.copy(photo, os.fsencode(folder) + b"/caf\xe9.jpg")
    return ["line.png", "pole.png", "dot.png", "exif.png", "exif.jpg", "caf\\xe9.jpg", *longest]


def png(picture: Image.Image) -> bytes:
    content = io.BytesIO()
    picture.save(content, format="PNG")
    return content.getvalue()


@pytest.mark.filterwarnings("ignore:Exception ignored in. <_io.FileIO")  # Pillow closes late what it cannot read
def test_no_picture_ends_a_folder(photo_run, tmp_path, monkeypatch):
    monkeypatch.setenv("RMLR_DEBUG", "")
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    broken = broken_pictures(folder, photo_run.photos[0])
    odd = odd_pictures(folder, photo_run.photos[0])
    given = ["photo", str(folder), "--run", str(photo_run.run), "--out", str(out), "--min-score", "0"]
    with pytest.raises(SystemExit) as ended:
        main(given)
    message = str(ended.value.code)
    message.encode()  # can be printed anywhere
    assert f"{len(broken)} of {len(broken) + len(odd)} pictures could not be read" in message
    for name, why in broken.items():
        [line] = [line for line in message.splitlines() if f"/{name}: not a readable image" in line]
        assert why in line
    records = json.loads((out / "triplets.json").read_text(encoding="utf-8"))
    assert sorted(Path(record["image"]).name for record in records) == sorted(odd)
    drawn = [name for record in records for name in record["drawn"]]
    assert len(set(drawn)) == len(odd)
    assert {path.name for path in out.iterdir()} == {*drawn, "triplets.csv", "triplets.json", MADE}
    assert {row["drawing"] for row in rows(out)} <= set(drawn)


def test_pictures_that_are_named_are_all_tried(photo_run, tmp_path):
    (tmp_path / "dangling.jpg").symlink_to("nowhere.jpg")
    given = [tmp_path / "dangling.jpg", photo_run.photos[0]]
    with pytest.raises(ValueError, match=r"1 of 2 pictures could not be read.*\n.*dangling\.jpg: not a readable"):
        photo(*map(str, given), run=photo_run.run, out=tmp_path / "out")
    assert len(json.loads((tmp_path / "out" / "triplets.json").read_text())) == 1


# ---- whose files are replaced


def test_what_an_earlier_call_made_is_replaced_and_not_taken_for_photos(photo_run, folder):
    given = {"run": photo_run.run, "out": folder, "trace": True, "top": 1, **EVERYTHING}
    photo(str(folder), **given)
    made = {path.name for path in folder.glob("*.png")}
    assert len(made) == 6
    (folder / "my-triplets.png").write_bytes(png(Image.open(photo_run.photos[3])))  # three babies
    (folder / "triplets.csv").touch()
    photo(str(folder), **given | {"top": 2})
    assert {path.name for path in folder.glob("*.png")} - made == {
        "my-triplets.png",
        "my-triplets-triplets.png",
        "my-triplets-trace.png",
    }
    photos = [folder / "my-triplets.png", *folder.glob("*.jpg")]
    assert set(find_pictures([str(folder)])) == set(find_pictures([str(folder / "**/*.[jp][pn]g")])) == set(photos)
    assert find_pictures([str(folder / min(made))]) == [folder / min(made)]  # but for one that is named itself


@pytest.mark.parametrize("name", ["triplets.csv", "triplets.json", "{}-triplets.png", "{}-trace.png"])
def test_what_is_not_ours_is_not_overwritten(photo_run, folder, tmp_path, name):
    mine = tmp_path / "out" / name.format(min(folder.glob("*.jpg")).stem)
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(ValueError, match=rf"has '{mine.name}' already, not made by `rmlr photo`"):
        photo(str(folder), run=photo_run.run, out=tmp_path / "out", trace=True)
    assert [path.read_text() for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_an_out_that_is_no_folder_is_refused(photo_run, folder, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"thesis\.txt: is a file, expected a folder"):
        photo(str(folder), run=photo_run.run, out=tmp_path / "thesis.txt")
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_two_calls_do_not_write_into_one_folder_at_once(photo_run, folder, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    holder = os.open(out, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    with pytest.raises(ValueError, match=r"out: another `rmlr photo` writes there"):
        photo(str(folder), run=photo_run.run, out=out)
    os.close(holder)
    assert not list(out.iterdir())
    photo(str(folder), run=photo_run.run, out=out)


# ---- what results are called


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (["a.jpg", "b/c.jpg"], ["a", "c"]),
        (["x.jpg", "x.png"], ["x.jpg", "x.png"]),
        (["X.jpg", "x.jpg"], ["X.jpg-", "x.jpg-"]),
        (["a/x.jpg", "b/x.jpg", "b/x.png"], ["a_x.jpg", "b_x.jpg", "x.png"]),
        (["a_b/c.jpg", "a/b/c.jpg"], ["c.jpg-", "c.jpg-"]),
        (["x.jpg", "x.png", "x.jpg.gif"], ["x.jpg", "x.png", "x.jpg.gif"]),
        (["caf\u00e9.jpg", "cafe\u0301.png"], ["caf\u00e9.jpg", "cafe\u0301.png"]),  # one name on a Mac
        (["a\udce9.jpg", "a\nb.jpg"], ["a_", "a_b"]),
    ],
)
def test_results_have_names_of_their_own_that_no_order_changes(tmp_path, given, names):
    paths = [tmp_path / name for name in given]
    found = result_names(paths)
    assert found == result_names(paths[::-1])
    assert [name.rstrip("0123456789abcdef") if "-" in name else name for name in found.values()] == names
    assert len({name.casefold() for name in found.values()}) == len(paths)


def test_names_of_results_are_no_longer_than_names_may_be(tmp_path):
    stems = [LONGEST * "n", (LONGEST + 1) * "n", (LONGEST + 2) * "n", 125 * "\u00fc"]
    names = list(result_names([tmp_path / f"{stem}.jpg" for stem in stems]).values())
    assert names[0] == stems[0]
    assert len(set(names)) == len(stems)
    assert max(len(name.encode()) for name in names) == LONGEST
    (tmp_path / f".{max(names, key=len)}-triplets.png.part").touch()


# ---- which photos


def test_photos_are_found_by_file_folder_and_pattern_each_once(folder):
    one, two, three = sorted(folder.glob("*.jpg"))
    two.rename(two.with_suffix(".JPG"))
    two = two.with_suffix(".JPG")
    assert find_pictures([str(three), str(folder)]) == [three, one, two]
    assert find_pictures([str(folder / "*.jpg")]) == [one, three]
    assert find_pictures([str(folder.parent / "**" / "*.JPG")]) == [two]
    (folder / "again").symlink_to(".")
    assert find_pictures([str(folder / "**" / "*.jpg"), str(folder / "again")]) == [
        one,
        three,
        folder / "again" / two.name,
    ]
    odd = folder / "what [is] this?.jpg"
    one.rename(odd)
    assert find_pictures([str(odd)]) == [odd]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("photos/nothing*.jpg", r"nothing\*\.jpg: no photo matches this pattern"),
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


# ---- videos


@pytest.fixture
def film(photo_run, tmp_path) -> Path:
    """Five frames from photos, five a second."""
    pytest.importorskip("av")
    path = tmp_path / "film.mp4"
    with video_writer(path) as add:
        for number in range(5):
            add(number / 5, Image.open(photo_run.photos[number % 3]).convert("RGB"))
    return path


def test_a_video_gets_a_table_of_its_frames_and_a_video_of_its_drawings(photo_run, film, tmp_path):
    out = tmp_path / "out"
    photo(str(film), run=photo_run.run, out=out, top=2, batch_size=2, **EVERYTHING)
    assert {path.name for path in out.iterdir()} == {"film-triplets.csv", "film-triplets.mp4", MADE}
    with (out / "film-triplets.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert list(found[0]) == ["frame", "seconds", *COLUMNS]
    model, frames = load(photo_run.run), list(frames_of_file(film))
    assert {(int(row["frame"]), float(row["seconds"])) for row in found} <= {
        (frame.number, frame.seconds) for frame in frames
    }
    for frame in frames:
        expected = [triplet.phrase for triplet in model(frame.picture, **EVERYTHING)]
        assert [row["phrase"] for row in found if int(row["frame"]) == frame.number] == expected
    drawn = list(frames_of_file(out / "film-triplets.mp4"))
    assert [frame.seconds for frame in drawn] == pytest.approx([frame.seconds for frame in frames])
    assert len({frame.picture.size for frame in drawn}) == 1
    assert drawn[0].picture.width >= 360


def test_a_folder_of_frames_is_a_video_where_its_rate_is_given(photo_run, folder, tmp_path):
    pytest.importorskip("av")
    out = tmp_path / "out"
    photo(str(folder), run=photo_run.run, out=out, frames_per_second=4.0, **EVERYTHING)
    assert {path.name for path in out.iterdir()} == {"photos-triplets.csv", "photos-triplets.mp4", MADE}
    assert [frame.seconds for frame in frames_of_file(out / "photos-triplets.mp4")] == pytest.approx([0, 0.25, 0.5])


def test_a_damaged_video_leaves_nothing_and_stops_no_photo(photo_run, film, tmp_path):
    film.write_bytes(film.read_bytes()[:-300])
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=r"1 of 2 pictures and videos could not be read.*(?s:.*)film\.mp4: cannot"):
        photo(str(film), str(photo_run.photos[0]), run=photo_run.run, out=out)
    assert not [path.name for path in out.iterdir() if "film" in path.name]
    assert (out / "triplets.csv").is_file()
    with pytest.raises(ValueError, match=r"^[^\n]*film\.mp4: cannot be read as a video"):
        photo(str(film), run=photo_run.run, out=tmp_path / "other")


@pytest.mark.parametrize(
    ("asked", "message"),
    [({"trace": True}, "--trace: draws only photos"), ({"frames_per_second": 0.0}, "frames-per-second.* is 0.0"),
     ({"batch_size": 0}, "batch_size .* is 0")],
)  # fmt: skip
def test_what_a_video_cannot_have_is_refused_at_once(photo_run, film, tmp_path, asked, message):
    with pytest.raises(ValueError, match=message):
        photo(str(film), run=photo_run.run, out=tmp_path / "out", **asked)
    assert not (tmp_path / "out").exists()
