"""Keeps the names of this package's functions that task YAMLs use, such as `!function harness.data.splits.documents`.

A YAML written when a function had another name still loads. What a task *is* does not depend on where our code lies:
`canonical` gives the same text for a function's every name, and `tasks.fingerprint` uses it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from harness.data import generation, splits
from harness.errors import TaskError, unknown

PACKAGE = "harness."
PUBLIC = {
    f"{module.__name__}.{function.__name__}": function
    for module, functions in (
        (splits, (splits.documents, splits.passages, splits.articles, splits.article_facts, splits.running_text)),
        (generation, (generation.overlap,)),
    )
    for function in functions
}
# Names that functions had before, and the names that they have now.
FORMER = {
    "harness.corpora.splits": "harness.data.splits.documents",
    "harness.corpora.passages": "harness.data.splits.passages",
    "harness.corpora.articles": "harness.data.splits.articles",
    "harness.corpora.facts": "harness.data.splits.article_facts",
    "harness.corpora.running": "harness.data.splits.running_text",
    "harness.generation.overlap": "harness.data.generation.overlap",
}


def resolve_former_names() -> None:
    """Let lm-eval's loader import functions under the names that they had before, without files of those names."""
    for former, name in FORMER.items():
        module_name, _, function_name = former.rpartition(".")
        module = sys.modules.setdefault(module_name, ModuleType(module_name))
        setattr(module, function_name, PUBLIC[name])


def check_names(functions: Iterable[tuple[str, Path]]) -> None:
    """Raise TaskError, with the nearest known name, where one of these functions (its name, the YAML that names it) is
    of this package and does not exist."""
    for name, file in functions:
        if name.startswith(PACKAGE) and name not in PUBLIC and name not in FORMER:
            raise TaskError(unknown("function", name, PUBLIC, f"It is named in {file.name}."))


def canonical(value: object) -> object:
    """Return a YAML's content with each function of this package reduced to the last part of its current name.

    Functions come as lm-eval writes them when it does not resolve them: folder/name.
    """
    if isinstance(value, dict):
        # A key that is no text, such as `true`, is told apart from the text, and keeps the keys in one order.
        named = {key if isinstance(key, str) else f"{type(key).__name__} {key}": inner for key, inner in value.items()}
        return {key: canonical(inner) for key, inner in named.items()}
    if isinstance(value, list):
        return [canonical(inner) for inner in value]
    name = Path(value).name if isinstance(value, str) else ""
    if name in PUBLIC or name in FORMER:
        return f"!function {FORMER.get(name, name).rpartition('.')[2]}"
    return value
