"""The border check of tensors: what is damaged, missing, narrow, wild or not finite is one error that says where."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import rmlr.study.tensors
from rmlr.study.tensors import (
    CHECKSUMS,
    Form,
    TensorFile,
    check_finite,
    load_pickled,
    nested_tensors,
    save_tensors,
    wrong_value,
)

FORMS = {
    "boxes": Form(torch.float32, ("n", 4)),
    "labels": Form(torch.int64, ("n",), low=0, high=2),
    "maps": Form(torch.float16, ("cells", 3)),
    "flags": Form(torch.bool, ("n",)),
    "scale": Form(torch.float64, ()),
    "nothing": Form(torch.float32, (0, "d")),
}


def tensors() -> dict[str, torch.Tensor]:
    return {
        "boxes": torch.arange(12.0).view(3, 4),
        "labels": torch.tensor([0, 2, 1]),
        "maps": torch.linspace(-1, 1, 15).view(5, 3).half(),
        "flags": torch.tensor([True, False, True]),
        "scale": torch.tensor(2.5, dtype=torch.float64),
        "nothing": torch.zeros(0, 7),
    }


def read(path: Path) -> dict[str, torch.Tensor]:
    return dict(TensorFile(path, "Make it again", FORMS))


@pytest.fixture
def path(tmp_path) -> Path:
    save_tensors(tmp_path / "some.safetensors", tensors())
    return tmp_path / "some.safetensors"


def rewrite(path: Path, **changes: torch.Tensor | None) -> None:
    """As a program without checksums would write it."""
    kept = {name: tensor for name, tensor in (tensors() | changes).items() if tensor is not None}
    save_file(kept, path)


def test_what_is_written_is_read(path):
    found = read(path)
    assert found.keys() == FORMS.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors().items())
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_the_same_tensors_have_the_same_bytes_whatever_the_order_of_their_metadata(tmp_path):
    metadata = {name: name for name in ("format", "digest", "\u00e4")}
    for number in range(8):
        save_tensors(tmp_path / f"{number}", tensors(), metadata)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    assert TensorFile(tmp_path / "0", "").metadata.keys() == {*metadata, CHECKSUMS}


def test_a_file_without_checksums_is_read_and_its_sizes_are_known(path):
    rewrite(path)
    file = TensorFile(path, "", FORMS)
    assert torch.equal(file["boxes"], tensors()["boxes"])
    assert file.sizes == {"n": 3, "cells": 5, "d": 7}


def test_a_bit_that_flips_anywhere_is_one_error_that_names_the_file(path):
    content = path.read_bytes()
    for at in range(len(content)):
        damaged = bytearray(content)
        damaged[at] ^= 1 << at % 8
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"some\.safetensors: .*Make it again") as raised:
            read(path)
        assert len(str(raised.value)) < 500


def test_a_flipped_bit_of_a_tensor_names_the_tensor(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1  # the last tensor in the file that has bytes
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"tensor 'flags' does not have the checksum .* bytes of it have changed"):
        read(path)


@pytest.mark.parametrize("length", [0, 5, 60, -1])
def test_a_file_that_is_cut_off_is_refused(path, length):
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"cannot be read .*Is it truncated\? Make it again"):
        read(path)


@pytest.mark.parametrize("read", [TensorFile, load_pickled])
def test_a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for(read, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"pipe: is not a file\. Train again"):
        read(tmp_path / "pipe", "Train again")


def test_a_folder_or_nothing_in_the_place_of_a_file_is_refused(tmp_path):
    for name, said in (("", "is not a file"), ("absent", "cannot be read")):
        with pytest.raises(ValueError, match=said):
            read(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "tensor", "said"),
    [
        ("boxes", None, r"'boxes' is missing \(1 of 6"),
        ("more", torch.zeros(2), r"'more' is not expected"),
        ("boxes", torch.zeros(3, 3), r"'boxes' is float32 of shape \[3, 3\], expected float32 of shape \[n, 4\]"),
        ("boxes", torch.zeros(3, 4).double(), r"'boxes' is float64 .*, expected float32"),
        ("labels", torch.zeros(2).long(), r"'labels' is int64 of shape \[2\], expected .* \[n\] with n = 3"),
        ("labels", torch.zeros(3, 1).long(), r"'labels' is int64 of shape \[3, 1\]"),
        ("labels", torch.tensor([0, 9, 9]), r"'labels' holds 9 at \[1\], expected whole numbers of at least 0 and at"),
        ("labels", torch.tensor([0, 0, -1]), r"'labels' holds -1 at \[2\]"),
        ("boxes", torch.full((3, 4), torch.nan), r"'boxes' holds nan at \[0, 0\], expected finite numbers\. Make"),
        ("maps", torch.tensor([[0, 1, 2], [0, torch.inf, torch.nan]]).half(), r"'maps' holds inf at \[1, 1\]"),
        ("scale", torch.tensor(-torch.inf).double(), r"'scale' holds -inf at \[\]"),
    ],
)
def test_what_does_not_fit_is_named_by_tensor_and_first_index(path, name, tensor, said):
    rewrite(path, **{name: tensor})
    with pytest.raises(ValueError, match=rf"some\.safetensors: tensor {said}"):
        read(path)


def test_values_are_checked_when_a_tensor_is_asked_for(path):
    rewrite(path, maps=torch.full((5, 3), torch.nan).half())
    file = TensorFile(path, "", FORMS)
    assert file["boxes"].shape == (3, 4)
    with pytest.raises(ValueError, match="'maps' holds nan"):
        file["maps"]


def test_another_programs_file_may_hold_anything_finite(path):
    save_file({"a": torch.ones(2, dtype=torch.uint16), "b": torch.ones(1).bfloat16()}, path, {"made": "elsewhere"})
    assert dict(TensorFile(path, "")).keys() == {"a", "b"}
    save_file({"a": torch.full((2,), torch.nan).to(torch.float8_e4m3fn)}, path)
    with pytest.raises(ValueError, match=r"'a' holds nan at \[0\]"):
        dict(TensorFile(path, ""))


@pytest.mark.parametrize("checksums", ["{", "[]", json.dumps({"boxes": "0"})])
def test_checksums_of_other_tensors_are_refused(path, checksums):
    save_file(tensors(), path, {CHECKSUMS: checksums})
    with pytest.raises(ValueError, match="its checksums do not match its tensors"):
        read(path)


def test_a_tensor_that_took_anothers_place_is_found(path):
    stored = load_file(path)
    checksums = TensorFile(path, "").metadata[CHECKSUMS]
    save_file(stored | {"boxes": stored["boxes"].flip(0).contiguous()}, path, {CHECKSUMS: checksums})
    with pytest.raises(ValueError, match="'boxes' does not have the checksum"):
        read(path)


def test_what_is_not_finite_is_not_written(tmp_path):
    with pytest.raises(ValueError, match=r"w\.safetensors: tensor 'a' holds nan at \[1\]"):
        save_tensors(tmp_path / "w.safetensors", {"a": torch.tensor([0, torch.nan])})
    assert not list(tmp_path.iterdir())


def test_a_disk_without_room_is_named_and_leaves_nothing(tmp_path, monkeypatch):
    def fails(_tensors, path, _metadata):
        path.write_bytes(b"some")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(rmlr.study.tensors, "save_file", fails)
    with pytest.raises(ValueError, match=r"w\.safetensors: cannot be written .*Is the disk full\?"):
        save_tensors(tmp_path / "w.safetensors", {"a": torch.zeros(1)})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("extreme", [torch.finfo(torch.float64).max, torch.finfo(torch.float64).min])
def test_the_largest_number_there_is_is_finite(extreme):
    assert wrong_value(torch.tensor([extreme], dtype=torch.float64)) is None
    check_finite("x", {"a": torch.tensor([2**63 - 1, -(2**63)])}, "")


# ---- what torch.save wrote


def test_a_pickle_of_tensors_and_plain_values_is_read(tmp_path):
    torch.save({"step": 3, "state": {"a": torch.ones(2)}}, tmp_path / "x.pt")
    content = load_pickled(tmp_path / "x.pt", "")
    assert content["step"] == 3
    assert torch.equal(content["state"]["a"], torch.ones(2))


def test_a_pickle_of_old_without_checksums_is_read(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(load_pickled(tmp_path / "x.pth", "")["a"], torch.ones(2))


def test_a_bit_that_flips_in_a_pickles_records_is_found(tmp_path):
    path, values = tmp_path / "x.pt", torch.arange(64.0)
    torch.save({"a": values}, path)
    content = path.read_bytes()
    first = content.index(values.numpy().tobytes())
    for at in range(first, first + 256, 7):
        path.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        with pytest.raises(ValueError, match=r"x\.pt: cannot be read .*record .* checksum .*\. Get it again"):
            load_pickled(path, "Get it again")


def test_no_damage_of_a_pickle_changes_what_is_read_in_silence(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"a": torch.arange(8.0), "step": 3}, path)
    content = path.read_bytes()
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :])
        try:
            found = load_pickled(path, "Get it again")
        except ValueError as error:
            assert "x.pt" in str(error)  # noqa: PT017 (or it is read as it was: between records, bytes mean nothing)
        else:
            assert torch.equal(found["a"], torch.arange(8.0))
            assert found["step"] == 3


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04"])
def test_what_is_no_pickle_of_tensors_is_one_line(tmp_path, content):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.pt: cannot be read as a checkpoint \(.*\)\. Get it again$"):
        load_pickled(tmp_path / "x.pt", "Get it again")
    with pytest.raises(ValueError, match=r"absent: cannot be read"):
        load_pickled(tmp_path / "absent", "")


def test_tensors_are_found_however_deep_they_are(tmp_path):
    state = {"task": {"w": torch.ones(1)}, "optimiser": {"state": [{"step": torch.zeros(())}]}, "rows": [1.0]}
    assert nested_tensors(state).keys() == {"task.w", "optimiser.state.0.step"}
