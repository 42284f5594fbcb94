"""Several networks in one pass: each has the numbers, the curve and the checkpoints that it has alone."""

import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rmlr.learning import pauses
from rmlr.learning.learner import Head
from rmlr.learning.trainer import fit_together
from rmlr.study.run import Record

from .test_trainer import (
    SCHEDULE,
    FromWorld,
    Interrupted,
    World,
    changed,
    head_of,
    interrupt,
    interrupting,
    make_modules,
    same,
)

FORMS = {"literal": 0.1, "anchored": 0.3, "plain": 0.0}  # dropout of each head: they draw different random numbers


def heads(folder: Path, schedule=SCHEDULE, names=tuple(FORMS)) -> list[Head]:
    """Heads that differ in loss, dropout and learning rate."""
    found = []
    for name in names:
        network, objective = make_modules(FORMS[name], "anchored" if name == "anchored" else "literal")
        record = Record("train", folder / name, folder / name / "resume")
        rate = schedule.model_copy(update={"learning_rate": 5e-3 if name == "anchored" else 1e-2})
        found.append(head_of(network, objective, record, rate, name))
    return found


def weights(head: Head) -> dict[str, torch.Tensor]:
    modules = {"network": head.network, "objective": head.objective}
    return {f"{name}.{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}


def apart(folder: Path, schedule=SCHEDULE) -> dict[str, tuple[list, dict]]:
    """Rows and weights of each head, trained alone."""
    found = {}
    for head in heads(folder, schedule):
        [learner] = fit_together([head], FromWorld(World().load), seed=0)
        found[head.identity] = learner.rows, weights(head)
    return found


def must_be_same(learners, expected) -> None:
    for learner in learners:
        rows, tensors = expected[learner.head.identity]
        assert learner.error is None
        assert learner.rows == rows
        assert same(weights(learner.head), tensors)


def state(folder: Path, name: str) -> bytes:
    return (folder / name / "resume" / "epoch.pt").read_bytes()


def test_heads_that_learn_together_have_the_numbers_and_checkpoints_that_they_have_alone(tmp_path):
    schedule, world = changed(micro_batch_size=2), World()
    expected = apart(tmp_path / "apart", schedule)
    learners = fit_together(heads(tmp_path / "together", schedule), FromWorld(world.load), seed=0)
    must_be_same(learners, expected)
    assert len(world.asked) == 3 * 6  # each image of an epoch is loaded once
    for name in FORMS:
        assert state(tmp_path / "together", name) == state(tmp_path / "apart", name)


@pytest.mark.parametrize("at", [1, 4, 8])
def test_a_pass_that_was_interrupted_within_an_epoch_is_continued_to_the_same_numbers(tmp_path, monkeypatch, at):
    expected = apart(tmp_path / "apart")
    monkeypatch.setattr(pauses, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(Interrupted):
        fit_together(heads(tmp_path), FromWorld(interrupting(at, interrupt)), seed=0)
    world = World()
    must_be_same(fit_together(heads(tmp_path), FromWorld(world.load), seed=0), expected)
    assert len(world.asked) == 9 - at


def test_heads_that_are_ahead_wait_for_the_others_and_no_image_is_loaded_for_nobody(tmp_path, monkeypatch):
    """One has trained for two epochs and a step, one for an epoch and two steps, one for less than a step."""
    expected = apart(tmp_path / "apart")
    monkeypatch.setattr(pauses, "CHECKPOINT_SECONDS", 0.0)
    for name, at in (("literal", 7), ("anchored", 5)):
        with pytest.raises(Interrupted):
            fit_together(heads(tmp_path, names=[name]), FromWorld(interrupting(at, interrupt)), seed=0)
    monkeypatch.undo()
    world = World()
    two = fit_together(heads(tmp_path, names=["literal", "anchored"]), FromWorld(world.load), seed=0)
    must_be_same(two, expected)
    assert len(world.asked) == 9 - 5
    world = World()
    everyone = fit_together(heads(tmp_path), FromWorld(world.load), seed=0)
    must_be_same(everyone, expected)
    assert len(world.asked) == 9  # of the third alone; the others are finished


def test_a_head_within_an_epoch_is_met_by_the_others_in_that_epoch(tmp_path, monkeypatch):
    expected = apart(tmp_path / "apart")
    monkeypatch.setattr(pauses, "CHECKPOINT_SECONDS", 0.0)
    for name, at in (("literal", 5), ("anchored", 4), ("plain", 3)):
        with pytest.raises(Interrupted):
            fit_together(heads(tmp_path, names=[name]), FromWorld(interrupting(at, interrupt)), seed=0)
    world = World()
    must_be_same(fit_together(heads(tmp_path), FromWorld(world.load), seed=0), expected)
    assert len(world.asked) == 6


def test_a_signal_writes_the_checkpoint_of_every_head(tmp_path):
    expected = apart(tmp_path / "apart")
    world = interrupting(4, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt) as ended:
        fit_together(heads(tmp_path), FromWorld(world), seed=0)
    assert ended.value.args == (signal.SIGTERM,)
    again = World()
    must_be_same(fit_together(heads(tmp_path), FromWorld(again.load), seed=0), expected)
    assert len(again.asked) == 9 - 5


@pytest.mark.parametrize("at", [0, 4])
def test_a_head_whose_loss_is_not_finite_ends_alone(tmp_path, at, caplog):
    expected = apart(tmp_path / "apart")
    some = heads(tmp_path)
    calls = []
    weight = next(parameter for parameter in some[1].network.parameters() if parameter.requires_grad)

    def spoil(module, given):
        calls.append(None)
        if len(calls) > at:
            with torch.no_grad():
                weight.fill_(float("nan"))

    some[1].network.register_forward_pre_hook(spoil)
    first, second, third = fit_together(some, FromWorld(World().load), seed=0)
    must_be_same([first, third], expected)
    assert second.error is not None
    assert "is nan on images [" in str(second.error)
    assert len(second.rows) == at // 3
    assert "takes no further step, the others do: the" in caplog.text


def test_a_pass_ends_when_no_head_is_left(tmp_path):
    world = World()
    world.maps.fill_(float("nan"))
    learners = fit_together(heads(tmp_path), FromWorld(world.load), seed=0)
    assert all(learner.error for learner in learners)
    assert len(world.asked) == 1


def test_each_head_is_scored_when_its_schedule_says_so_and_nothing_is_lost_while_one_is(tmp_path):
    def scored(network, device):
        torch.rand(3)
        return {"val/ap": network.reason.classify.weight.sum().item()}

    def ended(network, device):
        raise Interrupted

    def some(folder, score):
        every = heads(folder)
        rate = every[0].schedule.model_copy(update={"validate_every": 2})
        return [replace(every[0], schedule=rate, held_out=score), *every[1:]]

    alone = {}
    for head in some(tmp_path / "apart", scored):
        [learner] = fit_together([head], FromWorld(World().load), seed=0)
        alone[head.identity] = learner.rows, weights(head)
    with pytest.raises(Interrupted):
        fit_together(some(tmp_path, ended), FromWorld(World().load), seed=0)
    world = World()
    must_be_same(fit_together(some(tmp_path, scored), FromWorld(world.load), seed=0), alone)
    assert len(world.asked) == 3
    assert ["val/ap" in row for row in alone["literal"][0]] == [False, True, True]


@pytest.mark.parametrize("sizes", [{"epochs": 2}, {"batch_size": 2, "micro_batch_size": 2}, {"micro_batch_size": 2}])
def test_heads_with_other_steps_are_refused(tmp_path, sizes):
    first, second = heads(tmp_path, names=["literal"]), heads(tmp_path, changed(**sizes), names=["anchored"])
    with pytest.raises(ValueError, match=f"have the same {next(iter(sizes))}; got"):
        fit_together([*first, *second], FromWorld(World().load), seed=0)
