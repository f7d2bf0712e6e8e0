"""What comes with tunebench can be named in any folder, and a project's own files take the place of theirs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import refused, tunebench

from harness.data.catalog import find_root, load_catalog, places, shipped
from harness.environment import git_state
from harness.errors import UserError
from harness.suite import Suite, find_suite, suite_files

ROOT = Path(__file__).parents[2]


def test_outside_a_project_the_current_folder_is_taken_for_one(shipped_suites: Path) -> None:
    assert find_root(shipped_suites) == shipped_suites
    assert places(shipped_suites) == (shipped_suites, ROOT)
    assert places(ROOT) == (ROOT,)
    below = shipped_suites / "a" / "b"
    below.mkdir(parents=True)
    (shipped_suites / "suites").mkdir()
    assert find_root(below) == shipped_suites


def test_an_installed_package_holds_what_it_ships(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shipped_suites: Path
) -> None:
    package = tmp_path / "site-packages" / "harness"
    (package / "shipped" / "suites").mkdir(parents=True)
    monkeypatch.setattr("harness.data.catalog.__file__", str(package / "data" / "catalog.py"))
    assert shipped() == package / "shipped"


def test_models_tasks_and_suites_are_there_without_a_project(shipped_suites: Path) -> None:
    catalog = load_catalog(shipped_suites)
    assert {"smollm2-135m", "minilm-l6"} <= catalog.models.keys()
    assert catalog.tasks["bbc-topic"] == ROOT / "suites" / "tasks" / "bbc-topic.yaml"
    assert find_suite("quickstart", shipped_suites) == ROOT / "suites" / "quickstart.yaml"
    assert find_suite("museum/control", shipped_suites) == ROOT / "suites" / "museum" / "control.yaml"
    assert "models" not in suite_files(shipped_suites)
    with pytest.raises(UserError, match="Did you mean 'quickstart'"):
        find_suite("quickstrat", shipped_suites)
    with pytest.raises(UserError, match=r"no suite at museum/none\. Name a file, or one of suites/ \(continual, "):
        find_suite("museum/none", shipped_suites)


def test_a_projects_own_files_come_first(shipped_suites: Path) -> None:
    own = shipped_suites / "suites"
    (own / "tasks").mkdir(parents=True)
    (own / "models.yaml").write_text(
        "minilm-l6: {kind: encoder, source: 'file:mine'}\nmine: {kind: causal, source: 'file:x'}\n"
    )
    (own / "tasks" / "topics.yaml").write_text("task: bbc-topic\n")
    (own / "quickstart.yaml").write_text("version: 1\nquestion: Mine?\n")
    catalog = load_catalog(shipped_suites)
    assert catalog.models["minilm-l6"].sources == ("file:mine",)
    assert {"mine", "smollm2-135m"} <= catalog.models.keys()
    assert catalog.tasks["bbc-topic"] == own / "tasks" / "topics.yaml"
    assert "reuters-r8" in catalog.tasks
    assert find_suite("quickstart", shipped_suites) == own / "quickstart.yaml"
    listed = {row["name"]: row for row in json.loads(tunebench("suites", "--json").stdout)}
    assert listed["quickstart"] == {"name": "quickstart", "question": "Mine?", "file": str(own / "quickstart.yaml")}
    assert listed["forgetting"]["file"] == str(ROOT / "suites" / "forgetting.yaml")
    assert listed["forgetting"]["question"].startswith("What keeps a model from forgetting")


def test_commands_work_in_an_empty_folder(shipped_suites: Path) -> None:
    done = tunebench("check", "quickstart")
    assert done.returncode == 0, done.stderr
    assert "no mistakes found" in done.stdout
    shown = tunebench("suites").stdout
    assert "quickstart" in shown
    assert "suites/" not in shown.split("`")[0], "they come with tunebench"
    assert "tunebench" in next(line for line in tunebench("tasks").stdout.splitlines() if line.startswith("bbc-topic"))
    assert "minilm-l6" in tunebench("models").stdout
    refused(tunebench("report", "quickstart"), f"no database at {shipped_suites / 'results'}")
    refused(tunebench("plan", "quickstart"), "not fetched yet: smollm2-135m")
    assert list(shipped_suites.iterdir()) == [], "looking writes nothing"


def test_a_suite_of_a_file_that_cannot_be_read_is_listed_without_its_question(shipped_suites: Path) -> None:
    (shipped_suites / "suites").mkdir()
    (shipped_suites / "suites" / "broken.yaml").write_text("question: [")
    (shipped_suites / "suites" / "list.yaml").write_text("- 1")
    listed = {row["name"]: row["question"] for row in json.loads(tunebench("suites", "--json").stdout)}
    assert (listed["broken"], listed["list"]) == ("", "")


def test_a_suite_is_loaded_by_its_name_alone(shipped_suites: Path) -> None:
    suite = Suite.load("quickstart")
    assert suite.path == ROOT / "suites" / "quickstart.yaml"
    assert [label.name for label in suite.labels][:2] == ["base", "full"]
    assert Suite.load(ROOT / "suites" / "forgetting.yaml").name == "forgetting"


def test_init_begins_a_project_in_an_empty_folder(shipped_suites: Path) -> None:
    rows = [
        f"the ship number {number} sails,sea" if number % 2 else f"a train {number} leaves,land"
        for number in range(400)
    ]
    (shipped_suites / "trips.csv").write_text("\n".join(["text,kind", *rows]))
    done = tunebench("init", "trips.csv", "--yes")
    assert done.returncode == 0, done.stderr
    assert "wrote suites/tasks/trips.yaml" in done.stdout
    assert "retain: [tales-perplexity]" in (shipped_suites / "suites" / "trips.yaml").read_text()
    assert find_suite("quickstart", find_root(shipped_suites)).parent == ROOT / "suites"


def test_an_installed_package_is_no_part_of_the_checkout_around_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import subprocess

    def git(*arguments: str) -> None:
        about = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *about, *arguments], cwd=tmp_path, check=True, capture_output=True)

    package = tmp_path / "venv" / "harness"
    package.mkdir(parents=True)
    (package / "environment.py").touch()
    (tmp_path / "mine.txt").touch()
    git("init", "-q")
    git("add", "mine.txt")
    git("commit", "-qm", "Begin")
    monkeypatch.setattr("harness.environment.__file__", str(package / "environment.py"))
    assert git_state() == ("", False)
    git("add", "venv")
    git("commit", "-qm", "Take in the package")
    assert git_state()[0]
