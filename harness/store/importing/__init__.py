"""Takes results that others published into a results folder. In: a folder, a zip or a git directory with JSON files.
Out: environments, cells and attempts of their own, which no run of tunebench shares."""

from __future__ import annotations

from harness.store.importing.imports import Imported, import_published

__all__ = ["Imported", "import_published"]
