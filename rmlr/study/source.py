"""Which code a stage runs, as a digest in its settings file: who changes `evaluate` retrains nothing.

And where the user's own code lies that params.yaml names.
"""

import ast
import hashlib
import io
import sys
import tokenize
from collections.abc import Collection, Iterator
from functools import cache
from importlib import invalidate_caches
from importlib.util import find_spec
from pathlib import Path

from rmlr.study.settings import Variant
from rmlr.study.threads import THREADS

PACKAGE = Path(__file__).parents[1]

# What changes no number: the version, what surrounds a stage, the types of a settings file, whose content counts
# anyway, the check of tensors, which accepts or refuses them, and AP on val by epoch and estimates, on which no weight
# depends. After a change of how `rmlr.study.run` seeds, the results must be removed by hand.
_TYPES = ("plain_yaml", "section", "settings", "frozen", "encoder", "figures", "params", "nodes", "plan")
_AROUND = ("content", "current", "device", "folder", "identity", "made", "output", "provenance", "run", "threads")
_CHECKS = ("source", "tensors")
_TRACKER = ("tracking", "store", "views")
_ASIDE = ("rmlr.learning.estimate", "rmlr.learning.held_out")
NOT_COUNTED = ("rmlr", *_ASIDE, *(f"rmlr.study.{name}" for name in (*_TYPES, *_AROUND, *_CHECKS, *_TRACKER)))


def code_digest(stage: str, without: Collection[str] = ()) -> str:
    """What a stage's module and all that it imports of ours say, comments, docstrings and blank lines left out.

    `without` are modules that this call of the stage does not run (`not_run`).
    """
    text = f"threads: {THREADS.get(stage)}\n"  # how many is a part of the arithmetic
    text += "".join(f"{path.relative_to(PACKAGE)}\n{_read(path)[0]}\n" for path in stage_files(stage, without))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def stage_files(stage: str, without: Collection[str] = ()) -> list[Path]:
    """The files of ours that a stage runs, in order of their names; imports inside functions count as well.

    A command that the study runs (`cost`) is as good as a stage. Modules `without` which it runs are not followed.
    """
    found: dict[str, Path] = {}
    waiting = [f"rmlr.commands.{stage}" if _file(f"rmlr.commands.{stage}") else f"rmlr.stages.{stage}"]
    while waiting:
        module = waiting.pop()
        path = _file(module)
        if path is None:
            raise ValueError(f"{PACKAGE}: there is no module '{module}', which stage '{stage}' needs")
        if module not in found and module not in NOT_COUNTED and module not in without:
            found[module] = path
            waiting += [*_read(path)[1], module.rpartition(".")[0]]
    return sorted(found.values())


def not_run(variant: Variant, *, learns: bool, online: bool) -> frozenset[str]:
    """The modules that are loaded but not run where a run of a variant is trained (`learns`), or its weights are used.

    Whatever is not listed here counts; tests run every variant and see that nothing of these modules was called.
    """
    unused = set()
    if variant.network != "upt":
        unused.add("rmlr.model.upt")
    if not (variant.aligns and learns):
        unused |= {"rmlr.model.align", "rmlr.model.text", "rmlr.model.encoders"}
    if not online:
        unused.add("rmlr.learning.photos")
    return frozenset(unused)


def class_file(python: str) -> Path:
    """The file of a class by its import path; ValueError where there is none. The current folder is importable.

    Relative to the current folder where it lies below it, which is the checkout that holds params.yaml.
    """
    module, here = python.rpartition(".")[0], Path.cwd()
    if str(here) not in sys.path:
        sys.path.append(str(here))
    invalidate_caches()  # of what was not there before
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None:
        raise ValueError(
            f"{python}: there is no module '{module}' in {here}, nor is it installed. Run from the checkout whose "
            "params.yaml names it, or add its folder to PYTHONPATH"
        )
    path = Path(spec.origin)
    return path.relative_to(here) if path.is_relative_to(here) else path


def has_class_file(python: str) -> bool:
    """Whether `class_file` finds it."""
    try:
        class_file(python)
    except ValueError:
        return False
    return True


def _file(module: str) -> Path | None:
    path = PACKAGE.parent.joinpath(*module.split("."))
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((candidate for candidate in candidates if candidate.is_file()), None)


@cache
def _read(path: Path) -> tuple[str, list[str]]:
    """A module without what only people read, and the modules of ours that it imports."""
    text = path.read_text()
    tree = ast.parse(text, filename=str(path))
    imports = []
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            imports += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            imports += [node.module, *(name for name in names if name.startswith("rmlr.") and _file(name))]
    return _code_only(text, tree), [name for name in imports if name.split(".")[0] == "rmlr"]


def _statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """All statements, those within others as well, without a look at what they are made of: most of a walk's time."""
    waiting: list[ast.AST] = [tree]
    for node in waiting:
        if isinstance(node, ast.stmt):
            yield node
        for block in ("body", "orelse", "handlers", "cases", "finalbody"):
            waiting += getattr(node, block, [])


def _code_only(text: str, tree: ast.Module) -> str:
    """By line and column, not by `ast.unparse`, whose output differs between versions of Python."""
    lines = text.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in _statements(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            first, last = node.lineno - 1, node.end_lineno or node.lineno
            if not lines[first][: node.col_offset].strip():
                lines[first:last] = [""] * (last - first)
    return "\n".join(line.rstrip() for line in lines if line.strip())
