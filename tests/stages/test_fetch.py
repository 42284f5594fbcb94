"""From a table of sources to data in its place, whatever servers and power cuts do; all on loopback."""

import errno
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest
import yaml

from rmlr.fetch.place import Place
from rmlr.fetch.sources import load_sources, needed
from rmlr.stages.fetch import fetch
from rmlr.study.files import write_whole
from rmlr.study.plan import Study

QUICK = {"attempts": 3, "timeout": 0.5, "pause": 0.01}
PHOTOS = {f"p/{n}.jpg": bytes([n]) * 40_000 for n in range(5)}
QUOTA = b"<!DOCTYPE html><p>Too many users have viewed or downloaded this file recently.</p>"


def zipped(files: dict[str, bytes], **more) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content, **more)
    return buffer.getvalue()


def tarred(members: list[tarfile.TarInfo | tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return buffer.getvalue()


def facts(body: bytes) -> dict:
    return {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}


class World:
    """A folder with a table of sources."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.raw, self.table = folder, folder / "raw", {}

    def source(self, name: str, *items: dict, **more) -> None:
        said = {"what": name, "licence": "none", "serves": [], "evidence": "computed"} | more
        self.table[name] = said | ({"items": list(items)} if items else {})

    def photos(self, *urls: str, name: str = "photos", count: int = 5, **more) -> None:
        gives = [{"member": "p", "to": "images/p", "files": count}]
        item = {"file": "p.zip", "urls": list(urls), "unpack": "zip", "gives": gives}
        self.source(name, item | {"sha256": "unpublished", "about": 99} | more)

    @property
    def sources(self) -> Path:
        path = self.folder / "sources.yaml"
        path.write_text(yaml.safe_dump(self.table))
        return path

    def fetch(self, *names: str, **more) -> None:
        fetch(*(names or self.table), raw=self.raw, sources=self.sources, **QUICK | more)

    def start(self, *names: str, **more) -> subprocess.Popen:
        flags = [part for key, value in (QUICK | {"timeout": 30} | more).items() for part in (f"--{key}", str(value))]
        command = [sys.executable, "-m", "rmlr", "fetch", *names, "--raw", self.raw, "--sources", self.sources, *flags]
        return subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True)

    def receipt(self, name: str = "photos") -> dict:
        return json.loads(Place(self.raw).receipt(name).read_text())

    @property
    def photo_files(self) -> dict[str, bytes]:
        return {f"p/{path.name}": path.read_bytes() for path in (self.raw / "images/p").iterdir()}

    def nothing_is_done(self) -> bool:
        return not (self.raw / "images").exists() and not list(self.raw.glob("receipts/*"))


@pytest.fixture
def world(tmp_path) -> World:
    return World(tmp_path)


def wait_until(happened, process: subprocess.Popen) -> None:
    end = time.monotonic() + 60
    while not happened():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, "it did not happen in a minute"
        time.sleep(0.005)


# ---- all is well


def test_an_archive_becomes_a_folder_with_a_receipt_and_is_not_asked_for_again(world, server):
    body = zipped(PHOTOS | {"other/notes.txt": b"not wanted"})
    world.photos(server.put("/p.zip", body), **facts(body))
    world.fetch()
    assert world.photo_files == PHOTOS
    receipt = world.receipt()
    assert receipt["name"] == "photos"
    assert receipt["made"] == {"images/p": [5, 200_000]}
    assert receipt["how"] == [{"file": "p.zip", "from": f"{server.url}/p.zip", **facts(body)}]
    assert not (world.raw / ".fetch/photos").exists(), "the archive is gone once it is unpacked"
    asked, made = len(server.asked), Place(world.raw).receipt("photos").stat()
    world.fetch()
    assert len(server.asked) == asked
    assert Place(world.raw).receipt("photos").stat() == made


def test_no_names_and_a_profile_that_needs_nothing_fetch_nothing(world, caplog):
    params = Path(__file__).parents[2] / "params.yaml"
    with caplog.at_level("INFO", "rmlr"):
        fetch(profile="tiny", raw=world.raw, sources=world.sources, params=params)
    assert "needs no source" in caplog.text
    assert not world.raw.exists()


def test_keeping_archives_leaves_them_where_the_next_fetch_finds_them(world, server):
    body = zipped(PHOTOS)
    world.photos(server.put("/p.zip", body), **facts(body))
    world.fetch(keep=True)
    assert (world.raw / "archives/p.zip").read_bytes() == body
    shutil.rmtree(world.raw / "images")
    world.fetch()
    assert server.count()["/p.zip"] == 1
    assert world.photo_files == PHOTOS


def test_an_unknown_name_is_answered_with_the_list(world):
    world.photos("http://127.0.0.1:1/p.zip")
    with pytest.raises(ValueError, match=r"no source 'fotos'. There are: photos"):
        world.fetch("fotos")


# ---- servers that fail


@pytest.mark.parametrize("fault", ["drop", "500", "429", "503", "wrong range", "lie"])
def test_what_a_server_does_wrong_once_is_overcome(world, server, fault):
    body = zipped(PHOTOS)
    faults = ["drop", fault] if fault == "wrong range" else [fault]
    known = facts(body) if fault != "lie" else {}
    world.photos(server.put("/p.zip", body, *faults), **known)
    world.fetch()
    assert world.photo_files == PHOTOS


def test_a_dropped_line_is_taken_up_where_it_broke(world, server):
    body = zipped(PHOTOS)
    world.photos(server.put("/p.zip", body, "drop"), **facts(body))
    world.fetch()
    assert [wanted for _, _, wanted in server.asked] == [None, f"bytes={len(body) // 2}-"]


def test_a_server_that_ignores_ranges_starts_from_the_beginning(world, server):
    body = zipped(PHOTOS)
    world.photos(server.put("/p.zip", body, "drop", "ignore range"), **facts(body))
    world.fetch()
    assert len(server.asked) == 2
    assert world.photo_files == PHOTOS


def test_a_file_that_changed_meanwhile_is_not_mixed_with_the_old_one(world, server):
    old, new = zipped(dict.fromkeys(PHOTOS, b"old" * 9000)), zipped(PHOTOS)
    world.photos(server.put("/p.zip", old, "drop", "500", "500", "500"))
    with pytest.raises(ValueError, match="500"):
        world.fetch()
    server.put("/p.zip", new, etag='"two"')
    world.fetch()
    assert world.photo_files == PHOTOS


def test_a_part_that_cannot_be_identified_is_downloaded_from_the_start(world, server):
    body = zipped(PHOTOS)
    world.photos(server.put("/p.zip", body, "drop", etag=None))
    world.fetch()
    assert [wanted for _, _, wanted in server.asked] == [None, None]


@pytest.mark.parametrize(
    ("always", "said"),
    [
        ("403", "answers 403"),
        ("404", "answers 404"),
        ("500", "given up after 3 attempts: answers 500"),
        ("hang", "given up after 3 attempts"),
        ("stop half-way", "given up after 3 attempts"),
        ("wrong byte", "other bytes"),
    ],
)
def test_a_mirror_that_has_it_is_asked_after_one_that_has_not(world, server, caplog, always, said):
    body = zipped(PHOTOS)
    bad, good = server.put("/bad.zip", body, always=always), server.put("/good.zip", body)
    world.photos(bad, good, **facts(body))
    world.fetch(timeout=0.1)
    assert said in caplog.text
    assert world.receipt()["how"][0]["from"] == good
    assert world.photo_files == PHOTOS


def test_waiting_as_long_as_a_busy_server_asks(world, server, monkeypatch):
    body, waited = zipped(PHOTOS), []
    monkeypatch.setattr("rmlr.fetch.download.time.sleep", waited.append)
    world.photos(server.put("/p.zip", body, "429", "503", headers={"Retry-After": "7"}), **facts(body))
    world.fetch()
    assert waited == [7, 7]


@pytest.mark.parametrize(
    ("page", "named"),
    [
        (b"<html>whatever</html>", "an HTML page"),
        (QUOTA, "quota page"),
        (b"\n<!doctype HTML><title>Google Drive - Virus scan warning</title>", "virus-scan page"),
        (b"<html><body>You need access. Request access, or switch to an account", "asks for permission"),
    ],
)
@pytest.mark.parametrize("honest", [True, False])
def test_a_page_instead_of_a_file_is_refused_by_name(world, server, page, named, honest):
    headers = {"Content-Type": "text/html" if honest else "application/zip"}
    world.photos(server.put("/p.zip", page, headers=headers))
    with pytest.raises(ValueError, match=named) as caught:
        world.fetch()
    assert f"put p.zip into {world.raw / 'archives'}" in str(caught.value), "what to do by hand"
    assert world.nothing_is_done()


def test_another_size_than_was_published_is_refused_before_it_is_downloaded(world, server):
    body = zipped(PHOTOS)
    world.photos(server.put("/p.zip", body), **facts(body) | {"bytes": len(body) + 1})
    with pytest.raises(ValueError, match=f"announces {len(body)} bytes, {len(body) + 1} were published"):
        world.fetch()
    assert world.nothing_is_done()


def test_a_wrong_byte_is_never_unpacked(world, server):
    body = zipped(PHOTOS)
    world.photos(server.put("/p.zip", body, always="wrong byte"), **facts(body))
    with pytest.raises(ValueError, match="other bytes"):
        world.fetch()
    assert world.nothing_is_done()


def test_a_file_of_another_kind_is_refused_by_its_first_bytes(world, server):
    world.photos(server.put("/p.zip", b"\x89PNG and so on"))
    with pytest.raises(ValueError, match=r"not a \.zip file"):
        world.fetch()


def test_nothing_at_all_is_no_file(world, server):
    world.photos(server.put("/p.zip", b""))
    with pytest.raises(ValueError, match="is empty"):
        world.fetch()


def test_a_source_that_fails_does_not_keep_the_others_from_coming(world, server):
    body = zipped(PHOTOS)
    world.photos(server.url + "/nowhere.zip", name="lost")
    world.photos(server.put("/p.zip", body), **facts(body))
    world.table["lost"]["items"][0]["gives"][0]["to"] = "images/lost"
    with pytest.raises(ValueError, match=r"1 of 2 source\(s\) could not be fetched"):
        world.fetch()
    assert world.photo_files == PHOTOS


# ---- checksums


def test_the_first_checksum_seen_counts_ever_after(world, server):
    first, second = zipped(PHOTOS), zipped({name: b"x" + content[1:] for name, content in PHOTOS.items()})
    world.photos(server.put("/p.zip", first))
    world.fetch()
    kept = json.loads((world.raw / "checksums.json").read_text())
    assert kept["photos/p.zip"]["sha256"] == hashlib.sha256(first).hexdigest()
    shutil.rmtree(world.raw / "images")
    server.put("/p.zip", second)
    with pytest.raises(ValueError, match="other bytes"):
        world.fetch()
    (world.raw / "archives").mkdir()
    (world.raw / "archives/p.zip").write_bytes(second)
    with pytest.raises(ValueError, match="but first had"):
        world.fetch()
    assert json.loads((world.raw / "checksums.json").read_text()) == kept
    assert not (world.raw / "images").exists()


def test_nothing_is_recorded_of_an_archive_with_the_wrong_content(world, server):
    world.photos(server.put("/p.zip", zipped(PHOTOS)), count=6)
    with pytest.raises(ValueError, match="6 files expected, 5 found"):
        world.fetch()
    assert not (world.raw / "checksums.json").exists()
    assert world.nothing_is_done()


def test_a_file_of_git_is_known_by_its_blob(world, server):
    body = b'{"rows": []}'
    blob = subprocess.run(["git", "hash-object", "--stdin"], input=body, capture_output=True, check=True).stdout
    item = {"file": "a.json", "urls": [server.put("/a.json", body)], "about": 9, "sha256": "unpublished"}
    world.source("rows", item | {"git_blob": blob.decode().strip(), "gives": [{"to": "rows/a.json"}]})
    world.fetch()
    assert (world.raw / "rows/a.json").read_bytes() == body
    (world.raw / "rows/a.json").write_bytes(b'{"rows": [1]}')
    with pytest.raises(ValueError, match="git blob"):
        world.fetch()


def test_digits_in_a_name_that_begin_its_checksum_are_compared(world, server):
    body = b"\x80\x02weights"
    item = {"file": "a.pth", "urls": [server.put("/a.pth", body)], "about": 9, "gives": [{"to": "weights/a.pth"}]}
    world.source("weights", item | {"sha256": "00000000"})
    with pytest.raises(ValueError, match=r"expected 00000000\.\.\."):
        world.fetch()
    world.source("weights", item | {"sha256": facts(body)["sha256"][:8]})
    world.fetch()
    assert (world.raw / "weights/a.pth").read_bytes() == body


def test_an_entry_that_changed_is_checked_again_and_other_words_are_not(world, server):
    body = zipped(PHOTOS)
    world.photos(server.put("/p.zip", body), **facts(body))
    world.fetch()
    world.table["photos"]["what"] = "the same photos"
    world.table["photos"]["items"][0]["urls"] = ["http://127.0.0.1:1/elsewhere"]
    assert Place(world.raw).trouble("photos", load_sources(world.sources)["photos"]) is None
    world.table["photos"]["items"][0]["sha256"] = "0" * 64
    with pytest.raises(ValueError, match="by an older entry of the table"):
        world.fetch()
    assert not Place(world.raw).receipt("photos").exists()
    Place(world.raw).kept("photos").unlink()
    world.table["photos"]["items"][0]["gives"][0]["files"] = 6
    with pytest.raises(ValueError, match="6 files expected, 5 found"):
        world.fetch()


def test_a_receipt_that_a_workflow_removed_comes_back_as_it_was(world, server):
    body = zipped(PHOTOS)
    world.photos(server.put("/p.zip", body), **facts(body))
    world.fetch()
    receipt = world.receipt()
    Place(world.raw).receipt("photos").unlink()
    world.fetch()
    assert world.receipt() == receipt
    assert len(server.asked) == 1


# ---- power cuts, and two at once


def test_a_killed_download_resumes(world, server):
    body = zipped({name: os.urandom(400_000) for name in PHOTOS})
    world.photos(server.put("/p.zip", body, "slow 20000"), **facts(body))
    part = world.raw / ".fetch/photos/p.zip.part"
    process = world.start("photos")
    wait_until(lambda: part.exists() and part.stat().st_size > 200_000, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    have = part.stat().st_size
    assert 0 < have < len(body)
    assert world.nothing_is_done()
    world.fetch()
    assert server.asked[-1][2] == f"bytes={have}-"
    assert len(world.photo_files) == 5


def test_an_unpacking_killed_half_way_is_begun_again(world, server):
    many = {f"p/{n}.jpg": b"photo" for n in range(6_000)}
    body = zipped(many)
    world.photos(server.put("/p.zip", body), count=6_000, **facts(body))
    staging = world.raw / ".fetch/photos/p.zip.unpacked/0"
    process = world.start("photos")
    wait_until(lambda: staging.exists() and any(staging.iterdir()), process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert 0 < len(list(staging.iterdir())) < 6_000
    assert world.nothing_is_done()
    world.fetch()
    assert server.count()["/p.zip"] == 1, "the archive was there"
    assert world.receipt()["made"] == {"images/p": [6_000, 30_000]}


@pytest.mark.parametrize("moment", ["before the first", "between", "after the last"])
def test_a_kill_among_the_renames_ends_in_the_same_place(world, server, monkeypatch, moment):
    body = tarred([("r/p/1.jpg", b"one"), ("r/a.mat", b"MATLAB file")])
    gives = [{"member": "r/p", "to": "images/p", "files": 1}, {"member": "r/a.mat", "to": "deep/er/a.mat"}]
    item = {"file": "r.tar.gz", "urls": [server.put("/r.tar.gz", body)], "unpack": "tar.gz", "gives": gives}
    world.source("both", item | facts(body))
    allowed, rename = {"before the first": 0, "between": 1, "after the last": 2}[moment], Path.rename
    done = []

    class PowerCut(BaseException):
        pass

    def until_the_cut(self, target):
        if len(done) == allowed:
            raise PowerCut
        done.append(target)
        return rename(self, target)

    def no_receipt(path, text, write=write_whole):
        if path.suffix == ".ok":
            raise PowerCut
        write(path, text)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", until_the_cut)
        patched.setattr("rmlr.fetch.fetcher.write_whole", no_receipt)
        with pytest.raises(PowerCut):
            world.fetch()
    assert len(done) == allowed
    assert not list(world.raw.glob("receipts/*"))
    world.fetch()
    assert server.count()["/r.tar.gz"] == 1
    assert world.receipt("both")["made"] == {"images/p": [1, 3], "deep/er/a.mat": [1, 11]}


def test_what_was_staged_for_another_entry_of_the_table_is_not_used(world, server, monkeypatch):
    old, new = zipped({"p/0.jpg": b"old"}), zipped({"p/0.jpg": b"new"})

    class PowerCut(BaseException):
        pass

    def cut(self, target):
        raise PowerCut

    world.photos(server.put("/p.zip", old), count=1, **facts(old))
    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", cut)
        with pytest.raises(PowerCut):
            world.fetch()
    world.photos(server.put("/p.zip", new), count=1, **facts(new))
    world.fetch()
    assert world.photo_files == {"p/0.jpg": b"new"}


def test_of_two_at_once_one_waits_and_finds_it_done(world, server):
    body = zipped(PHOTOS)
    world.photos(server.put("/p.zip", body, "slow 4000"), **facts(body))
    both = [world.start("photos") for _ in range(2)]
    said = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    (waited,) = (one for one in said if "another process is fetching it" in one)
    assert ": exists" in waited
    assert server.count()["/p.zip"] == 1


# ---- room


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_too_little_room_is_said_before_anything_is_downloaded(world, server, small_disk):
    body = zipped({"p/1.jpg": bytes(1_500_000)})
    world.photos(server.put("/p.zip", body), count=1, **facts(body))
    world.raw = small_disk / "raw"
    with pytest.raises(ValueError, match=r"are free\. Make room"):
        world.fetch()
    assert not server.asked


def test_a_disk_that_fills_up_in_a_download_is_said_and_the_part_is_kept(world, server, small_disk):
    body = zipped({"p/1.jpg": bytes(1_500_000)})
    world.photos(server.put("/p.zip", body), count=1, sha256=facts(body)["sha256"])  # of unpublished size
    world.raw = small_disk / "raw"
    (small_disk / "filler").write_bytes(bytes(1_000_000))
    with pytest.raises(ValueError, match="disk is full"):
        world.fetch()
    assert world.nothing_is_done()
    assert (world.raw / ".fetch/photos/p.zip.part").stat().st_size > 500_000
    (small_disk / "filler").unlink()
    world.raw = small_disk / "raw"
    with pytest.raises(ValueError, match=r"are free\. Make room"):
        world.fetch()
    assert server.asked[-1][2] is not None, "the download went on from its part"


def test_a_disk_that_fills_up_in_unpacking_leaves_the_archive_and_nothing_else(world, server, small_disk):
    body = tarred([("p/1.jpg", bytes(5_000_000))])
    gives = [{"member": "p", "to": "images/p", "files": 1}]
    item = {"file": "p.tar.gz", "urls": [server.put("/p.tar.gz", body)], "unpack": "tar.gz", "gives": gives}
    world.source("photos", item | facts(body))
    world.raw = small_disk / "raw"
    with pytest.raises(ValueError, match="disk is full"):
        world.fetch()
    assert world.nothing_is_done()
    assert {path.name for path in (world.raw / ".fetch/photos").iterdir()} == {"p.tar.gz", "p.tar.gz.part.json"}


def test_images_may_be_a_link_to_another_disk(world, server, small_disk):
    body = zipped(PHOTOS)
    world.photos(server.put("/p.zip", body), **facts(body))
    world.raw.mkdir()
    (small_disk / "images").mkdir()
    (world.raw / "images").symlink_to(small_disk / "images")
    world.fetch()
    assert world.photo_files == PHOTOS
    assert [path.name for path in (small_disk / "images").iterdir()] == ["p"]
    assert world.receipt()["made"] == {"images/p": [5, 200_000]}


def test_a_full_disk_is_said_where_no_file_system_can_be_mounted_as_well(world, server, monkeypatch):
    body = zipped(PHOTOS)
    world.photos(server.put("/p.zip", body), **facts(body))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("rmlr.fetch.download._pour", full)
    with pytest.raises(ValueError, match="disk is full"):
        world.fetch()


# ---- archives that lie


def link(name: str, kind: bytes = tarfile.SYMTYPE, target: str = "/etc/passwd") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    "bad",
    [
        ("../evil.jpg", b"x"),
        ("p/../../evil.jpg", b"x"),
        ("/tmp/evil.jpg", b"x"),
        link("p/link.jpg"),
        link("p/link.jpg", tarfile.LNKTYPE, "p/0.jpg"),
        link("p", tarfile.SYMTYPE, "/tmp"),
        link("p/device", tarfile.CHRTYPE),
        link("p/fifo", tarfile.FIFOTYPE),
    ],
    ids=["above", "above from within", "absolute", "symbolic link", "hard link", "linked folder", "device", "fifo"],
)
def test_a_tar_that_leads_out_of_its_folder_is_refused(world, server, tmp_path, bad):
    body = tarred([("p/0.jpg", b"x"), bad, ("p/1.jpg", b"x")])
    gives = [{"member": "p", "to": "images/p", "files": 2}]
    item = {"file": "p.tar.gz", "urls": [server.put("/p.tar.gz", body)], "unpack": "tar.gz", "gives": gives}
    world.source("photos", item | facts(body))
    with pytest.raises(ValueError, match=r"is outside of its folder|is a link or device"):
        world.fetch()
    assert world.nothing_is_done()
    assert not list(tmp_path.rglob("evil*"))
    assert not Path("/tmp/evil.jpg").exists()


@pytest.mark.parametrize("name", ["../evil.jpg", "p/../../evil.jpg", "/tmp/evil.jpg", "p\\..\\..\\evil.jpg", "C:/evil"])
def test_a_zip_that_leads_out_of_its_folder_is_refused(world, server, tmp_path, name):
    body = zipped(PHOTOS | {name: b"x"})
    world.photos(server.put("/p.zip", body), **facts(body))
    with pytest.raises(ValueError, match="is outside of its folder"):
        world.fetch()
    assert world.nothing_is_done()
    assert not list(tmp_path.rglob("evil*"))


def test_a_zip_with_a_link_is_refused(world, server):
    info = zipfile.ZipInfo("p/link.jpg")
    info.external_attr = 0o120777 << 16
    buffer = io.BytesIO(zipped(PHOTOS))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(info, "/etc/passwd")
    world.photos(server.put("/p.zip", buffer.getvalue()), count=6)
    with pytest.raises(ValueError, match="is a link or device"):
        world.fetch()
    assert world.nothing_is_done()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name_are_refused(world, server):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("p/1.jpg", b"one")
        archive.writestr("p/1.jpg", b"two")
    world.photos(server.put("/p.zip", buffer.getvalue()), count=1)
    with pytest.raises(ValueError, match="has two members"):
        world.fetch()
    assert world.nothing_is_done()


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_damaged_archive_without_a_published_checksum_is_not_taken(world, server, kind):
    body = zipped(PHOTOS) if kind == "zip" else tarred(list(PHOTOS.items()))
    body = body[: len(body) // 2]
    gives = [{"member": "p", "to": "images/p", "files": 5}]
    item = {"file": f"p.{kind}", "urls": [server.put("/p", body)], "unpack": kind, "gives": gives}
    world.source("photos", item | {"sha256": "unpublished", "about": 99})
    with pytest.raises(ValueError, match="damaged"):
        world.fetch()
    assert world.nothing_is_done()
    assert not (world.raw / "checksums.json").exists()


def test_an_empty_archive_gives_nothing(world, server):
    world.photos(server.put("/p.zip", zipped({})))
    with pytest.raises(ValueError, match="p: is missing"):
        world.fetch()
    assert world.nothing_is_done()


def test_an_empty_photo_is_no_photo(world, server):
    world.photos(server.put("/p.zip", zipped(PHOTOS | {"p/4.jpg": b""})))
    with pytest.raises(ValueError, match=r"4\.jpg is empty"):
        world.fetch()


# ---- what the user has


def test_an_archive_that_the_user_has_is_checked_and_unpacked_from_where_it_is(world, server, tmp_path):
    body, disk = zipped(PHOTOS), tmp_path / "disk"
    world.photos(server.put("/p.zip", body), **facts(body))
    disk.mkdir()
    (tmp_path / "real.zip").write_bytes(body)
    (disk / "p.zip").symlink_to(tmp_path / "real.zip")
    world.fetch(have=[disk])
    assert not server.asked
    assert world.photo_files == PHOTOS
    assert (tmp_path / "real.zip").read_bytes() == body
    assert world.receipt()["how"][0]["from"] == str(disk / "p.zip")


def test_a_wrong_archive_of_the_user_is_named_and_left(world, server, tmp_path):
    body = zipped(PHOTOS)
    world.photos(server.put("/p.zip", body), **facts(body))
    (tmp_path / "p.zip").write_bytes(body[:-1])
    with pytest.raises(ValueError, match=f"p.zip: has {len(body) - 1} bytes, {len(body)} were published"):
        world.fetch(have=[tmp_path])
    assert (tmp_path / "p.zip").exists()


@pytest.mark.parametrize("layout", ["p", "images/p"])
def test_a_tree_that_the_user_has_is_counted_and_linked(world, server, tmp_path, layout):
    world.photos(server.url + "/p.zip")
    tree = tmp_path / "disk" / layout
    tree.mkdir(parents=True)
    for name, content in PHOTOS.items():
        (tree / Path(name).name).write_bytes(content)
    (tree / "4.jpg").unlink()
    with pytest.raises(ValueError, match="5 files expected, 4 found"):
        world.fetch(have=[tmp_path / "disk"])
    assert not (world.raw / "images/p").exists()
    (tree / "4.jpg").write_bytes(PHOTOS["p/4.jpg"])
    world.fetch(have=[tmp_path / "disk"])
    assert (world.raw / "images/p").is_symlink()
    assert world.photo_files == PHOTOS
    assert not server.asked


def test_files_at_their_path_are_counted_and_used(world, server):
    world.photos(server.url + "/p.zip")
    (world.raw / "images/p").mkdir(parents=True)
    for name, content in PHOTOS.items():
        (world.raw / "images" / name).write_bytes(content)
    world.fetch()
    assert not server.asked
    assert world.receipt()["how"][0]["from"] == "found in place, counted"


def test_half_of_it_in_its_place_is_an_error_that_touches_nothing(world, server):
    body = zipped(PHOTOS)
    world.photos(server.put("/p.zip", body), **facts(body))
    (world.raw / "images/p").mkdir(parents=True)
    (world.raw / "images/p/0.jpg").write_bytes(b"mine")
    with pytest.raises(ValueError, match="5 files expected, 1 found"):
        world.fetch()
    assert (world.raw / "images/p/0.jpg").read_bytes() == b"mine"


def test_a_photo_that_went_missing_is_noticed(world, server):
    body = zipped(PHOTOS)
    world.photos(server.put("/p.zip", body), **facts(body))
    world.fetch()
    (world.raw / "images/p/3.jpg").unlink()
    with pytest.raises(ValueError, match="5 files expected, 4 found"):
        world.fetch()
    shutil.rmtree(world.raw / "images/p")
    world.fetch()
    assert world.photo_files == PHOTOS


def test_a_folder_that_does_not_exist_is_no_place_to_look(world):
    world.photos("http://127.0.0.1:1/p.zip")
    with pytest.raises(ValueError, match=r"--have .*nowhere: is not a folder"):
        world.fetch(have=[world.folder / "nowhere"])


# ---- what is damaged, and what is away


def test_a_link_to_a_disk_that_is_not_mounted_is_named_and_kept(world, server, tmp_path):
    body = zipped(PHOTOS)
    world.photos(server.put("/p.zip", body), **facts(body))
    world.raw.mkdir()
    (world.raw / "images").symlink_to(tmp_path / "disk")
    with pytest.raises(ValueError, match=r"images: is a link to .*disk, which is missing\. Mount that disk"):
        world.fetch()
    assert (world.raw / "images").is_symlink()
    assert not server.asked
    (tmp_path / "disk").mkdir()
    world.fetch()
    assert len(list((tmp_path / "disk/p").iterdir())) == len(PHOTOS)


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{}",
        b'{"source": 1}',
        b'{"source": "a", "time": "b", "made": [1]}',
        b"\xff",
        b'{"made": {"../x": [1, 2]}}',
    ],
)
def test_a_damaged_receipt_is_made_again_from_its_copy(world, server, damage):
    body = zipped(PHOTOS)
    world.photos(server.put("/p.zip", body), **facts(body))
    world.fetch()
    receipt = Place(world.raw).receipt("photos")
    whole = receipt.read_bytes()
    receipt.write_bytes(damage)
    world.fetch()
    assert receipt.read_bytes() == whole
    assert server.count()["/p.zip"] == 1


def test_damaged_notes_of_an_earlier_fetch_are_named_with_what_to_do(world, server):
    body = zipped(PHOTOS)
    world.photos(server.put("/p.zip", body), **facts(body))
    plan = Place(world.raw).work("photos") / "p.zip.plan.json"
    plan.parent.mkdir(parents=True)
    plan.write_text('{"entry": "", "about": {}, "renames": [["../../mine", "x"]]}')
    with pytest.raises(ValueError, match=r"plan\.json: renames\.0\.0: expected the name .*Remove the folder .*photos"):
        world.fetch()
    shutil.rmtree(plan.parent)
    kept = Place(world.raw).kept("photos")
    kept.write_text("[]")
    with pytest.raises(ValueError, match=r"photos\.ok: .*Remove it and give the same command again"):
        world.fetch()
    kept.unlink()
    world.fetch()


def test_own_data_are_not_fetched_but_weights_for_them_are(tmp_path):
    """The published releases belong to profiles that name them."""
    content = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text())
    content["profiles"]["paper"]["vcoco"]["release"] = "own"
    study, table = Study.model_validate(content), load_sources(None)
    wanted = needed(table, study, "paper", Path("data/raw"))
    published = {name for name, source in table.items() if source.serves == ["vcoco"]}
    assert published
    assert not published & wanted.keys()
    assert {"hicodet", "hub-mobilebert", "upt-detr-r50-vcoco"} <= wanted.keys()
    given = {"rows": next(iter(table.values())).model_copy(update={"serves": ["vcoco"], "release": None})}
    assert list(needed(given, study, "paper", Path("data/raw"))) == ["rows"], "a table of one's own serves own data"
