"""Photos a second and core: decoding alone, decoding and resizing for the test, and augmenting for training.

    python benchmarks/decoding.py PHOTOS [--number 64] [--rounds 3]

PHOTOS is a folder of JPEG files, such as COCO's val2017. One thread; CPU seconds. The sizes are the paper profile's:
800/1333 in the test, UPT's augmentation in training. Each photo goes through all of it in turn. COCO's photos are
smaller than what the detector sees, so decoding at a reduced scale (JPEG's draft mode) cannot help: the last column is
the share of photos that are enlarged.
"""

import argparse
import statistics
import time
from collections import defaultdict
from pathlib import Path

import torch

from rmlr.data.augment import draw_plan
from rmlr.data.images import pad, read_image, size_within, stack
from rmlr.study.plan import Study


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--number", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    paper = Study.load(Path("params.yaml")).profiles["paper"]
    size, rule = paper.detectors["base/vcoco"].image, paper.features.augment
    assert size is not None
    assert rule is not None
    paths = sorted(chosen.photos.rglob("*.jpg"))[: chosen.number]
    if not paths:
        parser.error(f"{chosen.photos}: no .jpg files")
    rounds: dict[str, list[float]] = defaultdict(list)
    enlarged = 0
    for number in range(chosen.rounds):
        taken: dict[str, float] = defaultdict(float)
        for index, path in enumerate(paths):
            start = time.process_time()
            photo = read_image(path)
            decoded = time.process_time()
            stack([photo], size)
            tested = time.process_time()
            view = draw_plan(photo.height, photo.width, index, rule, seed=0, view=number).photo(photo)
            pad([view], [(view.height, view.width)])
            trained = time.process_time()
            taken["decoding"] += decoded - start
            taken["decoding, and resizing for the test"] += tested - start
            taken["decoding, and augmenting for training"] += decoded - start + trained - tested
            enlarged += number == 0 and size_within(photo.height, photo.width, size)[0] > photo.height
        for name, seconds in taken.items():
            rounds[name].append(len(paths) / seconds)
    print("| what | photos a second and core |\n| --- | --: |")  # noqa: T201
    for name, rates in rounds.items():
        print(f"| {name} | {statistics.median(rates):.0f} |")  # noqa: T201
    print(f"\n{enlarged} of {len(paths)} photos are enlarged for the test")  # noqa: T201


if __name__ == "__main__":
    main()
