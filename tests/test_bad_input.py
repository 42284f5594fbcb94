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

import pyarrow as pa
import pytest
from pyarrow import parquet

import rmlr.study.provenance
from rmlr.__main__ import main

GOLDEN = Path(__file__).parent / "golden"
RECORDS, VOCABULARY, TRIPLETS = "records/train.json", "records/vocabulary.json", "triplets.parquet"
ROWS, COCO, IDS = "raw/vcoco/vcoco_test.json", "raw/coco/instances_val2014.json", "raw/vcoco/splits/vcoco_test.ids"
SETTINGS = """\
code: digest
dataset: vcoco
vcoco: {release: drawn, unscored_roles: []}
hicodet: {release: drawn, val_images: 3}
"""
COMMANDS = {
    "prepare": "prepare --settings prepare.yaml --raw raw --out new",
    "table": "evaluate --annotations records --triplets triplets.parquet --split train --out new",
    "pickle": "evaluate --annotations records --triplets mine.pkl --split train --out new",
    "folder": "evaluate --annotations hicodet --triplets mats --split test --out new",
    "doctor": "doctor --params params.yaml --timeout 0",
    "fetch": "fetch --sources sources.yaml --raw new",
}

Change = Callable[[], object]


@pytest.fixture
def study(tiny_vcoco_raw, vcoco_records, hicodet_records, tmp_path, monkeypatch) -> None:
    """The current folder: raw annotations, records and detections, to damage."""
    for name, records in (("records", vcoco_records), ("hicodet", hicodet_records)):
        shutil.copytree(records, tmp_path / name)
    shutil.copyfile(GOLDEN / "vcoco" / "triplets_train.parquet", tmp_path / TRIPLETS)
    (tmp_path / "prepare.yaml").write_text(SETTINGS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rmlr.study.provenance, "command", None)


# ---- what is done to a file


def write(name: str, content: str | bytes) -> Change:
    """A file with this content, in the place of what was there."""

    def change() -> None:
        path = Path(name)
        if path.is_dir():
            shutil.rmtree(path)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return change


def add(name: str, content: bytes) -> Change:
    """More bytes at the end of a file."""
    return lambda: Path(name).write_bytes(Path(name).read_bytes() + content)


def edit(name: str, change: Callable) -> Change:
    """A JSON file with other content."""

    def apply() -> None:
        content = json.loads(Path(name).read_text())
        change(content)
        Path(name).write_text(json.dumps(content))

    return apply


def table(change: Callable[[pa.Table], pa.Table]) -> Change:
    """The table of triplets, changed."""
    return lambda: parquet.write_table(change(parquet.read_table(TRIPLETS)), TRIPLETS)


def cell(name: str, value: object, type_: pa.DataType | None = None) -> Change:
    """The table of triplets with another value in the first row of a column."""

    def change(rows: pa.Table) -> pa.Table:
        values = [value, *rows.column(name).to_pylist()[1:]]
        column = pa.array(values, type_ or rows.column(name).type)
        return rows.set_column(rows.column_names.index(name), name, column)

    return table(change)


def cut(name: str) -> Change:
    """A file without its last third."""
    return lambda: os.truncate(name, Path(name).stat().st_size * 2 // 3)


def replace(name: str, make: Callable[[str], object]) -> Change:
    """A folder or a pipe in the place of a file."""

    def change() -> None:
        Path(name).unlink(missing_ok=True)
        make(name)

    return change


class Code:
    """Makes a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("executed",)


ALIASES = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
NESTED = "[" * 100_000

CASES: dict[str, list[tuple[str, Change, str]]] = {
    "prepare": [
        ("nested", write("prepare.yaml", NESTED), r"prepare\.yaml: expected at most 50 levels of nesting, found more"),
        (
            "aliases",
            write("prepare.yaml", f"a0: &a0 [1]\n{ALIASES}"),
            r"prepare\.yaml, line 7: expected at most 200000 values with aliases expanded, found more",
        ),
        (
            "alias in itself",
            write("prepare.yaml", "a: &a [*a]"),
            r"prepare\.yaml, line 1: an alias refers to a value that contains it",
        ),
        (
            "date",
            write("prepare.yaml", "code: 2020-13-45\n"),
            r"prepare\.yaml: a value cannot be read \(month .*\)\. Put it in quotes if it is a text",
        ),
        (
            "duplicate key",
            add("prepare.yaml", b"code: again\n"),
            r"prepare\.yaml, line 5: key 'code' is a duplicate of line 1",
        ),
        (
            "latin-1",
            add("prepare.yaml", b"# \xe9\n"),
            r"prepare\.yaml: byte 0xe9 at \d+ is not text in UTF-8\. Save the file as UTF-8",
        ),
        ("empty settings", write("prepare.yaml", ""), r"prepare\.yaml: .*: expected keys with values, got None"),
        ("binary settings", write("prepare.yaml", b"\0\1\2"), r"prepare\.yaml: not YAML: unacceptable character"),
        (
            "settings pipe",
            replace("prepare.yaml", os.mkfifo),
            r"prepare\.yaml: is not a file\. Does the path lead to a settings file\?",
        ),
        (
            "settings folder",
            replace("prepare.yaml", os.mkdir),
            r"prepare\.yaml: is not a file\. Does the path lead to a settings file\?",
        ),
        (
            "raw file",
            write("raw", ""),
            r"raw/vcoco: input of 'prepare' does not exist\. Check the path, or run the stage",
        ),
        (
            "action empty",
            edit(ROWS, lambda rows: rows[0].update(action_name="")),
            rf"{ROWS}: 0\.action_name: expected a name, got ''",
        ),
        (
            "action twice",
            edit(ROWS, lambda rows: rows.append(rows[0])),
            rf"{ROWS}: action 'stand' is listed twice, expected different names",
        ),
        (
            "action other",
            edit(ROWS, lambda rows: rows[0].update(action_name="sit")),
            rf"{ROWS}: actions and roles differ from those of raw/vcoco/vcoco_train\.json: entry 1 is "
            r"\('sit', \['agent'\]\), expected \('stand', \['agent'\]\)\. Are both of one release\?",
        ),
        (
            "action missing",
            edit(ROWS, lambda rows: rows.pop()),
            rf"{ROWS}: actions and roles differ .*: 3 entries, expected 4\. Are both of one release\?",
        ),
        ("rows cut", cut(ROWS), rf"{ROWS}: Invalid JSON: EOF .*\. Is the file cut off\? Get or make it again"),
        ("rows pipe", replace(ROWS, os.mkfifo), rf"{ROWS}: is not a file\. Is the folder the right one\?"),
        ("rows nested", write(ROWS, NESTED), rf"{ROWS}: Invalid JSON: recursion limit exceeded"),
        ("rows object", write(ROWS, "{}"), rf"{ROWS}: .*Input should be a valid array, got {{}}"),
        ("coco bytes", add(COCO, b"\xff"), rf"{COCO}: byte 0xff at \d+ is not text in UTF-8\. Save the file as UTF-8"),
        (
            "coco id",
            edit(COCO, lambda coco: coco["images"][0].update(id=2**70)),
            rf"{COCO}: images\.0\.id: Input should be less than {2**63}, got {2**70}",
        ),
        (
            "coco width",
            edit(COCO, lambda coco: coco["images"][0].update(width=0)),
            rf"{COCO}: images\.0\.width: Input should be greater than 0, got 0",
        ),
        (
            "coco far box",
            edit(COCO, lambda coco: coco["annotations"][0].update(bbox=[0, 0, 1e308, 1])),
            rf"{COCO}: annotations\.0\.bbox\.2: Input should be less than or equal to 16777216, got 1e\+308",
        ),
        (
            "coco wide image",
            edit(COCO, lambda coco: coco["images"][0].update(width=2**62)),
            rf"{COCO}: images\.0\.width: Input should be less than or equal to 16777216",
        ),
        (
            "coco box",
            edit(COCO, lambda coco: coco["annotations"][0].update(bbox=[0, 0, float("inf"), 1])),
            rf"{COCO}: annotations\.0\.bbox\.2: Input should be a finite number, got inf",
        ),
        (
            "coco category twice",
            edit(COCO, lambda coco: coco["categories"].append(coco["categories"][0])),
            rf"{COCO}: category \d is listed twice under categories\. Give each one id and name",
        ),
        (
            "coco category other",
            edit(COCO, lambda coco: coco["categories"][0].update(name="glove")),
            rf"{COCO}: categories differ from those of raw/coco/instances_train2014\.json: entry 3 is "
            r"\(9, 'glove'\), expected \(9, 'bat'\)\. Are both of one release\?",
        ),
        (
            "coco name",
            edit(COCO, lambda coco: coco["images"][0].update(file_name="../x.jpg")),
            rf"{COCO}: images\.0\.file_name: expected the name of a file below its folder.*, got '\.\./x\.jpg'",
        ),
        (
            "coco image twice",
            edit(COCO, lambda coco: coco["images"].append(coco["images"][0])),
            rf"{COCO}: image id 30 is listed twice\. Keep one of its entries",
        ),
        ("ids word", add(IDS, b"word\n"), rf"{IDS}: entry 2: expected an image id of at most 18 digits, got 'word'"),
        ("ids large", add(IDS, b"1" * 19), rf"{IDS}: entry 2: expected an image id of at most 18 digits, got '1111"),
        ("ids twice", add(IDS, b"30\n"), rf"{IDS}: image 30 is listed twice\. Keep one of them"),
        (
            "ids empty",
            write(IDS, ""),
            rf"{ROWS}: person 301 is of image 30, which is not among the 0 ids of {IDS}\. Are both of one release\?",
        ),
        (
            "ids other",
            add(IDS, b"99\n"),
            rf"{ROWS}: image 99 of the split is in no COCO instances file\..* Else remove it from {IDS}, or add it to",
        ),
    ],
    "table": [
        (
            "record twice",
            edit(RECORDS, lambda records: records.append(records[0])),
            rf"{RECORDS}: image 1000 is listed 2 times\. Keep one of its records",
        ),
        (
            "record id",
            edit(RECORDS, lambda records: records[0].update(image_id=2**64)),
            rf"{RECORDS}: 0\.image_id: Input should be less than {2**63}, got {2**64}",
        ),
        (
            "record label",
            edit(RECORDS, lambda records: records[0]["labels"].__setitem__(0, 99)),
            rf"{RECORDS}: image 1000: 99 is not a label: expected 0 to 3",
        ),
        (
            "record box",
            edit(RECORDS, lambda records: records[0]["boxes"][0].__setitem__(0, float("nan"))),
            rf"{RECORDS}: 0\.boxes\.0\.0: Input should be a finite number, got nan",
        ),
        ("record nested", write(RECORDS, NESTED), rf"{RECORDS}: Invalid JSON: recursion limit exceeded"),
        (
            "vocabulary twice",
            edit(VOCABULARY, lambda vocabulary: vocabulary["objects"].append("person")),
            rf"{VOCABULARY}: object 'person' is listed twice, expected different names\. Prepare it again",
        ),
        (
            "vocabulary empty",
            edit(VOCABULARY, lambda vocabulary: vocabulary.update(objects=[])),
            rf"{VOCABULARY}: objects: Tuple should have at least 1 item",
        ),
        (
            "vocabulary person",
            edit(VOCABULARY, lambda vocabulary: vocabulary.update(person=99)),
            rf"{VOCABULARY}: person is object 99, expected 0 to 3\. Prepare it again",
        ),
        (
            "vocabulary hoi",
            edit(VOCABULARY, lambda vocabulary: vocabulary["hois"].append([99, 99])),
            rf"{VOCABULARY}: hois\.\d+ is verb 99, object 99, but there are 24 verbs and 4 objects\. Prepare it again",
        ),
        (
            "column twice",
            table(lambda rows: rows.append_column("score", rows.column("score"))),
            rf"{TRIPLETS}: column 'score' occurs 2 times\. See docs/evaluation\.md for the format",
        ),
        (
            "column missing",
            table(lambda rows: rows.drop_columns(["verb"])),
            rf"{TRIPLETS}: column 'verb' is missing \(int64\)\. See docs/evaluation\.md for the format",
        ),
        (
            "column text",
            table(lambda rows: rows.drop_columns(["verb"]).append_column("verb", rows["verb"].cast(pa.string()))),
            rf"{TRIPLETS}: column 'verb' is string, expected whole numbers .*\. See docs/evaluation\.md",
        ),
        (
            "score nan",
            cell("score", float("nan")),
            rf"{TRIPLETS}: row 0 \(from 0\): the score is NaN; expected a finite number, .*'image_id': 1000",
        ),
        (
            "score infinite",
            cell("score", float("inf")),
            rf"{TRIPLETS}: row 0 \(from 0\): the score is infinite; expected a finite number, .*'image_id': 1000",
        ),
        (
            "score null",
            cell("score", None),
            rf"{TRIPLETS}: row 0 \(from 0\): column 'score' holds null, expected a number",
        ),
        (
            "verb",
            cell("verb", 999),
            rf"{TRIPLETS}: row 0 \(from 0\): the verb is not in 0\.\.24\. The row: .*'verb': 999",
        ),
        (
            "image id",
            cell("image_id", 2**64 - 1, pa.uint64()),
            rf"{TRIPLETS}: row 0 .*'image_id' holds {2**64 - 1}, expected a whole number of 64 bits with a sign",
        ),
        (
            "image of another split",
            cell("image_id", 123456),
            rf"{TRIPLETS}: row 0 .*the image is not one of the 40 of the split; perhaps the rows are of another "
            r"split\. The row: .*'image_id': 123456",
        ),
        (
            "box inverted",
            cell("human_x1", 1e6),
            rf"{TRIPLETS}: row 0 .*the human box is inverted; expected x1 <= x2 .*'human_x1': 1000000\.0",
        ),
        ("cut", cut(TRIPLETS), rf"{TRIPLETS}: not a complete Parquet file .*\. Write or get it again"),
        ("empty", write(TRIPLETS, ""), rf"{TRIPLETS}: not a complete Parquet file .*0 bytes.*\. Write or get it again"),
        (
            "pipe",
            replace(TRIPLETS, os.mkfifo),
            rf"{TRIPLETS}: input of 'evaluate' is a pipe or a device\. Write its content to a file first",
        ),
    ],
    "pickle": [
        (
            "garbage",
            write("mine.pkl", "garbage"),
            r"mine\.pkl: not a pickle of plain values .*\. Expected a list of dictionaries .*, by pickle\.dump",
        ),
        (
            "code",
            write("mine.pkl", pickle.dumps([Code()])),
            r"mine\.pkl: not a pickle of plain values \(it asks for posix\.mkdir, which is not run\)\. Expected a list",
        ),
        ("number", write("mine.pkl", pickle.dumps(3)), r"mine\.pkl: expected a list of dictionaries, got 3\."),
    ],
    "folder": [
        (
            "one of four",
            write("mats/detections_01.mat", ""),
            r"mats: detections_02\.mat is missing; expected detections_01\.mat to detections_04\.mat, .*found: 1",
        ),
        (
            "garbage",
            write("mats/detections.mat", "garbage"),
            r"mats/detections\.mat: is not a complete MATLAB file .*\. Make or get it again",
        ),
    ],
    "doctor": [
        ("nested", write("params.yaml", NESTED), r"params\.yaml: expected at most 50 levels of nesting, found more"),
        ("list", write("params.yaml", "- a\n"), r"params\.yaml: .*: expected keys with values, got \['a'\]"),
        ("bytes", write("params.yaml", b"\xff"), r"params\.yaml: byte 0xff .*\. Save the file as UTF-8"),
    ],
    "fetch": [
        ("list", write("sources.yaml", "- a"), r"sources\.yaml: .*: expected keys with values, got \['a'\]"),
        ("bytes", write("sources.yaml", b"\xff"), r"sources\.yaml: byte 0xff .*\. Save the file as UTF-8"),
    ],
}


def files() -> dict[str, bytes]:
    """All files here, except locks and the state from which an interrupted stage resumes."""
    found = [path for path in Path().rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {str(path): path.read_bytes() for path in found if not any(part.endswith(".resume") for part in path.parts)}


@pytest.mark.parametrize(
    ("command", "change", "message"),
    [
        pytest.param(COMMANDS[kind], change, message, id=f"{kind}: {name}")
        for kind, cases in CASES.items()
        for name, change, message in cases
    ],
)
def test_bad_input_is_one_message_and_leaves_no_output(study, command, change, message):
    change()
    before = files()
    with pytest.raises(SystemExit) as ended:
        main(command.split())
    assert isinstance(ended.value.code, str), "a message, which gives status 1"
    assert re.match(f"rmlr: {message}", ended.value.code, re.DOTALL), ended.value.code
    assert files() == before
    assert not Path("executed").exists()
