"""`make pull` on a small repository with milestones as in dvc.yaml: through a folder, SSH and S3, whole and damaged."""

import getpass
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
pytest.importorskip("dvc")
pytest.importorskip("snakemake")

from dvc.exceptions import DvcException  # noqa: E402
from dvc.repo import Repo, lock_repo  # noqa: E402
from pull import pull  # noqa: E402

MILESTONES = """\
stages:
  data:
    cmd: snakemake milestone_data
    params: [data]
    outs:
      - results/data:
          persist: true
      - results/receipt.txt:
          persist: true
  runs:
    foreach: [one, two]
    do:
      cmd: snakemake milestone_runs_${item}
      deps: [results/data, code.py]
      outs:
        - results/runs/${item}:
            persist: true
  table:
    cmd: snakemake results/table.csv
    deps: [results/runs/one]
    outs:
      - results/table.csv:
          cache: false
          persist: true
      - results/tables:
          persist: true
  other:
    cmd: snakemake milestone_other
    deps: [code.py]
    outs:
      - results/other:
          persist: true
"""
RULES = """\
rule milestone_data:
    input:
        "results/data/deep/b.bin",
        "results/receipt.txt",
rule milestone_runs_one:
    input:
        "results/runs/one/weights.bin",
rule milestone_runs_two:
    input:
        "results/runs/two/weights.bin",
rule milestone_other:
    input:
        "results/other/numbers.txt",
rule write:
    output:
        "results/{name}",
    shell:
        "exit 1"
"""
FILES = {
    "results/data/a.txt": b"a\n",
    "results/data/deep/b.bin": bytes(range(256)) * 20,
    "results/receipt.txt": b"received\n",
    "results/runs/one/weights.bin": b"\1" * 999,
    "results/runs/one/curves.csv": b"epoch,loss\n1,2.0\n",
    "results/runs/two/weights.bin": b"\2" * 999,
    "results/table.csv": b"ap\n0.5\n",
    "results/tables/table.md": b"| ap |\n",
    "results/other/numbers.txt": b"3\n",
}
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of DVC's own code
WHO = {f"GIT_{role}_{key}": "tester" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}


def call(folder: Path, *command: object, fails: bool = False, **more: str) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, **WHO, "PATH": path, "PYTHONPATH": str(ROOT), **more}
    done = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert (done.returncode != 0) == fails, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """Finished milestones, known to DVC and committed to git; nothing was pushed."""
    folder = tmp_path_factory.mktemp("made") / "study"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    written = {"dvc.yaml": MILESTONES, "params.yaml": "data: 1\n", "code.py": "ONE = 1\n", "Snakefile": RULES}
    ignored = {".gitignore": "/results/*\n!/results/table.csv\n.snakemake\n"}
    for name, content in (written | ignored).items():
        (folder / name).write_text(content)
    call(folder, "git", "init", "-q", ".")
    with Repo.init(str(folder)) as repo:
        for stage in repo.index.stages:
            repo.commit(stage.addressing, force=True)
    call(folder, "git", "add", "-A")
    call(folder, "git", "commit", "-q", "-m", "study")
    return folder


def cloned(study: Path, folder: Path, url: object, **options: str) -> Path:
    """A clone without results, whose remote is at `url`."""
    call(folder, "git", "clone", "-q", study, "clone")
    remote = "".join(f"    {name} = {value}\n" for name, value in {"url": str(url), **options}.items())
    settings = f"[core]\n    analytics = false\n    remote = store\n['remote \"store\"']\n{remote}"
    (folder / "clone/.dvc/config.local").write_text(settings)
    return folder / "clone"


@pytest.fixture
def clone(study, tmp_path) -> Path:
    """A clone without results, and a folder as remote that has all."""
    folder = cloned(study, tmp_path, tmp_path / "remote")
    objects = study / ".dvc/cache/files"
    shutil.copytree(objects, tmp_path / "remote/files")
    return folder


def pulled(clone: Path, *targets: str) -> tuple[list[str], str, str]:
    """The milestones that are marked, messages, errors."""
    before = Path.cwd()
    os.chdir(clone)
    try:
        with Repo() as repo, lock_repo(repo):
            done = pull(repo, targets)
    finally:
        os.chdir(before)
    return done.targets, "\n".join(done.messages), "\n".join(done.errors)


def stored(clone: Path, name: str, where: str = "../remote") -> Path:
    """The object of a result in the remote, or in DVC's cache of a clone."""
    md5 = hashlib.md5(FILES[name]).hexdigest()
    return clone / where / "files/md5" / md5[:2] / md5[2:]


def replace(path: Path, content: bytes) -> None:
    """Write an object anew, and keep its mode."""
    mode = path.stat().st_mode
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(mode)


def flipped(content: bytes) -> bytes:
    """With the lowest bit of the last byte flipped."""
    return content[:-1] + bytes([content[-1] ^ 1])


def results(folder: Path) -> dict[str, bytes]:
    found = [path for path in (folder / "results").rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


ALL = "5 of 5 milestones are here and current"
DEEP = "results/data/deep/b.bin"


def test_all_of_a_study_is_pulled_and_marked_and_one_line_is_printed(study, clone):
    said = call(clone, sys.executable, ROOT / "workflow/pull.py")
    assert said == f"{ALL}\n"
    assert results(clone) == FILES
    assert "up to date" in call(clone, "dvc", "status")
    assert "Nothing to be done" in call(clone, "snakemake", "-n", "milestone_data", "results/table.csv")


@pytest.mark.parametrize("mode", [0o444, 0o644])
def test_a_flipped_bit_in_the_remote_is_named_and_neither_cached_nor_checked_out_nor_marked(clone, mode):
    replace(stored(clone, DEEP), flipped(FILES[DEEP]))
    stored(clone, DEEP).chmod(mode)
    marked, messages, errors = pulled(clone)
    assert errors.count(DEEP) == 1
    assert "is damaged: its MD5 is" in errors
    assert marked == ["milestone_other"], "all else was made from it"
    assert messages.splitlines() == [
        "here, but not all that it was made from: runs@one, runs@two, table",
        "1 of 5 milestones are here and current",
    ]
    assert not stored(clone, DEEP, ".dvc/cache").exists()
    assert not (clone / "results/data").exists()
    assert (clone / "results/runs/one/weights.bin").read_bytes() == FILES["results/runs/one/weights.bin"]
    assert pulled(clone)[2] == errors, "the second time as the first"

    replace(stored(clone, DEEP), FILES[DEEP])
    assert pulled(clone)[1:] == (ALL, "")
    assert results(clone) == FILES


def test_the_command_fails_and_names_the_file(clone):
    replace(stored(clone, DEEP), flipped(FILES[DEEP]))
    said = call(clone, sys.executable, ROOT / "workflow/pull.py", fails=True)
    assert f"make pull: {DEEP}: object " in said
    assert "Traceback" not in said


def test_a_damaged_list_of_a_folder_is_named_and_not_read(study, clone):
    with Repo(str(study)) as repo:
        lists = {out.fs_path: out.hash_info.value for out in repo.index.outs}
    oid = lists[str(study / "results/data")]
    path = clone / "../remote/files/md5" / oid[:2] / oid[2:]
    replace(path, path.read_bytes().replace(b"a.txt", b"c.txt"))
    marked, _, errors = pulled(clone)
    assert errors.startswith("results/data: object ")
    assert "is damaged: its MD5 is" in errors
    assert marked == ["milestone_other"]
    assert not (clone / "results/data").exists()


def test_what_an_unverified_pull_left_in_the_cache_is_found_and_what_it_checked_out_is_not_taken_for_good(clone):
    replace(stored(clone, DEEP), flipped(FILES[DEEP]))
    call(clone, "dvc", "pull", "-q")
    assert (clone / DEEP).read_bytes() == flipped(FILES[DEEP]), "DVC by itself does not see it"
    assert "up to date" in call(clone, "dvc", "status")
    marked, _, errors = pulled(clone)
    assert errors.startswith(f"{DEEP}: object ")
    assert marked == ["milestone_other"]
    assert not stored(clone, DEEP, ".dvc/cache").exists()

    replace(stored(clone, DEEP), FILES[DEEP])
    with pytest.raises(DvcException, match="--force"):
        pulled(clone)
    call(clone, "dvc", "checkout", "-q", "--force")
    assert pulled(clone)[1:] == (ALL, "")
    assert results(clone) == FILES


def test_a_file_of_a_folder_that_the_remote_lost_is_named(clone):
    stored(clone, DEEP).unlink()
    marked, _, errors = pulled(clone)
    assert errors == f"{DEEP}: is not in the remote, though the list of its folder is"
    assert marked == ["milestone_other"]


def test_a_study_of_which_a_part_was_pushed_is_pulled_without_an_error(study, tmp_path):
    maker = cloned(study, tmp_path, tmp_path / "remote")
    shutil.copytree(study / ".dvc/cache", maker / ".dvc/cache")
    call(maker, "dvc", "push", "-q", "data", "runs@one")
    shutil.rmtree(maker)
    clone = cloned(study, tmp_path, tmp_path / "remote")
    marked, messages, errors = pulled(clone)
    assert errors == ""
    assert marked == ["milestone_data", "milestone_runs_one"]
    lines = ["not in the remote: runs@two, table, other", "2 of 5 milestones are here and current"]
    assert messages.splitlines() == lines
    said = call(clone, sys.executable, ROOT / "workflow/pull.py")
    assert said.splitlines() == lines


def test_what_was_never_made_is_said(study, tmp_path):
    clone = cloned(study, tmp_path, study / ".dvc/cache")
    lock = clone / "dvc.lock"
    content = yaml.safe_load(lock.read_text())
    del content["stages"]["other"], content["stages"]["runs@two"]
    lock.write_text(yaml.safe_dump(content))
    marked, messages, errors = pulled(clone)
    assert errors == ""
    assert marked == ["milestone_data", "milestone_runs_one", "results/table.csv"]
    assert messages.splitlines() == [
        "not made at this commit: runs@two, other",
        "3 of 5 milestones are here and current",
    ]


def test_targets_are_pulled_with_what_they_were_made_from_and_nothing_else(clone):
    marked, messages, _ = pulled(clone, "table")
    assert marked == ["milestone_data", "milestone_runs_one", "results/table.csv"]
    assert messages == "3 of 3 milestones are here and current"
    assert results(clone).keys() == {name for name in FILES if "two" not in name and "other" not in name}
    assert pulled(clone, "runs", "other")[0] == [
        "milestone_data",
        "milestone_runs_one",
        "milestone_runs_two",
        "milestone_other",
    ]


def test_an_unknown_target_is_one_message(clone):
    said = call(clone, sys.executable, ROOT / "workflow/pull.py", "tabel2", fails=True)
    assert said.startswith("make pull: ")
    assert "tabel2" in said
    assert "Traceback" not in said


def test_changed_numbers_and_code_are_not_marked_nor_what_was_made_with_them(clone):
    (clone / "params.yaml").write_text("data: 2\n")
    (clone / "code.py").write_text("ONE = 2\n")
    marked, messages, errors = pulled(clone)
    assert (marked, errors) == ([], "")
    assert "data: does not match dvc.lock: params.yaml" in messages
    assert "runs@one: does not match dvc.lock: code.py" in messages
    assert "here, but not all that it was made from: table" in messages


def test_a_file_that_the_user_changed_is_kept_and_named(clone):
    pulled(clone)
    path = clone / "results/runs/one/curves.csv"
    path.chmod(0o644)
    path.write_text("mine\n")
    with pytest.raises(DvcException, match=r"curves\.csv"):
        pulled(clone)
    assert path.read_text() == "mine\n"


def test_without_a_remote_what_the_cache_has_is_enough_and_otherwise_the_message_says_how_to_add_one(study, tmp_path):
    clone = cloned(study, tmp_path, "unused")
    (clone / ".dvc/config.local").unlink()
    shutil.copytree(study / ".dvc/cache", clone / ".dvc/cache")
    assert pulled(clone)[1:] == (ALL, "")
    shutil.rmtree(clone / ".dvc/cache")
    said = call(clone, sys.executable, ROOT / "workflow/pull.py", fails=True)
    assert "dvc remote add" in said


# ---- other kinds of remotes


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def wait_for(port: int, process: subprocess.Popen) -> None:
    for _ in range(600):
        assert process.poll() is None, f"{process.args} ended"
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError(f"{process.args} does not listen")


@pytest.fixture
def ssh(tmp_path) -> Iterator[tuple[str, dict[str, str], Path]]:
    """URL and options of a remote on an SSH server of this test, and the folder of its objects."""
    pytest.importorskip("dvc_ssh", reason="needs dvc-ssh: pip install 'rmlr[remotes]'")
    sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if sshd is None or shutil.which("ssh-keygen") is None:
        pytest.skip("needs sshd and ssh-keygen (Debian: openssh-server)")
    folder, port = tmp_path / "ssh", free_port()
    folder.mkdir(mode=0o700)
    for key in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
    shutil.copyfile(folder / "user.pub", folder / "authorized")
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile {folder}/pid\n"
        f"AuthorizedKeysFile {folder}/authorized\nPasswordAuthentication no\nUsePAM no\nStrictModes no\n"
        "Subsystem sftp internal-sftp\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # the folder that sshd gives up its rights in
    command = [sshd, "-D", "-e", "-f", folder / "config"]
    with (folder / "log").open("w") as log, subprocess.Popen(command, stderr=log) as server:
        wait_for(port, server)
        options = {"keyfile": str(folder / "user"), "user": getpass.getuser(), "port": str(port)}
        yield f"ssh://127.0.0.1:{port}{tmp_path}/remote", options, tmp_path / "remote"
        server.terminate()


class S3:
    """A bucket on a local S3-compatible server."""

    def __init__(self, url: str) -> None:
        import boto3

        keys = {"aws_access_key_id": "tester", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
        self.client = boto3.client("s3", endpoint_url=url, **keys)
        self.client.create_bucket(Bucket="studies")
        self.options = {"endpointurl": url, "access_key_id": "tester", "secret_access_key": "secret"}

    def change(self, key: str, change) -> None:
        content = self.client.get_object(Bucket="studies", Key=key)["Body"].read()
        self.client.put_object(Bucket="studies", Key=key, Body=change(content))


@pytest.fixture
def s3(monkeypatch) -> Iterator[S3]:
    """A bucket on moto's server."""
    pytest.importorskip("dvc_s3", reason="needs dvc-s3: pip install 'rmlr[remotes]'")
    pytest.importorskip("moto.server", reason="needs an S3 server: pip install 'moto[server]'")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        wait_for(port, server)
        yield S3(f"http://127.0.0.1:{port}")
        server.terminate()


def travels(study: Path, folder: Path, url: str, options: dict[str, str], damage) -> None:
    """A study is pushed and pulled whole; then `damage(key, change)` changes an object of the remote."""
    maker = cloned(study, folder, url, **options)
    shutil.copytree(study / ".dvc/cache", maker / ".dvc/cache")
    call(maker, "dvc", "push", "-q")
    shutil.rmtree(maker)
    clone = cloned(study, folder, url, **options)
    assert call(clone, sys.executable, ROOT / "workflow/pull.py").splitlines() == [ALL]
    assert results(clone) == FILES
    shutil.rmtree(clone)

    damage(str(stored(Path("/"), DEEP, "").relative_to("/")), flipped)
    clone = cloned(study, folder, url, **options)
    said = call(clone, sys.executable, ROOT / "workflow/pull.py", fails=True)
    assert f"make pull: {DEEP}: object " in said
    assert "is damaged: its MD5 is" in said
    assert "1 of 5 milestones are here and current" in said
    assert not stored(clone, DEEP, ".dvc/cache").exists()


@pytest.mark.slow
def test_a_study_travels_over_ssh_and_damage_is_found(study, tmp_path, ssh):
    url, options, folder = ssh
    travels(
        study, tmp_path, url, options, lambda key, change: replace(folder / key, change((folder / key).read_bytes()))
    )


@pytest.mark.slow
def test_a_study_travels_through_s3_and_damage_is_found(study, tmp_path, s3):
    travels(study, tmp_path, "s3://studies/rmlr", s3.options, lambda key, change: s3.change(f"rmlr/{key}", change))


def test_a_remote_that_does_not_answer_is_one_message(study, tmp_path):
    pytest.importorskip("dvc_ssh", reason="needs dvc-ssh: pip install 'rmlr[remotes]'")
    clone = cloned(study, tmp_path, f"ssh://127.0.0.1:{free_port()}/remote")
    said = call(clone, sys.executable, ROOT / "workflow/pull.py", fails=True)
    assert said.startswith("make pull: remote 'store': Connection")
    assert said.count("\n") == 1
