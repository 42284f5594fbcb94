"""What a run of training is put together from: of a zero-shot split, nothing of its unseen classes."""

from collections import defaultdict
from pathlib import Path

import pytest
import torch

from rmlr.data.records import load_annotations, load_vocabulary
from rmlr.data.truth import Truths
from rmlr.data.zero_shot import unseen_classes
from rmlr.learning import assembly
from rmlr.learning.assembly import Given, assemble
from rmlr.learning.examples import Cached
from rmlr.study.nodes import EvaluateNode, FeaturesNode, TrainNode
from rmlr.study.params import Run
from rmlr.study.plan import Study
from rmlr.study.settings import View

STUDY = Study.load(Path(__file__).parents[2] / "params.yaml")


def study(dataset: str = "hicodet", **overrides) -> Study:
    """The study with one more run, mine/zero."""
    run = Run(variant="wo_cl", dataset=dataset, backbone="base", encoder="main", overrides=overrides)
    return STUDY.model_copy(update={"runs": STUDY.runs | {"mine": {"zero": run}}})


def test_a_run_says_its_zero_shot_split_to_training_and_to_evaluation():
    nodes = study(**{"train.zero_shot": "rare_first"}).nodes("tiny", defaultdict(str))
    train, evaluate = nodes["runs/mine/zero/0/train"], nodes["runs/mine/zero/0/evaluate"]
    assert isinstance(train, TrainNode)
    assert isinstance(evaluate, EvaluateNode)
    assert train.train.zero_shot == evaluate.zero_shot == "rare_first"
    assert "zero_shot" not in nodes["runs/shared_hicodet/rmlr/0/train"].dump()  # other runs are as they were


@pytest.mark.parametrize(
    ("dataset", "overrides", "message"),
    [
        ("vcoco", {}, r"runs\.mine\.zero: train\.zero_shot is rare_first, but the run is on vcoco"),
        ("hicodet", {"alignment.form": "literal"}, r"runs\.mine\.zero.*another alignment\.form than literal"),
    ],
)
def test_a_split_that_cannot_be_is_refused_in_the_plan(dataset, overrides, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        study(dataset, **{"train.zero_shot": "rare_first"}, **overrides).nodes("tiny", defaultdict(str))


def test_nothing_is_learnt_of_unseen_classes(hicodet_records, monkeypatch):
    nodes = study(**{"train.zero_shot": "non_rare_first"}).nodes("tiny", defaultdict(str))
    node, seen = nodes["runs/mine/zero/0/train"], nodes["hicodet/features/base/train"]
    assert isinstance(node, TrainNode)
    assert isinstance(seen, FeaturesNode)
    vocabulary = load_vocabulary(hicodet_records)

    class Known(Cached):
        """Examples without a detector."""

        channels, token_dim, pose_channels, detector_digest, pose_digest, files = 16, 16, None, "digest", None, []
        finer_channels: tuple[int, ...] = ()
        objects = vocabulary.objects
        view = View(image=seen.image, selection=seen.features.selection, map=seen.features.map)

        def __init__(self, features, annotated, split, share, vocabulary, pose, cache):
            self.truths = Truths(annotated, [image.image_id for image in annotated], vocabulary)
            self.image_ids = [image.image_id for image in annotated]
            self.drawn = self.used = torch.arange(len(annotated))

        def labels(self):
            return self.truths.batch(self.drawn)

    monkeypatch.setattr(assembly, "Cached", Known)
    made = assemble(node, Given(hicodet_records, hicodet_records, features=hicodet_records), seed=0)
    unseen = unseen_classes("non_rare_first", hicodet_records)
    labels = made.examples.labels()
    learnt = set(vocabulary.hoi_of[labels.objects.numpy(), labels.verbs.numpy()].tolist())
    annotated = {
        int(vocabulary.hoi_of[image.labels[object_], verb])
        for image in load_annotations(hicodet_records, node.train.split)
        for _, verb, object_ in image.interactions.tolist()
    }
    assert annotated & set(unseen)
    assert learnt == annotated - set(unseen)
    table = made.objective.is_valid_verb
    assert not any(table[vocabulary.hois[hoi][1], vocabulary.hois[hoi][0]] for hoi in unseen)  # nor as a negative
    assert int(table.sum()) == len(vocabulary.hois) - len(unseen)
    assert made.card.vocabulary == vocabulary  # prediction scores all classes
