"""UPT's own modules, imported from checkouts of fredzzhang/upt and fredzzhang/pocket; none of their code is copied."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace

from rmlr.hoi.boxes import xyxy_from_cxcywh


@contextmanager
def upt_modules(folder: Path) -> Iterator[SimpleNamespace]:
    """UPT, InteractionHead and ops, from `folder`/upt and `folder`/pocket; forgotten afterwards.

    UPT's submodule `detr` is not needed: it is replaced by names at import, and by two functions that UPT calls.
    """
    known, path = dict(sys.modules), list(sys.path)
    stands_in = {
        "util": {},
        "util.box_ops": {"box_cxcywh_to_xyxy": xyxy_from_cxcywh, "generalized_box_iou": None},
        "util.misc": {"nested_tensor_from_tensor_list": lambda images: images},
        "models": {"build_model": None},
    }
    try:
        for name, content in stands_in.items():
            sys.modules[name] = ModuleType(name)
            sys.modules[name].__dict__.update(content)
        sys.modules["util"].box_ops = sys.modules["util.box_ops"]  # pyright: ignore[reportAttributeAccessIssue]
        sys.path[:0] = [str(folder / "upt"), str(folder / "pocket")]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import interaction_head  # pyright: ignore[reportMissingImports]
            import ops  # pyright: ignore[reportMissingImports]
            import upt  # pyright: ignore[reportMissingImports]
        yield SimpleNamespace(UPT=upt.UPT, InteractionHead=interaction_head.InteractionHead, ops=ops)
    finally:
        sys.path[:] = path
        for name in stands_in:
            sys.modules.pop(name)
            if name in known:
                sys.modules[name] = known[name]
        for name in set(sys.modules) - set(known):
            if str(folder) in str(getattr(sys.modules[name], "__file__", None)):
                del sys.modules[name]
