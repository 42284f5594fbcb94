"""PCK: the percentage of correct key points (Yang and Ramanan 2013)."""

import numpy as np
from jaxtyping import Bool, Float


def pck(
    found: Float[np.ndarray, "n j 2"],
    true: Float[np.ndarray, "n j 2"],
    is_known: Bool[np.ndarray, "n j"],
    sides: Float[np.ndarray, " n"],
    share: float,
) -> float | None:
    """The share of known joints that are found within `share` of the longer side of their person's box.

    Hidden joints count like others. None if no joint is known.
    """
    distance = np.hypot(*np.moveaxis(found - true, 2, 0))
    is_right = distance <= share * sides[:, None]
    return float(is_right[is_known].mean()) if is_known.any() else None
