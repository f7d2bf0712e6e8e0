"""Asks the Hugging Face Hub through its own library: waits where the Hub wants it, tries again after faults that pass,
and says in one sentence why a download failed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, TypeVar, cast
from urllib.parse import urlsplit

from harness.data.sources.base import Progress, Source
from harness.errors import OfflineError, SourceError, unknown

if TYPE_CHECKING:
    from httpx2 import Client, Response, SyncByteStream
    from huggingface_hub.errors import HfHubHTTPError

T = TypeVar("T")
HUB = "https://huggingface.co"
PATIENCE = 300  # seconds that one download waits in all because the Hub is busy
PAUSES = (1, 2, 4)  # seconds before the second, third and fourth try, where the Hub names no time
OTHER_KIND = {
    "model": ("dataset", "There is a data set of this name: give it as the `source` of a task."),
    "dataset": ("model", "There is a model of this name: give it under `models:`."),
}


class TooLong(Exception):
    """The Hub asks for a longer pause than `PATIENCE` leaves; `seconds` is what it asks for."""

    def __init__(self, seconds: float):
        super().__init__(f"{seconds:.0f} s")
        self.seconds = seconds


class NoHub(Exception):
    """What answers is no Hub: its pages are not the Hub's JSON."""


def endpoint() -> str:
    """Return the address of the Hub: $HF_ENDPOINT, or huggingface.co. Raises SourceError where that is no address."""
    given = os.environ.get("HF_ENDPOINT", "").strip().rstrip("/")
    try:
        parts = urlsplit(given or HUB)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return given or HUB
    except ValueError:
        pass  # such as a port that is no number
    raise SourceError(f"HF_ENDPOINT is {given!r}, and must be the address of a Hub, such as {HUB}.")


def patiently(ask: Callable[[], T], source: Source, report: Progress, repo_type: str = "model") -> T:
    """Return what `ask`, a function that uses the Hub's library, returns. It is called again after faults that pass, at
    most four times; `report` is told of pauses.

    `source` and `repo_type` ("model" or "dataset") are what messages name. Raises SourceError with the reason, and
    OfflineError where the network cannot be reached.
    """
    from huggingface_hub import errors

    with plain_http(), watched_client(Pauses(report)) as pauses:
        for pause in (*PAUSES, None):
            try:
                return ask()
            except (errors.HTTPError, errors.EntryNotFoundError, errors.FileMetadataError, TooLong) as error:
                cause = cause_of(error)
            except RuntimeError as error:  # as the Hub's own transfer raises it
                cause = error
            except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
                # The library reads answers without looking at their form, as those of a login page in a hotel.
                cause = cause_of(error) if error.__cause__ is not None else NoHub(first_line(error))
            except OSError as error:
                if not str(error).startswith("Consistency check failed"):
                    raise  # of the disk
                cause = error
            if pause is None or not passes(cause):
                raise complaint(cause, source, repo_type)
            with suppress(TooLong):
                pauses.wait(seconds_asked(cause) or pause, "the Hub" if is_busy(cause) else "the connection")
                continue
            raise complaint(cause, source, repo_type)
    raise AssertionError("the last try returns or raises")


@contextmanager
def plain_http() -> Iterator[None]:
    """While this lasts, the Hub's library downloads by HTTP, unless the user asks for the Hub's own transfer (xet) with
    HF_HUB_DISABLE_XET=0.

    That transfer asks hosts of its own, which mirrors do not have and firewalls do not know. It then tries for minutes,
    it resumes nothing, and no pause of it can be bounded.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_DISABLE_XET
    constants.HF_HUB_DISABLE_XET = not wants_xet()
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_XET = before


def wants_xet() -> bool:
    """Return whether the user asks for the Hub's own transfer."""
    return os.environ.get("HF_HUB_DISABLE_XET", "").strip().lower() in ("0", "false", "no", "off")


class Pauses:
    """Counts the pauses of one download, and ends it with TooLong where the Hub asks for more than `PATIENCE` leaves.
    `report` is told of each one."""

    def __init__(self, report: Progress):
        self.report = report
        self.waited = 0.0  # seconds in which at least one thread waited
        self.until = 0.0
        self.lock = threading.Lock()

    def plan(self, seconds: float, who: str) -> None:
        """Count a pause that begins now; threads that wait together wait once. Raises TooLong."""
        with self.lock:
            now = time.monotonic()
            more = max(0.0, now + seconds - max(now, self.until))
            if self.waited + more > PATIENCE:
                raise TooLong(seconds)
            self.waited, self.until = self.waited + more, max(self.until, now + seconds)
        self.report(f"{who} needs a pause of {seconds:.0f} s", 0, 0)

    def wait(self, seconds: float, who: str) -> None:
        """Count a pause, and wait. Raises TooLong."""
        self.plan(seconds, who)
        time.sleep(seconds)

    def look_at(self, response: Response) -> None:
        """Look at an answer before the library does. The library waits as long as it is told to: a pause is bounded
        here, and its date form, which it does not read, is put into seconds."""
        if (seconds := pause_in(response)) is not None:
            self.plan(seconds, "the Hub")
            response.headers["Retry-After"] = str(int(seconds))
        response.stream = resumable(cast("SyncByteStream", response.stream))


def resumable(stream: SyncByteStream) -> SyncByteStream:
    """Return a stream of an answer whose loss counts as a cut, which the library resumes by Range: it does so where the
    other side ends too early, and not where it resets the connection."""
    import httpx2

    class Resumable(httpx2.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            try:
                yield from stream
            except httpx2.NetworkError as error:
                raise httpx2.RemoteProtocolError(str(error) or type(error).__name__) from error

        def close(self) -> None:
            stream.close()

    return Resumable()


@contextmanager
def watched_client(pauses: Pauses) -> Iterator[Pauses]:
    """While this lasts, the Hub's library shows every answer to `pauses`."""
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils._http import default_client_factory  # the one that `set_client_factory` replaces

    def watched() -> Client:
        client: Client = default_client_factory()
        client.event_hooks = {**client.event_hooks, "response": [*client.event_hooks["response"], pauses.look_at]}
        return client

    set_client_factory(watched)
    try:
        yield pauses
    finally:
        set_client_factory(default_client_factory)


def pause_in(response: Response) -> float | None:
    """Return the seconds that a busy Hub asks to wait in its headers, None where it does not."""
    from huggingface_hub.utils import parse_ratelimit_headers

    if response.status_code not in (429, 503):
        return None
    limit = parse_ratelimit_headers(response.headers)
    if response.status_code == 429 and limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    given = response.headers.get("Retry-After", "").strip()
    if given.isdigit():
        return float(given)
    with suppress(ValueError, TypeError):
        return max(0.0, (parsedate_to_datetime(given).astimezone(UTC) - datetime.now(UTC)).total_seconds())
    return None


def cause_of(error: BaseException) -> BaseException:
    """Return the fault of the network or the Hub behind an error of the library, which wraps it; the error itself where
    there is none."""
    from huggingface_hub import errors

    found: BaseException | None = error
    while found is not None:
        if isinstance(found, (errors.HTTPError, errors.FileMetadataError, TooLong)):
            return found
        found = found.__cause__
    return error


def status_of(cause: BaseException) -> int | None:
    """Return the HTTP status that a fault came with, None where there was no answer."""
    from huggingface_hub import errors

    return cause.response.status_code if isinstance(cause, errors.HfHubHTTPError) else None


def is_busy(cause: BaseException) -> bool:
    """Return whether a fault is the Hub's, now, and not the network's."""
    status = status_of(cause)
    return status is not None and (status in (408, 429) or status >= 500)


def seconds_asked(cause: BaseException) -> float | None:
    """Return the seconds to wait that a fault came with, or None."""
    from huggingface_hub import errors

    return pause_in(cause.response) if isinstance(cause, errors.HfHubHTTPError) else None


def passes(cause: BaseException) -> bool:
    """Return whether a fault may be gone at the next try. A Hub that cannot be reached at all is not waited for."""
    import httpx2

    if isinstance(cause, (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError)):
        return False
    broken = (httpx2.NetworkError, httpx2.TimeoutException, httpx2.RemoteProtocolError)
    return is_busy(cause) or isinstance(cause, broken) or str(cause).startswith("Consistency check failed")


def complaint(cause: BaseException, source: Source, repo_type: str) -> SourceError:
    """Return the error that says why a repository cannot be fetched, and what to do."""
    from huggingface_hub import errors

    if isinstance(cause, TooLong):
        why = (
            f"{endpoint()} is busy (429, too many requests) and asks for a pause of {cause.seconds:.0f} s; a download "
            f"waits {PATIENCE} s in all. Run again after that; with a token (`hf auth login`) the Hub allows more"
        )
    elif isinstance(cause, errors.HfHubHTTPError):
        why = refusal(cause, source, repo_type)
    elif isinstance(cause, RuntimeError):
        why = f"the Hub's own transfer fails ({first_line(cause)}). Unset HF_HUB_DISABLE_XET: plain HTTP is used then"
    elif isinstance(cause, NoHub) and str(cause).startswith("The file is too large"):
        why = (
            "one of its files has more than 50 GB, which the Hub gives by its own transfer alone. Set "
            "HF_HUB_DISABLE_XET=0"
        )
    elif isinstance(cause, (errors.FileMetadataError, NoHub)):
        why = (
            f"what answers at {endpoint()} is no Hub ({first_line(cause)}). Check HF_ENDPOINT, the proxy, and "
            "whether this network wants a login"
        )
    elif passes(cause):
        why = (
            f"the connection to {endpoint()} broke {len(PAUSES) + 1} times ({first_line(cause)}). Run again: complete "
            "files are kept"
        )
    else:
        return OfflineError(f"cannot fetch {source}: {offline(cause)}")
    error = SourceError(f"cannot fetch {source}: {why}.")
    error.__cause__ = cause
    return error


def offline(cause: BaseException) -> str:
    """Return the sentences for a Hub that cannot be reached, and a repository that is not in the cache."""
    return (
        f"it is not in the cache, and {endpoint()} cannot be reached ({first_line(cause)}). Run `tunebench fetch SUITE`"
        " while online, or set HF_ENDPOINT to a mirror that this machine reaches."
    )


def refusal(cause: HfHubHTTPError, source: Source, repo_type: str) -> str:
    """Return why the Hub does not give a repository, and what to do, from the status and the headers of its answer."""
    from huggingface_hub import errors

    response, noun = cause.response, "data set" if repo_type == "dataset" else "model"
    status, page = response.status_code, f"{endpoint()}/{'datasets/' if repo_type == 'dataset' else ''}{source.name}"
    token = token_sent(response)
    if isinstance(cause, errors.RevisionNotFoundError):
        return unknown_revision(source, repo_type)
    if isinstance(cause, errors.GatedRepoError):
        if not token:
            return f"it is gated: accept its terms at {page}, then run `hf auth login`, or set HF_TOKEN"
        return (
            f"it is gated, and the account of {token} has not been let in: ask for access at {page}; a fine-grained "
            "token also needs the right to read gated repositories"
        )
    if isinstance(cause, errors.DisabledRepoError):
        return "the Hub has disabled it. Take another repository, or a local copy (`file:`)"
    if isinstance(cause, errors.RepositoryNotFoundError):
        private = f"it is private and {token} may not read it" if token else "it is private (then run `hf auth login`)"
        hint = other_kind(source, repo_type)
        mirror = " HF_ENDPOINT names a mirror, which need not have all that the Hub has." if endpoint() != HUB else ""
        return f"{endpoint()} has no {noun} {source.name!r}, or {private}. Check the name.{mirror}{hint}".rstrip(".")
    said = f" ({cause.server_message.strip().splitlines()[0][:200]})" if (cause.server_message or "").strip() else ""
    if status == 401:
        return (
            f"{endpoint()} refuses {token or 'to answer without a token'}{said}: run `hf auth login`, or unset HF_TOKEN"
        )
    if status == 403:
        return f"{endpoint()} forbids it to {token or 'users without a token'}{said}: give a token that may read {page}"
    if status == 429:
        return f"{endpoint()} is busy (429, too many requests){said}, after {len(PAUSES) + 1} tries. Run again later"
    if status >= 500:
        return (
            f"{endpoint()} fails ({status} {response.reason_phrase}){said}, after {len(PAUSES) + 1} tries. Run again "
            "later: complete files are kept"
        )
    return f"{endpoint()} answers {status} {response.reason_phrase}{said}. Check the name and the revision"


def unknown_revision(source: Source, repo_type: str) -> str:
    """Return that a repository has no such revision, with the nearest of those that it has."""
    from huggingface_hub import HfApi

    names: list[str] = []
    with suppress(Exception):  # asked for a better message only
        refs = HfApi(endpoint()).list_repo_refs(source.name, repo_type=repo_type)
        names = [ref.name for ref in (*refs.branches, *refs.tags)]
    if not names:
        return f"the repository has no branch, tag or commit {source.version!r}. Check the revision"
    return unknown("branch, tag or commit", source.version, names).rstrip(".")


def other_kind(source: Source, repo_type: str) -> str:
    """Return a sentence where the name is that of a repository of the other kind, else ""."""
    from huggingface_hub import HfApi

    other, sentence = OTHER_KIND[repo_type]
    with suppress(Exception):  # asked for a better message only
        if HfApi(endpoint()).repo_exists(source.name, repo_type=other):
            return f" {sentence}"
    return ""


def token_sent(response: Response) -> str:
    """Return which token a refused request was sent with, in words, "" for none. The token itself is never shown."""
    with suppress(RuntimeError):  # an answer that knows no request
        if not response.request.headers.get("authorization"):
            return ""
    given = any(os.environ.get(name) for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"))
    return "the token in HF_TOKEN" if given else "the token of `hf auth login`"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its kind where it has none. Addresses lose their query, in which a
    storage server's signature stands."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return " ".join(word.partition("?")[0] if "://" in word else word for word in line.split())[:300]
