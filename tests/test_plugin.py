"""A file in a folder adds a class; two of one name are a mistake."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.plugin import find_classes


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "found_here"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.split(".")[0] == "found_here"]:
        del sys.modules[name]


def write(package: Path, module: str, *classes: str) -> None:
    lines = ["from harness.errors import UserError"]
    lines += [f"class C{number}(UserError):\n    name = {name!r}" for number, name in enumerate(classes)]
    (package / f"{module}.py").write_text("\n".join(lines) + "\n")


def test_named_classes_are_found_in_order_of_name(package: Path) -> None:
    write(package, "one", "pear", "")
    write(package, "two", "apple")
    (package / "three.py").write_text("from found_here.one import C0\n")  # imported, not defined there
    found = find_classes("found_here", [str(package)], UserError)
    assert list(found) == ["apple", "pear"]
    assert found["pear"].__module__ == "found_here.one"


def test_two_of_one_name_are_a_mistake(package: Path) -> None:
    write(package, "one", "apple")
    write(package, "two", "apple")
    with pytest.raises(RuntimeError, match="two classes are named 'apple'"):
        find_classes("found_here", [str(package)], UserError)
