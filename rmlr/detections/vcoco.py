"""V-COCO's official format of detections: the pickle that `vsrl_eval.py` of s-gupta/v-coco reads.

A list of dictionaries, each for one person box with at most one object for every action-role:

    {'image_id': 294, 'person_box': [x1, y1, x2, y2],
     'stand_agent': 0.9, 'hit_agent': 0.1, ...                      every action of the vocabulary
     'hit_instr': [x1, y1, x2, y2, 0.2], 'hit_obj': [...], ...}     every action-role: the object's box, the score

A NaN score is no prediction. A box of four NaN, or of four zeros, means "no object". Coordinates are those of our
tables. The format has no object class: the category is read as -1, unknown.

An ordinary unpickler runs any code that a pickle names. Ours knows only plain containers, numbers and NumPy arrays, and
refuses everything else by name.
"""

import gc
import logging
import math
import pickle
import reprlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int64

from rmlr.detections.triplets import check_agents, check_triplets
from rmlr.hoi import Agents, Triplets, Vocabulary
from rmlr.study.files import written_aside

log = logging.getLogger(__name__)

UNKNOWN = -1
PROTOCOL = 2  # the official program may run on Python 2
TEMPLATE_ANSWERS = {5: [0.0, 0.0, 0.1, 0.1, 0.0], 1: 0.0}  # UPT's CacheTemplate for an absent role, an absent agent
AT_ONCE = 4096  # items processed together; more need more memory and save no time
NUMBERS = {int, float}
NUMERIC = frozenset(kind + size for kind in "iuf" for size in "1248") - {"f1"}  # NumPy's names of types


def read_vcoco_results(path: Path, vocabulary: Vocabulary, image_ids: Sequence[int]) -> tuple[Triplets, Agents]:
    """Every score of the list that is not NaN, as a row; in the order of items, and in an item in that of `vocabulary`.

    UPT and PViC write dictionaries of a class CacheTemplate that returns defaults for absent keys: score 0 and a box of
    a tenth of a pixel. The official program scores these defaults like any other row, and in scenario 2 they can be
    right, so they become rows.

    Input that is invalid by the format, the vocabulary or the images of the split, or a pickle that is not plain, is
    one ValueError that names file, item (from 0) and key.
    """
    role_keys, agent_keys = _keys(path, vocabulary)
    with _collector_at_rest():
        items = _load(path)
        _check_keys(path, items, role_keys, agent_keys)
        image_id = _image_ids(path, items, image_ids)
        human_boxes = _numbers(path, items, ["person_box"], 4)[:, 0]
        roles = _numbers(path, items, role_keys, 5)
        doings = _numbers(path, items, agent_keys, 1)[..., 0]
        del items
    item, verb = np.nonzero(~np.isnan(roles[..., 4]))
    triplets = Triplets(
        image_id=image_id[item],
        human_boxes=human_boxes[item],
        object_boxes=roles[item, verb, :4],
        object_category=np.full(len(item), UNKNOWN, dtype=np.int64),
        verb=verb,
        score=roles[item, verb, 4],
    )
    agent_item, action = np.nonzero(~np.isnan(doings))
    agents = Agents(image_id[agent_item], human_boxes[agent_item], action, doings[agent_item, action])

    def name_triplet(row: int) -> str:
        return _place(int(item[row]), role_keys[verb[row]])

    def name_agent(row: int) -> str:
        return _place(int(agent_item[row]), agent_keys[action[row]])

    check_triplets(path, triplets, vocabulary=vocabulary, describe_row=name_triplet)
    check_agents(path, agents, vocabulary=vocabulary, describe_row=name_agent)
    return triplets, agents


def write_vcoco_results(path: Path, triplets: Triplets, agents: Agents | None, vocabulary: Vocabulary) -> None:
    """Write the list; scores and boxes are rounded to 32 bits, and the classes of objects are lost.

    Rows of the same image and person box share an item if possible: one item has each verb once, and the items of one
    image and verb are in the order of the rows. So the official program, which processes image by image, ranks equal
    scores in the order of the table.
    """
    role_keys, agent_keys = _keys(path, vocabulary)
    rows = _triplet_rows(path, triplets, vocabulary, role_keys)
    if agents is not None:
        rows = chain(rows, _agent_rows(path, agents, vocabulary, agent_keys))
    with _collector_at_rest():
        items, missing = _items(rows, dict.fromkeys(agent_keys, math.nan) | dict.fromkeys(role_keys, [math.nan] * 5))
        if missing:
            message = "%s: no score for %d actions or roles (%s, ...); the official program stops at one without any"
            log.warning(message, path, len(missing), missing[0])
        with written_aside(path) as aside, aside.open("wb") as file:
            pickle.dump(items, file, protocol=PROTOCOL)


def _keys(path: Path, vocabulary: Vocabulary) -> tuple[list[str], list[str]]:
    """The keys of all action-roles, in the order of verbs, and of all actions' agents."""
    if vocabulary.dataset != "vcoco":
        raise ValueError(f"{path}: a pickle is V-COCO's form, the vocabulary is of {vocabulary.dataset}")
    verbs = vocabulary.verbs + vocabulary.unscored_verbs
    return [verb.replace(" ", "_") for verb in verbs], [f"{action}_agent" for action in vocabulary.actions]


def _place(item: int, key: str) -> str:
    """The position of a value in the list, in words."""
    return f"item {item}, '{key}'"


@contextmanager
def _collector_at_rest() -> Iterator[None]:
    """Without garbage collection: millions of containers are created and none is freed, so scanning them triples the
    time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


# ---- writing: rows (key, image, person box, value of the key)


def _items(rows: Iterable[tuple], absent: dict[str, Any]) -> tuple[list[dict], list[str]]:
    """Rows as items, with the values of `absent` under all other keys; and the keys that no row has."""
    items: list[dict[str, Any]] = []
    items_of: dict[tuple, list[int]] = {}  # of an image and person box
    last: dict[tuple, int] = {}  # the last item with a key, in an image
    for key, image_id, human_box, value in rows:
        earliest = 1 + last.get((key, image_id), -1)
        own = items_of.setdefault((image_id, human_box), [])
        place = bisect_left(own, earliest)
        if place == len(own):
            own.append(len(items))
            items.append({"image_id": image_id, "person_box": list(human_box), **absent})
        items[own[place]][key] = value
        last[key, image_id] = own[place]
    present = {key for key, _ in last}
    return items, [key for key in absent if key not in present]


def _triplet_rows(path: Path, triplets: Triplets, vocabulary: Vocabulary, keys: Sequence[str]) -> Iterator[tuple]:
    check_triplets(f"{path}, to be written", triplets, vocabulary=vocabulary)
    human_boxes, object_boxes, scores = _narrow(triplets.human_boxes, triplets.object_boxes, triplets.score)
    columns = (triplets.image_id.tolist(), human_boxes, triplets.verb.tolist(), object_boxes, scores)
    for image_id, human_box, verb, object_box, score in zip(*columns, strict=True):
        yield keys[verb], image_id, tuple(human_box), [*object_box, score]


def _agent_rows(path: Path, agents: Agents, vocabulary: Vocabulary, keys: Sequence[str]) -> Iterator[tuple]:
    check_agents(f"{path}, to be written", agents, vocabulary=vocabulary)
    human_boxes, scores = _narrow(agents.human_boxes, agents.score)
    columns = (agents.image_id.tolist(), human_boxes, agents.action.tolist(), scores)
    for image_id, human_box, action, score in zip(*columns, strict=True):
        yield keys[action], image_id, tuple(human_box), score


def _narrow(*arrays: np.ndarray) -> list[list]:
    """Plain Python numbers, rounded to the 32 bits that the official program keeps."""
    return [array.astype(np.float32).tolist() for array in arrays]


# ---- reading: from items to columns of numbers


class CacheTemplate(dict):
    """UPT's and PViC's dictionary with defaults for absent keys, from any module, as a plain dictionary."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("it gives a dictionary a state")


def _check_keys(path: Path, items: Sequence[dict], role_keys: Sequence[str], agent_keys: Sequence[str]) -> None:
    """Report keys that are not read, and keys that have defaults from templates."""
    known = {"image_id", "person_box", *role_keys, *agent_keys}
    unknown = {key: count for key, count in Counter(chain.from_iterable(items)).items() if key not in known}
    templates = [item for item in items if type(item) is CacheTemplate]
    in_templates = Counter(chain.from_iterable(templates))
    endings = {key.rsplit("_", 1)[1] for key in (*role_keys, *agent_keys)}
    for key in unknown:
        if key in in_templates and str(key).rsplit("_", 1)[-1] in endings:  # a misspelt key would get a default
            number = next(n for n, item in enumerate(items) if type(item) is CacheTemplate and key in item)
            raise ValueError(
                f"{path}: {_place(number, key)}: no such action or role in the vocabulary of the annotations. Are the "
                f"detections of another dataset? It has {', '.join((*role_keys, *agent_keys))}"
            )
    if unknown:
        log.warning(
            "%s: keys that belong to no action are ignored, as in the official program: %s", path, reprlib.repr(unknown)
        )
    if templates:
        absent = [sum(len(templates) - in_templates[key] for key in keys) for keys in (role_keys, agent_keys)]
        log.info(
            "%s: %d items are of a CacheTemplate (UPT, PViC), which answers for absent keys; as officially, %d roles "
            "count as of score 0 and box %s, %d agents as of score 0",
            *(path, len(templates), absent[0], TEMPLATE_ANSWERS[5][:4], absent[1]),
        )


def _image_ids(path: Path, items: Sequence[dict], image_ids: Sequence[int]) -> Int64[np.ndarray, " i"]:
    """The image of every item, which must be in the split."""
    found = np.empty(len(items), dtype=np.int64)
    for number, item in enumerate(items):
        value = _as_sequence(item.get("image_id"))
        if len(value) != 1 or type(value[0]) is not int or not -(2**63) <= value[0] < 2**63:
            got = reprlib.repr(item["image_id"]) if "image_id" in item else "no such key"
            raise ValueError(f"{path}: {_place(number, 'image_id')}: expected COCO's image id, got {got}")
        found[number] = value[0]
    is_unknown = ~np.isin(found, np.array(image_ids, dtype=np.int64))
    if is_unknown.any():
        number = int(np.argmax(is_unknown))
        raise ValueError(
            f"{path}: {_place(number, 'image_id')}: image {found[number]} is not one of the {len(image_ids)} of the "
            f"split; {int(is_unknown.sum())} item(s) like it. Were they predicted on another one?"
        )
    return found


def _numbers(path: Path, items: Sequence[dict], keys: Sequence[str], width: int) -> Float32[np.ndarray, "i k w"]:
    """The values of every item under every key, `width` numbers each."""
    answers = dict.fromkeys(keys, TEMPLATE_ANSWERS.get(width))
    numbers = np.empty((len(items), len(keys), width), dtype=np.float32)
    for start in range(0, len(items), AT_ONCE):
        part = [answers | item if type(item) is CacheTemplate else item for item in items[start : start + AT_ONCE]]
        flat = _flat([item.get(key) for item in part for key in keys], width)
        if flat is None:
            places = ((n, key) for n, item in enumerate(part) for key in keys if _flat([item.get(key)], width) is None)
            number, key = next(places)
            item = items[start + number]
            got = reprlib.repr(item[key]) if key in item else "no such key; NaN would say that nothing was predicted"
            raise ValueError(f"{path}: {_place(start + number, key)}: expected {width} number(s), got {got}")
        with np.errstate(over="ignore"):  # values too large for 32 bits become infinite, as in the official program
            numbers[start : start + len(part)] = flat.reshape(len(part), len(keys), width)
    return numbers


def _flat(values: list, width: int) -> Float64[np.ndarray, " n"] | None:
    """All numbers of values that have `width` each; None if one does not."""
    if width > 1 or not NUMBERS.issuperset(map(type, values)):
        values = [value if type(value) is list else _as_sequence(value) for value in values]
        if not {width}.issuperset(map(len, values)):
            return None
        values = list(chain.from_iterable(values))
    if not NUMBERS.issuperset(map(type, values)):
        return None
    try:
        return np.fromiter(values, dtype=np.float64, count=len(values))
    except OverflowError:  # an integer of hundreds of digits
        return None


def _as_sequence(value: Any) -> Sequence:
    return value if type(value) is tuple else value.values if type(value) is _Array else [value]


# ---- reading: a pickle of plain values


def _load(path: Path) -> list[dict]:
    """The list of dictionaries in a pickle, read without running code from it."""
    if not path.is_file():
        what = "is not a file" if path.exists() else "no such file"
        raise ValueError(f"{path}: {what}; expected V-COCO's pickle of detections")
    try:
        with path.open("rb") as file:
            content = _Unpickler(file, encoding="latin1").load()  # the encoding of Python 2's bytes, as NumPy wants it
    except Exception as error:  # an invalid or malicious pickle may raise anything
        said = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path}: not a pickle of plain values ({said}). {_HINT}") from error
    if type(content) is not list:
        raise ValueError(f"{path}: expected a list of dictionaries, got {reprlib.repr(content)}. {_HINT}")
    for number, item in enumerate(content):
        if type(item) not in (dict, CacheTemplate):
            raise ValueError(f"{path}: item {number}: expected a dictionary, got {reprlib.repr(item)}")
    return content


_HINT = (
    "Expected a list of dictionaries of numbers, lists and NumPy arrays, by pickle.dump. Convert other values to these "
    "before they are written: torch tensors by .tolist()"
)


class _Type:
    """A NumPy dtype of numbers, as described in a pickle."""

    __slots__ = ("code", "order")

    def __init__(self, code: str, *_: object) -> None:
        if code not in NUMERIC:
            raise pickle.UnpicklingError(f"it holds a NumPy array of type {code!r:.40}, not of numbers")
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple) -> None:
        _, order, *fields = state
        if order not in ("<", ">", "=", "|") or fields[:3] != [None] * 3:
            raise pickle.UnpicklingError("it holds a NumPy array of records, not of numbers")
        self.order = order

    def read(self, data: Any, shape: Any, order: Any) -> list:
        """Numbers from raw memory, as a plain list; a single number gives a list of one."""
        raw = data.encode("latin1") if isinstance(data, str) else data  # text: bytes of Python 2
        if not isinstance(raw, bytes | bytearray) or not raw:
            raise pickle.UnpicklingError("it holds a NumPy array without content")
        return np.frombuffer(raw, np.dtype(self.order + self.code)).reshape(shape or (1,), order=order).tolist()


class _Array:
    """A NumPy array of a pickle. Its content follows, through `__setstate__`."""

    __slots__ = ("values",)

    def __init__(self, *_: object) -> None:
        self.values: list = []

    def __setstate__(self, state: tuple) -> None:
        *_, shape, type_, is_fortran, data = state
        self.values = type_.read(data, shape, "F" if is_fortran else "C")

    def __repr__(self) -> str:
        return f"array({reprlib.repr(self.values)})"


class _Function:
    """A function that a pickle may call. It has no attributes that a pickle could set."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable) -> None:
        self._call = call

    def __call__(self, *arguments: object) -> object:
        return self._call(*arguments)

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("it gives a function a state")


def _array_at_once(data: object, type_: _Type, shape: object, order: object) -> _Array:
    array = _Array()
    array.values = type_.read(data, shape, order)
    return array


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":  # used for bytes in protocols 0 to 2
        raise pickle.UnpicklingError(f"it encodes text as {encoding!r:.40}")
    return text.encode(encoding)


_KNOWN = {
    ("numpy", "dtype"): _Function(_Type),
    ("numpy", "ndarray"): None,  # only used as an argument
    ("_codecs", "encode"): _Function(_encode),
    ("collections", "OrderedDict"): _Function(dict),
}
for _numpy in ("numpy.core", "numpy._core"):  # NumPy 1 and 2
    _KNOWN |= {
        (f"{_numpy}.multiarray", "_reconstruct"): _Function(_Array),
        (f"{_numpy}.multiarray", "scalar"): _Function(lambda type_, data: type_.read(data, (), "C")[0]),
        (f"{_numpy}.numeric", "_frombuffer"): _Function(_array_at_once),
    }


class _Unpickler(pickle.Unpickler):
    """Looks names up in `_KNOWN`, and nowhere else."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        if global_name == CacheTemplate.__name__:
            return CacheTemplate
        if (module_name, global_name) not in _KNOWN:
            raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}, which is not run")
        return _KNOWN[module_name, global_name]
