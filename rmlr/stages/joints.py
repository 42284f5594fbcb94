"""The pose network of a profile that trains its own, on crops around people with known joints."""

import hashlib
import json
from pathlib import Path

import torch

from rmlr.data.keypoints import load_people, mirrored
from rmlr.learning.joints import fit, measure
from rmlr.model.pose import WEIGHTS, JointNetwork, load_pose_network, save_joint_network
from rmlr.study.nodes import JointsNode
from rmlr.study.run import run

TRAIN, TEST = "person_keypoints_train2014.json", "person_keypoints_val2014.json"  # V-COCO's test is part of the latter


def joints(*, settings: Path, annotations: Path, images: Path, seed: int, out: Path) -> None:
    """Train a small top-down pose network, and write it in MMPose's format, for `pose`, which freezes it.

    It is trained on heat maps of the joints, on crops around annotated people, flipped, shifted and resized at random.
    An interrupted training run resumes if the command is repeated with the same settings, seed and inputs.

    Args:
        settings: this node's settings file: sizes and schedule.
        annotations: folder of person_keypoints_train2014.json, for training, and person_keypoints_val2014.json, for
            measuring the network; COCO's format, any joints.
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
            raise ValueError(f"{annotations / TRAIN}: no person with a known joint to train on")
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
        load_pose_network(record.folder / WEIGHTS)  # checks that the written file can be read
