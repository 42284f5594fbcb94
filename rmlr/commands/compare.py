"""Is A better than B, or is it noise?"""

import json
import logging
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from pydantic import BaseModel
from rich import box
from rich.console import Console
from rich.table import Table

from rmlr.data.records import load_annotations, load_image_objects, load_vocabulary
from rmlr.detections.files import load_detections
from rmlr.evaluation import hicodet, vcoco
from rmlr.evaluation.matching import Ranking
from rmlr.evaluation.resampling import (
    CONFIDENCE,
    Difference,
    Spread,
    differ,
    draw_images,
    known_means,
    resampled_precision,
)
from rmlr.hoi import Annotation, Vocabulary
from rmlr.study.files import read_json
from rmlr.study.output import claim_file, signed
from rmlr.study.provenance import digest

log = logging.getLogger(__name__)

MIN_SAMPLES = 100  # the interval's ends are where 2.5 % of them lie beyond
MIN_IMAGES = 10  # with a positive; of fewer, a class's AP says little
SHOWN = 5  # classes each way
WIDTH = 160  # of what no terminal bounds
SAME = 1e-9  # two fractions


class _Split(BaseModel):
    split: str


class _Digest(BaseModel):
    sha256: str


class _About(BaseModel):
    """What is wanted of an evaluation's run.json."""

    stage: str
    settings: _Split
    inputs: dict[str, _Digest]  # annotations, triplets, and what else there was
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One folder made by `evaluate`, and what it was made from."""

    folder: Path
    split: str
    annotations: Path
    annotations_sha256: str
    triplets: Path
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class Finding:
    """What A and B differ by under one setting of the benchmark."""

    ranking: Ranking
    headlines: dict[str, Difference]  # by metric
    classes: dict[int, Difference]  # by index into the ranking's names

    @property
    def title(self) -> str:
        """The setting's, by its first headline."""
        return self.ranking.headlines[0].title

    @property
    def telling(self) -> list[int]:
        """Classes with positives in enough images, A's best first."""
        of_images = np.unique(np.stack([self.ranking.positive_class, self.ranking.positive_image]), axis=1)[0]
        images = np.bincount(of_images, minlength=len(self.ranking.names))
        classes = [index for index in self.classes if images[index] >= MIN_IMAGES]
        return sorted(classes, key=lambda index: -self.classes[index].difference)


def compare(a: Path, b: Path, /, *, samples: int = 1000, seed: int = 0, out: Path | None = None) -> None:
    """Tell whether A is better than B, or whether the difference is noise.

    Images of the split are drawn anew, with replacement and the same for both, and both are scored on each such set by
    the official protocol: how far the difference moves is what the choice of test images is worth. Where A and B both
    have several seeds, the spread between trainings is added. Prints a verdict on each headline metric, and the classes
    that differ most.

    Args:
        a: folder made by `evaluate`, one that holds it (a run of one seed), or one that holds those (a run of several).
        b: likewise; scored on the same images.
        samples: how many sets of images are drawn.
        seed: of the drawing; the same one gives the same numbers.
        out: JSON file to write with all numbers (fractions) besides; replaces only one that an earlier call wrote.
    """
    if samples < MIN_SAMPLES:
        raise ValueError(f"--samples {samples}: expected {MIN_SAMPLES} at least, or the interval has no ends")
    if out is not None:
        claim_file(out, "compare")
    sides = {"A": find_evaluations(a), "B": find_evaluations(b)}
    every = [evaluation for side in sides.values() for evaluation in side]
    refuse_incomparable(*sides.values())
    vocabulary = load_vocabulary(every[0].annotations)
    images = load_annotations(every[0].annotations, every[0].split)
    weights = draw_images(len(images), samples, seed)
    rankings: tuple[Ranking, ...] = ()
    scored: dict[str, list[list[np.ndarray]]] = {name: [] for name in sides}  # side, run, setting: c s
    for name, side in sides.items():
        for evaluation in side:
            log.info("%s: scoring %s on %d sets of images", name, evaluation.triplets, samples)
            rankings = rank(evaluation, vocabulary, images)
            scored[name].append([resampled_precision(ranking, weights) for ranking in rankings])
            refuse_changed(evaluation, rankings, scored[name][-1])
    findings = [
        find(ranking, *([run[index] for run in runs] for runs in scored.values()))
        for index, ranking in enumerate(rankings)
    ]
    over = scope(len(images), *map(len, sides.values()))
    if out is not None:
        about = {
            **signed("compare"),
            **{name.lower(): [said_of(evaluation) for evaluation in side] for name, side in sides.items()},
            "annotations": str(every[0].annotations),
            "dataset": vocabulary.dataset,
            "split": every[0].split,
            "images": len(images),
            "samples": samples,
            "seed": seed,
            "confidence": CONFIDENCE,
        }
        write_json(out, about | as_json(findings, over))
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False, markup=False)
    for name, folder in (("A", a), ("B", b)):
        console.print(f"{name}: {folder}, {count(len(sides[name]), 'run')}", soft_wrap=True)
    console.print(
        f"{vocabulary.dataset} {every[0].split}, {count(len(images), 'image')}, drawn {samples:,} times; points"
    )
    report(console, findings, over)


# ---- what was scored


def find_evaluations(folder: Path) -> list[Evaluation]:
    """The evaluations that a folder is, or holds: of one run, or one for each seed."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; expected one made by `rmlr evaluate`")
    seeds = sorted(folder.glob("*/evaluate"), key=lambda path: (len(path.parent.name), path.parent.name))
    for places in ([folder], [folder / "evaluate"], seeds):
        found = [place for place in places if (place / "run.json").is_file()]
        if found:
            break
    else:
        raise ValueError(
            f"{folder}: no evaluation. Expected a folder made by `rmlr evaluate`, with a run.json; one that holds "
            "evaluate/; or one that holds SEED/evaluate/"
        )
    waiting = [path.name for path in sorted(folder.iterdir()) if path.name.isdigit() and path / "evaluate" not in found]
    if waiting:
        log.warning("%s: not evaluated, and so left out: %s", folder, ", ".join(waiting))
    return [read_evaluation(place) for place in found]


def read_evaluation(folder: Path) -> Evaluation:
    """What run.json says was scored; ValueError where that is gone or changed."""
    path = folder / "run.json"
    about = read_json(path, _About)
    if about.stage != "evaluate" or len(about.inputs) < 2:
        raise ValueError(f"{path}: made by '{about.stage}' from {len(about.inputs)} inputs. Expected one of 'evaluate'")
    (annotations, truth), (triplets, table) = list(about.inputs.items())[:2]
    return Evaluation(
        folder=folder,
        split=about.settings.split,
        annotations=locate(folder, annotations, truth.sha256),
        annotations_sha256=truth.sha256,
        triplets=locate(folder, triplets, table.sha256),
        metrics=about.metrics,
    )


def locate(evaluation: Path, name: str, sha256: str) -> Path:
    """An input by the name that `evaluate` was given: as seen from here, or from a folder above the evaluation."""
    places = dict.fromkeys(start / name for start in (Path(), *evaluation.resolve().parents))
    existing = [place for place in places if place.exists()]
    if not existing:
        raise ValueError(
            f"{evaluation}: scored {name}, which is neither here nor below any folder above it. Was it moved? Put it "
            "back, or run `rmlr evaluate` again"
        )
    for place in existing:
        if digest(place)["sha256"] == sha256:
            return place
    raise ValueError(f"{evaluation}: {existing[0]} has changed since it was scored. Run `rmlr evaluate` again")


def refuse_incomparable(a: Sequence[Evaluation], b: Sequence[Evaluation]) -> None:
    """ValueError unless all were scored on the same annotated images, and no run stands on both sides.

    But all may: who compares a run with itself sees that nothing differs.
    """
    first = a[0]
    for other in (*a, *b):
        if other.split != first.split or other.annotations_sha256 != first.annotations_sha256:
            raise ValueError(
                f"{first.folder} was scored on {first.split} of {first.annotations}, but {other.folder} on "
                f"{other.split} of {other.annotations}: these are other images, or otherwise annotated. Run "
                "`rmlr evaluate` for both on the same split of the same annotations"
            )
    runs_a, runs_b = ({evaluation.folder.resolve() for evaluation in side} for side in (a, b))
    if runs_a & runs_b and runs_a != runs_b:
        raise ValueError(f"{min(runs_a & runs_b)} is on either side. Name the seeds' folders so that none is in both")


def refuse_changed(evaluation: Evaluation, rankings: Sequence[Ranking], precisions: Sequence[np.ndarray]) -> None:
    """ValueError where the headlines are not what `evaluate` said: large files are known by their size alone."""
    for ranking, precision in zip(rankings, precisions, strict=True):
        for headline in ranking.headlines:
            now = float(known_means(precision[headline.classes, :1])[0])
            before = evaluation.metrics.get(headline.metric, math.nan)  # run.json leaves NaN out
            if not (abs(now - before) < SAME or (math.isnan(now) and math.isnan(before))):
                raise ValueError(
                    f"{evaluation.folder}: {headline.metric} is {before} there, but scoring {evaluation.triplets} now "
                    f"gives {now}. The table or the protocol has changed: run `rmlr evaluate` again"
                )


def rank(evaluation: Evaluation, vocabulary: Vocabulary, images: Sequence[Annotation]) -> tuple[Ranking, ...]:
    """Read what was scored and match it, by the benchmark's protocol."""
    image_ids = [image.image_id for image in images]
    triplets, _ = load_detections(evaluation.triplets, None, vocabulary, image_ids)
    if vocabulary.dataset == "vcoco":
        return vcoco.rank(images, vocabulary, triplets)
    image_objects = load_image_objects(evaluation.annotations, evaluation.split)
    return hicodet.rank(images, vocabulary, triplets, image_objects)


def find(ranking: Ranking, a: list[Float[np.ndarray, "c s"]], b: list[Float[np.ndarray, "c s"]]) -> Finding:
    """Differences in a setting's headlines, and in every class of them; a and b have an array each run."""
    classes = np.flatnonzero(np.any([headline.classes for headline in ranking.headlines], axis=0))
    return Finding(
        ranking,
        headlines={
            headline.metric: differ(
                *(np.stack([known_means(run[headline.classes]) for run in side]) for side in (a, b))
            )
            for headline in ranking.headlines
        },
        classes={int(index): differ(*(np.stack([run[index] for run in side]) for side in (a, b))) for index in classes},
    )


# ---- what is said of it


def report(console: Console, findings: Sequence[Finding], over: str) -> None:
    """Headlines by each source of noise, a verdict on each, and the classes that differ most in the first setting."""
    headlines = [
        (headline.title, finding.headlines[headline.metric])
        for finding in findings
        for headline in finding.ranking.headlines
    ]
    has_seeds = headlines[0][1].seeds is not None
    sources = ("images", "seeds", "both") if has_seeds else ("images",)
    table = table_of("", "A", "B", "A - B", *(f"{CONFIDENCE:.0%}, {source}" for source in sources))
    for title, found in headlines:
        table.add_row(title, *sizes(found), *(interval(getattr(found, source)) for source in sources))
    console.print(table)
    for title, found in headlines:
        console.print(verdict(title, found, over), soft_wrap=True)
    if not has_seeds:
        console.print("One run does not tell what another training would give: that is in no interval.", soft_wrap=True)

    first, telling = findings[0], findings[0].telling
    ahead = [index for index in telling if first.classes[index].difference > 0][:SHOWN]
    behind = [index for index in telling if first.classes[index].difference < 0][-SHOWN:]
    positives = np.bincount(first.ranking.positive_class, minlength=len(first.ranking.names))
    if not ahead + behind:
        return
    table = table_of(first.title, "positives", "A", "B", "A - B", f"{CONFIDENCE:.0%}, {sources[-1]}")
    for index in ahead + behind:
        found = first.classes[index]
        table.add_row(first.ranking.names[index], f"{positives[index]}", *sizes(found), interval(found.whole))
    console.print(table)
    clear = sum(first.classes[index].is_clear for index in telling)
    console.print(
        f"At most {SHOWN} classes each way, of {len(telling)} with a positive in {MIN_IMAGES} images or more. The "
        f"intervals of {clear} leave 0 out; of two equal methods {(1 - CONFIDENCE) * len(telling):.1f} would, by "
        "chance: a class picked from here is a question, not a finding.",
        soft_wrap=True,
    )


def scope(images: int, runs_a: int, runs_b: int) -> str:
    """What an interval is over."""
    if min(runs_a, runs_b) < 2:
        return f"{count(images, 'image')}, not over trainings"
    return (
        f"{count(images, 'image')} and {f'{runs_a} seeds each' if runs_a == runs_b else f'{runs_a} and {runs_b} seeds'}"
    )


def verdict(title: str, found: Difference, over: str) -> str:
    """One sentence: which is better and by how much, or that it cannot be told."""
    if math.isnan(found.difference):
        return f"{title}: nothing to compare, no class has a positive."
    if not found.is_clear:
        return (
            f"{title}: A and B cannot be told apart; A - B is {points(found.difference)} points ({CONFIDENCE:.0%} "
            f"interval {interval(found.whole)}, over {over})."
        )
    better, worse = "AB" if found.difference > 0 else "BA"
    low, high = sorted(100 * abs(end) for end in (found.whole.low, found.whole.high))
    return (
        f"{title}: {better} is better than {worse} by {100 * abs(found.difference):.2f} points ({CONFIDENCE:.0%} "
        f"interval {low:.2f} to {high:.2f}, over {over})."
    )


def table_of(first: str, *others: str) -> Table:
    """An empty table in Markdown, for terminals and notes alike: names to the left, numbers to the right."""
    table = Table(box=box.MARKDOWN)
    table.add_column(first)
    for column in others:
        table.add_column(column, justify="right")
    return table


def sizes(found: Difference) -> tuple[str, str, str]:
    """A, B and A - B, in points."""
    return points(found.a, sign=""), points(found.b, sign=""), points(found.difference)


def interval(spread: Spread) -> str:
    """From where to where, in points."""
    return "-" if math.isnan(spread.low) else f"{points(spread.low)} to {points(spread.high)}"


def points(fraction: float, sign: str = "+") -> str:
    """A fraction as points; a difference with its sign."""
    return "-" if math.isnan(fraction) else f"{100 * fraction:{sign}.2f}"


def count(number: int, noun: str) -> str:
    """`3 runs`, `1 run`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def said_of(evaluation: Evaluation) -> dict[str, Any]:
    """One run, and what `evaluate` measured of it."""
    return {"folder": str(evaluation.folder), "triplets": str(evaluation.triplets), "metrics": evaluation.metrics}


def as_json(findings: Sequence[Finding], over: str) -> dict[str, Any]:
    """Headlines by metric with their verdicts, and every class of each setting."""

    def content(found: Difference) -> dict[str, Any]:
        return {"difference": found.difference, **asdict(found), "is_clear": found.is_clear}

    return {
        "headlines": {
            headline.metric: content(finding.headlines[headline.metric])
            | {"verdict": verdict(headline.title, finding.headlines[headline.metric], over)}
            for finding in findings
            for headline in finding.ranking.headlines
        },
        "classes": {
            finding.ranking.headlines[0].metric: {
                finding.ranking.names[index]: content(found) for index, found in finding.classes.items()
            }
            for finding in findings
        },
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all; NaN, which JSON does not have, is null."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return None if isinstance(value, float) and math.isnan(value) else value

    text = json.dumps(plain(content), indent=2, allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.part")
    aside.write_text(text + "\n")
    aside.replace(path)
