"""What the rules share: the profile, and every node's settings, written while this file is parsed."""

import fcntl
import os
import sys
from hashlib import sha256
from pathlib import Path

from rmlr.study.device import visible_gpus
from rmlr.study.folder import settle
from rmlr.study.plan import Study
from rmlr.study.source import code_digest

sys.path.insert(0, f"{workflow.basedir}/workflow")
from progress import listen, show_progress, summary


envvars:
    "PATH",


os.environ.update(PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")  # jobs find `rmlr`

STAGES = "draw prepare detector features joints pose text train predict evaluate cost table separation figure statement".split()
STUDY = Study.load(Path("params.yaml"))
PROFILE = config.get("profile", STUDY.profile)
RESULTS = f"results/{PROFILE}"
CODE = {stage: code_digest(stage) for stage in STAGES}
for stage in ("table", "statement"):
    CODE[stage] += sha256(b"".join(file.read_bytes() for file in sorted(Path("paper").iterdir()))).hexdigest()[:16]
NODES = STUDY.nodes(PROFILE, CODE)
CHOSEN = STUDY.profiles[PROFILE]
TRAINS_JOINTS = "pose/joints" in NODES  # else the pose network is a given file, or there is none

# The drawn world, or the folder of real data in the same layout.
RAW = f"{RESULTS}/world/draw" if CHOSEN.world else config.get("raw", "data/raw")
ALL_RUNS = STUDY.runs_in(PROFILE)
FIGURES = STUDY.figures_in(PROFILE)
LOSS = "Loss of interaction information"  # a theme of the report
TABLE_KINDS = ("csv", "md", "tex")
ANNOTATIONS = ("vocabulary.json", "train.json", "val.json", "test.json")
RAW_FILES = {
    "vcoco": ("coco/*.json", "vcoco/*.json", "vcoco/splits/*.ids"),
    "hicodet": ("hicodet/*.json", "hicodet/anno_bbox.mat", "hicodet/anno.mat"),
}
IMAGE_LABELS = f"{RESULTS}/settings/hicodet/anno.txt"  # says whether hicodet/anno.mat is there, which may be old
LONG_AGO = 946684800  # 1 January 2000: older than whatever a stage writes


def lock():
    """Whether this process may write: it holds the project's lock until it dies, however it dies."""
    global lock_file
    Path(".snakemake").mkdir(exist_ok=True)
    lock_file = open(".snakemake/rmlr.lock", "a+")
    try:
        fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    lock_file.truncate(0)
    lock_file.write(f"{os.getpid()}")
    lock_file.flush()
    return True


def want(path, content, *, made):
    """Write an input file of a rule: old where `made`, what the rule made, came of it; else new, so that the rule runs."""
    path = Path(path)
    if not path.exists() or path.read_text() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    os.utime(path, (LONG_AGO, LONG_AGO) if made else None)


def same(one, other):
    """Whether both files exist and are equal."""
    one, other = Path(one), Path(other)
    return one.is_file() and other.is_file() and one.read_bytes() == other.read_bytes()


def settings(node):
    """The settings file of a node, given by its folder below results/PROFILE."""
    return f"{RESULTS}/settings/{node}.yaml"


def copy_marker(table):
    return f"{RESULTS}/settings/copies/{table}.txt"


def write_settings():
    for node, section in NODES.items():
        settle(Path(RESULTS, node))  # what an earlier call, killed, left beside it, or an older version made
        content = section.dump()
        copy = Path(RESULTS, node, "settings.yaml")
        want(settings(node), content, made=copy.is_file() and copy.read_text() == content)
    if not CHOSEN.world:
        is_there = Path(RAW, "hicodet/anno.mat").is_file()
        was_there = Path(RESULTS, "hicodet/prepare/image_objects.json").is_file()
        want(IMAGE_LABELS, f"anno.mat: {is_there}\n", made=is_there == was_there)
    for table in STUDY.tables:
        pairs = [(f"{RESULTS}/tables/{table}/{table}.{kind}", f"results/{table}.{kind}") for kind in TABLE_KINDS]
        want(
            copy_marker(table),
            f"results/{table}.*\n",
            made=all(same(*pair) for pair in pairs),
        )
    made = same(f"{RESULTS}/statement/statement.md", "results/statement.md")
    want(copy_marker("statement"), "results/statement.md\n", made=made)


# ---- what a rule's wildcards stand for


def real_files(dataset):
    """The annotation files of real data that are there; the stage itself says what it misses."""
    return sorted(str(file) for pattern in RAW_FILES[dataset] for file in Path(RAW).glob(pattern))


def raw_files(wildcards):
    """What `prepare` reads."""
    if CHOSEN.world:
        return [f"{RAW}/run.json"]
    if fetched := annotation_receipts(wildcards.dataset):
        is_own = getattr(CHOSEN, wildcards.dataset).release == "own"  # then its photos are checked, too
        return list(dict.fromkeys([*fetched, *(photo_receipts([wildcards.dataset]) if is_own else [])]))
    return real_files(wildcards.dataset) + ([IMAGE_LABELS] if wildcards.dataset == "hicodet" else [])


def images_mark(wildcards):
    """What changes when the pictures do, and says that they are there; nobody draws real ones anew."""
    if CHOSEN.world:
        return [f"{RAW}/run.json"]
    if "detector" in wildcards.keys():
        return photo_receipts([CHOSEN.detectors[wildcards.detector].dataset])
    return photo_receipts([wildcards.dataset] if "dataset" in wildcards.keys() else CHOSEN.train)


def detector_annotations(wildcards):
    """The records that a detector learns from."""
    return f"{RESULTS}/{CHOSEN.detectors[wildcards.detector].dataset}/prepare/run.json"


def coco_flag(wildcards):
    return f" --coco {RAW}/coco" if CHOSEN.detectors[wildcards.detector].all_of_coco else ""


def detector_of(dataset, backbone):
    """The folder of the detector that serves a data set on a backbone."""
    return f"{RESULTS}/detector/{CHOSEN.backbones[backbone].detector(dataset)}"


def serving_detector(wildcards):
    return f"{detector_of(wildcards.dataset, wildcards.backbone)}/run.json"


def run_of(wildcards):
    return ALL_RUNS[f"{wildcards.group}/{wildcards.run}"]


def run_annotations(wildcards):
    return f"{RESULTS}/{run_of(wildcards).dataset}/prepare/run.json"


def run_text(wildcards):
    run = run_of(wildcards)
    return f"{RESULTS}/{run.dataset}/text/{run.encoder}/run.json"


def run_views(wildcards):
    """The folder of a run's caches, every split below."""
    run = run_of(wildcards)
    return f"{RESULTS}/{run.dataset}/features/{run.backbone}"


def views(wildcards, split):
    names = ("train", "val") if split == "trainval" else (split,)
    return [f"{run_views(wildcards)}/{name}/run.json" for name in names]


def train_node(wildcards):
    return NODES[f"runs/{wildcards.group}/{wildcards.run}/{wildcards.seed}/train"]


def run_detector(wildcards):
    """The folder of the detector under a run."""
    run = run_of(wildcards)
    return detector_of(run.dataset, run.backbone)


def train_views(wildcards):
    """The caches that a run learns from, and is validated on; none where it learns from photos (features.views: 0)."""
    node = train_node(wildcards)
    split = "trainval" if node.held_out else node.train.split
    return [] if node.online else views(wildcards, split)


def train_photos(wildcards):
    """What says that photos and detector are there, for a run that learns from photos."""
    if not train_node(wildcards).online:
        return []
    photos = [f"{RAW}/run.json"] if CHOSEN.world else photo_receipts([run_of(wildcards).dataset])
    return [f"{run_detector(wildcards)}/run.json", *photos]


def train_flags(wildcards):
    """What a run learns from."""
    if not train_node(wildcards).online:
        return f" --features {run_views(wildcards)}{pose_flag(wildcards)}"
    weights = f"{RESULTS}/pose/joints/weights.pth" if TRAINS_JOINTS else CHOSEN.pose and CHOSEN.pose.weights
    pose = f" --pose {weights}" if run_poses(wildcards) else ""
    return f" --images {RAW}/images --detector {run_detector(wildcards)}{pose}"


def predict_views(wildcards):
    """The caches that a run is let loose on."""
    return views(wildcards, CHOSEN.prediction.split)


def pose_weights(wildcards):
    """The pose network: what trained it, or the file that was given, if it is there; the stage says that it is not."""
    if TRAINS_JOINTS:
        return [f"{RESULTS}/pose/joints/run.json"]
    if found := CHOSEN.pose and weights_receipts(CHOSEN.pose.weights, None):
        return found
    return [CHOSEN.pose.weights] if CHOSEN.pose and Path(CHOSEN.pose.weights).is_file() else []


def run_poses(wildcards):
    """The folder of what a pose network saw, every split below; none for a run whose variant has no use for it."""
    run, node = run_of(wildcards), train_node(wildcards)
    return f"{RESULTS}/pose/{run.dataset}/{run.backbone}" if node.variant.pose else ""


def train_poses(wildcards):
    """What a pose network saw of the images that a run learns from, or that network."""
    folder = run_poses(wildcards)
    if folder and train_node(wildcards).online:
        return pose_weights(wildcards)
    return [path.replace(run_views(wildcards), folder) for path in train_views(wildcards) if folder]


def predict_poses(wildcards):
    """What a pose network saw of the images that a run is let loose on."""
    folder = run_poses(wildcards)
    return [path.replace(run_views(wildcards), folder) for path in predict_views(wildcards) if folder]


def pose_flag(wildcards):
    folder = run_poses(wildcards)
    return f" --pose {folder}" if folder else ""


def table_sources(wildcards):
    """Names of what feeds a table's rows: GROUP/NAME of runs, or `cost`."""
    node = NODES[f"tables/{wildcards.table}"]
    return list(dict.fromkeys(source.run for row in [*node.rows, *node.controls] for source in row.sources))


def table_metrics(wildcards):
    runs = [run for run in table_sources(wildcards) if run != "cost"]
    return [f"{RESULTS}/runs/{run}/{seed}/evaluate/metrics.json" for run in runs for seed in CHOSEN.seeds]


def table_labels(wildcards):
    """How a table is called in the report's list."""
    title = NODES[f"tables/{wildcards.table}"].title
    return {"table": wildcards.table.removeprefix("table"), "title": title}


def table_cost(wildcards):
    return [f"{RESULTS}/cost/metrics.json"] if "cost" in table_sources(wildcards) else []


def cost_flag(wildcards):
    return f" --cost {RESULTS}/cost" if table_cost(wildcards) else ""


def statement_runs(wildcards):
    """What the statement is made of: all that tables and claims are about, and figure 1's distances."""
    node, seeds = NODES["statement"], CHOSEN.seeds
    rows = [row for claimed in node.tables.values() for row in claimed.table.rows]
    runs = dict.fromkeys(source.run for row in rows for source in row.sources if source.run != "cost")
    files = ("predict/triplets.parquet", "evaluate/metrics.json")
    found = [f"{RESULTS}/runs/{run}/{seed}/{file}" for run in runs for seed in seeds for file in files]
    return found + [f"{RESULTS}/separation/{run}/{seeds[0]}/separation.csv" for run in node.places]


def statement_annotations(wildcards):
    return [f"{RESULTS}/{dataset}/prepare/run.json" for dataset in CHOSEN.train]


def shown_runs(wildcards):
    """The runs that a figure shows, as GROUP/NAME/SEED."""
    node = NODES[f"figures/{wildcards.figure}"]
    return [f"{run}/{seed}" for run in node.figure.runs.values() for seed in node.seeds]


def figure_files(wildcards):
    """What a figure shows of its runs."""
    files = {"curves": "train/curves.csv", "separation": "", "places": ""}
    file = files.get(FIGURES[wildcards.figure].kind, "predict/triplets.parquet")
    runs = shown_runs(wildcards)
    return [f"{RESULTS}/runs/{run}/{file}" if file else f"{RESULTS}/separation/{run}/run.json" for run in runs]


def figure_caption(wildcards):
    """What its caption says of a figure (workflow/report): its settings, and on what data it was measured."""
    node = NODES[f"figures/{wildcards.figure}"]
    dataset = ALL_RUNS[next(iter(node.figure.runs.values()))].dataset
    data = f"the drawn world in {dataset} form, which is not the paper's data" if CHOSEN.world else dataset
    return node.model_dump() | {"data": data, "separation": STUDY.separation.model_dump()}


def figure_theme(wildcards):
    """Under which head a figure stands in the report."""
    themes = {"examples": "Pictures", "curves": "Training", "separation": LOSS, "places": LOSS}
    return themes.get(FIGURES[wildcards.figure].kind, "Accuracy")


def figure_labels(wildcards):
    """How a figure is called in the report's list."""
    return {"figure": wildcards.figure.replace("_", " "), "runs": ", ".join(FIGURES[wildcards.figure].runs)}


def figure_annotations(wildcards):
    run = next(iter(FIGURES[wildcards.figure].runs.values()))
    return f"{RESULTS}/{ALL_RUNS[run].dataset}/prepare/run.json"


config.update(brief=f"{RESULTS}/statement/brief.html", samples=STUDY.statement.samples)  # for the report's captions
IS_MAIN = workflow.is_main_process
MAY_WRITE = IS_MAIN and lock()
if MAY_WRITE:
    write_settings()
    if gpus := visible_gpus():  # a job takes its own (rmlr/study/device.py); with this, the others need not start to wait
        workflow.global_resources.setdefault("gpu", len(gpus))
    study_log = listen(RESULTS)


wildcard_constraints:
    profile=PROFILE,
    dataset="|".join(CHOSEN.train),
    detector="|".join(CHOSEN.detectors),
    backbone="|".join(CHOSEN.backbones),
    encoder="|".join(CHOSEN.encoders),
    split="train|val|test",
    group="|".join(STUDY.runs),
    run="[^/]+",
    seed="|".join(map(str, CHOSEN.seeds)),
    table="|".join(STUDY.tables),
    figure="|".join(FIGURES),


onstart:
    if not MAY_WRITE:
        sys.exit(f"Process {Path('.snakemake/rmlr.lock').read_text()} is at work here; wait for it, or stop it.")
    if not (workflow.output_settings.verbose or workflow.output_settings.printshellcmds):
        show_progress(study_log, workflow.cores)


onsuccess:
    print(summary(RESULTS, [Path(f"results/{table}.md") for table in STUDY.tables if "copy" in study_log.ran]))
