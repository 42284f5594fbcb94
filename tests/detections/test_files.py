"""Detections in any form: which are read, and that a damaged file of any form is one error that names it."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rmlr.detections.files import load_detections, save_official, save_tables
from rmlr.hoi import Agents, Triplets, Vocabulary

VCOCO = Vocabulary("vcoco", ("person", "cup"), 0, ("hold obj", "hit instr"), (), (), ("hold", "hit"))
HICODET = Vocabulary("hicodet", ("cup", "person"), 1, ("hold", "hug", "wash"), ((0, 0), (2, 0), (1, 1)))
IMAGES = [10, 11, 12]


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """A folder with every form of file: both tables, the pickle, the files of HICO-DET."""
    folder = tmp_path_factory.mktemp("detections")
    boxes, score = np.tile(np.array([1.5, 2, 30, 40], dtype=np.float32), (3, 1)), np.float32([0.25, 0.5, 0.75])
    ids, ones = np.array(IMAGES), np.array([0, 1, 1])
    people = Agents(ids, boxes, ones, score)
    save_tables(folder, Triplets(ids, boxes, boxes + 5, ones, ones, score), people)
    save_official(folder, Triplets(ids, boxes, boxes + 5, ones, ones, score), people, VCOCO, IMAGES)
    save_official(folder, Triplets(ids, boxes, boxes + 5, ones * 0, ones * 2, score), None, HICODET, IMAGES)
    return folder


def read(path: Path, agents: Path | None = None, words: Vocabulary = VCOCO) -> tuple[Triplets, Agents | None]:
    return load_detections(path, agents, words, IMAGES)


def test_every_form_is_told_by_its_path(written: Path):
    table, people = read(written / "triplets.parquet", written / "agents.parquet")
    assert (len(table.score), people is not None and len(people.score)) == (3, 3)
    assert read(written / "triplets.parquet")[1] is None
    assert len(read(written / "vcoco.pkl")[0].score) == 3
    assert len(read(written / "hicodet", words=HICODET)[0].score) == 3


@pytest.mark.parametrize("name", ["mine.json", "mine.csv", "mine", "mine.mat", "mine.parquet.gz", "mine.PARQUET"])
def test_a_path_in_another_form_gets_the_list_of_forms(tmp_path: Path, name: str):
    forms = r"expected FILE\.parquet .*FILE\.pkl or FILE\.pickle .*folder of HICO-DET's official \.mat files"
    with pytest.raises(ValueError, match=rf"{name}: no such file or folder; {forms}"):
        read(tmp_path / name)
    (tmp_path / name).write_text("[]")
    with pytest.raises(ValueError, match=rf"{name}: has an unknown format; {forms}"):
        read(tmp_path / name)


def test_agents_and_tables_are_single_files_of_parquet(written: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"people\.csv: agent scores are read from a table, FILE\.parquet"):
        read(written / "triplets.parquet", tmp_path / "people.csv")
    (tmp_path / "parts.parquet").mkdir()
    for words in (VCOCO, HICODET):
        with pytest.raises(ValueError, match=r"parts\.parquet: is a folder; expected a table in a single file"):
            read(tmp_path / "parts.parquet", words=words)


@pytest.mark.parametrize("name", ["pipe.parquet", "pipe.pkl", "detections_01.mat"])
def test_a_pipe_is_refused_and_not_waited_for(written: Path, tmp_path: Path, name: str):
    os.mkfifo(tmp_path / name)
    path, words = (tmp_path / name, VCOCO)
    if name.endswith(".mat"):
        (tmp_path / "detections_02.mat").write_bytes((written / "hicodet" / "detections_02.mat").read_bytes())
        path, words = tmp_path, HICODET
    with pytest.raises(ValueError, match=rf"{name}: is not a file"):
        read(path, words=words)


# ---- damaged files

FORMS: dict[str, Callable[[Path], object]] = {
    "triplets.parquet": read,
    "agents.parquet": lambda path: read(path.parent / "triplets.parquet", path),
    "vcoco.pkl": read,
    "hicodet/detections_02.mat": lambda path: read(path.parent, words=HICODET),
}


def refusal(call: Callable[[], object]) -> str | None:
    """What a reader says of its file; None where it reads it. An exception of another kind is a fault of ours."""
    try:
        call()
    except ValueError as error:
        return str(error)
    return None


@st.composite
def damages(draw) -> Callable[[bytes], bytes]:
    """A file that is cut, has other bytes somewhere, or is something else."""
    kind = draw(st.sampled_from(["cut", "bytes", "else"]))
    if kind == "else":
        other = draw(st.binary(max_size=200))
        return lambda content: other
    places = draw(st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=8))
    if kind == "cut":
        return lambda content: content[: int(places[0][0] * len(content))]

    def change(content: bytes) -> bytes:
        changed = bytearray(content)
        for place, value in places:
            changed[int(place * len(changed))] = value
        return bytes(changed)

    return change


@pytest.mark.parametrize("name", FORMS)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=damages())
def test_a_damaged_file_is_read_or_is_one_error_that_names_it(written: Path, tmp_path_factory, name: str, damage):
    folder = tmp_path_factory.mktemp("damaged")
    for path in (path for path in written.rglob("*") if path.is_file()):
        copy = folder / path.relative_to(written)
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(path.read_bytes())
    path = folder / name
    path.write_bytes(damage(path.read_bytes()))
    message = refusal(lambda: FORMS[name](path))
    assert message is None or str(path.parent) in message


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.binary(max_size=3),
    lambda some: st.lists(some, max_size=6) | st.dictionaries(st.text(max_size=3) | st.integers(), some, max_size=4),
    max_leaves=12,
)
keys = st.sampled_from(["image_id", "person_box", "hold_obj", "hit_instr", "hold_agent", "hit_agent", "other"])


@settings(max_examples=200)
@given(st.lists(st.dictionaries(keys, plain | st.lists(st.floats(), min_size=4, max_size=5), max_size=7)) | plain)
def test_a_pickle_of_any_plain_values_is_read_or_is_one_error_that_names_it(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("plain") / "d.pkl"
    path.write_bytes(pickle.dumps(content, 2))
    message = refusal(lambda: read(path))
    assert message is None or str(path) in message
