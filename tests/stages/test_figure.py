"""The figures, and the numbers behind each."""

import csv
import json
import math
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.text import Text
from PIL import Image
from pyarrow import parquet

from rmlr.data.records import save_annotations, save_vocabulary
from rmlr.detections.triplets import save_triplets
from rmlr.hoi import Triplets, Vocabulary
from rmlr.model.encoders import RandomEncoder
from rmlr.model.text import collect, embed
from rmlr.report import figures
from rmlr.stages.figure import figure
from rmlr.study.figures import (
    AnyFigure,
    ConfusionsFigure,
    CurvesFigure,
    DifferencesFigure,
    ExamplesFigure,
    PlacesFigure,
    PrecisionRecallFigure,
    RowsFigure,
    SeparationFigure,
)
from rmlr.study.made import MADE
from rmlr.study.nodes import FigureNode
from rmlr.study.plan import Study
from rmlr.study.run import Record

from .conftest import BOXES, SPLITS, VOCABULARY, annotation, verb_of

PARAMS = Path(__file__).parents[2] / "params.yaml"
IDS = list(SPLITS["test"])
A, B = "group/a", "group/b"
BOTH = {"first": A, "second": B}
EXAMPLES = ExamplesFigure(kind="examples", runs=BOTH, images=4, columns=4, interactions=1, triplets=2)
CURVES = CurvesFigure(kind="curves", runs=BOTH)
SEPARATION = SeparationFigure(kind="separation", runs={"first": A})
PLACES = PlacesFigure(kind="places", runs={"first": A}, pairs=4)
DIFFERENCES = DifferencesFigure(kind="differences", runs=BOTH, classes=5, samples=20, seed=0)
PRECISION_RECALL = PrecisionRecallFigure(kind="precision_recall", runs=BOTH)
ROWS = RowsFigure(
    kind="rows", runs=BOTH, compared=[("first", "second")], rows_of="train", bounds=[9], samples=20, seed=0
)
CONFUSIONS = ConfusionsFigure(kind="confusions", runs={"first": A}, encoder="main", permutations=9, seed=0)
OF_RUNS = (EXAMPLES, CURVES, SEPARATION, PLACES, DIFFERENCES, PRECISION_RECALL, ROWS, CONFUSIONS)
EVERY = {chosen.kind: chosen for chosen in OF_RUNS}
DISTANCES = [f"{kind}_{name}" for kind in ("cosine", "euclidean") for name in figures.VECTORS]


def predicted(right: float, image_ids=IDS) -> Triplets:
    """Both verbs of every person with the ball: the true one with this score, the other with 0.5."""
    ids = np.repeat(np.array(image_ids, dtype=np.int64), 2)
    verb = np.tile(np.arange(2), len(image_ids))
    is_right = np.array([verb_of(int(image)) for image in ids], dtype=np.int64) == verb
    human, thing = (np.tile(box, (len(ids), 1)).astype(np.float32) for box in BOXES)
    score = np.where(is_right, right, 0.5).astype(np.float32)
    return Triplets(ids, human, thing, np.ones(len(ids), dtype=np.int64), verb, score)


def write_csv(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_separation(folder: Path, kinds: list[str]) -> None:
    """A row of pairs for each kind: images 0 and 1, 2 and 3, ...; the k-th lies k apart, and overlaps by 1 - k/10."""
    folder.mkdir(parents=True)
    images = [IDS[at % len(IDS)] for at in range(2 * len(kinds))]
    boxes = zip(figures.EDGES, BOXES.T.tolist(), strict=True)
    columns = {
        f"{who}_{edge}": [at[row]] * len(images) for edge, at in boxes for row, who in enumerate(("human", "object"))
    }
    text = {"object": ["ball"] * len(images), "does": ["hold ball"] * len(images)}
    parquet.write_table(pa.table({"image_id": pa.array(images, pa.int64()), **columns, **text}),
                        folder / "interactions.parquet")  # fmt: skip
    steps = np.arange(len(kinds))
    about = {
        "first": 2 * steps,
        "second": 2 * steps + 1,
        "kind": pa.array(kinds, pa.string()),
        "place_iou": 1 - steps / 10,
    }
    parquet.write_table(pa.table(about | {name: steps.astype(float) for name in DISTANCES}), folder / "pairs.parquet")
    write_csv(
        folder / "separation.csv",
        [
            {"question": "verb", "vector": name, "distance": distance, "auc": 0.75, "low": 0.5, "high": math.nan}
            for name in figures.VECTORS
            for distance in ("cosine", "euclidean")
        ],
    )


@pytest.fixture
def results(tmp_path) -> Path:
    """What two runs of one seed left behind: the first is right, the second the wrong way round."""
    folder = tmp_path / "results"
    for name, score in ((A, 0.9), (B, 0.1)):
        place = folder / "runs" / name / "0"
        (place / "predict").mkdir(parents=True)
        save_triplets(place / "predict" / "triplets.parquet", predicted(score))
        curve = [{"epoch": epoch, "loss": 9, "hoi": 1 / epoch} for epoch in (1, 2, 3)]
        write_csv(place / "train" / "curves.csv", [row | {"irm_word": 2.0} for row in curve] if name == A else curve)
    write_separation(folder / "separation" / A / "0", ["same", "different", "elsewhere", "different"])
    texts = collect(VOCABULARY, [])
    progress = Record("text", Path(), Path()).progress
    text = embed(texts, RandomEncoder(4, "mean"), name="random", model="random:4", revision=None, progress=progress)
    (folder / "vcoco" / "text" / "main").mkdir(parents=True)
    text.save(folder / "vcoco" / "text" / "main")
    return folder


@pytest.fixture
def images(tmp_path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for image_id in IDS:
        Image.new("RGB", (64, 64), (image_id % 256, 90, 90)).save(folder / f"{image_id}.jpg")
    return folder


@pytest.fixture
def draw(study, settings_of, results, images, tmp_path):
    """Draws a figure; gives its folder and the rows of its table."""

    def call(chosen: AnyFigure, seeds=(0,), annotations=study.prepare, out="figure"):
        node = FigureNode(code="", split="test", figure=chosen, seeds=list(seeds))
        folder = tmp_path / out
        figure(settings=settings_of(node), annotations=annotations, images=images, results=results, out=folder)
        with (folder / "figure.csv").open() as file:
            return folder, list(csv.DictReader(file))

    return call


@pytest.fixture
def words(monkeypatch):
    """All that is written on the figures that are saved."""
    said: list[str] = []
    save = figures.save

    def spy(drawn, folder) -> None:
        drawn.draw_without_rendering()
        said.extend(text.get_text() for text in drawn.findobj(Text) if text.get_text())
        save(drawn, folder)

    monkeypatch.setattr(figures, "save", spy)
    return said


@pytest.mark.parametrize("kind", EVERY)
def test_a_figure_is_a_picture_its_vectors_and_a_table_and_the_same_bytes_again(draw, kind):
    (one, rows), (other, _) = draw(EVERY[kind], out="one"), draw(EVERY[kind], out="other")
    assert rows
    assert {path.name for path in one.iterdir()} == {
        *("figure.png", "figure.svg", "figure.csv", "settings.yaml", "run.json", MADE)
    }
    for name in ("figure.png", "figure.svg", "figure.csv"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    with Image.open(one / "figure.png") as picture:
        assert picture.width == 1400


def test_every_kind_is_in_the_study_and_fits_its_settings():
    wanted = Study.load(PARAMS).figures
    assert {chosen.kind for chosen in wanted.values()} == set(EVERY)


def test_examples_are_taken_evenly_and_show_truth_and_the_strongest_of_each_run(draw, words):
    _, rows = draw(EXAMPLES)
    assert list(dict.fromkeys(int(row["image_id"]) for row in rows)) == [IDS[at] for at in (0, 2, 3, 5)]
    of_image = [(row["source"], row["phrase"], float(row["score"])) for row in rows if row["image_id"] == str(IDS[0])]
    hold, throw = "person hold ball", "person throw ball"
    assert [row[:2] for row in of_image] == [
        ("annotated", hold), ("first", hold), ("first", throw), ("second", throw), ("second", hold)
    ]  # fmt: skip
    assert [row[2] for row in of_image] == pytest.approx([1.0, 0.9, 0.5, 0.5, 0.1])
    assert {f"image {IDS[0]}", "annotated", "first", "second", "hold ball", "hold ball 0.90"} <= set(words)


def test_images_with_too_few_interactions_are_no_examples(draw, words):
    _, rows = draw(EXAMPLES.model_copy(update={"interactions": 2}))
    assert rows == []
    assert words == ["There is no such picture in this split."]


def test_curves_are_the_mean_over_seeds_and_a_run_is_shown_where_it_has_the_term(draw, results, words):
    write_csv(results / "runs" / A / "1/train/curves.csv", [{"hoi": 3.0, "irm_word": 2.0}] * 3)
    write_csv(results / "runs" / B / "1/train/curves.csv", [{"hoi": 3.0}] * 3)
    _, rows = draw(CURVES, seeds=(0, 1))
    last = next(row for row in rows if (row["run"], row["column"], row["epoch"]) == ("first", "hoi", "3"))
    assert [float(last[name]) for name in ("least", "mean", "most")] == pytest.approx([1 / 3, 5 / 3, 3])
    assert {row["run"] for row in rows if row["column"] == "irm_word"} == {"first"}
    assert {"Interaction loss", "Word loss, O"} < set(words)
    assert "Word loss, m" not in words


def test_distributions_end_at_all_pairs_and_name_the_area(draw, words):
    _, rows = draw(SEPARATION)
    of_cue = [row for row in rows if (row["vector"], row["distance"], row["pairs"]) == ("cue", "cosine", "different")]
    assert [float(row["share"]) for row in of_cue[:1] + of_cue[-1:]] == [0.0, 1.0]
    assert {row["verb_auc"] for row in of_cue} == {"0.75"}
    assert any("AUC 0.75 [0.50, -]" in said for said in words)
    assert "same place, different verbs (2)" in words


@pytest.mark.parametrize("kinds", [[], ["same"], ["different", "elsewhere"]])
def test_a_split_without_two_kinds_of_pairs_says_so(draw, results, kinds, words):
    write_separation(results / "separation" / B / "0", kinds)
    draw(SEPARATION.model_copy(update={"runs": {"second": B}}))
    assert len(words) == 1
    assert words[0].startswith("No two kinds of pairs")
    draw(PLACES.model_copy(update={"runs": {"second": B}}), out="places")
    assert (words[1:] == ["There is no such picture in this split."]) == (kinds == [])


def test_places_are_the_nearest_of_each_kind_and_no_image_is_shown_twice(draw, words):
    _, rows = draw(PLACES)
    shown = [(row["verbs"], row["side"], int(row["image_id"])) for row in rows]
    assert shown == [
        *(("different", "a", IDS[2]), ("different", "a", IDS[0])),
        *(("different", "b", IDS[3]), ("different", "b", IDS[1])),
        *(("same", "a", IDS[0]), ("same", "b", IDS[1])),
    ]
    assert float(rows[0]["place_iou"]) == pytest.approx(0.9)
    assert float(rows[0]["nearer_by_cue"]) == pytest.approx(1 / 3), "the `same` one, of three at one place"
    assert "Euclid: token 1.00, cue 1.00" in words


def test_differences_are_those_of_the_evaluator_with_their_intervals(draw, words):
    _, rows = draw(DIFFERENCES)
    by_class = {row["class"]: row for row in rows}
    headline = by_class["AP_role scenario 1"]
    assert float(headline["first"]) == 1.0
    assert float(headline["difference"]) == pytest.approx(float(headline["first"]) - float(headline["second"]))
    assert float(headline["low"]) <= float(headline["difference"]) <= float(headline["high"])
    assert by_class["hold obj"]["images_with_positive"] == "3"
    assert "point instr" not in by_class, "not scored"
    assert {"first less second; in brackets, images with a positive", "hold obj (3)"} < set(words)


def test_precision_falls_where_the_wrong_come_first(draw, words):
    _, rows = draw(PRECISION_RECALL)
    best = [row for row in rows if (row["name"], row["run"]) == ("hold obj", "first")]
    assert {float(row["precision"]) for row in best} == {1.0}
    worst = [float(row["precision"]) for row in rows if (row["name"], row["run"]) == ("hold obj", "second")]
    assert max(worst) < 1.0
    assert {"Mean: AP_role scenario 1", "hold obj", "first", "second"} < set(words)


def test_differences_by_rows_are_those_of_the_evaluator_over_the_verbs_of_a_group(draw, words):
    _, rows = draw(ROWS, seeds=(0,))
    by_group = {row["group"]: row for row in rows}
    assert list(by_group) == ["all verbs", "below 9 rows", "0 to 8 rows", "9 rows and more", "unseen combinations"]
    whole = by_group["all verbs"]
    assert (whole["verbs"], whole["positives"], whole["a"], whole["b"]) == ("2", "6", "first", "second")
    assert float(whole["a_ap"]) == 100.0
    assert float(whole["difference"]) == pytest.approx(100.0 - float(whole["b_ap"]))
    assert float(whole["low"]) <= float(whole["difference"]) <= float(whole["high"])
    assert (by_group["unseen combinations"]["verbs"], by_group["9 rows and more"]["verbs"]) == ("0", "0")
    assert "all verbs: first less second" in words


def test_the_mean_and_the_deviation_of_several_seeds_are_beside_a_difference(draw, results):
    for name, score in ((A, 0.4), (B, 0.1)):
        (results / "runs" / name / "1" / "predict").mkdir(parents=True)
        save_triplets(results / "runs" / name / "1" / "predict" / "triplets.parquet", predicted(score))
    _, rows = draw(ROWS, seeds=(0, 1))
    alone = {row["a_ap"]: float(row["a_deviation"]) for row in rows if row["group"] == "all verbs"}
    ((mean, deviation),) = alone.items()
    assert float(mean) < 100.0
    assert deviation == pytest.approx((100.0 - float(mean)) * 2**0.5)


def test_confusions_are_shown_over_the_cosines_of_texts(draw, words):
    _, rows = draw(CONFUSIONS)
    assert [(row["verb"], row["other"]) for row in rows] == [("hold obj", "throw obj")]
    assert float(rows[0]["cosine"]) == pytest.approx(-1.0), "of two verbs, less their mean"
    assert "confusion, relative to the mean" in words


def test_a_figure_of_confusions_of_an_encoder_that_a_profile_does_not_have_is_an_error():
    study = Study.load(PARAMS)
    wrong = study.figures["near_synonyms_confusions"].model_copy(update={"encoder": "none"})
    study = study.model_copy(update={"figures": {"mine": wrong}})
    with pytest.raises(ValueError, match=r"figures\.mine\.encoder: there is no 'none'"):
        study.nodes("words", defaultdict(lambda: "test"))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"compared": [["first", "third"]]}, "'third' is none of the runs: first, second"),
        ({"bounds": [9, 2]}, r"\[9, 2\] must ascend"),
        ({"compared": ["first"]}, "compared"),
    ],
)
def test_a_figure_by_rows_names_its_own_runs_and_its_bounds_ascend(wrong, said):
    given = ROWS.model_dump(mode="json")
    assert RowsFigure.check(given, "here") == ROWS
    with pytest.raises(ValueError, match=said):
        RowsFigure.check(given | wrong, "here")


def test_figures_of_verbs_are_for_vcoco():
    study = Study.load(PARAMS)
    wrong = CONFUSIONS.model_copy(update={"runs": {"RmLR": "shared_hicodet/rmlr"}})
    study = study.model_copy(update={"figures": {"mine": wrong}})
    with pytest.raises(ValueError, match="a figure of kind confusions is for runs on vcoco alone"):
        study.figures_in("demo")


def test_a_split_without_an_image_gives_figures_that_say_so(draw, results, tmp_path, words):
    prepare = tmp_path / "prepare"
    prepare.mkdir()
    save_vocabulary(prepare / "vocabulary.json", VOCABULARY)
    save_annotations(prepare / "test.json", [])
    for name in (A, B):
        save_triplets(results / "runs" / name / "0/predict/triplets.parquet", predicted(0.9, []))
    save_annotations(prepare / "train.json", [])
    for chosen in (EXAMPLES, DIFFERENCES, PRECISION_RECALL, ROWS, CONFUSIONS):
        _, rows = draw(chosen, annotations=prepare, out=chosen.kind)
        assert all(row.get("difference", "nan") == "nan" for row in rows)
    assert len(words) == 5


def test_no_interaction_is_not_an_example_of_hicodet(draw, results, tmp_path, words):
    prepare = tmp_path / "prepare"
    prepare.mkdir()
    vocabulary = Vocabulary(
        dataset="hicodet",
        objects=("person", "ball"),
        person=0,
        verbs=("hold", "no_interaction"),
        hois=((0, 1), (1, 1)),
    )
    save_vocabulary(prepare / "vocabulary.json", vocabulary)
    shown = [replace(annotation(image_id), actions=np.zeros((0, 2), dtype=np.int64)) for image_id in IDS]
    for image in shown:
        image.interactions.resize((1, 3), refcheck=False)
    save_annotations(prepare / "test.json", shown)
    _, rows = draw(EXAMPLES, annotations=prepare)
    assert {int(row["image_id"]) for row in rows} == {image_id for image_id in IDS if verb_of(image_id) == 0}
    assert {row["phrase"] for row in rows} == {"person hold ball"}


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("curves", f"runs/{A}/0/train/curves.csv"),
        ("examples", f"runs/{B}/0/predict/triplets.parquet"),
        ("separation", f"separation/{A}/0/separation.csv"),
        ("places", f"separation/{A}/0/pairs.parquet"),
    ],
)
def test_a_file_that_is_cut_off_is_named(draw, results, kind, name):
    path = results / name
    content = path.read_bytes()
    path.write_bytes(content[: content[:-2].rindex(b"\n") + 3] if path.suffix == ".csv" else content[:-99])
    with pytest.raises(ValueError, match=path.name):
        draw(EVERY[kind])
    assert not (results.parent / "figure").exists()


def test_a_run_that_is_not_there_is_named(draw):
    with pytest.raises(ValueError, match=r"runs/group/none/0/train/curves\.csv: input of 'figure' does not exist"):
        draw(CURVES.model_copy(update={"runs": {"none": "group/none"}}))


def test_what_was_drawn_is_recorded(draw):
    folder, _ = draw(CURVES)
    about = json.loads((folder / "run.json").read_text())
    assert about["settings"]["figure"]["kind"] == "curves"
    assert len(about["inputs"]) == 3


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        ({"RmLR": "shared/rmlr"}, "shows 2 run"),
        ({"RmLR": "shared/rmlr", "UPT": "table1_hicodet/upt"}, r"one data set, got runs of \['hicodet', 'vcoco'\]"),
        (
            {"RmLR": "shared/rmlr", "UPT": "table1/none"},
            r"figures\.differences\.runs, 'UPT'.*there is no 'table1/none'",
        ),
    ],
)
def test_runs_that_a_figure_cannot_show_together_are_named(runs, said):
    study = Study.load(PARAMS)
    wrong = study.figures["differences"].model_copy(update={"runs": runs})
    study = study.model_copy(update={"figures": {"differences": wrong}})
    with pytest.raises(ValueError, match=said):
        study.figures_in("tiny")


def test_a_figure_of_a_run_that_a_profile_does_not_make_is_not_of_that_profile():
    study = Study.load(PARAMS)
    runs = {"RmLR": "shared/rmlr", "BERT": "table3/bert_base"}
    study = study.model_copy(update={"figures": {"curves": CURVES.model_copy(update={"runs": runs})}})
    assert study.figures_in("tiny") == {}
    assert study.figures_in("paper").keys() == {"curves"}
