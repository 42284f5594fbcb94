"""The shared records of the package: human-object interactions (`words`), their tensors (`batch`), boxes.

`batch` and `boxes` need torch and are imported explicitly; the records and scoring work without it.
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
