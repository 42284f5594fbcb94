"""The trainer: what it computes, what it survives. Run as a script, this file is one process of a training run."""

import json
import os
import signal
import socket
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rmlr.batch import Batch, Instances, Truth
from rmlr.hoi import Vocabulary
from rmlr.model.losses import means
from rmlr.model.network import build, build_objective
from rmlr.model.text import OBJECT, SUBJECT, VERB, TextEmbeddings
from rmlr.run import Record, seed_everything
from rmlr.settings import Alignment, Losses, Network, Train, TransformerSizes, Variant
from rmlr.training import cosine_schedule, fit, load_resume, save_resume

IMAGES, CHANNELS, TOKEN_DIM, TEXT_DIM = 10, 6, 5, 7
VOCABULARY = Vocabulary("vcoco", ("person", "ball"), 0, ("hold obj", "throw obj"), ((0, 1), (1, 1)))
LOSSES = Losses(
    focal_balance=0.5, focal_gamma=0.2, hoi=2.0, irm_sentence=1.0, irm_word=1.0, ire_sentence=0.1, ire_word=0.1
)
SCHEDULE = Train(
    split="train",
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
    """Ten images of a person and two balls each, the first of which is thrown where its token says so.

    Images differ in how many interactions are annotated, the last has none, so that rows are dealt unevenly.
    """

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        boxes = torch.tensor([[4.0, 4.0, 40.0, 40.0], [30.0, 30.0, 50.0, 50.0], [0.0, 40.0, 20.0, 60.0]])
        self.boxes = boxes + 4 * torch.rand(IMAGES, 3, 4, generator=generator)
        self.tokens = torch.randn(IMAGES, 3, TOKEN_DIM, generator=generator)
        self.maps = torch.randn(IMAGES, CHANNELS, 4, 4, generator=generator)
        self.asked: list[list[int]] = []

    def load(self, positions: list[int]) -> tuple[Batch, Truth]:
        self.asked.append(positions)
        number = len(positions)
        image = torch.arange(number).repeat_interleave(3)
        batch = Batch(
            image_ids=100 + torch.tensor(positions),
            maps=self.maps[positions],
            is_padding=torch.zeros(number, 4, 4, dtype=torch.bool),
            cell_sizes=torch.full((number, 2), 16.0),
            image_sizes=torch.full((number, 2), 64.0),
            instances=Instances(
                self.boxes[positions].flatten(0, 1),
                torch.full((3 * number,), 0.9),
                torch.tensor([0, 1, 1]).repeat(number),
                self.tokens[positions].flatten(0, 1),
            ),
            instance_image=image,
        )
        rows = [
            (position, at, ball, verb)
            for at, position in enumerate(positions)
            for ball, verb in ((1, int(self.tokens[position, 1, 0] > 0)), (2, 0), (2, 1))[: position % 4]
            if position < IMAGES - 1
        ]
        where, at, ball, verb = torch.tensor(rows, dtype=torch.long).reshape(-1, 4).unbind(1)
        return batch, Truth(self.boxes[where, 0], self.boxes[where, ball], verb, torch.ones_like(verb), at)


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


def train(
    folder: Path, schedule: Train = SCHEDULE, *, load=None, dropout=0.1, identity="this", modules=None, record=None
):
    """Curves, and the bytes of all weights."""
    network, objective = modules or make_modules(dropout)
    rows = fit(
        network,
        objective,
        load or World().load,
        IMAGES,
        text=make_text(),
        schedule=schedule,
        weights=LOSSES,
        means=means,
        seed=0,
        record=record or Record("train", folder, folder / "resume"),
        identity=identity,
    )
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


def test_frozen_parameters_stay_as_they_are_and_take_no_part(tmp_path):
    network, objective = make_modules()
    frozen = network.reason.classify.requires_grad_(False)
    before = frozen.weight.clone()
    train(tmp_path, modules=(network, objective))
    assert torch.equal(frozen.weight, before)
    state = torch.load(tmp_path / "resume" / "epoch.pt", weights_only=True)
    trainable = [p for module in (network, objective) for p in module.parameters() if p.requires_grad]
    assert len(state["optimiser"]["state"]) == len(trainable)


def test_bfloat16_learns_like_float32_and_keeps_float32_weights(tmp_path):
    rows, weights = train(tmp_path / "a", changed(precision="bf16"), dropout=0.0)
    exact, _ = train(tmp_path / "b", dropout=0.0)
    assert rows[-1]["hoi"] == pytest.approx(exact[-1]["hoi"], rel=0.05)
    assert rows[-1]["hoi"] != exact[-1]["hoi"]
    assert {value.dtype for value in weights.values()} == {torch.float32}


# ---- the effective batch


WHOLE = changed(epochs=1, batch_size=12, micro_batch_size=12, clip_norm=1e9)  # one step, nothing clipped


def gradients(folder: Path) -> list[torch.Tensor]:
    """Those of the only step of a run, times 1 - beta_1."""
    state = torch.load(folder / "resume" / "epoch.pt", weights_only=True)["optimiser"]["state"]
    return [state[parameter]["exp_avg"] for parameter in sorted(state)]


def test_accumulated_micro_batches_give_the_gradient_of_the_whole_batch(tmp_path):
    whole_row = train(tmp_path / "whole", WHOLE, dropout=0.0)[0][0]
    row = train(tmp_path / "parts", WHOLE.model_copy(update={"micro_batch_size": 1}), dropout=0.0)[0][0]
    for part, whole in zip(gradients(tmp_path / "parts"), gradients(tmp_path / "whole"), strict=True):
        torch.testing.assert_close(part, whole, atol=1e-6, rtol=1e-4)
    for term in ("hoi", "irm_sentence", "irm_word", "ire_sentence", "ire_word", "gradient_norm"):
        assert row[term] == pytest.approx(whole_row[term], rel=1e-4)


def test_two_processes_give_the_gradient_of_one_with_the_whole_batch(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    rendezvous = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    schedule = WHOLE.model_copy(update={"micro_batch_size": 2})
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(tmp_path / rank), schedule.model_dump_json()],
            env=os.environ | rendezvous | {"RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in "01"
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    whole_row = train(tmp_path / "whole", WHOLE, dropout=0.0)[0][0]
    for part, whole in zip(gradients(tmp_path / "0"), gradients(tmp_path / "whole"), strict=True):
        torch.testing.assert_close(part, whole, atol=1e-6, rtol=1e-4)
    assert same(*(load_file(tmp_path / rank / "weights.safetensors") for rank in "01"))
    assert not (tmp_path / "1" / "resume").exists()  # the first process writes
    for rank in "01":
        row = json.loads((tmp_path / rank / "curves.json").read_text())[0]
        for term in ("hoi", "irm_sentence", "irm_word", "ire_sentence", "ire_word", "gradient_norm"):
            assert row[term] == pytest.approx(whole_row[term], rel=1e-4)


@pytest.mark.parametrize("sizes", [{"micro_batch_size": 3}, {"micro_batch_size": 8}])
def test_an_effective_batch_that_cannot_be_reached_is_an_error(tmp_path, sizes):
    with pytest.raises(ValueError, match=r"batch_size 4 is not a multiple of 1 process\(es\) x micro_batch_size"):
        train(tmp_path, changed(**sizes))


def test_no_image_at_all_is_an_error(tmp_path):
    network, objective = make_modules()
    record = Record("train", tmp_path, tmp_path / "resume")
    with pytest.raises(ValueError, match="no image to train on"):
        fit(network, objective, World().load, 0, text=None, schedule=SCHEDULE, weights=LOSSES, means=means, seed=0,
            record=record, identity="")  # fmt: skip


def test_batches_without_any_true_pair_train_without_a_crash(tmp_path):
    world = World()
    rows, weights = train(tmp_path, load=lambda positions: world.load([IMAGES - 1] * len(positions)))
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

    def load(positions):
        if len(world.asked) == at:
            how()
        return world.load(positions)

    return load


def interrupt():
    raise Interrupted


def test_an_interrupted_run_goes_on_from_its_last_epoch_and_ends_byte_for_byte_where_it_would_have(tmp_path):
    rows, weights = train(tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(tmp_path / "broken", load=interrupting(7, interrupt))  # three steps an epoch: in the third
    world = World()
    rows_again, weights_again = train(tmp_path / "broken", load=world.load)
    assert len(world.asked) == 3
    assert rows_again == rows
    assert same(weights_again, weights)


def test_a_run_that_was_killed_loses_at_most_an_epoch(tmp_path):
    command = [sys.executable, __file__, str(tmp_path), SCHEDULE.model_dump_json(), "7"]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    killed = subprocess.run(command, env=os.environ | threads, check=False, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    world = World()
    rows, weights = train(tmp_path, load=world.load, dropout=0.0)
    assert len(world.asked) == 3
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


if __name__ == "__main__":
    out, schedule, kill_at = Path(sys.argv[1]), Train.model_validate_json(sys.argv[2]), int((sys.argv[3:] or [-1])[0])
    load = interrupting(kill_at, lambda: os.kill(os.getpid(), signal.SIGKILL))
    out.mkdir(exist_ok=True)
    rows, weights = train(out, schedule, load=load, dropout=0.0)
    save_file(weights, out / "weights.safetensors")
    (out / "curves.json").write_text(json.dumps(rows))
