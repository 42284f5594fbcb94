"""The trainer: what it computes, what it survives. Run as a script, this file is one process of a training run."""

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rmlr.hoi import Vocabulary
from rmlr.hoi.batch import Batch, Instances, Truth
from rmlr.learning import pauses
from rmlr.learning.learner import Head
from rmlr.learning.loops import cosine_schedule, load_resume, reproducible, save_resume
from rmlr.learning.trainer import fit
from rmlr.model.losses import means
from rmlr.model.network import build, build_objective
from rmlr.model.text import OBJECT, SUBJECT, VERB, TextEmbeddings
from rmlr.study.run import Record, seed_everything
from rmlr.study.settings import Alignment, Losses, Network, Train, TransformerSizes, Variant

NOTHING_DONE = {0, 4, 8, 9}  # positions of images without an interaction; that at 8 shows a person alone
IMAGES, CHANNELS, TOKEN_DIM, TEXT_DIM = 10, 6, 5, 7
VOCABULARY = Vocabulary("vcoco", ("person", "ball"), 0, ("hold obj", "throw obj"), ((0, 1), (1, 1)))
LOSSES = Losses(
    focal_balance=0.5, focal_gamma=0.2, hoi=2.0, irm_sentence=1.0, irm_word=1.0, ire_sentence=0.1, ire_word=0.1
)
SCHEDULE = Train(
    split="train",
    share=1.0,
    epochs=3,
    batch_size=4,
    micro_batch_size=4,
    learning_rate=1e-2,
    weight_decay=1e-4,
    clip_norm=0.1,
    precision="fp32",
)


def changed(**values) -> Train:
    return SCHEDULE.model_copy(update=values)


class World:
    """Ten images of a person and two balls, the first of which is thrown where its token says so.

    Images differ in how many interactions are annotated, so that rows are dealt unevenly.
    """

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        boxes = torch.tensor([[4.0, 4.0, 40.0, 40.0], [30.0, 30.0, 50.0, 50.0], [0.0, 40.0, 20.0, 60.0]])
        self.boxes = boxes + 4 * torch.rand(IMAGES, 3, 4, generator=generator)
        self.tokens = torch.randn(IMAGES, 3, TOKEN_DIM, generator=generator)
        self.maps = torch.randn(IMAGES, CHANNELS, 4, 4, generator=generator)
        self.asked: list[list[int]] = []

    def load(self, positions: list[int], epoch: int = 0) -> tuple[Batch, Truth]:
        self.asked.append(positions)
        number = len(positions)
        kept = torch.tensor([[position != 8 or instance == 0 for instance in range(3)] for position in positions])
        batch = Batch(
            image_ids=100 + torch.tensor(positions),
            maps=self.maps[positions],
            is_padding=torch.zeros(number, 4, 4, dtype=torch.bool),
            cell_sizes=torch.full((number, 2), 16.0),
            image_sizes=torch.full((number, 2), 64.0),
            instances=Instances(
                self.boxes[positions][kept],
                torch.full((int(kept.sum()),), 0.9),
                torch.tensor([0, 1, 1]).expand(number, 3)[kept],
                self.tokens[positions][kept],
            ),
            instance_image=kept.nonzero()[:, 0],
        )
        rows = [
            (position, at, ball, verb)
            for at, position in enumerate(positions)
            for ball, verb in ((1, int(self.tokens[position, 1, 0] > 0)), (2, 0), (2, 1))[: position % 4]
            if position < IMAGES - 1
        ]
        where, at, ball, verb = torch.tensor(rows, dtype=torch.long).reshape(-1, 4).unbind(1)
        return batch, Truth(self.boxes[where, 0], self.boxes[where, ball], verb, torch.ones_like(verb), at)


class FromWorld:
    """What `fit` asks of examples."""

    def __init__(self, load, number=IMAGES):
        self.load, self.number = load, number

    def __len__(self):
        return self.number

    def see(self, loaded, device):
        return loaded


def make_text() -> TextEmbeddings:
    generator = torch.Generator().manual_seed(1)
    return TextEmbeddings(
        encoder="random",
        model="random",
        revision=None,
        digest="",
        cut=0,
        phrases=["person hold ball", "person throw ball"],
        sentences=torch.randn(2, TEXT_DIM, generator=generator),
        phrase_of=torch.tensor([[-1, 0], [-1, 1]]),
        phrase_words=torch.randn(6, TEXT_DIM, generator=generator),
        phrase_offsets=torch.tensor([0, 3, 6]),
        phrase_parts=torch.tensor([SUBJECT, VERB, OBJECT] * 2),
        text_words=torch.randn(4, TEXT_DIM, generator=generator),
        text_offsets=torch.tensor([0, 4]),
        image_ids=100 + torch.arange(IMAGES),
        text_of_image=torch.zeros(IMAGES, dtype=torch.long),
    )


def make_modules(dropout: float = 0.1, form: str = "literal"):
    """The whole RmLR, tiny, from a fixed seed."""
    variant = Variant(
        network="rmlr",
        global_context=True,
        ire=True,
        pose=False,
        ire_sentence=True,
        ire_word=True,
        irm_sentence=True,
        irm_word=True,
    )
    sizes = TransformerSizes(layers=1, dim=8, heads=2, ffn_dim=8, dropout=dropout)
    network = Network(pool="covered", feature_dim=8, ire=sizes, pair_dim=8, irm=sizes)
    alignment = Alignment.model_validate({"form": form, "residual": False, "whiten": True, "stack": sizes})
    seed_everything(0)
    text = make_text()
    return build(variant, network, channels=CHANNELS, token_dim=TOKEN_DIM, vocabulary=VOCABULARY), build_objective(
        variant, network, alignment, LOSSES, vocabulary=VOCABULARY, text=text, phrase_counts=torch.tensor([1, 1])
    )


def head_of(network, objective, record: Record, schedule: Train = SCHEDULE, identity: str = "this") -> Head:
    return Head(
        network=network,
        objective=objective,
        text=make_text(),
        schedule=schedule,
        weights=LOSSES,
        means=means,
        record=record,
        identity=identity,
    )


def train(
    folder: Path,
    schedule: Train = SCHEDULE,
    *,
    load=None,
    dropout=0.1,
    identity="this",
    modules=None,
    record=None,
    held_out=None,
):
    """Curves, and the bytes of all weights."""
    network, objective = modules or make_modules(dropout)
    head = head_of(network, objective, record or Record("train", folder, folder / "resume"), schedule, identity)
    rows = fit(replace(head, held_out=held_out), FromWorld(load or World().load), seed=0)
    weights = {f"{name}.{key}": value for name, module in [("network", network), ("objective", objective)]
               for key, value in module.state_dict().items()}  # fmt: skip
    return rows, weights


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ---- learning


def test_losses_fall_and_every_term_has_its_curve(tmp_path):
    rows, _ = train(tmp_path, changed(epochs=20))
    assert len(rows) == 20
    for term in ("hoi", "irm_sentence", "irm_word", "ire_sentence", "ire_word"):
        assert rows[-1][term] < rows[0][term]
    assert {"gradient_norm", "irm_word_spread", "irm_sentence_gain"} <= rows[0].keys()


def test_each_epoch_is_told_to_the_record_as_a_step(tmp_path):
    told = []

    class Telling(Record):
        def log_metrics(self, metrics, *, step=None):
            told.append((step, metrics["hoi"]))

    rows, _ = train(tmp_path, record=Telling("train", tmp_path, tmp_path / "resume"))
    assert told == [(epoch, row["hoi"]) for epoch, row in enumerate(rows, start=1)]


def test_the_same_seed_gives_the_same_weights(tmp_path):
    assert same(train(tmp_path / "a")[1], train(tmp_path / "b")[1])


def test_an_epoch_shows_every_image_and_fills_its_last_batch_from_its_start(tmp_path):
    world = World()
    train(tmp_path, changed(epochs=2), load=world.load)
    first, second = ([*chain(*world.asked[steps])] for steps in (slice(3), slice(3, 6)))
    assert sorted(first[:IMAGES]) == sorted(second[:IMAGES]) == list(range(IMAGES))
    assert first[IMAGES:] == first[:2]
    assert first != second


def test_frozen_parameters_do_not_change_and_are_not_optimised(tmp_path):
    network, objective = make_modules()
    frozen = network.reason.classify.requires_grad_(False)
    before = frozen.weight.clone()
    train(tmp_path, modules=(network, objective))
    assert torch.equal(frozen.weight, before)
    state = torch.load(tmp_path / "resume" / "epoch.pt", weights_only=True)
    trainable = [p for module in (network, objective) for p in module.parameters() if p.requires_grad]
    assert len(state["optimiser"]["state"]) == len(trainable)


def test_numbers_are_the_same_every_time_on_several_threads_too():
    """Where gradients of many rows are added up, the order of which torch leaves to chance by default."""
    generator = torch.Generator().manual_seed(0)
    index, weights = torch.randint(0, 120, (900,), generator=generator), torch.randn(900, 512, generator=generator)

    def gradient():
        rows = torch.zeros(120, 512, requires_grad=True)
        (rows[index] * weights).sum().backward()
        return rows.grad

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with reproducible():
            first = gradient()
            assert all(torch.equal(gradient(), first) for _ in range(20))
    finally:
        torch.set_num_threads(threads)


def test_training_uses_deterministic_algorithms_and_restores_torchs_setting(tmp_path):
    asked, world = [], World()

    def load(positions, epoch):
        asked.append(torch.are_deterministic_algorithms_enabled())
        return world.load(positions)

    train(tmp_path, changed(epochs=1), load=load)
    assert asked == [True] * 3
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("form", ["literal", "anchored"])
def test_a_collapse_shows_in_the_curve_of_the_spread(tmp_path, form):
    """Read literally, the word term is met by rows that no longer differ; anchored ones keep apart."""
    schedule = changed(epochs=30, learning_rate=3e-2, clip_norm=1.0)
    rows, _ = train(tmp_path, schedule, modules=make_modules(0.0, form))
    for name in ("ire_word_spread", "irm_word_spread"):
        left = rows[-1][name] / rows[0][name]
        assert left < 0.1 if form == "literal" else left > 0.5


def test_bfloat16_learns_like_float32_and_keeps_float32_weights(tmp_path):
    rows, weights = train(tmp_path / "a", changed(precision="bf16"), dropout=0.0)
    exact, _ = train(tmp_path / "b", dropout=0.0)
    assert rows[-1]["hoi"] == pytest.approx(exact[-1]["hoi"], rel=0.05)
    assert rows[-1]["hoi"] != exact[-1]["hoi"]
    assert {value.dtype for value in weights.values()} == {torch.float32}


# ---- the effective batch


WHOLE = changed(epochs=1, batch_size=12, micro_batch_size=12, clip_norm=1e9)  # one step, nothing clipped
TERMS = ("hoi", "irm_sentence", "irm_word", "ire_sentence", "ire_word", "gradient_norm")


def gradients(folder: Path) -> list[torch.Tensor]:
    """Of a run whose learning rate is next to 0 or that takes one step: the weighted mean over its steps."""
    state = torch.load(folder / "resume" / "epoch.pt", weights_only=True)["optimiser"]["state"]
    return [state[parameter]["exp_avg"] for parameter in sorted(state)]


@pytest.mark.parametrize("micro_batch_size", [1, 2, 4])
def test_accumulated_micro_batches_give_the_gradient_of_the_whole_batch(tmp_path, micro_batch_size):
    whole_row = train(tmp_path / "whole", WHOLE, dropout=0.0)[0][0]
    parts = WHOLE.model_copy(update={"micro_batch_size": micro_batch_size})
    row = train(tmp_path / "parts", parts, dropout=0.0)[0][0]
    for part, whole in zip(gradients(tmp_path / "parts"), gradients(tmp_path / "whole"), strict=True):
        torch.testing.assert_close(part, whole, atol=1e-6, rtol=1e-4)
    assert {term: row[term] for term in TERMS} == pytest.approx({term: whole_row[term] for term in TERMS}, rel=1e-4)


def test_a_launchers_idea_of_accumulation_changes_nothing(tmp_path, monkeypatch):
    whole_row = train(tmp_path / "whole", WHOLE, dropout=0.0)[0][0]
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    assert train(tmp_path / "told", WHOLE, dropout=0.0)[0][0] == whole_row


def test_accumulation_in_bfloat16_gives_the_losses_of_the_whole_batch(tmp_path):
    schedule = WHOLE.model_copy(update={"precision": "bf16"})
    whole_row = train(tmp_path / "whole", schedule, dropout=0.0)[0][0]
    row = train(tmp_path / "parts", schedule.model_copy(update={"micro_batch_size": 2}), dropout=0.0)[0][0]
    assert {term: row[term] for term in TERMS} == pytest.approx({term: whole_row[term] for term in TERMS}, rel=0.02)


def test_two_processes_give_the_gradients_of_one_with_the_whole_batch(tmp_path):
    """Also where one has no pair, no positive and no row in a step, and the other has."""
    whole = changed(epochs=2, batch_size=2, micro_batch_size=2, clip_norm=1e9, learning_rate=1e-12)  # weights stay
    part = whole.model_copy(update={"micro_batch_size": 1})
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    rendezvous = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(tmp_path / rank), part.model_dump_json()],
            env=os.environ | rendezvous | {"RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in "01"
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    folders = [tmp_path / rank for rank in "01"]
    asked = [json.loads((folder / "asked.json").read_text()) for folder in folders]
    idle = [[position in NOTHING_DONE for [position] in positions] for positions in asked]
    assert any(one != other for one, other in zip(*idle, strict=True))
    assert [8] in chain(*asked)
    whole_rows, _ = train(tmp_path / "whole", whole, dropout=0.0)
    for found, expected in zip(gradients(folders[0]), gradients(tmp_path / "whole"), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)
    assert same(*(load_file(folder / "weights.safetensors") for folder in folders))
    assert not (folders[1] / "resume").exists()  # the first process writes
    for folder in folders:
        for row, whole_row in zip(json.loads((folder / "curves.json").read_text()), whole_rows, strict=True):
            names = [name for name in whole_row if "spread" not in name]  # a spread is that of a micro-batch
            assert {name: row[name] for name in names} == pytest.approx(
                {name: whole_row[name] for name in names}, rel=1e-4, abs=1e-6
            )


@pytest.mark.parametrize("sizes", [{"micro_batch_size": 3}, {"micro_batch_size": 8}])
def test_an_effective_batch_that_cannot_be_reached_is_an_error(tmp_path, sizes):
    with pytest.raises(ValueError, match=r"batch_size 4 is not a multiple of 1 process\(es\) x micro_batch_size"):
        train(tmp_path, changed(**sizes))


def test_no_image_at_all_is_an_error(tmp_path):
    network, objective = make_modules()
    record = Record("train", tmp_path, tmp_path / "resume")
    with pytest.raises(ValueError, match="no image to train on"):
        fit(head_of(network, objective, record), FromWorld(World().load, 0), seed=0)


def test_batches_without_any_true_pair_train_without_a_crash(tmp_path):
    world = World()
    rows, weights = train(tmp_path, load=lambda positions, epoch: world.load([IMAGES - 1] * len(positions)))
    assert rows[-1]["irm_word"] == 0
    assert all(torch.isfinite(value).all() for value in weights.values())


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_images(tmp_path):
    world = World()
    world.maps[7] = float("nan")
    with pytest.raises(ValueError, match=r"the loss is nan on images \[.*107.*\]"):
        train(tmp_path, load=world.load)


# ---- interruptions


class Interrupted(Exception):
    pass


def interrupting(at: int, how):
    """A `load` that ends the run at its `at`-th call."""
    world = World()

    def load(positions, epoch):
        if len(world.asked) == at:
            how()
        return world.load(positions)

    return load


def interrupt():
    raise Interrupted


def test_an_interrupted_run_resumes_after_its_last_epoch_to_the_same_bytes(tmp_path):
    rows, weights = train(tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(tmp_path / "broken", load=interrupting(7, interrupt))  # three steps an epoch: in the third
    world = World()
    rows_again, weights_again = train(tmp_path / "broken", load=world.load)
    assert len(world.asked) == 3
    assert rows_again == rows
    assert same(weights_again, weights)


@pytest.mark.parametrize("at", [4, 7, 8])
def test_a_checkpoint_within_an_epoch_is_resumed_to_the_same_bytes(tmp_path, monkeypatch, at):
    """Three steps an epoch, with dropout: all steps before the one that is interrupted are kept."""
    rows, weights = train(tmp_path / "whole")
    monkeypatch.setattr(pauses, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(Interrupted):
        train(tmp_path / "broken", load=interrupting(at, interrupt))
    world = World()
    rows_again, weights_again = train(tmp_path / "broken", load=world.load)
    assert len(world.asked) == 9 - at
    assert rows_again == rows
    assert same(weights_again, weights)


def test_an_epoch_is_kept_before_the_held_out_split_is_scored(tmp_path):
    """What ends the scoring costs the scoring alone."""

    def scored(network, device):
        return {"val/ap": 0.5}

    def ended(network, device):
        raise Interrupted

    schedule = changed(validate_every=1)
    rows, weights = train(tmp_path / "whole", schedule, held_out=scored)
    with pytest.raises(Interrupted):
        train(tmp_path / "broken", schedule, held_out=ended)
    world = World()
    rows_again, weights_again = train(tmp_path / "broken", schedule, load=world.load, held_out=scored)
    assert len(world.asked) == 6
    assert rows_again == rows
    assert same(weights_again, weights)


def test_the_rest_of_an_epoch_may_be_done_by_another_number_of_processes(tmp_path, monkeypatch):
    """Without dropout it gives the same: here the state of two processes, continued by one."""
    rows, weights = train(tmp_path / "whole", dropout=0.0)
    monkeypatch.setattr(pauses, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(Interrupted):
        train(tmp_path / "broken", load=interrupting(7, interrupt), dropout=0.0)
    path = tmp_path / "broken" / "resume" / "epoch.pt"
    state = torch.load(path, weights_only=True)
    [sums], [random] = state["part"]["sums"], state["part"]["random"]
    state["part"] |= {"sums": [{name: value / 2 for name, value in sums.items()}] * 2, "random": [random] * 2}
    torch.save(state, path)
    rows_again, weights_again = train(tmp_path / "broken", dropout=0.0)
    assert rows_again == [pytest.approx(row) for row in rows]
    assert same(weights_again, weights)


def test_a_run_that_was_killed_while_it_wrote_down_an_epoch_loses_that_one_only(tmp_path):
    """The second of three; a kill within an epoch is a test of the stage."""
    command = [sys.executable, __file__, str(tmp_path), SCHEDULE.model_dump_json()]
    environment = {"OMP_NUM_THREADS": str(torch.get_num_threads()), "KILLED_AT": "2"}
    killed = subprocess.run(command, env=os.environ | environment, check=False, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    world = World()
    rows, weights = train(tmp_path, load=world.load, dropout=0.0)
    assert len(world.asked) == 6
    whole_rows, whole = train(tmp_path / "whole", dropout=0.0)
    assert rows == whole_rows
    assert same(weights, whole)


def test_a_finished_run_is_not_trained_again(tmp_path):
    rows, weights = train(tmp_path)
    world = World()
    again = train(tmp_path, load=world.load)
    assert world.asked == []
    assert again[0] == rows
    assert same(again[1], weights)


def test_what_another_run_left_is_not_gone_on_from(tmp_path):
    train(tmp_path, identity="other")
    world = World()
    train(tmp_path, load=world.load)
    assert len(world.asked) == 9


def test_a_resume_file_is_whole_or_not_there(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "state.pt"
    save_resume(path, {"identity": "a", "step": 1})

    def half(state, file):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="disk full"):
        save_resume(path, {"identity": "a", "step": 2})
    assert load_resume(path, identity="a") == {"identity": "a", "step": 1}
    assert load_resume(path, identity="b") is None
    assert load_resume(tmp_path / "nothing.pt", identity="a") is None


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"task": {"w": torch.tensor([0, torch.nan])}}, r"tensor 'task.w' holds nan at [1]"),
        ({"optimiser": [torch.tensor(torch.inf)]}, r"tensor 'optimiser.0' holds inf at []"),
    ],
)
def test_a_resume_file_with_numbers_that_are_not_finite_is_told_and_not_taken(tmp_path, caplog, state, said):
    save_resume(tmp_path / "x.pt", {"identity": "a"} | state)
    assert load_resume(tmp_path / "x.pt", identity="a") is None
    assert said in caplog.text


def test_a_bit_that_flips_in_a_resume_file_is_told_and_the_file_not_taken(tmp_path, caplog):
    path, values = tmp_path / "x.pt", torch.arange(8.0)
    save_resume(path, {"identity": "a", "w": values})
    content = bytearray(path.read_bytes())
    content[content.index(values.numpy().tobytes()) + 5] ^= 1
    path.write_bytes(content)
    assert load_resume(path, identity="a") is None
    assert f"{path}: cannot be read" in caplog.text


@pytest.mark.parametrize("length", [0, 1000, -9])
def test_a_damaged_resume_file_is_named_and_training_starts_again(tmp_path, caplog, length):
    train(tmp_path, changed(epochs=1))
    path = tmp_path / "resume" / "epoch.pt"
    path.write_bytes(path.read_bytes()[:length])
    world = World()
    train(tmp_path, changed(epochs=1), load=world.load)
    assert len(world.asked) == 3
    assert f"{path}: cannot be read" in caplog.text
    assert "Training starts again from the beginning; to keep the epochs that were done" in caplog.text


def test_a_resume_file_that_holds_something_else_is_not_taken(tmp_path):
    torch.save([1, 2], tmp_path / "epoch.pt")
    assert load_resume(tmp_path / "epoch.pt", identity="a") is None


# ---- a held-out split


@pytest.mark.parametrize(("every", "scored"), [(0, []), (1, [1, 2, 3, 4]), (2, [2, 4]), (3, [3, 4])])
def test_the_held_out_split_is_scored_every_few_epochs_and_after_the_last_and_changes_nothing(tmp_path, every, scored):
    def scores(network, device):
        assert not network.training
        torch.rand(3)  # whoever takes a random number here disturbs nobody
        return {"val/ap": network.reason.classify.weight.sum().item()}

    whole, weights = train(tmp_path / "a", changed(epochs=4))
    rows, same_weights = train(tmp_path / "b", changed(epochs=4, validate_every=every), held_out=scores)
    assert [epoch for epoch, row in enumerate(rows, 1) if "val/ap" in row] == scored
    assert [{name: value for name, value in row.items() if name != "val/ap"} for row in rows] == whole
    assert same(weights, same_weights)
    if scored:
        assert rows[-1]["val/ap"] == weights["network.reason.classify.weight"].sum().item()


def test_an_interrupted_run_keeps_the_held_out_curve_whole(tmp_path):
    def scores(network, device):
        return {"val/ap": network.reason.classify.weight.sum().item()}

    schedule = changed(epochs=4, validate_every=1)
    whole, _ = train(tmp_path / "whole", schedule, held_out=scores)
    with pytest.raises(Interrupted):
        train(tmp_path / "cut", schedule, load=interrupting(8, interrupt), held_out=scores)
    rows, _ = train(tmp_path / "cut", schedule, held_out=scores)
    assert rows == whole


# ---- schedule


def test_the_cosine_starts_at_one_and_ends_near_its_floor():
    factors = [cosine_schedule(step, total=100) for step in range(101)]
    assert factors[0] == 1
    assert factors[50] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0)
    assert factors == sorted(factors, reverse=True)


def test_warm_up_rises_to_where_the_cosine_starts():
    factors = [cosine_schedule(step, total=100, warmup=4, floor=0.01) for step in range(101)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors[100] == pytest.approx(0.01)


def dying(at: int, action):
    """`action` until its `at`-th call, which writes one byte and no more."""
    calls = []

    def until(state, file):
        calls.append(None)
        if len(calls) == at:
            file.write(b"h")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        action(state, file)

    return until


if __name__ == "__main__":
    torch.save = dying(int(os.environ.get("KILLED_AT", "0")), torch.save)
    folder, world = Path(sys.argv[1]), World()
    folder.mkdir(exist_ok=True)
    rows, weights = train(folder, Train.model_validate_json(sys.argv[2]), load=world.load, dropout=0.0)
    save_file(weights, folder / "weights.safetensors")
    (folder / "curves.json").write_text(json.dumps(rows))
    (folder / "asked.json").write_text(json.dumps(world.asked))
