"""A study of one's own photos and words, as docs/data.md says: its examples, its profile, its commands."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image, ImageDraw

from rmlr.data.hicodet import read_hicodet
from rmlr.data.release import check_own
from rmlr.data.vcoco import read_vcoco

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "data.md").read_text()
WIDTH, HEIGHT = 160, 120
COLOURS = {"person": "red", "ladder": "blue"}
VERBS = ("climb", "carry")
SPLITS = {"train": range(1, 7), "val": range(7, 9), "test": range(9, 13)}


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def interaction(number: int) -> tuple[int, list[int], list[int]]:
    """What the person of a photo does, and the boxes of both: a climber has the ladder beside, a carrier across."""
    x = 10 + 7 * (number % 9)
    boxes = ([x, 20, x + 40, 110], [x + 30, 10, x + 60, 110]), ([x, 20, x + 40, 110], [x, 30, x + 80, 60])
    return number % 2, *boxes[number % 2]


def draw(path: Path, boxes: dict[str, list[int]]) -> None:
    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    for name, box in boxes.items():
        ImageDraw.Draw(picture).rectangle(box, fill=COLOURS[name])
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


@pytest.fixture
def my_data(tmp_path) -> Path:
    """Twelve photos of people with ladders, annotated in both forms."""
    raw = tmp_path / "my_data"
    coco = {"images": [], "annotations": [], "categories": [{"id": 5, "name": "person"}, {"id": 2, "name": "ladder"}]}
    rows = {split: {key: [[] for _ in VERBS] for key in ("people", "things", "labels")} for split in SPLITS}
    hico = {split: {"filenames": [], "size": [], "annotation": []} for split in ("train", "test")}
    for split, numbers in SPLITS.items():
        for number in numbers:
            verb, person, ladder = interaction(number)
            name = f"photo_{number}.jpg"
            draw(raw / "images" / name, {"ladder": ladder, "person": person})
            coco["images"].append({"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT})
            for place, (x1, y1, x2, y2) in enumerate((person, ladder), start=1):
                size = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
                ids = {"id": 10 * number + place, "image_id": number, "category_id": (5, 2)[place - 1]}
                coco["annotations"].append(ids | size)
            for index in range(len(VERBS)):
                rows[split]["things"][index].append(10 * number + 2 if index == verb else 0)
                rows[split]["labels"][index].append(int(index == verb))
            file = hico["test" if split == "test" else "train"]
            file["filenames"].append(name)
            file["size"].append([WIDTH, HEIGHT])
            boxes = [[[box[0] + 1, box[1] + 1, box[2], box[3]]] for box in (person, ladder)]
            columns = {"boxes_h": boxes[0], "boxes_o": boxes[1], "hoi": [verb], "object": [0], "verb": [verb]}
            file["annotation"].append(columns)
        people = [10 * number + 1 for number in numbers]
        actions = [
            {
                "action_name": verb,
                "role_name": ["agent", "obj"],
                "image_id": list(numbers),
                "ann_id": people,
                "label": rows[split]["labels"][index],
                "role_object_id": people + rows[split]["things"][index],
            }
            for index, verb in enumerate(VERBS)
        ]
        write(raw / "vcoco" / f"vcoco_{split}.json", actions)
        write(raw / "vcoco" / "splits" / f"vcoco_{split}.ids", "".join(f"{number}\n" for number in numbers))
    write(raw / "coco" / "instances_train2014.json", coco)
    classes = {"objects": ["ladder", "person"], "verbs": list(VERBS), "correspondence": [[0, 0, 0], [1, 0, 1]]}
    for split, file in hico.items():
        write(raw / "hicodet" / f"instances_{split}2015.json", classes | file)
    return raw


def test_the_examples_of_the_page_are_whole_data_sets_of_both_forms(tmp_path):
    examples = re.findall(r"`my_data/([\w/]+\.(?:json|ids))`:\n\n```\w*\n(.*?)```", PAGE, re.DOTALL)
    assert len(examples) == 9
    for name, text in examples:
        write(tmp_path / name, text)
    for number in (1, 2, 3):
        draw(tmp_path / "images" / f"photo_{number}.jpg", {})
    vcoco, hicodet = read_vcoco(tmp_path, []), read_hicodet(tmp_path, 1)
    check_own(tmp_path, vcoco)
    check_own(tmp_path, hicodet)
    assert (vcoco.vocabulary.verbs, hicodet.vocabulary.verbs) == (("climb obj", "carry obj"), ("carry", "climb"))
    for split in ("train", "val", "test"):
        (one,), (other,) = vcoco.splits[split], hicodet.splits[split]
        assert one.boxes.tolist() == other.boxes.tolist(), "the same photos, told in two forms"


@pytest.mark.slow
def test_a_study_of_ones_own_data_is_made_by_the_commands_of_the_page(my_data, tmp_path):
    pytest.importorskip("snakemake")
    study = tmp_path / "study"
    listed = ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard", "-z"]
    for name in subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split("\0"):
        if name and (ROOT / name).is_file() and not name.startswith(("results/", "tests/", "docs/")):
            (study / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, study / name)
    (profile,) = re.findall(r"```yaml\n(  mine:\n.*?)```", PAGE, re.DOTALL)
    profile = profile.replace("*paper_train", "*tiny_train").replace("*paper", "*tiny")  # sizes for a test
    profile = profile.replace("{vcoco: *tiny_train}", "{vcoco: *tiny_train, hicodet: *tiny_train}")
    assert "world: null" not in profile
    text = (study / "params.yaml").read_text()
    before, after = text.split("\n# The rows of Table 2", 1)
    text = f"{before.rstrip()}\n{profile}    world: null\n    pose: null\n\n# The rows of Table 2{after}"
    content = yaml.safe_load(text)
    runs = {"shared": ["rmlr"], "shared_hicodet": ["rmlr"]}
    content["runs"] = {group: {name: content["runs"][group][name] for name in names} for group, names in runs.items()}
    feeds = {"table5": "shared_hicodet/rmlr", "table6": "shared/rmlr"}
    content["tables"] = {name: content["tables"][name] for name in feeds}
    for name, run in feeds.items():
        content["tables"][name]["rows"] = [row for row in content["tables"][name]["rows"] if row["runs"] == [run]]
    content["figures"] = {}
    (study / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    targets = [
        "results/mine/vcoco/prepare/run.json",
        "results/mine/runs/shared/rmlr/0/evaluate/run.json",
        "results/mine/runs/shared_hicodet/rmlr/0/evaluate/run.json",
        "results/mine/tables/table5/run.json",
        "results/mine/tables/table6/run.json",
    ]
    for target in (targets[0], targets[1], "results/mine/tables/table2/run.json"):
        assert f"raw=my_data -- {target}\n" in PAGE
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(study), "RMLR_TRACKING": "off"}
    command = ["snakemake", "--cores", "2", "--config", "profile=mine", f"raw={my_data}", "--", *targets]
    done = subprocess.run(command, cwd=study, env=environment, capture_output=True, text=True, timeout=600)
    logs = "".join(log.read_text()[-2000:] for log in sorted(study.glob("results/mine/logs/**/*.txt")))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:] + logs
    vocabulary = json.loads((study / "results/mine/vcoco/prepare/vocabulary.json").read_text())
    assert vocabulary["verbs"] == ["climb obj", "carry obj"]
    assert vocabulary["objects"] == ["ladder", "person"]
    for run in ("shared", "shared_hicodet"):
        metrics = json.loads((study / f"results/mine/runs/{run}/rmlr/0/evaluate/metrics.json").read_text())
        assert metrics
        assert (study / f"results/mine/runs/{run}/rmlr/0/predict/triplets.parquet").stat().st_size
    assert "RmLR" in (study / "results/mine/tables/table6/table6.md").read_text()
