"""Marks results as current after a change of code that does not alter them."""

import getpass
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rmlr.study.current import SETTINGS
from rmlr.study.files import write_whole
from rmlr.study.folder import only_writer
from rmlr.study.made import ABOUT, made_by, read_about
from rmlr.study.nodes import NODES
from rmlr.study.plan import Study
from rmlr.study.section import Section

CODE = "code"  # the digest of a node's code, in its settings


@dataclass(frozen=True)
class Result:
    """A finished folder, and its present settings in the study."""

    folder: Path
    stage: str
    made: Section
    wanted: Section

    def differences(self) -> list[str]:
        """The differences except digests of code: `key: made -> wanted`."""
        one, other = _numbers(self.made), _numbers(self.wanted)
        return [
            f"{key}: {one.get(key)} -> {other.get(key)}" for key in {**one, **other} if one.get(key) != other.get(key)
        ]


def accept(*targets: Path, because: str, results: Path | None = None, params: Path = Path("params.yaml")) -> None:
    """Mark results as current after a change of code, if you know that the change alters none of them.

    `snakemake -n` shows what would be redone, and writes the present settings. This command writes the present digest
    of the code into the settings of each result, and who accepted it, when and why into its run.json. Only digests of
    code are accepted: if a number differs, the result must be redone. A result whose inputs have changed is redone in
    any case.

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
    other = {result.folder: differences for result in changed if (differences := result.differences())}
    if other and targets:
        lines = [f"  {folder}: {'; '.join(differences)}" for folder, differences in other.items()]
        raise ValueError("numbers differ, not only code, so nothing was accepted:\n" + "\n".join(lines))
    for folder, differences in other.items():
        sys.stdout.write(f"{folder}: left, numbers differ: {'; '.join(differences)}\n")
    accepted = [result for result in changed if result.folder not in other]
    for result in accepted:
        old, new = (_codes(section) for section in (result.made, result.wanted))
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


def _flat(tree: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of a node by its dotted path."""
    below = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else None
    if not below:
        yield above, tree
        return
    for key, part in below:
        yield from _flat(part, f"{above}.{key}" if above else str(key))


def _numbers(section: Section) -> dict[str, Any]:
    return {key: leaf for key, leaf in _flat(section.model_dump(mode="json")) if key.rpartition(".")[2] != CODE}


def _codes(section: Section) -> str:
    return str(section.model_dump(mode="json")[CODE])


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user id without a name
        return "unknown"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
