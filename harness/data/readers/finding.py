"""Finds the data files of a file, a folder or a pattern of paths, and the splits that their names publish.

A folder is read as the Hugging Face Hub reads a data set's repository: the README's `configs:` say which files make
which split; otherwise names and folders do (`train-00000.parquet`, `test/1.csv`, `dev.jsonl`).
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from harness.data.readers.base import Value
from harness.data.readers.opening import PACKINGS, DataFile
from harness.data.sources.base import matching, pattern_root
from harness.data.yaml_limits import compose_yaml
from harness.errors import TaskError, unknown

WORDS = {  # of a file's name or its folders, as the Hub knows them
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
NO_DATA = (
    "dataset_info.json",
    "dataset_infos.json",
    "dataset_dict.json",
    "state.json",
    "package.json",
    "croissant.json",
)
NOTES = (".txt", ".text")
Patterns = str | list[str] | Mapping[str, str | list[str]]


def split_of(name: str) -> str:
    """Return the split that a file's path names ("train", "validation" or "test"), "" for none. The file's own name
    counts before its folders."""
    parts = PurePosixPath(name).parts
    for part in reversed(parts):
        words = re.split(r"[^a-z]+", part.lower())
        for split, known in WORDS.items():
            if any(word in known for word in words):
                return split
    return ""


def called(path: Path) -> str:
    """Return how messages call a file or folder: its name, and of a snapshot of the Hub that of its repository."""
    repository = path.parent.parent.name
    return "/".join(repository.split("--")[1:]) if path.parent.name == "snapshots" and "--" in repository else path.name


def find(path: Path, endings: Iterable[str], files: Patterns | None, config: str) -> dict[str, list[DataFile]]:
    """Return {split: its files} of a file, a folder or a pattern; the split is "" where nothing divides the files.

    `endings` are those of data files. `files` are patterns of names in the folder, for all or for each split; `config`
    is one of the README's configurations. Raises TaskError where no data is found.
    """
    if not path.is_dir():
        if files or config:
            option = "files" if files else "config"
            raise TaskError(f"{path.name} is no folder, and `{option}` says which files of a folder to read.")
        if not path.exists():
            return divided(of_pattern(path))
        return {"": [DataFile(path, path.name)]}
    known = tuple(endings)
    inside = {
        file.relative_to(path).as_posix(): file
        for file in sorted(path.rglob("*"))
        if file.is_file() and not any(part.startswith((".", "__")) for part in file.relative_to(path).parts)
    }
    if files is None:
        files = configured(path, config)
    elif config:
        raise TaskError("`files` and `config` both say which files are read. Give one of them.")
    if files is not None:
        by_split = {split: picked(path, inside, patterns) for split, patterns in as_splits(files).items()}
        return published(by_split)
    data = [DataFile(file, name) for name, file in inside.items() if is_data(name, known)]
    data = [file for file in data if file.ending not in NOTES] or data  # a LICENSE.txt beside tables is no data
    if not data:
        others = ", ".join(list(inside)[:5]) or "nothing"
        raise TaskError(
            f"{called(path)} holds no data files, but {others}. Data ends in {', '.join(sorted(known))}, or say which "
            'files are read, such as files: "data/*.log" with reader: text.'
        )
    return divided(data)


def is_data(name: str, endings: tuple[str, ...]) -> bool:
    """Return whether a file of a folder holds data, by its name: the folder's own descriptions do not."""
    base = PurePosixPath(name).name.lower()
    for packing in PACKINGS:
        base = base.removesuffix(packing)
    return base.endswith(endings) and base not in NO_DATA


def of_pattern(path: Path) -> list[DataFile]:
    """Return the files that a pattern of paths stands for. Raises TaskError where there are none."""
    root = pattern_root(path)
    files = [DataFile(match, match.relative_to(root).as_posix()) for match in matching(path) if match.is_file()]
    if not files:
        raise TaskError(f"{path.name} stands for no file.")
    return files


def divided(files: list[DataFile]) -> dict[str, list[DataFile]]:
    """Return files by the splits that their names say, where these are train and one to test on; else all of them
    under ""."""
    by_split: dict[str, list[DataFile]] = {}
    for file in files:
        by_split.setdefault(split_of(file.name), []).append(file)
    if "train" in by_split and by_split.keys() & {"test", "validation"}:
        return published({split: found for split, found in by_split.items() if split})
    return {"": files}


def published(by_split: dict[str, list[DataFile]]) -> dict[str, list[DataFile]]:
    """Return published splits in their order. A single one is divided as any file is. Where there is no test split,
    validation is scored in its place, as lm-eval's tasks do."""
    if len(by_split) == 1:
        return {"": next(iter(by_split.values()))}
    if "test" not in by_split and "train" in by_split and "validation" in by_split:
        return {"train": by_split["train"], "test": by_split["validation"]}
    return by_split


def as_splits(files: Patterns) -> dict[str, list[str]]:
    """Return {split: patterns}; patterns without a split are those of "". Other names of splits get ours ("dev" is
    validation) where ours are not there. Raises TaskError where two names could be the same split."""
    if not isinstance(files, Mapping):
        return {"": as_list(files)}
    names = {split: split if split in WORDS else split_of(split) or split for split in files}
    chosen: dict[str, str] = {}  # our name -> the name that is given
    for given, ours in names.items():
        other = chosen.get(ours)
        if other is None or given == ours:
            chosen[ours] = given
        elif other != ours:
            raise TaskError(
                f"the splits {other!r} and {given!r} could both be {ours}. Say which files are read, such as "
                f"files: {{{ours}: {as_list(files[other])[0]!r}}}."
            )
    return {ours: as_list(files[given]) for ours, given in chosen.items()}


def as_list(patterns: str | list[str]) -> list[str]:
    """Return one pattern as a list, and several as they are."""
    return [patterns] if isinstance(patterns, str) else list(patterns)


def picked(path: Path, inside: Mapping[str, Path], patterns: list[str]) -> list[DataFile]:
    """Return the files of a folder whose names match one of the patterns. Raises TaskError for a pattern that matches
    none."""
    found: dict[str, DataFile] = {}
    for pattern in patterns:
        wanted = pattern.removeprefix("./")
        rules = (wanted, wanted.replace("**/", ""))  # ** also stands for no folder
        names = [name for name in inside if any(fnmatch.fnmatchcase(name, rule) for rule in rules)]
        if not names:
            raise TaskError(unknown(f"file in {called(path)}", pattern, inside))
        found |= {name: DataFile(inside[name], name) for name in names}
    return list(found.values())


def configured(path: Path, config: str) -> Patterns | None:
    """Return the patterns that the README of a data set's folder gives for a configuration: the one called `config`,
    else the default one. None where the README has none. Raises TaskError for an unknown one, and where several could
    be meant."""
    configs = {
        str(entry.get("config_name", "default")): entry
        for entry in front_matter(path / "README.md").get("configs") or ()
        if isinstance(entry, dict) and entry.get("data_files")
    }
    if config:
        if config not in configs:
            raise TaskError(unknown("config", config, configs))
        chosen = configs[config]
    elif not configs:
        return None
    else:
        defaults = [name for name, entry in configs.items() if entry.get("default")] or ["default"]
        name = next(iter(configs)) if len(configs) == 1 else defaults[0]
        if name not in configs:
            listed = ", ".join(configs)
            raise TaskError(
                f"{called(path)} has several configs: {listed}. Say which one: config: {next(iter(configs))}."
            )
        chosen = configs[name]
    data = chosen["data_files"]
    folder = f"{str(chosen['data_dir']).strip('/')}/" if chosen.get("data_dir") else ""
    if isinstance(data, list) and all(isinstance(entry, dict) for entry in data):
        data = {str(entry.get("split")): entry.get("path") for entry in data}
    try:
        splits = as_splits(data)
        patterns = {split: [f"{folder}{pattern}" for pattern in given] for split, given in splits.items()}
    except TypeError:
        raise TaskError(f"{called(path)}/README.md: data_files of {config or 'its configs'} name no files.") from None
    return patterns


def front_matter(readme: Path) -> dict[str, Value]:
    """Return what the YAML at the head of a README says; nothing where there is none, or none that can be read."""
    import yaml

    try:
        text = readme.read_text(encoding="utf-8", errors="replace")
        match = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", text, re.S)
        if not match:
            return {}
        compose_yaml(match[1])
        head = yaml.safe_load(match[1])
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return head if isinstance(head, dict) else {}
