"""Marks results as current after a change of code that does not alter them."""

import getpass
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rmlr.study.current import SETTINGS, code_of, differences
from rmlr.study.files import write_whole
from rmlr.study.folder import only_writer
from rmlr.study.made import ABOUT, made_by, read_about
from rmlr.study.nodes import NODES
from rmlr.study.plan import Study
from rmlr.study.section import Section


@dataclass(frozen=True)
class Result:
    """A finished folder, and its present settings in the study."""

    folder: Path
    stage: str
    made: Section
    wanted: Section


def accept(*targets: Path, because: str, results: Path | None = None, params: Path = Path("params.yaml")) -> None:
    """Mark results as current after a change of code, if you know that the change alters none of them.

    `snakemake -n`, without a target, shows what would be redone, and writes the present settings of all results. This
    command writes the present digest of the code into the settings of each result, and who accepted it, when and why
    into its run.json. Only digests of code are accepted: if a number differs, the result must be redone. A result whose
    inputs have changed is redone in any case.

    Args:
        targets: folders of results, or their parents; by default all results of the profile.
        because: why the change alters nothing; recorded in run.json.
        results: the profile's folder; by default results/PROFILE of the profile that params.yaml names.
        params: the study's parameters.
    """
    if not because.strip():
        raise ValueError("--because: say why the change of code alters no result, such as 'names only'")
    root = results or Path("results", Study.load(params).profile)
    found = list(_results(root, targets))
    changed = [result for result in found if result.made != result.wanted]
    other = {result.folder: numbers for result in changed if (numbers := differences(result.made, result.wanted))}
    if other and targets:
        lines = [f"  {folder}: {'; '.join(numbers)}" for folder, numbers in other.items()]
        raise ValueError("numbers differ, not only code, so nothing was accepted:\n" + "\n".join(lines))
    for folder, numbers in other.items():
        sys.stdout.write(f"{folder}: left, numbers differ: {'; '.join(numbers)}\n")
    accepted = [result for result in changed if result.folder not in other]
    for result in accepted:
        old, new = (code_of(section) for section in (result.made, result.wanted))
        _mark(result, {"who": _user(), "when": _now(), "because": because, "from": old, "to": new})
        sys.stdout.write(f"{result.folder}: accepted, code {old} -> {new}\n")
    current = len(found) - len(changed)
    sys.stdout.write(f"{len(accepted)} accepted, {current} current before, {len(other)} left\n")


def _results(root: Path, targets: Sequence[Path]) -> Iterator[Result]:
    """The finished results below a profile's folder, or those below `targets`."""
    settings = root / "settings"
    if not settings.is_dir():
        raise ValueError(f"{settings}: does not exist. `snakemake -n` writes the present settings of the study")
    named = dict.fromkeys(targets, False)
    for wanted in sorted(settings.rglob("*.yaml")):
        folder = root / wanted.relative_to(settings).with_suffix("")
        holders = [target for target in targets if folder.absolute().is_relative_to(target.absolute())]
        stage = read_about(folder).get("stage")
        if (targets and not holders) or stage not in NODES or not (folder / SETTINGS).is_file():
            continue
        named |= dict.fromkeys(holders, True)
        try:
            yield Result(folder, stage, NODES[stage].load(folder / SETTINGS), NODES[stage].load(wanted))
        except ValueError as error:
            if targets:
                raise ValueError(
                    f"{error}\nIt was made with settings that the present code does not have: make it again"
                ) from error
            sys.stdout.write(f"{folder}: left, made with settings that the present code cannot read\n")
    if missing := [str(target) for target, is_named in named.items() if not is_named]:
        raise ValueError(f"{', '.join(missing)}: no finished result of {root} is there")


def _mark(result: Result, entry: dict[str, Any]) -> None:
    """Record who accepted a result, then write the settings with which it is current."""
    with only_writer(result.folder.resolve()):
        about = read_about(result.folder)
        about["accepted"] = [*about.get("accepted", []), entry]
        write_whole(result.folder / ABOUT, json.dumps(about, indent=2) + "\n")
        aside = result.folder / f".{SETTINGS}.part"
        aside.write_text(result.wanted.dump())
        made_by(result.folder, result.stage).put(aside, SETTINGS)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user id without a name
        return "unknown"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
