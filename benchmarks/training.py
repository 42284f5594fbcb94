"""Seconds of one training step at the paper's sizes, by variant, precision and device; ratios to `plain`.

Draws its own batch: 8 images of 25 x 42 cells, 30 instances (6 people) each, one true interaction in four pairs.

    python benchmarks/training.py [--devices cpu cuda] [--steps 20]
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from rmlr.hoi import Annotation, Vocabulary
from rmlr.hoi.batch import Batch, Instances, Truth
from rmlr.model.encoders import load_encoder
from rmlr.model.network import build, build_objective
from rmlr.model.pairs import enumerate_pairs
from rmlr.model.text import TextEmbeddings, collect, embed
from rmlr.study.plan import Study
from rmlr.study.run import Record

IMAGES, INSTANCES, PEOPLE, CELLS, CHANNELS, TOKEN_DIM = 8, 30, 6, (25, 42), 2048, 256
VARIANTS = ("plain", "wo_cl", "rmlr")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    here = ["cuda"] if torch.cuda.is_available() else []
    parser.add_argument("--devices", nargs="+", default=[*here, "cpu"])
    parser.add_argument("--steps", type=int, default=20)
    chosen = parser.parse_args()
    study = Study.load(Path("params.yaml"))
    for device in chosen.devices:
        name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
        for precision in ("fp32", "bf16") if device == "cuda" else ("fp32",):
            seconds = {}
            for variant in VARIANTS:
                steps = chosen.steps if device == "cuda" else max(chosen.steps // 10, 2)
                seconds[variant], memory = step_seconds(study, variant, device, precision, steps)
                ratio = seconds[variant] / seconds["plain"]
                print(  # noqa: T201
                    f"{name}, {precision}, {variant}: {seconds[variant] * 1000:.1f} ms a step of {IMAGES} images, "
                    f"{ratio:.2f} x plain, {memory:.2f} GiB"
                )


def step_seconds(study: Study, variant: str, device: str, precision: str, steps: int) -> tuple[float, float]:
    """Median of `steps` steps (forward, loss, backward, AdamW), and the peak of the device's memory in GiB."""
    torch.manual_seed(0)
    paper, vocabulary = study.profiles["paper"], made_up_vocabulary()
    batch, truth, annotations = made_up_batch(vocabulary)
    text = made_up_text(vocabulary, annotations)
    network = build(
        study.variants[variant], paper.network, channels=CHANNELS, token_dim=TOKEN_DIM, vocabulary=vocabulary
    ).to(device)
    objective = build_objective(
        study.variants[variant],
        paper.network,
        paper.alignment,
        paper.losses,
        vocabulary=vocabulary,
        text=text,
        phrase_counts=text.count_phrases(truth.verbs, truth.objects),
    ).to(device)
    batch, truth = batch.to(device), truth.to(device)
    optimiser = torch.optim.AdamW([*network.parameters(), *objective.parameters()], lr=1e-4, fused=True)
    taken = []
    for _ in range(steps + 3):
        start = _now(device)
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            output = network(batch)
        terms = objective(output, batch, truth, text.to(device))
        terms.total(paper.losses, terms.counts.positives.clamp(min=1), terms.counts.rows.clamp(min=1)).backward()
        optimiser.step()
        optimiser.zero_grad()
        taken.append(_now(device) - start)
    memory = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else 0.0
    return statistics.median(taken[3:]), memory


def made_up_text(vocabulary: Vocabulary, annotations: list[Annotation]) -> TextEmbeddings:
    """Random vectors for the words of these annotations."""
    return embed(
        collect(vocabulary, annotations),
        load_encoder("random:512", None, None, "mean"),
        name="random",
        model="random:512",
        revision=None,
        progress=Record("text", Path(), Path()).progress,
    )


def made_up_vocabulary() -> Vocabulary:
    """As many verbs and objects as V-COCO has; any verb goes with any object."""
    objects = ("person", *(f"thing {number}" for number in range(79)))
    verbs = tuple(f"verb_{number} obj" for number in range(24))
    hois = tuple((verb, object_) for verb in range(24) for object_ in range(80))
    return Vocabulary("vcoco", objects, 0, verbs, hois)


def made_up_batch(
    vocabulary: Vocabulary, images: int = IMAGES, people: int = PEOPLE, things: int = INSTANCES - PEOPLE
) -> tuple[Batch, Truth, list[Annotation]]:
    """Random boxes, maps and tokens; truth taken from the candidate pairs themselves, so that rows match."""
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator)

    instances = people + things
    number = images * instances
    corner = uniform(number, 2) * torch.tensor([1000.0, 500.0])
    boxes = torch.cat([corner, corner + 50 + uniform(number, 2) * 250], dim=1)
    labels = torch.randint(1, 80, (number,), generator=generator).view(images, instances)
    labels[:, :people] = vocabulary.person
    batch = Batch(
        image_ids=torch.arange(images),
        maps=uniform(images, CHANNELS, *CELLS),
        is_padding=torch.zeros(images, *CELLS, dtype=torch.bool),
        cell_sizes=torch.full((images, 2), 32.0),
        image_sizes=torch.tensor([[800.0, 1333.0]]).repeat(images, 1),
        instances=Instances(boxes, uniform(number), labels.flatten(), uniform(number, TOKEN_DIM)),
        instance_image=torch.arange(images).repeat_interleave(instances),
    )
    pairs = enumerate_pairs(batch, vocabulary.person)
    true = torch.arange(0, len(pairs), 4)
    verbs = torch.randint(0, len(vocabulary.verbs), (len(true),), generator=generator)
    human, object_ = pairs.human[true], pairs.object[true]
    truth = Truth(boxes[human], boxes[object_], verbs, batch.instances.labels[object_], pairs.image[true])
    annotations = []
    for image in range(images):
        rows = (truth.image == image).nonzero()[:, 0]
        count = len(rows)
        interactions = np.stack([np.arange(count), truth.verbs[rows].numpy(), np.arange(count, 2 * count)], axis=1)
        people = torch.full((count,), vocabulary.person)
        annotations.append(
            Annotation(
                image_id=image,
                file_name=f"{image}.jpg",
                height=800,
                width=1333,
                boxes=torch.cat([truth.human_boxes[rows], truth.object_boxes[rows]]).double().numpy(),
                labels=torch.cat([people, truth.objects[rows]]).numpy(),
                interactions=interactions,
                is_crowd=np.zeros(2 * count, dtype=bool),
                is_listed=np.arange(2 * count) < count,
                actions=np.zeros((0, 2), dtype=np.int64),
            )
        )
    return batch, truth, annotations


def _now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
