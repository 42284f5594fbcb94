"""Damaged, contradictory and hostile files of several kinds: one message, which names the file and says what is wrong.

`test_faults.py` has the faults of each stage's inputs; these cases need no trained network.
"""

import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from scipy.io import savemat

import rmlr.study.provenance
from rmlr.__main__ import main

GOLDEN = Path(__file__).parent / "golden"
RECORDS, VOCABULARY, TRIPLETS = "records/train.json", "records/vocabulary.json", "triplets.parquet"
ROWS, COCO, IDS = "raw/vcoco/vcoco_test.json", "raw/coco/instances_val2014.json", "raw/vcoco/splits/vcoco_test.ids"
SETTINGS = "code: digest\ndataset: vcoco\nvcoco: {release: drawn, unscored_roles: []}\n"
SETTINGS += "hicodet: {release: drawn, val_images: 3}\n"
COMMANDS: dict[str, tuple[list[str], dict[str, str]]] = {
    "prepare": ([], {"settings": "prepare.yaml", "raw": "raw", "out": "new"}),
    "evaluate": ([], {"annotations": "records", "triplets": TRIPLETS, "split": "train", "out": "new"}),
    "doctor": ([], {"params": "params.yaml", "timeout": "0"}),
    "accept": ([], {"because": "names only", "results": "results"}),
    "fetch": ([], {"sources": "sources.yaml", "raw": "new"}),
    "compare": (["a", "b"], {}),
}

Change = Callable[[], object]
Case = tuple[str, Change, str, dict[str, str]]


@pytest.fixture
def study(tiny_vcoco_raw, vcoco_records, hicodet_records, tmp_path, monkeypatch) -> Path:
    """The current folder: raw annotations, records and detections, to damage."""
    for name, records in (("records", vcoco_records), ("hicodet", hicodet_records)):
        shutil.copytree(records, tmp_path / name)
    shutil.copyfile(GOLDEN / "vcoco" / "triplets_train.parquet", tmp_path / TRIPLETS)
    (tmp_path / "prepare.yaml").write_text(SETTINGS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rmlr.study.provenance, "command", None)
    return tmp_path


# ---- what is done to a file


def write(name: str, content: str | bytes) -> Change:
    def change() -> None:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return change


def add(name: str, text: str | bytes) -> Change:
    """More text at the end of a file."""
    return lambda: Path(name).write_bytes(
        Path(name).read_bytes() + (text if isinstance(text, bytes) else text.encode())
    )


def edit(name: str, change: Callable[[dict], object]) -> Change:
    """A JSON file with other content."""

    def apply() -> None:
        path = Path(name)
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return apply


def table(change: Callable[[pa.Table], pa.Table]) -> Change:
    """The table of triplets, changed."""
    return lambda: parquet.write_table(change(parquet.read_table(TRIPLETS)), TRIPLETS)


def column(name: str, value: object, type_: pa.DataType | None = None) -> Change:
    """The table of triplets with another value in the first row of a column."""

    def change(rows: pa.Table) -> pa.Table:
        at = rows.column_names.index(name)
        values = [value, *rows.column(name).to_pylist()[1:]]
        return rows.set_column(at, name, pa.array(values, type_ or rows.column(name).type))

    return table(change)


def cut(name: str) -> Change:
    return lambda: os.truncate(name, Path(name).stat().st_size * 2 // 3)


def fifo(name: str) -> Change:
    def change() -> None:
        Path(name).unlink(missing_ok=True)
        os.mkfifo(name)

    return change


def nothing() -> None:
    """The flag alone is wrong."""


def evil() -> bytes:
    class Evil:
        def __reduce__(self):
            return os.mkdir, ("executed",)

    return pickle.dumps([Evil()])


def official(**changes: object) -> Change:
    """A folder of HICO-DET's official detections with one bad row."""

    def change() -> None:
        row = {"score": 0.5, "image": 1.0} | changes
        Path("mats").mkdir()
        savemat("mats/detections_01.mat", {"all_boxes": np.array([[1, 1, 5, 5, 1, 1, 5, 5, row["score"]]])})

    return change


CASES: dict[str, Case] = {
    "nested": (
        "prepare",
        write("prepare.yaml", "a: " + "[" * 1000 + "]" * 1000),
        r"prepare\.yaml: expected at most 50 levels of nesting",
        {},
    ),
    "aliases": (
        "prepare",
        write(
            "prepare.yaml",
            "a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)),
        ),
        r"prepare\.yaml, line 7: expected at most 200000 values with aliases expanded",
        {},
    ),
    "alias in itself": (
        "prepare",
        write("prepare.yaml", "a: &a [*a]"),
        r"prepare\.yaml, line 1: an alias refers to a value that contains it",
        {},
    ),
    "date": (
        "prepare",
        write("prepare.yaml", "code: 2020-13-45\n"),
        r"prepare\.yaml: .*Put it in quotes if it is a text",
        {},
    ),
    "duplicate key": (
        "prepare",
        add("prepare.yaml", "\ncode: again\n"),
        r"prepare\.yaml, line \d+: key 'code' is a duplicate of line 1",
        {},
    ),
    "latin-1": (
        "prepare",
        add("prepare.yaml", b"\n# \xe9\n"),
        r"prepare\.yaml: byte 0xe9 .* Save the file as UTF-8",
        {},
    ),
    "empty settings": (
        "prepare",
        write("prepare.yaml", ""),
        r"prepare\.yaml: .*valid dictionary or instance of PrepareNode, got None",
        {},
    ),
    "binary settings": (
        "prepare",
        write("prepare.yaml", b"\0\1\2"),
        r"prepare\.yaml: not YAML: unacceptable character",
        {},
    ),
    "settings fifo": (
        "prepare",
        fifo("prepare.yaml"),
        r"prepare\.yaml: is not a file\. Does the path lead to a settings file",
        {},
    ),
    "settings folder": (
        "prepare",
        nothing,
        r"raw: is not a file\. Does the path lead to a settings file",
        {"settings": "raw"},
    ),
    "params nested": (
        "doctor",
        write("params.yaml", "{a: " * 3000),
        r"params\.yaml: expected at most 50 levels of nesting",
        {},
    ),
    "params list": (
        "doctor",
        write("params.yaml", "- a\n"),
        r"params\.yaml: .*valid dictionary or instance of Study",
        {},
    ),
    "params bytes": ("doctor", write("params.yaml", b"\xff"), r"params\.yaml: byte 0xff .* Save the file as UTF-8", {}),
    "action empty": (
        "prepare",
        edit(ROWS, lambda c: c[0].update(action_name="")),
        r"vcoco_test\.json: 0\.action_name: expected a name, got an empty text",
        {},
    ),
    "action twice": (
        "prepare",
        edit(ROWS, lambda c: c[1].update(action_name=c[0]["action_name"])),
        r"vcoco_test\.json: actions and roles differ from those of .*vcoco_train\.json",
        {},
    ),
    "rows cut": (
        "prepare",
        cut(ROWS),
        r"vcoco_test\.json: Invalid JSON.* Is the file cut off\? Get or make it again",
        {},
    ),
    "rows fifo": ("prepare", fifo(ROWS), r"vcoco_test\.json: is not a file\. Is the folder the right one", {}),
    "rows nested": (
        "prepare",
        write(ROWS, "[" * 100_000),
        r"vcoco_test\.json: Invalid JSON: recursion limit exceeded",
        {},
    ),
    "rows object": ("prepare", write(ROWS, "{}"), r"vcoco_test\.json: .*Input should be a valid array", {}),
    "coco bytes": (
        "prepare",
        add(COCO, b"\xff\xfe"),
        r"instances_val2014\.json: byte 0xff .* Save the file as UTF-8",
        {},
    ),
    "coco huge id": (
        "prepare",
        edit(COCO, lambda c: c["images"][0].update(id=2**70)),
        r"instances_val2014\.json: images\.0\.id: Input should be less than",
        {},
    ),
    "coco infinite box": (
        "prepare",
        edit(COCO, lambda c: c["annotations"][0].update(bbox=[0, 0, float("inf"), 1])),
        r"instances_val2014\.json: annotations\.0\.bbox\.2: Input should be a finite number, got inf",
        {},
    ),
    "coco category twice": (
        "prepare",
        edit(COCO, lambda c: c["categories"].append(c["categories"][0])),
        r"instances_val2014\.json: categories differ from those of .*instances_train2014\.json",
        {},
    ),
    "coco name leads out": (
        "prepare",
        edit(COCO, lambda c: c["images"][0].update(file_name="../x.jpg")),
        r"instances_val2014\.json: images\.0\.file_name: .*without '\.\.', got '\.\./x\.jpg'",
        {},
    ),
    "coco image twice": ("prepare", edit(COCO, lambda c: c["images"].append(c["images"][0])), r"", {}),
    "coco no size": ("prepare", edit(COCO, lambda c: c["images"][0].update(width=0)), r"", {}),
    "ids word": ("prepare", add(IDS, "word\n"), r"", {}),
    "ids twice": ("prepare", lambda: add(IDS, Path(IDS).read_text())(), r"", {}),
    "ids huge": ("prepare", add(IDS, f"{10**30}\n"), r"", {}),
    "ids empty": ("prepare", write(IDS, ""), r"", {}),
    "raw is a file": ("prepare", nothing, r"", {"raw": "photo.jpg"}),
    "record twice": ("evaluate", edit(RECORDS, lambda c: c.append(c[0])), r"", {}),
    "record huge": ("evaluate", edit(RECORDS, lambda c: c[0].update(image_id=2**64)), r"", {}),
    "record label": ("evaluate", edit(RECORDS, lambda c: c[0]["labels"].__setitem__(0, 99)), r"", {}),
    "record nan": ("evaluate", edit(RECORDS, lambda c: c[0]["boxes"][0].__setitem__(0, float("nan"))), r"", {}),
    "record nested": ("evaluate", write(RECORDS, "[" * 100_000), r"", {}),
    "vocabulary twice": ("evaluate", edit(VOCABULARY, lambda c: c["objects"].append("person")), r"", {}),
    "vocabulary person": ("evaluate", edit(VOCABULARY, lambda c: c.update(person=99)), r"", {}),
    "vocabulary hoi": ("evaluate", edit(VOCABULARY, lambda c: c["hois"].append([99, 99])), r"", {}),
    "column twice": ("evaluate", table(lambda t: t.append_column("score", t.column("score"))), r"", {}),
    "column gone": ("evaluate", table(lambda t: t.drop_columns(["verb"])), r"", {}),
    "column text": (
        "evaluate",
        table(lambda t: t.set_column(t.column_names.index("verb"), "verb", t.column("verb").cast(pa.string()))),
        r"",
        {},
    ),
    "score nan": ("evaluate", column("score", float("nan")), r"", {}),
    "score infinite": ("evaluate", column("score", float("inf")), r"", {}),
    "score null": ("evaluate", column("score", None), r"", {}),
    "verb 999": ("evaluate", column("verb", 999), r"", {}),
    "image huge": ("evaluate", column("image_id", 2**64 - 1, pa.uint64()), r"", {}),
    "image other": ("evaluate", column("image_id", 123456), r"", {}),
    "box inverted": ("evaluate", column("human_x1", 1e6), r"", {}),
    "table cut": ("evaluate", cut(TRIPLETS), r"", {}),
    "table empty": ("evaluate", write(TRIPLETS, ""), r"", {}),
    "table text": ("evaluate", write(TRIPLETS, "image_id,score\n"), r"", {}),
    "table fifo": ("evaluate", fifo(TRIPLETS), r"", {}),
    "json": ("evaluate", write("mine.json", "[]"), r"", {"triplets": "mine.json"}),
    "pickle garbage": ("evaluate", write("mine.pkl", "garbage"), r"", {"triplets": "mine.pkl"}),
    "pickle code": ("evaluate", write("mine.pkl", evil()), r"", {"triplets": "mine.pkl"}),
    "pickle number": ("evaluate", write("mine.pkl", pickle.dumps(3)), r"", {"triplets": "mine.pkl"}),
    "pickle fifo": ("evaluate", fifo("mine.pkl"), r"", {"triplets": "mine.pkl"}),
    "mat": ("evaluate", official(), r"", {"triplets": "mats", "annotations": "hicodet", "split": "test"}),
    "empty folder": (
        "evaluate",
        lambda: Path("mats").mkdir(),
        r"",
        {"triplets": "mats", "annotations": "hicodet", "split": "test"},
    ),
    "export unknown": ("evaluate", nothing, r"", {"zero-shot": "rare-first", "split": "test"}),
    "compare nothing": ("compare", nothing, r"", {}),
    "compare many": ("compare", nothing, r"", {"samples": str(10**9)}),
    "compare none": ("compare", nothing, r"", {"samples": "0"}),
    "compare seed": ("compare", nothing, r"", {"seed": "-1"}),
    "accept because": ("accept", nothing, r"", {"because": " "}),
    "accept nothing": ("accept", nothing, r"", {}),
    "sources gone": ("fetch", nothing, r"", {}),
    "sources bytes": ("fetch", write("sources.yaml", b"\xff"), r"", {}),
    "sources list": ("fetch", write("sources.yaml", "- a"), r"", {}),
}


def files() -> dict[str, bytes]:
    """All that lies here, but for locks and what an interrupted stage resumes from."""
    found = [path for path in Path().rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {str(path): path.read_bytes() for path in found if not any(part.endswith(".resume") for part in path.parts)}


def arguments(command: str, flags: dict[str, str]) -> list[str]:
    """The command line; `flags` replace the usual ones."""
    named, usual = COMMANDS[command]
    given = usual | flags
    return [command, *named, *(text for flag, value in given.items() for text in (f"--{flag}", value))]


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_message_and_leaves_no_output(study, name):
    command, change, message, flags = CASES[name]
    change()
    before = files()
    with pytest.raises(SystemExit) as ended:
        main(arguments(command, flags))
    assert isinstance(ended.value.code, str), "a message, which gives status 1"
    assert re.search(message, ended.value.code, re.DOTALL), ended.value.code
    assert files() == before
