"""Validation of tensor files, used by all readers: names, dtypes, shapes, ranges, finite values, checksums.

`TensorFile` reads safetensors, `load_pickled` files of `torch.save`. Invalid files are one ValueError that names the
file, the tensor, the first index and what to do. `save_tensors` adds a CRC-32 of every tensor to a file's metadata; a
file of `torch.save` has one for each of its records. Files of other programs, and older files, have no checksums; all
other checks apply to them.

Cost: a tensor is read completely once per process, when it is first used, with two passes in memory: one to two seconds
per GB and core. Unused tensors are not read.
"""

import argparse
import json
import pickle
import threading
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rmlr.study.files import refuse_what_is_no_file, written_aside

CHECKSUMS = "crc32"  # key of the metadata: JSON, a checksum for each tensor
DIGEST = "digest"  # likewise: of the network whose maps a shard holds
KNOWN = {CHECKSUMS, DIGEST, "format"}

LEAST = torch.finfo(torch.float64).min
MEASURED = (  # torch finds their extremes in one pass; other dtypes are converted
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8),
)


@dataclass(frozen=True, slots=True)
class Form:
    """The required form of a tensor. A size given as a word is the same number throughout a file; floats are finite."""

    dtype: torch.dtype
    shape: tuple[int | str, ...]
    low: int | float | None = None
    high: int | float | None = None

    def __str__(self) -> str:
        return f"{_name(self.dtype)} of shape [{', '.join(map(str, self.shape))}]"


class TensorFile:
    """A safetensors file: names, dtypes and shapes are checked at once, a tensor's values when it is first used.

    Tensors are views of the memory-mapped file. Access is thread-safe. `dict(file)` checks and loads all tensors.
    """

    def __init__(self, path: Path, hint: str, forms: Mapping[str, Form] | None = None) -> None:
        """`forms` describes all tensors of a file, None for a file of another program; `hint` says what to do after an
        error.

        `sizes` holds the numbers for the words in `forms`.
        """
        self.path, self.sizes = path, dict[str, int]()
        self._hint, self._forms = hint, forms or {}
        self._checked, self._lock = set[str](), threading.Lock()
        refuse_what_is_no_file(path, hint)
        try:
            with safe_open(path, "pt") as file:
                self.metadata: dict[str, str] = file.metadata() or {}
                self._tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{path}: cannot be read ({error}). Is it truncated? {hint}") from error
        self._checksums = self._read_checksums()
        if forms is not None:
            self._check_forms(forms)

    def __getitem__(self, name: str) -> Tensor:
        tensor = self._tensors[name]
        with self._lock:
            if name not in self._checked:
                self._check_values(name, tensor)
                self._checked.add(name)
        return tensor

    def keys(self) -> Iterable[str]:
        """Names of the tensors."""
        return self._tensors.keys()

    def error(self, name: str, fault: str) -> ValueError:
        """The error to raise if a tensor does not match others."""
        return ValueError(f"{self.path}: tensor '{name}' {fault}. {self._hint}")

    def _read_checksums(self) -> dict[str, str] | None:
        if CHECKSUMS not in self.metadata:
            return None
        try:
            found = json.loads(self.metadata[CHECKSUMS])
        except ValueError:
            found = None
        if not isinstance(found, dict) or found.keys() != self._tensors.keys():
            raise ValueError(f"{self.path}: its checksums do not match its tensors: it is damaged. {self._hint}")
        return found

    def _check_forms(self, forms: Mapping[str, Form]) -> None:
        if unknown := self.metadata.keys() - KNOWN:
            raise ValueError(f"{self.path}: unknown metadata {sorted(unknown)[:3]}: it is damaged. {self._hint}")
        if missing := [name for name in forms if name not in self._tensors]:
            raise self.error(missing[0], f"is missing ({len(missing)} of {len(forms)} are)")
        if left := sorted(self._tensors.keys() - forms.keys()):
            raise self.error(left[0], f"is not expected (one of {len(left)})")
        for name, form in forms.items():
            tensor = self._tensors[name]
            fits = tensor.dtype == form.dtype and tensor.dim() == len(form.shape)
            for wanted, size in zip(form.shape, tensor.shape, strict=False):
                fits &= size == (wanted if isinstance(wanted, int) else self.sizes.setdefault(wanted, size))
            if not fits:
                known = ", ".join(f"{word} = {self.sizes[word]}" for word in form.shape if word in self.sizes)
                found = f"{_name(tensor.dtype)} of shape {list(tensor.shape)}"
                raise self.error(name, f"is {found}, expected {form}" + (f" with {known}" if known else ""))

    def _check_values(self, name: str, tensor: Tensor) -> None:
        form = self._forms.get(name)
        fault = wrong_value(tensor, form and form.low, form and form.high)
        if fault is None and self._checksums is not None and _checksum(name, tensor) != self._checksums[name]:
            fault = "does not have the checksum that it was written with: bytes of it have changed"
        if fault is not None:
            raise self.error(name, fault)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file with checksums, atomically. ValueError if a value is not finite."""
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    check_finite(path, ready, "It is not written")
    checksums = json.dumps({name: _checksum(name, ready[name]) for name in sorted(ready)})
    try:
        with written_aside(path) as aside:
            save_file(ready, aside, {**(metadata or {}), CHECKSUMS: checksums})
            _order_metadata(aside)
    except SafetensorError as error:  # includes a full disk
        raise ValueError(f"{path}: cannot be written ({error}). Is the disk full? Make room and try again") from error


def _order_metadata(path: Path) -> None:
    """Make the bytes deterministic: the library writes metadata in random order."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")  # of a JSON header, padded with spaces
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        content = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(content) <= length, f"{path}: its header grew"
        file.seek(8)
        file.write(content.ljust(length))


def check_finite(where: Path | str, tensors: Mapping[str, Tensor], hint: str) -> None:
    """ValueError that names `where`, the tensor and the first index, if a number is not finite."""
    for name, tensor in tensors.items():
        if fault := wrong_value(tensor):
            raise ValueError(f"{where}: tensor '{name}' {fault}. {hint}")


def wrong_value(tensor: Tensor, low: int | float | None = None, high: int | float | None = None) -> str | None:
    """Describes the first value that is not finite or not between `low` and `high`; None if all are valid."""
    if not tensor.numel() or tensor.is_meta:
        return None
    values = tensor.detach() if tensor.dtype in MEASURED else tensor.double()
    low, high = (-torch.inf if low is None else low), (torch.inf if high is None else high)
    smallest, largest = (value.item() for value in values.aminmax())  # NaN if any is NaN: comparisons are then false
    if max(low, LEAST) <= smallest and largest <= min(high, -LEAST):
        return None
    index = (~((values >= low) & (values <= high) & values.isfinite())).nonzero()[0].tolist()
    bounds = [f"at least {low:g}"] * (low > -torch.inf) + [f"at most {high:g}"] * (high < torch.inf)
    kind = "finite" if tensor.is_floating_point() else "whole"
    expected = f"{kind} numbers{' of ' if bounds else ''}{' and '.join(bounds)}"
    return f"holds {tensor[tuple(index)].item()} at {index}, expected {expected}"


def load_pickled(path: Path, hint: str) -> Any:
    """The content of a file of `torch.save`, tensors and plain values only, after a check of its records' checksums.

    ValueError names the file if it cannot be read or its bytes have changed. The caller checks its values
    (`check_finite`).
    """
    refuse_what_is_no_file(path, hint)
    try:
        if zipfile.is_zipfile(path):  # else from before torch 1.6, without checksums
            with zipfile.ZipFile(path) as archive:
                if (damaged := archive.testzip()) is not None:
                    raise ValueError(f"record {damaged} does not have the checksum that it was written with")
        with torch.serialization.safe_globals([argparse.Namespace]):  # DETR's training stores its flags there
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle may raise anything
        said = (str(error).splitlines() or [type(error).__name__])[0]
        if isinstance(error, pickle.UnpicklingError):  # torch's message would explain how to load it unsafely
            said = "it is damaged, or contains more than tensors and plain values"
        raise ValueError(f"{path}: cannot be read as a checkpoint ({said}). {hint}") from error


def nested_tensors(content: Any, name: str = "") -> dict[str, Tensor]:
    """All tensors in dictionaries, lists and tuples, by the path of their keys."""
    if isinstance(content, Tensor):
        return {name: content}
    if isinstance(content, Mapping):
        items = content.items()
    elif isinstance(content, list | tuple):
        items = enumerate(content)
    else:
        return {}
    return {
        key: tensor for at, item in items for key, tensor in nested_tensors(item, f"{name}.{at}".strip(".")).items()
    }


def _checksum(name: str, tensor: Tensor) -> str:
    """CRC-32 of a tensor's name, form and bytes."""
    form = zlib.crc32(f"{name} {_name(tensor.dtype)} {list(tensor.shape)}".encode())
    return f"{zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, form):08x}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
