"""The package outside its checkout: what it asks for, what is in its wheel, and that the wheel works elsewhere."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from results_factory import demo

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
# Needed without being imported: by methods and libraries, as the comment says.
NOT_IMPORTED = {
    "cmaes",  # optuna's CMA-ES sampler
    "gguf",  # transformers reads GGUF files with it
}
# Import names of packages that are not installed everywhere, and of what comes with a stated package.
KNOWN = {"pynvml": "nvidia-ml-py", "pydantic_core": "pydantic", "markupsafe": "jinja2", "galore_torch": "galore-torch"}


def name_of(text: str) -> str:
    return re.sub(r"[-_.]+", "-", Requirement(text).name).lower()


def stated(texts: list[str]) -> set[str]:
    return {name_of(text) for text in texts} - {"tunebench"}


def imported() -> set[str]:
    """The packages, by normalised name, of every import of a third-party module in harness/."""
    modules = set()
    for path in (ROOT / "harness").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules.add(node.module.split(".")[0])
    packages = importlib.metadata.packages_distributions()
    modules -= set(sys.stdlib_module_names) | {"harness"}
    return {name_of(KNOWN.get(module) or packages[module][0]) for module in modules}


def test_what_is_imported_is_stated_and_what_is_stated_is_needed() -> None:
    base = stated(PROJECT["dependencies"])
    optional = set().union(*(stated(texts) for name, texts in EXTRAS.items() if name != "dev"))
    assert imported() - base - optional == set(), "not in pyproject.toml"
    assert base - imported() - NOT_IMPORTED == set(), "stated, and imported by tests alone or by nothing"


def test_the_base_install_leaves_out_what_only_tests_need() -> None:
    assert {"pytest", "ruff", "mypy", "hypothesis", "playwright", "statsmodels"} & stated(
        PROJECT["dependencies"]
    ) == set()
    assert set(EXTRAS) == {"galore", "gpu", "ray", "slurm", "mlflow", "wandb", "serve", "mcp", "dev"}


def test_every_stated_package_is_pinned() -> None:
    pinned = {name_of(line.split("==")[0]) for line in (ROOT / "constraints.txt").read_text().split()}
    assert stated([text for texts in (PROJECT["dependencies"], *EXTRAS.values()) for text in texts]) - pinned == set()


def test_the_page_lists_every_extra() -> None:
    page = (ROOT / "docs" / "installing.md").read_text()
    assert {name for name in EXTRAS if f"`tunebench[{name}]`" not in page} == set()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built from a source distribution, as `python -m build` does it, without network."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    for name in ("harness", "suites"):
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "from setuptools import build_meta; print(build_meta.build_sdist('dist'))"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True, text=True)
    (archive,) = (source / "dist").glob("*.tar.gz")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    made = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, "-w", str(folder), str(archive)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.timeout(900)  # twenty commands, each with its imports
def test_the_wheel_works_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    site, here = tmp_path / "site", tmp_path / "here"
    here.mkdir()
    options = ["--no-deps", "--no-index", "--disable-pip-version-check", "--target", str(site)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(wheel)], check=True, capture_output=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TUNEBENCH", "PYTHON"))}
    environment = {**kept, "PYTHONPATH": str(site), "TUNEBENCH_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}

    def call(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=False)

    def tunebench(*arguments: str) -> str:
        done = call(sys.executable, str(site / "bin" / "tunebench"), *arguments)
        assert done.returncode == 0, (arguments, done.stderr)
        return done.stdout

    shipped = site / "harness" / "shipped" / "suites"
    folders = {".", "gpu", "museum"}
    own = {
        path.relative_to(ROOT / "suites").with_suffix("").as_posix()
        for folder in folders
        for path in (ROOT / "suites" / folder).glob("*.yaml")
    } - {"models"}
    listed = json.loads(tunebench("suites", "--json"))
    assert {row["name"] for row in listed} == own
    assert {Path(row["file"]).parent for row in listed} == {shipped / folder for folder in folders}
    assert {row["name"] for row in json.loads(tunebench("tasks", "--json"))} >= {"bbc-topic", "tales-perplexity"}
    assert {row["name"] for row in json.loads(tunebench("models", "--json"))} >= {"smollm2-135m", "minilm-l6"}
    for suite in sorted(own):
        assert "no mistakes found" in tunebench("check", suite), suite
    assert "lora" in tunebench("methods")
    assert list(here.iterdir()) == [], "looking writes nothing"

    demo(here / "results")  # as a run would leave them
    tunebench("report", "demo")
    assert (here / "reports" / "demo" / "index.html").exists()
    code = "from harness import results; print(len(results('demo').cells))"
    assert call(sys.executable, "-c", code).stdout == "37\n"

    rows = [f"the ship number {n} sails,sea" if n % 2 else f"a train {n} leaves,land" for n in range(400)]
    (here / "trips.csv").write_text("\n".join(["text,kind", *rows]))
    tunebench("init", "trips.csv", "--yes")
    assert {row["name"] for row in json.loads(tunebench("suites", "--json"))} == {*own, "trips"}
    assert "no mistakes found" in tunebench("check", "trips")

    typed = here / "typed.py"
    typed.write_text("from harness import Results, Suite, results, run\nreveal_type(results('x'))\n")
    settings = ["--python-executable", sys.executable, "--follow-imports=silent", "--ignore-missing-imports"]
    said = call(sys.executable, "-m", "mypy", "--no-incremental", *settings, str(typed)).stdout
    assert 'Revealed type is "harness.cli.in_python.Results"' in said, said
