"""Runs trained together against the same runs one by one (`rmlr together`): ratios, from caches and on photos.

    python benchmarks/together.py [--runs 8] [--photos 128] [--epochs 3] [--repeats 5]

On the CPU, with the demo's sizes: photos of 128 x 128 that the benchmark draws, a detector of random weights, random
text. Each measurement is a process of its own, from the reading of the settings to the last file, without the imports.
Both ways are measured alternately in one call of this program; a ratio is the median over its repeats. Needs nothing of
the study's tools.
"""

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from loading import SIZES, in_process, patch_classes, prepare

from rmlr.data.loading import VARIABLE
from rmlr.study.plan import Study

FEWEST = 96  # photos: three batches
VARIANTS = ("rmlr", "wo_cl", "plain", "wo_wa", "wo_sa", "wo_irm_kt", "wo_ire_kt", "wo_rm")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--photos", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    chosen = parser.parse_args()
    if chosen.photos < FEWEST:
        parser.error(f"--photos {chosen.photos}: expected {FEWEST} or more")
    os.environ |= {"RMLR_TRACKING": "off", "CUDA_VISIBLE_DEVICES": "", VARIABLE: "0"}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        prepare(root, Study.load(Path("params.yaml")), SIZES["cpu"], chosen.photos, chosen.epochs)
        in_process("features", 0, root, SIZES["cpu"].batch_size)
        _say(f"{chosen.runs} runs, {chosen.photos} photos, {chosen.epochs} epochs, median of {chosen.repeats}")
        _say("| trained on | together, by apart | smallest | largest | together, s | apart, s |")
        _say("| --- | --: | --: | --: | --: | --: |")
        for source in ("cached", "online"):
            settings = variants(root, source, chosen.runs)
            pairs = [(timed(root, source, settings, True), timed(root, source, settings, False))
                     for _ in range(chosen.repeats)]  # fmt: skip
            ratios = [together / apart for together, apart in pairs]
            seconds = " | ".join(f"{statistics.median(side):.1f}" for side in zip(*pairs, strict=True))
            found = (statistics.median(ratios), min(ratios), max(ratios))
            _say(f"| {source} | {' | '.join(f'{ratio:.2f}' for ratio in found)} | {seconds} |")


def variants(root: Path, source: str, number: int) -> list[Path]:
    """Settings of several runs: RmLR and its ablations in turn."""
    study, base = Study.load(Path("params.yaml")), yaml.safe_load((root / f"{source}.yaml").read_text())
    found = []
    for at in range(number):
        variant = study.variants[VARIANTS[at % len(VARIANTS)]].model_dump(mode="json")
        found.append(root / f"{source}-{at}.yaml")
        found[-1].write_text(yaml.safe_dump(base | {"variant": variant}))
    return found


def timed(root: Path, source: str, settings: list[Path], is_together: bool) -> float:
    """Seconds for all runs, in one process or in one after the other."""
    groups = [settings] if is_together else [[one] for one in settings]
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return sum(pool.apply(measure, (root, source, group)) for group in groups)


def measure(root: Path, source: str, settings: list[Path]) -> float:
    """Seconds of one `rmlr together`; with one run it is what `rmlr train` does."""
    from rmlr.commands.together import together

    patch_classes()
    seen = {"features": root / "features"} if source == "cached" else {}
    seen |= {} if seen else {"images": root / "images", "detector": root / "detector"}
    with tempfile.TemporaryDirectory() as folder:
        shared: dict[str, Any] = {"annotations": root / "prepare", "text": root / "text", **seen}
        runs = [
            {name: str(path) for name, path in {**shared, "settings": one, "out": Path(folder, one.stem)}.items()}
            | {"seed": 0}
            for one in settings
        ]
        file = Path(folder, "runs.yaml")
        file.write_text(yaml.safe_dump({"runs": runs}))
        start = time.perf_counter()
        together(file)
        return time.perf_counter() - start


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
