"""The house: rooms in the order of the flow, imports that go down only, public names, a tree that is the disk's."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HOUSE = ROOT / "harness"
# From the ground up: a room imports those before it, and itself.
ROOMS = [
    "records",
    "errors",
    "environment",
    "plugin",
    "architecture",
    "trackers",
    "data",
    "methods",
    "store",
    "curricula",
    "objectives",
    "suite",
    "models",
    "plan",
    "worker",
    "analysis",
    "execute",
    "report",
    "cli",
]
HEAVY = frozenset(
    [
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
    ]
)
# Planning and what lies below it load nothing heavy at import; the worker alone does.
LIGHT = [room for room in ROOMS if room != "worker"]
PLUG_INS = ("methods", "objectives", "curricula", "trackers")
# What the files of a plug-in room share beside their base, and which is no plug-in itself.
SHARED = {"methods": {"helpers", "predictors", "wrappers"}, "trackers": {"content", "process"}}
MOST_LINES = 500


def modules() -> list[Path]:
    return [path for path in sorted(HOUSE.rglob("*.py")) if path != HOUSE / "__init__.py"]


def room(path: Path) -> str:
    return path.relative_to(HOUSE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[tuple[str, str, bool]]:
    """(module, name or "", whether at the top level) for every import outside TYPE_CHECKING."""
    tree = ast.parse(path.read_text())
    hidden = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    nested = {id(inner) for outer in ast.walk(tree) if isinstance(outer, ast.FunctionDef) for inner in ast.walk(outer)}
    found = []
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            found += [(node.module, alias.name, id(node) not in nested) for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [(alias.name, "", id(node) not in nested) for alias in node.names]
    return found


def test_the_rooms_are_those_of_the_disk() -> None:
    assert {room(path) for path in modules()} == set(ROOMS)
    assert len(ROOMS) <= 19
    assert len(list(HOUSE.glob("*.py"))) - 1 <= 5, "at most five modules at the top"


def test_imports_never_climb() -> None:
    climbing = []
    for path in modules():
        here = ROOMS.index(room(path))
        for module, _, _ in imports(path):
            parts = module.split(".")
            if parts[0] == "harness" and len(parts) > 1 and ROOMS.index(parts[1]) > here:
                climbing.append(f"{path.relative_to(ROOT)} imports {module}")
    assert climbing == []


def test_every_room_says_what_comes_in_and_what_goes_out() -> None:
    for name in ROOMS:
        if not (HOUSE / name).is_dir():
            continue
        module = importlib.import_module(f"harness.{name}")
        assert module.__doc__, name
        assert re.search(r"\bIn: .+\bOut", module.__doc__, re.S), f"{name}: {module.__doc__}"
        assert isinstance(module.__all__, list), name
        assert list(dict.fromkeys(module.__all__)) == module.__all__
        for public in module.__all__:
            assert hasattr(module, public), f"{name}.{public}"


def test_rooms_import_each_others_public_names_only() -> None:
    peeking = []
    for path in modules():
        for module, name, _ in imports(path):
            parts = module.split(".")
            if parts[0] != "harness" or len(parts) < 2 or parts[1] == room(path) or not (HOUSE / parts[1]).is_dir():
                continue
            where = importlib.import_module(module)
            # A room, or a part of one that declares names of its own (analysis.stats, execute.executors).
            if name not in getattr(where, "__all__", ()) or not hasattr(where, "__path__"):
                peeking.append(f"{path.relative_to(ROOT)} imports {name or 'all'} from {module}")
    assert peeking == []


def test_no_public_name_hides_a_module() -> None:
    """`harness.plan.fetch` must not be a module for one reader and a function for another."""
    for path in HOUSE.rglob("__init__.py"):
        package = importlib.import_module(".".join(path.parent.relative_to(ROOT).parts))
        for name in getattr(package, "__all__", ()):
            value = getattr(package, name)
            is_module = (path.parent / f"{name}.py").exists() or (path.parent / name / "__init__.py").exists()
            assert not is_module or value.__class__.__name__ == "module", f"{package.__name__}.{name}"


def test_plug_ins_import_their_base_alone() -> None:
    for name in PLUG_INS:
        shared = {f"harness.{name}.{module}" for module in ("base", *SHARED.get(name, ()))}
        for path in (HOUSE / name).glob("*.py"):
            if path.stem in ("__init__", "base", "wrappers", "process"):
                continue
            for module, _, top in imports(path):
                if module.startswith("harness") and path.stem not in SHARED.get(name, ()):
                    allowed = shared | ({"harness.records"} if name == "trackers" else set())
                    assert module in allowed, f"{path.relative_to(ROOT)} imports {module}"
                assert not (top and module.split(".")[0] in HEAVY), f"{path.name} imports {module} at its top"


def test_what_methods_share_is_no_method() -> None:
    from harness.methods import all_methods

    homes = {f"harness.methods.{module}" for module in SHARED["methods"]}
    assert [kind.name for kind in all_methods().values() if kind.__module__ in homes] == []


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


@pytest.mark.process
def test_planning_running_and_reporting_load_nothing_heavy() -> None:
    code = "import sys\n" + "\n".join(f"import harness.{name}" for name in LIGHT)
    code += f"\nprint(sorted({set(HEAVY)!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.process
def test_reading_the_fast_tests_loads_no_torch() -> None:
    heavy = {"torch", "transformers", "peft", "lm_eval"}
    code = "import sys, pytest\n"
    code += "status = pytest.main(['--fast', '--collect-only', '-q', '-p', 'no:cacheprovider'])\n"
    code += f"print(int(status), sorted({heavy!r} & set(sys.modules)))"
    collected = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert collected.stdout.splitlines()[-1] == "0 []"


def test_the_tree_in_the_docs_is_the_disk() -> None:
    text = next(
        page for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")) if "<!-- tree -->" in page.read_text()
    )
    tree = text.read_text().split("<!-- tree -->")[1]
    drawn = set(re.findall(r"^\s+([\w/]+(?:\.py|/))", tree, re.M))
    disk = {path.name for path in HOUSE.glob("*.py") if path.name != "__init__.py"}
    disk |= {path.name + "/" for path in HOUSE.iterdir() if (path / "__init__.py").exists()}
    assert drawn == disk


def test_modules_keep_their_size() -> None:
    long = {str(path.relative_to(ROOT)): path.read_text().count("\n") for path in modules()}
    assert {name: count for name, count in long.items() if count > MOST_LINES} == {}
