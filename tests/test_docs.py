"""README and docs are true: their examples run, their lists are complete, their links lead somewhere."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from commands import tunebench
from tiny import write_csv

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a page in one language."""
    return re.findall(rf"```{language}\n(.*?)```", page, re.S)


def block_with(page: str, language: str, text: str) -> str:
    return next(block for block in blocks(page, language) if text in block)


def write_tickets(project: Path, page: str) -> None:
    """The page's own task and suite, with a CSV of the columns that it names, on the tiny model and its prose."""
    rng = random.Random(0)
    words = {"billing": "invoice", "delivery": "parcel", "returns": "refund"}
    tickets = [
        {"text": f"ticket {number} about my {words[queue]} please", "queue": queue}
        for number, queue in enumerate(rng.choice(list(words)) for _ in range(600))
    ]
    write_csv(project / "suites" / "tasks" / "tickets.csv", tickets)
    (project / "suites" / "tasks" / "tickets.yaml").write_text(block_with(page, "yaml", "task: tickets"))
    suite = block_with(page, "yaml", "suites/tickets.yaml").replace("smollm2-135m", "tiny")
    for written, tiny in {
        "tales-perplexity": "prose", ", setfit: {}": "", "seeds: [0, 1, 2]": "seeds: [0]", "steps: 48": "steps: 2",
    }.items():  # fmt: skip
        suite = suite.replace(written, tiny)
    (project / "suites" / "tickets.yaml").write_text(suite)


@pytest.mark.process
def test_a_suite_from_the_readme_alone_with_ones_own_csv(project: Path) -> None:
    write_tickets(project, README)
    done = tunebench("run", "tickets")
    assert done.returncode == 0, done.stderr
    assert "5 cells, 0 finished before, 5 to run" in done.stdout


def test_the_page_on_own_data_has_a_sound_task_and_suite(project: Path) -> None:
    from harness.data.catalog import load_catalog
    from harness.plan import fetch_suite, make_plan
    from harness.suite import load_suite

    write_tickets(project, (ROOT / "docs" / "own-data.md").read_text())
    catalog = load_catalog(project)
    suite = load_suite(project / "suites" / "tickets.yaml", catalog)
    facts = fetch_suite(catalog, suite)
    assert len(make_plan(suite, facts).cells) == 5
    assert facts.tasks["tickets"].n_test == 200


def test_the_page_on_suites_has_a_sound_suite(project: Path) -> None:
    from harness.suite import load_suite

    path = project / "suites" / "shown.yaml"
    path.write_text(block_with((ROOT / "docs" / "suite.md").read_text(), "yaml", "version: 1"))
    assert [label.name for label in load_suite(path).labels] == ["base", "full", "lora", "lora-slow", "merged"]


@pytest.mark.process
def test_the_readmes_method_is_one_new_file_that_keeps_the_contract(tmp_path: Path) -> None:
    """In a copy of the project: the file is added, and the contract that all methods keep runs over it."""
    for folder in ("harness", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (source,) = blocks(README, "python")
    (tmp_path / "harness" / "methods" / "attention_only.py").write_text(source)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/methods/test_methods.py", "-k", "attention_only"],
        cwd=tmp_path, env={**os_environment(), "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True,
        timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(re.findall(r"(\d+) passed", done.stdout)[-1]) >= 13, done.stdout  # on quantised weights too


def os_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}


def test_the_readme_is_short() -> None:
    assert len(README.encode()) < 9_000


def test_every_command_is_in_the_readme_and_documented() -> None:
    import typer

    from harness.cli import application

    page = (ROOT / "docs" / "commands.md").read_text()
    for name in typer.main.get_command(application()).commands:  # type: ignore[attr-defined]
        assert f"tunebench {name}" in README, name
        assert f"### `tunebench {name}`" in page, name


def script() -> ModuleType:
    """docs/reference.py as a module."""
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "reference.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["reference.md", "commands.md", "architecture.md"])
def test_generated_pages_are_fresh(name: str) -> None:
    assert (ROOT / "docs" / name).read_text() == script().PAGES[name](), "run: python docs/reference.py"


def test_every_key_of_a_suite_is_explained() -> None:
    page = (ROOT / "docs" / "reference.md").read_text()
    keys = page.split("## Methods")[0]
    unexplained = [line for line in keys.splitlines() if line.startswith("| `") and line.endswith("|  |")]
    assert unexplained == []


def test_every_table_and_column_is_documented() -> None:
    import duckdb

    from harness.store.schema import migrate

    page = (ROOT / "docs" / "results.md").read_text()
    connection = duckdb.connect()
    migrate(connection)
    columns = connection.execute("SELECT table_name, column_name FROM information_schema.columns").fetchall()
    documented = {
        name: set(re.findall(r"`(\w+)`", line))
        for line in page.splitlines()
        if (name := next(iter(re.findall(r"^\| `(\w+)` \|", line)), ""))
    }
    missing = [
        f"{table}.{column}"
        for table, column in columns
        if table != "schema_version" and column not in documented.get(table, ())
    ]
    assert missing == []


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", page.read_text(), flags=re.S)):
        if target.startswith(("http:", "https:", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name) if name else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(target)
    assert broken == []


def test_every_page_is_listed() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages == {target for target in re.findall(r"\]\(([\w-]+\.md)\)", index) if target != "README.md"}


def test_every_suite_is_listed() -> None:
    page = (ROOT / "docs" / "suite.md").read_text()
    suites = {path.stem for path in (ROOT / "suites").glob("*.yaml")} - {"models"}
    assert {name for name in suites if f"`{name}`" not in page} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_of_the_project_that_is_named_exists(page: Path) -> None:
    names = re.findall(r"`((?:harness|tests|suites|docs|benchmarks)/[\w./-]*\w)`", page.read_text())
    examples = {"suites/tasks/tickets.yaml", "suites/tickets.yaml", "tests/methods/test_NAME.py", "suites/NAME.yaml"}
    missing = [name for name in names if name not in examples and not (ROOT / name).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_name_of_the_code_that_is_mentioned_exists(page: Path) -> None:
    missing = []
    for name in sorted(set(re.findall(r"\bharness(?:\.\w+)+", page.read_text()))):
        module, found = "harness", importlib.import_module("harness")
        for part in name.split(".")[1:]:
            module = f"{module}.{part}"
            if not hasattr(found, part) and importlib.util.find_spec(module) is None:
                missing.append(name)
                break
            found = getattr(found, part, None) or importlib.import_module(module)
    assert missing == []


def hooks_of(kind: Any) -> set[str]:
    """The methods and properties that a subclass may override: those that the class itself defines for this."""
    helpers = {"declare"}
    return {
        name
        for name, value in vars(kind).items()
        if not name.startswith("_") and (callable(value) or isinstance(value, property | classmethod))
    } - helpers


def test_every_hook_of_a_method_is_documented_and_every_documented_one_exists() -> None:
    from harness.methods import Method

    page = (ROOT / "CONTRIBUTING.md").read_text()
    section = page.split("### The hooks of a method")[1].split("\n## ")[0].split("\n### ")[0]
    documented = {name for line in section.splitlines() for name in re.findall(r"^\| `(\w+)` \|", line)}
    assert documented == hooks_of(Method) | {"problems"}


def test_every_attribute_of_a_method_is_documented() -> None:
    from harness.methods import Method
    from harness.plugin import Configurable

    page = (ROOT / "CONTRIBUTING.md").read_text()
    section = page.split("### Attributes of a method")[1].split("\n### ")[0]
    documented = set(re.findall(r"^\| `(\w+)` \|", section, re.M))
    declared = {*inspect.get_annotations(Method), *inspect.get_annotations(Configurable)}
    assert documented == declared - {"quantize", "kind"}


def test_the_cluster_pages_scripts_are_sound() -> None:
    import yaml

    page = (ROOT / "docs" / "cluster.md").read_text()
    (shell,) = blocks(page, "bash")
    assert subprocess.run(["bash", "-n"], input=shell, text=True, check=False).returncode == 0
    (manifest,) = blocks(page, "yaml")
    cluster = yaml.safe_load(manifest)["spec"]["rayClusterSpec"]
    assert f"ray=={cluster['rayVersion']}\n" in (ROOT / "constraints.txt").read_text()
