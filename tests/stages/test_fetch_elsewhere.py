"""Google Drive by the real gdown and the hub by its real client, both led to loopback."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
import yaml

from rmlr.fetch.download import git_blob
from rmlr.fetch.place import Place
from rmlr.stages.fetch import fetch

from ..web import Server

pytest.importorskip("gdown")
pytest.importorskip("huggingface_hub")

WEIGHTS = b"PK\x03\x04" + bytes(range(256)) * 400
NAMED = {"Content-Disposition": 'attachment; filename="detr.pth"'}
ERROR = '<!DOCTYPE html><html><p class="uc-error-subcaption">{}</p></html>'
QUOTA = ERROR.format("Sorry, too many users have viewed or downloaded this file recently. Try again later.").encode()
SCAN = (
    b'<!DOCTYPE html><html><p>Google Drive can\'t scan this file for viruses.</p><form id="download-form" action='
    b'"https://drive.usercontent.google.com/download" method="get"><input type="hidden" name="id" value="ID"></form>'
)
COMMIT, LATER = "c" * 40, "d" * 40


# ---- Google Drive


@pytest.fixture
def drive(server, tmp_path, monkeypatch):
    """A table with one file of Drive, whose addresses all lead to the server."""
    get = requests.Session.get
    asked = []

    def led_astray(self, url, **more):
        asked.append(url)
        parts = urlsplit(url)
        if parts.hostname.endswith("google.com"):
            url = f"{server.url}{parts.path}?{parts.query}"
        return get(self, url, **more)

    monkeypatch.setattr(requests.Session, "get", led_astray)
    monkeypatch.setattr(sys.modules["gdown.download"], "DEFAULT_COOKIES_FILE", str(tmp_path / "cookies.txt"))
    item = {"file": "detr.pth", "urls": ["drive:ID"], "about": 9, "sha256": "unpublished"}
    entry = {"what": "weights", "licence": "none", "serves": [], "evidence": "read"}
    path = tmp_path / "sources.yaml"
    path.write_text(yaml.safe_dump({"detr": entry | {"items": [item | {"gives": [{"to": "weights/detr.pth"}]}]}}))

    def run() -> None:
        fetch("detr", raw=tmp_path / "raw", sources=path, attempts=3, timeout=5.0, pause=0.01)

    run.raw, run.asked = tmp_path / "raw", asked
    return run


def test_a_file_of_drive_is_taken_and_its_checksum_remembered(server, drive):
    server.put("/uc", WEIGHTS, headers=NAMED)
    drive()
    assert (drive.raw / "weights/detr.pth").read_bytes() == WEIGHTS
    kept = json.loads((drive.raw / "checksums.json").read_text())["detr/detr.pth"]
    assert kept["sha256"] == hashlib.sha256(WEIGHTS).hexdigest()
    assert kept["from"] == "drive:ID"


def test_the_file_after_the_virus_scan_page_is_downloaded(server, drive):
    server.put("/uc", SCAN, headers={"Content-Type": "text/html; charset=utf-8"})
    server.put("/download", WEIGHTS, headers=NAMED)
    drive()
    assert (drive.raw / "weights/detr.pth").read_bytes() == WEIGHTS
    assert any("usercontent" in url for url in drive.asked)


def test_a_dropped_line_to_drive_is_taken_up(server, drive):
    server.put("/uc", WEIGHTS * 15, "drop", headers=NAMED)
    drive()
    assert (drive.raw / "weights/detr.pth").read_bytes() == WEIGHTS * 15
    assert [wanted for _, _, wanted in server.asked] == [None, f"bytes={1 << 19}-"]  # gdown writes half megabytes


@pytest.mark.parametrize(
    ("page", "named"),
    [
        (QUOTA, "Google Drive's quota page; it lifts within 24 hours"),
        (ERROR.format("You need access").encode(), "asks for permission"),
        (
            b"<html><body>Sorry, something else</body></html>",
            "refusal: its quota, a permission, or a file that is gone",
        ),
    ],
)
def test_drive_pages_are_refused_by_name(server, drive, page, named):
    server.put("/uc", page, headers={"Content-Type": "text/html; charset=utf-8"})
    with pytest.raises(ValueError, match=named) as caught:
        drive()
    assert "put detr.pth into" in str(caught.value)
    assert not (drive.raw / "weights").exists()


def test_a_page_that_drive_calls_a_file_is_refused_as_well(server, drive):
    server.put("/uc", QUOTA, headers=NAMED)
    with pytest.raises(ValueError, match="quota page"):
        drive()
    assert not (drive.raw / "checksums.json").exists()


def test_a_dead_id_of_drive_is_said(server, drive):
    server.put("/uc", b"", always="404")
    with pytest.raises(ValueError, match="a permission, or a file that is gone"):
        drive()


# ---- the hub


class Model:
    """A repository of a small hub."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server, self.folder, self.raw = server, folder, folder / "raw"
        entry = {"what": "encoder", "licence": "none", "serves": [], "evidence": "read"}
        hub = {"repository": "some/encoder", "revision": "main", "about": 99}
        self.sources = folder / "sources.yaml"
        self.sources.write_text(yaml.safe_dump({"encoder": entry | {"hub": hub}}))

    def publish(self, commit: str, files: dict[str, bytes], *names: str) -> None:
        """Let these names, and the commit's own, mean the commit; weights lie in large file storage."""
        siblings = []
        for name, content in files.items():
            (self.folder / "blob").write_bytes(content)
            blob, digest = git_blob(self.folder / "blob"), hashlib.sha256(content).hexdigest()
            is_large = name.endswith((".safetensors", ".bin", ".h5"))
            large = {"lfs": {"sha256": digest, "size": len(content), "pointerSize": 1}} if is_large else {}
            siblings.append({"rfilename": name, "size": len(content), "blobId": blob} | large)
            headers = {"X-Repo-Commit": commit}
            etag = f'"{digest if is_large else blob}"'
            self.server.put(f"/some/encoder/resolve/{commit}/{name}", content, headers=headers, etag=etag)
        about = json.dumps({"id": "some/encoder", "sha": commit, "siblings": siblings}).encode()
        for name in (*names, commit):
            self.server.put(
                f"/api/models/some/encoder/revision/{name}", about, headers={"Content-Type": "application/json"}
            )

    def fetch(self, *more: str, fails: bool = False) -> str:
        command = [sys.executable, "-m", "rmlr", "fetch", "encoder", "--raw", self.raw, "--sources", self.sources]
        quick = ["--attempts", "3", "--timeout", "5", "--pause", "0.01"]
        home = {"HF_ENDPOINT": self.server.url, "HF_HOME": str(self.folder / "home"), "HF_HUB_DISABLE_XET": "1"}
        environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")} | home
        done = subprocess.run([*map(str, command), *quick, *more], env=environment, capture_output=True, text=True)
        assert (done.returncode != 0) == fails, done.stderr
        return done.stderr

    def load(self, code: str) -> subprocess.CompletedProcess:
        """What a stage would do without a network."""
        home = {"HF_HUB_CACHE": str(Place(self.raw).hub), "HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:1"}
        return subprocess.run([sys.executable, "-c", code], env=os.environ | home, capture_output=True, text=True)


FILES = {"config.json": b'{"a": 1}', "model.safetensors": b"weights" * 1000, "vocab.txt": b"a\nb\n"}
EXTRA = {"pytorch_model.bin": b"a pickle of it", "tf_model.h5": b"x", "README.md": b"# card", "onnx/a.onnx": b"x"}
READ = (
    "from huggingface_hub import hf_hub_download\n"
    "print(open(hf_hub_download('some/encoder', 'config.json', revision='main')).read())"
)


@pytest.fixture
def model(server, tmp_path) -> Model:
    return Model(server, tmp_path)


def test_a_folder_of_the_hub_is_fetched_at_one_commit_and_read_without_a_network(model):
    model.publish(COMMIT, FILES | EXTRA, "main")
    model.fetch()
    snapshot = Place(model.raw).hub / "models--some--encoder/snapshots" / COMMIT
    assert {path.name: path.read_bytes() for path in snapshot.iterdir()} == FILES
    receipt = json.loads(Place(model.raw).receipt("encoder").read_text())
    assert receipt["how"] == [{"from": "hub:some/encoder", "commit": COMMIT}]
    assert model.load(READ).stdout.strip() == '{"a": 1}'
    asked = len(model.server.asked)
    model.fetch()
    assert len(model.server.asked) == asked


def test_the_first_commit_seen_counts_though_the_branch_moves(model):
    model.publish(COMMIT, FILES, "main")
    model.fetch()
    model.publish(LATER, FILES | {"config.json": b'{"a": 2}'}, "main")
    shutil.rmtree(Place(model.raw).hub)
    model.fetch()
    assert json.loads((model.raw / "checksums.json").read_text())["encoder"]["commit"] == COMMIT
    assert model.load(READ).stdout.strip() == '{"a": 1}'


def test_other_bytes_than_the_hub_lists_are_refused(model):
    model.publish(COMMIT, FILES, "main")
    page = model.server.pages[f"/some/encoder/resolve/{COMMIT}/model.safetensors"]
    page.body = b"Weights" * 1000
    said = model.fetch(fails=True)
    assert "model.safetensors has checksum" in said
    assert not Place(model.raw).receipt("encoder").exists()
    page.body = FILES["model.safetensors"]
    model.fetch()


def test_a_hub_that_fails_is_asked_again_and_then_said(model):
    model.publish(COMMIT, FILES, "main")
    model.server.pages["/api/models/some/encoder/revision/main"].faults = ["500"]
    model.fetch()
    shutil.rmtree(model.raw)
    model.server.pages["/api/models/some/encoder/revision/main"].always = "500"
    said = model.fetch(fails=True)
    assert "given up after 3 attempts" in said
    assert "`hf download some/encoder --revision main --cache-dir FOLDER`" in said


def test_a_repository_that_is_not_there_is_said(model):
    said = model.fetch(fails=True)
    assert "some/encoder at main" in said
    assert not Place(model.raw).receipt("encoder").exists()


def test_a_cache_that_the_user_has_is_checked_and_linked(model, tmp_path):
    model.publish(COMMIT, FILES, "main")
    model.fetch()
    mine = tmp_path / "mine"
    shutil.move(Place(model.raw).hub, mine)
    shutil.rmtree(model.raw)
    asked = len(model.server.asked)
    weights = (mine / f"models--some--encoder/snapshots/{COMMIT}/model.safetensors").resolve()
    weights.write_bytes(b"Weights" * 1000)
    assert "does not have the checksum" in model.fetch("--have", str(mine), fails=True)
    weights.write_bytes(FILES["model.safetensors"])
    model.raw.mkdir(exist_ok=True)
    (model.raw / "checksums.json").write_text(json.dumps({"encoder": {"commit": COMMIT}}))
    reference = mine / "models--some--encoder/refs/main"
    reference.write_text(LATER)  # what the user's own programs take
    model.fetch("--have", str(mine))
    assert reference.read_text() == LATER, "the user's cache is as it was"
    assert len(model.server.asked) == asked
    assert model.load(READ).stdout.strip() == '{"a": 1}'
