"""What people do in photos: a table and drawings, from a trained run."""

import csv
import glob
import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rmlr.data.images import as_people_see
from rmlr.learning.inference import BATCH_SIZE, COLUMNS, MIN_SCORE, Trace, Triplet, load
from rmlr.report.pictures import draw_phrases, draw_weights, sheet
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
TABLE, RECORDS = "triplets.csv", "triplets.json"


def photo(
    *pictures: str,
    run: Path,
    out: Path,
    detector: Path | None = None,
    pose: Path | None = None,
    prior_power: float | None = None,
    min_score: float = MIN_SCORE,
    top: int = 5,
    trace: bool = False,
) -> None:
    """Find what people do in photos: who, what, with which thing, and how sure that is.

    A picture that cannot be read stops nothing: the others are done, and it is named at the end, with exit status 1.

    Args:
        pictures: photos, folders of photos, or patterns in quotes such as "holiday/**/*.jpg".
        run: a run's folder (such as results/demo/runs/shared/rmlr/0), or what `rmlr export` wrote.
        out: folder for the results; made if need be. Gets triplets.csv, triplets.json, and for each picture
            NAME-triplets.png; files of these names are replaced.
        detector: folder of the detector that the run was trained with, where it is not found from the run.
        pose: weights file of the pose network, likewise, for a run that reads one.
        prior_power: of the detector's scores, where predict/settings.yaml of the run does not say it.
        min_score: triplets below are neither written nor drawn.
        top: how many triplets are drawn on each picture; the tables hold all.
        trace: draw, too, where the re-mined cue and the detector looked for each of these: NAME-trace.png.
    """
    if top < 1 or not 0 <= min_score <= 1:
        raise ValueError(f"--top {top} --min-score {min_score}: expected --top of at least 1, --min-score from 0 to 1")
    paths = find_pictures(pictures)
    model = load(run, detector=detector, pose=pose, prior_power=prior_power)
    names = _names(paths)
    faults: list[str] = []
    progress, found = Progress(len(paths), "pictures"), 0
    out.mkdir(parents=True, exist_ok=True)
    with _tables(out) as add:
        for chunk in _chunks(_readable(paths, faults), BATCH_SIZE):
            photos = [picture for _, picture in chunk]
            for (path, picture), triplets in zip(chunk, model.many(photos, min_score=min_score), strict=True):
                add(path, picture, triplets)
                found += len(triplets)
                _save(_drawing(path, picture, triplets[:top], min_score), out / f"{names[path]}-triplets.png")
                if trace and triplets:
                    traces = model.trace(picture, min_score=min_score, top=top)
                    _save(_trace_drawing(picture, traces), out / f"{names[path]}-trace.png")
            progress.advance(len(chunk))
        if len(faults) == len(paths):
            raise ValueError("\n".join(faults))
    log.info("%d triplets of %d pictures: %s", found, len(paths) - len(faults), out / TABLE)
    if faults:
        raise ValueError(
            f"{len(faults)} of {len(paths)} pictures could not be read, the others are in {out}:\n  "
            + "\n  ".join(faults)
        )


# ---- pictures in


def find_pictures(given: Sequence[str]) -> list[Path]:
    """The photos that files, folders and patterns name, each once, in the order given; a folder's by name.

    ValueError where one names none.
    """
    if not given:
        raise ValueError("no picture was given: name photos, folders of photos, or patterns in quotes")
    paths: list[Path] = []
    for name in given:
        path = Path(name)
        if path.is_dir():
            some = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
            why = f"the folder holds no photo ({', '.join(SUFFIXES)})"
        elif path.exists() or not glob.has_magic(name):
            some, why = [path] if path.exists() else [], "no such file or folder"
        else:
            found = glob.glob(name, recursive=True)  # noqa: PTH207 (patterns may be absolute)
            some = sorted(path for path in map(Path, found) if path.is_file())
            why = "no file fits this pattern"
        if not some:
            raise ValueError(f"{name}: {why}")
        paths += some
    return list(dict.fromkeys(paths))


def _names(paths: Sequence[Path]) -> dict[Path, str]:
    """What each picture's files are called: by its stem, by more of its path where that is not enough."""
    stems, files = Counter(path.stem for path in paths), Counter(path.name for path in paths)
    above = Path(os.path.commonpath([path.absolute().parent for path in paths]))

    def name(path: Path) -> str:
        if stems[path.stem] == 1:
            return path.stem
        return path.name if files[path.name] == 1 else "_".join(path.absolute().relative_to(above).parts)

    return {path: name(path) for path in paths}


def _readable(paths: Sequence[Path], faults: list[str]) -> Iterator[tuple[Path, Image.Image]]:
    """The pictures one by one; what is wrong with those that cannot be read goes to `faults`."""
    for path in paths:
        try:
            picture = as_people_see(path)
        except ValueError as error:
            log.warning("%s", error)
            faults.append(str(error))
        else:
            yield path, picture


def _chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    chunk = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


# ---- results out


@contextmanager
def _tables(out: Path):
    """Gives what adds a picture's triplets to both tables; they get their names when all is done."""
    paths = [out / TABLE, out / RECORDS]
    asides = [path.with_name(f".{path.name}.part") for path in paths]
    try:
        with asides[0].open("w", newline="", encoding="utf-8") as table, asides[1].open("w", encoding="utf-8") as file:
            writer = csv.DictWriter(table, fieldnames=["image", *COLUMNS])
            writer.writeheader()
            file.write("[")
            written = 0

            def add(path: Path, picture: Image.Image, triplets: Sequence[Triplet]) -> None:
                nonlocal written
                writer.writerows({"image": str(path)} | _rounded(triplet.row()) for triplet in triplets)
                about = {"image": str(path), "height": picture.height, "width": picture.width}
                about["triplets"] = [_rounded(asdict(triplet)) for triplet in triplets]
                file.write(("," if written else "") + "\n" + json.dumps(about, ensure_ascii=False))
                written += 1

            yield add
            file.write("\n]\n")
        for aside, path in zip(asides, paths, strict=True):
            aside.replace(path)
    finally:
        for aside in asides:
            aside.unlink(missing_ok=True)


def _rounded(record: dict[str, Any]) -> dict[str, Any]:
    """For people: a hundredth of a pixel, a millionth of a score."""

    def rounded(name: str, value: Any) -> Any:
        if isinstance(value, tuple):
            return [round(edge, 2) for edge in value]
        return round(value, 6 if name.endswith("score") else 2) if isinstance(value, float) else value

    return {name: rounded(name, value) for name, value in record.items()}


def _drawing(path: Path, picture: Image.Image, triplets: Sequence[Triplet], min_score: float) -> Image.Image:
    texts = [f"{triplet.phrase} {triplet.score:.2f}" for triplet in triplets]
    human_boxes = np.array([triplet.human_box for triplet in triplets]).reshape(-1, 4)
    object_boxes = np.array([triplet.object_box for triplet in triplets]).reshape(-1, 4)
    title = path.name if triplets else f"{path.name}: nothing of score {min_score:g} or more"
    return draw_phrases(picture, human_boxes, object_boxes, texts, title)


def _trace_drawing(picture: Image.Image, traces: Sequence[Trace]) -> Image.Image:
    """One row for each pair, whose verbs share its maps."""
    pairs: dict[tuple, list[Trace]] = {}
    for trace in traces:
        pairs.setdefault((trace.triplet.human_box, trace.triplet.object_box), []).append(trace)
    pages = []
    for (human_box, object_box), of_pair in pairs.items():
        title = ", ".join(f"{trace.triplet.phrase} {trace.triplet.score:.2f}" for trace in of_pair)
        maps = {"re-mined cue": of_pair[0].remined, "detector": of_pair[0].detected}
        pages.append(draw_weights(picture, human_box, object_box, maps, of_pair[0].cell_size, title))
    return sheet(pages, columns=1)


def _save(page: Image.Image, path: Path) -> None:
    aside = path.with_name(f".{path.name}.part")
    page.save(aside, format="PNG", compress_level=1)  # photos: a tenth larger, three times as fast
    aside.replace(path)
