"""UPT's interaction head, against its equations written out head by head and branch by branch, one image at a time."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from rmlr.hoi.batch import Instances
from rmlr.model.network import build, build_objective
from rmlr.model.pairs import Pairs, enumerate_pairs, pair_geometry
from rmlr.model.transformer import Layout
from rmlr.model.upt import VCOCO_VERBS, CompetitiveLayer, Neighbours, load_upt_weights
from rmlr.study.settings import Alignment, Losses, Network, TransformerSizes, Upt, Variant

from ..upt_layout import random_head

UPT = Upt(code_dims=[7, 6], dim=8, layers=2, heads=2, ffn_dim=12, dropout=0.1)
UNUSED = TransformerSizes(layers=1, dim=8, heads=2, ffn_dim=8, dropout=0.0)
NETWORK = Network(pool="covered", feature_dim=4, ire=UNUSED, pair_dim=8, irm=UNUSED, upt=UPT)
SWITCHES = dict.fromkeys("global_context ire pose ire_sentence ire_word irm_sentence irm_word".split(), False)  # noqa: SIM905
VARIANT = Variant(network="upt", **SWITCHES)
LOSSES = Losses(
    focal_balance=0.5, focal_gamma=0.2, hoi=2.0, irm_sentence=1.0, irm_word=1.0, ire_sentence=0.1, ire_word=0.1
)
BRANCHES = 4  # of the checkpoints here: the published ones have 16
IMAGES = ([0, 0, 1, 2], [], [1], [0], [2, 1], [0, 2], [0, 0, 0])


def make(small, vocabulary=None):
    torch.manual_seed(0)
    sizes = {"channels": small.channels, "token_dim": small.token_dim}
    return build(VARIANT, NETWORK, **sizes, vocabulary=vocabulary or small.vocabulary)


VERBS = tuple(VCOCO_VERBS.split(", "))


def vcoco_vocabulary(small, verbs=VERBS):
    return replace(small.vocabulary, verbs=verbs, hois=tuple((verb, 1) for verb in range(len(verbs))))


@pytest.fixture
def head(small) -> dict[str, torch.Tensor]:
    return random_head(UPT, token=small.token_dim, channels=small.channels, branches=BRANCHES)


@pytest.fixture
def write(tmp_path):
    """Saves tensors of an interaction head in the format of UPT's training, with those of the detector."""

    def save(head: dict, **more):
        path = tmp_path / "upt.pt"
        state = {"detector.class_embed.weight": torch.zeros(2)}
        state |= {f"interaction_head.{name}": tensor for name, tensor in head.items()}
        torch.save({"iteration": 9, "epoch": 1, "model_state_dict": state | more}, path)
        return path

    return save


def written_out(head: dict, tokens, geometry, scene, pairs) -> torch.Tensor:
    """Logits of one image's pairs. `geometry`: n n 36, by sender and receiver; `scene`: the map's mean."""

    def linear(name, rows):
        return rows @ head[f"{name}.weight"].T + head[f"{name}.bias"]

    def norm(name, rows, epsilon):
        return F.layer_norm(rows, rows.shape[-1:], head[f"{name}.weight"], head[f"{name}.bias"], epsilon)

    def feed_forward(name, rows):
        inner = linear(f"{name}.ffn.2", F.gelu(linear(f"{name}.ffn.0", rows)))
        return norm(f"{name}.norm", rows + inner, 1e-12)

    codes = geometry
    for step in (0, 2, 4):
        codes = F.relu(linear(f"spatial_head.{step}", codes))
    if not pairs:
        return torch.zeros(0, len(head["box_pair_predictor.bias"]))
    number, width = len(tokens), UPT.dim // UPT.heads
    for layer in range(UPT.layers):
        stem = f"coop_layer.mod_enc.{layer}"
        unary = F.relu(linear(f"{stem}.unary", tokens)).split(width, dim=-1)
        pairwise = F.relu(linear(f"{stem}.pairwise", codes)).split(width, dim=-1)
        heard = []
        for receiver in range(number):
            messages = []
            for one, (u, p) in enumerate(zip(unary, pairwise, strict=True)):
                seen = [torch.cat([u[i], u[receiver], p[i, receiver]]) for i in range(number)]
                weights = linear(f"{stem}.attn.{one}", torch.stack(seen)).softmax(0)  # n 1
                said = [linear(f"{stem}.message.{one}", u[i] * p[i, receiver]) for i in range(number)]
                messages.append((weights * torch.stack(said)).sum(0))
            heard.append(torch.cat(messages))
        tokens = tokens + linear(f"{stem}.aggregate", F.relu(torch.stack(heard)))
        tokens = feed_forward(f"{stem}.ffn", norm(f"{stem}.norm", tokens, 1e-5))

    def fuse(name, appearance, code):
        branches = [
            linear(
                f"{name}.fc_3.{k}", F.relu(linear(f"{name}.fc_1.{k}", appearance) * linear(f"{name}.fc_2.{k}", code))
            )
            for k in range(BRANCHES)
        ]
        return F.relu(torch.stack(branches).sum(0))

    rows = [
        torch.cat(
            [fuse("mbf", torch.cat([tokens[human], tokens[thing]]), codes[human, thing]),
             fuse("mbf_g", scene, codes[human, thing])]
        )
        for human, thing in pairs
    ]  # fmt: skip
    rows = torch.stack(rows)
    query, key, value = (linear(f"comp_layer.attention.attention.{name}", rows) for name in ("query", "key", "value"))
    width = rows.shape[1] // UPT.heads
    seen = [
        ((q @ k.T) / width**0.5).softmax(-1) @ v
        for q, k, v in zip(query.split(width, 1), key.split(width, 1), value.split(width, 1), strict=True)
    ]
    rows = rows + linear("comp_layer.attention.output.aggregate", torch.cat(seen, dim=1))
    rows = feed_forward("comp_layer.ffn", norm("comp_layer.attention.output.norm", rows, 1e-12))
    return linear("box_pair_predictor", rows)


def test_a_checkpoint_gives_the_logits_of_upts_equations(small, head, write):
    vocabulary = vcoco_vocabulary(small)
    network = make(small, vocabulary).eval()
    network.load_state_dict(load_upt_weights(write(head), vocabulary), strict=True)
    batch = small.batch(*IMAGES)
    output = network(batch)
    expected = []
    for image in range(len(IMAGES)):
        alone = small.image_of(batch, image)
        number = len(alone.instance_image)
        sender, receiver = (index.flatten() for index in torch.meshgrid(*[torch.arange(number)] * 2, indexing="ij"))
        everyone = Pairs(sender, receiver, torch.zeros_like(sender))
        geometry = pair_geometry(alone, everyone).reshape(number, number, 36)
        pairs = [(h, o) for h in range(number) for o in range(number) if h != o and IMAGES[image][h] == small.person]
        scene = alone.maps[0].mean((1, 2))
        expected.append(written_out(head, alone.instances.tokens, geometry, scene, pairs))
    torch.testing.assert_close(output.logits, torch.cat(expected), atol=1e-5, rtol=1e-5)
    assert output.logits.std() > 0.3  # the numbers are not small by themselves
    assert output.cues is None
    assert output.reasoned.shape == (13, 2 * UPT.dim)


def test_every_tensor_of_a_checkpoint_is_used(small, head, write):
    vocabulary = vcoco_vocabulary(small)
    before = load_upt_weights(write(head), vocabulary)
    for name, tensor in head.items():
        after = load_upt_weights(write(head | {name: tensor + 1}), vocabulary)
        changed = [ours for ours in before if not torch.equal(before[ours], after[ours])]
        assert len(changed) == 1, name
    assert sum(map(torch.numel, before.values())) == sum(map(torch.numel, head.values())) - 2 * (BRANCHES - 1) * UPT.dim


def test_verbs_are_brought_into_our_order_by_name(small, head, write):
    path, known = write(head), vcoco_vocabulary(small)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0)).tolist()
    other = vcoco_vocabulary(small, tuple(known.verbs[verb] for verb in order))
    batch = small.batch(*IMAGES)
    logits = []
    for vocabulary in (known, other):
        network = make(small, vocabulary).eval()
        network.load_state_dict(load_upt_weights(path, vocabulary))
        logits.append(network(batch).logits)
    torch.testing.assert_close(logits[1], logits[0][:, order])


def test_the_verbs_of_hicodet_are_alphabetical(small, head, write):
    verbs = tuple(f"verb {letter}" for letter in "xwvutsrqponmlkjihgfedcba")
    vocabulary = replace(vcoco_vocabulary(small, verbs), dataset="hicodet")
    rows = load_upt_weights(write(head), vocabulary)["reason.classify.weight"]
    assert torch.equal(rows, head["box_pair_predictor.weight"].flip(0))


@pytest.mark.parametrize(
    "name",
    [
        "box_pair_predictor.bias",
        "spatial_head.2.weight",
        "coop_layer.mod_enc.0.unary.weight",
        "coop_layer.mod_enc.1.attn.0.weight",
        "coop_layer.mod_enc.1.message.1.bias",
        "mbf.fc_2.1.weight",
        "mbf_g.fc_3.3.bias",
        "comp_layer.attention.attention.key.weight",
    ],
)
def test_a_checkpoint_with_a_missing_tensor_is_refused(small, head, write, name):
    path = write({other: tensor for other, tensor in head.items() if other != name})
    with pytest.raises(ValueError, match=rf"upt\.pt: .*1 tensor\(s\) lack \({name}\)"):
        load_upt_weights(path, vcoco_vocabulary(small))


@pytest.mark.parametrize(
    "name",
    ["mbf.fc_4.0.weight", "coop_layer.mod_enc.3.unary.weight", "comp_layer.norm.weight", "mbf.fc_1.9.bias", "new.bias"],
)
def test_a_checkpoint_in_which_a_tensor_is_left_over_is_refused(small, head, write, name):
    with pytest.raises(ValueError, match=rf"0 tensor\(s\) lack and 1 are left over \({name}\)"):
        load_upt_weights(write(head | {name: torch.zeros(1)}), vcoco_vocabulary(small))


def test_a_tensor_of_another_shape_is_refused(small, head, write):
    head["mbf.fc_1.2.weight"] = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"upt\.pt: tensors of UPT's mbf\.fc_1\.0 and its like do not fit together"):
        load_upt_weights(write(head), vcoco_vocabulary(small))


def test_a_number_that_is_not_finite_is_named(small, head, write):
    head["box_pair_predictor.bias"] = torch.full_like(head["box_pair_predictor.bias"], torch.nan)
    with pytest.raises(ValueError, match=r"tensor 'interaction_head\.box_pair_predictor\.bias' holds nan at \[0\]"):
        load_upt_weights(write(head), vcoco_vocabulary(small))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 1}, "expected UPT's 'model_state_dict' of tensors, found epoch"),
        ([1], "expected UPT's 'model_state_dict' of tensors, found list"),
        ({"model_state_dict": {"interaction_head.a": 1}}, "expected UPT's 'model_state_dict' of tensors"),
        ({"model_state_dict": {"backbone.conv1": torch.zeros(1)}}, r"found \(backbone.conv1\)"),
        ({"model_state_dict": {"detector.a": torch.zeros(1)}}, r"lack \(.*Is it a checkpoint of fredzzhang/upt"),
        ({"model_state_dict": {}}, r"lack \("),
    ],
)
def test_what_is_no_checkpoint_of_upts_is_refused(small, tmp_path, content, message):
    path = tmp_path / "other.pt"
    torch.save(content, path)
    with pytest.raises(ValueError, match=rf"other\.pt: .*{message}"):
        load_upt_weights(path, vcoco_vocabulary(small))


def test_a_file_that_cannot_be_read_is_refused(small, head, write, tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.pt: cannot be read .*No such file.*Does it exist"):
        load_upt_weights(tmp_path / "nowhere.pt", vcoco_vocabulary(small))
    whole = write(head).read_bytes()
    for content in (b"", b"<html>quota exceeded</html>", whole[: len(whole) // 2]):
        path = tmp_path / "damaged.pt"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"damaged\.pt: cannot be read as a checkpoint .*is it whole"):
            load_upt_weights(path, vcoco_vocabulary(small))


def test_a_checkpoint_for_other_verbs_is_refused(small, head, write):
    path = write(head)
    with pytest.raises(ValueError, match="24 verbs, but hicodet has 3"):
        load_upt_weights(path, replace(small.vocabulary, dataset="hicodet"))
    with pytest.raises(ValueError, match=r"others \(fly obj, hold obj, point instr\)"):
        load_upt_weights(path, vcoco_vocabulary(small, ("fly obj", *VERBS[1:], "point instr")))


def test_neighbours_are_all_ordered_pairs_and_know_where_the_candidates_stand(small):
    batch = small.batch(*IMAGES)
    neighbours, pairs = Neighbours.of(batch), enumerate_pairs(batch, small.person)
    assert len(neighbours.pairs) == sum(len(labels) ** 2 for labels in IMAGES)
    rows = neighbours.rows_of(pairs)
    for name in ("human", "object", "image"):
        assert torch.equal(getattr(neighbours.pairs, name)[rows], getattr(pairs, name))


def test_the_order_of_the_instances_does_not_matter(small):
    network = make(small).eval()
    batch = small.batch([0, 0, 1, 2], [0, 2, 1])
    order = torch.tensor([2, 0, 3, 1, 6, 5, 4])  # people are no longer first
    instances = Instances(*(getattr(batch.instances, name)[order] for name in Instances.__slots__))
    shuffled = replace(batch, instances=instances)

    def by_pair(output, index):
        logits = output.logits.tolist()
        return {(index[h], index[o]): row for h, o, row in zip(output.pairs.human.tolist(),
                output.pairs.object.tolist(), logits, strict=True)}  # fmt: skip

    before, after = by_pair(network(batch), list(range(7))), by_pair(network(shuffled), order.tolist())
    assert before.keys() == after.keys()
    for pair, row in before.items():
        assert after[pair] == pytest.approx(row, abs=1e-5)


def test_other_instances_of_the_image_change_the_logits_of_a_pair(small):
    network = make(small).eval()
    batch = small.batch([0, 1, 2])
    tokens = batch.instances.tokens.clone()
    tokens[2] += 1  # of the kite, which is not in the pair of person and ball
    other = replace(batch, instances=replace(batch.instances, tokens=tokens))
    network.reason.layer = torch.nn.Identity()  # pairs no longer see each other; only instances do
    network.reason.forward = lambda rows, layout: (rows, network.reason.classify(rows))
    assert not torch.allclose(network(batch).logits[0], network(other).logits[0], atol=1e-4)


def test_a_larger_canvas_changes_nothing(small):
    network = make(small).eval()
    batch = small.batch([0, 0, 1], [0, 2])
    padded = small.on_larger_canvas(batch, 2, 3)
    torch.testing.assert_close(network(padded).logits, network(batch).logits, atol=1e-5, rtol=1e-4)


def test_boxes_without_area_give_numbers(small):
    network = make(small)
    batch = small.batch([0, 1, 2])
    boxes = batch.instances.boxes.clone()
    boxes[1:, 2:] = boxes[1:, :2]
    logits = network(replace(batch, instances=replace(batch.instances, boxes=boxes))).logits
    logits.sum().backward()
    assert logits.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


@pytest.mark.parametrize("images", [[[]], [[], []]])
def test_a_batch_without_an_instance_has_no_output_row(small, images):
    output = make(small)(small.batch(*images))
    assert output.logits.shape == (0, 3)
    assert output.reasoned.shape == (0, 2 * UPT.dim)


def test_dropout_acts_in_training_only(small):
    network, batch = make(small), small.batch([0, 0, 1, 2])
    assert not torch.equal(network(batch).logits, network(batch).logits)
    network.eval()
    assert torch.equal(network(batch).logits, network(batch).logits)


def test_bfloat16_gives_equal_results_up_to_its_precision(small):
    network = make(small).eval()
    batch = small.batch([0, 0, 1, 2], [], [0, 1])
    exact = network(batch).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(batch).logits
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), exact, rtol=0.05, atol=0.05)
    logits.float().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


def test_a_few_steps_overfit_the_batch(small):
    network = make(small).eval()  # no dropout
    alignment = Alignment(form="anchored", residual=False, whiten=True, stack=UNUSED)
    objective = build_objective(
        VARIANT, NETWORK, alignment, LOSSES, vocabulary=small.vocabulary, text=None, phrase_counts=None
    )
    assert not list(objective.parameters())
    batch = small.batch([0, 0, 1, 2], [0, 2], [0, 1])
    batch = replace(batch, instances=replace(batch.instances, scores=torch.ones(8)))  # a prior below 1 is a bound
    truth = small.truth(batch, (0, 0, 2), (1, 2, 3), (4, 0, 5), (6, 1, 7))
    optimiser = torch.optim.Adam(network.parameters(), 0.02)
    history = []
    for _ in range(40):
        terms = objective(network(batch), batch, truth, None)
        history.append(terms.hoi.item())
        optimiser.zero_grad()
        terms.total(LOSSES, terms.counts.positives, 1).backward()
        optimiser.step()
    assert history[-1] < 0.3 * history[0]


def test_the_fusion_starts_as_wide_as_its_sixteen_branches(small):
    network = build(
        VARIANT,
        NETWORK.model_copy(update={"upt": UPT.model_copy(update={"dim": 256})}),
        channels=small.channels,
        token_dim=small.token_dim,
        vocabulary=small.vocabulary,
    )
    mix = network.describe.fuse_tokens.mix
    assert mix.weight.abs().max().item() == pytest.approx((16 / 256) ** 0.5, rel=1e-3)
    assert mix.bias.std().item() == pytest.approx((16 / 3 * 16 / 256) ** 0.5, rel=0.2)


def test_the_competitive_layer_is_torchs_encoder_layer_except_for_its_epsilon():
    torch.manual_seed(0)
    ours = CompetitiveLayer(8, 2, 12, 0.0)
    theirs = torch.nn.TransformerEncoderLayer(8, 2, 12, 0.0, "gelu", layer_norm_eps=1e-12, batch_first=True)
    names = {
        "self_attn.in_proj_": "to_query_key_value.",
        "self_attn.out_proj.": "mix.",
        "linear1.": "expand.",
        "linear2.": "contract.",
        "norm1.": "attention_norm.",
        "norm2.": "ffn_norm.",
    }
    state = ours.state_dict()
    theirs.load_state_dict({a + kind: state[b + kind] for a, b in names.items() for kind in ("weight", "bias")})
    layout = Layout.of_rows(torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2]), 3)
    rows = torch.randn(9, 8)
    torch.testing.assert_close(ours(rows, layout), theirs(rows.view(3, 3, 8)).flatten(0, 1), atol=1e-6, rtol=1e-5)


def test_settings_that_fit_no_baseline_are_refused(small):
    sizes = {"channels": small.channels, "token_dim": small.token_dim, "vocabulary": small.vocabulary}
    with pytest.raises(ValueError, match=r"give network\.upt"):
        build(VARIANT, NETWORK.model_copy(update={"upt": None}), **sizes)
    with pytest.raises(ValueError, match="without any part of RmLR"):
        Variant(network="upt", **SWITCHES | {"global_context": True})
    with pytest.raises(ValueError, match="dim 9 cannot be shared evenly by 2 heads"):
        Upt(**UPT.model_dump() | {"dim": 9})
