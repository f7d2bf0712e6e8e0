"""`hf:` against a Hub on the loopback interface (`hub_server.py`), through the Hub's own library."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from hub_server import Fault, Hub, commit_of

from harness.data import Catalog, ModelFacts, keep_facts, sources
from harness.data.sources import fetch, fingerprint, hub, kind_of, parse
from harness.data.sources.hf import HubRepository
from harness.errors import OfflineError, SourceError

NAME = "org/tiny"
FILES = {"config.json": b'{"model_type": "tiny"}', "sub/weights.bin": bytes(range(256)) * 400}  # the second is in LFS
COMMIT = commit_of(FILES)
WEIGHTS = FILES["sub/weights.bin"]


@pytest.fixture
def server(hub_server: Hub) -> Hub:
    """A Hub with one repository."""
    hub_server.add(NAME, FILES)
    return hub_server


def contents(path: Path) -> dict[str, bytes]:
    return {name: (path / name).read_bytes() for name in FILES}


def partial_files(root: Path) -> list[str]:
    return [str(path) for path in root.rglob("*.incomplete")]


def why(text: str) -> str:
    """The message of the error with which a source cannot be fetched, on one line. It is not of the kind that says that
    there is no network."""
    with pytest.raises(SourceError) as caught:
        fetch(parse(text))
    assert type(caught.value) is SourceError, caught.value
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"cannot fetch {text}: ")
    return str(caught.value)


# ---- what is fetched ----


def test_a_repository_is_fetched_and_then_works_offline(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    branch, pinned = parse(f"hf:{NAME}"), parse(f"hf:{NAME}@{COMMIT}")
    reports: list[tuple[str, int, int]] = []
    assert kind_of(branch).cached(branch, Path()) is None
    path = fetch(branch, progress=lambda *report: reports.append(report))
    assert contents(path) == FILES
    assert max(done for _, done, _ in reports) == sum(map(len, FILES.values()))
    assert fingerprint(branch, path) == fingerprint(pinned, path)

    server.asked.clear()
    assert fetch(pinned) == path  # a commit never changes, so nobody is asked
    assert not server.asked
    monkeypatch.setenv("TUNEBENCH_OFFLINE", "1")
    assert fetch(branch) == path
    monkeypatch.delenv("TUNEBENCH_OFFLINE")
    server.stop()
    assert fetch(branch) == path  # the network went away


def test_a_branch_a_tag_and_a_commit(server: Hub) -> None:
    repository = server.repositories["models", NAME]
    newer = {**FILES, "config.json": b"{}"}
    repository.tags["v1"] = COMMIT
    assert fetch(parse(f"hf:{NAME}")).name == COMMIT
    repository.push(newer)
    repository.branches["feature/x"] = COMMIT
    moved = fetch(parse(f"hf:{NAME}"))
    assert moved.name == commit_of(newer)  # a branch moves
    assert (moved / "config.json").read_bytes() == b"{}"
    assert server.asked.count(f"GET /{digest()}") == 1, "what both commits have is fetched once"
    for revision in ("v1", COMMIT):
        assert contents(fetch(parse(f"hf:{NAME}@{revision}"))) == FILES


def digest() -> str:
    """The address of the weights at the CDN."""
    return hashlib.sha256(WEIGHTS).hexdigest()


def test_a_branch_is_resolved_to_a_commit_that_the_model_keeps(server: Hub, tmp_path: Path) -> None:
    catalog = Catalog(tmp_path, {}, {})
    folder = fetch(parse(f"hf:{NAME}"))
    keep_facts(catalog.model_facts_path(f"hf:{NAME}"), ModelFacts(f"hf:{NAME}", "f", str(folder)))
    facts = catalog.model_facts(f"hf:{NAME}")
    assert facts is not None
    assert facts.revision == COMMIT
    assert fetch(sources.at_revision(parse(f"hf:{NAME}"), COMMIT)) == folder


def test_an_lfs_file_comes_from_the_storage_without_the_token(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    server.tokens["hf_secret"] = "me"
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert contents(fetch(parse(f"hf:{NAME}"))) == FILES
    assert f"GET /{digest()}" in server.asked
    assert not server.sent_to_cdn


# ---- what the Hub refuses ----


def test_an_unknown_name(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    said = why("hf:org/nowhere")
    for part in (f"{server.url} has no model 'org/nowhere'", "private", "hf auth login", "HF_ENDPOINT names a mirror"):
        assert part in said
    server.tokens["hf_mine"] = "me"
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    said = why("hf:org/nowhere")
    assert "the token in HF_TOKEN may not read it" in said
    assert "hf_mine" not in said


def test_a_data_set_named_as_a_model(server: Hub) -> None:
    server.add("org/rows", {"train.csv": b"text,label\na,b\n"}, kind="datasets")
    assert "There is a data set of this name: give it as the `source` of a task." in why("hf:org/rows")


def test_data_sets_have_names_of_their_own(server: Hub) -> None:
    """A model and a data set of one name are two repositories, with two places in the cache."""
    rows = {"train.csv": b"text,label\n" + b"a,b\n" * 500}
    server.add(NAME, rows, kind="datasets").tags["v1"] = commit_of(rows)
    model, data = fetch(parse(f"hf:{NAME}")), fetch(parse(f"hf:{NAME}@v1", is_data=True))
    assert contents(model) == FILES
    assert {path.name: path.read_bytes() for path in data.iterdir()} == rows
    assert data.name == commit_of(rows)
    server.add("org/only", FILES)
    with pytest.raises(SourceError, match="has no data set 'org/only'.*There is a model of this name"):
        fetch(parse("hf:org/only", is_data=True))
    server.repositories["datasets", NAME].gated = True
    server.repositories["datasets", NAME].push({**rows, "more.csv": b"x"})
    with pytest.raises(SourceError, match=f"accept its terms at {server.url}/datasets/{NAME}"):
        fetch(parse(f"hf:{NAME}", is_data=True))


def test_a_private_repository(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    server.repositories["models", NAME].private = True
    server.repositories["models", NAME].readers = ("me",)
    server.tokens.update({"hf_mine": "me", "hf_other": "other"})
    assert "it is private (then run `hf auth login`)" in why(f"hf:{NAME}")
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    assert "it is private and the token in HF_TOKEN may not read it" in why(f"hf:{NAME}")
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    assert contents(fetch(parse(f"hf:{NAME}"))) == FILES


def test_a_gated_repository(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.repositories["models", NAME].gated = True
    server.repositories["models", NAME].readers = ("me",)
    server.tokens.update({"hf_mine": "me", "hf_other": "other"})
    assert f"it is gated: accept its terms at {server.url}/{NAME}, then run `hf auth login`" in why(f"hf:{NAME}")
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    assert "it is gated, and the account of the token in HF_TOKEN has not been let in: ask" in why(f"hf:{NAME}")
    monkeypatch.delenv("HF_TOKEN")
    (tmp_path / "hf-home").mkdir()
    (tmp_path / "hf-home" / "HF_TOKEN_PATH").write_text("hf_other\n")
    assert "the account of the token of `hf auth login` has not been let in" in why(f"hf:{NAME}")
    assert partial_files(tmp_path) == []
    (tmp_path / "hf-home" / "HF_TOKEN_PATH").write_text("hf_mine\n")
    assert contents(fetch(parse(f"hf:{NAME}"))) == FILES


def test_a_token_that_is_refused(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    said = why(f"hf:{NAME}")
    assert "refuses the token in HF_TOKEN (Invalid credentials" in said
    assert "hf_expired" not in said


def test_a_token_without_a_right(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    server.tokens["hf_mine"] = "me"
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    headers = {"X-Error-Message": "Please enable access to public gated repositories in your token settings"}
    server.faults.append(Fault("/resolve/", 403, headers, times=99))
    said = why(f"hf:{NAME}")
    assert "forbids it to the token in HF_TOKEN (Please enable access" in said
    assert f"may read {server.url}/{NAME}" in said


def test_a_disabled_repository(server: Hub) -> None:
    headers = {"X-Error-Message": "Access to this resource is disabled."}
    server.faults.append(Fault("/api/models/", 403, headers, times=99))
    assert "the Hub has disabled it" in why(f"hf:{NAME}")


def test_an_unknown_revision_names_the_nearest(server: Hub) -> None:
    server.repositories["models", NAME].tags["v1.0"] = COMMIT
    said = why(f"hf:{NAME}@v1.1")
    assert "unknown branch, tag or commit 'v1.1'. Did you mean 'v1.0'? Known: main, v1.0." in said
    assert "no branch, tag or commit" not in said
    assert "Known: main, v1.0" in why(f"hf:{NAME}@{'0' * 40}")


def test_a_repository_without_files(server: Hub) -> None:
    commit = server.add("org/empty", {}).branches["main"]
    assert f"commit {commit} has no files" in why("hf:org/empty")


# ---- a Hub that is busy or breaks ----


@pytest.mark.parametrize(
    "place", ["GET /api/models/org/tiny/revision", "GET /api/.*/tree", "HEAD .*/config", "GET .*/config"]
)
@pytest.mark.parametrize(
    ("headers", "least"),
    [
        ({"Retry-After": "7"}, 7),
        ({"RateLimit": '"api";r=0;t=9', "RateLimit-Policy": '"fixed window";"api";q=5;w=300'}, 9),
        ({}, 1),
    ],
)
def test_a_busy_hub_is_waited_for(
    server: Hub, waits: list[float], place: str, headers: dict[str, str], least: float
) -> None:
    server.faults.append(Fault(place, 429, headers, times=2))
    reports: list[str] = []
    assert contents(fetch(parse(f"hf:{NAME}"), progress=lambda what, *_: reports.append(what))) == FILES
    assert max(waits) >= least
    assert not headers or f"the Hub needs a pause of {least} s" in reports


def test_a_pause_until_a_date(server: Hub, waits: list[float], tmp_path: Path) -> None:
    def at(seconds: float) -> dict[str, str]:
        return {"Retry-After": format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)}

    server.faults.append(Fault("HEAD .*/config", 429, at(30), times=2))
    assert contents(fetch(parse(f"hf:{NAME}"))) == FILES
    assert 25 < max(waits) <= 31
    server.faults.append(Fault("/api/", 429, at(30 * 86400), times=99))
    assert "asks for a pause of 259" in why(f"hf:{NAME}@main2")


@pytest.mark.parametrize("place", ["/api/", "HEAD .*/config", "GET .*/config"])
def test_a_pause_is_bounded(server: Hub, waits: list[float], place: str) -> None:
    server.faults.append(Fault(place, 429, {"Retry-After": "86400"}, times=99))
    said = why(f"hf:{NAME}")
    for part in ("429", "a pause of 86400 s", f"waits {hub.PATIENCE} s in all", "hf auth login"):
        assert part in said
    assert sum(waits) == 0


def test_pauses_of_several_threads_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    pauses = hub.Pauses(lambda *report: None)
    for _ in range(8):
        pauses.plan(200, "the Hub")
    assert pauses.waited == 200
    clock[0] += 200
    pauses.plan(hub.PATIENCE - 200, "the Hub")
    with pytest.raises(hub.TooLong):
        pauses.plan(200, "the Hub")


@pytest.mark.parametrize("status", [500, 502, 503, 504])
@pytest.mark.parametrize("place", ["GET /api/models/org/tiny/revision", "HEAD .*/weights", "GET /[0-9a-f]{64}"])
def test_a_fault_of_the_hub_that_passes(server: Hub, waits: list[float], status: int, place: str) -> None:
    server.faults.append(Fault(place, status, times=1))
    assert contents(fetch(parse(f"hf:{NAME}"))) == FILES


@pytest.mark.parametrize("place", ["/api/", "HEAD .*/weights", "GET /[0-9a-f]{64}"])
def test_a_fault_of_the_hub_that_stays(server: Hub, tmp_path: Path, waits: list[float], place: str) -> None:
    server.faults.append(Fault(place, 503, body=b'{"error": "maintenance"}', times=999))
    said = why(f"hf:{NAME}")
    assert f"{server.url} fails (503 Service Unavailable)" in said
    assert "Signature" not in said
    assert partial_files(tmp_path) == []
    server.faults.clear()
    server.asked.clear()
    assert contents(fetch(parse(f"hf:{NAME}"))) == FILES
    assert place == "/api/" or f"GET /{NAME}/resolve/{COMMIT}/config.json" not in server.asked, "it was there already"


@pytest.mark.parametrize("reset", [False, True])
def test_a_cut_connection_is_resumed_where_it_broke(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reset: bool
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 10_000)
    server.faults.append(Fault(f"GET /{digest()}", cut=60_000, reset=reset))
    assert contents(fetch(parse(f"hf:{NAME}"))) == FILES
    resumed = [request for request in server.asked if request.startswith(f"GET /{digest()} bytes=")]
    assert len(resumed) == 1
    assert reset or resumed[0].endswith("bytes=60000-")
    assert partial_files(tmp_path) == []


def test_a_connection_that_is_always_cut(server: Hub, tmp_path: Path) -> None:
    server.faults.append(Fault(f"GET /{digest()}", cut=0, times=999))
    assert f"the connection to {server.url} broke 4 times" in why(f"hf:{NAME}")
    assert partial_files(tmp_path) == []
    assert HubRepository().cached(parse(f"hf:{NAME}@{COMMIT}"), Path()) is None


def test_a_damaged_file_is_fetched_again_alone(server: Hub) -> None:
    source = parse(f"hf:{NAME}@{COMMIT}")
    weights = fetch(source) / "sub" / "weights.bin"
    weights.resolve().write_bytes(b"\1" * 10)
    assert kind_of(source).cached(source, Path()) is None
    server.asked.clear()
    assert contents(fetch(source)) == FILES
    assert not [request for request in server.asked if "config.json" in request]


def test_content_of_another_digest_is_not_kept(server: Hub, tmp_path: Path) -> None:
    server.repositories["models", NAME].digests["sub/weights.bin"] = "0" * 64
    said = why(f"hf:{NAME}")
    assert f"sub/weights.bin has the SHA-256 {digest()} in place of {'0' * 64}. Nothing of that is kept" in said
    assert not list((tmp_path / "cache").rglob("weights.bin"))
    assert not list((tmp_path / "cache").rglob(digest()))


def test_the_hubs_own_transfer_is_used_only_where_it_is_asked_for(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("hf_xet")
    server.add("org/xet", FILES, xet=True)
    assert contents(fetch(parse("hf:org/xet"))) == FILES
    assert not [request for request in server.asked if "xet-" in request]
    server.add("org/xet2", FILES, xet=True)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "0")
    assert "404" in why("hf:org/xet2")
    assert [request for request in server.asked if "xet-read-token" in request]


def test_faults_of_the_hubs_own_transfer_and_files_that_need_it(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> Path:
        raise RuntimeError("CAS: no route")

    with monkeypatch.context() as patch:
        patch.setattr(HubRepository, "download", fail)
        assert "own transfer fails (CAS: no route). Unset HF_HUB_DISABLE_XET" in why(f"hf:{NAME}")
    monkeypatch.setattr("huggingface_hub.constants.MAX_HTTP_DOWNLOAD_SIZE", 5000)
    assert "more than 50 GB, which the Hub gives by its own transfer alone. Set HF_HUB_DISABLE_XET=0" in why(
        f"hf:{NAME}"
    )


# ---- where the Hub is ----


@pytest.mark.parametrize("given", ["huggingface.co", "ftp://x.org", "http://", "https://[bad", "http://x:port"])
def test_an_address_that_is_none(server: Hub, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", given)
    with pytest.raises(SourceError, match="must be the address of a Hub, such as https://huggingface.co") as caught:
        fetch(parse(f"hf:{NAME}"))
    assert type(caught.value) is SourceError


def test_the_address_may_end_in_a_slash(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url + "/")
    assert contents(fetch(parse(f"hf:{NAME}"))) == FILES


@pytest.mark.parametrize("body", [b"<html>Please log in</html>", b"[]", b'"x"', b"{}", b'{"id": 3, "sha": 7}', b"null"])
@pytest.mark.parametrize("place", ["/api/.*/revision", "/api/.*/tree"])
def test_a_page_that_is_no_hubs(server: Hub, body: bytes, place: str) -> None:
    server.faults.append(Fault(place, 200, body=body, times=99))
    empty = place.endswith("tree") and body in (b"[]", b"{}")
    assert (f"commit {COMMIT} has no files" if empty else f"what answers at {server.url} is no Hub") in why(
        f"hf:{NAME}"
    )


def test_a_server_without_the_hubs_headers(server: Hub) -> None:
    server.faults.append(Fault("HEAD", 200, {"ETag": '"x"'}, times=99))
    assert f"what answers at {server.url} is no Hub" in why(f"hf:{NAME}")


def test_a_listing_that_points_outside(server: Hub, tmp_path: Path) -> None:
    server.add("org/evil", {"../../../evil.txt": b"evil"})
    assert "is no Hub" in why("hf:org/evil")
    assert not list(tmp_path.rglob("evil.txt"))


@pytest.mark.parametrize("name", ["TUNEBENCH_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_nobody_is_asked_where_the_user_wants_no_network(
    server: Hub, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(OfflineError, match=r"is not in the cache at .*tunebench fetch SUITE"):
        fetch(parse(f"hf:{NAME}"))
    assert not server.asked


def test_a_hub_that_cannot_be_reached(server: Hub, waits: list[float]) -> None:
    server.stop()
    with pytest.raises(OfflineError, match=r"not in the cache, and http://.* cannot be reached .*HF_ENDPOINT"):
        fetch(parse(f"hf:{NAME}"))
    assert not waits


@pytest.mark.process
def test_two_processes_fetch_once(server: Hub) -> None:
    code = f"from harness.data.sources import fetch, parse; print(fetch(parse('hf:{NAME}')))"
    asking = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = {process.communicate(timeout=120)[0].strip() for process in asking}
    assert len(told) == 1
    assert contents(Path(told.pop())) == FILES
    assert server.asked.count(f"GET /{digest()}") == 1


@pytest.mark.process
def test_a_command_that_is_killed_leaves_complete_files_only(server: Hub, tmp_path: Path) -> None:
    """Killed while the large file is on its way: the next one fetches what is missing, and nothing half is taken."""
    gate = server.hold(f"GET /{digest()}")
    code = f"from harness.data.sources import fetch, parse; print(fetch(parse('hf:{NAME}')))"
    process = subprocess.Popen([sys.executable, "-c", code])
    assert gate.reached.wait(60)
    process.kill()
    process.wait()
    gate.open.set()
    assert partial_files(tmp_path)
    assert HubRepository().cached(parse(f"hf:{NAME}@{COMMIT}"), Path()) is None
    assert contents(fetch(parse(f"hf:{NAME}"))) == FILES
    assert partial_files(tmp_path) == []
