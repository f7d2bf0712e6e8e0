"""Says what a fetch would download, and how much, before it does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from harness.data import sources
from harness.data.catalog import Catalog, texts, yaml_without_functions
from harness.data.task_code import yaml_files
from harness.errors import TunebenchError


@dataclass(frozen=True)
class Download:
    """What is to be downloaded for a model or a task (`what`) called `name`: `places` are its sources that are not in
    the cache, `size` their bytes, None where these are not known beforehand."""

    what: str
    name: str
    places: tuple[str, ...]
    size: int | None


def model_download(catalog: Catalog, name: str) -> Download | None:
    """Returns what is to be downloaded for a model; None where its sources are on this machine. The size is that of the
    project's list of models, else what the source says itself."""
    entry = catalog.model(name)
    missing = not_here(entry.sources)
    if not missing:
        return None
    known = entry.download if len(missing) == len(entry.sources) else 0
    return Download("model", name, tuple(missing), known or size_in_all(missing, is_data=False))


def task_download(catalog: Catalog, name: str) -> Download | None:
    """Returns what is to be downloaded for a task; None where its data is on this machine. Of lm-eval's own tasks,
    whose data the library `datasets` loads, it is their data set, of a size that is not known."""
    found: list[str] = []
    library = ""
    for file in yaml_files(catalog.task_path(name)):
        try:
            config = yaml_without_functions(file)
        except (OSError, ValueError):  # whoever loads it says what is wrong
            continue
        remote = [kind for kind, one in sources.all_kinds().items() if not one.local]
        found += [text for text in texts(config) if text.partition(":")[0] in remote and " " not in text]
        if isinstance(config, dict) and "custom_dataset" not in config:
            library = str(config.get("dataset_path") or library)
    missing = not_here(dict.fromkeys(found), is_data=True)
    if missing:
        return Download("task", name, tuple(missing), size_in_all(missing, is_data=True))
    if library and "/" in library and not found and not library.endswith((".json", ".csv", ".py")):
        return Download("task", name, (f"data set {library}",), None)
    return None


def not_here(places: Iterable[str], is_data: bool = False) -> list[str]:
    """Returns those of the sources (texts) that a fetch has to download. A branch of the Hub is asked for again, though
    it is in the cache: it counts as here."""
    missing = []
    for text in places:
        try:
            source = sources.parse(text, is_data=is_data)
            kind = sources.kind_of(source)
            if not kind.local and not kind.entry(source).exists():
                missing.append(text)
        except TunebenchError:  # whoever fetches it says what is wrong
            continue
    return missing


def size_in_all(places: Iterable[str], is_data: bool) -> int | None:
    """Returns the bytes of all sources together; None where one does not say its own."""
    total = 0
    for text in places:
        source = sources.parse(text, is_data=is_data)
        size = sources.kind_of(source).size(source)
        if size is None:
            return None
        total += size
    return total
