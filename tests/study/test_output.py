"""Where a stage or a command writes: nothing that another has made is ever replaced or removed."""

import json
import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from rmlr.study.folder import begin, discard, finish, new_folder, only_writer, publish, recover, settle
from rmlr.study.made import ABOUT, MADE, Made
from rmlr.study.output import beside, claim, claim_file, claim_new, claim_shared, signed


def make(place: Path, *names: str, maker: str = "evaluate", text: str = "made") -> None:
    """What a stage does."""
    folder = begin(place, maker)
    write(folder, *names, text=text)
    finish(folder, maker)
    about(folder, maker)
    publish(folder, place, maker)


def write(folder: Path, *names: str, text: str = "made") -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def about(folder: Path, maker: str, began: str = "2020-01-01T00:00:00+00:00") -> None:
    (folder / ABOUT).write_text(json.dumps({"stage": maker, "began": began}))


def everything(folder: Path) -> dict[str, bytes | str | None]:
    """All that lies below a folder: content of files, target of links, None of folders."""
    found: dict[str, bytes | str | None] = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        found[name] = str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else None
    return found


def refused(tmp_path: Path, out: Path, *inputs: Path, maker: str = "evaluate") -> str:
    """What is said of an `out` that is refused; nothing may have changed."""
    before = everything(tmp_path)
    with pytest.raises(ValueError, match=re.escape(f"{out}: ")) as error:
        claim(out, maker, inputs)
    assert everything(tmp_path) == before
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- what may be replaced


@pytest.mark.parametrize("names", [["a.txt"], ["a.txt", "below/b.txt"], []])
def test_a_new_an_empty_and_an_own_folder_may_be_written(tmp_path, names):
    place = tmp_path / "deep" / "out"
    assert claim(place, "evaluate") == place
    (place / "below").mkdir(parents=True)
    claim(place, "evaluate")
    make(place, *names)
    claim(place, "evaluate")
    make(place, "other.txt")
    assert set(everything(place)) == {"other.txt", ABOUT, MADE}
    assert {path.name for path in place.parent.iterdir()} == {"out"}


def test_an_out_that_is_no_folder_is_refused(tmp_path):
    write(tmp_path, "thesis.txt")
    os.mkfifo(tmp_path / "pipe")
    for name, target in {"to_file": "thesis.txt", "nowhere": "gone", "circle": "circle"}.items():
        (tmp_path / name).symlink_to(target)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        kinds = {"thesis.txt": "a file", "pipe": "a pipe", "to_file": "a file", "socket": "a socket"}
        for name, kind in kinds.items():
            assert f"is {kind}, expected a folder" in refused(tmp_path / "nothing", tmp_path / name)
    assert "is a broken link" in refused(tmp_path / "nothing", tmp_path / "nowhere")
    assert "cannot be a folder" in refused(tmp_path / "nothing", tmp_path / "circle")
    assert "below a file" in refused(tmp_path / "nothing", tmp_path / "thesis.txt" / "out")
    assert "is a device" in refused(tmp_path / "nothing", Path("/dev/null"))


def test_the_root_a_mount_and_the_current_folder_are_refused(tmp_path, monkeypatch):
    (tmp_path / "here" / "below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here" / "below")
    assert "is the root of a file system" in refused(tmp_path, Path("/"))
    assert "is the root of a file system" in refused(tmp_path / "nothing", Path("/proc"))
    for out in (Path(), Path(".."), Path("../below"), tmp_path / "here"):
        assert "current folder" in refused(tmp_path, out)


def test_a_link_to_a_folder_is_followed_and_stays(tmp_path):
    (tmp_path / "large_disk").mkdir()
    (tmp_path / "out").symlink_to("large_disk")
    place = claim(tmp_path / "out", "evaluate")
    make(place, "a.txt")
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "large_disk" / "a.txt").read_text() == "made"


def test_a_folder_that_another_has_filled_is_refused(tmp_path):
    write(tmp_path / "mine", "code/a.py", ".hidden")
    assert "is not empty ('.hidden', 'code/a.py')" in refused(tmp_path, tmp_path / "mine")
    (tmp_path / "mine" / ABOUT).write_text('{"stage": "eval')
    assert "run.json in it cannot be read" in refused(tmp_path, tmp_path / "mine")
    make(tmp_path / "trained", "weights", maker="train")
    assert "`rmlr evaluate` did not make it" in refused(tmp_path, tmp_path / "trained")
    write(tmp_path / "results", "demo/runs/a")
    refused(tmp_path, tmp_path / "results")


def test_what_a_user_put_into_a_finished_folder_is_refused_by_name(tmp_path):
    place = tmp_path / "out"
    make(place, "a.txt", "b.txt")
    write(place, "notes/1.txt", "notes/2.txt", "notes/3.txt", "notes/4.txt")
    assert "'notes/1.txt', 'notes/2.txt', 'notes/3.txt' and 1 more" in refused(tmp_path, place)
    shutil.rmtree(place / "notes")
    (place / "link").symlink_to(tmp_path)
    assert "'link'" in refused(tmp_path, place)
    (place / "link").unlink()
    (place / "a.txt").write_text("a longer text by hand")
    assert "'a.txt'" in refused(tmp_path, place)
    (place / "a.txt").unlink()
    claim(place, "evaluate")


def test_the_rest_that_snakemake_leaves_is_ours(tmp_path):
    """It removes the outputs that its rule names, run.json among them, and makes their folders."""
    place = tmp_path / "out"
    make(place, "named.txt", "shard-0", "deep/shard-1")
    for name in ("named.txt", ABOUT):
        (place / name).unlink()
    (place / "new").mkdir()
    claim(place, "evaluate")
    write(place, "mine.txt")
    assert "'mine.txt'" in refused(tmp_path, place)
    (place / "mine.txt").unlink()
    make(place, "named.txt")
    assert set(everything(place)) == {"named.txt", ABOUT, MADE}


def test_a_damaged_run_json_in_an_own_folder_is_replaced(tmp_path):
    make(tmp_path / "out", "a.txt")
    (tmp_path / "out" / ABOUT).write_text("{")
    claim(tmp_path / "out", "evaluate")


def test_a_damaged_run_json_is_said_once_before_a_plan(tmp_path, caplog):
    make(tmp_path / "out", "a.txt")
    (tmp_path / "out" / ABOUT).write_text("{")
    settle(tmp_path / "out")
    assert caplog.messages == [f"{tmp_path}/out/run.json: is damaged. Remove {tmp_path}/out to make it again"]


# ---- what older versions made


def older(place: Path) -> None:
    """A folder without a list, made within the last hour."""
    write(place, "named.txt", "shard-0")
    about(place, "evaluate")
    os.utime(place / "shard-0", (1_700_000_000, 1_700_000_000))


def test_of_an_older_versions_folder_only_what_the_stage_wrote_in_its_time_is_replaced(tmp_path):
    place = tmp_path / "out"
    older(place)
    claim(place, "evaluate")
    for name, when in (("later.txt", 60.0), ("earlier.txt", -1e9)):
        write(place, name)
        moment = (place / ABOUT).stat().st_mtime + when
        os.utime(place / name, (moment, moment))
        assert f"'{name}'" in refused(tmp_path, place)
        (place / name).unlink()
    make(place, "new.txt")
    assert set(everything(place)) == {"new.txt", ABOUT, MADE}


def test_before_a_plan_an_older_versions_folder_gets_its_list_so_that_the_rest_of_it_is_known(tmp_path):
    place = tmp_path / "out"
    older(place)
    write(place, "mine.txt")
    moment = (place / ABOUT).stat().st_mtime + 60
    os.utime(place / "mine.txt", (moment, moment))
    settle(place)
    (place / ABOUT).unlink()
    (place / "named.txt").unlink()
    assert Made.read(place, "evaluate").foreign() == ["mine.txt"]
    assert "'mine.txt'" in refused(tmp_path, place)
    (place / "mine.txt").unlink()
    claim(place, "evaluate")


# ---- inputs


def test_an_out_that_is_or_holds_an_input_is_refused(tmp_path, monkeypatch):
    place = tmp_path / "out"
    make(place, "deep/triplets.parquet")
    table = place / "deep" / "triplets.parquet"
    (tmp_path / "link").symlink_to(table)
    (tmp_path / "to_out").symlink_to(place)
    write(tmp_path / "elsewhere", "b.txt")
    monkeypatch.chdir(tmp_path / "elsewhere")
    given = [table, place, tmp_path / "link", tmp_path / "to_out" / "deep", Path("../out/deep/../deep")]
    for path in given:
        assert f"is or contains the input {path}" in refused(tmp_path, place, path)
        assert f"is or contains the input {path}" in refused(tmp_path, tmp_path / "to_out", path)
    claim(place, "evaluate", [tmp_path / "elsewhere"])
    claim(tmp_path / "elsewhere" / "new", "evaluate", [tmp_path / "elsewhere"])  # an input loses nothing by that


def test_a_link_that_is_an_input_is_not_lost_though_it_leads_out(tmp_path):
    place = tmp_path / "out"
    make(place)
    write(tmp_path, "table.parquet")
    (place / "link").symlink_to(tmp_path / "table.parquet")
    assert "contains the input" in refused(tmp_path, place, place / "link")


# ---- places that cannot be written


def test_a_parent_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)  # root may write anywhere
    assert f"{tmp_path} is not writable" in refused(tmp_path, tmp_path / "deep" / "out")


def test_a_read_only_file_system_is_refused(tmp_path):
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        assert f"{tmp_path} is not writable" in refused(tmp_path, tmp_path / "out")
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


def test_a_name_too_long_for_the_folders_beside_it_is_refused(tmp_path):
    assert "shorter name" in refused(tmp_path, tmp_path / ("n" * 250))
    assert "cannot be a folder" in refused(tmp_path, tmp_path / ("n" * 300))


# ---- hidden siblings


@pytest.mark.parametrize("what", ["part", "old", "resume", "lock", "mlflow"])
@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_a_users_own_file_under_a_name_of_ours_is_refused(tmp_path, what, kind):
    place, path = tmp_path / "out", beside(tmp_path / "out", what)
    if kind == "folder":
        write(path, "thesis.txt")
    elif kind == "file":
        path.write_text("thesis")
    else:
        write(tmp_path, "thesis.txt")
        path.symlink_to(tmp_path / "thesis.txt")
    before = everything(tmp_path)
    with pytest.raises(ValueError, match=rf"\.out\.{what}: is in the way"):
        claim(place, "evaluate")
    settle(place)
    assert everything(tmp_path) == before


def test_what_a_killed_stage_left_beside_a_folder_is_ours(tmp_path):
    place = tmp_path / "out"
    write(begin(place, "evaluate"), "half.txt")
    beside(place, "mlflow").write_text('{"identity": "1", "run_id": "2"}')
    write(beside(place, "resume"), "epoch.pt", "identity.txt", "shard-00001.safetensors")
    beside(place, "lock").touch()
    claim(place, "evaluate")
    make(place, "whole.txt")
    assert set(everything(place)) == {"whole.txt", ABOUT, MADE}
    assert not beside(place, "part").exists()
    assert len(everything(beside(place, "resume"))) == 3


# ---- killed in between


def steps(place: Path, monkeypatch, killed_at: int) -> bool:
    """Make a newer result, killed before its n-th change of a name; whether it came to that."""
    count = 0

    class KilledError(Exception):
        pass

    def counted(real):
        def change(self, *more, **named):
            nonlocal count
            count += 1
            if count == killed_at:
                raise KilledError
            return real(self, *more, **named)

        return change

    with monkeypatch.context() as patch:
        for name in ("rename", "unlink", "rmdir"):
            patch.setattr(Path, name, counted(getattr(Path, name)))
        try:
            make(place, "new.txt", text="new")
        except KilledError:
            return True
    return False


@pytest.mark.parametrize("rest", [False, True])
def test_a_kill_between_any_two_steps_of_an_exchange_loses_no_result(tmp_path, monkeypatch, rest):
    for killed_at in range(1, 50):
        place = tmp_path / str(killed_at) / "out"
        place.parent.mkdir()
        make(place, "old.txt", "deep/old.txt", text="old")
        if rest:
            (place / ABOUT).unlink()
        happened = steps(place, monkeypatch, killed_at)
        claim(place, "evaluate")
        (settle if not rest else lambda folder: recover(folder, "evaluate"))(place)
        names = set(everything(place))
        assert names == {"new.txt", ABOUT, MADE}, "what was finished is there, whole"
        assert {path.name for path in place.parent.iterdir()} - {".out.lock"} == {"out"}
        if not happened:
            assert killed_at > 3
            return
    pytest.fail("it never came to an end")


def test_an_older_result_is_put_back_if_the_newer_one_is_not_finished(tmp_path):
    place = tmp_path / "out"
    make(place, "old.txt")
    folder = begin(place, "evaluate")
    write(folder, "half.txt")
    place.rename(beside(place, "old"))
    recover(place, "evaluate")
    assert set(everything(place)) == {"old.txt", ABOUT, MADE}
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_what_is_put_into_the_folder_meanwhile_is_kept_and_so_is_the_result(tmp_path):
    place = tmp_path / "out"
    make(place, "old.txt")
    folder = begin(place, "evaluate")
    write(folder, "new.txt")
    finish(folder, "evaluate")
    about(folder, "evaluate")
    write(place, "mine.txt")
    with pytest.raises(ValueError, match=r"'mine\.txt' was put there in the meantime.*the result is kept"):
        publish(folder, place, "evaluate")
    assert (place / "mine.txt").exists()
    (place / "mine.txt").unlink()
    settle(place)
    assert set(everything(place)) == {"new.txt", ABOUT, MADE}


def test_a_result_that_is_older_than_what_stands_there_is_not_put_in_its_place(tmp_path):
    """Such as one whose scheduler was killed, where another version was checked out since."""
    place = tmp_path / "out"
    folder = begin(place, "evaluate")
    finish(folder, "evaluate")
    about(folder, "evaluate")
    os.utime(folder / ABOUT, (1_700_000_000, 1_700_000_000))
    folder.rename(tmp_path / "kept")
    make(place, "newer.txt")
    (tmp_path / "kept").rename(folder)
    settle(place)
    assert set(everything(place)) == {"newer.txt", ABOUT, MADE}
    assert not folder.exists()


def test_while_a_process_is_at_work_nothing_is_settled(tmp_path):
    place = tmp_path / "out"
    with only_writer(place):
        folder = begin(place, "evaluate")
        finish(folder, "evaluate")
        about(folder, "evaluate")
        settle(place)
        assert folder.exists()
        discard(folder)


# ---- folders that must be new, folders of the user's, files


def test_a_new_folder_appears_whole_or_not_at_all(tmp_path):
    with new_folder(tmp_path / "deep" / "model", "export") as folder:
        write(folder, "a.txt")
        assert not (tmp_path / "deep" / "model").exists()
    assert set(everything(tmp_path / "deep")) == {".model.lock", "model", "model/a.txt"}
    with pytest.raises(ValueError, match="exists already"):
        claim_new(tmp_path / "deep" / "model", "export")
    with pytest.raises(RuntimeError), new_folder(tmp_path / "other", "export") as folder:  # noqa: PT012
        write(folder, "a.txt")
        raise RuntimeError
    assert set(everything(tmp_path)) == {"deep", "deep/.model.lock", "deep/model", "deep/model/a.txt", ".other.lock"}
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(ValueError, match="exists already"):
        claim_new(tmp_path / "dangling", "export")


def test_in_a_users_folder_only_own_files_are_replaced(tmp_path):
    place = tmp_path / "holiday"
    write(place, "a.jpg", "triplets.csv", text="mine")
    made = claim_shared(place, "photo")
    with pytest.raises(ValueError, match=r"has 'triplets\.csv' already"):
        made.refuse(["triplets.csv", "a-triplets.png"])
    (place / "triplets.csv").unlink()
    for text in ("first", "second, longer"):
        made = claim_shared(place, "photo")
        made.refuse(["triplets.csv"])
        write(place, ".aside", text=text)
        made.put(place / ".aside", "triplets.csv")
        assert (place / "triplets.csv").read_text() == text
    (place / "triplets.csv").write_text("changed by hand")
    with pytest.raises(ValueError, match=r"has 'triplets\.csv' already"):
        claim_shared(place, "photo").refuse(["triplets.csv"])
    assert (place / "a.jpg").read_text() == "mine"


def test_a_list_that_was_cut_off_by_a_kill_is_read_up_to_there_and_continued(tmp_path):
    make(tmp_path / "out", "a.txt")
    path = tmp_path / "out" / MADE
    path.write_bytes(path.read_bytes() + b'{"by": "evalu')
    made = Made.read(tmp_path / "out", "evaluate")
    write(tmp_path / "out", "b.txt")
    made.add(["b.txt"])
    assert Made.read(tmp_path / "out", "evaluate").foreign() == []


@pytest.mark.parametrize("content", ["thesis", '{"a": 1}\n', '["by"]\n', "\0\n", '{"by": "photo"\n{}\n'])
def test_a_file_of_the_lists_name_that_is_no_list_is_refused(tmp_path, content):
    write(tmp_path / "out", MADE, text=content)
    with pytest.raises(ValueError, match=r"rmlr-made: is not the list"):
        claim_shared(tmp_path / "out", "photo")


def test_a_file_is_replaced_only_if_the_same_command_made_it(tmp_path):
    write(tmp_path, "thesis.txt", "list.json", text="[1]")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("mine.json")
    claim_file(tmp_path / "new" / "it.json", "compare")
    for name, why in (("thesis.txt", "not made by"), ("list.json", "not made by"), ("folder", "is a folder")):
        with pytest.raises(ValueError, match=why):
            claim_file(tmp_path / name, "compare")
    (tmp_path / "mine.json").write_text(json.dumps(signed("compare")))
    claim_file(tmp_path / "mine.json", "compare")
    with pytest.raises(ValueError, match="not made by `rmlr cost`"):
        claim_file(tmp_path / "mine.json", "cost")
    with pytest.raises(ValueError, match="is an input"):
        claim_file(tmp_path / "mine.json", "compare", [tmp_path / "link"])
    with pytest.raises(ValueError, match="not made by"):
        claim_file(tmp_path / "link", "compare")
    with pytest.raises(ValueError, match="not made by"):
        claim_file(Path("/dev/null"), "compare")
