"""Real data and weights, from the net or from what the user has: checked, unpacked, and known by a receipt."""

import logging
from pathlib import Path

from rmlr.fetch.download import Patience
from rmlr.fetch.fetcher import Fetcher
from rmlr.fetch.place import Place, by_hand
from rmlr.fetch.sources import DEFAULT, load_sources, wanted
from rmlr.study.files import FULL, disk_full
from rmlr.study.plan import Study

log = logging.getLogger(__name__)


def fetch(
    *names: str,
    profile: str | None = None,
    raw: Path = DEFAULT,
    have: list[Path] | None = None,
    sources: Path | None = None,
    params: Path = Path("params.yaml"),
    keep: bool = False,
    attempts: int = 5,
    timeout: float = 60.0,
    pause: float = 2.0,
) -> None:
    """Get sources of the study's real data and weights: those named, or all that a profile needs.

    What has been fetched is left alone. What was interrupted, at whatever moment, is resumed. Nothing counts as there
    before its size, its checksum and its number of files are right; then `raw`/receipts gets NAME.ok.

    Archives that you have are taken from the folders that --have names and from `raw`/archives, by their names; trees
    that you have unpacked, from the same folders; whatever lies in its place below `raw` already is counted and taken.
    None of it is copied: files are linked.

    Where no checksum was published, the one of the first fetch is kept in `raw`/checksums.json and counts from then on:
    keep that file under version control. `rmlr doctor` says what there is to fetch, and what is missing.

    Args:
        names: sources, as the table names them; none for all that the profile needs.
        profile: whose needs; without it, what --params says.
        raw: folder that gets the data; weights for a profile of own data go to data/raw in any case.
        have: folders, links or mounts to look in before anything is downloaded; may be given several times.
        sources: another table of sources than the package's.
        params: the study.
        keep: keep downloaded archives, in `raw`/archives; otherwise they go once they are unpacked.
        attempts: how often in a row a mirror may fail before the next one is asked.
        timeout: seconds that a mirror may be silent.
        pause: seconds before the second attempt; doubled from one to the next.
    """
    table = load_sources(sources)
    if names:
        if unknown := [name for name in names if name not in table]:
            raise ValueError(f"there is no source '{unknown[0]}'. There are: {', '.join(table)}")
        chosen = list(names)
    else:
        study = Study.load(params)
        raw, needs = wanted(table, study, profile or study.profile, raw)
        chosen = list(needs)
        if not chosen:
            log.info("profile %s needs nothing from outside", profile or study.profile)
    if attempts < 1:
        raise ValueError(f"--attempts {attempts}: expected one at least")
    fetcher = Fetcher(Place(raw), have or [], Patience(attempts, timeout, pause), keep)
    problems = []
    for name in chosen:  # one that fails does not keep the others from coming
        try:
            fetcher.fetch(name, table[name])
        except (ValueError, OSError) as error:
            if isinstance(error, OSError) and error.errno in FULL:
                raise disk_full(error, raw) from error
            problems.append(f"{name}: {error}\n{by_hand(name, table[name], Place(raw))}")
            log.error("%s: %s", name, error)
    if problems:
        raise ValueError(f"{len(problems)} of {len(chosen)} source(s) could not be fetched:\n" + "\n".join(problems))
