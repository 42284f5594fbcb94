"""Reports which data and weights are present, which are missing, and the disk space and time needed."""

import http.client
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rmlr.fetch.download import AGENT
from rmlr.fetch.place import Place, by_hand
from rmlr.fetch.sources import DEFAULT, Item, Source, gives, is_file, load_sources, named_weights, own_datasets, wanted
from rmlr.study.device import visible_gpus
from rmlr.study.plan import Study
from rmlr.study.source import has_class_file

PROBES = 16  # at a time
RATES = (10, 100)  # megabytes per second, of a usual connection and a fast one
PAPER_HOURS = {"vcoco": 1.5, "hicodet": 12.0}  # of one training run, ResNet-50, on four RTX 3080 (paper, appendix B)
GRID = (25, 34)  # cells of the backbone's last map of a usual photo, 3 x 4, at 800 pixels
CHANNELS = {"backbone": 2048, "projected": 256, "encoder": 256}  # of that map
OWN_FILES = {  # of the user's own data, below the folder of raw data: one of each line
    "vcoco": [
        ("coco/instances_train2014.json", "coco/instances_val2014.json"),
        *((f"vcoco/splits/vcoco_{split}.ids",) for split in ("train", "val", "test")),
        *((f"vcoco/vcoco_{split}.json", f"vcoco/instances_vcoco_{split}.json") for split in ("train", "val", "test")),
        ("images",),
    ],
    "hicodet": [
        *((f"hicodet/instances_{split}2015.json", "hicodet/anno_bbox.mat") for split in ("train", "test")),
        ("images",),
    ],
}
PHOTOS = {"vcoco": (5_400, 4_946), "hicodet": (38_118, 9_658)}  # train and val, test
OF_VAL2017 = 579  # photos of V-COCO
DETECTION_SECONDS = 5.0  # of one CPU core for a photo, DETR-ResNet-50 at 800 pixels (docs/photos.md)
STAGES_NEED = ("torch", "torchvision", "transformers", "scipy", "pandas", "pyarrow")
OPTIONAL = {
    "gdown": "fetches from Google Drive",
    "huggingface_hub": "fetches from the hub",
    "snakemake": "runs the study",
    "dvc": "versions it",
    "mlflow": "tracks it",
}


@dataclass(frozen=True)
class Answer:
    """A mirror's answer to a request for a file's header."""

    mirror: str
    says: str
    is_good: bool


def doctor(
    *,
    profile: str | None = None,
    raw: Path = DEFAULT,
    sources: Path | None = None,
    params: Path = Path("params.yaml"),
    timeout: float = 10.0,
) -> None:
    """Report what a profile needs and has: data, weights, mirrors, disk, time, GPUs, packages. Nothing is downloaded.

    Every mirror that the profile needs is asked for the header of its file, in parallel. The exit status is 1 if
    something is missing; for each missing source it says which file to put where.

    Args:
        profile: the profile; by default that of --params.
        raw: folder of the real data.
        sources: a table of sources that replaces the package's.
        params: the study.
        timeout: seconds that a mirror may take; 0: no mirror is asked.
    """
    study, table = Study.load(params), load_sources(sources)
    profile = profile or study.profile
    home, needs = wanted(table, study, profile, raw)
    place = Place(home)
    troubles = {name: place.trouble(name, table[name]) for name in needs}
    answers = probe({name: table[name] for name in needs}, timeout) if timeout > 0 else {}
    own = {dataset: _own(dataset, raw) for dataset in own_datasets(table, study, profile)}
    lines = [f"Profile {profile}", ""]
    for dataset, lack in own.items():
        lines.append(f"{'MISSING' if lack else 'there  '}  own data in {raw}, in the form of {dataset}")
    lines += _data(table, place, needs, troubles, answers)
    lines += _room({name: table[name] for name in needs if troubles[name]}, place)
    lines += _work(study, profile, bool(own))
    packages, lacking = _packages(bool(needs))
    lines += [*_machine(), *packages]
    missing = [name for name, trouble in troubles.items() if trouble]
    if missing:
        lines += ["", f"Missing: `rmlr fetch{_flags(profile, study, home, sources)}` gets it. By hand:"]
        lines += [f"  {name}: {table[name].what}\n  {by_hand(name, table[name], place)}" for name in missing]
    unknown = sorted(_unknown_weights(study, profile, table, home))
    lacking = [*(lack for lacks in own.values() for lack in lacks), *unknown, *lacking]
    lines += [f"Missing: {lack}" for lack in lacking]
    if not missing and not lacking:
        lines += ["", "Nothing is missing."]
    sys.stdout.write("\n".join(lines) + "\n")
    if missing or lacking:
        sys.exit(1)


def _flags(profile: str, study: Study, raw: Path, sources: Path | None) -> str:
    flags = {"profile": profile if profile != study.profile else None, "sources": sources}
    flags["raw"] = raw if raw != DEFAULT else None
    return "".join(f" --{flag} {value}" for flag, value in flags.items() if value)


# ---- data and weights


def _own(dataset: str, raw: Path) -> list[str]:
    """The missing files of the user's own data, with what to do."""
    return [
        f"{' or '.join(str(raw / name) for name in names)}: write it; docs/data.md shows the form"
        for names in OWN_FILES[dataset]
        if not any((raw / name).exists() for name in names)
    ]


def _data(
    table: Mapping[str, Source],
    place: Place,
    needs: Mapping[str, list[str]],
    troubles: Mapping[str, str | None],
    answers: Mapping[str, list[Answer]],
) -> Iterator[str]:
    if not needs:
        yield "Data and weights: no source is needed"
    for name, reasons in needs.items():
        state = troubles[name] or "there"
        if troubles[name] and (have := _downloaded(place, name)):
            state += f", {have / 1e9:.2f} GB of it downloaded"
        yield f"{'MISSING' if troubles[name] else 'there  '}  {name}, {_gb(table[name].size)} ({'; '.join(reasons)})"
        if troubles[name]:
            yield f"           {state}"
        for answer in answers.get(name, []):
            yield f"           {'answers' if answer.is_good else 'FAILS  '}  {answer.mirror}: {answer.says}"


def _downloaded(place: Place, name: str) -> int:
    folder = place.work(name)
    return sum(path.stat().st_size for path in folder.glob("*") if path.is_file()) if folder.is_dir() else 0


def _unknown_weights(study: Study, profile: str, table: Mapping[str, Source], raw: Path) -> Iterator[str]:
    """Weights files named in params.yaml that do not exist and have no source."""
    for (weights, revision), reason in named_weights(study, profile).items():
        is_given = any(gives(source, weights, revision, raw) for source in table.values())
        if is_file(weights, revision) and not is_given and not Path(weights).exists():
            yield f"{weights}, {reason}: put that file there"
    chosen = study.profiles[profile]
    for key in {chosen.backbones[run.backbone].detector(run.dataset) for run in study.runs_in(profile).values()}:
        own = chosen.detectors[key]
        if own.python and own.weights and not Path(own.weights).exists():
            yield f"{own.weights}, weights of detector {key}, {own.python}: put them there"
        if own.python and not has_class_file(own.python):
            yield f"{own.python}, the class of detector {key}: put its module here, or on PYTHONPATH"


# ---- mirrors


def probe(sources: Mapping[str, Source], timeout: float) -> dict[str, list[Answer]]:
    """The answer of every mirror of these sources, in the order of the table; only headers are transferred."""
    questions = []
    for name, source in sources.items():
        if source.hub:
            end = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
            revision = source.hub.commit or source.hub.revision
            questions.append((name, f"{end}/api/models/{source.hub.repository}/revision/{revision}", None))
        questions += [(name, url, item) for item in source.items for url in item.urls]
    with ThreadPoolExecutor(PROBES) as pool:
        answers = pool.map(lambda question: ask(question[1], question[2], timeout), questions)
        found: dict[str, list[Answer]] = {name: [] for name in sources}
        for (name, _, _), answer in zip(questions, answers, strict=True):
            found[name].append(answer)
    return found


def ask(url: str, item: Item | None, timeout: float) -> Answer:
    """One mirror's answer about a file."""
    address = f"https://drive.google.com/uc?id={url.removeprefix('drive:')}" if url.startswith("drive:") else url
    request = urllib.request.Request(address, method="HEAD", headers={"User-Agent": AGENT})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            headers = response.headers
    except urllib.error.HTTPError as error:
        with error:
            if error.code in (405, 501):
                return Answer(url, "does not answer requests for headers; only a download can show", True)
            return Answer(url, f"{error.code} {error.reason}", False)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        return Answer(url, f"cannot be reached ({str(reason) or type(reason).__name__})", False)
    if item is None:
        return Answer(url, "has it", True)
    kind, length = headers.get("Content-Type", ""), headers.get("Content-Length", "")
    if url.startswith("drive:"):
        return Answer(url, "Google Drive answers; only a download can show whether it has the file", True)
    if "text/html" in kind:
        return Answer(url, "sends an HTML page instead of the file", False)
    if item.bytes is not None and length.isdigit() and int(length) != item.bytes:
        return Answer(url, f"has {length} bytes, {item.bytes} were published", False)
    return Answer(url, f"has it, {_gb(int(length))}" if length.isdigit() else "has it, of unknown size", True)


# ---- disk, time, machine


def _room(missing: Mapping[str, Source], place: Place) -> Iterator[str]:
    """Archives are removed once unpacked: the peak is the total size, plus three archives at a time."""
    total = sum(source.size for source in missing.values())
    packed = sorted(source.size for source in missing.values() if any(item.unpack for item in source.items))
    folder = next(path for path in (place.raw.absolute(), *place.raw.absolute().parents) if path.exists())
    free = shutil.disk_usage(folder).free
    need = total + sum(packed[-3:])
    yield ""
    if not missing:
        return
    yield f"Disk: {_gb(need)} still needed at most for data and weights, {_gb(free)} free in {folder}"
    if need > free:
        yield f"  NOT ENOUGH: make room, or let {place.raw} be a link to a larger disk"
    if total:
        times = ", ".join(f"{total / rate / 3.6e9:.1f} h at {rate} MB/s" for rate in RATES)
        yield f"Time: {_gb(total)} to download: {times}"


def _work(study: Study, profile: str, is_own: bool) -> Iterator[str]:
    chosen, runs = study.profiles[profile], study.runs_in(profile)
    trainings = {
        dataset: len(chosen.seeds) * len(chosen.fold_names) * sum(run.dataset == dataset for run in runs.values())
        for dataset in PHOTOS
    }
    if chosen.vcoco.photos == "val2017":
        yield from _work_on_val2017(study, profile)
        return
    if chosen.world or is_own:
        yield f"Work: {sum(trainings.values())} trainings on {'your own data' if is_own else 'the drawn world'}"
        return
    views = {(run.dataset, run.backbone) for run in runs.values()}
    cells, each = GRID[0] * GRID[1], {"float16": 2, "float32": 4}[chosen.features.map_dtype]
    photos = sum(chosen.features.views * PHOTOS[dataset][0] + PHOTOS[dataset][1] for dataset, _ in views)
    cached = photos * cells * CHANNELS[chosen.features.map] * each
    hours = sum(PAPER_HOURS[dataset] * count for dataset, count in trainings.items())
    yield f"Disk: about {_gb(cached)} of cached features in results/{profile}; `rmlr features` says how much exactly"
    yield (
        f"Work: {', '.join(f'{count} trainings on {dataset}' for dataset, count in trainings.items() if count)}; at "
        f"the paper's pace, in {PAPER_HOURS['vcoco']:g} h (V-COCO) or {PAPER_HOURS['hicodet']:g} h (HICO-DET) on four "
        f"RTX 3080, {hours:.0f} h of such a machine"
    )


def _work_on_val2017(study: Study, profile: str) -> Iterator[str]:
    chosen = study.profiles[profile]
    runs, folds, seeds = len(study.runs_in(profile)), chosen.num_folds or 1, len(chosen.seeds)
    trainings = runs * folds * seeds
    each = {"float16": 2, "float32": 4}[chosen.features.map_dtype]
    cached = OF_VAL2017 * GRID[0] * GRID[1] * CHANNELS[chosen.features.map] * each
    hours = 2 * OF_VAL2017 * DETECTION_SECONDS / 3600  # once to measure it, once for its features
    counted = f"{runs} runs, {folds} folds, {seeds} seeds"
    yield f"Disk: about {_gb(cached)} of cached features in results/{profile} with DETR; other detectors need less"
    yield f"Work: {OF_VAL2017} photos, {trainings} training runs ({counted})"
    yield f"  DETR on the photos: about {hours:.1f} hours of one CPU core; the study says how long the rest takes"


def _machine() -> Iterator[str]:
    gpus = visible_gpus()
    yield f"Machine: {os.cpu_count()} CPU cores, {len(gpus)} GPU(s)"
    if gpus:
        query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
        yield from (f"  {line}" for line in subprocess.run(query, capture_output=True, text=True).stdout.splitlines())


def _packages(fetches: bool) -> tuple[Sequence[str], Sequence[str]]:
    """Versions of installed packages, and missing ones."""
    found, lacking = [], []
    for name in (*STAGES_NEED, *OPTIONAL):
        if importlib.util.find_spec(name) is not None:
            found.append(f"{name} {importlib.metadata.version(name)}")
        elif name in STAGES_NEED:
            lacking.append(f"{name}: pip install -e .")
        elif name in ("gdown", "huggingface_hub") and fetches:
            lacking.append(f"{name}, which {OPTIONAL[name]}: pip install -e '.[fetch]'")
        else:
            found.append(f"no {name}, which {OPTIONAL[name]}")
    return ["Packages: " + ", ".join(found)], lacking


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
