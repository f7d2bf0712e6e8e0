"""`tunebench suites`: what can be run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from harness.cli.display import say, show_json, show_table
from harness.cli.options import AsJson, command, project


@command("Look", "suites that can be run, and what each one asks")
def suites(as_json: AsJson = False) -> None:
    """List the suites that can be run by name: the project's own in suites/, and those that come with tunebench.

    A suite of the project takes the place of one of the same name that comes with tunebench.

    Example: tunebench suites
    """
    from harness.suite import suite_files

    root = project().root
    files = suite_files(root)
    if as_json:
        show_json([{"name": name, "question": question_of(path), "file": str(path)} for name, path in files.items()])
        return
    rows = [[name, question_of(path), origin(path, root)] for name, path in files.items()]
    show_table("suites", ["suite", "question", "from"], rows)
    say("`tunebench suites --json` has the whole path of each file: copy one into suites/ to change it.")


def question_of(path: Path) -> str:
    """Returns the question of a suite's file; "" where it has none, or cannot be read (`tunebench check` says why)."""
    import yaml

    from harness.data import load_yaml

    try:
        content: Any = load_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return ""
    return str(content.get("question", "")) if isinstance(content, dict) else ""


def origin(path: Path, root: Path) -> str:
    """Returns where a suite comes from: its file, relative to the current folder, or "tunebench"."""
    return os.path.relpath(path) if path.is_relative_to(root / "suites") else "tunebench"
