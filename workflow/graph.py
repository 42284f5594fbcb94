"""The graph of a study: the dependencies of nodes, and the inputs and flags of their rules. The rules call this;
`current` says which nodes are up to date.

A node is named by its folder below results/PROFILE, such as `runs/table2/plain/0/train` (`rmlr.study.plan`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rmlr.fetch.sources import Source, check_weights, gives, load_sources, named_weights, needed
from rmlr.study.figures import AnyFigure, ConfusionsFigure
from rmlr.study.frozen import Detector
from rmlr.study.identity import identified
from rmlr.study.nodes import FOLDS_OF, DetectorNode, FigureNode, StatementNode, TableNode, TextNode, TrainNode
from rmlr.study.params import PAPER_TABLES, Profile, Run, Table
from rmlr.study.plan import Study
from rmlr.study.section import DatasetName, Section
from rmlr.study.source import class_file, has_class_file

TABLE_KINDS = ("csv", "md", "tex")
RAW_FILES = {
    "vcoco": ("coco/*.json", "vcoco/*.json", "vcoco/splits/*.ids"),
    "hicodet": ("hicodet/*.json", "hicodet/anno_bbox.mat", "hicodet/anno.mat"),
}
LOSS = "Loss of interaction information"  # a theme of the report
THEMES = {"examples": "Pictures", "curves": "Training", "separation": LOSS, "places": LOSS}

Input = Callable[[Any], Sequence[Any]]  # Snakemake calls it with a rule's wildcards


@dataclass(frozen=True)
class Given:
    """Given weights of a node, as named in params.yaml."""

    name: str
    revision: str | None
    code: str  # digest of the node's stage


def _given(node: Section) -> Given | None:
    if isinstance(node, TextNode):
        return Given(node.encoder.weights, node.encoder.revision, node.code)
    if isinstance(node, DetectorNode) and node.detector.weights and not node.detector.python:
        return Given(node.detector.weights, node.detector.revision, node.code)
    return None


def own_detector(section: Detector) -> list[str]:
    """The file of a detector of the user's own, and its weights; ValueError where one is not there."""
    assert section.python is not None
    if section.weights is not None and not Path(section.weights).exists():
        raise ValueError(f"{section.weights}: does not exist, and params.yaml names it as weights of {section.python}")
    return [str(class_file(section.python)), *([section.weights] if section.weights else [])]


@dataclass(frozen=True)
class Graph:
    """The nodes of one profile and the paths between them."""

    study: Study
    profile: str
    raw: str  # the drawn world, or the folder of real data in the same layout
    fetches: bool  # whether sources are fetched into that folder
    sources: Mapping[str, Source]  # that the profile reads, of those that are fetched
    nodes: Mapping[str, Section]

    @classmethod
    def of(cls, study: Study, config: Mapping[str, Any], paper: Path = Path("paper")) -> "Graph":
        """The graph of the profile that `config` (Snakemake's `--config`) names, else of that of params.yaml.

        `raw=FOLDER` is the user's own folder of real data: nothing is fetched into it. With `raw=FOLDER sources=TABLE`,
        sources of another table are fetched into it.
        """
        profile = str(config.get("profile", study.profile))
        nodes = identified(study, profile, paper)
        drawn = study.profiles[profile].world is not None
        raw = f"results/{profile}/world/draw" if drawn else str(config.get("raw", "data/raw"))
        fetches = not drawn and ("raw" not in config or "sources" in config)
        table = load_sources(Path(config["sources"]) if "sources" in config else None) if fetches else {}
        sources = {name: table[name] for name in needed(table, study, profile, Path(raw))}
        of_hub = [source for source in sources.values() if source.hub]
        for name, node in nodes.items():
            given = _given(node)
            for source in of_hub:  # the table of sources determines the commit of a hub name
                if given is not None and gives(source, given.name, given.revision, Path(raw)):
                    nodes[name] = node.model_copy(update={"code": f"{given.code}-{source.digest}"})
        return cls(study, profile, raw, fetches, sources, nodes)

    def readable(self) -> list[str]:
        """All paths that nodes may read besides the outputs of other nodes."""
        given = [one.name for node in self.nodes.values() if (one := _given(node)) is not None]
        given += [node.encoder.descriptions for node in self.nodes.values()
                  if isinstance(node, TextNode) and node.encoder.descriptions]  # fmt: skip
        pose = self.chosen.pose.weights if self.chosen.pose else None
        own = [section for section in self.chosen.detectors.values() if section.python]
        given += [section.weights for section in own if section.weights]
        given += [
            str(class_file(section.python)) for section in own if section.python and has_class_file(section.python)
        ]
        return [self.raw, "paper", *dict.fromkeys(given), *([pose] if pose else [])]

    # ---- names

    @property
    def results(self) -> str:
        """The folder of all nodes."""
        return f"results/{self.profile}"

    @property
    def chosen(self) -> Profile:
        """The profile's settings."""
        return self.study.profiles[self.profile]

    @cached_property
    def runs(self) -> dict[str, Run]:
        """The runs that the profile makes, by GROUP/NAME."""
        return self.study.runs_in(self.profile)

    @cached_property
    def figures(self) -> dict[str, AnyFigure]:
        """The figures that the profile makes."""
        return self.study.figures_in(self.profile)

    @cached_property
    def tables(self) -> dict[str, Table]:
        """The tables that the profile makes."""
        return self.study.tables_in(self.profile)

    @property
    def trains_joints(self) -> bool:
        """Whether the pose network is trained here; otherwise it is a given file, or there is none."""
        return "pose/joints" in self.nodes

    @property
    def is_drawn(self) -> bool:
        return self.chosen.world is not None

    def folder(self, node: str) -> str:
        """Where a node's results are."""
        return f"{self.results}/{node}"

    def settings(self, node: str) -> str:
        """The settings file that a node's rule reads."""
        return f"{self.results}/settings/{node}.yaml"

    def refuse(self, wildcards: Any) -> list[str]:
        """The input of files of the profile of params.yaml only: ValueError says where those of this profile are."""
        name = wildcards.place
        raise ValueError(
            f"results/{name} is of profile {self.study.profile}, which params.yaml names, and is kept. That of profile "
            f"{self.profile} is {self.results}/{name}: ask for that file, or for the rule {name.partition('.')[0]}"
        )

    def marker(self, name: str) -> str:
        """What the rule that copies a table, or the statement, reads."""
        return f"{self.results}/settings/copies/{name}.txt"

    def fetch_settings(self, source: str) -> str:
        """What the rule that fetches a source reads."""
        return f"{self.results}/settings/fetch/{source}.txt"

    def made(self, name: str) -> list[str]:
        """The files of a table, or the statement, that are copied, in the order of `copies`."""
        folder = self.folder(f"tables/{name}" if name in self.tables else name)
        return [f"{folder}/{Path(file).name}" for file in self.copies(name)]

    def group(self, group: str) -> list[str]:
        """The runs of a group that the profile makes."""
        return [name for name in self.runs if name.startswith(f"{group}/")]

    def splits(self, split: str) -> tuple[str, ...]:
        return ("train", "val") if split == "trainval" else (split,)

    def detector_of(self, dataset: DatasetName, backbone: str) -> str:
        """The node of the detector that serves a data set on a backbone."""
        return f"detector/{self.chosen.backbones[backbone].detector(dataset)}"

    def copies(self, name: str) -> list[str]:
        """Where a table or the statement is copied to: results/ for the profile of params.yaml, else results/PROFILE.

        The first are committed, so that a trial of another profile does not replace them.
        """
        folder = "results" if self.profile == self.study.profile else self.results
        return [f"{folder}/{name}.{kind}" for kind in (("md",) if name == "statement" else TABLE_KINDS)]

    # ---- dependencies of a node

    def before(self, node: str) -> list[str]:
        """The nodes whose results a node reads, in the order of its flags."""
        found = self._before(node)
        if missing := [name for name in found if name not in self.nodes]:
            raise ValueError(f"{node}: depends on {missing[0]}, which profile {self.profile} does not make")
        return list(dict.fromkeys(found))

    def _before(self, node: str) -> list[str]:
        world = ["world/draw"] if self.is_drawn else []
        match node.split("/"):
            case ["world", _] | ["cost"]:
                return []
            case ["pose", "joints"] | ["vcoco" | "hicodet", "prepare"]:
                return world
            case ["vcoco" | "hicodet" as dataset, "text", _, *_]:
                return [f"{dataset}/prepare"]
            case ["detector", *name]:
                return [*world, f"{self.chosen.detectors['/'.join(name)].dataset}/prepare"]
            case ["vcoco" | "hicodet" as dataset, "features", backbone, _]:
                return [*world, f"{dataset}/prepare", self.detector_of(dataset, backbone)]
            case ["pose", dataset, backbone, split]:
                joints = ["pose/joints"] if self.trains_joints else []
                return [*world, f"{dataset}/prepare", f"{dataset}/features/{backbone}/{split}", *joints]
            case ["runs", group, name, seed, *fold, stage]:
                return self._before_run(f"{group}/{name}", seed, fold, stage)
            case ["separation", group, name, seed]:
                run, split = self.runs[f"{group}/{name}"], self.chosen.prediction.split
                networks = [f"runs/{group}/{name}/{seed}{fold}/train" for fold in self.chosen.fold_names]
                return [f"{run.dataset}/prepare", *self._views(run, split), *networks]
            case ["tables", _]:
                return self._before_table(node)
            case ["figures", _]:
                return self._before_figure(node)
            case ["statement"]:
                return self._before_statement()
        raise ValueError(f"{node}: no node of a study has such a name")

    def _views(self, run: Run, split: str, *, pose: bool = False) -> list[str]:
        """What a network saw of a split: the detector under a run or, with `pose`, the pose network."""
        above = f"pose/{run.dataset}" if pose else f"{run.dataset}/features"
        return [f"{above}/{run.backbone}/{name}" for name in self.splits(split)]

    def _before_run(self, name: str, seed: str, fold: Sequence[str], stage: str) -> list[str]:
        run, train = self.runs[name], self.train_node(name, seed)
        prepare, folder = f"{run.dataset}/prepare", f"runs/{name}/{seed}"
        if stage == "evaluate":
            return [prepare, f"{folder}/predict"]
        if stage == "predict":
            split = self.chosen.prediction.split
            poses = self._views(run, split, pose=True) if train.variant.pose else []
            networks = [f"{folder}{fold}/train" for fold in self.chosen.fold_names]
            return [prepare, *self._views(run, split), *poses, *networks]
        text = "/".join([f"{run.dataset}/text/{run.encoder}", *fold])
        start = ["/".join(["runs", run.start, seed, *fold, "train"])] if run.start else []
        if train.online is None:
            split = "trainval" if train.held_out else train.train.split
            split = FOLDS_OF if fold else split
            poses = self._views(run, split, pose=True) if train.variant.pose else []
            return [prepare, *self._views(run, split), *poses, text, *start]
        joints = ["pose/joints"] if train.variant.pose and self.trains_joints else []
        world = ["world/draw"] if self.is_drawn else []
        return [prepare, *world, self.detector_of(run.dataset, run.backbone), *joints, text, *start]

    def train_node(self, name: str, seed: str) -> TrainNode:
        """What a run (GROUP/NAME) is trained with; with folds, without the first one."""
        node = self.nodes[f"runs/{name}/{seed}{self.chosen.fold_names[0]}/train"]
        assert isinstance(node, TrainNode)
        return node

    def table_sources(self, table: str) -> list[str]:
        """The sources of a table's rows: GROUP/NAME of runs, or `cost`."""
        node = self.nodes[f"tables/{table}"]
        assert isinstance(node, TableNode)
        return list(dict.fromkeys(source.run for row in [*node.rows, *node.controls] for source in row.sources))

    def _before_table(self, node: str) -> list[str]:
        sources = self.table_sources(node.removeprefix("tables/"))
        seeds = self.chosen.seeds
        found = [f"runs/{run}/{seed}/evaluate" for run in sources if run != "cost" for seed in seeds]
        return found + (["cost"] if "cost" in sources else [])

    def _before_figure(self, name: str) -> list[str]:
        node = self.nodes[name]
        assert isinstance(node, FigureNode)
        kind, names = node.figure.kind, list(node.figure.runs.values())
        pattern = {"curves": "runs/{}/train", "separation": "separation/{}", "places": "separation/{}"}
        shown = [pattern.get(kind, "runs/{}/predict").format(f"{run}/{seed}") for run in names for seed in node.seeds]
        world = ["world/draw"] if self.is_drawn else []
        text = [f"vcoco/text/{node.figure.encoder}"] if isinstance(node.figure, ConfusionsFigure) else []
        return [*world, f"{self.runs[names[0]].dataset}/prepare", *shown, *text]

    def _before_statement(self) -> list[str]:
        """All that tables and claims are about, figure 1's distances, and whatever there is to time."""
        node = self.nodes["statement"]
        assert isinstance(node, StatementNode)
        rows = [row for claimed in node.tables.values() for row in claimed.table.rows]
        sources = dict.fromkeys(source.run for row in rows for source in row.sources)
        runs = [run for run in sources if run != "cost"]
        seeds, stages = node.seeds, ("predict", "evaluate")
        found = [f"{dataset}/prepare" for dataset in self.chosen.train]
        found += [f"runs/{run}/{seed}/{stage}" for run in runs for seed in seeds for stage in stages]
        found += [f"separation/{run}/{seeds[0]}" for run in node.places] + (["cost"] if "cost" in sources else [])
        return found + [f"tables/{table}" for table in node.tables] + [f"figures/{name}" for name in self.figures]

    # ---- inputs and flags of rules

    def inputs_of(self, node: str) -> list[str]:
        """A node's inputs but for its settings: what says that other nodes were made, and real data that is there."""
        section = self.nodes[node]
        if not self.fetches and isinstance(section, DetectorNode) and (given := _given(section)) is not None:
            check_weights(given.name, given.revision)
        return [f"{self.folder(name)}/run.json" for name in self.before(node)] + self.outside(node)

    def outside(self, node: str) -> list[str]:
        """What a node reads that no node makes: receipts of real data, or the user's own files."""
        match node.split("/"):
            case ["vcoco" | "hicodet" as dataset, "prepare"]:
                fetched = self.receipts(lambda source: dataset in source.serves and source.has_annotations)
                is_own = getattr(self.chosen, dataset).release == "own"
                photos = self.photos([dataset]) if (is_own or self.chosen.leave_out) and fetched else []
                return list(dict.fromkeys([*fetched, *photos])) or self.real_files(dataset)
            case ["vcoco" | "hicodet", "text", encoder, *_]:
                section = self.chosen.encoders[encoder]
                described = [section.descriptions] if section.descriptions else []
                return [*self.weights(section.weights, section.revision), *described]
            case ["detector", *name]:
                section = self.chosen.detectors["/".join(name)]
                given = self.weights(section.weights, section.revision) if section.weights else []
                if section.python:
                    given = own_detector(section)
                return [*self.photos([section.dataset]), *given]
            case ["vcoco" | "hicodet" as dataset, "features", *_]:
                return self.photos([dataset])
            case ["pose", "joints"]:
                return self.photos(self.chosen.train) or self.real_files("vcoco")
            case ["pose", dataset, *_]:
                return [*self.photos([dataset]), *self.pose_weights()]
            case ["runs", group, name, seed, *_, "train"]:
                train = self.train_node(f"{group}/{name}", seed)
                if train.online is None:
                    return []
                poses = self.pose_weights() if train.variant.pose else []
                return [*self.photos([self.runs[f"{group}/{name}"].dataset]), *poses]
            case ["figures", figure]:
                run = next(iter(self.figures[figure].runs.values()))
                return self.photos([self.runs[run].dataset])
        return []

    def flags(self, pattern: str) -> Callable[[Any], str]:
        """What the command of the nodes `pattern` is called with besides its settings, seed and `--out`."""
        return lambda wildcards: self.flags_of(pattern.format(**dict(wildcards.items())))

    def flags_of(self, node: str) -> str:
        """Paths that a stage reads, as flags."""
        return " ".join(f"--{name} {path}" for name, path in self.paths(node).items())

    def paths(self, node: str) -> dict[str, str]:
        """Paths that a stage reads, by flag."""
        return {name: path for name, path in self._flags(node).items() if path}

    def _flags(self, node: str) -> dict[str, str]:
        images, in_results = f"{self.raw}/images", self.folder
        match node.split("/"):
            case ["vcoco" | "hicodet", "prepare"]:
                return {"raw": self.raw}
            case ["vcoco" | "hicodet" as dataset, "text", _, *fold]:
                return {"annotations": "/".join([in_results(f"{dataset}/prepare"), *fold])}
            case ["detector", *name]:
                section = self.chosen.detectors["/".join(name)]
                coco = f"{self.raw}/coco" if section.all_of_coco else ""
                return {"annotations": in_results(f"{section.dataset}/prepare"), "images": images, "coco": coco}
            case ["vcoco" | "hicodet" as dataset, "features", backbone, split]:
                annotations, detector = (
                    in_results(f"{dataset}/prepare"),
                    in_results(self.detector_of(dataset, backbone)),
                )
                return {"annotations": annotations, "split": split, "images": images, "detector": detector}
            case ["pose", "joints"]:
                return {"annotations": f"{self.raw}/coco", "images": images}
            case ["pose", dataset, backbone, split]:
                annotations, features = in_results(f"{dataset}/prepare"), in_results(f"{dataset}/features/{backbone}")
                joints = in_results("pose/joints") if self.trains_joints else ""
                more = {"features": features, "joints": joints}
                return {"annotations": annotations, "split": split, "images": images, **more}
            case ["runs", group, name, seed, *fold, stage]:
                return self._run_flags(f"{group}/{name}", seed, fold, stage)
            case ["separation", group, name, seed]:
                run = self.runs[f"{group}/{name}"]
                annotations, features = in_results(f"{run.dataset}/prepare"), self._seen(run)
                weights = in_results(f"runs/{group}/{name}/{seed}{'' if self.chosen.folds else '/train'}")
                return {"annotations": annotations, "features": features, "weights": weights}
            case ["tables", table]:
                printed = f"paper/{table}.csv" if table in PAPER_TABLES else ""
                cost = in_results("cost") if "cost" in self.before(node) else ""
                notes = "paper/notes.yaml" if printed else ""
                return {"runs": in_results("runs"), "cost": cost, "paper": printed, "notes": notes}
            case ["figures", figure]:
                run = self.runs[next(iter(self.figures[figure].runs.values()))]
                return {"annotations": in_results(f"{run.dataset}/prepare"), "images": images, "results": self.results}
        return {}

    def _seen(self, run: Run, *, pose: bool = False) -> str:
        """The folder of what a network saw, every split below."""
        return self.folder(f"pose/{run.dataset}/{run.backbone}" if pose else f"{run.dataset}/features/{run.backbone}")

    def _run_flags(self, name: str, seed: str, fold: Sequence[str], stage: str) -> dict[str, str]:
        run, node = self.runs[name], self.train_node(name, seed)
        annotations, made = self.folder(f"{run.dataset}/prepare"), self.folder(f"runs/{name}/{seed}")
        if stage == "evaluate":
            return {"annotations": annotations, "triplets": f"{made}/predict/triplets.parquet"}
        poses = self._seen(run, pose=True) if node.variant.pose else ""
        if stage == "predict":
            weights = made if self.chosen.folds else f"{made}/train"
            return {"annotations": annotations, "features": self._seen(run), "weights": weights, "pose": poses}
        text = "/".join([self.folder(f"{run.dataset}/text/{run.encoder}"), *fold])
        annotations = "/".join([annotations, *fold])
        start = self.folder("/".join(["runs", run.start, seed, *fold, "train"])) if run.start else ""
        last = {"text": text, "start": start}
        if node.online is None:
            return {"annotations": annotations, "features": self._seen(run), "pose": poses, **last}
        given = self.chosen.pose.weights if self.chosen.pose else None
        weights = self.folder("pose/joints/weights.pth") if self.trains_joints else given
        detector = self.folder(self.detector_of(run.dataset, run.backbone))
        seen = {"images": f"{self.raw}/images", "detector": detector}
        return {"annotations": annotations, **seen, "pose": (weights or "") if poses else "", **last}

    # ---- real data and weights

    def real_files(self, dataset: str) -> list[str]:
        """The annotation files of real data that are there; the stage itself says what it misses."""
        if self.is_drawn:
            return []
        return sorted(str(file) for pattern in RAW_FILES[dataset] for file in Path(self.raw).glob(pattern))

    def receipts(self, wanted: Callable[[Source], bool]) -> list[str]:
        """What says that sources were fetched: of those that the profile needs, the `wanted` ones."""
        return [f"{self.raw}/receipts/{name}.ok" for name, source in self.sources.items() if wanted(source)]

    def photos(self, datasets: Iterable[str]) -> list[str]:
        """Receipts of the photos of data sets; none where they are drawn, or the user's own."""
        return self.receipts(lambda source: bool(set(datasets) & set(source.serves)) and source.has_photos)

    def weights(self, weights: str, revision: str | None) -> list[str]:
        """Receipts of given weights; none for what is no source of ours."""
        return self.receipts(lambda source: gives(source, weights, revision, Path(self.raw)))

    def pose_weights(self) -> list[str]:
        """A given pose network, if it is there; the stage says that it is not."""
        if self.chosen.pose is None or self.chosen.pose.weights is None:
            return []
        given = self.chosen.pose.weights
        return self.weights(given, None) or ([given] if Path(given).is_file() else [])

    def hub_is_whole(self) -> bool:
        """Whether all that comes from the hub by revision is fetched: such a revision means what was fetched."""
        named = named_weights(self.study, self.profile)
        return all(self.weights(*one) for one in named if "/" in one[0] and one[1])

    # ---- the report

    def reported(self) -> list[str]:
        """The pages and pictures for the report that are there; the statement's where all that it stands on is, too."""
        pages = {f"tables/{name}": [f"tables/{name}/{name}.html"] for name in self.tables}
        pages |= {f"figures/{name}": [f"figures/{name}/figure.png"] for name in self.figures}
        pages["statement"] = [f"statement/{page}.html" for page in ("statement", "settings", "times", "brief")]
        found = {
            node: files for node, files in pages.items() if all(Path(self.folder(file)).is_file() for file in files)
        }
        if any(name in pages and name not in found for name in self.before("statement")):
            found.pop("statement", None)
        return [self.folder(file) for files in found.values() for file in files]

    def figure_caption(self, figure: str) -> dict[str, Any]:
        """What its caption says of a figure (workflow/report): its settings, and on what data it was measured."""
        node = self.nodes[f"figures/{figure}"]
        assert isinstance(node, FigureNode)
        dataset = self.runs[next(iter(node.figure.runs.values()))].dataset
        data = f"the drawn world in {dataset} form, which is not the paper's data" if self.is_drawn else dataset
        return node.model_dump() | {"data": data, "separation": self.study.separation.model_dump()}

    def figure_theme(self, figure: str) -> str:
        """Under which head a figure stands."""
        return THEMES.get(self.figures[figure].kind, "Accuracy")

    def figure_labels(self, figure: str) -> dict[str, str]:
        """How a figure is called in the report's list."""
        return {"figure": figure.replace("_", " "), "runs": ", ".join(self.figures[figure].runs)}

    def table_labels(self, table: str) -> dict[str, str]:
        """How a table is called in the report's list."""
        return {"table": table.removeprefix("table"), "title": self.tables[table].title}

    def pose_runs(self) -> list[Run]:
        """The runs that read a pose network."""
        return [run for run in self.runs.values() if self.study.variants[run.variant].pose]
