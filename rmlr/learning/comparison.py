"""Whether A is better than B: compares two evaluations, or those of several seeds, on the same test images."""

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, FiniteFloat

from rmlr.evaluation.comparison import MIN_IMAGES, Comparison, compare_runs
from rmlr.evaluation.matching import Ranking
from rmlr.evaluation.resampling import CONFIDENCE, Difference, Spread, draw_images
from rmlr.learning.benchmark import Benchmark, resample
from rmlr.report.pages import aligned
from rmlr.study.content import digest
from rmlr.study.files import read_json
from rmlr.study.section import ZeroShot

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

SAMPLES, MIN_SAMPLES, MAX_SAMPLES = 1000, 100, 10_000  # 2.5 % of them are beyond each end of the interval
MAX_SEED = 2**32
SHOWN = 5  # classes in each direction


class _Split(BaseModel):
    split: str
    zero_shot: ZeroShot | None = None


class _Digest(BaseModel):
    sha256: str


class _About(BaseModel):
    """The fields of an evaluation's run.json that are read."""

    stage: str
    settings: _Split
    inputs: dict[str, _Digest]  # annotations, triplets, and other inputs
    metrics: dict[str, FiniteFloat]  # without NaN


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One folder made by `evaluate`, and its inputs."""

    folder: Path
    split: str
    zero_shot: ZeroShot | None
    annotations: Path
    annotations_sha256: str
    triplets: Path
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class ComparedRuns:
    """The differences of A and B on the same test images, with uncertainty. Numbers are fractions, printed as
    points."""

    a: list[Evaluation]  # one per seed
    b: list[Evaluation]
    folders: tuple[Path, Path]  # as they were given
    benchmark: Benchmark
    samples: int
    seed: int
    settings: tuple[Comparison, ...]  # V-COCO's two scenarios, or HICO-DET's Default and Known Object

    @property
    def headlines(self) -> dict[str, Difference]:
        """A, B and their difference by metric, such as vcoco_ap_role_1."""
        return {metric: found for one in self.settings for metric, found in one.headlines.items()}

    @property
    def verdicts(self) -> dict[str, str]:
        """A sentence for each headline metric: which is better and by how much, or that they cannot be told apart."""
        over = scope(len(self.benchmark.images), len(self.a), len(self.b))
        return {
            headline.metric: verdict(headline.title, one.headlines[headline.metric], over)
            for one in self.settings
            for headline in one.ranking.headlines
        }

    def __str__(self) -> str:
        sides = zip("AB", self.folders, (self.a, self.b), strict=True)
        lines = [f"{name}: {folder}, {count(len(side), 'run')}" for name, folder, side in sides]
        images = f"{count(len(self.benchmark.images), 'image')}, drawn {self.samples:,} times; points"
        lines += [f"{self.benchmark.vocabulary.dataset} {self.a[0].split}, {images}", *report(self)]
        return "\n".join(lines)

    def frame(self) -> "pd.DataFrame":
        """A row for each class of each setting: A, B, their difference, its interval, and whether that excludes 0."""
        import pandas as pd

        rows = [
            {
                "setting": one.title,
                "class": one.ranking.names[index],
                "images": one.images[index],
                "a": found.a,
                "b": found.b,
                "difference": found.difference,
                "low": found.whole.low,
                "high": found.whole.high,
                "is_clear": found.is_clear,
            }
            for one in self.settings
            for index, found in one.classes.items()
        ]
        return pd.DataFrame(rows)

    def as_json(self) -> dict[str, Any]:
        """The inputs, the headline metrics with their verdicts, and every class of each setting."""

        def content(found: Difference) -> dict[str, Any]:
            return {"difference": found.difference, **asdict(found), "is_clear": found.is_clear}

        verdicts = self.verdicts
        return {
            "a": [as_record(evaluation) for evaluation in self.a],
            "b": [as_record(evaluation) for evaluation in self.b],
            "annotations": str(self.a[0].annotations),
            "dataset": self.benchmark.vocabulary.dataset,
            "split": self.a[0].split,
            "images": len(self.benchmark.images),
            "samples": self.samples,
            "seed": self.seed,
            "confidence": CONFIDENCE,
            "headlines": {
                metric: content(found) | {"verdict": verdicts[metric]} for metric, found in self.headlines.items()
            },
            "classes": {
                one.ranking.headlines[0].metric: {
                    one.ranking.names[index]: content(found) for index, found in one.classes.items()
                }
                for one in self.settings
            },
        }


def compare(a: str | Path, b: str | Path, *, samples: int = SAMPLES, seed: int = 0) -> ComparedRuns:
    """Test whether A is better than B, or whether the difference is noise, as `rmlr compare` does.

    Images of the split are drawn with replacement, the same for both, and both are scored on each such sample by the
    official protocol. The spread of the difference is the uncertainty from the choice of test images. If A and B both
    have several seeds, the spread between training runs is added.

    Args:
        a: folder made by `rmlr evaluate`, its parent (a run of one seed), or the folder of several seeds.
        b: likewise; scored on the same images.
        samples: number of bootstrap samples.
        seed: of the bootstrap; the same seed gives the same numbers.

    Raises ValueError if a folder is none of these, or if both were not scored on the same images.
    """
    if not MIN_SAMPLES <= samples <= MAX_SAMPLES:
        raise ValueError(
            f"samples (--samples) is {samples}: expected {MIN_SAMPLES} to {MAX_SAMPLES}. Fewer do not determine the "
            "interval; more do not change it visibly, and each needs memory for every image and class"
        )
    if not 0 <= seed < MAX_SEED:
        raise ValueError(f"seed (--seed) is {seed}: expected a whole number from 0 to {MAX_SEED - 1}")
    folders = Path(a), Path(b)
    side_a, side_b = map(find_evaluations, folders)
    refuse_incomparable(side_a, side_b)
    first = side_a[0]
    is_alike = all(evaluation.zero_shot == first.zero_shot for evaluation in (*side_a, *side_b))
    benchmark = Benchmark.load(first.annotations, first.split, first.zero_shot if is_alike else None)
    weights = draw_images(len(benchmark.images), samples, seed)
    rankings: tuple[Ranking, ...] = ()
    scored: list[list[list[np.ndarray]]] = [[], []]  # side, run, setting: c s
    for name, side, runs in zip("AB", (side_a, side_b), scored, strict=True):
        for evaluation in side:
            log.info("%s: scoring %s on %d samples of images", name, evaluation.triplets, samples)
            rankings = benchmark.rank(evaluation.triplets)
            runs.append(resample(rankings, weights, evaluation.metrics, f"{evaluation.folder / 'run.json'}"))
    settings = tuple(
        compare_runs(ranking, *([run[index] for run in runs] for runs in scored))
        for index, ranking in enumerate(rankings)
    )
    return ComparedRuns(side_a, side_b, folders, benchmark, samples, seed, settings)


# ---- what was scored


def find_evaluations(folder: Path) -> list[Evaluation]:
    """The evaluations in a folder: one run, or one for each seed."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "no such folder"
        raise ValueError(f"{folder}: {what}; expected a folder made by `rmlr evaluate`")
    seeds = sorted(folder.glob("*/evaluate"), key=lambda path: (len(path.parent.name), path.parent.name))
    for places in ([folder], [folder / "evaluate"], seeds):
        found = [place for place in places if (place / "run.json").is_file()]
        if found:
            break
    else:
        raise ValueError(
            f"{folder}: no evaluation. Expected a folder made by `rmlr evaluate`, with a run.json; one that contains "
            "evaluate/; or one that contains SEED/evaluate/"
        )
    waiting = [path.name for path in sorted(folder.iterdir()) if path.name.isdigit() and path / "evaluate" not in found]
    if waiting:
        log.warning("%s: not evaluated, and so left out: %s", folder, ", ".join(waiting))
    return [read_evaluation(place) for place in found]


def read_evaluation(folder: Path) -> Evaluation:
    """The inputs of an evaluation according to run.json; ValueError if they are missing or changed."""
    path = folder / "run.json"
    about = read_json(path, _About)
    if about.stage != "evaluate" or len(about.inputs) < 2:
        raise ValueError(f"{path}: made by '{about.stage}' from {len(about.inputs)} inputs. Expected one of 'evaluate'")
    (annotations, truth), (triplets, table) = list(about.inputs.items())[:2]
    return Evaluation(
        folder=folder,
        split=about.settings.split,
        zero_shot=about.settings.zero_shot,
        annotations=locate(folder, annotations, truth.sha256),
        annotations_sha256=truth.sha256,
        triplets=locate(folder, triplets, table.sha256),
        metrics=about.metrics,
    )


def locate(evaluation: Path, name: str, sha256: str) -> Path:
    """An input by the path that `evaluate` was given: relative to here, or to a folder above the evaluation."""
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
    """ValueError unless all were scored on the same annotated images, and no run is on both sides.

    If all runs are on both sides, a run is compared with itself, which is allowed: nothing differs.
    """
    first = a[0]
    for other in (*a, *b):
        if other.split != first.split or other.annotations_sha256 != first.annotations_sha256:
            raise ValueError(
                f"{first.folder} was scored on {first.split} of {first.annotations}, but {other.folder} on "
                f"{other.split} of {other.annotations}: the images or annotations differ. Run "
                "`rmlr evaluate` for both on the same split of the same annotations"
            )
    runs_a, runs_b = ({evaluation.folder.resolve() for evaluation in side} for side in (a, b))
    if runs_a & runs_b and runs_a != runs_b:
        raise ValueError(f"{min(runs_a & runs_b)} is on both sides. Name the seeds' folders so that none is in both")


# ---- the report


def report(compared: ComparedRuns) -> list[str]:
    """Headline metrics with intervals and verdicts, and the classes that differ most in the first setting."""
    titles = [headline.title for one in compared.settings for headline in one.ranking.headlines]
    headlines = list(compared.headlines.values())
    has_seeds = headlines[0].seeds is not None
    sources = ("images", "seeds", "both") if has_seeds else ("images",)
    rows = [
        [title, *sizes(found), *(interval(getattr(found, source)) for source in sources)]
        for title, found in zip(titles, headlines, strict=True)
    ]
    lines = ["", table_of(["", "A", "B", "A - B", *(f"{CONFIDENCE:.0%}, {source}" for source in sources)], rows), ""]
    lines += compared.verdicts.values()
    if not has_seeds:
        lines.append("With one run, no interval includes the spread between training runs.")
    return [*lines, *of_classes(compared.settings[0], sources[-1])]


def of_classes(one: Comparison, source: str) -> list[str]:
    """The classes that differ most in each direction, with positives in enough images; empty if none differ."""
    classes = [index for index in one.classes if one.images[index] >= MIN_IMAGES]
    classes.sort(key=lambda index: -one.classes[index].difference)
    ahead = [index for index in classes if one.classes[index].difference > 0][:SHOWN]
    behind = [index for index in classes if one.classes[index].difference < 0][-SHOWN:]
    if not ahead + behind:
        return []
    names, positives = one.ranking.names, one.ranking.positives()
    head = [one.title, "positives", "A", "B", "A - B", f"{CONFIDENCE:.0%}, {source}"]
    rows = [
        [names[index], f"{positives[index]}", *sizes(one.classes[index]), interval(one.classes[index].whole)]
        for index in ahead + behind
    ]
    clear = sum(one.classes[index].is_clear for index in classes)
    return [
        "",
        table_of(head, rows),
        "",
        f"At most {SHOWN} classes in each direction, of {len(classes)} with a positive in {MIN_IMAGES} images or more. "
        f"The intervals of {clear} exclude 0; for two equal methods {(1 - CONFIDENCE) * len(classes):.1f} would, by "
        "chance: a single class from this list is a hint, not a finding.",
    ]


def table_of(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, for terminals and notes: names aligned left, numbers right."""
    return aligned([head, *rows], [column == 0 for column in range(len(head))])


def scope(images: int, runs_a: int, runs_b: int) -> str:
    """The sources of noise in an interval, in words."""
    if min(runs_a, runs_b) < 2:
        return f"{count(images, 'image')}, not over training runs"
    return (
        f"{count(images, 'image')} and {f'{runs_a} seeds each' if runs_a == runs_b else f'{runs_a} and {runs_b} seeds'}"
    )


def verdict(title: str, found: Difference, over: str) -> str:
    """One sentence: which is better and by how much, or that the difference is not significant."""
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


def sizes(found: Difference) -> tuple[str, str, str]:
    """A, B and A - B, in points."""
    return points(found.a, sign=""), points(found.b, sign=""), points(found.difference)


def interval(spread: Spread) -> str:
    """An interval in points."""
    return "-" if math.isnan(spread.low) else f"{points(spread.low)} to {points(spread.high)}"


def points(fraction: float, sign: str = "+") -> str:
    """A fraction as points; a difference with its sign."""
    return "-" if math.isnan(fraction) else f"{100 * fraction:{sign}.2f}"


def count(number: int, noun: str) -> str:
    """`3 runs`, `1 run`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def as_record(evaluation: Evaluation) -> dict[str, Any]:
    """One run, and the metrics of its evaluation."""
    return {"folder": str(evaluation.folder), "triplets": str(evaluation.triplets), "metrics": evaluation.metrics}
