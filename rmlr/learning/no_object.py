""" "No object" in V-COCO's terms: a person does a verb whose object cannot be seen.

Scenario 1 requires that such a row is predicted without an object box. A network that scores pairs never says so.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from rmlr.hoi import NO_BOX, Annotation, Triplets, Vocabulary


def shares_without_object(annotations: Sequence[Annotation], vocabulary: Vocabulary) -> Float[np.ndarray, " v"]:
    """Of the annotated persons who do a verb, the share whose object has no box; 0 for a verb that nobody does.

    The verbs that are not scored come last. `annotations` are those of training.
    """
    number = len(vocabulary.verbs + vocabulary.unscored_verbs)
    rows = np.concatenate([np.zeros((0, 3), dtype=np.int64), *(one.interactions for one in annotations)])
    done = np.bincount(rows[:, 1], minlength=number)
    without = np.bincount(rows[rows[:, 2] == NO_BOX, 1], minlength=number)
    return without / np.maximum(done, 1)


def with_no_object(triplets: Triplets, shares: Float[np.ndarray, " v"]) -> Triplets:
    """For each person and verb, a further row that says "no object": four NaN.

    Its score is that of the person's highest scored pair with this verb, times the verb's share. So it is as probable
    as the verb and the lack of an object together, if a score is the probability of the verb and the lack does not
    depend on it. Verbs with a share of 0 get no row.
    """
    may = np.flatnonzero(shares[triplets.verb] > 0)
    may = may[np.argsort(-triplets.score[may], kind="stable")]
    keys = np.column_stack([triplets.image_id[may], triplets.human_boxes[may], triplets.verb[may]])
    _, first = np.unique(keys, axis=0, return_index=True)  # of each person and verb, that of the highest score
    best = np.sort(may[first])
    score = (triplets.score[best] * shares[triplets.verb[best]]).astype(triplets.score.dtype)
    return Triplets(
        image_id=np.concatenate([triplets.image_id, triplets.image_id[best]]),
        human_boxes=np.concatenate([triplets.human_boxes, triplets.human_boxes[best]]),
        object_boxes=np.concatenate([triplets.object_boxes, np.full_like(triplets.object_boxes[best], np.nan)]),
        object_category=np.concatenate([triplets.object_category, np.full_like(triplets.object_category[best], -1)]),
        verb=np.concatenate([triplets.verb, triplets.verb[best]]),
        score=np.concatenate([triplets.score, score]),
    )
