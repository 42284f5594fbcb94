"""Video: frames out of a file or a folder of pictures, and frames into a file. One frame is in memory at a time.

Only this file knows PyAV (the extra `video`), which brings FFmpeg's libraries with it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from PIL import Image

from rmlr.data.images import as_people_see

VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg")
RATE = 25  # frames per second, if a file does not specify it
TICKS = 90_000  # a second, in which the times of written frames are kept: those of MPEG


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame, rotated as viewers show it."""

    number: int  # from 0
    seconds: float  # since the first frame
    picture: Image.Image


def about_frames(path: Path) -> int:
    """The approximate number of frames of a video file, from its metadata; 0 if unknown or unreadable."""
    av = _av(path)
    try:
        with path.open("rb") as file, av.open(file) as container:
            stream = container.streams.video[0]
            return stream.frames or round((container.duration or 0) / av.time_base * (stream.average_rate or RATE))
    except (av.FFmpegError, OSError, IndexError):
        return 0


def frames_of_file(path: Path) -> Iterator[Frame]:
    """The frames of a video file, in the order in which they are shown; sound is left out.

    ValueError if PyAV is not installed, or the file contains no video or is damaged (raised at the damaged frame).
    """
    av, number = _av(path), 0
    try:
        with path.open("rb") as file, av.open(file) as container:  # FFmpeg follows no address in an opened file
            if not container.streams.video:
                raise ValueError(f"{path}: contains no video stream. Give a video file")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            rate, first = stream.average_rate or RATE, None
            for number, frame in enumerate(container.decode(stream)):
                time = number / rate if frame.time is None else frame.time
                first = time if first is None else first
                picture = frame.to_image()
                if frame.rotation:
                    picture = picture.rotate(frame.rotation, expand=True)
                yield Frame(number, float(time - first), picture)
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f"{path}: cannot be read as a video after {number} frames ({error.strerror})") from error


def frames_of_pictures(paths: Sequence[Path], rate: float) -> Iterator[Frame]:
    """Pictures as the frames of a video, `rate` per second; ValueError names a picture that cannot be read."""
    for number, path in enumerate(paths):
        yield Frame(number, number / rate, as_people_see(path))


@contextmanager
def video_writer(path: Path) -> Iterator[Callable[[float, Image.Image], None]]:
    """Yields a function that appends a picture at a time in seconds to an MP4 file; the file is complete at the end.

    Times must ascend. The first picture gives the video its size; others are fitted into it, with white margins.
    """
    av, stream, size, last = _av(path), None, (0, 0), -1
    with av.open(str(path), "w", format="mp4") as container:

        def add(seconds: float, picture: Image.Image) -> None:
            nonlocal stream, size, last
            if stream is None:
                width, height = picture.size
                size = width + width % 2, height + height % 2  # H.264 halves the resolution of colours
                stream = container.add_stream(_codec(av), rate=RATE)
                stream.width, stream.height = size
                stream.pix_fmt, stream.codec_context.time_base = "yuv420p", Fraction(1, TICKS)
            page = Image.new("RGB", size, "white")
            picture.thumbnail(size)
            page.paste(picture)
            frame = av.VideoFrame.from_image(page)
            last = max(round(seconds * TICKS), last + 1)
            frame.pts, frame.time_base = last, Fraction(1, TICKS)
            container.mux(stream.encode(frame))

        yield add
        if stream is not None:
            container.mux(stream.encode())


def _codec(av: Any) -> str:
    """The encoder that most players support, if FFmpeg was built with it."""
    return "libx264" if "libx264" in av.codecs_available else "mpeg4"


def _av(path: Path) -> Any:
    try:
        import av
    except ImportError as error:
        raise ValueError(f"{path}: video needs PyAV, which is not installed: pip install 'rmlr[video]'") from error
    return av
