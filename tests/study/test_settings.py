"""params.yaml, and what each node of the study reads of it."""

import re
from collections import defaultdict
from pathlib import Path

import pytest
import yaml

from rmlr.study.encoder import Encoder
from rmlr.study.nodes import CostNode, FeaturesNode, TableNode, TrainNode
from rmlr.study.params import Run
from rmlr.study.plan import Study

PARAMS = Path(__file__).parents[2] / "params.yaml"


def nodes_of(content, profile="tiny"):
    return Study.check(content, "params.yaml").nodes(profile, defaultdict(lambda: "abc"))


@pytest.fixture
def content():
    return yaml.safe_load(PARAMS.read_text())


@pytest.mark.parametrize("profile", ["demo", "tiny", "paper"])
def test_every_node_of_every_profile_is_read_again_as_it_was_written(content, profile, tmp_path):
    for place, node in nodes_of(content, profile).items():
        path = tmp_path / "settings.yaml"
        path.write_text(node.dump())
        assert type(node).load(path) == node, place


def test_a_run_is_validated_where_val_is_held_out_and_only_there(content):
    content["runs"]["table2"]["plain"]["overrides"] = {"train.split": "train"}
    nodes = nodes_of(content)
    found = {name: nodes[f"runs/table2/{name}/0/train"] for name in ("plain", "wo_cl")}
    assert all(isinstance(node, TrainNode) for node in found.values())
    assert found["plain"].train.validate_every == 1
    assert found["plain"].held_out.model_dump() == {"split": "val", "no_object": False} | {
        name: content["profiles"]["tiny"]["prediction"][name] for name in ("batch_size", "prior_power", "min_score")
    }
    assert (found["wo_cl"].train.validate_every, found["wo_cl"].held_out) == (0, None)
    content["profiles"]["tiny"]["train"]["vcoco"]["validate_every"] = 5
    assert nodes_of(content)["runs/table2/wo_cl/0/train"] == found["wo_cl"], "what has no effect changes no settings"
    content["profiles"]["tiny"]["train"]["vcoco"]["validate_every"] = 0
    assert nodes_of(content)["runs/table2/plain/0/train"].held_out is None


def test_only_the_drawn_profiles_draw(content):
    assert "world/draw" in nodes_of(content, "demo")
    assert "world/draw" not in nodes_of(content, "paper")


def test_as_many_views_are_cached_as_are_learnt_from(content):
    def views(profile):
        nodes = nodes_of(content, profile)
        found = {split: nodes.get(f"vcoco/features/base/{split}") for split in ("train", "val", "test")}
        return {split: node.features.views for split, node in found.items() if isinstance(node, FeaturesNode)}

    assert views("demo") == {"train": 1, "val": 1, "test": 1}
    assert views("paper") == {"test": 1}, "training photos, val among them, are augmented on-line"
    assert views("paper_cached") == {"train": 4, "val": 4, "test": 1}
    content["profiles"]["paper"]["train"]["vcoco"]["split"] = "train"
    assert views("paper") == {"val": 1, "test": 1}
    content["profiles"]["paper"]["train"]["vcoco"]["split"] = "trainval"
    content["profiles"]["paper"]["prediction"]["split"] = "val"
    assert views("paper") == {"val": 1, "test": 1}, "what is predicted from is cached"
    online = {name: nodes_of(content, name)["runs/shared/rmlr/0/train"].online for name in ("paper", "paper_cached")}
    assert online["paper_cached"] is None
    assert online["paper"].view.image.longest == online["paper"].augment.longest == 1333


def changed_in(before, after):
    """Nodes that differ, but for the statement, which is of the whole study."""
    return [place for place in before if place != "statement" and before[place] != after[place]]


def test_more_views_change_only_the_caches_that_are_learnt_from(content):
    before = nodes_of(content, "paper_cached")
    content["profiles"]["paper_cached"]["features"]["views"] = 5
    after = nodes_of(content, "paper_cached")
    changed = changed_in(before, after)
    splits = {place.rpartition("/")[2] for place in changed}
    assert splits == {"train", "val"}
    assert all("/features/" in place for place in changed)


def test_an_override_changes_that_run_and_no_other(content):
    before = nodes_of(content)
    content["runs"]["table2"]["plain"]["overrides"] = {"train.epochs": 7}
    after = nodes_of(content)
    assert changed_in(before, after) == ["runs/table2/plain/0/train"]
    node = after["runs/table2/plain/0/train"]
    assert isinstance(node, TrainNode)
    assert node.train.epochs == 7


def test_sizes_of_the_baseline_concern_its_own_runs_and_no_other(content):
    before = nodes_of(content)
    content["profiles"]["tiny"]["network"]["upt"]["heads"] = 4
    after = nodes_of(content)
    runs = [f"runs/{group}/{name}/0/train" for group in ("table1", "table1_hicodet") for name in ("upt", "upt_medium")]
    assert changed_in(before, after) == runs
    content["profiles"]["tiny"]["network"]["upt"] = None
    with pytest.raises(ValueError, match=r"runs\.table1\.upt.*\n.*give network\.upt"):
        nodes_of(content)


def test_each_seed_has_its_own_nodes(content):
    content["profiles"]["tiny"]["seeds"] = [0, 4]
    assert {"runs/shared/rmlr/0/train", "runs/shared/rmlr/4/evaluate"} <= nodes_of(content).keys()


@pytest.mark.parametrize("path", ["train.epoch", "epochs", "tags.run", "train", "train.epochs.deeper", "code"])
def test_an_override_of_what_is_no_number_is_named(content, path):
    content["runs"]["table2"]["plain"]["overrides"] = {path: 7}
    with pytest.raises(ValueError, match=rf"runs\.table2\.plain.*{path}"):
        nodes_of(content)


def test_an_override_of_a_wrong_type_is_named(content):
    content["runs"]["table2"]["plain"]["overrides"] = {"train.epochs": "seven"}
    with pytest.raises(ValueError, match=r"(?s)runs\.table2\.plain.*train\.epochs.*'seven'"):
        nodes_of(content)


ENCODER = {"name": "n", "model": "random:4", "revision": None, "sha256": None, "pooling": "mean"}


def test_what_an_encoder_leaves_at_its_default_is_not_part_of_its_identity():
    assert yaml.safe_load(Encoder.model_validate(ENCODER).dump()) == ENCODER


@pytest.mark.parametrize(
    ("model", "weights", "seed"),
    [
        ("google/bert", "google/bert", None),
        ("package:name", "package:name", None),
        ("shuffled:package:name", "package:name", 0),
        ("shuffled:7:google/bert", "google/bert", 7),
        ("shuffled:random:384", "random:384", 0),
    ],
)
def test_a_shuffled_encoder_names_its_own_encoder_and_a_seed(model, weights, seed):
    encoder = Encoder.model_validate(ENCODER | {"model": model})
    assert (encoder.weights, encoder.shuffle_seed) == (weights, seed)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompt": "a {verb}"}, "expected {verb} and {object}, once each"),
        ({"prompt": "a {verb} {object} {object}"}, "once each"),
        ({"prompt": "a {verb} {object} {}"}, "once each"),
        ({"prompt": "a {verb} {object:3}"}, "no other braces"),
        ({"prompt": "a {verb} {object"}, "no other braces"),
        ({"prompt": "{verb} {object}", "descriptions": "a.json"}, "they go with neither prompt nor shuffled"),
        ({"model": "shuffled:random:4", "descriptions": "a.json"}, "they go with neither prompt nor shuffled"),
        ({"model": "shuffled:"}, "expected shuffled:ENCODER"),
        ({"model": "shuffled:shuffled:random:4"}, "expected shuffled:ENCODER"),
        ({"several": "each"}, "several: each is for descriptions"),
        ({"pooling": "max"}, "pooling: Input should be"),
    ],
)
def test_an_encoder_whose_settings_contradict_each_other_is_refused(changes, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        Encoder.check(ENCODER | changes, "params.yaml")


@pytest.mark.parametrize("key", ["variant", "backbone", "encoder"])
def test_a_run_that_names_what_there_is_not_is_an_error_that_lists_what_there_is(content, key):
    content["runs"]["shared"]["rmlr"][key] = "bogus"
    with pytest.raises(ValueError, match=rf"runs\.shared\.rmlr\.{key}: there is no 'bogus'. There are: \w"):
        nodes_of(content)


@pytest.mark.parametrize("dataset", ["vcoco", "hicodet"])
def test_a_backbone_that_names_a_missing_detector_is_an_error(content, dataset):
    content["profiles"]["tiny"]["backbones"]["medium"][dataset] = "bogus"
    with pytest.raises(
        ValueError, match=rf"profiles\.tiny\.backbones\.medium\.{dataset}: there is no 'bogus'. There are: base, medium"
    ):
        nodes_of(content)


def test_each_dataset_is_seen_by_the_detector_that_its_backbone_names(content):
    tiny = content["profiles"]["tiny"]
    tiny["detectors"]["other"] = tiny["detectors"]["base"] | {"image": {"shortest": 64, "longest": 64}}
    tiny["backbones"]["base"]["hicodet"] = "other"
    nodes = [nodes_of(content)[f"{dataset}/features/base/test"] for dataset in ("vcoco", "hicodet")]
    assert [node.image.shortest for node in nodes if isinstance(node, FeaturesNode)] == [128, 64]


def test_only_runs_scored_on_photos_that_their_detector_learnt_from_are_said_to_leak(content):
    profile, study = content["profiles"]["tiny"], content["runs"]["shared"]["rmlr"]
    architecture, schedule = profile["detectors"]["base"]["architecture"], profile["detectors"]["base"]["schedule"]

    def leaks(dataset: str, **changes) -> bool:
        profile["detectors"]["base"].update({"weights": None, "architecture": architecture, "seen": []} | changes)
        made = Study.check(content, "params.yaml")
        return made.profiles["tiny"].has_seen_test(Run.check(study | {"dataset": dataset}, "run"))

    public = {"weights": "facebook/detr-resnet-50", "architecture": None}
    assert leaks("vcoco", **public, seen=["coco"])
    assert not leaks("hicodet", **public, seen=["coco"])
    assert not leaks("vcoco", weights="upt/detr-r50-vcoco.pth", architecture=None, seen=["hicodet", "vcoco"])
    with pytest.raises(ValueError, match=r"facebook/detr-resnet-50 was trained on COCO: `seen` must contain coco"):
        leaks("vcoco", **public, seen=[])
    assert leaks("vcoco", **public, seen=["coco2017"])
    profile["vcoco"]["photos"] = "val2017"
    assert not leaks("vcoco", **public, seen=["coco2017"])
    assert leaks("vcoco", **public, seen=["coco"])
    assert not leaks("vcoco", schedule=schedule)
    with pytest.raises(ValueError, match=r"from scratch, it must be empty"):
        leaks("vcoco", seen=["coco"])


def test_a_table_that_names_a_missing_run_is_an_error(content):
    content["tables"]["table2"]["rows"][0]["runs"] = ["table2/bogus"]
    with pytest.raises(ValueError, match=r"tables\.table2\.rows, row Plain model: there is no 'table2/bogus'"):
        nodes_of(content)


def table_of(content, name, profile="tiny"):
    node = nodes_of(content, profile)[f"tables/{name}"]
    assert isinstance(node, TableNode)
    return node


def test_a_run_that_a_profile_does_not_make_has_no_nodes_there_and_feeds_no_row(content):
    made = {profile: Study.check(content, "").runs_in(profile).keys() for profile in ("tiny", "demo", "paper")}
    assert made["tiny"] == made["demo"]
    others = {f"table3/{name}" for name in ("albert", "roberta", "bert_base", "bert_large")}
    assert made["paper"] - made["demo"] == others
    assert not any("table3/albert" in place for place in nodes_of(content, "demo"))
    assert table_of(content, "table3", "demo").rows == []
    rows = [(row.row["text_encoder"], row.sources[0].encoder) for row in table_of(content, "table3", "paper").rows]
    assert all(name == encoder for name, encoder in rows)
    assert len(rows) == 5


def test_a_row_may_be_fed_in_some_profiles_only(content):
    def controls(profile):
        return [row.row["text_encoder"] for row in table_of(content, "table3", profile).controls]

    assert controls("demo") == ["all-MiniLM-L6-v2", "control: random vectors", "control: shuffled names"]
    assert controls("paper") == ["control: random vectors", "control: shuffled names"]


def test_a_misspelt_profile_of_a_run_or_a_row_is_an_error(content):
    content["runs"]["table3"]["albert"]["profiles"] = ["papier"]
    with pytest.raises(ValueError, match=r"runs\.table3/albert\.profiles: there is no 'papier'. There are: demo, "):
        nodes_of(content)
    content["runs"]["table3"]["albert"]["profiles"] = ["paper"]
    content["tables"]["table3"]["controls"][0]["profiles"] = ["papier"]
    with pytest.raises(ValueError, match=r"tables\.table3\.controls, row all-MiniLM-L6-v2\.profiles: there is no"):
        nodes_of(content)


def test_a_row_fed_by_two_runs_of_one_data_set_is_an_error(content):
    content["tables"]["table6"]["rows"][0]["runs"] = ["shared/rmlr", "table2/plain"]
    with pytest.raises(ValueError, match=r"table6\.rows, row RmLR, ResNet-50: .*two of them have the same data set"):
        nodes_of(content)


def test_what_feeds_a_row_says_its_detector_its_encoder_and_whether_the_detector_knew_the_photos(content):
    rows = {row.row["backbone"]: row for row in table_of(content, "table1", "demo").rows if row.row["method"] == "UPT"}
    assert [source.detector for source in rows["ResNet-101"].sources] == ["medium ResNet"] * 2
    assert [source.encoder for source in rows["ResNet-101"].sources] == ["", ""]
    for detector in ("base/vcoco", "base/vcoco_public"):
        content["profiles"]["paper"]["backbones"]["base"]["vcoco"] = detector
        rows = table_of(content, "table1", "paper").rows
        leaks = {source.run for row in rows for source in row.sources if source.leaks}
        assert leaks == ({"shared/rmlr", "table1/upt"} if detector == "base/vcoco_public" else set())
    assert not any(source.leaks for row in table_of(content, "table1", "demo").rows for source in row.sources)


def test_costs_are_of_the_papers_networks_in_every_profile(content):
    nodes = [nodes_of(content, profile)["cost"] for profile in content["profiles"]]
    networks = [node.network for node in nodes if isinstance(node, CostNode)]
    assert len(networks) == len(nodes)
    assert all(network == networks[0] for network in networks)
    content["profiles"]["tiny"]["cost"]["sizes"] = "poster"
    with pytest.raises(ValueError, match=r"profiles\.tiny\.cost\.sizes: there is no 'poster'"):
        nodes_of(content)


def test_a_group_is_of_one_data_set(content):
    """So that DVC need not make what a table's runs do not read."""
    for group, runs in content["runs"].items():
        assert len({run["dataset"] for run in runs.values()}) == 1, group


def test_an_unknown_profile_is_an_error_that_lists_the_profiles(content):
    with pytest.raises(ValueError, match=r"'huge'. There are: demo, tiny, paper"):
        nodes_of(content, "huge")


def test_a_misspelt_key_and_a_wrong_type_are_named_with_what_came(content, tmp_path):
    demo = content["profiles"]["demo"]
    demo["detector_sead"] = demo.pop("detector_seed")
    demo["features"]["batch_size"] = "many"
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=r"params\.yaml: 3 setting") as raised:
        Study.load(path)
    said = str(raised.value)
    assert "profiles.demo.detector_sead: Extra inputs are not permitted, got 0" in said
    assert "profiles.demo.detector_seed: Field required\n" in said + "\n"
    assert "profiles.demo.features.batch_size: Input should be a valid integer, got 'many'" in said


def test_a_run_with_the_pose_cue_has_nodes_for_it_and_no_other_run_changes(content):
    del content["tables"]["table9"], content["runs"]["table9"], content["runs"]["table9_hicodet"]
    pose, content["profiles"]["tiny"]["pose"] = content["profiles"]["tiny"]["pose"], None
    before = nodes_of(content)
    content["profiles"]["tiny"]["pose"] = pose
    content["runs"]["shared"]["rmlr"]["variant"] = "pose"
    after = nodes_of(content)
    caches = [place.split("/features/") for place in before if "/features/" in place]
    added = {f"pose/{dataset}/{rest}" for dataset, rest in caches}
    assert len(added) == 2 * 2 * 3  # data sets, backbones, splits
    assert after.keys() - before.keys() == added | {"pose/joints"}
    pose |= {"weights": "pose.pth", "architecture": None, "schedule": None}
    assert nodes_of(content).keys() - before.keys() == added, "a given network is not trained"
    assert changed_in(before, after) == ["runs/shared/rmlr/0/train"]


def test_a_run_with_the_pose_cue_in_a_profile_without_a_pose_network_is_an_error(content):
    content["profiles"]["tiny"]["pose"] = None
    content["runs"]["shared"]["rmlr"]["variant"] = "pose"
    with pytest.raises(
        ValueError, match=r"runs\.shared\.rmlr: its variant reads a pose network, .*profiles\.tiny\.pose"
    ):
        nodes_of(content)


@pytest.mark.parametrize("given", [("weights", "schedule"), ("weights", "architecture", "schedule"), ("schedule",), ()])
def test_a_pose_network_has_one_origin(content, given):
    pose = content["profiles"]["tiny"]["pose"] | {"weights": "pose.pth"}
    content["profiles"]["tiny"]["pose"] = pose | dict.fromkeys(pose.keys() - {*given, "batch_size"})
    with pytest.raises(ValueError, match=r"profiles\.tiny\.pose: .*either `weights` \(a file\), or `architecture`"):
        nodes_of(content)


def test_a_crop_of_a_pose_network_is_made_of_whole_cells(content):
    content["profiles"]["tiny"]["pose"]["schedule"]["crop"] = 80
    with pytest.raises(ValueError, match=r"pose\.schedule: .*crop 80 must be a multiple of 32"):
        nodes_of(content)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ire": True}, "pose takes the place of ire"),
        ({"network": "boxes", "global_context": False}, "network boxes cannot use the cues of a pose network"),
        ({"pose": False}, "they need ire: true, or pose: true"),
    ],
)
def test_a_pose_cue_where_it_cannot_be_is_an_error(content, changes, said):
    content["variants"]["pose"].update(changes)
    with pytest.raises(ValueError, match=said):
        nodes_of(content)


# ---- grids, tables of one's own, names


def with_grid(content, **grid):
    content["runs"]["sweep"] = {"weights": content["runs"]["shared"]["rmlr"] | {"grid": grid}}
    return content


def test_a_grid_is_a_run_at_each_of_its_points_named_after_them(content):
    before = nodes_of(content)
    grid = {"losses.irm_word": [0.1, 0.3], "train.learning_rate": [0.001, 0.002]}
    after = nodes_of(with_grid(content, **grid))
    trained = {place: node for place, node in after.items() if place.startswith("runs/sweep/") and "train" in place}
    assert list(trained) == [
        f"runs/sweep/weights-irm_word_{word}-learning_rate_{rate}/0/train"
        for word in (0.1, 0.3)
        for rate in (0.001, 0.002)
    ]
    node = trained["runs/sweep/weights-irm_word_0.3-learning_rate_0.001/0/train"]
    assert isinstance(node, TrainNode)
    assert (node.losses.irm_word, node.train.learning_rate) == (0.3, 0.001)
    assert node.tags["grid.losses.irm_word"] == "0.3"
    assert node.tags["run"] == "weights-irm_word_0.3-learning_rate_0.001"
    assert changed_in(before, after) == [], "the other runs are as they were"


def test_points_whose_keys_end_alike_are_named_by_the_whole_path(content):
    grid = {"network.ire.layers": [1, 2], "network.irm.layers": [1]}
    made = Study.check(with_grid(content, **grid), "params.yaml").runs_in("tiny")
    assert "sweep/weights-network.ire.layers_2-network.irm.layers_1" in made


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ({"losses.irm_wort": [0.1]}, r"runs\.sweep\.weights-irm_wort_0\.1\.grid: 'losses\.irm_wort' is not a number"),
        ({"losses.irm_word": []}, r"runs\.sweep\.weights\.grid\.losses\.irm_word: List should have at least 1 item"),
        ({"losses.irm_word": [0.1, 0.1]}, r"runs\.sweep\.weights: there are two runs with the name"),
        ({"alignment.form": ["a/b"]}, r"runs\.sweep\.weights\.grid: a point cannot be named: a name has"),
        ({"losses.irm_word": [-1.0]}, r"losses\.irm_word: Input should be greater than or equal to 0, got -1\.0"),
    ],
)
def test_a_grid_that_cannot_be_is_named(content, grid, said):
    with pytest.raises(ValueError, match=said):
        nodes_of(with_grid(content, **grid))


def test_a_number_is_of_the_grid_or_of_the_overrides(content):
    with_grid(content, **{"losses.irm_word": [0.1]})
    content["runs"]["sweep"]["weights"]["overrides"] = {"losses.irm_word": 0.2}
    with pytest.raises(ValueError, match=r"weights\.grid: losses\.irm_word is also set by the overrides"):
        nodes_of(content)


def test_a_table_of_ones_own_has_a_row_for_each_point_and_is_no_part_of_the_statement(content):
    with_grid(content, **{"losses.irm_word": [0.1, 0.3]})
    content["tables"]["mine"] = {
        "title": "Mine",
        "rows": [
            {"row": {"model": "RmLR"}, "runs": ["shared/rmlr"]},
            {"row": {"model": "sweep"}, "runs": ["sweep/weights"]},
        ],
    }
    nodes = nodes_of(content)
    table = nodes["tables/mine"]
    assert isinstance(table, TableNode)
    assert [row.row for row in table.rows] == [
        {"model": "RmLR"},
        {"model": "sweep", "irm_word": "0.1"},
        {"model": "sweep", "irm_word": "0.3"},
    ]
    names = [row.sources[0].run for row in table.rows]
    assert names == ["shared/rmlr", "sweep/weights-irm_word_0.1", "sweep/weights-irm_word_0.3"]
    assert "mine" not in nodes["statement"].tables
    content["tables"]["mine"]["claims"] = content["tables"]["table2"]["claims"]
    with pytest.raises(ValueError, match=r"tables\.mine\.claims: only tables of the paper"):
        nodes_of(content)


def test_groups_of_one_profile_are_made_by_no_other_and_it_makes_no_other(content):
    content["runs"]["mine"] = {"plain": content["runs"]["table2"]["plain"]}
    content["profiles"]["tiny"]["groups"] = ["mine"]
    content["tables"]["own"] = {"title": "Own", "rows": [{"row": {"model": "plain"}, "runs": ["mine/plain"]}]}
    mine, others = nodes_of(content), nodes_of(content, "demo")
    assert {name.split("/")[1] for name in mine if name.startswith("runs/")} == {"mine"}
    assert "runs/table2/plain/0/train" in others
    assert not [name for name in others if name.startswith("runs/mine")]
    assert "tables/own" in mine
    assert "tables/own" not in others, "no run of its rows is made"
    content["profiles"]["tiny"]["groups"] = ["yours"]
    with pytest.raises(ValueError, match=r"profiles\.tiny\.groups: there is no 'yours'"):
        nodes_of(content)


def test_a_run_that_a_table_of_ones_own_misspells_is_an_error(content):
    content["tables"]["own"] = {"title": "Own", "rows": [{"row": {"model": "plain"}, "runs": ["table2/plane"]}]}
    with pytest.raises(ValueError, match=r"tables\.own.*there is no 'table2/plane'"):
        nodes_of(content)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "-x", ".hidden", "a b", "a*", "ä", "x" * 101, "a\n"])
@pytest.mark.parametrize("kind", ["profiles", "variants", "tables", "figures", "runs", "run"])
def test_a_name_that_no_folder_can_have_is_named(content, kind, name):
    names = content["runs"]["shared"] if kind == "run" else content[kind]
    names[name] = next(iter(names.values()))
    with pytest.raises(ValueError, match="a name has 1 to 100 letters, digits") as raised:
        Study.check(content, "params.yaml")
    assert str(raised.value).startswith("params.yaml: 1 setting(s) do not fit:\n  ")


@pytest.mark.parametrize("name", ["statement", "demo"])
def test_a_table_with_a_taken_name_is_an_error(content, name):
    content["tables"][name] = {"title": "Mine", "rows": []}
    with pytest.raises(ValueError, match=rf"tables\.{name}: this name is in use"):
        nodes_of(content)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("seeds", [0, 1, 0], "seeds: each seed is one run: 0 is listed 2 times, got [0, 1, 0]"),
        ("seeds", [2**32], "seeds.0: Input should be less than 4294967296"),
        ("seeds", [], "seeds: List should have at least 1 item"),
        ("detector_seed", 2**32, "detector_seed: Input should be less than 4294967296"),
        ("train.vcoco.learning_rate", float("inf"), "learning_rate: Input should be a finite number, got inf"),
        ("train.vcoco.clip_norm", float("nan"), "clip_norm: Input should be a finite number, got nan"),
        ("prediction.min_score", float("inf"), "min_score: Input should be a finite number"),
        ("train.vcoco.epochs", 10**30, "epochs: Input should be less than or equal to 9007199254740992"),
        ("network.irm.heads", 3, "dim 8 cannot be shared evenly by 3 heads"),
        ("detectors.base.architecture.heads", 3, "d_model 16 cannot be shared evenly by 3 heads"),
        ("detectors.base.architecture.depths", [1, 1], "hidden_sizes has 3 stages and depths 2"),
    ],
)
def test_a_number_that_cannot_be_is_named_with_what_was_expected(content, path, value, said):
    *parents, last = path.split(".")
    section = content["profiles"]["tiny"]
    for parent in parents:
        section = section[parent]
    section[last] = value
    with pytest.raises(ValueError, match=r"params\.yaml: \d+ setting") as raised:
        Study.check(content, "params.yaml")
    assert said in str(raised.value)
    assert "profiles.tiny." in str(raised.value)


def test_a_settings_file_that_is_no_text_is_named(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_bytes(b"profile: \xff\xfe\n")
    with pytest.raises(ValueError, match=r"params\.yaml.*UTF-8"):
        Study.load(path)
    with pytest.raises(ValueError, match=r"nothing\.yaml"):
        Study.load(tmp_path / "nothing.yaml")
