"""Whether A is better than B, or the difference is noise."""

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
    """Test whether A is better than B, or whether the difference is noise.

    Images of the split are drawn with replacement, the same for both, and both are scored on each such sample by the
    official protocol. The spread of the difference is the uncertainty from the choice of test images. If A and B both
    have several seeds, the spread between training runs is added. Prints a verdict on each headline metric, and the
    classes that differ most.

    Args:
        a: folder made by `evaluate`, its parent (a run of one seed), or the folder of several seeds.
        b: likewise; scored on the same images.
        samples: number of bootstrap samples.
        seed: of the bootstrap; the same seed gives the same numbers.
        out: JSON file for all numbers (fractions); replaces only a file that an earlier call wrote.
    """
    if out is not None:
        claim_file(out, "compare")
    compared = compare_runs(a, b, samples=samples, seed=seed)
    if out is not None:
        content = plain(signed("compare") | compared.as_json())
        write_whole(out, json.dumps(content, indent=2, allow_nan=False) + "\n")
    sys.stdout.write(f"{compared}\n")


def plain(value: Any) -> Any:
    """The same with null in place of NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
