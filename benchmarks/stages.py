"""The main job without any engine: each stage by its command, one process at a time per slot; seconds of each.

For machines that have a GPU but neither Snakemake nor DVC, and for comparing devices:

    python benchmarks/stages.py --out results/bench --jobs 4 --seeds 0 1 2 [--epochs 1]
"""

import argparse
import subprocess
import sys
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rmlr.study.plan import Study


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for everything that is made")
    parser.add_argument("--jobs", type=int, default=1, help="training runs at once")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument(
        "--only",
        nargs="+",
        help="runs, GROUP/NAME; if left out, all on V-COCO with the first backbone and encoder, without the pose cue",
    )
    chosen = parser.parse_args()
    out, study = chosen.out, Study.load(Path("params.yaml"))
    nodes = study.nodes(study.profile, defaultdict(lambda: "by hand"))

    def stage(name: str, node: str, *, place: Path | None = None, **flags: Path | int | str) -> str:
        settings, folder = out / "settings" / f"{node}.yaml", place or out / node
        settings.parent.mkdir(parents=True, exist_ok=True)
        settings.write_text(nodes[node].dump())
        words = [word for flag, value in flags.items() for word in (f"--{flag}", str(value))]
        command = [sys.executable, "-m", "rmlr", name, "--settings", str(settings), *words, "--out", str(folder)]
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{' '.join(command)}\n{done.stderr[-3000:]}")
        line = f"{folder.relative_to(out)}: {time.perf_counter() - start:.1f} s"
        print(line, flush=True)  # noqa: T201
        return line

    raw, images = out / "world/draw", out / "world/draw/images"
    prepared = out / "vcoco/prepare"
    stage("draw", "world/draw")
    stage("prepare", "vcoco/prepare", raw=raw)
    stage("detector", "detector/base", annotations=prepared, images=images, seed=0)
    for split in ("train", "val", "test"):
        stage(
            "features",
            f"vcoco/features/base/{split}",
            annotations=prepared,
            split=split,
            images=images,
            detector=out / "detector/base",
        )
    stage("text", "vcoco/text/main", annotations=prepared)

    def one(run: str, seed: int) -> None:
        template = f"runs/{run}/{study.profiles[study.profile].seeds[0]}"
        place = out / "runs" / run / str(seed)
        shared = {"annotations": prepared, "features": out / "vcoco/features/base"}
        text = out / "vcoco/text/main"
        stage("train", f"{template}/train", place=place / "train", **shared, text=text, seed=seed)
        stage("predict", f"{template}/predict", place=place / "predict", **shared, weights=place / "train")
        triplets = place / "predict/triplets.parquet"
        stage("evaluate", f"{template}/evaluate", place=place / "evaluate", annotations=prepared, triplets=triplets)

    served = [
        name
        for name, run in study.runs_in(study.profile).items()
        if (run.dataset, run.backbone, run.encoder) == ("vcoco", "base", "main")
        and not study.variants[run.variant].pose
    ]
    runs = chosen.only or served
    start = time.perf_counter()
    with ThreadPoolExecutor(chosen.jobs) as pool:
        list(pool.map(lambda pair: one(*pair), [(run, seed) for seed in chosen.seeds for run in runs]))
    print(f"all runs: {time.perf_counter() - start:.1f} s")  # noqa: T201


if __name__ == "__main__":
    main()
