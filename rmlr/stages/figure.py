"""One figure of the study from the results of runs: PNG, SVG, and its numbers."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rmlr.evaluation.comparison import MIN_IMAGES, compare_runs
from rmlr.evaluation.matching import Ranking
from rmlr.evaluation.precision_recall import precision_curves
from rmlr.evaluation.resampling import CONFIDENCE, draw_images, resampled_precision
from rmlr.hoi import Annotation
from rmlr.learning.benchmark import Benchmark
from rmlr.report import figures
from rmlr.study.figures import (
    CurvesFigure,
    DifferencesFigure,
    ExamplesFigure,
    PlacesFigure,
    PrecisionRecallFigure,
    SeparationFigure,
)
from rmlr.study.nodes import FigureNode
from rmlr.study.run import run

TRIPLETS, CURVES = "predict/triplets.parquet", "train/curves.csv"
FILES = {"curves": CURVES, "examples": TRIPLETS, "differences": TRIPLETS, "precision_recall": TRIPLETS}  # of a run
RECALLS = np.linspace(0.02, 1, 50)


def figure(*, settings: Path, annotations: Path, images: Path, results: Path, out: Path) -> None:
    """Draw one figure, and write the underlying numbers.

    If there is nothing to draw, the figure says so.

    Args:
        settings: this figure's settings file: its kind, runs and sizes.
        annotations: folder made by `prepare`, of the data set of these runs.
        images: folder of the photos; read by figures that show some.
        results: folder whose runs/GROUP/NAME/SEED, and separation/ likewise, were made by earlier stages.
        out: folder to write; gets figure.png, figure.svg and figure.csv.
    """
    node = FigureNode.load(settings)
    chosen = node.figure
    place, file = ("runs", FILES[chosen.kind]) if chosen.kind in FILES else ("separation", "")
    files = {
        label: [results / place / name / str(seed) / file for seed in node.seeds] for label, name in chosen.runs.items()
    }
    inputs = [annotations, *(file for of_run in files.values() for file in of_run)]
    inputs += [images] if chosen.kind in ("examples", "places") else []

    def pixels_of(item: Annotation) -> np.ndarray:
        from rmlr.data.images import read_image  # imports torch, which most figures do not need

        return np.asarray(read_image(images / item.file_name))

    with run("figure", node, settings=settings, out=out, inputs=inputs) as record:
        first = next(iter(files.values()))[0]
        match chosen:
            case CurvesFigure():
                drawn, rows = figures.curves(files)
            case SeparationFigure():
                drawn, rows = figures.distributions(first)
            case PlacesFigure():
                shown = Benchmark.load(annotations, node.split).images
                drawn, rows = figures.places(first, shown, pixels_of, chosen.pairs)
            case ExamplesFigure():
                split = Benchmark.load(annotations, node.split)
                tables = {label: split.read(of_run[0])[0] for label, of_run in files.items()}
                drawn, rows = figures.examples(tables, split.vocabulary, split.images, pixels_of, chosen)
            case DifferencesFigure():
                drawn, rows = _differences(Benchmark.load(annotations, node.split), files, chosen)
            case PrecisionRecallFigure():
                curves = precision_curves(_rank(Benchmark.load(annotations, node.split), files), RECALLS)
                drawn, rows = figures.precision_recall([figures.PrecisionCurve(*one) for one in curves], RECALLS)
        figures.write(drawn, rows, record.folder)


def _rank(split: Benchmark, files: Mapping[str, Sequence[Path]]) -> dict[str, list[tuple[Ranking, ...]]]:
    """Each run's predictions, matched by the benchmark: by label, seed, setting."""
    return {label: [split.rank(file) for file in of_run] for label, of_run in files.items()}


def _differences(split: Benchmark, files: Mapping[str, Sequence[Path]], chosen: DifferencesFigure):
    """The comparison of two runs in the benchmark's first setting."""
    rankings = _rank(split, files)
    weights = draw_images(len(split.images), chosen.samples, chosen.seed)
    a, b = ([resampled_precision(of_seed[0], weights) for of_seed in seeds] for seeds in rankings.values())
    found = compare_runs(next(iter(rankings.values()))[0][0], a, b)
    named = [(headline.title, None, found.headlines[headline.metric]) for headline in found.ranking.headlines]
    named += [(found.ranking.names[index], int(found.images[index]), one) for index, one in found.classes.items()]
    return figures.differences(
        list(files),
        [
            figures.ClassDifference(
                name, count, one.a, one.b, one.difference, one.whole.low, one.whole.high, one.is_clear
            )
            for name, count, one in named
        ],
        chosen.classes,
        min_images=MIN_IMAGES,
        confidence=CONFIDENCE,
    )
