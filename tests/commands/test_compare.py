"""`rmlr compare`: evaluations in, a verdict out."""

import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import rmlr as rmlr_library
from rmlr.commands.compare import compare
from rmlr.data.hicodet import read_hicodet
from rmlr.data.records import (
    Corpus,
    load_annotations,
    load_vocabulary,
    save_annotations,
    save_image_objects,
    save_vocabulary,
)
from rmlr.data.vcoco import read_vcoco
from rmlr.detections.triplets import load_triplets, save_triplets
from rmlr.hoi import Triplets
from rmlr.stages.evaluate import evaluate

GOLDEN = Path(__file__).parents[1] / "golden"


def prepare(folder: Path, corpus: Corpus) -> Path:
    folder.mkdir(parents=True)
    save_vocabulary(folder / "vocabulary.json", corpus.vocabulary)
    for split, images in corpus.splits.items():
        save_annotations(folder / f"{split}.json", images)
    return folder


def worse(table: Triplets, share: float, seed: int = 0) -> Triplets:
    """The same rows, a share of them with the person elsewhere."""
    is_off = np.random.default_rng(seed).random((len(table.score), 1)) < share
    return replace(table, human_boxes=np.where(is_off, table.human_boxes + np.float32(1000), table.human_boxes))


@pytest.fixture(scope="module")
def vcoco(tmp_path_factory) -> Path:
    """Records of V-COCO, and evaluations of its `train`: `good` and `bad` of three seeds each."""
    root = tmp_path_factory.mktemp("vcoco")
    prepare(root / "prepare", read_vcoco(GOLDEN / "vcoco", ["point instr"]))
    whole = load_triplets(GOLDEN / "vcoco" / "triplets_train.parquet")
    for name, share in (("good", 0.02), ("bad", 0.8)):
        for seed in range(3):
            run = root / name / str(seed)
            run.mkdir(parents=True)
            save_triplets(run / "triplets.parquet", worse(whole, share, seed))
            score(root, run, "train")
    return root


@pytest.fixture(scope="module")
def hicodet(tmp_path_factory) -> Path:
    """Records of HICO-DET, and evaluations `good` and `bad`."""
    root = tmp_path_factory.mktemp("hicodet")
    prepare(root / "prepare", read_hicodet(GOLDEN / "hicodet" / "clean", 1))
    whole = load_triplets(GOLDEN / "hicodet" / "clean" / "triplets.parquet")
    for name, share in (("good", 0.0), ("bad", 0.8)):
        (root / name).mkdir()
        save_triplets(root / name / "triplets.parquet", worse(whole, share))
        score(root, root / name, "test")
    return root


def score(root: Path, run: Path, split: str) -> None:
    evaluate(annotations=root / "prepare", triplets=run / "triplets.parquet", split=split, out=run / "evaluate")


def rmlr(*arguments, cwd: Path | None = None) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "rmlr", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_a_better_run_is_told_from_a_worse_one_on_the_command_line(vcoco, tmp_path):
    done = rmlr(
        "compare", vcoco / "good" / "0", vcoco / "bad" / "0", "--samples", 200, "--out", tmp_path / "new" / "it.json"
    )
    assert done.returncode == 0, done.stderr
    found = read(tmp_path / "new" / "it.json")
    assert (found["images"], found["split"], found["dataset"], found["samples"]) == (40, "train", "vcoco", 200)
    assert list(found["headlines"]) == ["vcoco_ap_role_1", "vcoco_ap_role_2"]
    for metric, headline in found["headlines"].items():
        for side, name in (("a", "good"), ("b", "bad")):
            metrics = read(vcoco / name / "0" / "evaluate" / "metrics.json")
            assert headline[side] == pytest.approx(metrics[metric], abs=1e-12)
            assert found[side][0]["metrics"] == metrics
        assert headline["difference"] == pytest.approx(headline["a"] - headline["b"])
        assert headline["is_clear"]
        assert 0 < headline["images"]["low"] < headline["difference"] < headline["images"]["high"]
        assert (headline["seeds"], headline["both"]) == (None, None)
        points = 100 * headline["difference"]
        assert f"A is better than B by {points:.2f} points (95% interval " in headline["verdict"]
        assert "over 40 images, not over training runs" in headline["verdict"]
        assert headline["verdict"] in done.stdout
        assert f"{points:+.2f}" in done.stdout
    assert "the spread between training runs" in done.stdout
    assert len(found["classes"]["vcoco_ap_role_1"]) == 24
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["it.json"]


def test_from_python_the_numbers_are_those_of_the_command(vcoco, tmp_path, capsys):
    compare(vcoco / "good", vcoco / "bad", samples=100, out=tmp_path / "it.json")
    found = rmlr_library.compare(str(vcoco / "good"), vcoco / "bad", samples=100)
    written, headline = read(tmp_path / "it.json"), found.headlines["vcoco_ap_role_1"]
    assert capsys.readouterr().out == f"{found}\n"
    assert headline.difference == written["headlines"]["vcoco_ap_role_1"]["difference"] > 0
    assert found.verdicts["vcoco_ap_role_1"] == written["headlines"]["vcoco_ap_role_1"]["verdict"]
    frame = found.frame().set_index(["setting", "class"])
    for setting, metric in zip(dict.fromkeys(frame.index.get_level_values(0)), found.headlines, strict=True):
        for name, numbers in written["classes"][metric].items():
            row = frame.loc[setting, name]
            for key in ("a", "b", "difference"):
                assert row[key] == pytest.approx(np.nan if numbers[key] is None else numbers[key], nan_ok=True)


def test_the_other_way_round_the_other_is_better_by_as_much(vcoco, tmp_path):
    for name, sides in (("one", ("good", "bad")), ("other", ("bad", "good"))):
        compare(*(vcoco / side / "1" / "evaluate" for side in sides), samples=100, out=tmp_path / f"{name}.json")
    one, other = (read(tmp_path / f"{name}.json")["headlines"]["vcoco_ap_role_2"] for name in ("one", "other"))
    assert other["difference"] == -one["difference"]
    assert (other["images"]["low"], other["images"]["high"]) == pytest.approx(
        (-one["images"]["high"], -one["images"]["low"])
    )
    assert other["verdict"] == one["verdict"].replace("A is better than B", "B is better than A")


def test_several_seeds_bring_the_spread_of_trainings_in(vcoco, tmp_path, capsys, caplog):
    run = tmp_path / "runs" / "good"
    shutil.copytree(vcoco / "good", run)
    (run / "7" / "train").mkdir(parents=True)
    compare(run, vcoco / "bad", samples=100, out=tmp_path / "it.json")
    found = read(tmp_path / "it.json")
    headline = found["headlines"]["vcoco_ap_role_1"]
    ap = [metrics["metrics"]["vcoco_ap_role_1"] for metrics in found["a"]]
    assert len(set(ap)) == 3
    assert headline["a"] == pytest.approx(np.mean(ap))
    assert headline["both"]["error"] == pytest.approx(np.hypot(headline["images"]["error"], headline["seeds"]["error"]))
    assert headline["is_clear"] == (headline["both"]["low"] > 0)
    assert "over 40 images and 3 seeds each)" in headline["verdict"]
    said = capsys.readouterr().out
    assert "95%, both" in said
    assert "the spread between training runs" not in said
    assert "not evaluated, and so left out: 7" in caplog.text


def test_hicodet_has_six_headlines_and_says_which_known_object(hicodet, tmp_path, capsys):
    compare(hicodet / "good", hicodet / "bad", samples=100, out=tmp_path / "it.json")
    found, metrics = read(tmp_path / "it.json"), read(hicodet / "good" / "evaluate" / "metrics.json")
    sets = ("full", "rare", "nonrare")
    names = [f"hicodet_{setting}_{name}" for setting in ("default", "known_object") for name in sets]
    assert list(found["headlines"]) == names
    assert [found["headlines"][name]["a"] for name in names] == pytest.approx([metrics[name] for name in names])
    assert list(found["classes"]) == ["hicodet_default_full", "hicodet_known_object_full"]
    said = capsys.readouterr().out
    assert "Known Object (visible pairs) non-rare: A is better than B by" in said
    assert "a hint, not a finding" in said


def test_known_object_is_by_labels_of_whole_images_where_there_are_any(hicodet, tmp_path, capsys):
    shutil.copytree(hicodet / "prepare", tmp_path / "prepare")
    images = load_annotations(tmp_path / "prepare", "test")
    holds_all = np.ones((len(images), len(load_vocabulary(tmp_path / "prepare").objects)), dtype=bool)
    save_image_objects(tmp_path / "prepare" / "image_objects.json", {"test": images}, {"test": holds_all})
    for name in ("good", "bad"):
        (tmp_path / name).mkdir()
        shutil.copyfile(hicodet / name / "triplets.parquet", tmp_path / name / "triplets.parquet")
        score(tmp_path, tmp_path / name, "test")
    compare(tmp_path / "good", tmp_path / "bad", samples=100, out=tmp_path / "it.json")
    found = read(tmp_path / "it.json")["headlines"]
    default, known = (found[f"hicodet_{setting}_full"] for setting in ("default", "known_object"))
    assert {**known, "verdict": ""} == {**default, "verdict": ""}
    assert "visible pairs" not in capsys.readouterr().out


def test_detections_in_an_official_form_are_compared_as_well(vcoco, tmp_path):
    table, form = vcoco / "good" / "0" / "triplets.parquet", tmp_path / "form"
    evaluate(annotations=vcoco / "prepare", triplets=table, split="train", out=form, export="official")
    pickle = form / "vcoco.pkl"
    evaluate(annotations=vcoco / "prepare", triplets=pickle, split="train", out=tmp_path / "scored")
    compare(tmp_path / "scored", vcoco / "good" / "0", samples=100, out=tmp_path / "it.json")
    headline = read(tmp_path / "it.json")["headlines"]["vcoco_ap_role_1"]
    assert headline["difference"] == pytest.approx(0, abs=1e-9)
    assert headline["images"]["error"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("run", ["good", "good/0"])
def test_a_run_beside_itself_differs_by_nothing_and_that_is_sure(run, vcoco, tmp_path, capsys):
    compare(vcoco / run, vcoco / run, samples=100, out=tmp_path / "it.json")
    for headline in read(tmp_path / "it.json")["headlines"].values():
        spreads = [headline[source] for source in ("images", "seeds", "both") if headline[source]]
        assert spreads == [{"error": 0.0, "low": 0.0, "high": 0.0}] * (3 if run == "good" else 1)
        assert headline["difference"] == 0
    assert "A and B cannot be told apart; A - B is +0.00 points (95% interval +0.00 to +0.00" in capsys.readouterr().out


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_sets(vcoco, tmp_path):
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        compare(vcoco / "good" / "0", vcoco / "bad" / "0", samples=100, seed=seed, out=tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "again").read_bytes()
    one, other = (read(tmp_path / name)["headlines"]["vcoco_ap_role_1"] for name in ("one", "other"))
    assert one["difference"] == other["difference"]
    assert one["images"] != other["images"]


def test_inputs_that_were_named_from_another_folder_are_found(vcoco, tmp_path):
    root = tmp_path / "study"
    for name in ("prepare", "good/0/triplets.parquet", "bad/0/triplets.parquet"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if name == "prepare" else shutil.copyfile)(vcoco / name, root / name)
    for run in ("good/0", "bad/0"):
        flags = ["--annotations", "prepare", "--triplets", f"{run}/triplets.parquet", "--split", "train"]
        assert rmlr("evaluate", *flags, "--out", f"{run}/evaluate", cwd=root).returncode == 0
    # What has the same name where the command is run is not what was scored.
    shutil.copytree(root / "prepare", tmp_path / "prepare")
    (tmp_path / "prepare" / "train.json").write_text("[]\n")
    done = rmlr("compare", "study/good/0", "study/bad/0", "--samples", 100, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "A is better than B" in done.stdout


def test_a_split_without_images_has_nothing_to_compare(vcoco, tmp_path, capsys):
    shutil.copytree(vcoco / "prepare", tmp_path / "prepare")
    (tmp_path / "prepare" / "val.json").write_text("[]\n")
    whole = load_triplets(vcoco / "good" / "0" / "triplets.parquet")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        none = Triplets(*[getattr(whole, column)[:0] for column in Triplets.__slots__])
        save_triplets(tmp_path / name / "triplets.parquet", none)
        score(tmp_path, tmp_path / name, "val")
    compare(tmp_path / "one", tmp_path / "two", samples=100, out=tmp_path / "it.json")
    assert "scenario 1: nothing to compare, no class has a positive" in capsys.readouterr().out
    assert read(tmp_path / "it.json")["headlines"]["vcoco_ap_role_1"]["difference"] is None


# ---- what is refused


@pytest.fixture
def copy(vcoco, tmp_path) -> Path:
    """A run of one seed that a test may spoil; its inputs are its own as well."""
    shutil.copytree(vcoco / "prepare", tmp_path / "prepare")
    run = tmp_path / "run"
    run.mkdir()
    shutil.copyfile(vcoco / "good" / "0" / "triplets.parquet", run / "triplets.parquet")
    score(tmp_path, run, "train")
    return run


def refused(a: Path, b: Path, message: str, tmp_path: Path, **more) -> None:
    with pytest.raises(ValueError, match=message):
        compare(a, b, out=tmp_path / "out.json", **{"samples": 100} | more)
    assert not (tmp_path / "out.json").exists()


def test_other_splits_are_refused(vcoco, copy, tmp_path):
    shutil.copyfile(GOLDEN / "vcoco" / "triplets_val.parquet", copy / "triplets.parquet")
    score(tmp_path, copy, "val")
    refused(
        vcoco / "good" / "0", copy, "on train of .*, but .* on val of .*: the images or annotations differ", tmp_path
    )


def test_other_annotations_are_refused(vcoco, copy, tmp_path):
    path = tmp_path / "prepare" / "test.json"
    path.write_text(path.read_text() + "\n")
    score(tmp_path, copy, "train")
    refused(vcoco / "good" / "0", copy, "the images or annotations differ", tmp_path)


def test_triplets_that_are_gone_or_changed_are_refused(vcoco, copy, tmp_path):
    table = load_triplets(copy / "triplets.parquet")
    save_triplets(copy / "triplets.parquet", worse(table, 0.3))
    refused(copy, vcoco / "bad" / "0", r"run/triplets\.parquet has changed since it was scored", tmp_path)
    (copy / "triplets.parquet").unlink()
    refused(copy, vcoco / "bad" / "0", r"scored .*triplets\.parquet, which is neither here nor", tmp_path)


def test_a_table_that_scores_otherwise_than_was_said_is_refused(vcoco, copy, tmp_path):
    path = copy / "evaluate" / "run.json"
    about = read(path)
    about["metrics"]["vcoco_ap_role_2"] += 1e-6
    path.write_text(json.dumps(about))
    refused(copy, vcoco / "bad" / "0", "vcoco_ap_role_2 is .* there, but scoring the predictions again gives", tmp_path)


def test_what_is_no_evaluation_is_refused(vcoco, copy, tmp_path):
    good = vcoco / "good" / "0"
    refused(tmp_path / "nowhere", good, "nowhere: no such folder", tmp_path)
    refused(good, tmp_path / "prepare", "prepare: no evaluation. Expected a folder made by `rmlr evaluate`", tmp_path)
    path = copy / "evaluate" / "run.json"
    about = read(path)
    path.write_text(json.dumps(about | {"stage": "train"}))
    refused(good, copy, "made by 'train' from 2 inputs", tmp_path)
    path.write_text(path.read_text()[:-5])
    refused(good, copy, r"run\.json: .*Is the file cut off", tmp_path)
    refused(good, path, r"run\.json: is a file; expected a folder", tmp_path)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"metrics": {"vcoco_ap_role_1": "much"}}, r"run\.json: metrics\.vcoco_ap_role_1: .* got 'much'"),
        ({"metrics": {"vcoco_ap_role_1": math.inf}}, r"run\.json: metrics\.vcoco_ap_role_1: .*finite number"),
        ({"inputs": {}}, "made by 'evaluate' from 0 inputs"),
        ({"settings": {"split": "none"}}, "on train of .*, but .* on none of"),
    ],
)
def test_a_damaged_record_of_an_evaluation_is_named(vcoco, copy, tmp_path, wrong, message):
    path = copy / "evaluate" / "run.json"
    path.write_text(json.dumps(read(path) | wrong))
    refused(vcoco / "good" / "0", copy, message, tmp_path)


def test_a_run_on_either_side_and_samples_and_seeds_out_of_range_are_refused(vcoco, tmp_path):
    refused(vcoco / "good", vcoco / "good" / "2", r"good/2/evaluate is on both sides", tmp_path)
    refused(vcoco / "good", vcoco / "bad", r"samples \(--samples\) is 5: expected 100 to", tmp_path, samples=5)
    refused(vcoco / "good", vcoco / "bad", r"is 1000000000: expected 100 to 10000", tmp_path, samples=10**9)
    refused(vcoco / "good", vcoco / "bad", r"seed \(--seed\) is -1: expected a whole number from 0", tmp_path, seed=-1)


def test_on_the_command_line_an_error_is_one_message(vcoco):
    done = rmlr("compare", vcoco / "good", vcoco / "nowhere")
    assert done.returncode == 1
    assert "nowhere: no such folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_comparing_loads_neither_torch_nor_mlflow():
    code = "import sys, rmlr.commands.compare; sys.exit(bool({'torch', 'mlflow', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("content", ["thesis", '{"a": 1}'])
def test_a_file_that_compare_did_not_make_is_refused_before_any_work(vcoco, tmp_path, content):
    out = tmp_path / "thesis.txt"
    out.write_text(content)
    with pytest.raises(ValueError, match=r"thesis\.txt: exists, and was not made by `rmlr compare`"):
        compare(tmp_path / "nowhere", vcoco / "bad" / "0", samples=100, out=out)
    assert out.read_text() == content
    with pytest.raises(ValueError, match="is a folder"):
        compare(vcoco / "good" / "0", vcoco / "bad" / "0", samples=100, out=tmp_path)


def test_a_file_of_an_earlier_comparison_is_replaced(vcoco, tmp_path):
    for seed in (0, 1):
        compare(vcoco / "good" / "0", vcoco / "bad" / "0", samples=100, seed=seed, out=tmp_path / "it.json")
        assert read(tmp_path / "it.json")["seed"] == seed
