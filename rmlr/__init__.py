"""RmLR (Cao et al., ICCV 2023), reproduced: human-object interaction detection guided by language.

What can be done from Python (docs/python.md shows each):

    import rmlr

    model = rmlr.load("results/demo/runs/shared/rmlr/0")       # a trained run, or a folder from `rmlr export`
    answer = model("photo.jpg")                                # a path, a Pillow image, an array, or a list of them
    for triplet in answer:                                     # highest score first
        print(triplet)                                         # 0.61 person kick box [62,60,94,114] [94,84,107,95]
    answer.draw().save("drawn.png")                            # the picture with its boxes; notebooks show it
    model.trace("photo.jpg").draw()                            # where the model looked

    test = rmlr.read_annotations("results/demo/vcoco/prepare", "test")    # classes and annotated images
    metrics = rmlr.evaluate("mine.parquet", test)              # detections of any method: a path, a data frame, records
    print(metrics, metrics["vcoco_ap_role_1"])
    print(rmlr.compare("results/demo/runs/shared/rmlr", "results/demo/runs/table2/wo_cl"))  # better, or noise?

The names below are imported when they are first used, so `import rmlr` takes no time. The stages of the study are
commands (`rmlr --help`); their modules are internal and may change.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rmlr.hoi import Agents, Annotation, Triplets, Vocabulary
    from rmlr.learning.answers import Answer, Trace, Traces, Triplet
    from rmlr.learning.benchmark import Benchmark, Metrics, evaluate, read_annotations
    from rmlr.learning.comparison import ComparedRuns, compare
    from rmlr.learning.inference import Model, load

__version__ = "0.1.0"

__all__ = [
    "Agents",
    "Annotation",
    "Answer",
    "Benchmark",
    "ComparedRuns",
    "Metrics",
    "Model",
    "Trace",
    "Traces",
    "Triplet",
    "Triplets",
    "Vocabulary",
    "compare",
    "evaluate",
    "load",
    "read_annotations",
]

_MODULES = {
    "rmlr.hoi": ("Agents", "Annotation", "Triplets", "Vocabulary"),
    "rmlr.learning.answers": ("Answer", "Trace", "Traces", "Triplet"),
    "rmlr.learning.benchmark": ("Benchmark", "Metrics", "evaluate", "read_annotations"),
    "rmlr.learning.comparison": ("ComparedRuns", "compare"),
    "rmlr.learning.inference": ("Model", "load"),
}


def __getattr__(name: str) -> Any:
    """A name of `__all__`, from the module that it is defined in."""
    for module, names in _MODULES.items():
        if name in names:
            return globals().setdefault(name, getattr(import_module(module), name))
    raise AttributeError(f"module 'rmlr' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])
