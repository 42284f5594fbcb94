"""The paper profile as a whole, but small: from archives on loopback to every table and figure, killed once on its way.

What is served has the real names, archives and layouts, made here: COCO's zips and instances, V-COCO's rows and splits,
HICO-DET's tar.gz with both .mat files, its JSON form, DETRs as UPT publishes them, encoders behind a small hub, and a
pose network as MMPose has it. Photos are of noise and rectangles, networks tiny and random: the numbers mean nothing.
"""

import csv
import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image, ImageDraw
from scipy.io import savemat
from torchvision.models.resnet import BasicBlock

from rmlr.data.images import ImageBatch, load_batch
from rmlr.fetch.download import git_blob
from rmlr.fetch.sources import load_sources, needed
from rmlr.model.published import ALL_CLASSES, CLASSES
from rmlr.study.params import PAPER_TABLES
from rmlr.study.plan import Study
from rmlr.study.settings import ImageSize

from .model.test_published import Original
from .tiny_encoders import WORDS, save_tiny
from .web import Server

ROOT = Path(__file__).parents[1]
PROFILE = "paper_tiny"
WIDTH, HEIGHT = 160, 120
PERSON = (40, 12, 120, 108)  # xyxy; at one place in all photos, so that deeds can be compared there
THINGS = {"sports ball": (44, 20, 116, 90), "bicycle": (40, 30, 120, 112), "baseball bat": (50, 14, 118, 100)}
DEEDS = (  # what a photo shows, by its number modulo three
    {("hold", "obj"): "sports ball"},
    {("ride", "instr"): "bicycle"},
    {("hit", "obj"): "sports ball", ("hit", "instr"): "baseball bat"},
)
ROLES = {"hold": ["obj"], "stand": [], "ride": ["instr"], "hit": ["instr", "obj"]}
VCOCO = {"train": range(1, 7), "val": range(7, 10), "test": range(11, 17)}
HICO = {"train": range(1, 8), "test": range(1, 7)}  # the last two of train are val
CATEGORY_IDS: dict[str, int] = {name: number for number, name in enumerate(ALL_CLASSES) if name in CLASSES}
HICO_VERBS = ["hit", "hold", "no_interaction", "ride"]
HICO_OBJECTS = sorted(name.replace(" ", "_") for name in CLASSES)
HICO_CLASSES = sorted(
    [(name, "no_interaction") for name in HICO_OBJECTS]
    + [("sports_ball", "hold"), ("bicycle", "ride"), ("sports_ball", "hit"), ("baseball_bat", "hit")]
)
ENCODERS = {
    "google/mobilebert-uncased": "mobilebert",
    "albert/albert-base-v2": "albert",
    "FacebookAI/roberta-base": "roberta",
    "google-bert/bert-base-uncased": "bert",
    "google-bert/bert-large-uncased": "bert",
}
SEEDS = dict(zip(ENCODERS, (54, 52, 20, 29, 3), strict=True))  # by which each phrase has a vector of its own
TEXTS = [f"{verb} {name}" for name, verb in HICO_CLASSES] + [f"{action} with bicycle" for action in ROLES]
FEWER = {"table2": ["plain", "boxes"], "table7": [], "table8": ["irm1_sa1"]}  # one of each kind
DETECTORS = {"base": (1, 1, 1, 1), "medium": (1, 1, 2, 1)}


# ---- photos and annotations


def photo(number: int) -> bytes:
    """Noise, a person, and the things that the photo is about, as a JPEG."""
    noise = np.random.default_rng(number).integers(0, 255, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((WIDTH, HEIGHT))
    draw = ImageDraw.Draw(picture)
    draw.rectangle(PERSON, fill="red")
    for colour, name in zip(("blue", "green"), dict.fromkeys(DEEDS[number % 3].values()), strict=False):
        draw.rectangle(THINGS[name], fill=colour)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG")
    return buffer.getvalue()


def things_of(number: int) -> list[str]:
    return list(dict.fromkeys(DEEDS[number % 3].values()))


def coco_name(number: int) -> str:
    """Below images/: one's own photos are named with their folder."""
    part = "val2014" if number in VCOCO["test"] else "train2014"
    return f"{part}/COCO_{part}_{number:012d}.jpg"


def coco_instances(numbers: list[int]) -> dict:
    annotations = []
    for number in numbers:
        boxes = {"person": PERSON, **{name: THINGS[name] for name in things_of(number)}}
        for place, (name, (x1, y1, x2, y2)) in enumerate(boxes.items()):
            size = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
            ids = {"id": 10 * number + place, "image_id": number, "category_id": CATEGORY_IDS[name]}
            annotations.append(ids | size | {"segmentation": []})
    images = [{"id": n, "file_name": coco_name(n), "width": WIDTH, "height": HEIGHT} for n in numbers]
    categories = [{"id": number, "name": name} for name, number in CATEGORY_IDS.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def vcoco_actions(numbers: list[int]) -> list[dict]:
    actions, people = [], [10 * number for number in numbers]
    for action, roles in ROLES.items():
        ids, labels = list(people), [int(not roles) for _ in numbers]
        for role in roles:
            for place, number in enumerate(numbers):
                thing = DEEDS[number % 3].get((action, role))
                ids.append(10 * number + 1 + things_of(number).index(thing) if thing else 0)
                labels[place] |= bool(thing)
        columns = {"image_id": list(numbers), "ann_id": people, "label": labels, "role_object_id": ids}
        actions.append(
            {"action_name": action, "role_name": ["agent", *roles], "include": [[]] * (1 + len(roles)), **columns}
        )
    return actions


def hico_name(split: str, number: int) -> str:
    return f"{split}2015/HICO_{split}2015_{number:08d}.jpg"


def hico_instances(split: str) -> dict:
    """HICO-DET's JSON form; a held ball's photo also has an interaction that is none."""
    rows = []
    for number in HICO[split]:
        done = {(thing.replace(" ", "_"), action) for (action, _), thing in DEEDS[number % 3].items()}
        done |= {("sports_ball", "no_interaction")} if number % 3 == 2 else set()
        row: dict[str, list] = {"boxes_h": [], "boxes_o": [], "hoi": [], "object": [], "verb": []}
        for name, verb in sorted(done):
            for key, (x1, y1, x2, y2) in (("boxes_h", PERSON), ("boxes_o", THINGS[name.replace("_", " ")])):
                row[key].append([x1 + 1, y1 + 1, x2, y2])
            row["hoi"].append(HICO_CLASSES.index((name, verb)))
            row["object"].append(HICO_OBJECTS.index(name))
            row["verb"].append(HICO_VERBS.index(verb))
        rows.append(row)
    return {
        "objects": HICO_OBJECTS,
        "verbs": HICO_VERBS,
        "correspondence": [
            [hoi, HICO_OBJECTS.index(name), HICO_VERBS.index(verb)] for hoi, (name, verb) in enumerate(HICO_CLASSES)
        ],
        "filenames": [hico_name(split, number) for number in HICO[split]],
        "size": [[WIDTH, HEIGHT] for _ in HICO[split]],
        "annotation": rows,
    }


def anno(files: dict[str, dict]) -> dict:
    """The variables of anno.mat: which classes the photos as a whole have."""
    actions = np.zeros((len(HICO_CLASSES), 1), dtype=[("nname", object), ("vname", object)])
    actions[:, 0] = HICO_CLASSES
    content: dict = {"list_action": actions}
    for split, file in files.items():
        content[f"list_{split}"] = np.array(file["filenames"], dtype=object)[:, None]
        labels = np.full((len(HICO_CLASSES), len(file["filenames"])), -1.0)
        for column, rows in enumerate(file["annotation"]):
            labels[rows["hoi"], column] = 1
        content[f"anno_{split}"] = labels
    return content


# ---- archives and weights


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def detr(path: Path, backbone: str, seed: int, photos: ImageBatch) -> Path:
    """As UPT publishes a fine-tuned DETR; of its answers to the photos about half say person, the others name a thing.

    All point at the place where people and things are.
    """
    torch.manual_seed(seed)
    network = Original(len(CLASSES) + 1, BasicBlock, DETECTORS[backbone], queries=16)
    x1, y1, x2, y2 = (edge / size for edge, size in zip(PERSON, (WIDTH, HEIGHT) * 2, strict=True))
    box = torch.tensor([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1])
    with torch.no_grad():
        network.bbox_embed.layers[-1].weight.mul_(0.1)
        network.bbox_embed.layers[-1].bias.copy_(box.logit())
        tokens = network(photos.pixels, photos.is_padding)[2].flatten(0, 1)
        direction = torch.linalg.svd(tokens - tokens.mean(0)).Vh[0]
        direction /= (tokens @ direction).std()
        network.class_embed.weight.zero_()
        network.class_embed.bias.fill_(-9)
        for name, sign in (("person", 1), ("sports ball", -1), ("bicycle", -1)):
            network.class_embed.weight[CLASSES.index(name)] = sign * direction
            network.class_embed.bias[CLASSES.index(name)] = -sign * (tokens @ direction).median()
    torch.save({"model_state_dict": network.state_dict(), "epoch": 29}, path)
    return path


def make(folder: Path, pose_weights: Path, save_anno_bbox) -> dict[str, bytes]:
    """Every file that the profile's sources name, by its name in the table."""
    folder.mkdir()
    known, tested = [*VCOCO["train"], *VCOCO["val"]], list(VCOCO["test"])
    instances = {"train2014": coco_instances(known), "val2014": coco_instances(tested)}
    files = {
        "train2014.zip": zipped({coco_name(number): photo(number) for number in known}),
        "val2014.zip": zipped({coco_name(number): photo(number) for number in tested}),
        "annotations_trainval2014.zip": zipped(
            {f"annotations/instances_{name}.json": json.dumps(part).encode() for name, part in instances.items()}
            | {"annotations/captions_val2014.json": b"{}"}
        ),
    }
    for split, numbers in VCOCO.items():
        files[f"vcoco_{split}.json"] = json.dumps(vcoco_actions(list(numbers))).encode()
        files[f"vcoco_{split}.ids"] = "".join(f"{number}\n" for number in numbers).encode()
    forms = {split: hico_instances(split) for split in HICO}
    for split, form in forms.items():
        files[f"instances_{split}2015.json"] = json.dumps(form).encode()
    save_anno_bbox(folder / "anno_bbox.mat", forms["train"], forms["test"])
    savemat(folder / "anno.mat", anno(forms))
    photos = {hico_name(split, number): photo(100 + number) for split in HICO for number in HICO[split]}
    matrices = {name: (folder / name).read_bytes() for name in ("anno.mat", "anno_bbox.mat")}
    members = {f"images/{name}": content for name, content in photos.items()} | matrices | {"README": b"hello"}
    files["hico_20160224_det.tar.gz"] = tarred({f"hico_20160224_det/{name}": part for name, part in members.items()})
    paths = []
    for number in VCOCO["train"]:
        paths.append(folder / f"{number}.jpg")
        paths[-1].write_bytes(photo(number))
    seen = load_batch(paths, ImageSize(shortest=64, longest=107))
    for seed, (name, backbone) in enumerate([("r50", "base"), ("r101", "medium")]):
        for dataset in ("vcoco", "hicodet"):
            file = f"detr-{name}-{dataset}.pth"
            files[file] = detr(folder / file, backbone, 2 * seed + (dataset == "hicodet"), seen).read_bytes()
    files["res50_crowdpose.pth"] = pose_weights.read_bytes()
    return files


def table_of_own_data() -> dict:
    """The package's table of sources, for other data than the published ones."""
    content = yaml.safe_load((ROOT / "rmlr" / "fetch" / "sources.yaml").read_text())
    for source in content.values():
        source.pop("release", None)
    return content


def serve(server: Server, files: dict[str, bytes], folder: Path, table: Path) -> None:
    """Put the files on the server, and the package's table of sources, changed to lead there."""
    content = table_of_own_data()
    pose = content["pose-r50"]["items"][0]
    pose["file"], pose["gives"] = "res50_crowdpose.pth", [{"to": "weights/res50_crowdpose.pth"}]
    counts = {"train2014": len(VCOCO["train"]) + len(VCOCO["val"]), "val2014": len(VCOCO["test"])}
    counts |= {f"{split}2015": len(numbers) for split, numbers in HICO.items()}
    for source in content.values():
        for item in source.get("items", []):
            if (body := files.get(item["file"])) is None:
                continue  # of another profile
            digest = hashlib.sha256(body).hexdigest()
            item["urls"] = [f"{server.url}/gone/{item['file']}", server.put(f"/{item['file']}", body)]
            item["bytes" if "bytes" in item else "about"] = len(body)
            item["sha256"] = item["sha256"] if item["sha256"] == "unpublished" else digest[: len(item["sha256"])]
            if "git_blob" in item:
                (folder / "blob").write_bytes(body)
                item["git_blob"] = git_blob(folder / "blob")
            for gift in item["gives"]:
                if "files" in gift:
                    gift["files"] = counts[Path(gift["to"]).name]
    pinned = {source["hub"]["repository"]: source["hub"]["commit"] for source in content.values() if "hub" in source}
    words = sorted({word for text in TEXTS for word in text.replace("_", " ").split()} - set(WORDS))
    for name in ENCODERS:
        publish(server, name, pinned[name], save_tiny(folder / name, ENCODERS[name], seed=SEEDS[name], words=words))
    table.write_text(yaml.safe_dump(content, sort_keys=False))


def publish(server: Server, repository: str, pinned: str | None, folder: Path) -> None:
    """A repository of a hub, at the commit that the table pins, or at another on its branch."""
    commit, siblings = pinned or hashlib.sha1(repository.encode()).hexdigest(), []
    for path in sorted(folder.iterdir()):
        body, blob = path.read_bytes(), git_blob(path)
        digest = hashlib.sha256(body).hexdigest()
        is_large = path.suffix == ".safetensors"
        large = {"lfs": {"sha256": digest, "size": len(body), "pointerSize": 1}} if is_large else {}
        siblings.append({"rfilename": path.name, "size": len(body), "blobId": blob} | large)
        etag, headers = f'"{digest if is_large else blob}"', {"X-Repo-Commit": commit}
        server.put(f"/{repository}/resolve/{commit}/{path.name}", body, headers=headers, etag=etag)
    about = json.dumps({"id": repository, "sha": commit, "siblings": siblings}).encode()
    for revision in ("main", commit):
        where = f"/api/models/{repository}/revision/{revision}"
        server.put(where, about, headers={"Content-Type": "application/json"})


# ---- the study


class Checkout:
    """A fresh copy of the tree, without results, with the table of sources that leads to loopback."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.folder, self.results = folder, folder / "results" / PROFILE
        self.sources = folder / "loopback.yaml"
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        hub = {"HF_ENDPOINT": server.url, "HF_HOME": str(folder.parent / "hf"), "HF_HUB_DISABLE_XET": "1"}
        tools = {"PATH": path, "PYTHONPATH": str(folder), "RMLR_TRACKING": "off", "OMP_NUM_THREADS": "1"}
        self.environment = kept | hub | tools
        listed = ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard", "-z"]
        for name in subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split("\0"):
            if name and (ROOT / name).is_file() and not name.startswith(("results/", "data/")) and name != "dvc.lock":
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, folder / name)

    def start(self, *command: str | Path) -> subprocess.Popen:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        where = {"cwd": self.folder, "env": self.environment, "start_new_session": True}
        return subprocess.Popen(list(map(str, command)), **pipes, **where)

    def __call__(self, *command: str | Path, status: int = 0) -> str:
        with self.start(*command) as process:
            said = process.communicate()[0]
        assert process.returncode == status, said[-6000:] + self.logs()
        return said

    def logs(self) -> str:
        """The ends of what failed, after the last lines of Snakemake."""
        found = sorted(self.results.glob("logs/**/*.txt"), key=lambda path: path.stat().st_mtime)[-4:]
        return "".join(f"\n== {path}\n{path.read_text()[-2500:]}" for path in found)

    def snakemake(self, *more: str) -> list[str]:
        return ["snakemake", "--cores", "2", "--config", f"profile={PROFILE}", f"sources={self.sources}", "--", *more]

    def doctor(self, status: int) -> str:
        return self("rmlr", "doctor", "--profile", PROFILE, "--sources", self.sources, status=status)

    def made(self) -> dict[str, tuple[int, int]]:
        return {
            str(path): (path.stat().st_mtime_ns, path.stat().st_size)
            for top in ("results", "data")
            for path in (self.folder / top).rglob("*")
            if path.is_file() and not {"settings", "logs"} & set(path.parts)
        }


def fewer(params: Path) -> None:
    """Of runs that differ in numbers alone one is as good as all; every table and figure stays."""
    content = yaml.safe_load(params.read_text())
    for group, names in FEWER.items():
        content["runs"][group] = {name: content["runs"][group][name] for name in names}
    made = {f"{group}/{name}" for group, names in content["runs"].items() for name in names} | {"cost"}
    for table in content["tables"].values():
        table["rows"] = [row for row in table["rows"] if made.issuperset(row["runs"])]
    for figure in content["figures"].values():
        figure["runs"] = {label: run for label, run in figure["runs"].items() if run in made}
    params.write_text(yaml.safe_dump(content, sort_keys=False))


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_own_annotations_are_prepared_when_the_photos_that_they_are_checked_against_are_there(server, tmp_path):
    pytest.importorskip("snakemake")
    study = Checkout(tmp_path / "study", server)
    study.sources.write_text(yaml.safe_dump(table_of_own_data()))
    target = f"results/{PROFILE}/vcoco/prepare/run.json"
    plan = study("snakemake", "-n", "--config", f"profile={PROFILE}", f"sources={study.sources}", "--", target)
    inputs = plan.split("rule prepare:\n    input: ")[1].splitlines()[0].split(", ")
    for name in ("coco-annotations2014", "coco-train2014", "coco-val2014", "vcoco"):
        assert inputs.count(f"data/raw/receipts/{name}.ok") == 1
    assert not server.asked


@pytest.mark.slow
def test_the_paper_profile_is_made_from_archives_to_every_table_and_figure(
    server, pose_weights, save_anno_bbox, tmp_path
):
    pytest.importorskip("snakemake")
    pytest.importorskip("huggingface_hub")
    study = Checkout(tmp_path / "study", server)
    fewer(study.folder / "params.yaml")
    files = make(tmp_path / "files", pose_weights, save_anno_bbox)
    serve(server, files, tmp_path, study.sources)
    chosen = Study.load(study.folder / "params.yaml")

    said = study.doctor(status=1)
    assert "MISSING  coco-train2014" in said
    assert "MISSING  hub-bert-large" in said
    assert {method for method, _, _ in server.asked} == {"HEAD"}, "nothing is downloaded"

    with study.start(*study.snakemake()) as process:  # killed at some moment of the first trainings
        while process.poll() is None and not list(study.results.glob("runs/*/*/0/.train.part")):
            time.sleep(0.05)
        time.sleep(random.uniform(0, 8))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        said = process.communicate()[0]
    assert process.returncode == -signal.SIGKILL, said[-3000:] + study.logs()
    study(*study.snakemake())

    # what was fetched
    sources = needed(load_sources(study.sources), chosen, PROFILE, Path("data/raw"))
    receipts = sorted(path.stem for path in (study.folder / "data/raw/receipts").iterdir())
    assert receipts == sorted(sources)
    assert len(sources) == 16
    kept = [json.loads(line) for line in (study.results / "fetch/receipts.txt").read_text().splitlines()[1:]]
    assert {receipt["name"] for receipt in kept} == set(sources)
    downloads = [path for method, path, _ in server.asked if method == "GET" and path.endswith((".zip", ".gz", ".pth"))]
    assert sorted(path for path in downloads if "gone" not in path) == sorted(
        f"/{name}" for name in files if name.endswith((".zip", ".gz", ".pth"))
    ), "each once, though everything was killed in between"

    # records, both detectors for each data set, one cached split, text for both
    for dataset, counts in (("vcoco", (6, 3, 6)), ("hicodet", (5, 2, 6))):
        folder = study.results / dataset / "prepare"
        found = tuple(len(json.loads((folder / f"{split}.json").read_text())) for split in ("train", "val", "test"))
        assert found == counts
        for backbone in ("base", "medium"):
            metrics = json.loads((study.results / f"detector/{backbone}/{dataset}/metrics.json").read_text())
            assert metrics["has_seen_vcoco_test"] == float(dataset == "hicodet")
            assert metrics["pair_recall"] > 0, "so that something can be learnt"
            cached = sorted(path.name for path in (study.results / dataset / "features" / backbone).glob("[a-z]*"))
            assert cached == ["test"], "training photos are augmented while they are learnt from"
            node = yaml.safe_load((study.results / f"detector/{backbone}/{dataset}/settings.yaml").read_text())
            assert node["detector"]["weights"].endswith(f"-{dataset}.pth")
        assert (study.results / dataset / "text/main/embeddings.safetensors").is_file()
    assert (study.results / "hicodet/prepare/image_objects.json").is_file(), "anno.mat is read"
    for run in chosen.runs_in(PROFILE):
        node = yaml.safe_load((study.results / f"runs/{run}/0/train/settings.yaml").read_text())
        assert node["online"]["augment"]["shortest"] == [48, 64]
        assert (study.results / f"runs/{run}/0/evaluate/metrics.json").stat().st_size

    # tables and figures
    for table in PAPER_TABLES:
        for kind in ("csv", "md", "tex"):
            assert (study.folder / f"results/{table}.{kind}").stat().st_size
        measured = [row for row in rows_of(study.folder / f"results/{table}.csv") if row["source"] == "measured"]
        assert measured, table
        assert {row["data"] for row in measured} == {"noise" if table == "table4" else "real"}
        assert all(any(row[name] for name in row if f"paper_{name}" in row) for row in measured), table
    (best, *_) = (row for row in rows_of(study.folder / "results/table2.csv") if row["runs"] == "shared/rmlr")
    assert float(best["vcoco_ap_role_1"]) > 0
    figures = chosen.figures_in(PROFILE).keys()
    assert figures == {name for name in chosen.figures if not name.startswith("real_photos")}
    for figure in figures:
        made = {path.name for path in (study.results / "figures" / figure).iterdir()}
        assert {"figure.png", "figure.svg", "figure.csv", "run.json"} <= made, figure

    # and nothing is left to do, or missing
    before, asked = study.made(), len(server.asked)
    assert "Nothing to be done" in study(*study.snakemake())
    assert study.made() == before
    assert len(server.asked) == asked
    assert "Nothing is missing." in study.doctor(status=0)
