"""Is A better than B, or is it noise?"""

import json
import math
import sys
from pathlib import Path
from typing import Any

from rmlr.learning.comparison import SAMPLES
from rmlr.learning.comparison import compare as compare_runs
from rmlr.study.files import write_whole
from rmlr.study.output import claim_file, signed


def compare(a: Path, b: Path, /, *, samples: int = SAMPLES, seed: int = 0, out: Path | None = None) -> None:
    """Tell whether A is better than B, or whether the difference is noise.

    Images of the split are drawn anew, with replacement and the same for both, and both are scored on each such set by
    the official protocol: how far the difference moves is what the choice of test images is worth. Where A and B both
    have several seeds, the spread between trainings is added. Prints a verdict on each headline metric, and the classes
    that differ most.

    Args:
        a: folder made by `evaluate`, one that holds it (a run of one seed), or one that holds those (a run of several).
        b: likewise; scored on the same images.
        samples: how many sets of images are drawn.
        seed: of the drawing; the same one gives the same numbers.
        out: JSON file to write with all numbers (fractions) besides; replaces only one that an earlier call wrote.
    """
    if out is not None:
        claim_file(out, "compare")
    compared = compare_runs(a, b, samples=samples, seed=seed)
    if out is not None:
        content = plain(signed("compare") | compared.as_json())
        write_whole(out, json.dumps(content, indent=2, allow_nan=False) + "\n")
    sys.stdout.write(f"{compared}\n")


def plain(value: Any) -> Any:
    """The same with null in the place of NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
