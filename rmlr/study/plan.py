"""The study: the whole of `params.yaml`, and its resolution into the settings of nodes."""

from collections.abc import Mapping
from functools import cached_property
from itertools import chain
from typing import Any, TypeVar

from rmlr.study.figures import (
    AnyFigure,
    ConfusionsFigure,
    CurvesFigure,
    Figure,
    FirstSeedFigure,
    PlacesFigure,
    RowsFigure,
    SeparationFigure,
)
from rmlr.study.nodes import (
    FOLDS_OF,
    Claimed,
    CostNode,
    DetectorNode,
    DrawNode,
    EvaluateNode,
    FeaturesNode,
    FigureNode,
    JointsNode,
    MeasuredRow,
    PoseNode,
    PredictNode,
    PrepareNode,
    SeparationNode,
    Source,
    StatementNode,
    TableNode,
    TextNode,
    TrainNode,
)
from rmlr.study.params import PAPER_TABLES, Profile, Run, Table, TableRow, point_name
from rmlr.study.section import Name, Section
from rmlr.study.settings import (
    AskedView,
    CostScene,
    Network,
    Online,
    PairAttention,
    Resampling,
    Separation,
    Variant,
)

OfOneNetwork = CurvesFigure | RowsFigure | ConfusionsFigure  # figures that folds do not have


class Study(Section):
    """`params.yaml`, whole."""

    profile: str
    profiles: dict[Name, Profile]
    variants: dict[Name, Variant]
    runs: dict[Name, dict[Name, Run]]  # group, name
    tables: dict[Name, Table]
    separation: Separation
    figures: dict[Name, Figure]
    statement: Resampling

    def nodes(self, profile: str, code: Mapping[str, str]) -> dict[str, Section]:
        """Every node of a profile's study: its folder below `results/PROFILE`, and the settings that its stage reads.

        `code` gives each stage's digest (`rmlr.study.source`). Raises ValueError for an unknown name.
        """
        chosen = _find(self.profiles, profile, "profile")
        if chosen.folds is not None:
            self._check_folds(chosen, f"params.yaml, profiles.{profile}.folds")
        nodes: dict[str, Section] = {}
        if chosen.world is not None:
            nodes["world/draw"] = DrawNode(code=code["draw"], world=chosen.world)
        for dataset in chosen.train:
            nodes[f"{dataset}/prepare"] = PrepareNode(
                code=code["prepare"],
                dataset=dataset,
                vcoco=chosen.vcoco,
                hicodet=chosen.hicodet,
                leave_out=chosen.leave_out,
                folds=chosen.folds,
            )
            for encoder, section in chosen.encoders.items():
                for fold in chosen.fold_names:
                    nodes[f"{dataset}/text/{encoder}{fold}"] = TextNode(code=code["text"], encoder=section)
        if chosen.pose is not None and chosen.pose.architecture is not None and chosen.pose.schedule is not None:
            nodes["pose/joints"] = JointsNode(
                code=code["joints"], architecture=chosen.pose.architecture, schedule=chosen.pose.schedule
            )
        for detector, section in chosen.detectors.items():
            nodes[f"detector/{detector}"] = DetectorNode(
                code=code["detector"], detector=section, features=chosen.features.with_views(1)
            )
        for backbone, by_dataset in chosen.backbones.items():
            for dataset in chosen.train:
                where = f"profiles.{profile}.backbones.{backbone}.{dataset}"
                section = _find(chosen.detectors, by_dataset.detector(dataset), where)
                for split, views in chosen.cached_views(dataset).items():
                    nodes[f"{dataset}/features/{backbone}/{split}"] = FeaturesNode(
                        code=code["features"], image=section.image, features=chosen.features.with_views(views)
                    )
                    if chosen.pose is not None:
                        nodes[f"pose/{dataset}/{backbone}/{split}"] = PoseNode(code=code["pose"], pose=chosen.pose)
        for name, run in self.runs_in(profile).items():
            train = self._train_node(chosen, profile, name, run, code["train"])
            for seed in chosen.seeds:
                folder = f"runs/{name}/{seed}"
                for number, fold in enumerate(chosen.fold_names):
                    left_out = {"fold": number, "tags": train.tags | {"fold": str(number)}} if fold else {}
                    nodes[f"{folder}{fold}/train"] = train.model_copy(update=left_out)
                nodes[f"{folder}/predict"] = PredictNode(
                    code=code["predict"], prediction=chosen.prediction, folds=chosen.num_folds
                )
                nodes[f"{folder}/evaluate"] = EvaluateNode(
                    code=code["evaluate"], split=chosen.prediction.split, zero_shot=train.train.zero_shot
                )
        self._check_tables()
        nodes["cost"] = self.cost_node(chosen.cost, code["cost"], f"profiles.{profile}.cost.sizes")
        for name, table in self.tables_in(profile).items():
            nodes[f"tables/{name}"] = TableNode(
                code=code["table"],
                profile=profile,
                drawn=chosen.world is not None,
                title=table.title,
                note=table.note,
                rows=self._measured(profile, table.rows, f"tables.{name}.rows"),
                controls=self._measured(profile, table.controls, f"tables.{name}.controls"),
                seeds=chosen.seeds,
                folds=chosen.num_folds,
            )
        for name, figure in self.figures_in(profile).items():
            split, seeds = chosen.prediction.split, chosen.seeds
            seeds = seeds[:1] if isinstance(figure, FirstSeedFigure) else seeds
            nodes[f"figures/{name}"] = FigureNode(code=code["figure"], split=split, figure=figure, seeds=seeds)
            if isinstance(figure, ConfusionsFigure):
                _find(chosen.encoders, figure.encoder, f"figures.{name}.encoder")
            if isinstance(figure, SeparationFigure | PlacesFigure):
                for run in figure.runs.values():
                    nodes[f"separation/{run}/{seeds[0]}"] = SeparationNode(
                        code=code["separation"], split=split, separation=self.separation, folds=chosen.num_folds
                    )
        nodes["statement"] = self._statement(profile, code["statement"], nodes)
        return nodes

    def _statement(self, profile: str, code: str, nodes: Mapping[str, Section]) -> StatementNode:
        """The node of the statement: all tables with their claims, and the numbers they were made with."""
        chosen, made = self.profiles[profile], self.runs_in(profile)
        tables = {name: nodes[f"tables/{name}"] for name in self.tables if name in PAPER_TABLES}
        variants = {run.variant: self.variants[run.variant] for run in made.values()}
        return StatementNode(
            code=code,
            profile=profile,
            drawn=chosen.world is not None,
            folds=chosen.num_folds,
            split=chosen.prediction.split,
            seeds=chosen.seeds,
            training_spread=chosen.training_spread,
            resampling=self.statement,
            tables={
                name: Claimed(table=node, claims=self.tables[name].claims)
                for name, node in tables.items()
                if isinstance(node, TableNode)
            },
            places=[
                next(iter(figure.runs.values()))
                for figure in self.figures_in(profile).values()
                if isinstance(figure, SeparationFigure)
            ],
            made_with={
                "profile": chosen.model_dump(mode="json", exclude=chosen.at_default() | {"together"}),
                "variants": {name: variant.model_dump(mode="json") for name, variant in variants.items()},
                "runs": {
                    name: run.model_dump(mode="json", exclude={"profiles"} if run.grid else {"profiles", "grid"})
                    for name, run in made.items()
                },
            },
        )

    def _check_tables(self) -> None:
        """ValueError if a custom table has claims of the paper, or a name that is in use."""
        for name, table in self.tables.items():
            if name not in PAPER_TABLES and table.claims:
                raise ValueError(
                    f"params.yaml, tables.{name}.claims: only tables of the paper have claims of the paper"
                )
            if name == "statement" or name in self.profiles:
                raise ValueError(f"params.yaml, tables.{name}: this name is in use. Give the table another")

    def figures_in(self, profile: str) -> dict[str, AnyFigure]:
        """The figures of a profile: those whose runs it all includes; with folds, without those of one network."""
        for name, figure in self.figures.items():
            self._check_figure(name, figure)
        made, has_folds = self.runs_in(profile), self.profiles[profile].folds is not None
        return {
            name: figure
            for name, figure in self.figures.items()
            if made.keys() >= set(figure.runs.values()) and not (has_folds and isinstance(figure, OfOneNetwork))
        }

    def _check_folds(self, profile: Profile, where: str) -> None:
        """ValueError if something that is scored on a fold would be trained on it."""
        assert profile.folds is not None
        if profile.prediction.split != FOLDS_OF:
            raise ValueError(f"{where}: all folds are predicted: prediction.split must be {FOLDS_OF}")
        if profile.prediction.no_object:
            raise ValueError(
                f"{where}: prediction.no_object takes shares from the split of training, and folds have no such split. "
                "Set it to false"
            )
        for dataset, train in profile.train.items():
            if train.split not in ("train", "trainval"):
                raise ValueError(f"{where}: train.{dataset}.split is {train.split}: expected train or trainval")
            if train.split == "train" and train.validate_every and not profile.folds.validation:
                raise ValueError(f"{where}.validation is 0, but train.{dataset}.validate_every asks for photos of val")
        if profile.folds.of == "test":
            return
        trained = [
            f"detector {name}" for name, one in profile.detectors.items() if one.schedule and not one.all_of_coco
        ]
        if profile.pose is not None and profile.pose.schedule is not None:
            trained.append("the pose network")
        if trained:
            raise ValueError(
                f"{where}: {trained[0]} is trained on train, which is in the folds. Use given weights unchanged "
                "(schedule: null), or make folds of the test photos only: folds: {count: 5, of: test}"
            )

    def _check_figure(self, name: str, figure: AnyFigure) -> None:
        """ValueError unless the number of runs is right, and all have the same data set."""
        where = f"figures.{name}.runs"
        wanted = {"separation": 1, "places": 1, "differences": 2, "confusions": 1}.get(figure.kind)
        if not figure.runs or len(figure.runs) != (wanted or len(figure.runs)):
            raise ValueError(
                f"params.yaml, {where}: a figure of kind {figure.kind} shows {wanted or 'at least one'} run(s), "
                f"got {len(figure.runs)}"
            )
        datasets = {self.run(run, f"{where}, '{label}'").dataset for label, run in figure.runs.items()}
        if len(datasets) > 1:
            raise ValueError(f"params.yaml, {where}: one figure shows one data set, got runs of {sorted(datasets)}")
        if isinstance(figure, RowsFigure | ConfusionsFigure) and datasets != {"vcoco"}:
            raise ValueError(f"params.yaml, {where}: a figure of kind {figure.kind} is for runs on vcoco alone")

    def run(self, name: str, where: str) -> Run:
        """The run `GROUP/NAME`; `where` names the place that refers to it."""
        return _find(self._all_runs, name, where)

    def runs_in(self, profile: str) -> dict[str, Run]:
        """The runs that a profile makes, by GROUP/NAME: those on its data sets, of its groups.

        A group that profiles name as theirs is made by these alone; they make no other.
        """
        named, chosen = self._all_runs.items(), _find(self.profiles, profile, "profile")
        taken = {group for other in self.profiles.values() for group in other.groups or []}
        for group in chosen.groups or []:
            _find(self.runs, group, f"profiles.{profile}.groups")
        groups = set(chosen.groups or self.runs.keys() - taken)
        is_made = {name: self._is_in(profile, run.profiles, f"runs.{name}") for name, run in named}
        return {
            name: run
            for name, run in named
            if is_made[name] and run.dataset in chosen.train and name.partition("/")[0] in groups
        }

    def tables_in(self, profile: str) -> dict[str, Table]:
        """The tables of a profile: the paper's, and of those of your own the ones for which it makes a run."""
        made = self.runs_in(profile)

        def is_fed(name: str, table: Table) -> bool:
            rows = [one for row in [*table.rows, *table.controls] for one in self._each_point(row)]
            runs = [run for row in rows for run in row.runs]
            for run in runs:
                self.run(run, f"tables.{name}")
            return any(run in made for run in runs)

        return {name: table for name, table in self.tables.items() if name in PAPER_TABLES or is_fed(name, table)}

    def cost_node(self, cost: CostScene, code: str, where: str) -> CostNode:
        """The settings with which Table 4 is measured; `where` names the place that refers to its profile."""
        sizes = _find(self.profiles, cost.sizes, where)
        return CostNode(
            code=code,
            cost=cost,
            network=sizes.network,
            selection=sizes.features.selection,
            prediction=sizes.prediction,
            variants={name: _find(self.variants, name, "variants for Table 4") for name in ("upt", "rmlr")},
        )

    @cached_property
    def _all_runs(self) -> dict[str, Run]:
        """Every run of every profile, by GROUP/NAME."""
        found: dict[str, Run] = {}
        for group, runs in self.runs.items():
            for name, run in runs.items():
                for point, one in zip(self.points_of(group, name), run.points(), strict=True):
                    if point in found:
                        raise ValueError(f"params.yaml, runs.{group}.{name}: there are two runs with the name {point}")
                    found[point] = run.at(one)
        return found

    def points_of(self, group: str, name: str) -> list[str]:
        """GROUP/NAME of the runs of an entry of `runs`: one, or one per grid point."""
        run, where = self.runs[group][name], f"params.yaml, runs.{group}.{name}.grid"
        if overridden := run.grid.keys() & run.overrides.keys():
            raise ValueError(f"{where}: {min(overridden)} is also set by the overrides")
        try:
            return [f"{group}/{point_name(name, point)}" for point in run.points()]
        except ValueError as error:
            raise ValueError(f"{where}: a point cannot be named: {error}") from error

    def _is_in(self, profile: str, profiles: list[str] | None, where: str) -> bool:
        for name in profiles or []:
            _find(self.profiles, name, f"{where}.profiles")
        return profiles is None or profile in profiles

    def _measured(self, profile: str, rows: list[TableRow], where: str) -> list[MeasuredRow]:
        """The rows that a profile measures, with their sources."""
        made, found = self.runs_in(profile), []
        for row in chain.from_iterable(self._each_point(row) for row in rows):
            place = f"{where}, row {', '.join(row.row.values())}"
            for name in row.runs:
                if name != "cost":
                    self.run(name, place)
            is_fed = self._is_in(profile, row.profiles, place)
            sources = [self._source(profile, name) for name in row.runs if is_fed and (name == "cost" or name in made)]
            if len({source.measures for source in sources}) < len(sources):
                raise ValueError(f"params.yaml, {place}: {', '.join(row.runs)}: two of them have the same data set")
            if sources:
                found.append(MeasuredRow(row=row.row, sources=sources))
        return found

    def _each_point(self, row: TableRow) -> list[TableRow]:
        """A row, or, if its run has a grid, one row per grid point."""
        group, _, name = row.runs[0].partition("/") if len(row.runs) == 1 else ("", "", "")
        run = self.runs.get(group, {}).get(name)
        if run is None or not run.grid:
            return [row]
        cells = [{path.rpartition(".")[2]: str(value) for path, value in point.items()} for point in run.points()]
        names = self.points_of(group, name)
        return [
            row.model_copy(update={"row": row.row | of_point, "runs": [point]})
            for of_point, point in zip(cells, names, strict=True)
        ]

    def _source(self, profile: str, name: str) -> Source:
        if name == "cost":
            return Source(run=name, measures="cost", detector="", encoder="", leaks=False)
        run, chosen = self.run(name, ""), self.profiles[profile]
        aligns, numbers = self.variants[run.variant].aligns, run.overrides | run.point
        others = [self.run(other, "") for other in self._earlier(name, run.start)]
        return Source(
            run=name,
            measures=run.dataset,
            detector=chosen.backbones[run.backbone].name,
            encoder=chosen.encoders[run.encoder].name if aligns else "",
            leaks=any(chosen.has_seen_test(one) for one in [run, *others] if one.dataset == run.dataset),
            is_zero_shot=numbers.get("train.zero_shot", chosen.train[run.dataset].zero_shot) is not None,
        )

    def _train_node(self, profile: Profile, profile_name: str, full_name: str, run: Run, code: str) -> TrainNode:
        group, _, name = full_name.partition("/")
        where = f"runs.{group}.{name}"
        told = f"params.yaml, {where}"
        _find(profile.backbones, run.backbone, f"{where}.backbone")
        _find(profile.encoders, run.encoder, f"{where}.encoder")
        named = run.model_dump(include={"variant", "dataset", "backbone", "encoder"})
        more = {f"grid.{path}": str(value) for path, value in run.point.items()}
        more |= {"start": run.start} if run.start is not None else {}
        content = {
            "code": code,
            "variant": _find(self.variants, run.variant, f"{where}.variant").model_dump(),
            "network": profile.network.model_dump(),
            "alignment": profile.alignment.model_dump(),
            "losses": profile.losses.model_dump(),
            "train": _find(profile.train, run.dataset, f"{where}.dataset").model_dump(),
            "online": self._online(profile, run),
            "start": run.start,
            "tags": {"profile": profile_name, "group": group, "run": name, **named, **more},
        }
        if content["variant"]["network"] != "upt":
            content["network"]["upt"] = None
        for path, value in (run.overrides | run.point).items():
            *parents, last = path.split(".")
            section = content
            for parent in parents:
                section = section.get(parent) if isinstance(section, dict) else None
            if not isinstance(section, dict) or last not in section or parents[:1] in ([], ["tags"]):
                place = "grid" if path in run.point else "overrides"
                raise ValueError(
                    f"{told}.{place}: '{path}' is not a number of a run. Give a dotted path below "
                    "variant, network, alignment, losses or train, such as `train.epochs: 5`"
                )
            section[last] = value
        if content["alignment"]["on_path"]:
            stack = content["alignment"]["stack"]
            content["network"]["pair_attention"] = {name: stack[name] for name in PairAttention.model_fields}
        if content["train"]["split"] != "train":
            content["train"]["validate_every"] = 0  # only test is held out, on which nothing may be selected
        if content["train"]["validate_every"]:
            content["held_out"] = profile.prediction.model_dump() | {"split": "val"}
        node = TrainNode.check(content, f"{told}, with its overrides")
        if node.train.zero_shot is not None and run.dataset != "hicodet":
            raise ValueError(
                f"{told}: train.zero_shot is {node.train.zero_shot}, but the run is on {run.dataset}: only HICO-DET "
                "has zero-shot splits"
            )
        if node.variant.pose and profile.pose is None:
            raise ValueError(
                f"{told}: its variant reads a pose network, and profile {profile_name} has none. Give profiles."
                f"{profile_name}.pose a weights file, such as MMPose's res50_crowdpose_256x192-c6a526b6_20201227.pth, "
                "or sizes and a schedule to train one on joints that the data set knows"
            )
        if run.start is not None:
            self._check_start(profile, profile_name, full_name, run, node)
        return node

    def _earlier(self, name: str, start: str | None) -> list[str]:
        """The runs from whose weights a run starts, the nearest first; ValueError if that has no beginning."""
        found = []
        while start is not None:
            if start in [name, *found]:
                circle = ", which starts from ".join([*found, start])
                raise ValueError(f"params.yaml, run {name}: starts from {circle}: a circle. Remove one `start`")
            found.append(start)
            start = self.run(start, f"run {name}, start").start
        return found

    def _check_start(self, profile: Profile, profile_name: str, name: str, run: Run, node: TrainNode) -> None:
        """ValueError unless a run can start from the one that it names."""
        where = f"params.yaml, run {name}: starts from {run.start}"
        made, earlier = self.runs_in(profile_name), self._earlier(name, run.start)
        for position, other in enumerate(earlier):
            if other not in made:
                raise ValueError(f"{where}: profile {profile_name} does not make {other}")
            before = self._train_node(profile, profile_name, other, made[other], node.code)
            if position == 0 and _network(before) != _network(node):
                raise ValueError(
                    f"{where}, which has another network. Both need the same sizes, and variants that differ in text "
                    "alone"
                )
            if node.train.zero_shot not in (None, before.train.zero_shot) and made[other].dataset == run.dataset:
                raise ValueError(
                    f"{where}: {other} has learnt classes that are unseen by train.zero_shot "
                    f"{node.train.zero_shot}. Give it the same train.zero_shot, or start from a run on the other data "
                    "set"
                )

    def _online(self, profile: Profile, run: Run) -> dict[str, Any] | None:
        """How a run reads photos in training, if the profile caches no views of them."""
        rule = profile.features
        if rule.views:
            return None
        detector = profile.backbones[run.backbone].detector(run.dataset)
        image = _find(profile.detectors, detector, f"backbones.{run.backbone}.{run.dataset}").image
        assert rule.augment is not None
        view = AskedView(image=image, selection=rule.selection, map=rule.map, strides=rule.strides)
        return Online(view=view, augment=rule.augment).model_dump()


def _network(node: TrainNode) -> tuple[Network, dict[str, Any]]:
    """What of a run decides its network: sizes and variant, without the text that it is trained with."""
    text = {"ire_sentence", "ire_word", "irm_sentence", "irm_word"}
    return node.network, node.variant.model_dump(exclude=text)


Value = TypeVar("Value")


def _find(table: Mapping[Any, Value], name: str, where: str) -> Value:
    """An entry by name; ValueError says where it was named and which names exist."""
    if name not in table:
        raise ValueError(f"params.yaml, {where}: there is no '{name}'. There are: {', '.join(table)}")
    return table[name]
