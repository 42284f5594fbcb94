"""Training and measuring a pose network on crops around people whose joints are known."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rmlr.data.keypoints import Crop, Posed, load_crops
from rmlr.evaluation.joints import pck
from rmlr.learning.loops import cosine_schedule, load_resume, save_resume
from rmlr.learning.pauses import Pauses
from rmlr.model.joints import heat_map_loss, heat_maps, peaks
from rmlr.model.pose import JointNetwork
from rmlr.study.frozen import PoseSchedule
from rmlr.study.run import Record

log = logging.getLogger(__name__)

SAVES = 10  # checkpoints of one training run, for resuming
POINTS = 50  # points of the loss curve
PCK_SHARES = {"pck_5": 0.05, "pck_10": 0.1, "pck_20": 0.2}


def fit(
    network: JointNetwork,
    people: Sequence[Posed],
    mirror: Sequence[int],
    images: Path,
    schedule: PoseSchedule,
    seed: int,
    record: Record,
    identity: str,
) -> None:
    """Train in place. Every step depends only on seed and step, so a run that was killed resumes with equal results."""
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay, fused=True
    )
    checkpoint, start = record.resume / "joints.pt", 0
    if (state := load_resume(checkpoint, identity=identity)) is not None:
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        start = state["step"]
        log.info("%s: resuming from step %d", checkpoint, start)
    network.train()
    pauses = Pauses()
    with record.progress(schedule.steps - start, "joints: steps") as progress, pauses.watching():
        for step in range(start, schedule.steps):
            dice = np.random.default_rng([seed, step])
            chosen = [people[at] for at in dice.integers(len(people), size=schedule.batch_size)]
            crops = [_by_chance(person, schedule, dice) for person in chosen]
            pixels, wanted, is_known = _examples(chosen, crops, mirror, images, schedule, network.stride)
            for group in optimiser.param_groups:
                factor = cosine_schedule(step, total=schedule.steps, warmup=schedule.warmup_steps)
                group["lr"] = schedule.learning_rate * factor
            device = network.final_layer.weight.device
            loss = heat_map_loss(network(pixels.to(device)), wanted.to(device), is_known.to(device))
            if not loss.isfinite():
                raise ValueError(f"step {step}: the pose network's loss is {loss.item()}. Lower the learning rate?")
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            if step % max(schedule.steps // POINTS, 1) == 0:
                record.log_metrics({"loss": loss.item()}, step=step)
            progress.advance(note=f"loss {loss.item():.4f}")
            if (step + 1) % max(schedule.steps // SAVES, 1) == 0 or step + 1 == schedule.steps or pauses.is_due:
                state = {"network": network.state_dict(), "optimiser": optimiser.state_dict(), "step": step + 1}
                save_resume(checkpoint, state | {"identity": identity})
                pauses.saved()


def _by_chance(person: Posed, schedule: PoseSchedule, dice: np.random.Generator) -> Crop:
    """A crop around a person, augmented for training."""
    x, y = dice.uniform(-schedule.shift, schedule.shift, size=2).tolist()
    crop = Crop.around(person, schedule.margin, (x, y), 1 + dice.uniform(-schedule.zoom, schedule.zoom))
    return Crop(crop.left, crop.top, crop.side, is_flipped=bool(dice.random() < 0.5))


def _examples(
    people: Sequence[Posed], crops: Sequence[Crop], mirror: Sequence[int], images: Path, schedule: PoseSchedule,
    stride: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Pixels, their target heat maps, and which of these are known."""
    pixels = load_crops(people, crops, images, schedule.crop).pixels
    places, flags = [], []
    for person, crop in zip(people, crops, strict=True):
        order = mirror if crop.is_flipped else range(len(mirror))
        places.append(torch.from_numpy(crop.place(person.joints)[list(order)]).float())
        flags.append(torch.from_numpy(person.is_known[list(order)]))
    return pixels, heat_maps(torch.stack(places), schedule.crop // stride, schedule.sigma), torch.stack(flags)


@torch.no_grad()
def measure(
    network: JointNetwork, people: Sequence[Posed], unseen: Sequence[Posed], images: Path, schedule: PoseSchedule
) -> dict[str, float]:
    """PCK on held-out people, of the network and of the mean pose of the training people.

    A metric without any case is left out.
    """
    if not unseen:
        return {}
    crops = [Crop.around(person, schedule.margin) for person in unseen]
    found = []
    for first in range(0, len(unseen), schedule.batch_size):
        some = slice(first, first + schedule.batch_size)
        pixels = load_crops(unseen[some], crops[some], images, schedule.crop).pixels
        inside = peaks(network(pixels.to(network.final_layer.weight.device))).double().cpu().numpy()
        found += [crop.lift(points) for crop, points in zip(crops[some], inside, strict=True)]
    true, is_known = np.stack([person.joints for person in unseen]), np.stack([person.is_known for person in unseen])
    sides = np.array([crop.side / schedule.margin for crop in crops])

    placed = np.stack([Crop.around(person, schedule.margin).place(person.joints) for person in people])
    weight = np.stack([person.is_known for person in people])[..., None]
    mean = (placed * weight).sum(0) / weight.sum(0).clip(min=1)
    guesses = {"": np.stack(found), "mean_pose_": np.stack([crop.lift(mean) for crop in crops])}
    scores = {
        f"{what}{name}": pck(guess, true, is_known, sides, share)
        for what, guess in guesses.items()
        for name, share in PCK_SHARES.items()
    }
    return {name: score for name, score in scores.items() if score is not None}
