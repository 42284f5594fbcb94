"""`rmlr together`: each run's files are those of `rmlr train`, whatever happens to the others or to the process."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from rmlr.__main__ import main
from rmlr.commands.together import together
from rmlr.stages.text import text
from rmlr.stages.train import train
from rmlr.study import provenance
from rmlr.study.encoder import Encoder
from rmlr.study.folder import settle
from rmlr.study.nodes import TextNode, TrainNode
from rmlr.study.settings import Upt

from .test_train import KILLED, node
from .test_views import BOXES, PHOTOS, corner, made, train_node  # noqa: F401 (fixtures)

FILES = ("weights.safetensors", "alignment.safetensors", "curves.csv", "checkpoint.json", "settings.yaml")
UPT = Upt(code_dims=[8], dim=16, layers=1, heads=4, ffn_dim=8, dropout=0.1)
PER_PROCESS = {"began", "wall_seconds", "cpu_seconds", "peak_memory_mb", "together", "identity"}


def upt(chosen: TrainNode) -> TrainNode:
    """The baseline, trained as another run is."""
    off = ("global_context", "ire", "pose", "ire_sentence", "ire_word", "irm_sentence", "irm_word")
    variant = chosen.variant.model_copy(update={"network": "upt"} | dict.fromkeys(off, False))
    network = chosen.network.model_copy(update={"upt": UPT})
    return chosen.model_copy(update={"variant": variant, "network": network})


def variants(**schedule) -> dict[str, TrainNode]:
    """The whole of RmLR, without text, and UPT; with dropout, and of two learning rates."""
    return {
        "rmlr": node(**schedule),
        "wo_cl": node(aligned=False, learning_rate=3e-3, **schedule),
        "upt": upt(node(aligned=False, **schedule)),
    }


class Runs:
    """Calls of `rmlr train`, one by one or in one file."""

    def __init__(self, folder: Path, nodes: dict[str, TrainNode], **given: Any) -> None:
        self.folder, self.nodes, self._given = folder, nodes, {"seed": 0} | given
        folder.mkdir(exist_ok=True)
        for name, chosen in nodes.items():
            (folder / f"{name}.yaml").write_text(chosen.dump())

    def flags(self, name: str) -> dict[str, Any]:
        flags = {"settings": self.folder / f"{name}.yaml"} | self._given
        text = flags.pop("text", {})
        flags["text"] = text.get(name, text["others"]) if isinstance(text, dict) else text
        return flags | {"out": self.folder / name / "train"}

    def command(self, name: str) -> list[str]:
        order = ("settings", "annotations", "images", "detector", "features", "text", "seed", "out")
        flags = self.flags(name)
        return ["train", *(str(part) for flag in order if flag in flags for part in (f"--{flag}", flags[flag]))]

    def train(self, name: str) -> None:
        train(**self.flags(name))

    def file(self, **changes: dict[str, Any]) -> Path:
        """The file of all runs; some entries changed."""
        plain = (str, int)
        entries = [self.flags(name) | changes.get(name, {}) for name in self.nodes]
        content = [{k: v if isinstance(v, plain) else str(v) for k, v in entry.items()} for entry in entries]
        path = self.folder / "runs.yaml"
        path.write_text(yaml.safe_dump({"runs": content}))
        return path

    def made(self, name: str) -> dict[str, bytes]:
        folder = self.folder / name / "train"
        return {file: (folder / file).read_bytes() for file in FILES if (folder / file).exists()}

    def about(self, name: str) -> dict[str, Any]:
        return json.loads((self.folder / name / "train" / "run.json").read_text())


@pytest.fixture
def given(study, settings_of, tmp_path):
    """What all runs read; one of them has other text."""
    texts = {}
    for name, model in (("others", "random:6"), ("wo_cl", "random:5")):
        encoder = Encoder(name=model, model=model, revision=None, sha256=None, pooling="mean")
        settings = settings_of(TextNode(code="", encoder=encoder))
        text(settings=settings, annotations=study.prepare, out=tmp_path / f"text-{name}")
        texts[name] = tmp_path / f"text-{name}"
    return {"annotations": study.prepare, "features": study.features, "text": texts}


@pytest.fixture
def apart(given, tmp_path):
    """Each run trained alone."""
    runs = Runs(tmp_path / "apart", variants(), **given)
    for name in runs.nodes:
        runs.train(name)
    return runs


def must_be_same(runs: Runs, apart: Runs, names=("rmlr", "wo_cl", "upt")) -> None:
    for name in names:
        assert runs.made(name) == apart.made(name)
        assert {"weights.safetensors", "curves.csv"} <= runs.made(name).keys()


# ---- the same results


def test_runs_from_caches_have_the_bytes_that_they_have_alone(given, apart, tmp_path):
    runs = Runs(tmp_path / "together", variants(), **given)
    together(runs.file())
    must_be_same(runs, apart)
    for name in runs.nodes:
        one, other = runs.about(name), apart.about(name)
        assert one["together"] == 3
        assert "together" not in other
        assert {key: value for key, value in one.items() if key not in PER_PROCESS} == {
            key: value for key, value in other.items() if key not in PER_PROCESS
        }
        state = Path(name, ".train.resume", "epoch.pt")
        assert (runs.folder / state).read_bytes() == (apart.folder / state).read_bytes()


def test_runs_from_augmented_photos_have_the_bytes_that_they_have_alone(corner, tmp_path, monkeypatch):  # noqa: F811
    """Each photo is loaded and seen by the detector once an epoch."""
    from rmlr.learning.photos import Photos

    whole, seen = Photos.see, []

    def see(self, loaded, device):
        seen.extend(loaded[0].tolist())
        return whole(self, loaded, device)

    monkeypatch.setattr(Photos, "see", see)
    first = train_node(online=True)
    nodes = {"wo_cl": first, "upt": upt(first), "fast": train_node(online=True, learning_rate=2e-2)}
    inputs = {"annotations": corner.root / "prepare", "text": corner.root, **corner.seen}
    alone, runs = Runs(tmp_path / "apart", nodes, **inputs), Runs(tmp_path / "together", nodes, **inputs)
    for name in nodes:
        alone.train(name)
    assert len(seen) == 3 * 3 * len(PHOTOS)
    seen.clear()
    together(runs.file())
    assert len(seen) == 3 * len(PHOTOS)
    must_be_same(runs, alone, nodes)


def test_either_command_finds_what_the_other_made(given, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", logger="rmlr")
    runs = Runs(tmp_path / "runs", variants(epochs=1), **given)
    file = runs.file()
    for name in ("rmlr", "wo_cl"):
        monkeypatch.setattr(provenance, "command", runs.command(name))
        runs.train(name)
    before = {name: runs.about(name) for name in ("rmlr", "wo_cl")}
    monkeypatch.setattr(provenance, "command", ["together", str(file)])
    together(file)
    assert {name: runs.about(name) for name in before} == before
    assert runs.about("upt")["together"] == 1
    assert caplog.text.count("exists already, made from the same settings and inputs") == 2
    monkeypatch.setattr(provenance, "command", runs.command("upt"))
    with pytest.raises(SystemExit) as ended:
        runs.train("upt")
    assert ended.value.code == 0
    monkeypatch.setattr(provenance, "command", ["together", str(file)])
    together(file)
    assert caplog.text.count("exists already") == 2 + 1 + 3


# ---- interrupted


@pytest.mark.parametrize(
    ("number", "status", "left"), [(signal.SIGKILL, -signal.SIGKILL, 10), (signal.SIGTERM, 128 + signal.SIGTERM, 2)]
)
def test_killed_runs_resume_each_from_its_own_epoch_to_the_same_bytes(given, tmp_path, number, status, left):
    """In the fourth of five steps of the last of three epochs; one run is then finished by `rmlr train`.

    By SIGKILL that epoch is lost, by SIGTERM nothing is.
    """
    nodes = variants(epochs=3)
    alone, runs = Runs(tmp_path / "apart", nodes, **given), Runs(tmp_path / "together", nodes, **given)
    for name in nodes:
        alone.train(name)
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads()), "BY": str(int(number))}

    def start(at: int, *command: str) -> subprocess.CompletedProcess:
        whole = [sys.executable, "-c", KILLED, str(at), *command]
        return subprocess.run(whole, env=environment, check=False, stdout=subprocess.PIPE, text=True, timeout=200)

    file = str(runs.file())
    assert start(27, "together", file).returncode == status
    assert not any((runs.folder / name / "train").exists() for name in nodes)
    assert start(0, *runs.command("wo_cl")).stdout == f"{left}\n"
    shutil.rmtree(runs.folder / "upt" / ".train.resume")  # as if it had never begun
    assert start(0, "together", file).stdout == "30\n"
    must_be_same(runs, alone)


# ---- a run that fails


def with_failing(**schedule) -> dict[str, TrainNode]:
    nodes = variants(**schedule)
    failing = nodes["wo_cl"].train.model_copy(update={"learning_rate": 1e30, "clip_norm": 1e30})
    return nodes | {"wo_cl": nodes["wo_cl"].model_copy(update={"train": failing})}


def test_a_run_whose_loss_is_not_finite_costs_the_others_nothing(given, apart, tmp_path):
    runs = Runs(tmp_path / "together", with_failing(), **given)
    with pytest.raises(SystemExit) as ended:
        main(["together", str(runs.file())])
    said = str(ended.value)
    assert said.startswith("rmlr: 1 of 3 runs failed; the others are finished:\n")
    assert f"{runs.folder}/wo_cl/train: the " in said
    assert " on images [" in said
    must_be_same(runs, apart, ("rmlr", "upt"))
    assert not (runs.folder / "wo_cl" / "train").exists()
    assert not (runs.folder / "wo_cl" / ".train.part").exists()


def test_finished_runs_of_a_failed_job_can_be_kept_aside_for_the_next_call(given, apart, tmp_path, monkeypatch):
    runs = Runs(tmp_path / "together", with_failing(), **given)
    file = runs.file()
    monkeypatch.setattr(provenance, "command", ["together", str(file)])
    for failed in ("1 of 3 runs", "1 of 1 runs"):  # in the second call, the others are found as finished
        with pytest.raises(ValueError, match=failed):
            together(file, keep_aside=True)
        assert not any((runs.folder / name / "train").exists() for name in runs.nodes)
    for name in ("rmlr", "upt"):
        settle(runs.folder / name / "train")
    must_be_same(runs, apart, ("rmlr", "upt"))
    assert not (runs.folder / "wo_cl" / ".train.part").exists()


# ---- what does not fit


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"batch_size": 2}, r"train\.batch_size must be equal, and is 4 and 2"),
        ({"micro_batch_size": 4}, r"train\.micro_batch_size must be equal, and is 2 and 4"),
        ({"epochs": 3}, r"train\.epochs must be equal, and is 2 and 3"),
        ({"split": "train"}, r"train\.split must be equal, and is trainval and train"),
        ({"share": 0.5}, r"train\.share must be equal, and is 1\.0 and 0\.5"),
    ],
)
def test_runs_with_other_examples_are_refused_before_any_work(given, tmp_path, changed, said):
    nodes = variants() | {"upt": upt(node(aligned=False, **changed))}
    runs = Runs(tmp_path / "together", nodes, **given)
    with pytest.raises(ValueError, match=rf"runs\.yaml: runs 1 \(.*rmlr/train\) and 3 \(.*upt/train\) cannot .*{said}"):
        together(runs.file())
    assert not list(runs.folder.rglob("*train*"))


def test_other_inputs_or_seeds_or_the_same_folder_are_refused_before_any_work(given, tmp_path):
    runs = Runs(tmp_path / "together", variants(), **given)
    flags = runs.flags("rmlr")
    for changed, said in (
        ({"seed": 1}, "--seed must be equal, and is 0 and 1"),
        ({"features": "elsewhere"}, "--features must be equal, and is .*features and elsewhere"),
        ({"annotations": "elsewhere"}, "--annotations must be equal"),
        ({"out": flags["out"]}, "runs 1 and 2 have the same out, .*rmlr/train. Give each its own"),
        ({"settings": "nowhere.yaml"}, "nowhere.yaml"),
        ({"text": "nowhere"}, "does not exist"),
        ({"epochs": 3}, "epochs"),
    ):
        with pytest.raises(ValueError, match=said):
            together(runs.file(wo_cl=changed))
    (runs.folder / "runs.yaml").write_text("runs: []\n")
    with pytest.raises(ValueError, match=r"runs\.yaml: 1 setting\(s\) do not fit:\n  runs"):
        together(runs.folder / "runs.yaml")
    assert not list(runs.folder.rglob("*train*"))


def test_several_processes_are_refused(given, tmp_path, monkeypatch):
    runs = Runs(tmp_path / "together", variants(), **given)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="2 processes were started, but runs are trained together in one"):
        together(runs.file())
