"""The pose network of a study whose profile trains its own: on crops around the people whose joints are known."""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rmlr.data.keypoints import Crop, Posed, load_crops, load_people, mirrored
from rmlr.evaluation.joints import pck
from rmlr.learning.trainer import cosine_schedule, load_resume, save_resume
from rmlr.model.joints import heat_map_loss, heat_maps, peaks
from rmlr.model.pose import WEIGHTS, JointNetwork, load_pose_network, save_joint_network
from rmlr.study.nodes import JointsNode
from rmlr.study.run import Record, run
from rmlr.study.settings import PoseSchedule

log = logging.getLogger(__name__)

SAVES = 10  # resume checkpoints of one training
POINTS = 50  # points of the loss curve
TRAIN, TEST = "person_keypoints_train2014.json", "person_keypoints_val2014.json"  # V-COCO's test is part of the latter
PCK_SHARES = {"pck_5": 0.05, "pck_10": 0.1, "pck_20": 0.2}


def joints(*, settings: Path, annotations: Path, images: Path, seed: int, out: Path) -> None:
    """Train a small top-down pose network; write it as MMPose would, to be frozen and read by `pose`.

    It learns heat maps of the joints from crops around annotated people, flipped, shifted and resized at random. An
    interrupted training goes on if it is called again with the same settings, seed and inputs.

    Args:
        settings: this node's settings file: sizes and schedule.
        annotations: folder of person_keypoints_train2014.json, which is learnt from, and person_keypoints_val2014.json,
            on which the network is measured; COCO's layout, any joints.
        images: folder of the photos.
        seed: of initialisation, order and crops.
        out: folder to write; gets weights.pth, and metrics.json: pck_5, pck_10 and pck_20, the shares of joints found
            within so many percent of the longer side of the person's box, and those of a pose that is the same for all.
    """
    chosen = JointsNode.load(settings)
    inputs = [annotations / TRAIN, annotations / TEST, images]
    with run("joints", chosen, settings=settings, out=out, inputs=inputs, seed=seed) as record:
        names, people = load_people(annotations / TRAIN)
        known, unseen = load_people(annotations / TEST)
        if names != known:
            raise ValueError(f"{annotations}: {TRAIN} has the joints {', '.join(names)}; {TEST} {', '.join(known)}")
        if not people:
            raise ValueError(f"{annotations / TRAIN}: nobody with a known joint to learn from")
        network = JointNetwork(len(names), **chosen.architecture.model_dump())
        network.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        identity = hashlib.sha256(chosen.model_dump_json().encode() + str(seed).encode())
        identity.update((annotations / TRAIN).read_bytes())
        fit(network, people, mirrored(names), images, chosen.schedule, seed, record, identity.hexdigest())
        network.eval()
        metrics = measure(network, people, unseen, images, chosen.schedule)
        (record.folder / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
        record.log_metrics(metrics)
        save_joint_network(network, record.folder / WEIGHTS)
        load_pose_network(record.folder / WEIGHTS)  # what nobody can read shall not be left


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
    """Train in place. Every step depends on seed and step alone, so a run that was killed ends as if it was not."""
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay, fused=True
    )
    checkpoint, start = record.resume / "joints.pt", 0
    if (state := load_resume(checkpoint, identity=identity)) is not None:
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        start = state["step"]
        log.info("%s: going on from step %d", checkpoint, start)
    network.train()
    with record.progress(schedule.steps - start, "joints: steps") as progress:
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
                raise ValueError(f"step {step}: the loss of the pose network is {loss.item()}. Lower its rate?")
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            if step % max(schedule.steps // POINTS, 1) == 0:
                record.log_metrics({"loss": loss.item()}, step=step)
            progress.advance(note=f"loss {loss.item():.4f}")
            if (step + 1) % max(schedule.steps // SAVES, 1) == 0 or step + 1 == schedule.steps:
                state = {"network": network.state_dict(), "optimiser": optimiser.state_dict(), "step": step + 1}
                save_resume(checkpoint, state | {"identity": identity})


def _by_chance(person: Posed, schedule: PoseSchedule, dice: np.random.Generator) -> Crop:
    """A crop around a person as training shows it."""
    x, y = dice.uniform(-schedule.shift, schedule.shift, size=2).tolist()
    crop = Crop.around(person, schedule.margin, (x, y), 1 + dice.uniform(-schedule.zoom, schedule.zoom))
    return Crop(crop.left, crop.top, crop.side, is_flipped=bool(dice.random() < 0.5))


def _examples(
    people: Sequence[Posed], crops: Sequence[Crop], mirror: Sequence[int], images: Path, schedule: PoseSchedule,
    stride: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Pixels, the heat maps that they shall give, and which of these are known."""
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
    """PCK on people that were not learnt from, of the network and of the mean pose of those that were.

    A metric without a case is left out.
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
