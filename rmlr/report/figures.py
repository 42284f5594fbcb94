"""The figures of the study: each as a drawing, and as the rows of numbers behind it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.figure import Figure

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
from rmlr.report.frames import read_cells, write_cells
from rmlr.report.pictures import annotated_triplets
from rmlr.study.figures import ExamplesFigure

Rows = list[dict[str, Any]]
Pixels = Callable[[Annotation], np.ndarray]  # the picture of an image, h w 3

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
FEW = 24  # classes that are shown one by one
MOST = 3  # times as many annotated interactions are written beneath a picture as predicted ones
EDGES = ("x1", "y1", "x2", "y2")


# ---- training


def curves(files: Mapping[str, Sequence[Path]]) -> tuple[Figure, Rows]:
    """Each term over the epochs, the mean over seeds; columns that no run has are left out."""
    rows: Rows = []
    lines: dict[str, list[Line]] = {}
    for label, of_run in files.items():
        tables = [
            read_cells(file, "Remove its folder and train again").reindex(columns=list(TERMS), fill_value="")
            for file in of_run
        ]
        for name in TERMS:
            known = [[float(cell) for cell in table[name] if cell] for table in tables]
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
    kinds = pairs["kind"].to_numpy()
    told = read_cells(folder / "separation.csv", "Run `rmlr separation` again").to_dict("records")
    areas = {(row["question"], row["vector"], row["distance"]): row for row in told}
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
        found = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        return message(f"No two kinds of pairs of people at the same place to compare in this split ({found})."), rows
    return line_chart(panels, columns=len(VECTORS), height=1.55), rows


AREA = {"": "auc", "_low": "low", "_high": "high"}  # columns of separation.csv


def places(folder: Path, shown: Sequence[Annotation], pixels_of: Pixels, wanted: int) -> tuple[Figure, Rows]:
    """The pairs whose places are nearest, of those who do different and of those who do the same things.

    Each image once. Beneath each pair: both distances before and after re-mining, and how many of all pairs at the same
    place, of either kind, are nearer by the cosine.
    """
    pairs = _read_parquet(folder / "pairs.parquet")
    found = _read_parquet(folder / "interactions.parquet").to_dict("records")
    of_id = {item.image_id: item for item in shown}
    near = pairs[pairs["kind"] != "elsewhere"]
    rows: Rows = []
    sheet: list[tuple[str, list[Picture]]] = []
    for kind in ("different", "same"):
        chosen: list[dict[str, Any]] = []
        used: set[int] = set()
        nearest = near.query("kind == @kind").sort_values("place_iou", ascending=False, kind="stable")
        for pair in nearest.to_dict("records"):
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
                pixels = pixels_of(of_id[one["image_id"]])
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
    tables: Mapping[str, Triplets],
    vocabulary: Vocabulary,
    shown: Sequence[Annotation],
    pixels_of: Pixels,
    chosen: ExamplesFigure,
) -> tuple[Figure, Rows]:
    """What was annotated and what each run says most strongly, on the same images; that nothing is done is left out."""
    nothing = [verb for verb, name in enumerate(vocabulary.verbs) if name == NO_INTERACTION]
    able = [item for item in shown if len(_annotated(item, nothing).verb) >= chosen.interactions]
    taken = np.linspace(0, len(able) - 1, min(chosen.images, len(able))).round().astype(int)
    items = [able[index] for index in taken]
    rows: Rows = []
    sheet: list[tuple[str, list[Picture]]] = []
    for start in range(0, len(items), chosen.columns):
        block = items[start : start + chosen.columns]
        pixels = {item.image_id: pixels_of(item) for item in block}
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


# ---- scores


@dataclass(frozen=True, slots=True)
class ClassDifference:
    """A - B of a class, or of a headline, as fractions; NaN where there is nothing to average."""

    name: str
    images: int | None  # with a positive; None: a headline
    a: float
    b: float
    difference: float
    low: float  # of its interval
    high: float
    is_clear: bool  # the interval leaves 0 out


def differences(
    labels: Sequence[str], compared: Sequence[ClassDifference], most: int, *, min_images: int, confidence: float
) -> tuple[Figure, Rows]:
    """A - B of the headlines, and of the `most` classes that differ most, with positives in enough images."""
    rows: Rows = [
        {
            "class": one.name,
            "images_with_positive": "" if one.images is None else one.images,
            **{labels[0]: one.a, labels[1]: one.b, "difference": one.difference, "low": one.low, "high": one.high},
        }
        for one in compared
    ]
    known = [one for one in compared if not math.isnan(one.difference)]
    enough = min(min_images, max((one.images or 0 for one in compared), default=0))  # of a split of a few images, all
    classes = [one for one in known if one.images is not None and one.images >= max(enough, 1)]
    classes = sorted(classes, key=lambda one: -abs(one.difference))[:most]
    classes = sorted(classes, key=lambda one: -one.difference)
    lines = [(one.name, one) for one in known if one.images is None]
    lines += [(f"{one.name.replace('_', ' ')} ({one.images})", one) for one in classes]
    intervals = [
        Interval(name, 100 * one.difference, 100 * one.low, 100 * one.high, one.is_clear) for name, one in lines
    ]
    title = f"{labels[0]} less {labels[1]}; in brackets, images with a positive"
    return interval_chart(intervals, title, f"difference of AP, points, with its {confidence:.0%} interval"), rows


@dataclass(frozen=True, slots=True, eq=False)
class PrecisionCurve:
    """Precision of a run at some recalls: of a class, or the mean over the classes of a headline."""

    of: str  # mean, class
    name: str
    run: str
    precision: Float[np.ndarray, "q r"]  # of each seed; NaN without a positive


def precision_recall(curves: Sequence[PrecisionCurve], recalls: Float[np.ndarray, " r"]) -> tuple[Figure, Rows]:
    """Precision over recall: the mean over each headline's classes, and each class of the first, where they are few."""
    panels: list[Panel] = []
    rows: Rows = []
    of_panel: dict[tuple[str, str], list[PrecisionCurve]] = {}
    for curve in curves:
        of_panel.setdefault((curve.of, curve.name), []).append(curve)
    are_few = sum(of == "class" for of, _ in of_panel) <= FEW
    for (of, name), of_name in of_panel.items():
        lines = []
        for curve in of_name:
            values = curve.precision
            if np.isnan(values).all():
                continue
            mean, low, high = values.mean(axis=0), values.min(axis=0), values.max(axis=0)
            lines.append(Line(curve.run, recalls, mean, low, high))
            about = {"of": of, "name": name, "run": curve.run, "seeds": len(values)}
            columns = zip(*(column.tolist() for column in (recalls, mean, low, high)), strict=True)
            rows += [about | dict(zip(("recall", "precision", "least", "most"), row, strict=True)) for row in columns]
        if lines and (of == "mean" or are_few):
            title = name if of == "class" else f"Mean: {name}"
            axes = {"x_label": "recall", "y_label": "precision", "x_range": (0.0, 1.0), "y_range": (0.0, 1.02)}
            panels.append(Panel(title, lines, **axes))
    return line_chart(panels, columns=min(4, len(panels) or 1), height=1.5), rows


# ---- files and words


def write(drawn: Figure, rows: Rows, folder: Path) -> None:
    """figure.png, figure.svg and figure.csv."""
    save(drawn, folder)
    write_cells(folder / "figure.csv", rows, None if rows else ["nothing"])


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path, page_checksum_verification=True)
    except (ValueError, OSError) as error:  # pyarrow's errors are of these
        raise ValueError(f"{path}: cannot be read ({error}). Is it cut off? Run `rmlr separation` again") from error


def _number(text: str) -> str:
    return "-" if text in ("", "nan") else f"{float(text):.2f}"
