"""Predictions of a trained run on photos and videos: tables and drawings."""

import csv
import fcntl
import glob
import hashlib
import json
import logging
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from rmlr.data.images import as_people_see
from rmlr.data.video import VIDEOS, about_frames, frames_of_file, frames_of_pictures
from rmlr.learning.answers import COLUMNS, MIN_SCORE, SHOWN, Answer, check_limits
from rmlr.learning.films import watch
from rmlr.learning.inference import BATCH_SIZE, Model, load
from rmlr.study.files import FULL, LONGEST_NAME, disk_full, printable
from rmlr.study.made import Made
from rmlr.study.output import claim_shared
from rmlr.study.run import Progress

log = logging.getLogger(__name__)

SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".jfif",
    ".png",
    ".webp",
    ".avif",
    ".bmp",
    ".gif",
    ".tif",
    ".tiff",
)  # in a folder
MAKER = "photo"
TABLE, RECORDS = "triplets.csv", "triplets.json"
DRAWING, TRACE = "-triplets.png", "-trace.png"  # suffixes of a picture's name
FRAMES, FILM = "-triplets.csv", "-triplets.mp4"  # suffixes of a video's name
MAX_RATE = 1000  # frames a second
LONGEST = LONGEST_NAME - len(f".{DRAWING}.part")  # bytes of a picture's name in the names of its results


def photo(
    *pictures: str,
    run: Path,
    out: Path,
    revision: str | None = None,
    detector: Path | None = None,
    pose: Path | None = None,
    prior_power: float | None = None,
    min_score: float = MIN_SCORE,
    top: int = SHOWN,
    trace: bool = False,
    batch_size: int = BATCH_SIZE,
    device: str | None = None,
    frames_per_second: float | None = None,
) -> None:
    """Detect human-object interactions in photos and videos: boxes, phrases and scores.

    A picture that cannot be read does not stop the others. It is listed at the end, with exit status 1.

    Args:
        pictures: photos, folders of photos, videos, or quoted patterns such as "holiday/**/*.jpg".
        run: a run's folder (such as results/demo/runs/shared/rmlr/0), a folder from `rmlr export`, or a model of
            the Hugging Face hub, OWNER/NAME.
        out: folder for the results; created if needed. Gets triplets.csv, triplets.json, and for each picture
            NAME-triplets.png; for each video NAME-triplets.csv, with numbers and times of frames, and
            NAME-triplets.mp4. Files of these names are replaced only if an earlier call wrote them.
        revision: commit of a model of the hub.
        detector: folder of the detector that the run was trained with, if it is not found from the run.
        pose: weights file of the pose network, likewise, for a run that uses one.
        prior_power: exponent of the detector's scores, if the run has no predict/settings.yaml.
        min_score: triplets with lower scores are neither written nor drawn.
        top: number of triplets drawn on each picture; the tables have all.
        trace: also draw where the re-mined cue and the detector looked for each of these: NAME-trace.png.
        batch_size: number of pictures in memory at once; those of one size are processed together.
        device: as named by torch, such as cpu or cuda:1; by default a GPU if there is one.
        frames_per_second: makes each folder a video, whose frames are the folder's pictures, sorted by name.
    """
    check_limits(min_score=min_score, top=top, prior_power=prior_power, batch_size=batch_size)
    made = claim_shared(out, MAKER)
    photos, films = find_videos(pictures, frames_per_second)
    if trace and films:
        raise ValueError(f"--trace: draws only photos, and {films[0]} is a video. Leave out one of the two")
    names = result_names([*photos, *films])
    wanted = dict.fromkeys(photos, (DRAWING, TRACE) if trace else (DRAWING,))
    wanted |= dict.fromkeys(films, (FRAMES, FILM))
    tables = [TABLE, RECORDS] if photos else []
    made.refuse([*tables, *(names[path] + ending for path, endings in wanted.items() for ending in endings)])
    model = load(run, revision=revision, detector=detector, pose=pose, prior_power=prior_power, device=device)
    out.mkdir(parents=True, exist_ok=True)
    faults: list[str] = []
    chosen: dict[str, Any] = {"min_score": min_score, "top": top, "batch_size": batch_size}
    with _only_writer(made.folder):
        for film in films:
            try:
                _draw_film(made, model, film, names[film], frames_per_second, **chosen)
            except ValueError as error:
                faults.append(printable(str(error)))
                log.warning("%s", faults[-1])
        if photos:
            faults = _draw_photos(made, model, {path: names[path] for path in photos}, faults, trace=trace, **chosen)
    if len(faults) == len(names):
        raise ValueError("\n".join(faults))
    if faults:
        raise ValueError(
            f"{len(faults)} of {len(names)} {'pictures and videos' if films else 'pictures'} could not be read, the "
            f"others are in {out}:\n  " + "\n  ".join(faults)
        )


def _draw_photos(
    made: Made,
    model: Model,
    names: Mapping[Path, str],
    faults: list[str],
    *,
    min_score: float,
    top: int,
    trace: bool,
    batch_size: int,
) -> list[str]:
    """Write the tables and drawings of photos, named by `names`. Returns `faults` and those of photos.

    ValueError with all faults if no photo can be read; then no table is written.
    """
    progress, found, unreadable = Progress(len(names), "pictures"), 0, list[str]()
    with _tables(made) as add:
        readable = _readable(list(names), unreadable)
        while chunk := list(islice(readable, batch_size)):
            batch = [picture for _, picture in chunk]
            answers = model.many(batch, min_score=min_score, batch_size=batch_size)
            for (path, picture), answer in zip(chunk, answers, strict=True):
                pages = {names[path] + DRAWING: answer.draw(top, title=printable(path.name))}
                if trace and answer:
                    traces = model.trace(picture, min_score=min_score, top=top)
                    pages[names[path] + TRACE] = traces.draw()
                for name, page in pages.items():
                    _put_page(made, name, page)
                add(path, picture, answer, list(pages))
                found += len(answer)
            progress.advance(len(chunk))
        if len(unreadable) == len(names):
            raise ValueError("\n".join([*faults, *unreadable]))
    log.info("%d triplets of %d pictures: %s", found, len(names) - len(unreadable), made.folder / TABLE)
    return [*faults, *unreadable]


def _draw_film(
    made: Made,
    model: Model,
    film: Path,
    name: str,
    frames_per_second: float | None,
    *,
    min_score: float,
    top: int,
    batch_size: int,
) -> None:
    """Write the table of a video's frames, and the annotated video; both get their names at the end."""
    if film.is_dir():
        assert frames_per_second is not None
        paths = find_pictures([str(film)])
        count, frames = len(paths), frames_of_pictures(paths, frames_per_second)
    else:
        count, frames = about_frames(film), frames_of_file(film)
    with _aside(made, name + FRAMES) as table, _aside(made, name + FILM) as drawn:
        found = watch(
            model,
            frames,
            table,
            drawn,
            title=printable(film.name),
            min_score=min_score,
            top=top,
            batch_size=batch_size,
            rounded=_rounded,
            advance=Progress(count, f"frames of {printable(film.name)}").advance,
        )
        made.put(table, name + FRAMES)
        made.put(drawn, name + FILM)
    log.info("%d triplets of %s: %s", found, printable(film), made.folder / (name + FRAMES))


# ---- pictures in


def find_videos(given: Sequence[str], frames_per_second: float | None) -> tuple[list[Path], list[Path]]:
    """The photos and the videos: files with a video's suffix and, with `frames_per_second`, the given folders."""
    if frames_per_second is not None and not 0 < frames_per_second <= MAX_RATE:
        raise ValueError(
            f"frames_per_second (--frames-per-second) is {frames_per_second}: expected above 0 and at most {MAX_RATE}"
        )
    folders = [name for name in given if frames_per_second is not None and Path(name).is_dir()]
    for name in folders:
        find_pictures([name])  # ValueError where it holds none
    rest = [name for name in given if name not in folders]
    paths = find_pictures(rest) if rest or not folders else []
    films = [path for path in paths if path.suffix.lower() in VIDEOS]
    named = (Path(name) if Path(name).name not in ("", "..") else Path(name).resolve() for name in folders)
    return [path for path in paths if path not in films], [*films, *{_place(path): path for path in named}.values()]


def find_pictures(given: Sequence[str]) -> list[Path]:
    """The photos of files, folders and patterns, each once, in the order given; those of a folder sorted by name.

    Drawings of an earlier call in a folder are left out, unless they are named explicitly. ValueError if an argument
    names no photo.
    """
    if not given:
        raise ValueError("no picture was given: name photos, folders of photos, or quoted patterns")
    paths: dict[Path, Path] = {}
    for name in given:
        path = Path(name)
        if path.is_dir():
            some = [file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and not file.is_dir()]
            some, why = _not_drawn(sorted(some)), f"the folder holds no photo ({', '.join(SUFFIXES)})"
        elif os.path.lexists(path) or not glob.has_magic(name):
            some, why = [path] if os.path.lexists(path) else [], "no such file or folder"
        else:
            found = map(Path, glob.glob(name, recursive=True))  # noqa: PTH207 (patterns may be absolute)
            some = [path for path in found if not path.is_dir()]
            # `**` follows cyclic links: of a picture's many paths the shortest is used
            nearest = {_place(path): path for path in sorted(some, key=lambda path: (-len(path.parts), path))}
            some, why = _not_drawn(sorted(nearest.values())), "no photo matches this pattern"
        if not some:
            raise ValueError(f"{name}: {why}")
        for path in some:
            paths.setdefault(_place(path), path)
    return list(paths.values())


def _place(path: Path) -> Path:
    """A key that is equal for all paths to the same entry of the same folder."""
    return path.parent.resolve() / path.name


def _not_drawn(paths: Sequence[Path]) -> list[Path]:
    """The pictures that are not drawings of an earlier call, by the lists in their folders."""
    lists = {folder: Made.read(folder, MAKER) for folder in {path.parent for path in paths}}
    kept = [path for path in paths if not lists[path.parent].has(path.name)]
    if len(kept) < len(paths):
        log.info("%d pictures that `rmlr photo` drew are left out", len(paths) - len(kept))
    return kept


def result_names(paths: Sequence[Path]) -> dict[Path, str]:
    """The names of the results of each picture, independent of the order of the pictures.

    By default the picture's stem. Pictures that share one (case is ignored) get their suffix as well; if that is not
    enough, the folders below the common one; and then a digest of these.
    """
    above = os.path.commonpath([_place(path).parent for path in paths])
    parts = {path: _place(path).relative_to(above).parts for path in paths}

    def form(path: Path, level: int) -> str:
        name = (path.stem, path.name, "_".join(parts[path]), path.name)[level]
        name = "".join("_" if unicodedata.category(char) in ("Cc", "Cs") else char for char in name)
        size = len(name.encode())
        if level < 3 and size <= LONGEST:
            return name
        digest = hashlib.sha256(os.fsencode("/".join(parts[path]))).hexdigest()[:16]
        return f"{name.encode()[: LONGEST - len(digest) - 1].decode(errors='ignore')}-{digest}"

    levels = dict.fromkeys(paths, 0)
    while True:
        names = {path: form(path, level) for path, level in levels.items()}
        folded = {path: unicodedata.normalize("NFC", name).casefold() for path, name in names.items()}
        counts = Counter(folded.values())
        alike = [path for path in paths if counts[folded[path]] > 1 and levels[path] < 3]
        if not alike:
            return names
        for path in alike:
            levels[path] += 1


def _readable(paths: Sequence[Path], faults: list[str]) -> Iterator[tuple[Path, Image.Image]]:
    """The pictures one by one; errors of those that cannot be read are added to `faults`."""
    for path in paths:
        try:
            picture = as_people_see(path)
        except ValueError as error:
            faults.append(printable(str(error)))
            log.warning("%s", faults[-1])
        else:
            yield path, picture


# ---- results out


@contextmanager
def _only_writer(folder: Path) -> Iterator[None]:
    """ValueError if another call writes into the folder: it would write to the same files."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"{folder}: another `rmlr photo` writes there. Wait until it has finished, or name another"
            ) from error
        except OSError:
            log.info("%s: this file system has no locks; make sure that no other call writes there", folder)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _tables(made: Made) -> Iterator[Callable[[Path, Image.Image, Answer, list[str]], None]]:
    """Yields a function that adds a picture's triplets to both tables, which are renamed at the end."""
    with _aside(made, TABLE) as table_aside, _aside(made, RECORDS) as records_aside:
        with (
            table_aside.open("w", newline="", encoding="utf-8") as table,
            records_aside.open("w", encoding="utf-8") as records,
        ):
            writer = csv.DictWriter(table, fieldnames=["image", *COLUMNS, "drawing"])
            writer.writeheader()
            records.write("[")
            written = 0

            def add(path: Path, picture: Image.Image, answer: Answer, drawn: list[str]) -> None:
                nonlocal written
                image = printable(path)
                writer.writerows(
                    {"image": image} | _rounded(triplet.row()) | {"drawing": drawn[0]} for triplet in answer
                )
                about = {"image": image, "height": picture.height, "width": picture.width, "drawn": drawn}
                about["triplets"] = [_rounded(asdict(triplet)) for triplet in answer]
                records.write(("," if written else "") + "\n" + json.dumps(about, ensure_ascii=False))
                written += 1

            yield add
            records.write("\n]\n")
        made.put(table_aside, TABLE)
        made.put(records_aside, RECORDS)


def _rounded(record: dict[str, Any]) -> dict[str, Any]:
    """Rounds to a hundredth of a pixel and a millionth of a score."""

    def rounded(name: str, value: Any) -> Any:
        if isinstance(value, tuple):
            return [round(edge, 2) for edge in value]
        return round(value, 6 if name.endswith("score") else 2) if isinstance(value, float) else value

    return {name: rounded(name, value) for name, value in record.items()}


def _put_page(made: Made, name: str, page: Image.Image) -> None:
    with _aside(made, name) as aside:
        page.save(aside, format="PNG", compress_level=1)  # for photos a tenth larger, but three times as fast
        made.put(aside, name)


@contextmanager
def _aside(made: Made, name: str) -> Iterator[Path]:
    """Yields a temporary path next to a result, removed at the end. A full disk is an error that names the result."""
    aside = made.folder / f".{name}.part"
    try:
        yield aside
    except OSError as error:
        if error.errno in FULL:
            raise disk_full(error, made.folder / name) from error
        raise
    finally:
        aside.unlink(missing_ok=True)
