from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml
from pydantic import ValidationError

from rmlr.model.network import build, build_objective
from rmlr.model.transformer import Layout
from rmlr.study.settings import Alignment, Losses, Network, PairAttention, Variant

STUDY = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text())
VARIANTS = {name: Variant(**switches) for name, switches in STUDY["variants"].items()}
FORMS = ["anchored", "anchored_attention", "literal", "literal, on path"]
SIZES = {"layers": 1, "dim": 8, "heads": 2, "ffn_dim": 16, "dropout": 0.0}
PATH = {name: value for name, value in SIZES.items() if name != "dim"}
UPT = {"code_dims": [4], "dim": 8, "layers": 2, "heads": 2, "ffn_dim": 16, "dropout": 0.0}
NETWORK = Network(pool="covered", feature_dim=4, ire=SIZES, pair_dim=8, irm=SIZES, upt=UPT)
LOSSES = Losses(**STUDY["profiles"]["demo"]["losses"])


def make(small, variant: str, form: str = "anchored"):
    torch.manual_seed(0)
    chosen, on_path = VARIANTS[variant], form.endswith(", on path")
    settings = NETWORK.model_copy(update={"pair_attention": PairAttention(**PATH) if on_path else None})
    sizes = {"channels": small.channels, "token_dim": small.token_dim, "pose_channels": small.pose_channels}
    network = build(chosen, settings, **sizes, vocabulary=small.vocabulary)
    form = form.partition(",")[0]
    objective = build_objective(
        chosen,
        settings,
        Alignment(form=form, residual=False, whiten=True, stack=SIZES, on_path=on_path),
        LOSSES,
        vocabulary=small.vocabulary,
        text=small.text() if chosen.aligns else None,
        phrase_counts=torch.ones(4, dtype=torch.long) if chosen.aligns else None,
    )
    return network, objective


def parts(module: torch.nn.Module, depth: int = 2) -> set[str]:
    return {".".join(name.split(".")[:depth]) for name, _ in module.named_parameters()}


COMMON = {"describe.project_tokens", "describe.fuse", "reason.encoder", "reason.classify"}
WHOLE = COMMON | {"describe.context", "describe.ire"}


@pytest.mark.parametrize(
    ("variant", "modules", "heads"),
    [
        ("plain_tokens", COMMON, set()),
        ("plain", COMMON | {"describe.context"}, set()),
        ("wo_cl", WHOLE, set()),
        ("wo_rm", COMMON | {"describe.context"}, {"irm.sentence", "irm.word"}),
        ("wo_wa", WHOLE, {"irm.sentence", "ire.sentence"}),
        ("wo_sa", WHOLE, {"irm.word", "ire.word"}),
        ("wo_irm_kt", WHOLE, {"ire.sentence", "ire.word"}),
        ("wo_ire_kt", WHOLE, {"irm.sentence", "irm.word"}),
        ("rmlr", WHOLE, {"irm.sentence", "irm.word", "ire.sentence", "ire.word"}),
        (
            "pose",
            COMMON | {"describe.context", "describe.pose"},
            {"irm.sentence", "irm.word", "ire.sentence", "ire.word"},
        ),
        (
            "boxes",
            {f"describe.{part}" for part in ("embed_object", "project_geometry", "fuse")}
            | {"reason.encoder", "reason.classify"},
            set(),
        ),
    ],
)
def test_a_variant_has_the_modules_that_its_switches_name_and_no_other(small, variant, modules, heads):
    network, objective = make(small, variant)
    assert parts(network) == modules
    assert parts(objective) == heads
    literal = {f"{level.split('.')[0]}.stack" for level in heads}
    literal |= (
        {"ire.project"} if any(head.startswith("ire") for head in heads) else set()
    )  # m is narrower than the stack
    assert parts(make(small, variant, "literal")[1]) == heads | literal


def test_attention_over_pairs_on_the_path_is_of_the_network(small):
    network, objective = make(small, "rmlr", "literal, on path")
    assert parts(network) == WHOLE | {"describe.attention", "reason.attention"}
    assert parts(objective) == {"irm.sentence", "irm.word", "ire.sentence", "ire.word"}
    assert parts(make(small, "wo_rm", "literal, on path")[0]) == COMMON | {"describe.context", "reason.attention"}


def test_attention_on_the_path_changes_cues_and_reasoned_pairs_before_they_are_read(small):
    network, _ = make(small, "rmlr", "literal, on path")
    batch = small.batch()
    output = network.eval()(batch)
    layout = Layout.of_rows(output.pairs.image, len(batch.image_ids))
    assert torch.equal(
        output.cues, network.describe.attention(network.describe.ire(batch, output.pairs, layout), layout)
    )
    described, _ = network.describe(batch, output.pairs, layout)
    assert torch.equal(output.reasoned, network.reason.attention(network.reason.encoder(described, layout), layout))
    assert torch.equal(output.logits, network.reason.classify(output.reasoned))


def test_the_path_needs_the_literal_form():
    with pytest.raises(ValidationError, match="on_path needs form: literal"):
        Alignment(form="anchored", residual=False, whiten=True, stack=SIZES, on_path=True)


def test_each_switch_of_the_table_adds_its_input_to_h(small):
    widths = [make(small, name)[0].describe.fuse[0].in_features for name in ("plain_tokens", "plain", "wo_cl")]
    assert [b - a for a, b in pairwise(widths)] == [NETWORK.feature_dim, NETWORK.feature_dim]


def test_the_two_levels_share_no_weight(small):
    _, objective = make(small, "rmlr", "literal")
    irm, ire = ({id(p) for p in level.parameters()} for level in (objective.irm, objective.ire))
    assert not irm & ire


@pytest.mark.parametrize("variant", VARIANTS)
def test_images_are_seen_together_as_they_are_alone(small, variant):
    network, _ = make(small, variant)
    batch = small.batch([0, 0, 1, 2], [1], [0, 2], [0, 0, 0])
    together = network(batch)
    start = 0
    for image in range(4):
        alone = network(small.image_of(batch, image))
        own = slice(start, start + len(alone.pairs))
        start += len(alone.pairs)
        torch.testing.assert_close(together.logits[own], alone.logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(together.reasoned[own], alone.reasoned, atol=1e-5, rtol=1e-5)
        if together.cues is not None:
            torch.testing.assert_close(together.cues[own], alone.cues, atol=1e-5, rtol=1e-5)
    assert start == len(together.pairs)


@pytest.mark.parametrize("variant", ["boxes", "plain", "pose", "rmlr"])
def test_a_larger_canvas_changes_nothing(small, variant):
    network, _ = make(small, variant)
    batch = small.batch([0, 0, 1], [0, 2])
    padded = small.on_larger_canvas(batch, 2, 3)
    torch.testing.assert_close(network(padded).logits, network(batch).logits, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("images", [[[]], [[], [1]], [[0], [0, 1], []]])
def test_images_without_pairs_pass_both_ways(small, variant, form, images):
    network, objective = make(small, variant, form)
    batch = small.batch(*images)
    rows = [(1, 0, 2)] if len(images) == 3 else []
    terms = objective(network(batch), batch, small.truth(batch, *rows), small.text())
    total = terms.total(LOSSES, 1, 1)
    total.backward()
    assert total.isfinite()
    assert (total > 0) == bool(rows)
    for name, parameter in [*network.named_parameters(), *objective.named_parameters()]:
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_a_batch_without_an_instance_has_no_output_row(small):
    network, _ = make(small, "rmlr")
    output = network(small.batch([], []))
    assert output.logits.shape == (0, 3)
    assert output.reasoned.shape == (0, 8)


def aligned_only(small, variant: str, form: str, names: list[str]):
    """Parts of the network that the gradient of some alignment terms reaches."""
    network, objective = make(small, variant, form)
    batch = small.batch([0, 0, 1, 2], [0, 2], [0, 1])
    truth = small.truth(batch, (0, 0, 2), (1, 2, 3), (4, 0, 5), (6, 1, 7))
    terms = objective(network(batch), batch, truth, small.text())
    for name in ("irm_sentence", "irm_word", "ire_sentence", "ire_word"):
        assert (getattr(terms, name) is not None) == getattr(VARIANTS[variant], name)
    sum(getattr(terms, name).loss for name in names).backward()
    reached = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    return {".".join(name.split(".")[:2]) for name in reached}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["ire_sentence", "ire_word"])
def test_text_teaches_the_cues_and_nothing_behind_them(small, form, name):
    path = {"describe.attention"} if "path" in form else set()
    assert aligned_only(small, "wo_irm_kt", form, [name]) == {"describe.ire"} | path


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["irm_sentence", "irm_word"])
def test_text_trains_all_modules_before_o_but_not_the_classifier(small, form, name):
    path = {"describe.attention", "reason.attention"} if "path" in form else set()
    assert aligned_only(small, "wo_ire_kt", form, [name]) == WHOLE - {"reason.classify"} | path
    expected = COMMON - {"reason.classify"} | {"describe.context"} | path - {"describe.attention"}
    assert aligned_only(small, "wo_rm", form, [name]) == expected


def test_a_few_steps_overfit_the_batch(small):
    network, objective = make(small, "rmlr")
    batch = small.batch([0, 0, 1, 2], [0, 2], [0, 1])
    certain = replace(batch.instances, scores=torch.ones(8))  # a prior below 1 bounds what can be learnt
    batch = replace(batch, instances=certain)
    truth = small.truth(batch, (0, 0, 2), (1, 2, 3), (4, 0, 5), (6, 1, 7))
    optimiser = torch.optim.Adam([*network.parameters(), *objective.parameters()], 0.01)
    history = []
    for _ in range(60):
        terms = objective(network(batch), batch, truth, None)
        history.append(terms)
        optimiser.zero_grad()
        terms.total(LOSSES, terms.counts.positives.clamp(min=1), terms.counts.rows.clamp(min=1)).backward()
        optimiser.step()
    assert history[-1].hoi < 0.3 * history[0].hoi
    assert history[-1].irm_word.loss < history[-1].irm_word.object_floor


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("is_exact_objective", [True, False])
def test_bfloat16_gives_equal_results_up_to_its_precision(small, form, is_exact_objective):
    network, objective = make(small, "rmlr", form)
    batch = small.batch([0, 0, 1, 2], [], [0, 1])
    truth = small.truth(batch, (0, 0, 2), (4, 1, 5))
    exact = objective(network(batch), batch, truth, small.text()).total(LOSSES, 1, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = network(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=not is_exact_objective):
        total = objective(output, batch, truth, small.text()).total(LOSSES, 1, 1)
    total.backward()
    assert output.logits.dtype == torch.bfloat16
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, exact, rtol=0.05, atol=0.05)
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)


@pytest.mark.parametrize("variant", ["wo_cl", "rmlr"])
def test_prediction_needs_no_text_and_no_alignment_head(small, variant):
    """wo_cl is rmlr never taught by text: the same network, weight for weight."""
    network, _ = make(small, variant)
    other = build(VARIANTS["wo_cl"], NETWORK, channels=small.channels, token_dim=small.token_dim,
                  vocabulary=small.vocabulary)  # fmt: skip
    other.load_state_dict(network.state_dict(), strict=True)
    batch = small.batch([0, 1])
    assert torch.equal(other(batch).logits, network(batch).logits)


def test_a_variant_trained_with_text_requires_it(small):
    alignment = Alignment(form="anchored", residual=False, whiten=True, stack=SIZES)
    with pytest.raises(ValueError, match="give the text embeddings"):
        build_objective(VARIANTS["rmlr"], NETWORK, alignment, LOSSES, vocabulary=small.vocabulary, text=None,
                        phrase_counts=None)  # fmt: skip


def test_the_papers_sizes_are_the_papers(small):
    network = Network(**STUDY["profiles"]["paper"]["network"])
    with torch.device("meta"):
        module = build(VARIANTS["rmlr"], network, channels=2048, token_dim=256, vocabulary=small.vocabulary)
    shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
    assert shapes["describe.fuse.0.weight"] == (1024, 4 * 512)
    assert shapes["describe.ire.reduce.weight"] == (256, 2048)
    assert shapes["describe.ire.project.0.weight"] == (512, 256)
    assert shapes["reason.encoder.layers.0.expand.weight"] == (2048, 1024)
    assert shapes["reason.classify.weight"] == (3, 1024)
    assert "describe.ire.encoder.layers.1.mix.weight" in shapes
    assert "reason.encoder.layers.1.mix.weight" not in shapes


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        (VARIANTS["wo_rm"], {"ire_word": True}, "they need ire"),
        (VARIANTS["boxes"], {"global_context": True}, "its switches must be false"),
        (NETWORK, {"pair_dim": 16}, "must equal pair_dim"),
        (NETWORK, {"ire": SIZES | {"dim": 6}}, "must be a multiple of 4"),
        (NETWORK, {"ire": SIZES | {"heads": 3}}, "cannot be shared evenly"),
    ],
)
def test_settings_that_fit_no_network_are_refused(section, changes, message):
    with pytest.raises(ValidationError, match=message):
        type(section)(**section.model_dump() | changes)
