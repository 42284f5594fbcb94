"""Verified download of a file from one of its mirrors, with resuming; or of a folder from the hub, at one commit.

An unfinished download is FILE.part, with FILE.part.json, which says what it is a part of. It is renamed to FILE only
when its length, its kind and every known checksum have been verified.
"""

import hashlib
import json
import logging
import re
import shutil
import time
import urllib.error
import urllib.request
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any, BinaryIO

from rmlr.fetch.sources import UNPUBLISHED, Item
from rmlr.study.files import FULL, disk_full
from rmlr.study.run import Progress

log = logging.getLogger(__name__)

CHUNK = 1 << 18
MEGABYTE = 1_000_000
AGENT = "rmlr (a reproduction study; resumes by range)"
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
LONGEST_WAIT = 600.0  # seconds, whatever Retry-After says
CRAWL = 1000  # bytes: a server that sends less within a time-out counts as hanging
GAIN = 1 << 16  # bytes: an attempt with at least this progress resets the count of failures

# First bytes of files. Anything else under such a name is an HTML page, or another file.
MAGIC = {
    ".zip": (b"PK\x03\x04", b"PK\x05\x06"),
    ".gz": (b"\x1f\x8b",),
    ".pth": (b"PK\x03\x04", b"\x80\x02"),  # torch's format, and the previous one
    ".json": (b"{", b"["),
    ".ids": tuple(b"0123456789"[n : n + 1] for n in range(10)),
    ".mat": (b"MATLAB", b"\x89HDF"),
}
PAGES = {  # phrases of pages that are sent instead of a file, in lower case
    "too many users have viewed or downloaded": "Google Drive's quota page; it lifts within 24 hours",
    "quota exceeded": "Google Drive's quota page; it lifts within 24 hours",
    "can't scan this file for viruses": "Google Drive's virus-scan page",
    "virus scan warning": "Google Drive's virus-scan page",
    "you need access": "Google Drive's page that asks for permission",
    "you need permission": "Google Drive's page that asks for permission",
    "request access": "Google Drive's page that asks for permission",
    "permission to 'anyone with the link'": "Google Drive's refusal: its quota, a permission, or a file that is gone",
    "accounts.google.com": "a page to sign in to Google",
    "404. that": "Google's page for a file that is gone",
}


class Unfit(ValueError):
    """A mirror does not have the file, and another attempt would not help."""


class Busy(OSError):
    """A temporary failure of a mirror."""

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait


@dataclass(frozen=True)
class Patience:
    """The retry policy for a mirror."""

    attempts: int  # consecutive ones without progress
    timeout: float  # seconds without an answer, or with almost none
    pause: float  # seconds before the second attempt; doubled for each further one


def download(item: Item, target: Path, patience: Patience, seen: str | None) -> str:
    """Download a file from the first mirror that has it, and return that mirror.

    Resumes an earlier call. `seen` is the SHA-256 of an earlier fetch, if none is published. ValueError names every
    mirror and its error.
    """
    if seen is not None and len(item.sha256) < 64:
        item = item.model_copy(update={"sha256": seen})
    target.parent.mkdir(parents=True, exist_ok=True)
    part, wrong = target.with_name(f"{target.name}.part"), []
    if target.exists():
        if mismatch(target, item) is None:
            return _read_note(part).get("url", "an earlier attempt")
        target.unlink()
    for url in item.urls:
        get = partial(_from_drive, url.removeprefix("drive:")) if url.startswith("drive:") else partial(_from_http, url)
        try:
            for resumed in (part.exists(), False):
                get(part, item, patience)
                problem = mismatch(part, item)
                if problem is None:
                    break
                _forget(part)
                if not resumed:
                    raise Unfit(problem)
                log.warning("%s: the resumed file %s; trying once more, from the start", url, problem)
        except Unfit as error:
            wrong.append(f"  {url}: {error}")
            log.warning("%s: %s", url, error)
            continue
        part.replace(target)
        return url
    raise ValueError(f"{item.file}: no mirror has it:\n" + "\n".join(wrong))


def mismatch(path: Path, item: Item) -> str | None:
    """The error in a file, cheapest check first; None if it passes all checks."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(1 << 16)
    if page := page_in(start):
        return f"is {page}, not {item.file}"
    if item.bytes is not None and size != item.bytes:
        return f"has {size} bytes, {item.bytes} were published"
    if not size:
        return "is empty"
    if not _begins_right(item.file, start):
        return f"begins with {start[:8]!r}: not a {Path(item.file).suffix} file"
    if item.sha256 != UNPUBLISHED and not (found := sha256(path)).startswith(item.sha256):
        return f"has SHA-256 {found}, expected {item.sha256}{'...' if len(item.sha256) == 8 else ''}: other bytes"
    if item.git_blob is not None and (found := git_blob(path)) != item.git_blob:
        return f"is git blob {found}, expected {item.git_blob}: other bytes"
    return None


def page_in(start: bytes) -> str | None:
    """The name of the page that begins with these bytes; None if they are not HTML."""
    text = start.lower().lstrip(b"\xef\xbb\xbf \t\r\n")
    if not text.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml", b"<!--")):
        return None
    return page_named(text.decode(errors="replace")) or "an HTML page"


def page_named(text: str) -> str | None:
    """The name of the known page or message in this text."""
    text = text.lower().replace("&#39;", "'").replace("\u2019", "'")
    return next((name for phrase, name in PAGES.items() if phrase in text), None)


def _begins_right(file: str, start: bytes) -> bool:
    magic = MAGIC.get(Path(file).suffix)
    return magic is None or start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(magic) or start.startswith(magic)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_blob(path: Path) -> str:
    """The git blob id of a file's content."""
    found = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            found.update(chunk)
    return found.hexdigest()


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


# ---- http


def _from_http(url: str, part: Path, item: Item, patience: Patience) -> None:
    """Try until `part` has its full length; Unfit after too many failures."""
    in_vain, dropped = 0, False
    while True:
        before = _length(part)
        try:
            _one_try(url, part, item, patience.timeout, resumed=dropped)
            return
        except Unfit:
            raise
        except (OSError, HTTPException) as error:
            if isinstance(error, OSError) and error.errno in FULL:
                raise disk_full(error, part) from error
            problem = error
        dropped = True
        in_vain = 0 if _length(part) >= before + GAIN else in_vain + 1
        if in_vain >= patience.attempts:
            raise Unfit(f"given up after {in_vain} attempts: {problem or type(problem).__name__}") from problem
        wait = patience.pause * 2 ** max(0, in_vain - 1)
        if isinstance(problem, Busy):
            wait = max(wait, problem.wait)
        log.info("%s: %s; again in %.0f s", url, problem or type(problem).__name__, wait)
        time.sleep(min(wait, LONGEST_WAIT))


def _one_try(url: str, part: Path, item: Item, timeout: float, *, resumed: bool) -> None:
    have, headers = _length(part), {"User-Agent": AGENT, "Accept-Encoding": "identity"}
    if item.bytes is not None and have == item.bytes:
        return
    if have:
        note = _read_note(part)
        validator = note.get("validator") if note.get("url") == url else None
        if (item.bytes is not None and have > item.bytes) or not (validator or item.is_known):
            have = 0  # a part of an unknown file
        else:
            headers["Range"] = f"bytes={have}-"
            if validator:
                headers["If-Range"] = validator
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416:
                if _content_range(error.headers.get("Content-Range"))[1] == have and item.bytes is None:
                    return  # the part is complete
                _forget(part)
                raise Busy(f"has no bytes after {have}: from the start") from error
            if error.code in TRANSIENT:
                raise Busy(f"answers {error.code} {error.reason}", _retry_after(error.headers)) from error
            page = page_named(error.read(1 << 16).decode(errors="replace"))
            raise Unfit(f"answers {error.code} {error.reason}" + (f" with {page}" if page else "")) from error
    except urllib.error.URLError as error:
        raise Busy(f"cannot be reached ({error.reason})") from error
    with response:
        _receive(url, response, part, item, have, timeout, resumed)


def _receive(url: str, response: Any, part: Path, item: Item, have: int, timeout: float, resumed: bool) -> None:
    """Append what a mirror sends to the part, or replace the part."""
    headers = response.headers
    length = int(headers["Content-Length"]) if (headers.get("Content-Length") or "").isdigit() else None
    if headers.get("Content-Encoding", "identity") != "identity":
        raise Unfit(f"sends the file in another encoding, {headers['Content-Encoding']}")
    if response.status == 206:
        start, total = _content_range(headers.get("Content-Range"))
        if start != have:
            _forget(part)
            raise Busy(f"was asked for bytes from {have} and sends those from {start}: from the start")
    else:
        if resumed and have:
            log.info("%s: does not resume; from the start", url)
        have, total = 0, length
    first = response.read1(CHUNK)
    if not have and "text/html" in headers.get("Content-Type", "") and not item.file.endswith(".html"):
        raise Unfit(f"sends {page_in(first) or 'an HTML page'} instead of {item.file}")
    if not have and (page := page_in(first)):
        raise Unfit(f"sends {page} instead of {item.file}")
    if item.bytes is not None and total is not None and total != item.bytes:
        raise Unfit(f"announces {total} bytes, {item.bytes} were published: another file")
    if not have:
        part.open("wb").close()
        validator = headers.get("ETag") or ""
        if not validator or validator.startswith("W/"):  # a weak validator does not guarantee the same bytes
            validator = headers.get("Last-Modified")
        _note(part).write_text(json.dumps({"url": url, "validator": validator}))
    end = total if total is not None else item.bytes
    with part.open("ab") as file:
        have = _pour(first, response, file, have, end or item.size, item, timeout)
    if item.bytes is not None and have > item.bytes:
        _forget(part)
        raise Unfit(f"sends more than the {item.bytes} bytes that were published: another file")
    if end is not None and have < end:
        raise Busy(f"dropped the connection at byte {have} of {end}")


def _pour(first: bytes, response: Any, file: BinaryIO, have: int, planned: int, item: Item, timeout: float) -> int:
    """Copy the response body to a file; returns the size of the file."""
    said = MegabytesOf(item.file, planned, have)
    mark, at_mark, chunk = time.monotonic(), have, first
    while chunk:
        file.write(chunk)
        have += len(chunk)
        said(have)
        if item.bytes is not None and have > item.bytes:
            break
        if (now := time.monotonic()) - mark > timeout:
            if have - at_mark < CRAWL:
                raise Busy(f"hangs: {have - at_mark} bytes in {now - mark:.0f} s")
            mark, at_mark = now, have
        chunk = response.read1(CHUNK)
    return have


class MegabytesOf:
    """Logs the progress of a download and the remaining time."""

    def __init__(self, what: str, planned: int, have: int) -> None:
        start = have // MEGABYTE
        pace = deque([(time.monotonic(), start)], maxlen=6)
        self._progress = Progress(max(1, -(-planned // MEGABYTE)), f"{what}, MB", start, time.monotonic(), pace)

    def __call__(self, have: int) -> None:
        if (more := have // MEGABYTE - self._progress.done) > 0:
            self._progress.advance(more)


def _read_note(part: Path) -> dict[str, Any]:
    try:
        note = json.loads(_note(part).read_text())
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def _content_range(text: str | None) -> tuple[int | None, int | None]:
    """Start and total of a Content-Range header."""
    found = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", text or "")
    if not found:
        return None, None
    return (int(found[1]) if found[1] else None), (int(found[2]) if found[2] != "*" else None)


def _retry_after(headers: Any) -> float:
    """The seconds of a Retry-After header, given as such or as a date."""
    text = headers.get("Retry-After") or ""
    if text.isdigit():
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0


# ---- Google Drive, the hub


def _from_drive(file_id: str, part: Path, item: Item, patience: Patience) -> None:
    """Download by gdown, which knows Drive's pages; it has its own part file and resumes from it."""
    if item.bytes is not None and _length(part) == item.bytes:
        return
    try:
        import gdown
    except ImportError as error:
        raise Unfit("Google Drive needs gdown: pip install 'rmlr[fetch]'") from error
    folder = part.with_name(f"{part.name}.drive")
    folder.mkdir(exist_ok=True)
    said = MegabytesOf(item.file, item.size, 0)

    def watch(have: int, total: int | None) -> None:
        if item.bytes is not None and total not in (None, item.bytes):
            raise Unfit(f"announces {total} bytes, {item.bytes} were published: another file")
        said(have)

    try:
        tries = {"retries": patience.attempts - 1, "timeout": patience.timeout}
        gdown.download(id=file_id, output=str(folder / "file"), quiet=True, resume=True, progress=watch, **tries)
    except Unfit:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    except gdown.DownloadError as error:
        message = " ".join(str(error).split())
        named = page_named(message)
        raise Unfit(f"gdown: {message}" + (f" ({named})" if named else "")) from error
    except OSError as error:  # requests' errors are among them
        if error.errno in FULL:
            raise disk_full(error, part) from error
        raise Unfit(f"gdown: {error}") from error
    (folder / "file").replace(part)
    _note(part).write_text(json.dumps({"url": f"drive:{file_id}", "validator": None}))
    shutil.rmtree(folder, ignore_errors=True)
