"""What the fork server imports: names of modules, kept as text."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_module_that_is_preloaded_is_there() -> None:
    tree = ast.parse((ROOT / "harness" / "worker" / "preload.py").read_text())  # importing it would load all of them
    modules = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MODULES"
    )
    own = [name for name in modules if name.startswith("harness.")]
    assert "harness.worker.cell" in own
    for name in own:
        path = ROOT.joinpath(*name.split("."))
        assert path.with_suffix(".py").exists() or (path / "__init__.py").exists(), name
