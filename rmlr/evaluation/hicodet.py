"""HICO-DET's mean AP, Default and Known Object, by the rules of the official program (ywchao/ho-rcnn, `eval_one.m`).

A class is an HOI, a (verb, object class). Every detection of a class is compared with the annotated pair of that class
in its image with the largest min(IoU of humans, IoU of objects). It is a true positive if that value is at least one
half and no higher scored detection was matched to the same pair, otherwise a false positive. All images count, also
those without a visible annotation.

For a class with object o, Known Object keeps only the detections in images that contain o. Officially this is HICO's
image-level label (`image_objects`); if that is not given, an annotated (visible) pair of o is used. The official set of
images is never smaller, so the official value is at most the other one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from rmlr.evaluation.average_precision import known_mean, rank_by_score
from rmlr.evaluation.matching import (
    MIN_IOU,
    Headline,
    Ranking,
    best_candidate,
    first_claims,
    image_of_rows,
    join_annotations,
    overlap,
)
from rmlr.hoi import Annotation, Triplets, Vocabulary, full_of

PIXEL = 0  # both sides are edges, x2 - x1 wide: the same as the official boxes, 1-based with both corners inside


@dataclass(frozen=True, slots=True, eq=False)
class HoiScores:
    """11-point AP of every HOI class, as fractions, by the official recall grid (`step`) and by UPT's (`linspace`)."""

    names: tuple[str, ...]  # "ride bicycle"
    is_rare: Bool[np.ndarray, " h"]
    default: Float[np.ndarray, " h"]
    known_object: Float[np.ndarray, " h"]
    default_linspace: Float[np.ndarray, " h"]
    known_object_linspace: Float[np.ndarray, " h"]
    positives: Int[np.ndarray, " h"]
    detections: Int[np.ndarray, " h"]
    known_object_detections: Int[np.ndarray, " h"]
    dropped: int  # rows whose verb and object class are not an HOI of the dataset
    is_image_level: bool  # Known Object uses HICO's image-level labels, not visible pairs
    is_unseen: Bool[np.ndarray, " h"]  # by a zero-shot split; False everywhere without one

    def metrics(self) -> dict[str, float]:
        """Plain means over all, rare and other classes, and the numbers of classes; NaN for an empty set.

        With a zero-shot split, also over its seen and its unseen classes. They use the official recall grid, `step`,
        unless a key ends in `_linspace`.
        """
        metrics = {}
        rare_classes = int(self.is_rare.sum())
        for grid in ("", "_linspace"):
            for setting in ("default", "known_object"):
                ap = getattr(self, setting + grid)
                full, rare, nonrare = (known_mean(ap[which]) for which in (slice(None), self.is_rare, ~self.is_rare))
                assert not len(ap) or abs(full - full_of(rare, nonrare, rare_classes, len(ap) - rare_classes)) < 1e-9
                metrics[f"hicodet_{setting}_full{grid}"] = full
                metrics[f"hicodet_{setting}_rare{grid}"] = rare
                metrics[f"hicodet_{setting}_nonrare{grid}"] = nonrare
                if self.is_unseen.any():
                    metrics[f"hicodet_{setting}_seen{grid}"] = known_mean(ap[~self.is_unseen])
                    metrics[f"hicodet_{setting}_unseen{grid}"] = known_mean(ap[self.is_unseen])
        metrics["hicodet_known_object_image_level"] = float(self.is_image_level)
        metrics["hicodet_classes"] = float(len(self.names))
        metrics["hicodet_rare_classes"] = float(rare_classes)
        if self.is_unseen.any():
            metrics["hicodet_unseen_classes"] = float(self.is_unseen.sum())
        metrics["hicodet_classes_with_positives"] = float((self.positives > 0).sum())
        metrics["hicodet_dropped_rows"] = float(self.dropped)
        return metrics

    def summary(self) -> str:
        """The headline metrics with their protocol, in a few lines."""
        metrics = self.metrics()
        images = (
            "HICO's image-level labels" if self.is_image_level else "visible pairs, so at least the official figure"
        )
        lines = [
            f"{title}: {metrics[f'hicodet_{setting}_full']:.2%} full, {metrics[f'hicodet_{setting}_rare']:.2%} rare, "
            f"{metrics[f'hicodet_{setting}_nonrare']:.2%} non-rare"
            for title, setting in (("Default", "default"), (f"Known Object (by {images})", "known_object"))
        ]
        if self.is_unseen.any():
            lines += [
                f"{title}: {metrics[f'hicodet_{setting}_full']:.2%} full, "
                f"{metrics[f'hicodet_{setting}_seen']:.2%} seen, "
                f"{metrics[f'hicodet_{setting}_unseen']:.2%} unseen ({self.is_unseen.sum()} classes)"
                for title, setting in (("Zero-shot, Default", "default"), ("Zero-shot, Known Object", "known_object"))
            ]
        return (
            f"11-point AP on the official recall grid ('step'), mean over {len(self.names)} classes, of which "
            f"{metrics['hicodet_classes_with_positives']:.0f} have a positive; {'; '.join(lines)}. "
            f"On UPT's grid ('linspace') Default is {metrics['hicodet_default_full_linspace']:.2%} full. "
            f"{self.dropped} rows whose verb and object make no class were dropped"
        )

    def columns(self) -> dict[str, Sequence]:
        """The columns of a table with one row per class."""
        return {
            "hoi": self.names,
            "is_rare": self.is_rare.tolist(),
            **({"is_unseen": self.is_unseen.tolist()} if self.is_unseen.any() else {}),
            "default": self.default.tolist(),
            "known_object": self.known_object.tolist(),
            "default_linspace": self.default_linspace.tolist(),
            "known_object_linspace": self.known_object_linspace.tolist(),
            "positives": self.positives.tolist(),
            "detections": self.detections.tolist(),
            "known_object_detections": self.known_object_detections.tolist(),
        }


@dataclass(frozen=True, slots=True, eq=False)
class TruePairs:
    """The annotated pairs of all images, grouped by class and image, each group in annotation order."""

    group: Int[np.ndarray, " g"]  # class x number of images + image, ascending
    human_boxes: Float[np.ndarray, "g 4"]
    object_boxes: Float[np.ndarray, "g 4"]
    positives: Int[np.ndarray, " h"]
    holds_object: Bool[np.ndarray, "b o"]  # Known Object's images


def evaluate(
    annotations: Sequence[Annotation],
    vocabulary: Vocabulary,
    triplets: Triplets,
    image_objects: Mapping[int, Sequence[int]] | None = None,
    unseen: Sequence[int] = (),
) -> HoiScores:
    """Scores of a table of triplets in both settings, over all images of `annotations`.

    `image_objects` has the objects of each image by HICO's image-level labels. As in the official program, a class
    without a positive has AP 0 and is included in the means; the test set has no such class. `unseen` has the classes
    that a zero-shot split excludes from training.
    """
    default, known_object = rank(annotations, vocabulary, triplets, image_objects, unseen)
    return HoiScores(
        names=default.names,
        is_rare=np.isin(np.arange(len(default.names)), vocabulary.rare),
        default=default.average_precision(),
        known_object=known_object.average_precision(),
        default_linspace=default.average_precision("linspace"),
        known_object_linspace=known_object.average_precision("linspace"),
        positives=default.positives(),
        detections=default.detections(),
        known_object_detections=known_object.detections(),
        dropped=len(triplets.verb) - len(default.row_class),
        is_image_level=image_objects is not None,
        is_unseen=np.isin(np.arange(len(default.names)), unseen),
    )


def rank(
    annotations: Sequence[Annotation],
    vocabulary: Vocabulary,
    triplets: Triplets,
    image_objects: Mapping[int, Sequence[int]] | None = None,
    unseen: Sequence[int] = (),
) -> tuple[Ranking, Ranking]:
    """The matched rankings of Default and Known Object, for AP and for resampling. Rows of no class are dropped."""
    image, truth = image_of_rows(triplets, annotations), gather_pairs(annotations, vocabulary, image_objects)
    hoi = vocabulary.hoi_of[triplets.object_category, triplets.verb]
    is_class = np.flatnonzero(hoi >= 0)
    ranked = is_class[rank_by_score(hoi[is_class], image[is_class], triplets.score[is_class])]
    hoi, image = hoi[ranked], image[ranked]
    is_hit = _judge(truth, hoi * len(annotations) + image, triplets, ranked)
    is_known = truth.holds_object[image, triplets.object_category[ranked]]
    positive_class, positive_image = np.divmod(truth.group, max(len(annotations), 1))
    is_rare, is_unseen = (np.isin(np.arange(len(vocabulary.hois)), some) for some in (vocabulary.rare, unseen))
    sets = {"full": np.ones_like(is_rare), "rare": is_rare, "nonrare": ~is_rare}
    sets |= {"seen": ~is_unseen, "unseen": is_unseen} if len(unseen) else {}

    def setting(name: str, title: str, counts: np.ndarray) -> Ranking:
        return Ranking(
            names=tuple(f"{vocabulary.verbs[verb]} {vocabulary.objects[object_]}" for verb, object_ in vocabulary.hois),
            headlines=tuple(
                Headline(f"hicodet_{name}_{part}", f"{title} {part.replace('nonrare', 'non-rare')}", classes)
                for part, classes in sets.items()
            ),
            interpolation="step",
            without_positive=0.0,
            row_class=hoi[counts],
            row_image=image[counts],
            is_hit=is_hit[counts],
            positive_class=positive_class,
            positive_image=positive_image,
        )

    by_pairs = " (visible pairs)" if image_objects is None else ""
    return (
        setting("default", "Default", np.ones_like(is_known)),
        setting("known_object", f"Known Object{by_pairs}", is_known),
    )


def _judge(truth: TruePairs, group: np.ndarray, triplets: Triplets, ranked: np.ndarray) -> np.ndarray:
    """Whether each ranked row of `triplets` is a true positive; `group` is its class and image, as in `truth`."""
    first = np.searchsorted(truth.group, group)
    count = np.searchsorted(truth.group, group, side="right") - first
    human_boxes, object_boxes = triplets.human_boxes[ranked], triplets.object_boxes[ranked]

    def pair_iou(rows: np.ndarray, pairs: np.ndarray) -> np.ndarray:
        human_iou = overlap(human_boxes[rows], truth.human_boxes[pairs], pixel=PIXEL)
        return np.minimum(human_iou, overlap(object_boxes[rows], truth.object_boxes[pairs], pixel=PIXEL))

    pair, similarity = best_candidate(first, count, pair_iou)
    return first_claims(np.where(similarity >= MIN_IOU, pair, -1))


def gather_pairs(
    annotations: Sequence[Annotation], vocabulary: Vocabulary, image_objects: Mapping[int, Sequence[int]] | None
) -> TruePairs:
    """The annotated pairs of every class, and the objects of each image: those labelled, or those of the pairs.

    Raises ValueError on an annotated (verb, object class) that is not in the vocabulary.
    """
    known = join_annotations(annotations)
    human, verb, object_ = known.interactions.T
    image, labels = known.image[human], known.labels[object_]
    hoi = vocabulary.hoi_of[labels, verb]
    if (hoi < 0).any():
        wrong = int(np.argmax(hoi < 0))
        raise ValueError(
            f"image {annotations[image[wrong]].image_id}: '{vocabulary.verbs[verb[wrong]]}' of "
            f"'{vocabulary.objects[labels[wrong]]}' is annotated but is no class of the vocabulary. "
            "Are annotations and vocabulary of one release?"
        )
    group = hoi * len(annotations) + image
    order = np.argsort(group, kind="stable")
    if image_objects is not None:
        holds_object = labelled_objects(annotations, image_objects, len(vocabulary.objects))
    else:
        holds_object = np.zeros((len(annotations), len(vocabulary.objects)), dtype=bool)
        holds_object[image, labels] = True
    return TruePairs(
        group=group[order],
        human_boxes=known.boxes[human[order]],
        object_boxes=known.boxes[object_[order]],
        positives=np.bincount(hoi, minlength=len(vocabulary.hois)),
        holds_object=holds_object,
    )


def labelled_objects(
    annotations: Sequence[Annotation], image_objects: Mapping[int, Sequence[int]], num_objects: int
) -> Bool[np.ndarray, "b o"]:
    """True if an image contains an object. ValueError if an image is not among the labelled ones."""
    holds_object = np.zeros((len(annotations), num_objects), dtype=bool)
    for row, annotation in zip(holds_object, annotations, strict=True):
        if annotation.image_id not in image_objects:
            raise ValueError(
                f"image {annotation.image_id} is not among the {len(image_objects)} whose objects are labelled. Are "
                "annotations and labels of one split?"
            )
        row[list(image_objects[annotation.image_id])] = True
    return holds_object
