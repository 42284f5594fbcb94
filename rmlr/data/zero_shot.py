"""Zero-shot splits of HICO-DET: which classes are left out of training, and then scored separately.

The four splits of the field, as GEN-VLKT (YueLiao/gen-vlkt, datasets/hico_text_label.py), HOICLIP and others use them;
the two of unseen compositions were published with VCL (Hou et al., ECCV 2020):

rare_first       120 unseen compositions, starting with the rarest; every verb and every object is seen in another class
non_rare_first   120 unseen compositions, starting with the most frequent; likewise
unseen_object    12 objects with their 100 classes
unseen_verb      20 verbs with their 84 classes
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from rmlr.data.records import load_annotations, load_vocabulary
from rmlr.hoi import Annotation, Vocabulary
from rmlr.study.section import ZeroShot

RELEASE = (600, 80, 117)  # classes, objects and verbs of HICO-DET, in whose order the numbers below are
SHARE = 5  # one class in so many is an unseen composition: 120 of 600

# Numbers of classes from 0, as published, ascending. They were chosen by counts of the training rows.
PUBLISHED = {
    "rare_first": (
        *(8, 22, 27, 44, 50, 55, 62, 66, 70, 76, 77, 80, 83, 84, 90, 99, 100, 104, 107, 127, 135, 136, 149, 158, 168),
        *(179, 181, 184, 188, 189, 192, 195, 198, 205, 206, 216, 222, 229, 238, 239, 254, 255, 257, 260, 261, 262),
        *(274, 279, 280, 281, 286, 289, 292, 303, 311, 315, 317, 325, 333, 334, 345, 350, 351, 354, 358, 364, 379),
        *(381, 389, 390, 391, 395, 397, 398, 399, 401, 402, 403, 405, 407, 410, 416, 418, 427, 429, 436, 439, 440),
        *(449, 463, 469, 474, 482, 485, 498, 499, 504, 509, 517, 520, 522, 526, 531, 535, 539, 546, 547, 548, 552),
        *(555, 556, 560, 581, 586, 592, 593, 595, 596, 597, 599),
    ),
    "non_rare_first": (
        *(6, 7, 9, 11, 18, 19, 20, 23, 25, 29, 38, 41, 42, 45, 48, 53, 54, 56, 60, 61, 64, 67, 73, 75, 89, 91, 93, 94),
        *(106, 110, 115, 131, 139, 140, 141, 146, 152, 153, 154, 155, 159, 162, 163, 169, 173, 176, 185, 190, 191),
        *(193, 197, 208, 212, 215, 218, 223, 226, 228, 230, 240, 245, 246, 248, 249, 250, 266, 284, 294, 297, 304),
        *(308, 312, 320, 323, 329, 337, 338, 340, 346, 370, 371, 374, 377, 383, 385, 387, 417, 446, 455, 456, 457),
        *(459, 461, 470, 471, 472, 478, 479, 480, 481, 483, 493, 506, 508, 515, 516, 518, 529, 534, 544, 559, 566),
        *(572, 575, 576, 577, 582, 583, 589, 594),
    ),
}
OBJECTS = (
    *("baseball_bat", "clock", "dog", "elephant", "frisbee", "pizza", "refrigerator", "skateboard", "skis"),
    *("tennis_racket", "toothbrush", "zebra"),
)
VERBS = (
    *("block", "dribble", "feed", "herd", "hose", "inspect", "install", "move", "park", "ride", "sail", "scratch"),
    *("sign", "squeeze", "stab", "stop_at", "swing", "tag", "toast", "wear"),
)


def unseen_classes(
    zero_shot: ZeroShot | None, annotations: Path, vocabulary: Vocabulary | None = None
) -> tuple[int, ...]:
    """Numbers of the unseen classes of a split, ascending; empty if `zero_shot` is None.

    `annotations` is the folder that `prepare` wrote, `vocabulary` its vocabulary, if already read. For data other
    than the release, `compositions` selects unseen compositions. ValueError if the data set has no such split.
    """
    if zero_shot is None:
        return ()
    vocabulary = vocabulary or load_vocabulary(annotations)
    if vocabulary.dataset != "hicodet":
        raise ValueError(
            f"{annotations}: zero_shot is {zero_shot}, but this is V-COCO, and only HICO-DET has zero-shot splits"
        )
    if zero_shot in PUBLISHED:
        if tuple(map(len, (vocabulary.hois, vocabulary.objects, vocabulary.verbs))) == RELEASE:
            return PUBLISHED[zero_shot]
        rows = Counter[int]()
        for annotation in load_annotations(annotations, "trainval"):
            _, verbs, objects = annotation.interactions.T
            rows.update(vocabulary.hoi_of[annotation.labels[objects], verbs].tolist())
        return compositions(vocabulary, rows, rare_first=zero_shot == "rare_first")
    is_object = zero_shot == "unseen_object"
    names, unseen = (vocabulary.objects, OBJECTS) if is_object else (vocabulary.verbs, VERBS)
    if missing := [name for name in unseen if name not in names]:
        raise ValueError(
            f"{annotations}: zero_shot {zero_shot} leaves out {len(unseen)} names of HICO-DET, and '{missing[0]}' is "
            "not in this data set. Take rare_first or non_rare_first, which any data set has"
        )
    parts = [object_ if is_object else verb for verb, object_ in vocabulary.hois]
    return tuple(number for number, part in enumerate(parts) if names[part] in unseen)


def only_classes(annotation: Annotation, vocabulary: Vocabulary) -> Annotation:
    """An image's annotation without the rows whose (verb, object) is not in the vocabulary; boxes are kept.

    Differs: of a pair with seen and unseen interactions we keep the seen ones, and the unseen ones take no part in the
    loss, where GEN-VLKT leaves out the pair; in HICO-DET each row has boxes of its own.
    """
    _, verbs, objects = annotation.interactions.T
    is_class = vocabulary.is_valid_verb[annotation.labels[objects], verbs]
    return replace(annotation, interactions=annotation.interactions[is_class])


def compositions(vocabulary: Vocabulary, rows: Mapping[int, int], *, rare_first: bool) -> tuple[int, ...]:
    """A fifth of the classes, ascending, starting with the rarest or the most frequent by training `rows`.

    A class is skipped if no seen class would be left with its verb or its object. Classes with equally many rows are
    taken in their order.
    """
    order = sorted(range(len(vocabulary.hois)), key=lambda hoi: rows.get(hoi, 0) * (1 if rare_first else -1))
    verbs, objects = (Counter(hoi[part] for hoi in vocabulary.hois) for part in (0, 1))
    unseen: list[int] = []
    for hoi in order:
        verb, object_ = vocabulary.hois[hoi]
        if len(unseen) < len(order) // SHARE and verbs[verb] > 1 and objects[object_] > 1:
            unseen.append(hoi)
            verbs[verb] -= 1
            objects[object_] -= 1
    return tuple(sorted(unseen))
