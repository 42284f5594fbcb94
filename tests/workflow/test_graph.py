"""The graph of a study: what nodes stand on, what rules are given, where tables are copied to."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from graph import Graph
from wanted import LONG_AGO, Wanted, only_one, want

from rmlr.study.params import Run
from rmlr.study.plan import Study

ROOT = Path(__file__).parents[2]


@pytest.fixture
def content():
    return yaml.safe_load((ROOT / "params.yaml").read_text())


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Where no data are."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # which a detector of one's own adds to


def graph_of(content, **config) -> Graph:
    return Graph.of(Study.check(content, "params.yaml"), config, ROOT / "paper")


@pytest.mark.parametrize("profile", ["demo", "tiny", "paper", "paper_cached", "paper_tiny", "paper_2026", "photos"])
def test_every_node_of_every_profile_depends_on_nodes_of_it_without_a_cycle(content, profile):
    graph = graph_of(content, profile=profile)
    done: set[str] = set()
    while len(done) < len(graph.nodes):
        ready = [node for node in graph.nodes if node not in done and set(graph.before(node)) <= done]
        assert ready
        done.update(ready)
    for node in graph.nodes:
        assert all(path.startswith(("results/", "data/raw/")) for path in graph.inputs_of(node))


def test_a_run_that_starts_from_another_depends_on_it_and_is_given_it(content):
    content["runs"]["table2"]["wo_sa"]["start"] = "shared_hicodet/rmlr"
    graph = graph_of(content, profile="tiny")
    assert "runs/shared_hicodet/rmlr/0/train" in graph.before("runs/table2/wo_sa/0/train")
    assert " --start results/tiny/runs/shared_hicodet/rmlr/0/train" in graph.flags_of("runs/table2/wo_sa/0/train")
    assert "--start" not in graph.flags_of("runs/shared_hicodet/rmlr/0/train")
    content["profiles"]["tiny"]["folds"] = {"count": 3, "of": "test"}
    graph = graph_of(content, profile="tiny")
    assert "runs/shared_hicodet/rmlr/0/fold2/train" in graph.before("runs/table2/wo_sa/0/fold2/train")


@pytest.mark.parametrize(
    ("starts", "said"),
    [
        ({"plain": "table2/none"}, r"run table2/plain, start: there is no 'table2/none'"),
        ({"plain": "table2/plain"}, "run table2/plain: starts from table2/plain: a circle. Remove one `start`"),
        ({"plain": "table2/wo_rm", "wo_rm": "table2/plain"}, "table2/wo_rm, which starts from table2/plain: a circle"),
        ({"plain": "photos/plain"}, "starts from photos/plain: profile tiny does not make photos/plain"),
        ({"plain": "shared/rmlr"}, "starts from shared/rmlr, which has another network. Both need the same sizes"),
    ],
)
def test_a_run_can_only_start_from_one_that_is_made_before_it_and_has_its_network(content, starts, said):
    for name, start in starts.items():
        content["runs"]["table2"][name]["start"] = start
    with pytest.raises(ValueError, match=said):
        graph_of(content, profile="tiny")


def test_a_zero_shot_run_starts_from_none_that_has_learnt_its_unseen_classes(content):
    run = {"variant": "rmlr", "dataset": "hicodet", "backbone": "base", "encoder": "main"}
    zero_shot = {"train.zero_shot": "rare_first"}
    content["runs"]["mine"] = {
        "first": run | {"overrides": {}},
        "between": run | {"dataset": "vcoco", "overrides": {}, "start": "mine/first"},
        "last": run | {"overrides": zero_shot, "start": "mine/between"},
    }
    with pytest.raises(ValueError, match=r"mine/first has learnt classes that are unseen by .*rare_first"):
        graph_of(content, profile="tiny")
    content["runs"]["mine"]["first"]["overrides"] = zero_shot
    assert "runs/mine/between/0/train" in graph_of(content, profile="tiny").before("runs/mine/last/0/train")


def test_a_run_depends_on_its_detectors_features_its_text_and_its_data(content):
    graph = graph_of(content)
    assert graph.before("runs/table1/upt_medium/0/train") == [
        "vcoco/prepare",
        "vcoco/features/medium/train",
        "vcoco/features/medium/val",
        "vcoco/text/main",
    ]
    assert graph.before("runs/table1/upt_medium/0/predict") == [
        "vcoco/prepare",
        "vcoco/features/medium/test",
        "runs/table1/upt_medium/0/train",
    ]
    assert graph.before("vcoco/features/medium/test") == ["world/draw", "vcoco/prepare", "detector/medium"]
    assert graph.flags_of("runs/table1/upt_medium/0/predict") == (
        "--annotations results/demo/vcoco/prepare --features results/demo/vcoco/features/medium"
        " --weights results/demo/runs/table1/upt_medium/0/train"
    )


def test_a_run_with_the_pose_cue_depends_on_the_pose_networks_maps(content):
    graph = graph_of(content)
    assert "pose/hicodet/base/test" in graph.before("runs/table9_hicodet/pose/0/predict")
    assert "pose/joints" in graph.before("pose/hicodet/base/test")
    assert " --pose results/demo/pose/hicodet/base" in graph.flags_of("runs/table9_hicodet/pose/0/train")
    assert not any("pose/" in name for name in graph.before("runs/shared/rmlr/0/train"))


def test_a_run_on_photos_depends_on_the_detector_and_on_receipts_of_photos(content):
    graph = graph_of(content, profile="paper")
    node = "runs/shared/rmlr/0/train"
    assert graph.before(node) == ["vcoco/prepare", "detector/base/vcoco", "vcoco/text/main"]
    assert "data/raw/receipts/coco-train2014.ok" in graph.outside(node)
    assert " --images data/raw/images --detector results/paper/detector/base/vcoco " in graph.flags_of(node)


def test_for_the_users_own_folder_nothing_is_fetched(content):
    graph = graph_of(content, profile="paper", raw="my/data")
    assert not graph.sources
    assert graph.outside("vcoco/prepare") == []
    Path("my/data/vcoco").mkdir(parents=True)
    Path("my/data/vcoco/vcoco_train.json").write_text("[]")
    assert graph.outside("vcoco/prepare") == ["my/data/vcoco/vcoco_train.json"]
    assert graph.flags_of("vcoco/prepare") == "--raw my/data"


def test_what_a_name_of_the_hub_means_is_part_of_a_nodes_identity(content):
    fetched = graph_of(content, profile="paper").nodes["vcoco/text/main"]
    own = graph_of(content, profile="paper", raw="my/data").nodes["vcoco/text/main"]
    assert fetched.code.startswith(f"{own.code}-")


def test_a_shuffled_encoder_is_the_same_source_and_a_file_of_descriptions_is_an_input(content):
    encoders = content["profiles"]["paper"]["encoders"]
    plain, bert = graph_of(content, profile="paper"), dict(encoders["bert_base"])
    encoders["random"] = bert | {"model": f"shuffled:3:{bert['model']}"}
    encoders["main"] = bert | {"descriptions": "said.yaml"}
    changed, node = graph_of(content, profile="paper"), "vcoco/text/{}"
    weights = set(plain.inputs_of(node.format("bert_base")))
    assert any("bert-base" in path for path in weights)
    assert set(changed.inputs_of(node.format("random"))) == weights
    assert set(changed.inputs_of(node.format("main"))) == weights | {"said.yaml"}
    assert "said.yaml" in changed.readable()


def test_tables_of_the_profile_of_params_are_copied_to_results_and_others_to_their_own_results(content):
    assert graph_of(content).copies("table2") == ["results/table2.csv", "results/table2.md", "results/table2.tex"]
    other = graph_of(content, profile="tiny")
    assert other.copies("table2")[0] == "results/tiny/table2.csv"
    assert other.copies("statement") == ["results/tiny/statement.md"]
    with pytest.raises(ValueError, match=r"results/table2\.csv is of profile demo.*results/tiny/table2\.csv"):
        other.refuse(SimpleNamespace(place="table2.csv"))


def test_a_node_with_a_dependency_outside_of_the_profile_is_named(content):
    graph = graph_of(content)
    without = replace(graph, nodes={name: node for name, node in graph.nodes.items() if "text" not in name})
    with pytest.raises(ValueError, match=r"runs/shared/rmlr/0/train: depends on vcoco/text/main, which profile demo"):
        without.before("runs/shared/rmlr/0/train")


def test_a_wanted_file_is_old_if_its_output_is_current_and_new_otherwise(tmp_path):
    path = tmp_path / "deeper/settings.yaml"
    want(path, "epochs: 3\n", made=True)
    assert path.stat().st_mtime == LONG_AGO
    want(path, "epochs: 4\n", made=False)
    assert path.read_text() == "epochs: 4\n"
    assert path.stat().st_mtime > LONG_AGO


def test_a_call_compares_and_writes_what_its_targets_depend_on_and_a_changed_number_is_seen_when_it_is_needed(content):
    def settings() -> dict[str, str]:
        return {str(path): path.read_text() for path in Path("results/tiny/settings").rglob("*.yaml")}

    def asked(wanted: Wanted, run: str) -> bool:
        """Whether the run's training is made, when Snakemake asks for the inputs of its evaluation."""
        wanted.inputs("runs/{group}/{run}/0/evaluate")(
            SimpleNamespace(items=lambda: [("group", "table2"), ("run", run)])
        )
        return wanted.is_stale(f"runs/table2/{run}/0/train")

    graph = graph_of(content, profile="tiny")
    assert asked(Wanted(graph, may_write=True), "plain")
    at_first = settings()
    assert len(at_first) == len(graph.nodes), "all are there, for Snakemake lists each folder once"

    for name in ("plain", "wo_rm"):
        content["runs"]["table2"][name]["overrides"] = {"train.epochs": 77}
    for path in map(Path, at_first):
        os.utime(path, (5, 5))
    changed = graph_of(content, profile="tiny")
    wanted = Wanted(changed, may_write=True)
    asked(wanted, "plain")
    plain, other = (changed.settings(f"runs/table2/{run}/0/train") for run in ("plain", "wo_rm"))
    assert "epochs: 77" in Path(plain).read_text()
    written = {path for path in at_first if Path(path).stat().st_mtime != 5}
    assert {plain, changed.settings("vcoco/prepare"), changed.settings("detector/base")} < written
    assert not any("wo_rm" in path or "tables" in path for path in written)
    asked(wanted, "wo_rm")
    assert "epochs: 77" in Path(other).read_text()
    assert settings() == {path: at_first[path] for path in at_first} | {
        path: Path(path).read_text() for path in (plain, other)
    }
    before = settings()
    assert not asked(Wanted(graph, may_write=False), "plain"), "what another process makes is taken as it is"
    assert settings() == before


def test_one_process_at_a_time_may_write(tmp_path):
    path = tmp_path / "state/lock"
    assert only_one(path)
    assert not only_one(path), "another open file, as another process has"


# ---- folds

TAKEN = {"dataset": "vcoco", "weights": "facebook/detr-resnet-50", "revision": None, "seen": ["coco"]}
TAKEN |= {"architecture": None, "schedule": None, "image": None, "object_ap": "pycocotools"}


def of_folds(content, **folds) -> Graph:
    content["profiles"]["tiny"]["folds"] = {"count": 3, "of": "test"} | folds
    return graph_of(content, profile="tiny")


def test_with_folds_a_run_is_trained_once_for_each_and_predicted_and_evaluated_once(content):
    graph, run = of_folds(content, validation=0.2), "runs/shared/rmlr/0"
    assert [node.removeprefix(f"{run}/") for node in graph.nodes if node.startswith(f"{run}/")] == [
        "fold0/train",
        "fold1/train",
        "fold2/train",
        "predict",
        "evaluate",
    ]
    assert graph.before(f"{run}/fold1/train") == ["vcoco/prepare", "vcoco/features/base/test", "vcoco/text/main/fold1"]
    assert graph.before(f"{run}/predict") == [
        "vcoco/prepare",
        "vcoco/features/base/test",
        *(f"{run}/fold{fold}/train" for fold in range(3)),
    ]
    assert graph.before(f"{run}/evaluate") == ["vcoco/prepare", f"{run}/predict"]


def test_a_fold_is_given_its_own_records_and_text_and_the_whole_to_predict_and_evaluate(content):
    graph, run, data = of_folds(content), "runs/shared/rmlr/0", "results/tiny/vcoco"
    assert graph.flags_of(f"{run}/fold1/train") == (
        f"--annotations {data}/prepare/fold1 --features {data}/features/base --text {data}/text/main/fold1"
    )
    assert graph.flags_of("vcoco/text/main/fold1") == f"--annotations {data}/prepare/fold1"
    assert graph.flags_of(f"{run}/predict") == (
        f"--annotations {data}/prepare --features {data}/features/base --weights results/tiny/{run}"
    )
    assert graph.flags_of(f"{run}/evaluate").startswith(f"--annotations {data}/prepare --triplets results/tiny/{run}/")
    assert [graph.nodes[f"{run}/fold{fold}/train"].fold for fold in range(3)] == [0, 1, 2]
    assert graph.nodes[f"{run}/fold1/train"].tags["fold"] == "1"


def test_every_node_with_folds_stands_on_nodes_of_the_profile(content):
    graph = of_folds(content)
    for node in graph.nodes:
        assert set(graph.before(node)) <= graph.nodes.keys()
        graph.inputs_of(node)
        graph.flags_of(node)
    kinds = {figure.kind for figure in graph.figures.values()}
    assert "curves" not in kinds
    assert {"separation", "places"} <= kinds
    node = "separation/shared/rmlr/0"
    assert graph.nodes[node].folds == 3
    assert [f"runs/shared/rmlr/0/fold{fold}/train" for fold in range(3)] == graph.before(node)[-3:]
    assert graph.flags_of(node).endswith(" --weights results/tiny/runs/shared/rmlr/0")
    assert graph.nodes["tables/table2"].folds == graph.nodes["statement"].folds == 3


def test_of_photos_that_are_learnt_from_in_folds_as_many_views_are_cached_as_the_settings_say(content):
    tiny = content["profiles"]["tiny"]
    augment = content["profiles"]["paper"]["features"]["augment"]
    tiny["features"] |= {"views": 3, "augment": augment}
    graph = of_folds(content)
    assert graph.nodes["vcoco/features/base/test"].features.views == 3
    assert "vcoco/features/base/train" not in graph.nodes


def test_a_number_alone_is_folds_of_all_photos_for_a_detector_that_is_taken_as_it_is(content):
    content["profiles"]["paper"]["folds"] = 5
    detectors = content["profiles"]["paper"]["detectors"]
    for name in list(detectors):
        if detectors[name]["weights"] is None:
            del detectors[name]
        else:
            detectors[name] |= {"schedule": None, "all_of_coco": False}
    graph = graph_of(content, profile="paper")
    node = graph.nodes["vcoco/prepare"]
    assert (node.folds.count, node.folds.of, node.folds.validation) == (5, "all", 0.0)


def test_with_folds_of_all_photos_a_detector_that_has_seen_the_data_set_has_seen_what_is_scored(content):
    profile, run = (
        content["profiles"]["tiny"],
        Run(variant="rmlr", dataset="vcoco", backbone="base", encoder="main", overrides={}),
    )
    profile["detectors"]["base"] |= TAKEN | {"weights": "weights/mine", "seen": ["vcoco"]}
    has_seen = [
        Study.check(content | {"profiles": {"tiny": profile | {"folds": folds}}}, "params.yaml")
        .profiles["tiny"]
        .has_seen_test(run)
        for folds in (None, {"count": 3, "of": "test"}, {"count": 3, "of": "all"})
    ]
    assert has_seen == [False, False, True]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tiny: tiny.update(folds=3), r"tiny.folds: detector base is trained on train, which is in the folds"),
        (
            lambda tiny: tiny.update(folds=3, detectors={"base": TAKEN}, backbones={"base": tiny["backbones"]["base"]}),
            r"tiny.folds: the pose network is trained on train, which is in the folds",
        ),
        (lambda tiny: tiny["prediction"].update(split="val"), r"tiny.folds: .*prediction.split must be test"),
        (lambda tiny: tiny["train"]["vcoco"].update(split="test"), r"tiny.folds: train.vcoco.split is test: expected"),
        (
            lambda tiny: tiny["train"]["vcoco"].update(split="train", validate_every=1),
            "folds.validation is 0, but train",
        ),
        (lambda tiny: tiny.update(folds=1), "folds.count: Input should be greater than or equal to 2"),
    ],
)
def test_folds_that_would_be_learnt_from_are_refused(content, change, message):
    tiny = content["profiles"]["tiny"]
    tiny["folds"] = {"count": 3, "of": "test"}
    change(tiny)
    with pytest.raises(ValueError, match=message):
        graph_of(content, profile="tiny")


def test_a_profile_without_folds_says_nothing_of_them(content):
    graph = graph_of(content, profile="tiny")
    assert not [node for node in graph.nodes if "fold" in node]
    for node in (
        "vcoco/prepare",
        "runs/shared/rmlr/0/train",
        "runs/shared/rmlr/0/predict",
        "tables/table2",
        "statement",
    ):
        assert "fold" not in graph.nodes[node].dump()
        assert "leave_out" not in graph.nodes[node].dump()


def test_a_detector_of_ones_own_stands_on_its_class_and_its_weights(content, tmp_path):
    own = {"python": "kept.mine.Centres", "weights": "mine.pt", "architecture": None, "schedule": None, "image": None}
    content["profiles"]["tiny"]["detectors"]["base"] |= own
    with pytest.raises(
        ValueError, match=r"mine\.pt: does not exist, and params.yaml names it as weights of kept\.mine"
    ):
        graph_of(content, profile="tiny").inputs_of("detector/base")
    Path("mine.pt").touch()
    with pytest.raises(ValueError, match=r"kept\.mine\.Centres: there is no module 'kept\.mine'"):
        graph_of(content, profile="tiny").inputs_of("detector/base")
    Path("kept").mkdir()
    Path("kept/mine.py").touch()
    graph = graph_of(content, profile="tiny")
    assert graph.inputs_of("detector/base")[-2:] == ["kept/mine.py", "mine.pt"]
    assert {"kept/mine.py", "mine.pt"} <= set(graph.readable())
