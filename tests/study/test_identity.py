"""The identity of nodes: code that a variant runs counts for it, and no other."""

import inspect
import sys
from pathlib import Path

import pytest
import yaml

from rmlr.stages import predict, text, train
from rmlr.study import source
from rmlr.study.identity import STAGES, digests, identified
from rmlr.study.nodes import TrainNode
from rmlr.study.plan import Study
from rmlr.study.source import PACKAGE, not_run, stage_files

ROOT = Path(__file__).parents[2]
RUNS = {"boxes": "table2/boxes", "upt": "table1/upt", "plain": "table2/plain", "rmlr": "shared/rmlr"}


@pytest.fixture
def study() -> Study:
    return Study.check(yaml.safe_load((ROOT / "params.yaml").read_text()), "params.yaml")


def reached(stage: str, variant, *, learns: bool, online: bool = False) -> set[str]:
    files = stage_files(stage, not_run(variant, learns=learns, online=online))
    return {str(path.relative_to(PACKAGE)) for path in files}


def test_a_variant_reaches_its_own_heads_alone(study):
    def heads(name, **how):
        return {
            file for file in ("model/upt.py", "model/align.py") if file in reached("train", study.variants[name], **how)
        }

    assert heads("boxes", learns=True) == heads("plain", learns=True) == set()
    assert heads("upt", learns=True) == {"model/upt.py"}
    assert heads("rmlr", learns=True) == heads("wo_sa", learns=True) == {"model/align.py"}
    assert "model/align.py" not in reached("predict", study.variants["rmlr"], learns=False), "text is for training only"
    photos = reached("train", study.variants["boxes"], learns=True, online=True)
    assert {"learning/photos.py", "model/detector.py"} <= photos
    assert not {"learning/photos.py", "model/detector.py"} & reached("train", study.variants["boxes"], learns=True)


def test_a_change_of_a_head_changes_the_nodes_of_variants_that_have_it(study, monkeypatch):
    before = identified(study, "tiny", ROOT / "paper")
    read = source._read

    def with_a_changed_head(path):
        said, imports = read(path)
        return (said + "\nMORE = 1" if path.name == "align.py" else said), imports

    monkeypatch.setattr(source, "_read", with_a_changed_head)
    after = identified(study, "tiny", ROOT / "paper")
    changed = {name for name in before if before[name] != after[name] and name.startswith("runs/")}
    runs = study.runs_in("tiny")
    assert changed == {f"runs/{name}/0/train" for name, run in runs.items() if study.variants[run.variant].aligns}
    assert changed


@pytest.mark.parametrize("variant", RUNS)
def test_nothing_that_is_left_out_of_a_variants_digest_is_called(variant, photo_run, study, tmp_path):
    """What is called while a run is trained and predicts: functions of ours, by file."""
    nodes = study.nodes("tiny", dict.fromkeys(STAGES, "digest"))
    results, place = photo_run.root / "results", f"runs/{RUNS[variant]}/0"
    given = {"annotations": results / "prepare", "features": results / "features"}

    def settings(name: str) -> Path:
        path = tmp_path / "settings.yaml"
        path.write_text(nodes[name].dump())
        return path

    text.text(settings=settings("vcoco/text/main"), annotations=given["annotations"], out=tmp_path / "text")
    node = nodes[f"{place}/train"]
    assert isinstance(node, TrainNode)

    def learn() -> None:
        train.train(
            settings=settings(f"{place}/train"), **given, text=tmp_path / "text", seed=0, out=tmp_path / "train"
        )

    def use() -> None:
        weights, out = tmp_path / "train", tmp_path / "predict"
        predict.predict(settings=settings(f"{place}/predict"), **given, weights=weights, out=out)

    for stage, call in (("train", learn), ("predict", use)):
        unused = not_run(node.variant, learns=stage == "train", online=False)
        called = {f"rmlr.{path.removesuffix('.py').replace('/', '.')}" for path in called_in(call)}
        assert called & unused == set(), stage
        assert f"rmlr.stages.{stage}" in called, "calls were seen"


def called_in(call) -> set[str]:
    """Files of the package whose functions run during a call, without what is done when a module is loaded."""
    found: set[str] = set()

    def note(frame, event, _):
        code = frame.f_code
        is_function = code.co_flags & inspect.CO_NEWLOCALS
        if event == "call" and is_function and code.co_filename.startswith(str(PACKAGE)):
            found.add(str(Path(code.co_filename).relative_to(PACKAGE)))

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return found


def test_every_stage_has_a_digest_and_papers_numbers_count_for_those_that_read_them(tmp_path):
    (tmp_path / "table2.csv").write_text("1")
    before = digests(tmp_path)
    assert before.keys() == set(STAGES)
    (tmp_path / "table2.csv").write_text("2")
    after = digests(tmp_path)
    assert {stage for stage in STAGES if before[stage] != after[stage]} == {"table", "statement"}
