"""What a network costs: counted by hand, and as the paper printed it."""

import pytest
import torch
from torch import nn

from rmlr.hoi import Vocabulary
from rmlr.model.anchored import build_detector
from rmlr.model.cost import Method, Scene, count_macs, measure
from rmlr.model.detector import FrozenDetector
from rmlr.model.detr import convolutions_and_feed_forward, random_detector
from rmlr.model.network import build
from rmlr.model.transformer import Encoder, Layout
from rmlr.study.settings import Network, Prediction, Selection, TransformerSizes, Upt, Variant

from ..tiny_detr import tiny_detr

SIDE, CELLS, CHANNELS, TOKEN_DIM, QUERIES = 64, 64, 16, 20, 16  # 64 pixels are 8 x 8 cells
VOCABULARY = Vocabulary("vcoco", ("person", "ball"), 0, ("hold obj", "throw obj", "kick obj"), ((0, 1), (1, 1), (2, 1)))
NETWORK = Network(
    pool="covered",
    feature_dim=12,
    ire=TransformerSizes(layers=2, dim=8, heads=2, ffn_dim=20, dropout=0.1),
    pair_dim=16,
    irm=TransformerSizes(layers=1, dim=16, heads=4, ffn_dim=24, dropout=0.1),
    upt=Upt(code_dims=[8], dim=16, layers=1, heads=2, ffn_dim=24, dropout=0.1),
)
SELECTION = Selection(nms_iou=0.5, min_score=0.2, min_instances=3, max_instances=15)
PREDICTION = Prediction(split="test", batch_size=1, prior_power=2.8, min_score=0.0)


def variant(network: str, ire: bool) -> Variant:
    switches = dict.fromkeys(("pose", "ire_sentence", "ire_word", "irm_sentence", "irm_word"), False)
    return Variant.model_validate({"network": network, "global_context": network == "rmlr", "ire": ire, **switches})


@pytest.fixture(scope="module")
def detector() -> FrozenDetector:
    sizes = tiny_detr(hidden_sizes=[16, CHANNELS], d_model=TOKEN_DIM, ffn_dim=16, grid=4)
    return FrozenDetector(build_detector(sizes, VOCABULARY.objects, 0.1), VOCABULARY.objects)


@pytest.fixture(scope="module")
def cost_of(detector):
    """Measures one pass over a small photo."""

    def of(network: Variant | None, people: int = 2, things: int = 1, **how):
        built = network and build(network, NETWORK, channels=CHANNELS, token_dim=TOKEN_DIM, vocabulary=VOCABULARY)
        method = Method(detector, built, Scene(SIDE, people, things), VOCABULARY, SELECTION, PREDICTION)
        return measure(method, torch.rand(1, 3, SIDE, SIDE), **{"passes": 1, "warmup": 0, "precision": "fp32"} | how)

    return of


def layer_macs(rows: int, dim: int, ffn_dim: int) -> int:
    """Of a Transformer layer over one sequence: four projections, attention's two products, and two linear layers."""
    return rows * 4 * dim**2 + 2 * rows**2 * dim + 2 * rows * dim * ffn_dim


def test_a_convolution_and_a_linear_layer_are_counted_as_by_hand():
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 8 * 8, 5))
    found = count_macs(network, torch.rand(2, 3, 8, 8))
    assert found == {"0": 2 * 64 * 4 * 27, "3": 2 * 256 * 5, "": 2 * 64 * 4 * 27 + 2 * 256 * 5}


def test_no_fused_kernel_hides_attention_from_the_count():
    rows, dim, ffn_dim = 7, 8, 20
    expected = 2 * layer_macs(rows, dim, ffn_dim)
    library = nn.TransformerEncoderLayer(dim, 2, ffn_dim, batch_first=True)
    layout = Layout.of_block(torch.zeros(1, rows, dtype=torch.bool))
    with torch.inference_mode():
        assert (
            count_macs(Encoder(2, dim, 2, ffn_dim, 0.1, "relu").eval(), torch.rand(rows, dim), layout)[""] == expected
        )
        assert count_macs(nn.TransformerEncoder(library, 2).eval(), torch.rand(1, rows, dim))[""] == expected
    assert torch.backends.mha.get_fastpath_enabled()


def test_every_part_of_rmlr_is_counted_as_by_hand(cost_of):
    pairs, verbs, f, d, i = 4, 3, 12, 16, 8  # 2 people and a thing; widths of features, pairs and IRE
    detector, ire, description, reasoning = cost_of(variant("rmlr", ire=True)).parts
    assert [part.name for part in (detector, ire, description, reasoning)] == ["detector", "IRE", "pairs", "reasoning"]
    encoder = CELLS * CHANNELS * i + 2 * layer_macs(CELLS, i, 20)
    assert ire.macs == encoder + pairs * CELLS * i + pairs * i * f
    assert ire.parameters == CHANNELS * i + i + 2 * (4 * i * i + 2 * i * 20 + 9 * i + 20) + i * f + f
    scene, tokens = CELLS * CHANNELS + CHANNELS * f, 3 * TOKEN_DIM * f
    assert description.macs == scene + tokens + pairs * 4 * f * d
    assert reasoning.macs == layer_macs(pairs, d, 24) + pairs * d * verbs
    assert detector.trained == 0
    assert all(part.trained == part.parameters for part in (ire, description, reasoning))


@pytest.mark.parametrize("network", [variant("rmlr", ire=True), variant("rmlr", ire=False), variant("upt", ire=False)])
def test_the_parts_make_the_whole(cost_of, network):
    found, alone = cost_of(network), cost_of(None)
    assert [part.name for part in alone.parts] == ["detector"]
    built = build(network, NETWORK, channels=CHANNELS, token_dim=TOKEN_DIM, vocabulary=VOCABULARY)
    assert found.whole.parameters == alone.whole.parameters + sum(one.numel() for one in built.parameters())
    assert found.whole.macs > sum(part.macs for part in found.parts[:-1]) > alone.whole.macs
    assert found.parts[0] == alone.parts[0]


@pytest.mark.parametrize(("people", "things"), [(0, 0), (0, 3), (1, 0)])
@pytest.mark.parametrize("network", [variant("rmlr", ire=True), variant("upt", ire=False)])
def test_a_photo_without_a_pair_has_its_cost_too(cost_of, network, people, things):
    found = cost_of(network, people, things)
    assert found.whole.macs < cost_of(network).whole.macs
    assert len(found.seconds) == 1


def test_mixed_precision_counts_the_same_and_every_asked_pass_is_timed(cost_of):
    found = cost_of(variant("rmlr", ire=True), precision="bf16", passes=3, warmup=2)
    assert found.parts == cost_of(variant("rmlr", ire=True)).parts
    assert len(found.seconds) == len(found.detector_seconds) == 3
    assert all(whole > detector > 0 for whole, detector in zip(found.seconds, found.detector_seconds, strict=True))


def test_more_instances_than_the_detector_has_queries_are_refused(cost_of):
    with pytest.raises(ValueError, match=r"9 people and 8 things: .* 16 queries"):
        cost_of(variant("rmlr", ire=True), 9, QUERIES - 8)


@pytest.mark.parametrize(
    ("depths", "millions", "macs", "printed_params", "printed_macs"),
    [
        ((3, 4, 6, 3), 41.52, 60.17, "36.59", "57.02"),
        pytest.param((3, 4, 23, 3), 60.46, 107.52, "55.53", "104.37", marks=pytest.mark.slow),
    ],
)
def test_detr_at_full_size_is_as_published_and_the_paper_counts_a_part_of_it(
    depths, millions, macs, printed_params, printed_macs
):
    detr = random_detector(depths, [f"class {number}" for number in range(91)]).eval()
    with torch.inference_mode():
        found = count_macs(detr, torch.zeros(1, 3, 800, 800))
    assert sum(one.numel() for one in detr.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)
    assert found[""] / 1e9 == pytest.approx(macs, abs=0.005)
    part = convolutions_and_feed_forward(detr)
    counted = sum(one.numel() for name in part for one in detr.get_submodule(name).parameters())
    assert f"{counted / 1e6:.2f}" == printed_params  # paper/table4.csv
    assert f"{sum(found[name] for name in part) / 1e9:.2f}" == printed_macs
