"""The cost of Table 4's networks on this machine, and estimates for training runs."""

import csv
import importlib
import io
import json
import logging
import math
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
import transformers

from rmlr.hoi import Vocabulary
from rmlr.learning.estimate import estimate
from rmlr.model.cost import Cost, Method, Scene, measure
from rmlr.model.detector import FrozenDetector
from rmlr.model.detr import random_detector
from rmlr.model.network import build
from rmlr.study.nodes import CostNode
from rmlr.study.output import claim_file, signed
from rmlr.study.plan import Study
from rmlr.study.run import run
from rmlr.study.settings import CostScene

log = logging.getLogger(__name__)

VARIANTS = {"DETR": None, "UPT": "upt", "RmLR": "rmlr"}  # variants of the table's methods
DEPTHS = {"ResNet-50": (3, 4, 6, 3), "ResNet-101": (3, 4, 23, 3)}  # blocks in the stages of the table's backbones
UNITS = {"macs_g": 1e9, "params_m": 1e6, "fps": 1.0}  # of the table's columns
DETR_CLASSES, OBJECTS, VERBS = 91, 80, 24  # of the published DETR's head; of V-COCO
POSSIBLE = {  # minimum and maximum of numeric flags
    "passes": (1, 10_000),
    "warmup": (0, 10_000),
    "steps": (1, 1_000_000),
    "side": (1, 8192),  # pixels; with more, attention maps alone exceed any memory
    "people": (0, 100),
    "things": (0, 100),
}
HEADS = {
    "method": "method",
    "backbone": "backbone",
    "macs_g": "MACs, G",
    "paper_macs_g": "paper",
    "macs_g_difference": "difference",
    "params_m": "parameters, M",
    "paper_params_m": "paper",
    "params_m_difference": "difference",
    "trained_params_m": "trained, M",
    "fps": "frames a second",
    "paper_fps": "paper",
    "fps_difference": "difference",
    "fps_by_detr": "by its DETR's",
    "paper_fps_by_detr": "paper",
}


def cost(
    *,
    rows: tuple[str, ...] = (),
    passes: int = 3,
    warmup: int = 1,
    precision: Literal["fp32", "bf16"] = "fp32",
    settings: Path | None = None,
    device: Literal["cpu", "cuda"] | None = None,
    side: int = 800,
    people: int = 5,
    things: int = 5,
    params: Path = Path("params.yaml"),
    profile: str = "paper",
    paper: Path = Path("paper/table4.csv"),
    train: Path | None = None,
    annotations: Path | None = None,
    features: Path | None = None,
    text: Path | None = None,
    pose: Path | None = None,
    images: Path | None = None,
    detector: Path | None = None,
    start: Path | None = None,
    steps: int = 10,
    out: Path | None = None,
) -> None:
    """Measure the cost of DETR, UPT and RmLR on this machine (Table 4); or, with --train, estimate a training run.

    MACs, parameters and photos per second, one photo at a time: from pixels to boxes (DETR), or to scored triplets.
    Weights are random and nothing is downloaded. RmLR's text branch is used in training only. The paper counts DETR's
    convolutions and feed-forward networks alone; our numbers by that count are below the table.

    With --train, some steps of the real `rmlr train` are run and timed, in a process and a temporary folder of their
    own; the table's flags have no effect. MACs of a photo tell what runs cost together: frozen networks count once.

    Args:
        rows: which rows: a method, a backbone, or both as in "RmLR ResNet-50"; all if left out.
        passes: timed passes of each row.
        warmup: passes before these, in addition to the one in which MACs are counted.
        precision: of the networks; bf16: mixed.
        settings: this node's settings file, which replaces the flags of the table. Only the study needs one.
        device: the device; by default a GPU if there is one.
        side: height and width of the photo, pixels.
        people: assumed number of people in the photo; COCO128's photos of people have 5, and 5 other objects.
        things: other objects, likewise.
        params: the study's parameters, for the sizes of the networks.
        profile: which of its profiles.
        paper: the paper's table (CSV).
        train: settings file of a training run, such as results/demo/settings/runs/shared/rmlr/0/train.yaml.
        annotations: of that run, as given to `rmlr train`.
        features: likewise.
        text: likewise.
        pose: likewise, of a run with the pose cue.
        images: likewise, of a run that is trained on photos.
        detector: likewise.
        start: likewise, of a run that starts from the weights of another.
        steps: training steps to run.
        out: table to write (CSV), which replaces only one that an earlier call wrote, and a .json with device,
            versions and all measurements. With --settings a folder: cost.csv, cost.json and, for `rmlr table`,
            metrics.json.
    """
    numbers = {"passes": passes, "warmup": warmup, "steps": steps, "side": side, "people": people, "things": things}
    _must_be_possible(numbers)
    where = _device(device)
    _must_fit(settings, out, train)
    inputs = {"annotations": annotations, "features": features, "text": text, "pose": pose, "start": start}
    inputs |= {"images": images, "detector": detector}
    named = {name: path for name, path in inputs.items() if path is not None}
    if train is not None:
        table, about = _of_training(train, named, steps)
    elif named:
        raise ValueError(f"--{next(iter(named))}: of a training run, whose settings --train must name")
    elif settings is not None and out is not None:
        _as_node(settings, out, paper, rows, where)
        return
    else:
        del numbers["steps"]
        scene = CostScene(sizes=profile, precision=precision, **numbers)
        table, about = _table(Study.load(params).cost_node(scene, "", "--profile"), paper, rows, where)
    if out is not None:
        _write(out, table, about)


def _must_be_possible(numbers: Mapping[str, int]) -> None:
    """ValueError unless each numeric flag is in its range."""
    for name, number in numbers.items():
        least, most = POSSIBLE[name]
        if not least <= number <= most:
            raise ValueError(f"--{name} {number}: expected a whole number from {least} to {most}")


def _must_fit(settings: Path | None, out: Path | None, train: Path | None) -> None:
    """ValueError unless these flags are compatible, and `out` may be written."""
    if settings is not None and (out is None or train is not None):
        raise ValueError(f"--settings {settings}: give --out, a folder, and not --train")
    if settings is None and out is not None:
        if out.suffix != ".csv":
            raise ValueError(f"--out {out}: a table (CSV); its name must end with .csv")
        claim_file(out.with_suffix(".json"), "cost")
        if not out.with_suffix(".json").exists():
            claim_file(out, "cost")


def _of_training(train: Path, named: Mapping[str, Path], steps: int) -> tuple[list[dict], dict[str, Any]]:
    """The estimated cost of a training run, as a table of one row, and the device; also printed."""
    needed = ("annotations", "text") if "images" in named else ("annotations", "features", "text")
    if missing := [f"--{name}" for name in needed if name not in named]:
        raise ValueError(f"--train {train}: give {', '.join(missing)} as well, as to `rmlr train`")
    found = estimate(importlib.import_module("rmlr.stages.train").train, train, named, steps)
    _print(str(found))
    return [asdict(found)], {"settings": str(train), **_machine(_device(None)), **asdict(found)}


def _as_node(settings: Path, out: Path, paper: Path, rows: Sequence[str], where: torch.device) -> None:
    """Measure as a node of the study, with the values of its settings file."""
    node = CostNode.load(settings)
    with run("cost", node, settings=settings, out=out, inputs=[paper]) as record:
        table, about = _table(node, paper, rows, where)
        _write(record.folder / "cost.csv", table, about)
        (record.folder / "metrics.json").write_text(json.dumps(_for_table(table, about), indent=2) + "\n")


# ---- Table 4

Row = tuple[str, str]  # method and backbone


def _table(node: CostNode, paper: Path, rows: Sequence[str], where: torch.device) -> tuple[list[dict], dict[str, Any]]:
    """The table, and how it was measured; also printed."""
    scene = Scene(node.cost.side, node.cost.people, node.cost.things)
    printed = _read_paper(paper)
    found = {row: _measure(row, node, scene, where) for row in _chosen(printed, rows)}
    detr = {backbone: _detector_seconds(found, backbone) for _, backbone in found}
    table = [_beside(row, printed, of_row, detr[row[1]]) for row, of_row in found.items()]
    about = _machine(where) | {"weights": "random"} | node.cost.model_dump() | {"pairs": scene.pairs}
    _print(_as_text(table, found, about))
    return table, about | {
        "rows": [{"method": row[0], "backbone": row[1], **asdict(of_row)} for row, of_row in found.items()]
    }


def _for_table(table: list[dict[str, str]], about: Mapping[str, Any]) -> dict[str, Any]:
    """The values that `rmlr table` puts next to the paper's numbers, row by row, and a note on them."""
    shares = "; ".join(
        f"{line['method']} with {line['backbone']} {line['fps_by_detr']} (paper: {line['paper_fps_by_detr']})"
        for line in table
        if line["method"] != "DETR"
    )
    how = (
        f"Ours: measured on {about['device']}, {about['threads']} thread(s), {about['precision']}; networks of profile "
        f"`{about['sizes']}` with random weights, one photo of {about['side']} x {about['side']} at a time with "
        f"{about['pairs']} pairs, median of {about['passes']} passes (of the detector's share: of all with its "
        "backbone). Photos a second depend on the machine; as a "
        f"share of the same DETR's they are: {shares}."
    )
    return {
        "rows": {f"{line['method']} {line['backbone']}": {c: float(line[c]) for c in UNITS} for line in table},
        "about": how,
    }


def _read_paper(path: Path) -> dict[Row, dict[str, str]]:
    """The paper's numbers as printed, row by row."""
    try:
        with path.open(newline="") as file:
            lines = list(csv.DictReader(file))
        printed = {(line["method"], line["backbone"]): {column: line[column] for column in UNITS} for line in lines}
        for number in (float(cell) for row in printed.values() for cell in row.values()):
            if not 0 < number < math.inf:
                raise ValueError(f"{number} is not a number above 0")
    except OSError as error:
        raise ValueError(
            f"{path}: cannot be read ({error.strerror}). Run this in the folder that contains the paper's tables"
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        columns = ", ".join(["method", "backbone", *UNITS])
        raise ValueError(
            f"{path}: expected columns {columns} with numbers above 0 in the last three ({error!r})"
        ) from error
    for method, backbone in printed:
        if method not in VARIANTS or backbone not in DEPTHS:
            known = f"{', '.join(VARIANTS)} with {', '.join(DEPTHS)}"
            raise ValueError(f"{path}: {method} with {backbone} cannot be measured; only {known}")
    return printed


def _chosen(printed: Mapping[Row, Any], rows: Sequence[str]) -> list[Row]:
    """The requested rows, in the paper's order."""
    names = {row: {*row, " ".join(row)} for row in printed}
    for name in rows:
        if not any(name in of_row for of_row in names.values()):
            known = ", ".join(" ".join(row) for row in names)
            raise ValueError(f"--rows '{name}': there is no such method, backbone or row. Rows: {known}")
    return [row for row, of_row in names.items() if not rows or of_row & set(rows)]


def _measure(row: Row, node: CostNode, scene: Scene, device: torch.device) -> Cost:
    method, backbone = row
    log.info("measuring %s with %s", method, backbone)
    torch.manual_seed(0)
    classes = [f"class {number}" for number in range(DETR_CLASSES)]
    detector = FrozenDetector(random_detector(DEPTHS[backbone], classes), classes)
    vocabulary, network = _as_large_as_vcoco(), None
    if name := VARIANTS[method]:
        channels, token_dim = detector.channels, detector.token_dim
        network = build(
            node.variants[name], node.network, vocabulary=vocabulary, channels=channels, token_dim=token_dim
        )
    whole = Method(detector, network, scene, vocabulary, node.selection, node.prediction).to(device)
    how = {"passes": node.cost.passes, "warmup": node.cost.warmup, "precision": node.cost.precision}
    return measure(whole, torch.rand(1, 3, scene.side, scene.side, device=device), **how)


def _as_large_as_vcoco() -> Vocabulary:
    """A vocabulary of V-COCO's size; any verb can occur with any object."""
    objects = ("person", *(f"thing {number}" for number in range(1, OBJECTS)))
    hois = tuple((verb, object_) for verb in range(VERBS) for object_ in range(OBJECTS))
    return Vocabulary("vcoco", objects, 0, tuple(f"verb_{number} obj" for number in range(VERBS)), hois)


def _detector_seconds(found: Mapping[Row, Cost], backbone: str) -> float:
    """The detector's time for one photo, over the passes of all rows with this backbone, which share the detector.

    So load on the machine during one row cannot make a method seem faster than the DETR that it contains.
    """
    return statistics.median(
        seconds for (_, name), cost in found.items() if name == backbone for seconds in cost.detector_seconds
    )


def _beside(row: Row, printed: Mapping[Row, Mapping[str, str]], found: Cost, detector_seconds: float) -> dict[str, str]:
    """One row of the table: ours, the paper's, and the difference."""
    rest = [whole - detector for whole, detector in zip(found.seconds, found.detector_seconds, strict=True)]
    whole, seconds = found.whole, detector_seconds + statistics.median(rest)
    numbers = {"macs_g": whole.macs, "params_m": whole.parameters, "fps": 1 / seconds}
    cells = dict(zip(("method", "backbone"), row, strict=True))
    for column, number in numbers.items():
        ours, theirs = number / UNITS[column], printed[row][column]
        difference = f"{ours - float(theirs):+.2f}"
        cells |= {f"paper_{column}": theirs, column: f"{ours:.2f}", f"{column}_difference": difference}
    detr = printed.get(("DETR", row[1]))
    return cells | {
        "trained_params_m": f"{whole.trained / 1e6:.2f}",
        "paper_fps_by_detr": f"{float(printed[row]['fps']) / float(detr['fps']):.3f}" if detr else "",
        "fps_by_detr": f"{detector_seconds / seconds:.3f}",
        "detr_macs_g_as_printed": f"{found.printed.macs / 1e9:.2f}",
        "detr_params_m_as_printed": f"{found.printed.parameters / 1e6:.2f}",
    }


def _as_text(table: list[dict[str, str]], found: Mapping[Row, Cost], about: Mapping[str, Any]) -> str:
    """The printed table, the parts of each row, and notes."""
    parts = [
        {"method": method, "backbone": backbone, "part": part.name, "MACs, G": f"{part.macs / 1e9:.2f}"}
        | {"parameters, M": f"{part.parameters / 1e6:.2f}", "trained, M": f"{part.trained / 1e6:.2f}"}
        for (method, backbone), of_row in found.items()
        for part in of_row.parts
    ]
    printed = {line["backbone"]: line for line in table}
    by_paper = "; ".join(
        f"{name} {line['detr_macs_g_as_printed']} G and {line['detr_params_m_as_printed']} M"
        for name, line in printed.items()
    )
    return "\n\n".join(
        [
            pd.DataFrame(table)[list(HEADS)].set_axis(list(HEADS.values()), axis=1).to_string(index=False),
            pd.DataFrame(parts).to_string(index=False),
            f"{about['device']}, {about['threads']} thread(s), torch {about['torch']}, {about['precision']}; random "
            f"weights; one photo of {about['side']} x {about['side']} at a time, median of {about['passes']} passes.\n"
            f"Taken for granted in the photo: {about['people']} people and {about['things']} other instances, so "
            f"{about['pairs']} pairs. RmLR's text branch works in training only.\n"
            "MACs are those of convolutions, linear layers and products of matrices, attention's included. The paper "
            f"counts DETR's convolutions and feed-forward networks only; ours so: {by_paper}.",
        ]
    )


# ---- output


def _device(asked: str | None) -> torch.device:
    """The device to measure on; ValueError if the requested kind does not exist."""
    if asked == "cuda" and not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        raise ValueError(
            f"--device cuda: torch {torch.__version__} ({built}) finds no GPU here. Measure on the CPU (--device cpu), "
            "or install a driver and a build of torch that fit the GPU"
        )
    return torch.device(asked or ("cuda" if torch.cuda.is_available() else "cpu"))


def _machine(device: torch.device) -> dict[str, Any]:
    """The device and versions of the measurement."""
    if device.type == "cuda":
        more = {"tf32_convolutions": torch.backends.cudnn.allow_tf32}  # of fp32: torch's default
        name = torch.cuda.get_device_name(device)
    else:
        more, name = {}, _processor()
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {"device": name, "threads": torch.get_num_threads(), "system": platform.platform(), **versions, **more}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _write(out: Path, table: list[dict[str, Any]], about: dict[str, Any]) -> None:
    """Write the table, and a file with device and versions, each atomically."""
    written = io.StringIO()
    writer = csv.DictWriter(written, fieldnames=list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    out.parent.mkdir(parents=True, exist_ok=True)
    for path, content in (
        (out.with_suffix(".json"), json.dumps(signed("cost") | about, indent=2) + "\n"),
        (out, written.getvalue()),
    ):
        aside = path.with_name(f".{path.name}.part")
        aside.write_text(content)
        aside.replace(path)
