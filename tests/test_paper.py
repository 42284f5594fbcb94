"""The paper's networks at the paper's sizes: what its tables vary is a setting, and a module of that many layers."""

import csv
from collections import defaultdict
from pathlib import Path

import pytest
import torch
import yaml

from rmlr.hoi import Vocabulary
from rmlr.model.network import build, build_objective
from rmlr.model.text import OBJECT, SUBJECT, VERB, TextEmbeddings
from rmlr.study.nodes import TrainNode
from rmlr.study.plan import Study

ROOT = Path(__file__).parents[1]
STUDY = yaml.safe_load((ROOT / "params.yaml").read_text())
CHANNELS, TOKEN_DIM, TEXT_DIM = 2048, 256, 512  # of DETR, with ResNet-50 as with ResNet-101; of MobileBERT
VOCABULARY = Vocabulary("hicodet", tuple(map(str, range(80))), 0, tuple(map(str, range(117))), ((0, 1), (1, 1)))
TABLE7 = {  # columns of the paper's table: our settings
    "lambda_hoi": "losses.hoi",
    "lambda_s_m": "losses.irm_sentence",
    "lambda_w_m": "losses.irm_word",
    "lambda_s_a": "losses.ire_sentence",
    "lambda_w_a": "losses.ire_word",
}
TABLE8 = {"irm_layers": "network.irm.layers", "cml_sa_layers": "alignment.stack.layers"}


def rows(table: str, columns: dict[str, str], number: type) -> list[dict[str, float]]:
    """Each row of a table as overrides of a run."""
    with (ROOT / "paper" / f"{table}.csv").open() as file:
        return [{path: number(row[name]) for name, path in columns.items()} for row in csv.DictReader(file)]


def node_of(overrides: dict, profile: str = "paper", variant: str = "rmlr") -> TrainNode:
    """The train node of a run with these overrides."""
    run = {"variant": variant, "dataset": "vcoco", "backbone": "base", "encoder": "main", "overrides": overrides}
    content = STUDY | {"runs": {"group": {"name": run}}, "tables": {}, "figures": {}}
    node = Study.check(content, "params.yaml").nodes(profile, defaultdict(lambda: ""))["runs/group/name/0/train"]
    assert isinstance(node, TrainNode)
    return node


def networks(node: TrainNode):
    """Network and objective of a node, of two phrases."""
    text = TextEmbeddings(
        encoder="random",
        model="random",
        revision=None,
        digest="",
        cut=0,
        phrases=["0 0 1", "0 1 1"],
        sentences=torch.randn(2, TEXT_DIM),
        phrase_of=torch.full((117, 80), -1).index_put((torch.tensor([0, 1]), torch.tensor([1])), torch.tensor([0, 1])),
        phrase_words=torch.randn(6, TEXT_DIM),
        phrase_offsets=torch.tensor([0, 3, 6]),
        phrase_parts=torch.tensor([SUBJECT, VERB, OBJECT] * 2),
        text_words=torch.zeros(0, TEXT_DIM),
        text_offsets=torch.zeros(1, dtype=torch.long),
        image_ids=torch.zeros(0, dtype=torch.long),
        text_of_image=torch.zeros(0, dtype=torch.long),
    )
    sizes = {"channels": CHANNELS, "token_dim": TOKEN_DIM, "vocabulary": VOCABULARY}
    return build(node.variant, node.network, **sizes), build_objective(
        node.variant, node.network, node.alignment, node.losses, vocabulary=VOCABULARY, text=text,
        phrase_counts=torch.tensor([1, 1]),
    )  # fmt: skip


@pytest.mark.parametrize("profile", [name for name, one in STUDY["profiles"].items() if not one.get("groups")])
def test_each_of_table_7s_ten_weightings_is_a_run(profile):
    weightings = rows("table7", TABLE7, float)
    assert len(weightings) == 10
    for overrides in weightings:
        losses = node_of(overrides, profile).losses.model_dump()
        assert {path: losses[path.partition(".")[2]] for path in overrides} == overrides
    best = node_of({}, profile).losses.model_dump()
    assert {path: best[path.partition(".")[2]] for path in weightings[-1]} == weightings[-1]  # the paper's choice


@pytest.mark.parametrize("overrides", rows("table8", TABLE8, int), ids=str)
def test_each_of_table_8s_rows_is_a_run_with_that_many_layers(overrides):
    """CML-SA is the paper's own reading of the alignment; the sound forms have no such layers."""
    node = node_of(overrides | {"alignment.form": "literal", "network.ire.layers": 3}, "tiny")
    network, objective = networks(node)
    assert len(network.reason.encoder.layers) == overrides["network.irm.layers"]
    for level in (objective.irm, objective.ire):
        assert level is not None
        assert level.stack is not None
        assert len(level.stack.layers) == overrides["alignment.stack.layers"]
    assert len(network.describe.ire.encoder.layers) == 3
    _, sound = networks(node_of(overrides, "tiny"))
    assert sound.irm.stack is None


def test_the_papers_layers_are_the_row_that_it_chose():
    node = node_of({})
    assert {"irm_layers": node.network.irm.layers, "cml_sa_layers": node.alignment.stack.layers} == {
        "irm_layers": 1,
        "cml_sa_layers": 2,
    }
    assert node.network.ire.layers == 2


# ---- parameters


def linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def layer(dim: int, ffn_dim: int) -> int:
    """Of a Transformer encoder: four square matrices, two of the feed-forward network, two norms."""
    return 4 * linear(dim, dim) + linear(dim, ffn_dim) + linear(ffn_dim, dim) + 4 * dim


PLAIN = (
    linear(2048, 512)  # g
    + linear(256, 512)  # s_h and s_o
    + linear(3 * 512, 1024)  # H
    + layer(1024, 2048)  # IRM
    + linear(1024, 117)
)
IRE = linear(2048, 256) + 2 * layer(256, 1024) + linear(256, 512) + 512 * 1024  # and m's part of H
BOXES = 80 * 512 + linear(36, 512) + linear(1024, 1024) + linear(1024, 1024) + layer(1024, 2048) + linear(1024, 117)


@pytest.mark.parametrize(
    ("variant", "parameters"),
    [
        ("plain", PLAIN),
        ("wo_rm", PLAIN),
        ("plain_tokens", PLAIN - linear(2048, 512) - 512 * 1024),
        ("boxes", BOXES),
        *((name, PLAIN + IRE) for name in ("wo_cl", "wo_wa", "wo_sa", "wo_irm_kt", "wo_ire_kt", "rmlr")),
    ],
)
def test_each_variant_has_the_parameters_that_its_parts_have_at_the_papers_sizes(variant, parameters):
    node = node_of({}, variant=variant)
    with torch.device("meta"):
        network = build(node.variant, node.network, channels=CHANNELS, token_dim=TOKEN_DIM, vocabulary=VOCABULARY)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


@pytest.mark.parametrize(("depths", "millions"), [([3, 4, 6, 3], 41.5), ([3, 4, 23, 3], 60.4)], ids=["R50", "R101"])
def test_the_networks_read_a_detr_of_either_backbone(depths, millions):
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

    from rmlr.model.detector import FrozenDetector

    names, ids = ["person", "ball"], {"person": 0, "ball": 1}
    backbone = ResNetConfig(depths=depths, out_features=["stage4"])
    config = DetrConfig(backbone_config=backbone, id2label=dict(enumerate(names)), label2id=ids)
    with torch.device("meta"):
        detector = FrozenDetector(DetrForObjectDetection(config), names)
    assert (detector.channels, detector.token_dim, detector.strides) == (CHANNELS, TOKEN_DIM, (32,))
    assert sum(p.numel() for p in detector.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)
    assert not any(p.requires_grad for p in detector.parameters())
