"""RmLR: re-mine, learn and reason (Cao et al., ICCV 2023), reproduced."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`rmlr.load` (`rmlr.learning.inference.load`): found when it is asked for, so that `import rmlr` stays light."""
    if name == "load":
        return import_module("rmlr.learning.inference").load
    raise AttributeError(f"module 'rmlr' has no attribute '{name}'")
