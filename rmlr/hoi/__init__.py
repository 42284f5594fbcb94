"""The shared words of the package: records of human-object interaction (`words`), their tensors (`batch`), boxes.

`batch` and `boxes` need torch and are imported by name; the records do without it, and so does scoring.
"""

from rmlr.hoi.words import (
    NO_BOX,
    NO_INTERACTION,
    Agents,
    Annotation,
    Dataset,
    Phrase,
    Triplets,
    Vocabulary,
    full_of,
)

__all__ = [
    "NO_BOX",
    "NO_INTERACTION",
    "Agents",
    "Annotation",
    "Dataset",
    "Phrase",
    "Triplets",
    "Vocabulary",
    "full_of",
]
