"""Says which files define a task, and which code its YAML makes Python run. Nothing of it is imported or run here.

The YAML is read as lm-eval's loader reads it (the same parser, the same rules for `include:` and `!function`), so that
no way of writing a function's name goes unseen. Modules that a task's Python files import are found from their text.

Not covered: names that Python code puts together while it runs (`importlib.import_module(a + b)`).
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import re
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from harness.data import task_functions
from harness.data.plain_files import read_text_file
from harness.data.yaml_limits import load_yaml
from harness.records import digest

MAKERS = (
    "splits", "columns", "division", "contamination", "labels", "generation", "tasks", "answers", "heard_task",
)  # fmt: skip
MOST_FILES = 2000  # of a local package that a task's code imports
MOST_BYTES = 64 * 2**20  # of a data file that a task's code names; a larger one counts by size and time of change
LONGEST_NAME = 300  # characters of a text in Python code that may be a file's name
LONGEST_MODULE = 240  # bytes of a module's name: a file's has at most 255, ending included
METRIC = re.compile(r"register_metric\(\s*metric\s*=\s*[\"']([^\"']+)[\"']")


@dataclass(frozen=True)
class DefinedFunction:
    """A function that a task's YAML `yaml` names with `!function`. `file` is the Python file that holds it, None where
    it comes from a module that Python finds by its name."""

    name: str
    yaml: Path
    file: Path | None


class FunctionName(str):
    """The text of a `!function`, told apart from other texts of a YAML."""


@dataclass
class Definition:
    """What a task's YAML says with everything that it includes: the YAML `files` in the order of reading, the functions
    that these name, and the merged `config`, in which a function is its name."""

    files: list[Path] = field(default_factory=list)
    functions: list[DefinedFunction] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskCode:
    """The code that a task makes Python run beyond this package's and lm-eval's own: `runs` has a sentence for each
    piece (empty: nothing), and `digest` is a SHA-256 of the YAMLs and of that code, the same in any folder."""

    path: Path
    runs: tuple[str, ...]
    digest: str


def read_definition(path: Path) -> Definition:
    """Read a task's YAML and all that it includes. Raises ValueError for YAML that lm-eval could not read either, and
    OSError for a file that cannot be read."""
    definition = Definition()
    definition.config = read_into(definition, path.expanduser().resolve())
    return definition


def read_into(definition: Definition, path: Path) -> dict[str, Any]:
    """Read the YAML `path` (resolved) and what it includes into `definition`; return its merged content."""
    import yaml

    if path in definition.files:
        raise ValueError(f"{path} includes itself")
    definition.files.append(path)
    base: Any = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.FullLoader  # as lm-eval chooses it

    class Loader(base):  # type: ignore[misc]
        pass

    def named(loader: Any, node: Any) -> str:
        name = str(loader.construct_scalar(node))
        definition.functions.append(DefinedFunction(name, path, local_file(name, path.parent)))
        return FunctionName(name)

    Loader.add_constructor("!function", named)
    content = read_text_file(path)  # as lm-eval reads it, in whatever encoding
    try:
        config = load_yaml(content, Loader)
    except (yaml.YAMLError, RecursionError, UnicodeError) as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} is no mapping")
    included = config.pop("include", [])
    merged: dict[str, Any] = {}
    for name in included if isinstance(included, list) else [included]:
        if not isinstance(name, str):
            raise ValueError(f"{path}: include: {name!r} is no file name")
        merged |= read_into(definition, (path.parent / name).expanduser().resolve())
    return merged | config


def local_file(name: str, folder: Path) -> Path | None:
    """Return the Python file that lm-eval loads the function `name` from (`own.f`: own.py), for a YAML in `folder`;
    None where there is none, and Python looks for a module of that name."""
    module = name.rpartition(".")[0]
    path = (folder / f"{module.replace('.', '/')}.py").resolve()
    return path if module and path.exists() else None


def readable_definition(path: Path) -> Definition:
    """Return a task's definition; of a YAML that cannot be read, what was read before the fault, and the YAML itself
    where it is there."""
    definition = Definition()
    try:
        definition.config = read_into(definition, path.expanduser().resolve())
    except (OSError, ValueError):
        definition.files = [file for file in definition.files if file.is_file()]
    return definition


def yaml_files(path: Path) -> list[Path]:
    """Return the YAML of a task and those that it includes, in the order of reading, by resolved paths."""
    return readable_definition(path).files


def definition_files(path: Path) -> list[Path]:
    """Return the files that define the task of a YAML: the YAML, those that it includes, the Python files whose
    functions they name with all local files that these use, and the modules of this package that make documents and
    examples. Of a YAML that cannot be read, what was read before the fault."""
    definition = readable_definition(path)
    own = Path(__file__).parent
    modules = (own / f"{name}.py" for name in MAKERS)
    readers = sorted((own / "readers").glob("*.py"))
    return [*sorted({*definition.files, *code_files(definition)}), *modules, *readers]


def own_code(path: Path) -> list[str]:
    """Return the SHA-256 of each file of a task's own code (`code_files`), in the order of their paths."""
    return [content_of(file) for file in sorted(code_files(readable_definition(path)))]


def code_files(definition: Definition) -> set[Path]:
    """Return the files of a task's own code: the Python files of its functions, those that these import, and the data
    files that they name. Installed packages are not among them."""
    found: set[Path] = set()
    for function in definition.functions:
        folder = function.yaml.parent
        if function.file:
            starts = [function.file]
        else:
            starts = list(module_files(function.name.rpartition(".")[0], search_path()))
        for start in starts:
            found |= used_files(start, folder)
    return found


def used_files(start: Path, folder: Path) -> set[Path]:
    """Return the Python file `start` with all local files that it uses, and those use in turn. `folder` is that of the
    YAML that names it."""
    seen: set[Path] = set()
    waiting = [start]
    while waiting:
        file = waiting.pop()
        if file in seen or is_own(file) or len(seen) > MOST_FILES:
            continue
        seen.add(file)
        if file.suffix == ".py":
            with_stat = file.stat()
            waiting += uses(file, folder, with_stat.st_mtime_ns, with_stat.st_size)
    return seen


@lru_cache(maxsize=512)
def uses(file: Path, folder: Path, changed: int, size: int) -> tuple[Path, ...]:
    """Return the local files that a Python file imports or names. `changed` (ns) and `size` are the file's, so that an
    edited file is read again."""
    try:
        tree = ast.parse(read_text_file(file))
    except (OSError, SyntaxError, ValueError, RecursionError):
        return ()
    names: dict[str, None] = {}
    texts: dict[str, None] = {}
    relative: dict[Path, None] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= dict.fromkeys(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            wanted = [base, *(f"{base}.{alias.name}".strip(".") for alias in node.names)]
            if node.level:
                above = file.parents[min(node.level, len(file.parents)) - 1]
                relative |= dict.fromkeys(path for name in wanted if name for path in module_files(name, (above,)))
            else:
                names |= dict.fromkeys(filter(None, wanted))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and 0 < len(node.value) <= LONGEST_NAME:
            texts[node.value] = None
    places = [file.parent, folder]
    named: list[Path] = []
    for text in texts:
        if "\n" in text or "\0" in text:
            continue
        for place, path in ((place, place / part) for place in (file.parent, folder) for part in parts_of(text)):
            try:
                if path.resolve() not in (place.resolve(), Path("/")) and path.is_dir():
                    places.append(path.resolve())  # it may be put on Python's path
                elif path.is_file() and (path.suffix == ".py" or path.resolve().is_relative_to(place)):
                    named.append(path.resolve())
            except OSError:  # no name that a file could have
                continue
    places = list(dict.fromkeys([*places, *search_path()]))
    dotted = [text for text in texts if re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", text)]
    imported = [path for name in (*names, *dotted) for path in module_files(name, tuple(places))]
    return tuple(dict.fromkeys([*relative, *imported, *named]))


def parts_of(text: str) -> tuple[str, ...]:
    """Return the ways to read a text as a path: as it is and, as it may be joined to a folder, without a slash in
    front."""
    return tuple(dict.fromkeys((text, text.lstrip("/"))))


def module_files(name: str, places: tuple[Path, ...]) -> Iterator[Path]:
    """Yield the files of a module `name` (dotted), and of the packages around it, in the first of the folders `places`
    that has it. Of a package they are all its Python files, as it may import any of them."""
    parts = name.split(".")
    if any(len(part.encode("utf-8", "replace")) > LONGEST_MODULE for part in parts):
        return  # no file can have that name, and asking for it would fail
    for place in places:
        found: list[Path] = []
        for end in range(1, len(parts) + 1):
            path = place.joinpath(*parts[:end])
            found += [file for file in (path.with_name(f"{path.name}.py"),) if file.is_file()]
            found += [file for file in path.parent.glob(f"{glob_safe(path.name)}*.so") if file.is_file()]
            if end == len(parts) and (path / "__init__.py").is_file():
                found += sorted(path.rglob("*.py"))[:MOST_FILES]
            elif (path / "__init__.py").is_file():
                found.append(path / "__init__.py")
        if found:
            yield from (file.resolve() for file in found)
            return


def glob_safe(text: str) -> str:
    """Return text with nothing in it that a file pattern gives a meaning to."""
    return re.sub(r"[^\w.-]", "?", text)


def search_path() -> tuple[Path, ...]:
    """Return the folders on Python's path that hold neither the standard library nor installed packages."""
    return local_places(tuple(sys.path), os.getcwd())


@lru_cache(maxsize=8)
def local_places(entries: tuple[str, ...], here: str) -> tuple[Path, ...]:
    """Return those of the `entries` of Python's path that hold a project's own modules; "" is the folder `here`."""
    places = [Path(entry or here).resolve() for entry in entries]
    return tuple(place for place in dict.fromkeys(places) if place.is_dir() and not is_installed(place))


@cache
def installed() -> tuple[Path, ...]:
    """Return the folders of the standard library and of installed packages."""
    return tuple({Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def is_installed(path: Path) -> bool:
    """Return whether a resolved path lies among the standard library or installed packages."""
    return any(path.is_relative_to(folder) for folder in installed())


def is_own(path: Path) -> bool:
    """Return whether a resolved path lies in this package."""
    return path.is_relative_to(Path(__file__).resolve().parents[1])


@cache
def lm_eval_folder() -> Path | None:
    """Return the folder of lm-eval's own tasks; None where lm-eval is not installed."""
    spec = importlib.util.find_spec("lm_eval")
    places = spec.submodule_search_locations if spec else None
    return Path(places[0]).resolve() / "tasks" if places else None


def is_lm_evals(path: Path) -> bool:
    """Return whether a resolved path lies among lm-eval's own tasks, or the parts of lm-eval that these use."""
    folder = lm_eval_folder()
    return folder is not None and path.is_relative_to(folder.parent)


def is_shipped(function: DefinedFunction) -> bool:
    """Return whether a function comes with this package and is made for task YAMLs, or with lm-eval for one of its own
    tasks. A YAML of somebody else's that names a function of lm-eval's could give it anything to work on."""
    if function.file is None or is_own(function.file):
        public = function.name in task_functions.PUBLIC or function.name in task_functions.FORMER
        return public or is_lm_evals(function.yaml)
    return is_lm_evals(function.yaml) and is_lm_evals(function.file)


@cache
def lm_eval_metrics() -> frozenset[str]:
    """Return the names of lm-eval's own metrics, read from its source: importing lm-eval takes seconds."""
    folder = lm_eval_folder()
    source = folder.parent / "api" / "metrics.py" if folder else None
    return frozenset(METRIC.findall(source.read_text("utf-8"))) if source and source.is_file() else frozenset()


def code_of(path: Path) -> TaskCode:
    """Return the code that the task of a YAML runs beyond this package's and lm-eval's own. Raises ValueError for YAML
    that cannot be read, and OSError for a file that cannot be read."""
    definition = read_definition(path)
    root = definition.files[0]
    runs = [told(function, root.parent) for function in definition.functions if not is_shipped(function)]
    runs += list(unusual(definition.config, is_lm_evals(root)))
    counted = {*definition.files, *code_files(definition)} if runs else set()
    content = sorted(
        (os.path.relpath(file, root.parent), content_of(file)) for file in counted if not is_lm_evals(file)
    )
    return TaskCode(path, tuple(dict.fromkeys(runs)), digest([2, runs, content]) if runs else "")


def told(function: DefinedFunction, folder: Path) -> str:
    """Return in words which function runs, and from where; files are told relative to `folder`."""
    if function.file:
        return f"{function.name} in {os.path.relpath(function.file, folder)}"
    return f"{function.name} of a module that Python finds by that name"


def unusual(config: dict[str, Any], is_shipped_task: bool) -> Iterator[str]:
    """Yield what a task's merged `config` runs otherwise than by `!function`."""
    if "class" in config:
        yield f"the Python class {config['class']}"
    if config.get("unsafe_code"):
        yield "code that the model writes (unsafe_code)"
    if is_shipped_task:
        return
    options = config.get("dataset_kwargs")
    if isinstance(options, dict) and options.get("trust_remote_code"):
        yield "the script of its data set (trust_remote_code)"
    if str(config.get("dataset_path")).endswith(".py"):
        yield f"the data set's script {config['dataset_path']}"
    listed = config.get("metric_list")
    if config.get("process_results") is not None or not isinstance(listed, list):
        return  # then a metric is only a name
    for entry in listed:
        name = entry.get("metric") if isinstance(entry, dict) else None
        if not isinstance(name, str) or isinstance(name, FunctionName):
            continue
        if entry.get("hf_evaluate") or name not in lm_eval_metrics():
            yield f"the script of the metric {name}, which the library `evaluate` finds by that name"


def content_of(file: Path) -> str:
    """Return a file's SHA-256; of a very large one, that of its size and time of change."""
    stat = file.stat()
    if stat.st_size > MOST_BYTES:
        return digest([stat.st_size, stat.st_mtime_ns])
    return hashlib.sha256(file.read_bytes()).hexdigest()
