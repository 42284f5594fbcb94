"""What the networks of Table 4 cost here, and what a training run will."""

import csv
import importlib
import io
import json
import logging
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
import transformers

from rmlr.data.features import Features
from rmlr.data.records import load_vocabulary
from rmlr.hoi import Vocabulary
from rmlr.model.cost import Cost, Method, Scene, measure
from rmlr.model.detector import FrozenDetector, random_detector
from rmlr.model.network import build, build_objective, needed_pose
from rmlr.model.text import TextEmbeddings
from rmlr.study import run
from rmlr.study.nodes import CostNode, TrainNode
from rmlr.study.output import claim_file, signed
from rmlr.study.plan import Study
from rmlr.study.provenance import Meter
from rmlr.study.settings import CostScene

log = logging.getLogger(__name__)

VARIANTS = {"DETR": None, "UPT": "upt", "RmLR": "rmlr"}  # of the table's methods
DEPTHS = {"ResNet-50": (3, 4, 6, 3), "ResNet-101": (3, 4, 23, 3)}  # blocks in the stages of the table's backbones
UNITS = {"macs_g": 1e9, "params_m": 1e6, "fps": 1.0}  # of the table's columns
DETR_CLASSES, OBJECTS, VERBS = 91, 80, 24  # of the published DETR's head; of V-COCO
SETTLING = 2  # training steps before those that count
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
    steps: int = 10,
    out: Path | None = None,
) -> None:
    """Measure what DETR, UPT and RmLR cost on this machine (Table 4); or, with --train, estimate a training run.

    MACs, parameters and photos a second, one photo at a time: from pixels to boxes (DETR), or to scored triplets.
    Weights are random, for cost does not depend on them, and nothing is downloaded. RmLR's text branch is a teacher: at
    inference there is none.

    The paper's MACs and parameters of DETR are those of its convolutions and feed-forward networks, to the last digit,
    without attention, heads, norms and queries; what ours has by that count is said under the table. What the paper
    adds for UPT and RmLR cannot hold their networks.

    With --train some steps of the real `rmlr train` are run and timed, in a process and a temporary folder of its own,
    on one GPU or the CPU; flags that shape the table have no part in it.

    Args:
        rows: which rows: a method, a backbone, or both as in "RmLR ResNet-50"; all if left out.
        passes: timed passes of each row.
        warmup: passes before them, besides the one in which MACs are counted.
        precision: of the networks; bf16: mixed.
        settings: this node's settings file, which has what the flags that shape the table, and --params and --profile,
            would say. Only the study needs one.
        device: where; if left out, a GPU where there is one.
        side: height and width of the photo, pixels.
        people: people that the photo is taken to have. Photos of people in COCO128 have 5 and 5 other things on
            average, fewer than 3 of either counted as 3 and more than 15 as 15, as detections are selected.
        things: other objects, likewise.
        params: the study, for the sizes of the networks.
        profile: which of its profiles.
        paper: the paper's table (CSV).
        train: settings file of a training run, such as results/demo/settings/runs/shared/rmlr/0/train.yaml.
        annotations: of that run, as given to `rmlr train`.
        features: likewise.
        text: likewise.
        pose: likewise, of a run with the pose cue.
        steps: training steps to run.
        out: table to write (CSV), which replaces only one that an earlier call wrote; beside it a .json with device,
            versions and all that was measured. With --settings a folder: cost.csv, cost.json and, for `rmlr table`,
            metrics.json.
    """
    if passes < 1 or warmup < 0 or steps < 1 or side < 1 or min(people, things) < 0:
        given = f"--passes {passes} --warmup {warmup} --steps {steps} --side {side} --people {people} --things {things}"
        raise ValueError(f"{given}: passes, steps and side must be 1 at least, the others 0")
    if settings is not None and (out is None or train is not None):
        raise ValueError(f"--settings {settings}: give --out, a folder, and not --train")
    if settings is None and out is not None and out.suffix != ".csv":
        raise ValueError(f"--out {out}: a table (CSV); its name must end with .csv")
    if settings is None and out is not None:
        claim_file(out.with_suffix(".json"), "cost")
        if not out.with_suffix(".json").exists():
            claim_file(out, "cost")  # which no earlier call made
    inputs = {"annotations": annotations, "features": features, "text": text, "pose": pose}
    named = {name: path for name, path in inputs.items() if path is not None}
    if train is not None:
        if missing := [f"--{name}" for name in inputs if name not in named and name != "pose"]:
            raise ValueError(f"--train {train}: give {', '.join(missing)} as well, as to `rmlr train`")
        estimate = _estimate(train, named, steps)
        _say(str(estimate))
        table, about = [asdict(estimate)], {"settings": str(train), **_machine(_device(None)), **asdict(estimate)}
    elif named:
        raise ValueError(f"--{next(iter(named))}: of a training run, whose settings --train must name")
    elif settings is not None and out is not None:
        node = CostNode.load(settings)
        with run.run("cost", node, settings=settings, out=out, inputs=[paper]) as record:
            table, about = _table(node, paper, rows, device)
            _write(record.folder / "cost.csv", table, about)
            (record.folder / "metrics.json").write_text(json.dumps(_for_table(table, about), indent=2) + "\n")
        return
    else:
        scene = CostScene(
            sizes=profile,
            side=side,
            people=people,
            things=things,
            passes=passes,
            warmup=warmup,
            precision=precision,
        )
        node = Study.load(params).cost_node(scene, "", "--profile")
        table, about = _table(node, paper, rows, device)
    if out is not None:
        _write(out, table, about)


# ---- Table 4

Row = tuple[str, str]  # method and backbone


def _table(node: CostNode, paper: Path, rows: Sequence[str], device: str | None) -> tuple[list[dict], dict[str, Any]]:
    """The table, and what it was measured on; said, too."""
    scene, where = Scene(node.cost.side, node.cost.people, node.cost.things), _device(device)
    printed = _read_paper(paper)
    found = {row: _measure(row, node, scene, where) for row in _chosen(printed, rows)}
    detr = {backbone: _detector_seconds(found, backbone) for _, backbone in found}
    table = [_beside(row, printed, of_row, detr[row[1]]) for row, of_row in found.items()]
    about = _machine(where) | {"weights": "random"} | node.cost.model_dump() | {"pairs": scene.pairs}
    _say(_as_text(table, found, about))
    return table, about | {
        "rows": [{"method": row[0], "backbone": row[1], **asdict(of_row)} for row, of_row in found.items()]
    }


def _for_table(table: list[dict[str, str]], about: Mapping[str, Any]) -> dict[str, Any]:
    """What `rmlr table` puts beside the paper's numbers, row by row, and what is said of it."""
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
        for number in (cell for row in printed.values() for cell in row.values()):
            float(number)  # ValueError, if it is none
    except OSError as error:
        raise ValueError(
            f"{path}: cannot be read ({error.strerror}). Call this where the paper's tables lie"
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        columns = ", ".join(["method", "backbone", *UNITS])
        raise ValueError(f"{path}: expected columns {columns} with numbers in the last three ({error!r})") from error
    for method, backbone in printed:
        if method not in VARIANTS or backbone not in DEPTHS:
            known = f"{', '.join(VARIANTS)} with {', '.join(DEPTHS)}"
            raise ValueError(f"{path}: {method} with {backbone} cannot be measured; only {known}")
    return printed


def _chosen(printed: Mapping[Row, Any], rows: Sequence[str]) -> list[Row]:
    """The rows that are asked for, in the paper's order."""
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
        shapes = {"channels": detector.channels, "token_dim": detector.token_dim}
        network = build(node.variants[name], node.network, vocabulary=vocabulary, **shapes)
    whole = Method(detector, network, scene, vocabulary, node.selection, node.prediction).to(device)
    how = {"passes": node.cost.passes, "warmup": node.cost.warmup, "precision": node.cost.precision}
    return measure(whole, torch.rand(1, 3, scene.side, scene.side, device=device), **how)


def _as_large_as_vcoco() -> Vocabulary:
    """As many verbs and objects as V-COCO has; any verb goes with any object."""
    objects = ("person", *(f"thing {number}" for number in range(1, OBJECTS)))
    hois = tuple((verb, object_) for verb in range(VERBS) for object_ in range(OBJECTS))
    return Vocabulary("vcoco", objects, 0, tuple(f"verb_{number} obj" for number in range(VERBS)), hois)


def _detector_seconds(found: Mapping[Row, Cost], backbone: str) -> float:
    """Of one photo, over the passes of all rows with this backbone, whose detector is the same.

    So what else the machine does in the seconds of one row makes no method faster than the DETR within it.
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
    """The table as people read it, the parts of each row, and what must be known to read them."""
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


# ---- a training run


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a training run takes, from some of its steps."""

    variant: str
    epochs: int
    steps: int  # of the whole run
    timed_steps: int
    seconds_a_step: float  # mean
    shortest_step: float
    longest_step: float
    startup_seconds: float  # up to the first step's end
    hours: float
    memory_gb: float  # at most
    memory_of: str  # the GPU, where there is one, else the process, mapped pages of features included
    weights_mb: float
    resume_mb: float  # what an interrupted run goes on from
    features_gb: float  # of all splits

    def __str__(self) -> str:
        return (
            f"{self.variant}: {self.steps} steps in {self.epochs} epochs\n"
            f"a step   {self.seconds_a_step:.3g} s ({self.shortest_step:.3g} to {self.longest_step:.3g}, "
            f"{self.timed_steps} timed), {self.startup_seconds:.3g} s up to the end of the first\n"
            f"in all   {self.hours:.2g} hours ({60 * self.hours:.2g} minutes)\n"
            f"memory   {self.memory_gb:.2f} GB of the {self.memory_of} at most\n"
            f"disk     {self.weights_mb:.1f} MB of weights, {self.resume_mb:.1f} MB to go on from while it runs; "
            f"{self.features_gb:.3g} GB of features are read"
        )


def _estimate(settings: Path, inputs: dict[str, Path], steps: int) -> Estimate:
    """Run some steps of training and project them."""
    chosen = TrainNode.load(settings)
    for path in inputs.values():
        if not path.exists():
            raise ValueError(f"{path}: input of training does not exist. Run the stage that makes it first")
    log.info("%s: running %d steps", settings, steps)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:  # its memory is the training's alone
        try:
            total, times, memory = pool.submit(_rehearse, settings, inputs, steps).result()
        except BrokenProcessPool as error:
            raise ValueError(
                f"{settings}: the training was killed from outside. Is there too little memory?"
            ) from error
    laps = [end - start for start, end in pairwise(times)]
    counted = laps[1 + SETTLING :] or laps[1:] or laps
    mean = statistics.fmean(counted)
    weights, resume = _checkpoint_bytes(chosen, **inputs)
    files = [file for file in inputs["features"].rglob("*") if file.is_file()]
    return Estimate(
        variant=chosen.tags.get("variant", chosen.variant.network),
        epochs=chosen.train.epochs,
        steps=total,
        timed_steps=len(counted),
        seconds_a_step=mean,
        shortest_step=min(counted),
        longest_step=max(counted),
        startup_seconds=laps[0],
        hours=(laps[0] + (total - 1) * mean) / 3600,
        memory_gb=memory / 1e9,
        memory_of="GPU" if torch.cuda.is_available() else "process",
        weights_mb=weights / 1e6,
        resume_mb=resume / 1e6,
        features_gb=sum(file.stat().st_size for file in files) / 1e9,
    )


def _rehearse(settings: Path, inputs: dict[str, Path], steps: int) -> tuple[int, list[float], float]:
    """`rmlr train` as it is, in a folder that goes, until `steps` are done. To be called in a process of its own.

    Gives the steps of the whole run, the clock at the beginning and after every step, and the peak of memory in bytes.
    """
    times, totals = [time.perf_counter()], [0]

    class Stopwatch(run.Progress):
        def advance(self, count: int = 1, note: str = "") -> None:
            times.append(time.perf_counter())
            totals.append(self.total)
            if len(times) > steps:
                raise _EnoughError

    run.Progress = Stopwatch
    os.environ["RMLR_TRACKING"] = "off"
    stage = importlib.import_module("rmlr.stages.train")  # by name, as the command line: commands know no stage
    with tempfile.TemporaryDirectory() as folder, suppress(_EnoughError):
        stage.train(settings=settings, **inputs, seed=0, out=Path(folder, "train"))
    if torch.cuda.is_available():
        return totals[-1], times, torch.cuda.max_memory_allocated()
    return totals[-1], times, 1e6 * Meter().read()["peak_memory_mb"]


class _EnoughError(Exception):
    """Ends a rehearsal."""


def _checkpoint_bytes(
    chosen: TrainNode, annotations: Path, features: Path, text: Path, pose: Path | None = None
) -> tuple[int, int]:
    """Size of the weights that a run leaves, and of what an interrupted run goes on from: also AdamW's two moments."""
    vocabulary, cached = (
        load_vocabulary(annotations),
        Features.load(features, chosen.train.split, needed_pose(chosen.variant, pose)),
    )
    embeddings = TextEmbeddings.load(text) if chosen.variant.aligns else None
    shapes = {"channels": cached.channels, "token_dim": cached.token_dim, "pose_channels": cached.pose_channels}
    objective = build_objective(
        chosen.variant,
        chosen.network,
        chosen.alignment,
        chosen.losses,
        vocabulary=vocabulary,
        text=embeddings,
        phrase_counts=embeddings and torch.ones(len(embeddings.phrases), dtype=torch.long),
    )
    modules = build(chosen.variant, chosen.network, vocabulary=vocabulary, **shapes), objective
    weights = sum(tensor.nbytes for module in modules for tensor in module.state_dict().values())
    return weights, weights + 2 * sum(one.nbytes for module in modules for one in module.parameters())


# ---- output


def _device(asked: str | None) -> torch.device:
    return torch.device(asked or ("cuda" if torch.cuda.is_available() else "cpu"))


def _machine(device: torch.device) -> dict[str, Any]:
    """On what, and with what, this was measured."""
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


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _write(out: Path, table: list[dict[str, Any]], about: dict[str, Any]) -> None:
    """The table, and beside it what it was measured on; each is written aside and renamed."""
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
