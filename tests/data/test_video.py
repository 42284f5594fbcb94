"""Video: frames with their numbers and times, turned as viewers show them, from files and from folders."""

import sys

import numpy as np
import pytest
from PIL import Image

from rmlr.data.video import about_frames, frames_of_file, frames_of_pictures, video_writer

pytest.importorskip("av")


def grey(level: int, width: int = 96, height: int = 64) -> Image.Image:
    return Image.fromarray(np.full((height, width, 3), level, dtype=np.uint8))


@pytest.fixture
def film(tmp_path):
    """Five frames of different greys, the third one late."""
    with video_writer(tmp_path / "film.mp4") as add:
        for seconds, level in ((0.0, 10), (0.2, 60), (0.9, 110), (1.1, 160), (1.3, 210)):
            add(seconds, grey(level))
    return tmp_path / "film.mp4"


def test_frames_come_in_order_with_numbers_and_times(film):
    frames = list(frames_of_file(film))
    assert [frame.number for frame in frames] == [0, 1, 2, 3, 4]
    assert [frame.seconds for frame in frames] == pytest.approx([0.0, 0.2, 0.9, 1.1, 1.3])
    levels = [np.asarray(frame.picture).mean() for frame in frames]
    assert levels == pytest.approx([10, 60, 110, 160, 210], abs=4)
    assert about_frames(film) == 5


def test_no_more_frames_are_decoded_than_are_asked_for(film):
    frames = frames_of_file(film)
    assert next(frames).number == 0
    frames.close()  # and the file is closed, else a warning is an error


def test_pictures_are_frames_at_a_rate(tmp_path):
    for number in range(3):
        grey(50 * number).save(tmp_path / f"{number}.png")
    frames = list(frames_of_pictures(sorted(tmp_path.iterdir()), 4.0))
    assert [(frame.number, frame.seconds) for frame in frames] == [(0, 0.0), (1, 0.25), (2, 0.5)]
    (tmp_path / "3.png").write_text("none")
    with pytest.raises(ValueError, match=r"3\.png: not a readable image"):
        list(frames_of_pictures(sorted(tmp_path.iterdir()), 4.0))


def test_odd_and_other_sizes_are_fitted_into_the_first(tmp_path):
    with video_writer(tmp_path / "film.mp4") as add:
        add(0.0, grey(0, 97, 63))
        add(0.0, grey(0, 300, 63))  # and its time is moved behind the first
    first, second = frames_of_file(tmp_path / "film.mp4")
    assert first.picture.size == second.picture.size == (98, 64)
    assert first.seconds < second.seconds


def test_what_holds_no_video_is_named(film, tmp_path):
    (tmp_path / "text.mp4").write_text("no video" * 99)
    (tmp_path / "cut.mp4").write_bytes(film.read_bytes()[:-300])
    (tmp_path / "empty.mp4").touch()
    for name in ("text.mp4", "cut.mp4", "empty.mp4"):
        with pytest.raises(ValueError, match=rf"{name}: cannot be read as a video after 0 frames"):
            list(frames_of_file(tmp_path / name))
        assert about_frames(tmp_path / name) == 0


def test_without_pyav_it_says_what_to_install(film, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ValueError, match=r"film\.mp4: video needs PyAV.*pip install 'rmlr\[video\]'"):
        next(frames_of_file(film))
