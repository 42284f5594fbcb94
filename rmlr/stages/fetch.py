"""Real data and weights, from the network or from the user's files: verified, unpacked, and recorded by a receipt."""

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
    """Fetch sources of the study's real data and weights: those named, or all that a profile needs.

    Sources that exist are not fetched again. An interrupted fetch resumes. A source counts as fetched only when its
    size, its checksum and its number of files have been verified; then `raw`/receipts gets NAME.ok.

    Archives that you have are read from the folders of --have and from `raw`/archives, by their names; unpacked folders
    from the same places. Files that are already at their path below `raw` are counted and used. Nothing is copied:
    files are linked.

    If no checksum is published, that of the first fetch is recorded in `raw`/checksums.json and used from then on: keep
    that file under version control. `rmlr doctor` lists what there is to fetch, and what is missing.

    Args:
        names: sources, as named in the table; if left out, all that the profile needs.
        profile: the profile; by default that of --params.
        raw: folder for the data; weights for a profile with your own data go to data/raw in any case.
        have: folders, links or mounts to search before anything is downloaded; may be given several times.
        sources: a table of sources that replaces the package's.
        params: the study's parameters.
        keep: keep downloaded archives in `raw`/archives; otherwise they are removed once they are unpacked.
        attempts: number of consecutive failures before the next mirror is used.
        timeout: seconds without data before an attempt counts as failed.
        pause: seconds before the second attempt; doubled for each further one.
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
            log.info("profile %s needs no source", profile or study.profile)
    if attempts < 1:
        raise ValueError(f"--attempts {attempts}: expected at least 1")
    fetcher = Fetcher(Place(raw), have or [], Patience(attempts, timeout, pause), keep)
    problems = []
    for name in chosen:  # a failure does not stop the others
        try:
            fetcher.fetch(name, table[name])
        except (ValueError, OSError) as error:
            if isinstance(error, OSError) and error.errno in FULL:
                raise disk_full(error, raw) from error
            problems.append(f"{name}: {error}\n{by_hand(name, table[name], Place(raw))}")
            log.error("%s: %s", name, error)
    if problems:
        raise ValueError(f"{len(problems)} of {len(chosen)} source(s) could not be fetched:\n" + "\n".join(problems))
