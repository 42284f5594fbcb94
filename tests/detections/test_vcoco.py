import builtins
import gc
import logging
import math
import operator
import os
import pickle
import sys
import types
from collections import Counter, OrderedDict, defaultdict
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmlr.detections.vcoco import read_vcoco_results, write_vcoco_results
from rmlr.hoi import Agents, Triplets, Vocabulary

VOCABULARY = Vocabulary(
    dataset="vcoco",
    objects=("person", "cup"),
    person=0,
    verbs=("hit instr", "hit obj", "talk_on_phone instr"),
    hois=(),
    unscored_verbs=("point instr",),
    actions=("hit", "stand", "talk_on_phone", "point"),
)
HIT_WITH, HIT, TALK, POINT = range(4)
NAN = math.nan
ABSENT = {
    **{f"{action}_agent": NAN for action in VOCABULARY.actions},
    **{key: [NAN] * 5 for key in ("hit_instr", "hit_obj", "talk_on_phone_instr", "point_instr")},
}
ANNA, BEN, CUP = [1.0, 2.0, 30.0, 40.0], [50.0, 2.0, 80.0, 40.5], [5.0, 5.0, 9.0, 9.0]


class CacheTemplate(defaultdict):
    """UPT's and PViC's dictionary; at a module's top, as pickle wants it."""

    def __missing__(self, key: str):
        return 0.0 if key.rsplit("_")[-1] == "agent" else [0.0, 0.0, 0.1, 0.1, 0.0]


class Calls:
    """Pickled, it is a call."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def item(image_id: int = 7, person_box=ANNA, **values) -> dict:
    return {"image_id": image_id, "person_box": person_box, **ABSENT, **values}


def save(path: Path, items, protocol: int = 2) -> Path:
    path.write_bytes(pickle.dumps(items, protocol))
    return path


def read(path: Path, image_ids=(7, 8)) -> tuple[Triplets, Agents]:
    return read_vcoco_results(path, VOCABULARY, image_ids)


def lines(rows: Triplets | Agents) -> list[tuple]:
    """Rows as plain values, in which NaN equals NaN; without the object's class, which the pickle does not tell."""
    columns = [getattr(rows, name) for name in rows.__slots__ if name != "object_category"]
    columns = [np.nan_to_num(column, nan=-999.0).tolist() for column in columns]
    return list(zip(*[[tuple(v) if isinstance(v, list) else v for v in column] for column in columns], strict=True))


# ---- what is read


def test_every_score_that_is_not_nan_is_a_row_in_the_order_of_items_and_then_of_verbs(tmp_path: Path):
    items = [
        item(8, BEN, talk_on_phone_instr=[*CUP, 0.25], hit_obj=[*[NAN] * 4, 0.5], stand_agent=0.125),
        item(7, ANNA),
        item(7, ANNA, point_instr=[0, 0, 0, 0, 2], hit_instr=[*CUP, 0.75], hit_agent=0, point_agent=-1.5),
    ]
    triplets, agents = read(save(tmp_path / "d.pkl", items))
    assert triplets.image_id.tolist() == [8, 8, 7, 7]
    assert triplets.verb.tolist() == [HIT, TALK, HIT_WITH, POINT]
    assert triplets.score.tolist() == [0.5, 0.25, 0.75, 2]
    assert triplets.human_boxes.tolist() == [BEN, BEN, ANNA, ANNA]
    assert np.isnan(triplets.object_boxes[0]).all()
    assert triplets.object_boxes[1:].tolist() == [CUP, CUP, [0, 0, 0, 0]]
    assert triplets.object_category.tolist() == [-1] * 4
    assert lines(agents) == [(8, tuple(BEN), 1, 0.125), (7, tuple(ANNA), 0, 0), (7, tuple(ANNA), 3, -1.5)]
    assert {getattr(triplets, name).dtype.name for name in Triplets.__slots__} == {"int64", "float32"}


def test_an_empty_list_has_no_rows(tmp_path: Path):
    triplets, agents = read(save(tmp_path / "d.pkl", []))
    assert (triplets.human_boxes.shape, triplets.object_boxes.shape, len(agents.score)) == ((0, 4), (0, 4), 0)


def test_a_vocabulary_without_actions_has_no_agents(tmp_path: Path):
    words = Vocabulary("vcoco", ("person",), 0, ("hit obj",), ())
    path = save(tmp_path / "d.pkl", [{"image_id": 7, "person_box": ANNA, "hit_obj": [*CUP, 0.5]}])
    triplets, agents = read_vcoco_results(path, words, [7])
    assert (triplets.score.tolist(), agents.score.tolist()) == ([0.5], [])


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">f8", "<f2", "<i8", "u1"])
def test_numpy_arrays_and_scalars_are_read_in_every_protocol(tmp_path: Path, protocol: int, dtype: str):
    items = [
        item(
            np.int64(7),
            np.array(ANNA, dtype=dtype),
            hit_obj=np.array([*CUP, 3], dtype=dtype),
            hit_instr=np.stack([np.array([*CUP, 4], dtype=dtype)] * 2, axis=1)[:, 1],  # not in one piece
            hit_agent=np.array([5], dtype=dtype)[0],
            stand_agent=np.array([6], dtype=dtype),
        )
    ]
    triplets, agents = read(save(tmp_path / "d.pkl", items, protocol))
    assert triplets.score.tolist() == [4, 3]
    assert triplets.human_boxes.tolist() == [ANNA, ANNA]
    assert triplets.object_boxes.tolist() == [CUP, CUP]
    assert agents.score.tolist() == [5, 6]


@pytest.mark.parametrize("protocol", [0, 1, 2, 3])
def test_pickles_of_numpy_1_are_read(tmp_path: Path, protocol: int):
    raw = pickle.dumps([item(hit_obj=np.array([*CUP, 0.5]), hit_agent=np.float32(0.25))], protocol)
    assert raw.count(b"numpy._core") == 2
    (tmp_path / "d.pkl").write_bytes(raw.replace(b"numpy._core", b"numpy.core"))
    triplets, agents = read(tmp_path / "d.pkl")
    assert (triplets.object_boxes.tolist(), agents.score.tolist()) == ([CUP], [0.25])


def test_pickles_of_python_2_are_read(tmp_path: Path):
    """There text and bytes are one: keys, names of types and the memory of arrays are all of the opcode U."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    kind = (
        b"cnumpy\ndtype\n"
        + text(b"f4")
        + b"K\x00K\x01\x87R(K\x03"
        + text(b"<")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
    array += b"(K\x01K\x05\x85" + kind + b"\x89" + text(np.array([*CUP, 0.5], dtype="<f4").tobytes()) + b"tb"
    score = b"cnumpy.core.multiarray\nscalar\n" + kind + text(np.float32(200.7).tobytes()) + b"\x86R"
    rest = {key: value for key, value in item().items() if key not in ("hit_obj", "hit_agent")}
    items = (
        b"\x80\x02]("
        + pickle.dumps(rest, 2)[2:-1]
        + text(b"hit_obj")
        + array
        + b"s"
        + text(b"hit_agent")
        + score
        + b"se."
    )
    (tmp_path / "d.pkl").write_bytes(items)
    triplets, agents = read(tmp_path / "d.pkl")
    assert (triplets.object_boxes.tolist(), triplets.score.tolist()) == ([CUP], [0.5])
    assert agents.score.tolist() == [np.float32(200.7)]


def test_tuples_and_ordered_dictionaries_are_read(tmp_path: Path):
    triplets, _ = read(save(tmp_path / "d.pkl", [OrderedDict(item(7, tuple(ANNA), hit_obj=(*CUP, 0.5)))]))
    assert triplets.object_boxes.tolist() == [CUP]


def test_double_precision_is_rounded_to_32_bits_as_officially(tmp_path: Path):
    items = [item(7, [0.1, 0.1, 1e40, 1], hit_agent=0.5), item(hit_obj=[*CUP, 0.1], stand_agent=-1e300)]
    path = save(tmp_path / "d.pkl", items[:1])
    with pytest.raises(ValueError, match=r"item 0, 'hit_agent': the human box is not four finite numbers"):
        read(path)
    with pytest.raises(ValueError, match=r"item 0, 'stand_agent': the score is infinite; expected a finite number"):
        read(save(path, items[1:]))
    items[1]["stand_agent"] = 0.1
    triplets, agents = read(save(path, items[1:]))
    assert (triplets.score.tolist(), agents.score.tolist()) == ([np.float32(0.1)], [np.float32(0.1)])


def test_keys_that_are_no_actions_are_passed_over_and_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = save(tmp_path / "d.pkl", [item(hit_obj=[*CUP, 0.5], object_class="cup"), item(object_class=None)])
    with caplog.at_level(logging.WARNING):
        assert read(path)[0].score.tolist() == [0.5]
    assert "'object_class': 2" in caplog.text


def test_the_pickle_of_qpic_scores_all_roles_and_says_no_object_by_nan(tmp_path: Path):
    """QPIC and GEN-VLKT: one item a query, one object for all its roles; agents of two roles take the better one."""
    items = []
    for query in range(3):
        box = [NAN] * 4 if query == 1 else CUP
        scores = {f"{verb.replace(' ', '_')}": 0.1 * query + 0.01 * n for n, verb in enumerate(VOCABULARY.verbs)}
        items.append(
            {"image_id": 7, "person_box": ANNA, "point_instr": [*box, 0.5]}
            | {key: [*box, score] for key, score in scores.items()}
            | {"hit_agent": max(scores["hit_instr"], scores["hit_obj"]), "stand_agent": 0.3}
            | {"talk_on_phone_agent": scores["talk_on_phone_instr"], "point_agent": 0}
        )
    triplets, agents = read(save(tmp_path / "d.pkl", items))
    assert triplets.verb.tolist() == [HIT_WITH, HIT, TALK, POINT] * 3
    assert np.isnan(triplets.object_boxes).all(axis=1).tolist() == [False] * 4 + [True] * 4 + [False] * 4
    assert triplets.score[::4].tolist() == np.float32([0, 0.1, 0.2]).tolist()
    assert agents.action.tolist() == [0, 1, 2, 3] * 3


@pytest.mark.parametrize("module", ["utils", "__main__", "engine"])
@pytest.mark.parametrize("protocol", range(6))
def test_the_template_of_upt_answers_for_absent_keys(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, module: str, protocol: int
):
    template = CacheTemplate(None, {"image_id": 8, "person_box": BEN, "hit_agent": 0.5, "hit_obj": [*CUP, 0.5]})
    with monkeypatch.context() as patch:
        patch.setattr(CacheTemplate, "__module__", module)
        patch.setitem(sys.modules, module, types.SimpleNamespace(CacheTemplate=CacheTemplate))
        path = save(tmp_path / "d.pkl", [template, item(stand_agent=0.75)], protocol)
    with caplog.at_level(logging.INFO):
        triplets, agents = read(path)
    assert triplets.verb.tolist() == [HIT_WITH, HIT, TALK, POINT]
    filler = np.float32([0, 0, 0.1, 0.1]).tolist()
    assert triplets.object_boxes.tolist() == [filler, CUP, filler, filler]
    assert triplets.score.tolist() == [0, 0.5, 0, 0]
    assert agents.score.tolist() == [0.5, 0, 0, 0, 0.75]
    assert "1 items are of a CacheTemplate" in caplog.text
    assert "3 roles count as of score 0" in caplog.text
    assert "3 agents as of score 0" in caplog.text


def test_a_template_answers_for_no_key_that_is_merely_misspelt(tmp_path: Path):
    items = [item(), CacheTemplate(None, {"image_id": 8, "person_box": BEN, "hit_objj": 1, "punch_obj": [*CUP, 0.5]})]
    with pytest.raises(ValueError, match=r"d\.pkl: item 1, 'punch_obj': no such action or role .* hit_instr, hit_obj"):
        read(save(tmp_path / "d.pkl", items))
    del items[1]["punch_obj"], items[1]["person_box"]
    with pytest.raises(ValueError, match=r"d\.pkl: item 1, 'person_box': expected 4 number\(s\), got no such key"):
        read(save(tmp_path / "d.pkl", items))


# ---- what is refused


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hit_obj": [NAN, 5, 9, 9, 0.5]}, "'hit_obj': the object box is neither four finite numbers nor four NaN"),
        ({"hit_obj": [5, 5, 9, math.inf, 0.5]}, "'hit_obj': the object box is neither four finite numbers"),
        ({"hit_obj": [9, 5, 5, 9, 0.5]}, "'hit_obj': the object box is inverted"),
        ({"person_box": [9, 5, 5, 9], "hit_instr": [*CUP, 1]}, "'hit_instr': the human box is inverted"),
        ({"person_box": [NAN, 5, 5, 9], "stand_agent": 0}, "'stand_agent': the human box is not four finite numbers"),
        ({"person_box": [5, 5, 9]}, r"'person_box': expected 4 number\(s\), got \[5, 5, 9\]"),
        ({"hit_obj": [*CUP]}, r"'hit_obj': expected 5 number\(s\), got \[5\.0, 5\.0, 9\.0, 9\.0\]"),
        ({"hit_obj": np.ones((1, 5))}, r"'hit_obj': expected 5 number\(s\), got array\("),
        ({"hit_obj": NAN}, r"'hit_obj': expected 5 number\(s\), got nan"),
        ({"hit_obj": [*CUP, "0.5"]}, r"'hit_obj': expected 5 number\(s\)"),
        ({"hit_obj": [*CUP, True]}, r"'hit_obj': expected 5 number\(s\)"),
        ({"hit_obj": [*CUP, None]}, r"'hit_obj': expected 5 number\(s\)"),
        ({"hit_obj": [*CUP, [0.5]]}, r"'hit_obj': expected 5 number\(s\)"),
        ({"hit_obj": [*CUP, 10**400]}, r"'hit_obj': expected 5 number\(s\)"),
        ({"stand_agent": "high"}, r"'stand_agent': expected 1 number\(s\), got 'high'"),
        ({"stand_agent": None}, r"'stand_agent': expected 1 number\(s\), got None"),
        ({"stand_agent": [0.1, 0.2]}, r"'stand_agent': expected 1 number\(s\), got \[0\.1, 0\.2\]"),
        ({"image_id": 9}, "'image_id': image 9 is not one of the 2 of the split; 1 item"),
        ({"image_id": "7"}, "'image_id': expected COCO's image id, got '7'"),
        ({"image_id": 7.0}, "'image_id': expected COCO's image id, got 7.0"),
        ({"image_id": True}, "'image_id': expected COCO's image id, got True"),
        ({"image_id": 2**70}, "'image_id': expected COCO's image id, got 1180"),
        ({"image_id": [7, 8]}, "'image_id': expected COCO's image id"),
    ],
)
def test_what_the_format_forbids_is_an_error_that_names_file_item_and_key(tmp_path: Path, values: dict, message: str):
    path = save(tmp_path / "d.pkl", [item(hit_obj=[*CUP, 0.5]), item(**values)])
    with pytest.raises(ValueError, match=rf"d\.pkl: item 1, {message}"):
        read(path)


@pytest.mark.parametrize("key", ["image_id", "person_box", "hit_obj", "stand_agent"])
def test_an_absent_key_of_a_plain_dictionary_is_an_error(tmp_path: Path, key: str):
    items = [item(), item()]
    del items[1][key]
    with pytest.raises(ValueError, match=rf"d\.pkl: item 1, '{key}': .*got no such key"):
        read(save(tmp_path / "d.pkl", items))


def test_a_fault_far_down_is_named_by_its_own_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rmlr.detections.vcoco.AT_ONCE", 2)
    items = [item(7, hit_obj=[*CUP, n]) for n in range(7)]
    assert read(save(tmp_path / "d.pkl", items))[0].score.tolist() == list(range(7))
    items[5]["hit_obj"] = []
    with pytest.raises(ValueError, match=r"item 5, 'hit_obj'"):
        read(save(tmp_path / "d.pkl", items))


def test_a_value_without_a_score_may_be_anything_of_five_numbers(tmp_path: Path):
    triplets, agents = read(save(tmp_path / "d.pkl", [item(person_box=[NAN] * 4, hit_obj=[1, NAN, 0, 0, NAN])]))
    assert (len(triplets.score), len(agents.score)) == (0, 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"image_id": 7}, r"expected a list of dictionaries, got \{'image_id': 7\}"),
        (np.zeros(3), r"expected a list of dictionaries, got array\(\[0\.0, 0\.0, 0\.0\]\)"),
        ([item(), [1, 2]], r"item 1: expected a dictionary, got \[1, 2\]"),
    ],
)
def test_what_is_no_list_of_dictionaries_is_an_error(tmp_path: Path, content, message: str):
    with pytest.raises(ValueError, match=rf"d\.pkl: {message}"):
        read(save(tmp_path / "d.pkl", content))


@pytest.mark.parametrize("raw", [b"", b"PK\x03\x04 by torch.save", b"not a pickle", pickle.dumps([item()], 2)[:-40]])
def test_a_file_that_is_no_whole_pickle_is_an_error(tmp_path: Path, raw: bytes):
    (tmp_path / "d.pkl").write_bytes(raw)
    with pytest.raises(ValueError, match=r"d\.pkl: not a pickle of plain values"):
        read(tmp_path / "d.pkl")


def test_a_file_that_is_missing_is_an_error(tmp_path: Path):
    with pytest.raises(ValueError, match=r"absent\.pkl: no such file"):
        read(tmp_path / "absent.pkl")


def test_another_dataset_has_no_pickle(tmp_path: Path):
    words = Vocabulary("hicodet", ("cup", "person"), 1, ("hold",), ((0, 0),))
    with pytest.raises(ValueError, match=r"d\.pkl: a pickle is V-COCO's form, the vocabulary is of hicodet"):
        read_vcoco_results(save(tmp_path / "d.pkl", []), words, [])


# ---- what is never run


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("name", "function", "arguments"),
    [
        ("system", os.system, ("touch {mark}",)),
        ("eval", builtins.eval, ("open('{mark}', 'w')",)),
        ("exec", builtins.exec, ("open('{mark}', 'w')",)),
        ("eval", builtins.eval, ("(lambda: open('{mark}', 'w'))()",)),
        ("getattr", builtins.getattr, ("{mark}", "upper")),
        ("open", builtins.open, ("{mark}", "w")),
        ("Fraction", Fraction, (1, 2)),
        ("attrgetter", operator.attrgetter, ("upper",)),
    ],
)
def test_a_pickle_that_calls_is_refused_by_the_name_of_what_it_calls_and_nothing_runs(
    tmp_path: Path, protocol: int, name: str, function, arguments: tuple
):
    mark = tmp_path / "mark"
    call = Calls(function, *[str(argument).format(mark=mark) for argument in arguments])
    for place in ([call], [item(hit_obj=call)], [item(unread=[call])], call):
        with pytest.raises(ValueError, match=rf"d\.pkl: not a pickle of plain values \(it asks for \w+\.{name}, which"):
            read(save(tmp_path / "d.pkl", place, protocol))
    assert [entry.name for entry in tmp_path.iterdir()] == ["d.pkl"]


def test_arrays_of_objects_records_and_text_are_refused(tmp_path: Path):
    record = np.zeros(5, dtype=[("x", "f4")])
    for array in (
        np.array([Calls(os.getcwd)], dtype=object),
        record,
        np.array(["a"]),
        np.array([1j]),
        np.array([True]),
    ):
        with pytest.raises(ValueError, match=r"it holds a NumPy array"):
            read(save(tmp_path / "d.pkl", [item(hit_obj=array)], 2))
    with pytest.raises(ValueError, match=r"it asks for numpy\.matrix"), pytest.warns(PendingDeprecationWarning):
        read(save(tmp_path / "d.pkl", [item(hit_obj=np.matrix([1.0]))], 2))


def test_torch_tensors_are_refused_with_what_to_do_instead(tmp_path: Path):
    import torch

    with pytest.raises(
        ValueError, match=r"it asks for torch\._utils\.\w+, which is not run.*torch tensors by \.tolist"
    ):
        read(save(tmp_path / "d.pkl", [item(hit_obj=torch.tensor([*CUP, 0.5]))]))


FUNCTION = b"c_codecs\nencode\n"
TEMPLATE = b"cutils\nCacheTemplate\n"
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85X\x01\x00\x00\x00b\x87R"
F4 = b"cnumpy\ndtype\nX\x02\x00\x00\x00f4K\x00K\x01\x87R"
STATE = b"N}X\x0c\x00\x00\x00__setstate__" + FUNCTION + b"s\x86"  # (None, {"__setstate__": encode}): sets an attribute


@pytest.mark.parametrize(
    "raw",
    [
        FUNCTION + STATE + b"b",
        TEMPLATE + STATE + b"b",
        TEMPLATE + b")\x81" + STATE + b"b",
        TEMPLATE + b")R}X\x01\x00\x00\x00aK\x01sb",
        ARRAY + STATE + b"b",
        F4 + STATE + b"b",
        b"cnumpy\nndarray\n" + STATE + b"b",
        b"cnumpy\nndarray\n)\x81",
        b"ccollections\nOrderedDict\n" + STATE + b"b",
        b"ccollections\nOrderedDict\n)R" + STATE + b"b",
        b"cnumpy\ndtype\n)\x81",
        b"c_codecs\nencode.__call__\n",
        b"crmlr.data.vcoco_results\n_KNOWN\n",
        b"cbuiltins\ngetattr\n",
        b"X\x01\x00\x00\x00aQ",  # a persistent id
        FUNCTION + b"X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R",
        ARRAY + b"(K\x01J\xff\xff\xff\x7fK\x00\x86" + F4 + b"\x89X\x00\x00\x00\x00tb",  # 2**31 empty rows
        ARRAY + b"(K\x01K\x04\x85" + F4 + b"\x89K\x10tb",
        ARRAY + b"(K\x01K\x04\x85" + F4 + b"\x89X\x04\x00\x00\x00abcdtb",  # four bytes for four numbers
        ARRAY + b"(K\x01K\x01\x85" + FUNCTION + b"\x89X\x04\x00\x00\x00abcdtb",
    ],
)
def test_a_pickle_cannot_alter_the_functions_that_it_may_call(tmp_path: Path, raw: bytes):
    (tmp_path / "d.pkl").write_bytes(b"\x80\x02](" + raw + b"e.")
    with pytest.raises(ValueError, match=r"d\.pkl: (not a pickle of plain values|item 0: expected a dictionary)"):
        read(tmp_path / "d.pkl")
    good = [item(hit_obj=np.array([*CUP, 0.5])), CacheTemplate(None, item(hit_obj=[*CUP, 0.5]))]
    assert read(save(tmp_path / "good.pkl", good))[0].score.tolist() == [0.5, 0.5]
    assert gc.isenabled()


# ---- what is written


def build(triplets=(), agents=()) -> tuple[Triplets, Agents]:
    """Rows (image, person box, verb, object box, score) and (image, person box, action, score)."""

    def column(rows, place: int, dtype, *shape: int) -> np.ndarray:
        return np.array([row[place] for row in rows], dtype=dtype).reshape(-1, *shape)

    return (
        Triplets(
            column(triplets, 0, np.int64),
            column(triplets, 1, np.float32, 4),
            column(triplets, 3, np.float32, 4),
            np.zeros(len(triplets), dtype=np.int64),
            column(triplets, 2, np.int64),
            column(triplets, 4, np.float32),
        ),
        Agents(
            column(agents, 0, np.int64),
            column(agents, 1, np.float32, 4),
            column(agents, 2, np.int64),
            column(agents, 3, np.float32),
        ),
    )


def write(path: Path, triplets: Triplets, agents: Agents | None) -> list[dict]:
    write_vcoco_results(path, triplets, agents, VOCABULARY)
    return pickle.loads(path.read_bytes())


def test_rows_of_one_person_share_an_item_unless_they_are_of_one_verb(tmp_path: Path):
    triplets, agents = build(
        [
            (7, ANNA, HIT, CUP, 0.5),
            (7, ANNA, TALK, [NAN] * 4, 0.25),
            (7, ANNA, HIT, BEN, 0.75),
            (8, ANNA, HIT, CUP, 0.5),
        ],
        [(7, ANNA, 1, 0.5), (7, BEN, 1, 0.5)],
    )
    items = write(tmp_path / "d.pkl", triplets, agents)
    assert (tmp_path / "d.pkl").read_bytes()[:2] == b"\x80\x02"
    assert [(one["image_id"], one["person_box"]) for one in items] == [(7, ANNA), (7, ANNA), (8, ANNA), (7, BEN)]
    assert all(one.keys() == item().keys() for one in items)
    assert items[0]["hit_obj"] == [*CUP, 0.5]
    assert [math.isnan(number) for number in items[0]["talk_on_phone_instr"]] == [True] * 4 + [False]
    assert all(math.isnan(number) for number in items[0]["hit_instr"])
    assert [one["stand_agent"] for one in items[::3]] == [0.5, 0.5]
    assert math.isnan(items[1]["stand_agent"])
    kinds = {
        type(number)
        for one in items
        for value in one.values()
        for number in (value if type(value) is list else [value])
    }
    assert kinds == {int, float}


def test_without_agents_and_without_rows_the_file_says_so_and_comes_back_empty(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    triplets, agents = build([(7, ANNA, verb, CUP, 0.5) for verb in range(4)])
    write(tmp_path / "d.pkl", triplets, None)
    assert "no score for 4 actions or roles (hit_agent, ...)" in caplog.text
    again = read(tmp_path / "d.pkl")
    assert (lines(again[0]), lines(again[1])) == (lines(triplets), [])
    triplets, agents = build()
    assert write(tmp_path / "d.pkl", triplets, agents) == []


def test_rows_that_the_format_forbids_are_not_written_and_leave_what_was_there(tmp_path: Path):
    path = tmp_path / "d.pkl"
    path.write_text("old")
    good, people = build([(7, ANNA, HIT, CUP, 0.5)], [(7, ANNA, 0, 0.5)])
    with pytest.raises(ValueError, match=r"d\.pkl, to be written: row 1 \(from 0\): the score is NaN"):
        write(path, build([(7, ANNA, HIT, CUP, 0.5), (7, ANNA, HIT, CUP, NAN)])[0], people)
    with pytest.raises(ValueError, match=r"d\.pkl, to be written: row 0 \(from 0\): the action is not in 0\.\.3"):
        write(path, good, build(agents=[(7, ANNA, 4, 0.5)])[1])
    words = Vocabulary("hicodet", ("cup", "person"), 1, ("hold",), ((0, 0),))
    with pytest.raises(ValueError, match="V-COCO's form"):
        write_vcoco_results(path, good, people, words)
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("d.pkl", "old")]


images, people = st.sampled_from([7, 8]), st.sampled_from([ANNA, BEN, CUP])
scores = st.sampled_from([-1e30, -0.5, 0.0, 0.25, 0.5, float(np.float32(0.1))]).map(
    lambda score: float(np.float32(score))
)
objects = st.sampled_from([ANNA, CUP, [NAN] * 4, [0.0] * 4, [-5.0, 0.1, 5.5, 0.1]])
triplet_rows = st.lists(st.tuples(images, people, st.integers(0, 3), objects, scores), max_size=25)
agent_rows = st.lists(st.tuples(images, people, st.integers(0, 3), scores), max_size=25)


def in_groups(rows: list[tuple], *places: int) -> dict[tuple, list[tuple]]:
    """Rows by their values at some places, in each group in the order they have."""
    groups = {}
    for row in rows:
        groups.setdefault(tuple(row[place] for place in places), []).append(row)
    return groups


@given(triplet_rows, agent_rows)
def test_what_is_written_comes_back_row_by_row_and_equal_scores_in_order(
    tmp_path_factory, triplets: list, agents: list
):
    path = tmp_path_factory.mktemp("round") / "d.pkl"
    before = build(triplets, agents)
    items, after = write(path, *before), read(path)
    for verb, old, new in zip((3, 2), map(lines, before), map(lines, after), strict=True):
        assert Counter(old) == Counter(new)
        assert in_groups(old, 0, verb) == in_groups(new, 0, verb)  # what the official program meets in an image
    assert len(items) <= len(triplets) + len(agents)
