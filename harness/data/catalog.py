"""Finds models and tasks by name, and the files in which their facts are cached.

Not covered: what the facts are (`facts.py`), and making them (`tasks.py`, `leaks.py`, `models/`).
"""

from __future__ import annotations

import glob
import importlib.metadata
import importlib.util
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from harness.architecture import Structure, model_mistake, read_network
from harness.data import sources
from harness.data.chat_templates import chat_template, demands_system
from harness.data.descriptions import described_model, described_task
from harness.data.facts import DataFacts, LengthFacts, ModelFacts, OverlapFacts, TaskFacts
from harness.data.task_code import content_of, definition_files, is_own, yaml_files
from harness.data.yaml_limits import load_yaml
from harness.errors import Problem, SuiteError, UserError, unknown
from harness.records import digest

FACTS_VERSION = 4  # raised by hand when a task's facts are found in another way: they are then found anew
DATA_VERSION = 3  # raised by hand when faults of data are counted in another way
STRUCTURE_VERSION = 1  # raised by hand when a model's structure is read in another way: it is then read anew
LENGTHS_VERSION = 3  # raised by hand when lengths are counted in another way: they are then counted anew

MOST_FILES = 50_000  # that are looked at below one folder, or for one pattern: about half a second


@dataclass(frozen=True)
class ModelEntry:
    """A model that a suite can name. Several `sources` are parts of one file; `sha256` holds the expected digest of
    each, or nothing. `kind` is "causal", "encoder", or "" for a source that no list describes. `parameters` is their
    number, `download` the bytes that a fetch of it downloads, 0 where they are not known."""

    name: str
    kind: str  # causal | encoder, or "" for a source that no list describes
    sources: tuple[str, ...]
    sha256: tuple[str, ...] = ()
    parameters: int = 0
    licence: str = ""
    about: str = ""
    trust_remote_code: bool = False  # the code that comes with the model may run
    download: int = 0  # bytes; no part of what the model is


CODE = "+code"  # the end of the name of a source whose own code may run


Kind = TypeVar("Kind", ModelFacts, TaskFacts, LengthFacts, DataFacts, OverlapFacts)


@dataclass(frozen=True)
class Catalog:
    """The models and tasks that can be named in one project folder `root` (where `suites/` lies): model name -> entry,
    and task name -> YAML of the project's own tasks. lm-eval's tasks can be named too."""

    root: Path
    models: dict[str, ModelEntry]
    tasks: dict[str, Path]

    # --- models ---

    def model(self, name: str) -> ModelEntry:
        """Return the entry of a model, given by its name or by a source such as hf:org/name. Raises UserError for any
        other name."""
        if name in self.models:
            return self.models[name]
        kinds = sources.all_kinds()
        if name.partition(":")[0] in kinds:
            source = name.removesuffix(CODE)
            sources.parse(source)
            return ModelEntry(name=name, kind="", sources=(source,), trust_remote_code=source != name)
        if name.removesuffix(CODE) in self.models:
            return replace(self.models[name.removesuffix(CODE)], name=name, trust_remote_code=True)
        forms = ", ".join(kind.form for kind in kinds.values())
        raise UserError(unknown("model", name, self.models, f"A source works too: {forms}."))

    def model_facts(self, name: str) -> ModelFacts | None:
        """Return the facts of a fetched model; None before it is fetched, or when its folder is gone. Raises UserError
        for an unknown name."""
        path = self.model_facts_path(name)
        facts = read_facts(path, ModelFacts)
        if facts is None or not (Path(facts.folder) / "config.json").exists():
            return None
        folder = Path(facts.folder)
        # A snapshot of the Hub lies in a folder that is named by its commit.
        commit = folder.name if self.model(name).sources[0].startswith("hf:") else ""
        network, template = read_network(folder, read_structure(folder)), chat_template(folder)
        return replace(
            facts, network=network, chat=bool(template), chat_demand=demands_system(template), revision=commit
        )

    def model_mistake(self, name: str) -> str:
        """Return what is wrong with a model that cells are to adapt, as far as its files are here: those of a folder,
        or those that were fetched; "" where nothing is. Raises UserError for an unknown name."""
        entry = self.model(name)
        source = entry.sources[0]
        folder = self.root / Path(sources.parse(source).name).expanduser() if source.startswith("file:") else None
        if folder is None or not folder.is_dir():
            facts = read_facts(self.model_facts_path(name), ModelFacts)
            folder = Path(facts.folder) if facts else None
        return model_mistake(folder, entry.trust_remote_code) if folder and folder.is_dir() else ""

    def model_facts_path(self, name: str) -> Path:
        """Return the file in the cache for a model's facts. It changes with the model's entry and with the files of a
        local source."""
        entry = self.model(name)
        local = [
            local_stamp(self.root / Path(sources.parse(text).name).expanduser())
            for text in entry.sources
            if text.startswith("file:")
        ]
        what = {key: value for key, value in asdict(entry).items() if key != "download"}
        identity = digest([what, str(self.root) if local else "", local])
        return sources.cache_root() / "facts" / f"model-{identity[:32]}.json"

    # --- tasks ---

    def task_path(self, name: str) -> Path:
        """Return the YAML of a task: the project's own if there is one, else lm-eval's. Raises UserError for an unknown
        name."""
        path = self.tasks.get(name) or lm_eval_tasks().get(name)
        if path is None and (other := next((task for task, file in self.tasks.items() if file.stem == name), "")):
            file = f"{self.tasks[other].parent.name}/{self.tasks[other].name}"
            raise UserError(
                f"unknown task {name!r}: {file} calls itself {other!r}. Name {other!r}, or write task: {name} in it."
            )
        if path is None:
            raise UserError(
                unknown(
                    "task",
                    name,
                    self.tasks,
                    f"lm-eval's own tasks ({len(lm_eval_tasks())}) can be named too, and a YAML in suites/tasks/.",
                )
            )
        return path

    def task_facts(self, name: str) -> TaskFacts | None:
        """Return the facts of a fetched task; None before it is fetched, or when its files have changed. Raises
        UserError for an unknown name."""
        facts = read_facts(self.task_facts_path(name), TaskFacts)
        # Another checkout with the same task may have fetched it.
        return facts and replace(facts, path=str(self.task_path(name)))

    def task_facts_path(self, name: str) -> Path:
        """Return the file in the cache for a task's facts. It changes with all that defines the task (`definition`)."""
        return sources.cache_root() / "facts" / f"task-{definition(self.task_path(name))[:32]}.json"

    def fetched_path(self, name: str) -> Path:
        """Return the file in the cache that tells what a task's files were like when it was last fetched."""
        return sources.cache_root() / "facts" / f"fetched-{digest(str(self.task_path(name).resolve()))[:32]}.json"

    def keep_fetched(self, name: str) -> None:
        """Keep what a task's files are like now that it is fetched, so that `changed_files` can name those that
        change."""
        write_json(self.fetched_path(name), stamps(self.task_path(name)))

    def changed_files(self, name: str) -> list[str]:
        """Return the names of a task's files that have changed since it was fetched; none where it never was."""
        try:
            before: dict[str, object] = json.loads(self.fetched_path(name).read_text())
        except (OSError, ValueError):
            return []
        now = stamps(self.task_path(name))
        return [Path(file).name for file in sorted({*before, *now}) if before.get(file) != now.get(file)]

    def not_fetched(self, name: str) -> str:
        """Return the name of a model or task that has no facts, with the files that have changed since it was fetched,
        for messages."""
        changed = self.changed_files(name) if name in self.tasks else []
        what = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
        return (
            f"{name} ({what} {'has' if len(changed) == 1 else 'have'} changed since it was fetched)"
            if changed
            else name
        )

    # --- what is known of neither ---

    def described_model(self, name: str) -> ModelFacts | None:
        """Return the facts of a model that has not been fetched, from the description of its source that comes with the
        project or with tunebench; None where there is none."""
        return described_model(places(self.root), name, self.model(name).sources[0])

    def described_task(self, name: str) -> TaskFacts | None:
        """Return the facts of a task that has not been fetched, from its description; None where there is none, and for
        a project's own task of that name."""
        path = self.task_path(name)
        own = path.is_relative_to(self.root) and self.root.resolve() != shipped()
        return None if own else described_task(places(self.root), name, path)

    # --- lengths ---

    def length_facts(self, model: ModelFacts, task: TaskFacts) -> LengthFacts | None:
        """Return how many tokens a task's texts have for a model; None before they were counted, or when either has
        changed."""
        return read_facts(self.length_facts_path(model, task), LengthFacts)

    def length_facts_path(self, model: ModelFacts, task: TaskFacts) -> Path:
        """Return the file in the cache for how many tokens a task's texts have for a model."""
        what = digest([model.fingerprint, task.fingerprint, LENGTHS_VERSION])
        return sources.cache_root() / "facts" / f"lengths-{what[:32]}.json"

    # --- data ---

    def data_facts(self, task: TaskFacts) -> DataFacts | None:
        """Return the faults counted in a task's documents; None before they were counted."""
        return read_facts(self.data_facts_path(task), DataFacts)

    def data_facts_path(self, task: TaskFacts) -> Path:
        """Return the file in the cache for the faults counted in a task's documents."""
        return sources.cache_root() / "facts" / f"data-{digest([*rows_of(task), DATA_VERSION])[:32]}.json"

    def overlap_facts(self, learned: TaskFacts, scored: TaskFacts) -> OverlapFacts | None:
        """Return the scored items of one task that are in the learned text of another; None before they were
        counted."""
        return read_facts(self.overlap_facts_path(learned, scored), OverlapFacts)

    def overlap_facts_path(self, learned: TaskFacts, scored: TaskFacts) -> Path:
        """Return the file in the cache for the scored items of one task that are in the learned text of another."""
        what = digest([*rows_of(learned), *rows_of(scored), DATA_VERSION])
        return sources.cache_root() / "facts" / f"overlap-{what[:32]}.json"


def rows_of(task: TaskFacts) -> list[object]:
    """Return what decides the faults that are counted in a task's documents: also rows that are not learned."""
    return [task.fingerprint, task.rows_read, task.dropped]


def structure_path(folder: Path) -> Path:
    """Return the file in the cache for the structure of the model in a folder. It changes with the configuration and
    with the version of transformers, whose code makes the model."""
    text = (folder / "config.json").read_text(encoding="utf-8", errors="replace")
    what = digest([text, importlib.metadata.version("transformers"), STRUCTURE_VERSION])
    return sources.cache_root() / "facts" / f"structure-{what[:32]}.json"


def read_structure(folder: Path) -> Structure | None:
    """Return the structure that was read off the model in a folder; None before that."""
    try:
        return Structure.from_json(json.loads(structure_path(folder).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def keep_structure(folder: Path, structure: Structure) -> None:
    """Write the structure of the model in a folder to the cache, whole or not at all."""
    path = structure_path(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(structure.as_json()), encoding="utf-8")
    temporary.replace(path)


def keep_facts(path: Path, facts: ModelFacts | TaskFacts | LengthFacts | DataFacts | OverlapFacts) -> None:
    """Write facts to the file where the catalog looks for them, so that another process sees all of them or none."""
    kept = asdict(replace(facts, network=None) if isinstance(facts, ModelFacts) else facts)
    kept.pop("network", None)
    kept.pop("chat", None)
    kept.pop("chat_demand", None)
    write_json(path, kept)


def write_json(path: Path, content: object) -> None:
    """Write content as JSON, so that another process sees all of it or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content))
    temporary.replace(path)


def read_facts(path: Path, kind: type[Kind]) -> Kind | None:
    """Return the facts of this kind stored in a file; None when there is none or it is damaged, so that the facts are
    made again."""
    try:
        stored: dict[str, Any] = json.loads(path.read_text())
        fields: dict[str, Any] = {key: tuple(one) if isinstance(one, list) else one for key, one in stored.items()}
        return kind(**fields)
    except (OSError, ValueError, TypeError):
        return None


def definition(path: Path) -> str:
    """Return a digest of everything that defines the task of a YAML: the YAML, what that includes, its functions with
    the local files that these use, local data files, and lm-eval's version.

    Changes of data files are noticed by size and time of change; they are looked for where the task's loader looks.
    Where the YAML lies belongs to it only where local data does: two checkouts share what was fetched.
    """
    parts: list[object] = [FACTS_VERSION, importlib.metadata.version("lm_eval")]
    parts += [content_of(file) for file in definition_files(path)]
    local = [local_stamp(place) for file in yaml_files(path) for place in data_files(file, path.parent)]
    return digest([*parts, str(path.resolve()), *local] if local else parts)


def stamps(path: Path) -> dict[str, object]:
    """Return {file: what it is like} of the user's files that define the task of a YAML: a data file's size and time of
    change, the digest of the others."""
    found: dict[str, object] = {str(file): content_of(file) for file in definition_files(path) if not is_own(file)}
    for file in yaml_files(path):
        for place in data_files(file, path.parent):
            for stamp in local_stamp(place):
                if isinstance(stamp, list):
                    found[stamp[0]] = stamp[1:]
    return found


def data_files(path: Path, base: Path) -> list[Path]:
    """Return the local files that a task's YAML names as its data: each text of `dataset_path` and `dataset_kwargs`
    that is the path of a file or folder, or a pattern of paths, relative to the folder `base`. A `file:` counts
    anywhere, and where there is no such file too. None for a YAML that cannot be read."""
    try:
        config = yaml_without_functions(path)
    except (OSError, ValueError):
        return []
    data = (
        [config[key] for key in ("dataset_path", "dataset_kwargs") if key in config] if isinstance(config, dict) else []
    )
    found: list[Path] = []
    for text in [*texts(data), *(text for text in texts(config) if text.startswith("file:"))]:
        name = text.removeprefix("file:")
        if not name or "\n" in name or "{{" in name:
            continue
        if text == name and len(name) == 1 and not name.isalnum():
            continue  # a delimiter "/" is no folder to look through
        try:
            place = base / Path(name).expanduser()
            if any(mark in name for mark in "*?["):
                found += sorted(map(Path, islice(glob.iglob(str(place), recursive=True), MOST_FILES)))
            elif text.startswith("file:") or place.exists():
                found.append(place)
        except (OSError, RuntimeError, ValueError):  # no name of a file: too long, of an unknown user, with a null byte
            continue
    return list(dict.fromkeys(found))


def yaml_without_functions(path: Path) -> object:
    """Return the content of a task's YAML, with each function replaced by its name. Raises ValueError for invalid
    YAML."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: str(node.value))
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        return load_yaml(text, Loader)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def texts(value: object) -> Iterator[str]:
    """Yield every text in nested mappings and lists."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)


def local_stamp(path: Path) -> list[object]:
    """Return [path, size in bytes, time of change] of a local file, or of each file in a folder; only the path where
    nothing is there that can be read, or more than `MOST_FILES`. Cheap, and enough to notice an edit."""
    try:
        if not path.exists():
            return [str(path)]
        inside = (Path(folder, name) for folder, _, names in os.walk(path) for name in names)
        files = sorted(islice(inside, MOST_FILES + 1)) if path.is_dir() else [path]
        if len(files) > MOST_FILES:  # of a whole disk, which a text such as "/" names by chance
            return [str(path), f"more than {MOST_FILES} files"]
        return [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files if file.is_file()]
    except OSError:  # a folder that changes meanwhile, or that is no folder of files, such as /proc
        return [str(path)]


@cache
def lm_eval_tasks() -> dict[str, Path]:
    """Return lm-eval's own single tasks as {name: YAML}.

    Found by reading the files once and cached per lm-eval version: importing lm-eval takes seconds, and building its
    index takes more.
    """
    version = importlib.metadata.version("lm_eval")
    kept = sources.cache_root() / "facts" / f"lm-eval-{version}.json"
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        return {}
    folder = Path(spec.submodule_search_locations[0]) / "tasks"
    if kept.exists():
        names: dict[str, str] = json.loads(kept.read_text())
    else:
        names = {}
        for file in sorted(folder.rglob("*.yaml")):
            match = re.search(r"^task:[ \t]*['\"]?([\w.:+-]+)['\"]?[ \t]*$", file.read_text(errors="replace"), re.M)
            if match:
                names.setdefault(match[1], str(file.relative_to(folder)))
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(names))
    return {name: folder / file for name, file in names.items()}


def load_catalog(root: Path) -> Catalog:
    """Read the catalog of a project folder from `suites/models.yaml` and `suites/tasks/*.yaml`, and what comes with
    tunebench besides: a project's own model or task takes the place of one of the same name. Raises SuiteError for a
    list of models that cannot be read; a YAML without a `task:` is passed over."""
    models: dict[str, ModelEntry] = {}
    tasks: dict[str, Path] = {}
    for place in reversed(places(root)):
        models |= read_models(place / "suites" / "models.yaml")
        for file in sorted((place / "suites" / "tasks").glob("*.yaml")):
            text = file.read_text(encoding="utf-8", errors="replace")
            if match := re.search(r"^task:[ \t]*['\"]?([\w.:+-]+)", text, re.M):
                tasks[match[1]] = file
    return Catalog(root, models, tasks)


def read_models(path: Path) -> dict[str, ModelEntry]:
    """Return the models that a list in YAML names, in its order; none where there is no such file. Raises SuiteError
    for a list that cannot be read."""
    import yaml

    models: dict[str, ModelEntry] = {}
    if not path.exists():
        return models
    try:
        listed = load_yaml(path.read_text(encoding="utf-8")) or {}
        for name, row in listed.items():
            known = {key: value for key, value in row.items() if key not in ("source", "sha256")}
            models[name] = ModelEntry(
                name, sources=as_tuple(row["source"]), sha256=as_tuple(row.get("sha256", ())), **known
            )
    except KeyError as error:
        raise SuiteError([Problem(f"model {name!r} has no {error}.", str(path))]) from None
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, OSError) as error:
        raise SuiteError([Problem(f"cannot be read: {error}", str(path))]) from error
    return models


def as_tuple(value: str | Iterable[str]) -> tuple[str, ...]:
    """Return a text as a tuple of one, and several texts as a tuple."""
    return (value,) if isinstance(value, str) else tuple(value)


def find_root(start: Path) -> Path:
    """Return the nearest folder, from `start` upwards, that holds `suites/`; `start` itself where there is none."""
    return next((folder for folder in (start, *start.parents) if (folder / "suites").is_dir()), start)


def shipped() -> Path:
    """Return the folder whose `suites/` comes with tunebench: inside the installed package, or the checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "shipped"
    return inside if inside.is_dir() else package.parent


def places(root: Path) -> tuple[Path, ...]:
    """Return the folders whose `suites/` a project folder can use, the first that counts first: its own, and the one
    that comes with tunebench."""
    own = shipped()
    return (root,) if root.resolve() == own else (root, own)
