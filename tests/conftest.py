"""The tiny project of `tiny.py`, as fixtures."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import hypothesis
import pytest
from tiny import make_encoder, make_model, make_project, name_encoder

hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine is no fault
hypothesis.settings.load_profile("untimed")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
# Two processes of tests on two cores: more threads each would wait for one another, for twice the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def imported() -> None:
    """As in a cell's process, what is imported is left out of garbage collections: every phase begins with one."""
    import harness.execute.preload  # noqa: F401


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random Llama (2 layers, 64 wide) with a byte-level tokenizer."""
    folder = tmp_path_factory.mktemp("tiny-model")
    make_model(folder)
    return folder


@pytest.fixture(scope="session")
def checked(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the instruments' checks, done once for the tests of this process, and the scripts of reports."""
    from harness.environment import environment
    from harness.execute.self_check_cache import keep, kept_at, peaks_kept_at
    from harness.models.loading import weights_fingerprint
    from harness.records import TrainSettings
    from harness.report.html import vega, vega_kept_at
    from harness.store.files import write_atomically
    from harness.worker.profiling.self_checks import Bench, check_all

    folder = tmp_path_factory.mktemp("checked")
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
            keep(kept_at(env_digest, weights_fingerprint(tiny_model), settings), env_digest, "tiny", settings, checks)
    return folder / "cache"


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
    monkeypatch.delenv("TUNEBENCH_RESULTS", raising=False)
    return root


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random sentence encoder (one layer, 32 wide)."""
    folder = tmp_path_factory.mktemp("tiny-encoder")
    make_encoder(folder)
    return folder


@pytest.fixture
def encoding_project(project: Path, tiny_encoder: Path) -> Path:
    """The tiny project, in which `tiny-encoder` can be named."""
    name_encoder(project, tiny_encoder)
    return project


# Files that take minutes, so that no process is left with one of them while the other has nothing more to do.
LONGEST = (
    "test_real",
    "test_cli",
    "test_survival",
    "test_ray",
    "test_execute",
    "test_docs",
    "test_checked",
    "test_studies",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))
