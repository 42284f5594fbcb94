"""What a user can give wrongly: one message that names file and key, a status that is not 0, and nothing half-written.

A small study is made once, by the stages themselves, on the drawn world; each test breaks one thing in a copy.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file, save_file

import rmlr.study.provenance
from rmlr.__main__ import STAGES as ALL_STAGES
from rmlr.__main__ import main
from rmlr.detections.triplets import save_triplets
from rmlr.hoi import Triplets
from rmlr.study.plan import Study

ROOT = Path(__file__).parents[1]
# Not `fetch`, which reads no settings file, and `statement`, which reads a whole study: they have their own tests.
STAGES = [stage for stage in ALL_STAGES if stage not in ("fetch", "statement")]
RUN = "runs/shared/rmlr/0"
NODES = {
    "draw": "world/draw",
    "prepare": "vcoco/prepare",
    "detector": "detector/base",
    "features": "vcoco/features/base/test",
    "joints": "pose/joints",
    "pose": "pose/vcoco/base/test",
    "text": "vcoco/text/main",
    "train": f"{RUN}/train",
    "predict": f"{RUN}/predict",
    "evaluate": f"{RUN}/evaluate",
    "table": "tables/table2",
    "separation": f"separation/{RUN.removeprefix('runs/')}",
    "figure": "figures/predictions",
}
DATA = {"annotations": "prepare", "images": "raw/images"}
TRIPLETS = "predict/triplets.parquet"
FLAGS = {
    "draw": {},
    "prepare": {"raw": "raw"},
    "detector": DATA | {"seed": "0"},
    "features": DATA | {"split": "test", "detector": "detector"},
    "joints": {"annotations": "raw/coco", "images": "raw/images", "seed": "0"},
    "pose": DATA | {"split": "test", "features": "features", "joints": "joints"},
    "text": {"annotations": "prepare"},
    "train": {"annotations": "prepare", "features": "features", "text": "text", "seed": "0"},
    "predict": {"annotations": "prepare", "features": "features", "weights": "train"},
    "evaluate": {"annotations": "prepare", "triplets": TRIPLETS},
    "table": {"runs": "runs", "paper": "table2.csv", "notes": "notes.yaml"},
    "separation": {"annotations": "prepare", "features": "features", "weights": "train"},
    "figure": DATA | {"results": "."},
}
OUT = {stage: stage for stage in STAGES} | {"draw": "raw", "features": "features/test", "pose": "pose/test"}
TRAIN_JSON, TEST_JSON = "prepare/train.json", "prepare/test.json"


def arguments(stage: str, **flags: str) -> list[str]:
    """The command of a stage in the folder of the study; `flags` take the place of the usual ones."""
    given = {"settings": f"settings/{stage}.yaml", **FLAGS[stage], "out": OUT[stage]} | flags
    return [stage, *(text for name, value in given.items() for text in (f"--{name}", value))]


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """Everything from the drawn world to a figure, one of each, in folders named after their stages."""
    folder = tmp_path_factory.mktemp("study")
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    nodes = Study.check(content, "params.yaml").nodes("tiny", dict.fromkeys([*ALL_STAGES, "cost"], "digest"))
    (folder / "settings").mkdir()
    for stage, node in NODES.items():
        (folder / f"settings/{stage}.yaml").write_text(nodes[node].dump())
    edit(folder / "settings/detector.yaml", lambda content: content["detector"]["schedule"].update(steps=2))
    for name in ("table2.csv", "notes.yaml"):
        shutil.copyfile(ROOT / "paper" / name, folder / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(rmlr.study.provenance, "command", None)
        for stage in STAGES:
            for split in ("train", "val", "test") if stage == "features" else (None,):
                with pytest.raises(SystemExit) as ended:
                    main(arguments(stage, **({"split": split, "out": f"features/{split}"} if split else {})))
                assert ended.value.code == 0
            if stage == "predict":
                shutil.copytree("predict", f"{RUN}/predict")
            if stage == "evaluate":
                table = yaml.safe_load(Path("settings/table.yaml").read_text())
                for source in (source for row in [*table["rows"], *table["controls"]] for source in row["sources"]):
                    shutil.copytree("evaluate", f"runs/{source['run']}/0/evaluate", dirs_exist_ok=True)
    return folder


@pytest.fixture
def broken(study, tmp_path, monkeypatch) -> Path:
    """A copy of the study to break; the current folder."""
    folder = tmp_path / "study"
    shutil.copytree(study, folder, ignore=shutil.ignore_patterns(".*.lock", ".*.resume"))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(rmlr.study.provenance, "command", None)
    return folder


def files() -> dict[str, bytes]:
    """All that lies here, but for locks and what an interrupted stage goes on from."""
    found = [path for path in Path().rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {str(path): path.read_bytes() for path in found if not any(part.endswith(".resume") for part in path.parts)}


def refusal(stage: str, **flags: str) -> str:
    """What a stage says that must fail, both where its output is new and where an earlier one lies."""
    before, said = files(), []
    for out in (OUT[stage], "new"):
        with pytest.raises(SystemExit) as ended:
            main(arguments(stage, **({"out": out} | flags)))
        assert isinstance(ended.value.code, str), "a message, which gives status 1"
        assert files() == before
        said.append(ended.value.code)
    assert said[0].replace(OUT[stage], "new") == said[1].replace(OUT[stage], "new")
    return said[0]


def truncate(name: str) -> None:
    path = Path(name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def edit(name: str | Path, change: Callable[[dict], object]) -> None:
    """Change a YAML or JSON file in place."""
    path = Path(name)
    content = (yaml.safe_load if path.suffix == ".yaml" else json.loads)(path.read_text())
    change(content)
    path.write_text((yaml.safe_dump if path.suffix == ".yaml" else json.dumps)(content))


def photo_of(position: int) -> str:
    """A photo of the test split."""
    return "raw/images/" + json.loads(Path(TEST_JSON).read_text())[position]["file_name"]


# ---- settings


@pytest.mark.parametrize("stage", STAGES)
def test_a_misspelt_key_of_a_nodes_settings_is_named(broken, stage):
    edit(f"settings/{stage}.yaml", lambda content: content.update(speling=1))
    said = refusal(stage)
    assert f"settings/{stage}.yaml" in said
    assert "speling: Extra inputs are not permitted, got 1" in said


@pytest.mark.parametrize(
    ("stage", "key", "value"),
    [
        ("draw", "world.size", "128"),
        ("prepare", "hicodet.val_images", -1),
        ("detector", "detector.schedule.steps", 2.5),
        ("features", "features.selection.nms_iou", 1.5),
        ("joints", "schedule.steps", 0),
        ("pose", "pose.batch_size", None),
        ("text", "encoder.pooling", "max"),
        ("train", "train.learning_rate", "1e-3"),
        ("predict", "prediction.batch_size", True),
        ("evaluate", "split", "trian"),
        ("table", "seeds", 0),
        ("separation", "separation.min_iou", 0.0),
        ("figure", "split", "trian"),
    ],
)
def test_a_wrong_type_or_value_in_a_nodes_settings_is_named(broken, stage, key, value):
    *sections, last = key.split(".")

    def change(content: dict) -> None:
        for section in sections:
            content = content[section]
        content[last] = value

    edit(f"settings/{stage}.yaml", change)
    said = refusal(stage)
    assert said.startswith(f"rmlr: settings/{stage}.yaml: 1 setting(s) do not fit:\n  {key}: ")
    assert said.endswith(f"got {value!r}")


def test_settings_that_are_no_yaml_or_of_another_node_are_named(broken):
    Path("settings/text.yaml").write_text("encoder: {name: [")
    assert "settings/text.yaml: not YAML" in refusal("text")
    shutil.copyfile("settings/draw.yaml", "settings/text.yaml")
    assert "encoder: Field required" in refusal("text")
    Path("settings/text.yaml").write_text("")
    assert "settings/text.yaml" in refusal("text")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda content: content["profiles"]["tiny"]["features"].update(shards=1), r"profiles\.tiny\.features\.shards"),
        (lambda content: content["profiles"]["tiny"].update(seeds="0"), r"profiles\.tiny\.seeds: .*list, got '0'"),
        (lambda content: content["runs"]["table2"]["plain"].update(variant="plian"), "plain.variant: .*no 'plian'"),
    ],
    ids=["unknown key", "wrong type", "unknown name"],
)
def test_snakemake_says_once_what_is_wrong_in_params(tmp_path, change, named):
    pytest.importorskip("snakemake")
    for name in ("Snakefile", "workflow", "profiles", "paper", "params.yaml"):
        (tmp_path / name).symlink_to(ROOT / name)
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    change(content)
    (tmp_path / "params.yaml").unlink()
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    given = [sys.executable, "-m", "snakemake", "-n", "--config", "profile=tiny"]
    done = subprocess.run(given, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 1
    said = done.stdout + done.stderr
    assert said.count("params.yaml") == 1, said
    assert re.search(named, said), said
    assert "Traceback" not in said
    assert not (tmp_path / "results").exists()


# ---- inputs that are absent


@pytest.mark.parametrize(
    ("stage", "flag"), [(stage, flag) for stage in STAGES for flag in FLAGS[stage] if flag not in ("split", "seed")]
)
def test_a_missing_input_is_named(broken, stage, flag):
    assert "nowhere" in refusal(stage, **{flag: "nowhere"})


@pytest.mark.parametrize(
    ("stage", "name"),
    [
        ("prepare", "raw/vcoco/splits/vcoco_val.ids"),
        ("text", "prepare/vocabulary.json"),
        ("text", TRAIN_JSON),
        ("features", ""),
        ("features", "detector/config.json"),
        ("features", "detector/model.safetensors"),
        ("joints", "raw/coco/person_keypoints_val2014.json"),
        ("pose", "joints/weights.pth"),
        ("pose", "features/test/index.json"),
        ("train", "features/val/index.json"),
        ("train", "features/val/shard-00001.safetensors"),
        ("train", "text/index.json"),
        ("train", "text/embeddings.safetensors"),
        ("predict", "train/checkpoint.json"),
        ("predict", "train/weights.safetensors"),
    ],
)
def test_a_missing_file_of_an_input_is_named(broken, stage, name):
    name = name or photo_of(-1)
    Path(name).unlink()
    assert name in refusal(stage)


# ---- inputs that are cut off


@pytest.mark.parametrize(
    ("stage", "name"),
    [
        ("prepare", "raw/coco/instances_train2014.json"),
        ("prepare", "raw/vcoco/vcoco_test.json"),
        ("text", "prepare/vocabulary.json"),
        ("text", TRAIN_JSON),
        ("features", "detector/config.json"),
        ("features", "detector/model.safetensors"),
        ("joints", "raw/coco/person_keypoints_train2014.json"),
        ("pose", "joints/weights.pth"),
        ("train", "features/train/index.json"),
        ("train", "features/train/shard-00001.safetensors"),
        ("train", "text/index.json"),
        ("train", "text/embeddings.safetensors"),
        ("predict", "features/test/index.json"),
        ("predict", "features/test/shard-00000.safetensors"),
        ("predict", "train/checkpoint.json"),
        ("predict", "train/weights.safetensors"),
        ("evaluate", TRIPLETS),
        ("evaluate", TEST_JSON),
        ("separation", "train/weights.safetensors"),
        ("figure", f"{RUN}/{TRIPLETS}"),
        ("table", "table2.csv"),
        ("table", "runs/table2/plain/0/evaluate/metrics.json"),
    ],
)
def test_a_truncated_file_is_named(broken, stage, name):
    truncate(name)
    said = refusal(stage)
    assert name in said
    assert said.count("\n") < 3, "one message"


def test_truncated_hicodet_files_are_named(broken):
    edit("settings/prepare.yaml", lambda content: content.update(dataset="hicodet"))
    truncate("raw/hicodet/instances_test2015.json")
    assert "raw/hicodet/instances_test2015.json" in refusal("prepare")


@pytest.mark.parametrize("stage", ["features", "pose", "figure", "detector"])
def test_a_truncated_photo_is_named(broken, stage):
    photo = photo_of(0)
    truncate(photo)
    assert f"{photo}: not a readable image" in refusal(stage)


def test_a_text_in_the_place_of_a_photo_is_named(broken):
    photo = photo_of(-1)
    Path(photo).write_text("<html>not found</html>")
    assert f"{photo}: not a readable image" in refusal("features")


# ---- inputs that do not belong together


def test_a_coco_annotation_outside_the_image_list_is_named(broken):
    edit("raw/coco/instances_train2014.json", lambda content: content["annotations"][3].update(image_id=987654))
    said = refusal("prepare")
    assert "raw/coco/instances_train2014.json: annotation" in said
    assert "987654" in said


def test_a_box_without_order_is_named_by_image(broken):
    def change(content: dict) -> None:
        content["annotations"][0]["bbox"][2] = -5

    edit("raw/coco/instances_train2014.json", change)
    image = json.loads(Path("raw/coco/instances_train2014.json").read_text())["annotations"][0]["image_id"]
    assert f"raw/coco/instances_train2014.json: image {image}: bbox of annotation" in refusal("prepare")


def test_a_vcoco_row_outside_the_split_is_named(broken):
    ids = Path("raw/vcoco/splits/vcoco_train.ids")
    first, *others = ids.read_text().split()
    ids.write_text("\n".join(others))
    said = refusal("prepare")
    assert "raw/vcoco/vcoco_train.json: person" in said
    assert f"of image {first}," in said


def test_a_record_that_points_at_no_box_is_named(broken):
    edit(TEST_JSON, lambda images: images[1]["interactions"][0].__setitem__(2, 99))
    image = json.loads(Path(TEST_JSON).read_text())[1]["image_id"]
    for stage in ("features", "evaluate"):
        said = refusal(stage)
        assert f"{TEST_JSON}: image {image}: " in said
        assert "99] is an interaction" in said


def test_a_row_of_the_paper_that_is_cut_off_is_named(broken):
    path = Path("table2.csv")
    path.write_text(path.read_text().rstrip().rpartition(",")[0])
    assert "table2.csv: row 'RmLR' has 7 cells, the header 8" in refusal("table")


def test_triplets_of_another_split_are_refused(broken):
    image_id = np.array([json.loads(Path(TEST_JSON).read_text())[0]["image_id"]])
    box, zero = np.array([[0, 0, 9, 9]], dtype=np.float32), np.zeros(1, dtype=np.int64)
    save_triplets(Path(TRIPLETS), Triplets(image_id, box, box, zero, zero, np.ones(1, dtype=np.float32)))
    edit("settings/evaluate.yaml", lambda content: content.update(split="val"))
    assert f"{TRIPLETS}: row 0 (from 0): the image is not one of the 3" in refusal("evaluate")


def test_photos_of_another_size_than_annotated_are_named(broken):
    edit(TEST_JSON, lambda images: images[-1].update(height=4000, width=4000))
    for stage in ("detector", "features"):
        assert f"{photo_of(-1)}: is 128 x 128" in refusal(stage)


def test_a_detector_of_other_classes_is_named(broken):
    edit("detector/config.json", lambda content: content["id2label"].update({"0": "unicorn"}))
    said = refusal("features")
    assert "detector: " in said
    assert "unicorn" in said


def test_a_detector_of_another_architecture_is_named(broken):
    edit("detector/config.json", lambda content: content.update(encoder_ffn_dim=24))
    said = refusal("features")
    assert "detector: weights do not fit the architecture" in said
    assert "fc1" in said


def test_features_of_two_detectors_are_refused(broken):
    edit("features/val/index.json", lambda content: content.update(detector_digest="0" * 64))
    assert "features/val: " in refusal("train")


def test_text_of_another_vocabulary_is_named(broken):
    tensors = load_file("text/embeddings.safetensors")
    tensors["phrase_of"] = tensors["phrase_of"][:-1, :-1].contiguous()
    save_file(tensors, "text/embeddings.safetensors")
    assert "text: " in refusal("train")


@pytest.mark.parametrize(
    ("name", "change", "key"),
    [
        (
            "train/checkpoint.json",
            lambda card: card["network"].update(feature_dim=12),
            "tensor '.*' is float32 of shape",
        ),
        (
            "train/checkpoint.json",
            lambda card: card["variant"].update(global_context=False),
            "tensor '.*' is not expected",
        ),
        ("train/checkpoint.json", lambda card: card.update(token_dim=24), "token_dim: .* 24, given is 16"),
        ("train/checkpoint.json", lambda card: card.update(channels=8), "channels: .* 8, given is 16"),
        ("train/checkpoint.json", lambda card: card.update(detector_digest="ff"), "detector_digest: .* ff, given is"),
        ("train/checkpoint.json", lambda card: card["vocabulary"]["verbs"].reverse(), "vocabulary: "),
        ("train/checkpoint.json", lambda card: card.update(format=1), "format: Input should be 2"),
    ],
    ids=["sizes", "switches", "token width", "map channels", "detector", "vocabulary", "format"],
)
def test_a_checkpoint_that_does_not_fit_is_named(broken, name, change, key):
    edit(name, change)
    said = refusal("predict")
    assert "train/" in said
    assert re.search(key, said), said


# ---- outputs


@pytest.mark.parametrize("stage", STAGES)
def test_an_out_that_is_the_users_is_refused_by_every_stage(broken, stage):
    """A folder with files, a file, a folder of another stage, and one that holds all inputs, whoever made it."""
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("mine")
    Path("thesis.txt").write_text("mine")
    other = "text" if stage != "text" else "prepare"
    before = files()
    for out in ("mine", "thesis.txt", other, ".", "..", "/dev/null", str(broken)):
        with pytest.raises(SystemExit) as ended:
            main(arguments(stage, out=out))
        assert str(ended.value.code).startswith(f"rmlr: {out}: "), out
        assert files() == before
    assert Path("/dev/null").is_char_device()


def test_the_detections_that_were_read_and_code_next_to_them_are_not_replaced(broken):
    """`--out` above an input, given in other words."""
    Path("mine/code").mkdir(parents=True)
    Path("mine/code/a.py").write_text("mine")
    shutil.copytree("predict", "mine/dets")
    before = files()
    for out in ("mine", "mine/dets", "mine/../mine", str(broken / "mine")):
        with pytest.raises(SystemExit) as ended:
            main(arguments("evaluate", triplets="mine/dets/triplets.parquet", out=out))
        assert out in str(ended.value.code)
        assert files() == before


@pytest.mark.parametrize("stage", ["draw", "prepare", "text", "figure"])
def test_a_full_disk_is_named(broken, stage):
    folder = Path("small")
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        with pytest.raises(SystemExit) as ended:
            main(arguments(stage, out="small/out"))
        said = str(ended.value.code)
        assert said.startswith("rmlr: small/out: the disk is full"), said
        assert [path.name for path in folder.iterdir()] == [".out.lock"]
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


# ---- through the real command


@pytest.mark.parametrize(
    ("stage", "name"),
    [("features", "detector/model.safetensors"), ("table", "runs/shared/rmlr/0/evaluate/metrics.json")],
)
def test_a_process_says_it_once_and_fails(broken, stage, name):
    """Libraries are silent as well: the message is all that is said."""
    truncate(name)
    before = files()
    done = subprocess.run(
        [sys.executable, "-m", "rmlr", *arguments(stage, out="new")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert not done.stdout
    (said,) = done.stderr.splitlines()
    assert said.startswith(f"rmlr: {name}: ")
    assert files() == before


@pytest.mark.parametrize(
    ("flags", "named"),
    [({"seed": "one"}, "--seed"), ({"sede": "0"}, "--sede"), ({"split": "trainval"}, "--split")],
)
def test_a_wrong_flag_is_named_on_stderr(broken, capsys, flags, named):
    with pytest.raises(SystemExit) as ended:
        main(arguments("features" if "split" in flags else "train", **flags))
    assert ended.value.code
    said = capsys.readouterr()
    assert named in said.err
    assert not said.out
