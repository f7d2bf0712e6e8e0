"""What tests share: the tiny project of `tiny.py`, and what a test may cost.

A test is one of: pure (no torch; seconds for all of them), `model` (the tiny model, in this process), `process` (starts
one), `real` (the real 135M model), `slow` (make test-all only). `model` is set by what a test asks for; a test
that starts a process without saying so fails. `--fast` runs the pure ones, and does not even read the others' files.
"""

from __future__ import annotations

import gc
import json
import multiprocessing.process
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
from filelock import FileLock
from hub_server import Hub
from tiny import make_encoder, make_model, make_project, name_encoder

hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine is no fault
hypothesis.settings.load_profile("untimed")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
# Three processes of tests on two cores, of which one often waits: more threads each would wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TUNEBENCH_THREADS", "1")

HEAVY = re.compile(r"^(?:import|from) (?:torch|transformers|peft|lm_eval|setfit|harness\.worker)\b", re.M)
COSTS = ("real", "process", "model")  # the dearest first, so that both processes end together


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help="only tests that load no model and start no process")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `--fast`, whether a file is not read at all: those that import torch at their top."""
    if config.getoption("--fast") and collection_path.suffix == ".py" and is_heavy(collection_path):
        return True
    return None


def is_heavy(path: Path) -> bool:
    return bool(HEAVY.search(path.read_text()))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if "preloaded" in getattr(item, "fixturenames", ()) or is_heavy(item.path):
            item.add_marker("model")
    items.sort(key=lambda item: next((rank for rank, mark in enumerate(COSTS) if mark in item.keywords), len(COSTS)))
    if config.getoption("--fast"):
        dear = [item for item in items if {*COSTS, "slow"} & set(item.keywords)]
        config.hook.pytest_deselected(items=dear)
        items[:] = [item for item in items if item not in set(dear)]


@pytest.fixture(autouse=True)
def says_when_it_starts_a_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails a test among the pure ones that starts Python in another process, or forks, and is not marked `process`."""
    if {"model", "process", "real", "slow"} & set(request.node.keywords):
        return
    popen, start = subprocess.Popen.__init__, multiprocessing.process.BaseProcess.start

    def refused_popen(self: object, args: object, *rest: object, **options: object) -> None:
        if sys.executable in ([args] if isinstance(args, str) else list(map(str, args))):  # type: ignore[call-overload]
            pytest.fail("this test starts Python in another process: mark it with pytest.mark.process")
        popen(self, args, *rest, **options)  # type: ignore[arg-type]

    def refused_start(self: multiprocessing.process.BaseProcess) -> None:
        pytest.fail("this test starts another process: mark it with pytest.mark.process")
        start(self)

    monkeypatch.setattr(subprocess.Popen, "__init__", refused_popen)
    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", refused_start)


@pytest.fixture(scope="session")
def preloaded() -> None:
    """As in a cell's process, what is imported is left out of garbage collections: every phase begins with one."""
    import harness.worker.preload  # noqa: F401


@pytest.fixture(scope="module", autouse=True)
def nothing_old_is_collected() -> None:
    """Before a file's tests, what is there by then is left out of garbage collections.

    Every phase of a cell begins with one. In a cell's own process it finds little; here it would look through all that
    other tests have imported, a fifth of a second each time and two thirds of a cell's.
    """
    if "torch" in sys.modules:
        gc.collect()
        gc.freeze()


@pytest.fixture(autouse=True)
def nothing_is_shipped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The project of a test has what it holds itself, not what comes with tunebench, but for tests that ask for
    `shipped_suites`."""
    with pytest.MonkeyPatch.context() as patch:
        if "shipped_suites" not in request.fixturenames:
            patch.setattr("harness.data.catalog.shipped", lambda: tmp_path_factory.getbasetemp() / "nothing-is-shipped")
        yield


@pytest.fixture
def shipped_suites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as the current one, outside any project: what comes with tunebench can be named. Returns it."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TUNEBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TUNEBENCH_RESULTS", raising=False)
    return folder


Shared = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """Makes a folder once for all processes of tests: (its name, what fills it) -> the folder."""
    base = tmp_path_factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def made_once(name: str, fill: Callable[[Path], None]) -> Path:
        folder = root / name
        with FileLock(root / f"{name}.lock"):
            if not (folder / ".done").exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                fill(folder)
                (folder / ".done").touch()
        return folder

    return made_once


@pytest.fixture(scope="session")
def tiny_model(preloaded: None, shared: Shared) -> Path:
    """The folder of a random Llama (2 layers, 64 wide) with a byte-level tokenizer."""
    return shared("tiny-model", lambda folder: make_model(folder / "model")) / "model"


@pytest.fixture(scope="session")
def checked(tiny_model: Path, shared: Shared) -> Path:
    """A cache with the instruments' checks, done once for all tests, the scripts of reports, and what is known of the
    tiny project's data."""
    from tools import plan_of

    from harness.environment import environment
    from harness.execute.self_check_cache import keep, kept_at, peaks_kept_at
    from harness.models.loading import weights_fingerprint
    from harness.records import TrainSettings
    from harness.report.html import vega, vega_kept_at
    from harness.store.files import write_atomically
    from harness.worker.profiling.self_checks import Bench, check_all

    def check(folder: Path) -> None:
        settings = TrainSettings(steps=3)
        (folder / "scratch").mkdir()
        checks = list(check_all(Bench(tiny_model, settings, folder / "scratch")))
        script = vega()  # from the cache of whoever tests: to make it takes seconds
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TUNEBENCH_CACHE", str(folder / "cache"))
            write_atomically(vega_kept_at(), script)
            for threads in (1, 2):
                env_digest = environment(threads).env_digest
                write_atomically(peaks_kept_at(env_digest), json.dumps({"auto": 1e11, "fp32": 1e11}))
                kept = kept_at(env_digest, weights_fingerprint(tiny_model), settings)
                keep(kept, env_digest, "tiny", settings, checks)
            # What is known of the tiny project's data goes by its content: no test needs to find it out again.
            patch.setenv("HF_DATASETS_CACHE", str(folder / "hf-datasets"))
            make_project(folder / "project", tiny_model)
            plan_of(folder / "project")

    return shared("checked", check) / "cache"


@pytest.fixture
def project(tiny_model: Path, checked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with suites/, made the working directory; its own cache, no network."""
    shutil.copytree(checked, tmp_path / "cache")
    root = tmp_path / "project"
    make_project(root, tiny_model)
    monkeypatch.chdir(root)
    monkeypatch.setenv("TUNEBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf-datasets"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TUNEBENCH_TRUST", str(tmp_path / "trust.yaml"))
    monkeypatch.delenv("TUNEBENCH_RESULTS", raising=False)
    return root


@pytest.fixture(scope="session")
def tiny_encoder(preloaded: None, shared: Shared) -> Path:
    """The folder of a random sentence encoder (one layer, 32 wide)."""
    return shared("tiny-encoder", lambda folder: make_encoder(folder / "model")) / "model"


@pytest.fixture
def encoding_project(project: Path, tiny_encoder: Path) -> Path:
    """The tiny project, in which `tiny-encoder` can be named."""
    name_encoder(project, tiny_encoder)
    return project


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses, in seconds, that would have been waited: nobody waits."""
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited


@pytest.fixture
def hub_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: list[float]) -> Iterator[Hub]:
    """A Hub on the loopback interface, an empty cache, and none of this machine's own settings of the Hub."""
    for name in list(os.environ):
        if name.startswith(("HF_", "HUGGING", "TUNEBENCH_", "TRANSFORMERS_OFFLINE")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    server = Hub()
    for name, value in {
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(tmp_path / "hf-home"),
        "TUNEBENCH_CACHE": str(tmp_path / "cache"),
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    # The library reads these when imported, which another test may have made it do.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for name in ("HF_TOKEN_PATH", "HF_STORED_TOKENS_PATH"):
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", str(tmp_path / "hf-home" / name))
    yield server
    server.stop()
