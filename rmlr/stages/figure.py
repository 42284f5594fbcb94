"""One figure of the study: a picture for print, the same as vectors, and the numbers behind it."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float
from matplotlib.figure import Figure
from pyarrow import parquet

from rmlr.data.records import load_annotations, load_image_objects, load_vocabulary
from rmlr.detections.triplets import load_triplets
from rmlr.evaluation import hicodet, vcoco
from rmlr.evaluation.matching import Ranking
from rmlr.evaluation.precision_recall import precision_at
from rmlr.evaluation.resampling import CONFIDENCE, differ, draw_images, known_means, resampled_precision
from rmlr.hoi import NO_INTERACTION, Annotation, Triplets, Vocabulary
from rmlr.report.charts import (
    Interval,
    Line,
    Marked,
    Panel,
    Picture,
    interval_chart,
    line_chart,
    message,
    picture_sheet,
    save,
)
from rmlr.report.pictures import annotated_triplets
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

Rows = list[dict[str, Any]]

TRIPLETS, CURVES = "predict/triplets.parquet", "train/curves.csv"
FILES = {"curves": CURVES, "examples": TRIPLETS, "differences": TRIPLETS, "precision_recall": TRIPLETS}  # of a run

TERMS = {  # columns of curves.csv, and how a reader knows them
    "hoi": "Interaction loss",
    "irm_sentence": "Sentence loss, O",
    "irm_word": "Word loss, O",
    "ire_sentence": "Sentence loss, m",
    "ire_word": "Word loss, m",
    "irm_sentence_spread": "Spread, sentence rows of O",
    "irm_word_spread": "Spread, word rows of O",
    "ire_sentence_spread": "Spread, sentence rows of m",
    "ire_word_spread": "Spread, word rows of m",
}
VECTORS = {  # of the stage separation, as a reader knows them; the control `boxes` is in the table alone
    "human_token": "Token of the human",
    "pair_tokens": "Tokens of the pair",
    "learnt_tokens": "Tokens after FC",
    "cells": "Map, not re-mined",
    "cue": "Re-mined cue m",
}
KINDS = {
    "same": "same place, same verbs",
    "different": "same place, different verbs",
    "elsewhere": "other place, same verbs",
}
STEPS = 60  # of a distribution, from no distance to the largest
MIN_IMAGES = 10  # with a positive; of fewer, a class's AP says little
FEW = 24  # classes that are shown one by one
RECALLS = np.linspace(0.02, 1, 50)
MOST = 3  # times as many annotated interactions are written beneath a picture as predicted ones
EDGES = ("x1", "y1", "x2", "y2")


def figure(*, settings: Path, annotations: Path, images: Path, results: Path, out: Path) -> None:
    """Draw one figure, and write the numbers behind it.

    Where there is nothing to draw, the figure says so.

    Args:
        settings: this figure's settings file: its kind, whose runs, how many.
        annotations: folder made by `prepare`, of the data set of these runs.
        images: folder of the photos; read by figures that show some.
        results: folder whose runs/GROUP/NAME/SEED, and separation/ likewise, were made by the stages before.
        out: folder to write; gets figure.png, figure.svg and figure.csv.
    """
    node = FigureNode.load(settings)
    chosen, split = node.figure, node.split
    runs = {label: [f"{name}/{seed}" for seed in node.seeds] for label, name in chosen.runs.items()}
    if chosen.kind in FILES:
        files = {
            label: [results / "runs" / one / FILES[chosen.kind] for one in of_run] for label, of_run in runs.items()
        }
    else:
        files = {label: [results / "separation" / one for one in of_run] for label, of_run in runs.items()}
    inputs = [annotations, *(file for of_run in files.values() for file in of_run)]
    inputs += [images] if chosen.kind in ("examples", "places") else []
    with run("figure", node, settings=settings, out=out, inputs=inputs) as record:
        first = next(iter(files.values()))[0]
        match chosen:
            case CurvesFigure():
                drawn, rows = curves(files)
            case SeparationFigure():
                drawn, rows = distributions(first)
            case PlacesFigure():
                drawn, rows = places(first, load_annotations(annotations, split), images, chosen.pairs)
            case ExamplesFigure():
                firsts = {label: of_run[0] for label, of_run in files.items()}
                shown = load_annotations(annotations, split)
                drawn, rows = examples(firsts, load_vocabulary(annotations), shown, images, chosen)
            case DifferencesFigure():
                drawn, rows = differences(list(runs), _rank(files, annotations, split), chosen)
            case PrecisionRecallFigure():
                drawn, rows = precision_recall(_rank(files, annotations, split)[1])
        save(drawn, record.folder)
        with (record.folder / "figure.csv").open("w", newline="") as file:
            names = list(dict.fromkeys(name for row in rows for name in row))
            writer = csv.DictWriter(file, fieldnames=names or ["nothing"], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


# ---- training


def curves(files: Mapping[str, Sequence[Path]]) -> tuple[Figure, Rows]:
    """Each term over the epochs, the mean over seeds; columns that no run has are left out."""
    rows: Rows = []
    lines: dict[str, list[Line]] = {}
    for label, of_run in files.items():
        tables = [_read_csv(file) for file in of_run]
        for name in TERMS:
            known = [[float(row[name]) for row in table if row.get(name)] for table in tables]
            epochs = min(map(len, known))
            if not epochs:
                continue
            values, steps = np.array([seed[:epochs] for seed in known]), np.arange(1.0, epochs + 1)
            ends = values.min(axis=0), values.max(axis=0)
            lines.setdefault(name, []).append(Line(label, steps, values.mean(axis=0), *ends))
            columns = (steps.tolist(), values.mean(axis=0).tolist(), *(end.tolist() for end in ends))
            for epoch, mean, low, high in zip(*columns, strict=True):
                about = {"run": label, "column": name, "epoch": int(epoch), "seeds": len(values)}
                rows.append(about | {"mean": mean, "least": low, "most": high})
    panels = [Panel(TERMS[name], lines[name], x_label="epoch") for name in TERMS if name in lines]
    return line_chart(panels, columns=min(3, len(panels) or 1), height=1.6), rows


# ---- the loss of interaction information


def distributions(folder: Path) -> tuple[Figure, Rows]:
    """How the distances of each kind of pairs are distributed, and how well they tell the kinds apart."""
    pairs = _read_parquet(folder / "pairs.parquet")
    kinds = pairs["kind"].to_numpy(zero_copy_only=False)
    areas = {(row["question"], row["vector"], row["distance"]): row for row in _read_csv(folder / "separation.csv")}
    counts = {kind: int((kinds == kind).sum()) for kind in KINDS}
    rows: Rows = []
    panels = []
    for distance, axis in (("cosine", "1 - cosine"), ("euclidean", "Euclidean distance")):
        for vector, name in VECTORS.items():
            values = pairs[f"{distance}_{vector}"].to_numpy()
            at, area = np.linspace(0, float(values.max(initial=0)), STEPS), areas["verb", vector, distance]
            lines = []
            for kind, label in KINDS.items():
                share = (values[kinds == kind][:, None] <= at).sum(axis=0) / max(counts[kind], 1)
                if counts[kind]:
                    lines.append(Line(f"{label} ({counts[kind]:,})", at, share))
                about = {"vector": vector, "distance": distance, "pairs": kind, "count": counts[kind]}
                about |= {f"verb_auc{end}": area[column] for end, column in AREA.items()}
                rows += [
                    about | {"at_most": limit, "share": part}
                    for limit, part in zip(at.tolist(), share.tolist(), strict=True)
                ]
            title = f"{name}\nAUC {_number(area['auc'])} [{_number(area['low'])}, {_number(area['high'])}]"
            panels.append(Panel(title, lines, x_label=axis, y_label="share of pairs", y_range=(0.0, 1.03)))
    if not counts["same"] or not counts["different"]:
        said = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        return message(f"No two kinds of pairs of people at the same place to compare in this split ({said})."), rows
    return line_chart(panels, columns=len(VECTORS), height=1.55), rows


AREA = {"": "auc", "_low": "low", "_high": "high"}  # columns of separation.csv


def places(folder: Path, shown: Sequence[Annotation], images: Path, wanted: int) -> tuple[Figure, Rows]:
    """The pairs whose places are nearest, of those who do different and of those who do the same things.

    Each image once. Beneath each pair: both distances before and after re-mining, and how many of all pairs at the same
    place, of either kind, are nearer by the cosine.
    """
    pairs = _read_parquet(folder / "pairs.parquet").to_pandas()
    found = _read_parquet(folder / "interactions.parquet").to_pylist()
    of_id = {item.image_id: item for item in shown}
    near = pairs[pairs["kind"] != "elsewhere"]
    rows: Rows = []
    sheet: list[tuple[str, list[Picture]]] = []
    for kind in ("different", "same"):
        chosen: list[dict[str, Any]] = []
        used: set[int] = set()
        for pair in (
            near[near["kind"] == kind].sort_values("place_iou", ascending=False, kind="stable").to_dict("records")
        ):
            both = {found[pair[side]]["image_id"] for side in ("first", "second")}
            if len(chosen) < wanted and not both & used:
                chosen.append(pair)
                used |= both
        for side, letter in (("first", "a"), ("second", "b")):
            line = []
            for number, pair in enumerate(chosen, start=1):
                one, said = found[pair[side]], []
                apart = {name: value for name, value in pair.items() if name.startswith(("cosine", "euclidean"))}
                nearer = {name: float((near[f"cosine_{name}"] < pair[f"cosine_{name}"]).mean()) for name in COMPARED}
                if side == "second":
                    said = [
                        _both("cosine", {name: 1 - pair[f"cosine_{name}"] for name in COMPARED}, ".2f"),
                        _both("Euclid", {name: pair[f"euclidean_{name}"] for name in COMPARED}, ".2f"),
                        _both("nearer", nearer, ".0%"),
                    ]
                human, thing = ([one[f"{who}_{edge}"] for edge in EDGES] for who in ("human", "object"))
                pixels = _pixels(images / of_id[one["image_id"]].file_name)
                title = f"{number}{letter}: image {one['image_id']}"
                line.append(Picture(pixels, [Marked(human, thing, [one["does"], *said])], title))
                about = {"verbs": kind, "pair": number, "side": letter, "place_iou": pair["place_iou"]}
                rows.append(about | one | apart | {f"nearer_by_{name}": share for name, share in nearer.items()})
            sheet.append((f"{kind} verbs, {letter}", line))
    return picture_sheet(sheet, columns=wanted), rows


COMPARED = {"human_token": "token", "cue": "cue"}


def _both(what: str, values: Mapping[str, float], form: str) -> str:
    return f"{what}: " + ", ".join(f"{COMPARED[name]} {value:{form}}" for name, value in values.items())


# ---- pictures


def examples(
    files: Mapping[str, Path], vocabulary: Vocabulary, shown: Sequence[Annotation], images: Path, chosen: ExamplesFigure
) -> tuple[Figure, Rows]:
    """What was annotated and what each run says most strongly, on the same images; that nothing is done is left out."""
    nothing = [verb for verb, name in enumerate(vocabulary.verbs) if name == NO_INTERACTION]
    able = [item for item in shown if len(_annotated(item, nothing).verb) >= chosen.interactions]
    taken = np.linspace(0, len(able) - 1, min(chosen.images, len(able))).round().astype(int)
    items = [able[index] for index in taken]
    tables = {label: load_triplets(file) for label, file in files.items()}
    rows: Rows = []
    sheet: list[tuple[str, list[Picture]]] = []
    for start in range(0, len(items), chosen.columns):
        block = items[start : start + chosen.columns]
        pixels = {item.image_id: _pixels(images / item.file_name) for item in block}
        for label, table in (("annotated", None), *tables.items()):
            line = []
            for item in block:
                said = (
                    _annotated(item, nothing)
                    if table is None
                    else _strongest(table, item.image_id, nothing, chosen.triplets)
                )
                marked = _marked(said, vocabulary, MOST * chosen.triplets, has_scores=table is not None)
                title = f"image {item.image_id}" if table is None else ""
                line.append(Picture(pixels[item.image_id], marked, title))
                rows += _triplet_rows(said, label, item, vocabulary)
            sheet.append((label, line))
    return picture_sheet(sheet, chosen.columns), rows


def _annotated(item: Annotation, left_out: Sequence[int]) -> Triplets:
    """The annotated interactions that have both boxes, but for some verbs."""
    annotated = annotated_triplets(item)
    rows = np.flatnonzero(~np.isin(annotated.verb, left_out))
    return Triplets(*(getattr(annotated, name)[rows] for name in Triplets.__slots__))


def _strongest(table: Triplets, image_id: int, left_out: Sequence[int], limit: int) -> Triplets:
    """The strongest triplets of one image, strongest first, but for some verbs."""
    rows = np.flatnonzero((table.image_id == image_id) & ~np.isin(table.verb, left_out))
    rows = rows[np.argsort(-table.score[rows], kind="stable")][:limit]
    return Triplets(*(getattr(table, name)[rows] for name in Triplets.__slots__))


def _phrase(said: Triplets, row: int, vocabulary: Vocabulary) -> str:
    label = int(said.object_category[row])  # -1 in V-COCO's official form, which does not say it
    return str(vocabulary.phrase(int(said.verb[row]), label if label >= 0 else None))


def _marked(said: Triplets, vocabulary: Vocabulary, limit: int, *, has_scores: bool) -> list[Marked]:
    """Pairs of boxes in the order of their first triplet, each with what is said of it, `limit` things in all."""
    texts: dict[tuple, list[str]] = {}
    for row in range(min(len(said.verb), limit)):
        boxes = tuple(said.human_boxes[row].tolist()), tuple(said.object_boxes[row].tolist())
        text = _phrase(said, row, vocabulary).removeprefix("person ")
        texts.setdefault(boxes, []).append(f"{text} {said.score[row]:.2f}" if has_scores else text)
    marked = [Marked(human, None if math.isnan(thing[0]) else thing, lines) for (human, thing), lines in texts.items()]
    if (left := len(said.verb) - limit) > 0:
        marked.append(Marked(None, None, [f"and {left} more"]))
    return marked


def _triplet_rows(said: Triplets, label: str, item: Annotation, vocabulary: Vocabulary) -> Rows:
    rows: Rows = []
    for row in range(len(said.verb)):
        about: dict[str, Any] = {"image_id": item.image_id, "file_name": item.file_name, "source": label}
        about |= {"phrase": _phrase(said, row, vocabulary), "score": float(said.score[row])}
        for who, boxes in (("human", said.human_boxes), ("object", said.object_boxes)):
            about |= {f"{who}_{edge}": float(at) for edge, at in zip(EDGES, boxes[row], strict=True)}
        rows.append(about)
    return rows


def _pixels(path: Path) -> np.ndarray:
    from rmlr.data.images import read_image  # brings torch, which most figures do without

    return np.asarray(read_image(path))


# ---- scores


def _rank(
    files: Mapping[str, Sequence[Path]], annotations: Path, split: str
) -> tuple[int, dict[str, list[tuple[Ranking, ...]]]]:
    """How many images there are, and each run's triplets as the benchmark matches them: by label, seed, setting."""
    vocabulary, images = load_vocabulary(annotations), load_annotations(annotations, split)
    ids = [image.image_id for image in images]
    image_objects = load_image_objects(annotations, split) if vocabulary.dataset == "hicodet" else None

    def rank(file: Path) -> tuple[Ranking, ...]:
        triplets = load_triplets(file, vocabulary=vocabulary, image_ids=ids)
        if vocabulary.dataset == "vcoco":
            return vcoco.rank(images, vocabulary, triplets)
        return hicodet.rank(images, vocabulary, triplets, image_objects)

    return len(images), {label: [rank(file) for file in of_run] for label, of_run in files.items()}


def differences(
    labels: Sequence[str],
    ranked: tuple[int, dict[str, list[tuple[Ranking, ...]]]],
    chosen: DifferencesFigure,
) -> tuple[Figure, Rows]:
    """A - B of the headlines and of the classes that differ most, under the benchmark's first setting."""
    images, rankings = ranked
    weights = draw_images(images, chosen.samples, chosen.seed)
    a, b = ([resampled_precision(of_seed[0], weights) for of_seed in rankings[label]] for label in labels)
    ranking = rankings[labels[0]][0][0]
    found = {
        headline.title: differ(*(np.stack([known_means(seed[headline.classes]) for seed in side]) for side in (a, b)))
        for headline in ranking.headlines
    }
    of_images = np.unique(np.stack([ranking.positive_class, ranking.positive_image]), axis=1)[0]
    positives = np.bincount(of_images, minlength=len(ranking.names))
    scored = np.flatnonzero(np.any([headline.classes for headline in ranking.headlines], axis=0))
    classes = {int(index): differ(*(np.stack([seed[index] for seed in side]) for side in (a, b))) for index in scored}
    rows: Rows = []
    for name, number, one in (
        *((title, None, one) for title, one in found.items()),
        *((ranking.names[index], int(positives[index]), one) for index, one in classes.items()),
    ):
        about = {"class": name, "images_with_positive": number, labels[0]: one.a, labels[1]: one.b}
        rows.append(about | {"difference": one.difference, "low": one.whole.low, "high": one.whole.high})
    enough = min(MIN_IMAGES, int(positives[scored].max(initial=0)))  # of a split of a few images, all
    telling = [
        index for index in classes if positives[index] >= max(enough, 1) and _is_known(classes[index].difference)
    ]
    telling = sorted(telling, key=lambda index: -abs(classes[index].difference))[: chosen.classes]
    telling = sorted(telling, key=lambda index: -classes[index].difference)
    lines = [(title, one) for title, one in found.items() if _is_known(one.difference)]
    words = {index: ranking.names[index].replace("_", " ") for index in telling}
    lines += [(f"{words[index]} ({positives[index]})", classes[index]) for index in telling]
    intervals = [
        Interval(name, 100 * one.difference, 100 * one.whole.low, 100 * one.whole.high, one.is_clear)
        for name, one in lines
    ]
    title = f"{labels[0]} less {labels[1]}; in brackets, images with a positive"
    return interval_chart(intervals, title, f"difference of AP, points, with its {CONFIDENCE:.0%} interval"), rows


def precision_recall(rankings: Mapping[str, Sequence[tuple[Ranking, ...]]]) -> tuple[Figure, Rows]:
    """Precision over recall: the mean over each headline's classes, and each class of the first, where they are few."""
    some = next(iter(rankings.values()))[0]
    settings = [(at, headline) for at, ranking in enumerate(some) for headline in ranking.headlines]
    wanted: list[tuple[str, str, int, np.ndarray]] = [
        ("mean", headline.title, at, np.flatnonzero(headline.classes)) for at, headline in settings
    ]
    of_class = [
        ("class", name, 0, np.array([index]))
        for index, name in enumerate(some[0].names)
        if settings[0][1].classes[index]
    ]
    panels: list[Panel] = []
    rows: Rows = []
    measured = {
        label: [[precision_at(ranking, RECALLS) for ranking in of_seed] for of_seed in seeds]
        for label, seeds in rankings.items()
    }
    for what, name, at, classes in [*wanted, *of_class]:
        lines = []
        for label, seeds in measured.items():
            values = np.stack([known_means(of_seed[at][classes]) for of_seed in seeds])  # seeds r
            if np.isnan(values).all():
                continue
            mean, low, high = values.mean(axis=0), values.min(axis=0), values.max(axis=0)
            lines.append(Line(label, RECALLS, mean, low, high))
            rows += _curve_rows({"of": what, "name": name, "run": label, "seeds": len(seeds)}, mean, low, high)
        if lines and (what == "mean" or len(of_class) <= FEW):
            title = name if what == "class" else f"Mean: {name}"
            axes = {"x_label": "recall", "y_label": "precision", "x_range": (0.0, 1.0), "y_range": (0.0, 1.02)}
            panels.append(Panel(title, lines, **axes))
    return line_chart(panels, columns=min(4, len(panels) or 1), height=1.5), rows


def _curve_rows(about: dict[str, Any], *columns: Float[np.ndarray, " r"]) -> Rows:
    values = zip(RECALLS.tolist(), *(column.tolist() for column in columns), strict=True)
    return [about | dict(zip(("recall", "precision", "least", "most"), row, strict=True)) for row in values]


# ---- files and words


def _read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or any(None in row.values() for row in rows):
        raise ValueError(f"{path}: is empty or cut off. Remove the folder, and run the stage that makes it again")
    return rows


def _read_parquet(path: Path) -> pa.Table:
    try:
        return parquet.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path}: cannot be read ({error}). Is it cut off? Run `rmlr separation` again") from error


def _number(text: str) -> str:
    return "-" if text in ("", "nan") else f"{float(text):.2f}"


def _is_known(value: float) -> bool:
    return not math.isnan(value)
