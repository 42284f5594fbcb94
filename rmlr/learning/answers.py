"""The results of a model for a picture: triplets, the maps behind each of them, and drawings of both."""

import io
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

import numpy as np
from jaxtyping import Float
from PIL import Image

from rmlr.data.images import as_people_see
from rmlr.report.pictures import draw_phrases, draw_weights, sheet
from rmlr.study.files import printable

if TYPE_CHECKING:
    import pandas as pd

Picture: TypeAlias = str | Path | Image.Image | np.ndarray  # an array is height x width x 3, uint8, RGB

MIN_SCORE = 0.1  # default threshold for people who read the results
SHOWN = 5  # default number of triplets on a picture

Box = tuple[float, float, float, float]
EDGES = ("x1", "y1", "x2", "y2")
COLUMNS: dict[str, type] = {  # of a table of triplets
    **dict.fromkeys((f"{who}_{edge}" for who in ("human", "object") for edge in EDGES), float),
    **dict.fromkeys(("object", "verb", "phrase"), str),
    **dict.fromkeys(("score", "human_score", "object_score"), float),
}
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Triplet:
    """One interaction found in a picture. Boxes are `xyxy` in pixels of the picture as viewers show it."""

    human_box: Box
    object_box: Box
    object: str
    verb: str  # as in the vocabulary; for V-COCO action and role: "hit instr"
    phrase: str  # "person hit with bat"
    score: float
    human_score: float  # the detector's
    object_score: float

    def row(self) -> dict[str, float | str]:
        """The triplet as a row of a table with the columns `COLUMNS`."""
        row: dict[str, float | str] = {}
        for who, box in (("human", self.human_box), ("object", self.object_box)):
            row |= {f"{who}_{edge}": at for edge, at in zip(EDGES, box, strict=True)}
        return row | {name: getattr(self, name) for name in COLUMNS if name not in row}

    def __str__(self) -> str:
        human, object_ = (",".join(f"{edge:.0f}" for edge in box) for box in (self.human_box, self.object_box))
        return f"{self.score:.2f} {self.phrase} [{human}] [{object_}]"


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Where a triplet comes from: two maps of weights over the cells of the backbone's map, each with sum 1.

    `remined` shows where the cue m comes from (`InteractiveRelationEncoder.attention`), `detected` where the detector
    read the two instances: the mean of their queries' last cross-attentions (`FrozenDetector.attention`).
    """

    triplet: Triplet
    remined: Float[np.ndarray, "h w"]
    detected: Float[np.ndarray, "h w"]
    cell_size: tuple[float, float]  # height and width of a cell in pixels of the picture; the last may extend beyond it


class _OfPicture(list[Item], Generic[Item], ABC):
    """The results of one picture, highest score first. The picture is stored as given: a path is read again."""

    picture: Picture
    min_score: float

    def __init__(self, items: Iterable[Item], picture: Picture, min_score: float) -> None:
        super().__init__(items)
        self.picture, self.min_score = picture, min_score

    def __str__(self) -> str:
        return "\n".join(map(str, self)) or f"nothing of score {self.min_score:g} or more"

    @abstractmethod
    def draw(self) -> Image.Image:
        """The picture with all results drawn on it."""

    def _repr_png_(self) -> bytes:
        """The representation in notebooks."""
        content = io.BytesIO()
        self.draw().save(content, format="PNG")
        return content.getvalue()


class Answer(_OfPicture[Triplet]):
    """The triplets of one picture, highest score first: a list that can be drawn, printed, or converted to a table."""

    def draw(self, top: int = SHOWN, title: str | None = None, *, lines: int = 0) -> Image.Image:
        """The picture with its `top` highest-scoring triplets: numbered boxes, and their phrases below.

        The title is `title`, or the name of the file that the picture was read from. There is space for `lines` phrases
        at least.
        """
        check_limits(top=top)
        if title is None:
            title = printable(Path(self.picture).name) if isinstance(self.picture, str | Path) else ""
        if not self:
            title = f"{title}: {self}" if title else str(self)
        shown = self[:top]
        human_boxes, object_boxes = (
            np.array([getattr(triplet, name) for triplet in shown], dtype=np.float64).reshape(-1, 4)
            for name in ("human_box", "object_box")
        )
        texts = [f"{triplet.phrase} {triplet.score:.2f}" for triplet in shown]
        return draw_phrases(upright(self.picture), human_boxes, object_boxes, texts, title, lines=lines)

    def frame(self) -> "pd.DataFrame":
        """A table with a row for each triplet and the columns of `COLUMNS`; empty without triplets."""
        import pandas as pd

        return pd.DataFrame([triplet.row() for triplet in self], columns=list(COLUMNS)).astype(COLUMNS)


class Traces(_OfPicture[Trace]):
    """The traces of one picture's triplets, highest score first: a list that can be drawn."""

    def __str__(self) -> str:
        return "\n".join(str(trace.triplet) for trace in self) or super().__str__()

    def draw(self) -> Image.Image:
        """One row per pair (the verbs of a pair share its maps): the re-mined cue on the left, the detector on the
        right.

        ValueError if there is nothing to draw.
        """
        if not self:
            raise ValueError(f"{self}, so there is no map to draw. Use a smaller min_score, or another picture")
        picture = upright(self.picture)
        pairs: dict[tuple[Box, Box], list[Trace]] = {}
        for trace in self:
            pairs.setdefault((trace.triplet.human_box, trace.triplet.object_box), []).append(trace)
        pages = []
        for (human_box, object_box), of_pair in pairs.items():
            title = ", ".join(f"{trace.triplet.phrase} {trace.triplet.score:.2f}" for trace in of_pair)
            maps = {"re-mined cue": of_pair[0].remined, "detector": of_pair[0].detected}
            pages.append(draw_weights(picture, human_box, object_box, maps, of_pair[0].cell_size, title))
        return sheet(pages, columns=1)


# ---- checks of the input


def upright(picture: object, where: str = "the picture") -> Image.Image:
    """A picture in RGB, rotated as viewers show it. ValueError for an invalid one names its path, or `where`."""
    if isinstance(picture, str | Path):
        return as_people_see(Path(picture))
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
            raise ValueError(
                f"{where} is an array of {picture.dtype} of shape {picture.shape}. Expected uint8 of shape (height, "
                "width, 3): red, green and blue in 0..255. From OpenCV, whose order is the reverse: array[..., ::-1]"
            )
        return Image.fromarray(picture)
    if not isinstance(picture, Image.Image):
        raise ValueError(
            f"{where} is of type {type(picture).__module__}.{type(picture).__name__}. Expected a path, a Pillow image, "
            "or an array of uint8 of shape (height, width, 3); for several, a list of these"
        )
    if 0 in picture.size:
        raise ValueError(f"{where} is a Pillow image of {picture.height} x {picture.width} pixels (height, width)")
    return as_people_see(picture)


def check_limits(
    *,
    min_score: float = MIN_SCORE,
    top: int | None = None,
    prior_power: float | None = None,
    batch_size: int | None = None,
) -> None:
    """ValueError if a number given by the user is out of range."""
    if not 0 <= min_score <= 1:
        raise ValueError(f"min_score (--min-score) is {min_score}: expected a number from 0 to 1")
    if top is not None and top < 1:
        raise ValueError(f"top (--top) is {top}: expected a whole number of at least 1")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size (--batch-size) is {batch_size}: expected a whole number of at least 1")
    if prior_power is not None and not 0 < prior_power < math.inf:
        raise ValueError(
            f"prior_power (--prior-power) is {prior_power}: expected a number above 0, such as 2.8. Scores contain the "
            "detector's confidence to this power"
        )
