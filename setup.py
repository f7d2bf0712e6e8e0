"""Puts what `suites/` holds (suites, tasks, models, descriptions) into the wheel, as `harness/shipped/suites/`.

It lies in `suites/` of the checkout, outside the package. All else about the package is in `pyproject.toml`.
"""

from __future__ import annotations

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

KINDS = ("*.yaml", "described/*/*.json")
SUITES = sorted(path.as_posix() for kind in KINDS for path in Path("suites").rglob(kind))


class BuildWithSuites(build_py):
    """Copies `suites/` beside the modules, but for an editable install, which reads the checkout's own."""

    def shipped(self) -> dict[str, str]:
        """Returns file in the checkout -> its place in the folder that becomes the wheel."""
        return {name: str(Path(self.build_lib, "harness", "shipped", name)) for name in SUITES}

    def run(self) -> None:
        """Copies the modules, then the suites."""
        super().run()
        for source, target in () if self.editable_mode else self.shipped().items():
            self.mkpath(str(Path(target).parent))
            self.copy_file(source, target)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """Returns the files that a build writes."""
        return [*super().get_outputs(include_bytecode), *([] if self.editable_mode else self.shipped().values())]

    def get_source_files(self) -> list[str]:
        """Returns the files that a source distribution needs."""
        return [*super().get_source_files(), *SUITES]


setup(cmdclass={"build_py": BuildWithSuites})
