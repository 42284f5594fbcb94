"""One figure of the study from the results of runs: PNG, SVG, and its numbers."""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from rmlr.data.records import load_annotations
from rmlr.evaluation.comparison import MIN_IMAGES, compare_runs
from rmlr.evaluation.confusions import associate, confusions, score_shares
from rmlr.evaluation.matching import Ranking
from rmlr.evaluation.precision_recall import precision_curves
from rmlr.evaluation.resampling import CONFIDENCE, draw_images, resampled_precision
from rmlr.evaluation.row_groups import TrainingRows, compare_groups, rank_both, resampled
from rmlr.hoi import Annotation
from rmlr.learning.benchmark import Benchmark
from rmlr.report import figures
from rmlr.report.words import GroupDifference, confusions_figure, rows_figure
from rmlr.study.figures import (
    ConfusionsFigure,
    CurvesFigure,
    DifferencesFigure,
    ExamplesFigure,
    PlacesFigure,
    PrecisionRecallFigure,
    RowsFigure,
    SeparationFigure,
)
from rmlr.study.nodes import FigureNode
from rmlr.study.run import run

TRIPLETS, CURVES = "predict/triplets.parquet", "train/curves.csv"
SEPARATED = ("separation", "places")  # kinds that show what the stage separation measured, not a run
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
    place, file = ("separation", "") if chosen.kind in SEPARATED else ("runs", TRIPLETS)
    file = CURVES if chosen.kind == "curves" else file
    files = {
        label: [results / place / name / str(seed) / file for seed in node.seeds] for label, name in chosen.runs.items()
    }
    inputs = [annotations, *(file for of_run in files.values() for file in of_run)]
    inputs += [images] if chosen.kind in ("examples", "places") else []
    text = results / "vcoco" / "text" / chosen.encoder if isinstance(chosen, ConfusionsFigure) else None
    inputs += [text] if text else []

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
            case RowsFigure():
                drawn, rows = _rows(Benchmark.load(annotations, node.split), annotations, files, chosen)
            case ConfusionsFigure():
                assert text is not None
                drawn, rows = _confusions(Benchmark.load(annotations, node.split), files, text, chosen)
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


def _rows(split: Benchmark, annotations: Path, files: Mapping[str, Sequence[Path]], chosen: RowsFigure):
    """Every two runs that are compared, by the rows that their verbs have in training."""
    rows = TrainingRows.of(load_annotations(annotations, chosen.rows_of), split.vocabulary)
    masks = rows.groups(chosen.bounds, len(split.vocabulary.verbs))
    weights = draw_images(len(split.images), chosen.samples, chosen.seed)
    ranked = {
        label: [rank_both(split.images, split.vocabulary, split.read(file)[0], rows) for file in of_run]
        for label, of_run in files.items()
    }
    found = {label: [resampled(one, weights) for one in of_run] for label, of_run in ranked.items()}
    compared = []
    for first, second in chosen.compared:
        for one in compare_groups(ranked[first][0], masks, found[first], found[second]):
            a, b = ([float(seed.mean(masks.get(one.group))[0]) for seed in found[label]] for label in (first, second))
            less = one.difference
            number = (less.difference, less.whole.low, less.whole.high, less.is_clear)
            compared.append(GroupDifference(one.group, one.verbs, one.positives, (first, second), a, b, *number))
    return rows_figure(compared, CONFIDENCE)


def _confusions(split: Benchmark, files: Mapping[str, Sequence[Path]], text: Path, chosen: ConfusionsFigure):
    """The run's confusions of verbs, the mean over its seeds, against the cosines of their texts."""
    from rmlr.model.text import TextEmbeddings  # imports torch, which most figures do not need
    from rmlr.model.verb_texts import verb_cosines

    embeddings = TextEmbeddings.load(text)
    embeddings.must_fit(text, split.vocabulary)
    cosines = verb_cosines(embeddings)
    tables = [split.read(file)[0] for file in chain.from_iterable(files.values())]
    each = np.stack([confusions(*score_shares(split.images, split.vocabulary, table)) for table in tables])
    is_known = ~np.isnan(each)
    sums = np.where(is_known, each, 0).sum(0)
    confusion = np.divide(sums, is_known.sum(0), out=np.full(sums.shape, np.nan), where=is_known.any(0))
    found = associate(confusion, cosines, chosen.permutations, chosen.seed)
    return confusions_figure(split.vocabulary.verbs, confusion, cosines, found.rho, found.p)
