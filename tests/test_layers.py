"""Imports never climb, planning stays light, and the README's tree is the disk's."""

import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
# A module may import those of lower rank, and its own package.
RANK = {
    "discovery": 0,
    "errors": 0,
    "stats": 0,
    "ownership": 1,
    "recommend": 8,
    "compare": 9,
    "configurable": 1,
    "contamination": 1,
    "lines": 1,
    "network": 1,
    "records": 1,
    "methods": 2,
    "mirrors": 2,
    "curricula": 3,
    "objectives": 3,
    "settings": 3,
    "checkpoints": 8,
    "quality": 4,
    "recipe": 4,
    "readers": 4,
    "sources": 4,
    "facts": 2,
    "catalog": 5,
    "corpora": 5,
    "generation": 5,
    "build": 4,
    "identity": 4,
    "labels": 5,
    "tuning": 6,
    "tune": 7,
    "suite": 7,
    "energy": 6,
    "environment": 6,
    "models": 6,
    "misfits": 8,
    "plan": 9,
    "reproduce": 7,
    "store": 6,
    "tasks": 6,
    "drawing": 7,
    "devices": 7,
    "diagnose": 7,
    "inference": 8,
    "instruments": 9,
    "leaks": 7,
    "lengths": 7,
    "measure": 7,
    "memory": 9,
    "callbacks": 7,
    "evaluate": 8,
    "fetch": 8,
    "flops": 6,
    "report": 9,
    "verdicts": 7,
    "costs": 8,
    "versus": 9,
    "outlook": 10,
    "train": 8,
    "lent": 9,
    "worker": 10,
    "execute": 11,
    "screen": 12,
    "cli": 13,
}
HEAVY = {
    "torch",
    "transformers",
    "peft",
    "lm_eval",
    "duckdb",
    "optuna",
    "datasets",
    "setfit",
    "mergekit",
    "pandas",
    "mlflow",
    "wandb",
}
PURE = [
    "facts",
    "memory",
    "misfits",
    "plan",
    "quality",
    "settings",
    "suite",
    "records",
    "errors",
    "catalog",
    "sources",
    "environment",
]


def imports(path: Path) -> list[tuple[str, bool]]:
    """(module, whether at the top level) for every import outside TYPE_CHECKING."""
    tree = ast.parse(path.read_text())
    hidden = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    nested = {id(x) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for x in ast.walk(f)}
    found = []
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            found.append((node.module, id(node) not in nested))
        elif isinstance(node, ast.Import):
            found += [(alias.name, id(node) not in nested) for alias in node.names]
    return found


def room(path: Path) -> str:
    return path.relative_to(ROOT / "harness").parts[0].removesuffix(".py")


def modules() -> list[Path]:
    return [path for path in sorted((ROOT / "harness").rglob("*.py")) if path != ROOT / "harness" / "__init__.py"]


def test_every_module_has_a_rank() -> None:
    assert {room(path) for path in modules()} == set(RANK)


def test_imports_never_climb() -> None:
    climbing = []
    for path in modules():
        here = room(path)
        for name, _ in imports(path):
            parts = name.split(".")
            if parts[0] == "harness" and len(parts) > 1 and parts[1] != here and RANK[parts[1]] >= RANK[here]:
                climbing.append(f"{path.relative_to(ROOT)} imports {name}")
    # worker and execute meet through a folder; the child's one import of the worker is the meeting.
    assert climbing == []


def test_methods_objectives_and_curricula_import_their_base_alone() -> None:
    for path in (
        path for name in ("methods", "objectives", "curricula") for path in (ROOT / "harness" / name).glob("*.py")
    ):
        if path.stem in ("__init__", "base", "parts"):  # parts: what methods made of other methods share
            continue
        for name, top in imports(path):
            if name.startswith("harness"):
                # `answers` holds predictors, `parts` what methods that are made of others share: neither is a method.
                shared = {f"harness.methods.{module}" for module in ("answers", "parts")}
                assert name in {f"harness.{path.parent.name}.base", *shared}, f"{path.name} imports {name}"
            assert not (top and name.split(".")[0] in HEAVY), f"{path.name} imports {name} at its top"


def test_what_methods_share_is_no_method() -> None:
    from harness.methods import all_methods

    assert [kind.name for kind in all_methods().values() if kind.__module__ == "harness.methods.answers"] == []
    names = {name for name, _ in imports(ROOT / "harness" / "methods" / "answers.py") if name.startswith("harness")}
    assert names == set()


def test_mirrors_import_their_client_inside_functions() -> None:
    rooms = {"harness.mirrors.base", "harness.mirrors.content", "harness.records"}
    for path in (ROOT / "harness" / "mirrors").glob("*.py"):
        for name, top in imports(path):
            assert not (top and name.split(".")[0] in HEAVY), f"{path.name} imports {name} at its top"
            if name.startswith("harness") and path.stem not in ("__init__", "process"):
                assert name in rooms, f"{path.name} imports {name}"


def test_methods_are_named_nowhere_else() -> None:
    from harness.methods import all_methods

    names = set(all_methods()) - {"base"}
    for path in modules():
        if room(path) == "methods":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare):
                for side in [node.left, *node.comparators]:
                    if isinstance(side, ast.Constant):
                        assert side.value not in names, f"{path.relative_to(ROOT)}:{node.lineno}"


def test_planning_loads_nothing_heavy() -> None:
    code = "import sys\n" + "\n".join(f"import harness.{name}" for name in PURE)
    code += f"\nprint(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_report_and_help_load_no_torch() -> None:
    code = "import sys, harness.cli, harness.report, harness.report.html, harness.report.plots\n"
    code += "print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_readme_tree_is_the_disk() -> None:
    text = (ROOT / "README.md").read_text()
    tree = text.split("<!-- tree -->")[1]
    drawn = set(re.findall(r"^\s+([\w/]+(?:\.py|/))", tree, re.M))
    disk = {path.name for path in (ROOT / "harness").glob("*.py") if path.name != "__init__.py"}
    disk |= {path.name + "/" for path in (ROOT / "harness").iterdir() if (path / "__init__.py").exists()}
    assert drawn == disk


def test_modules_keep_their_size() -> None:
    long = {str(path.relative_to(ROOT)): path.read_text().count("\n") for path in modules()}
    assert {name: count for name, count in long.items() if count > 500} == {}
