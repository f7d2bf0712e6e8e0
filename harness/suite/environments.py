"""Reads what a command or a suite asks for as environments: packages to toggle, each with a version, a file or a
commit."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.environment import normal_name
from harness.errors import Problem, UserError
from harness.suite.yaml_lines import Lines

CURRENT = "current"
FORMS = (
    "a requirement (peft==0.20.0), a wheel or folder (./peft-0.21.3-py3-none-any.whl), a commit "
    "(peft @ git+file:///path/to/checkout@COMMIT), or `current`"
)
ARCHIVES = (".whl", ".zip", ".tar.gz")


@dataclass(frozen=True)
class EnvironmentRequest:
    """An environment as it was asked for. `name` is what people call it, `requirements` are pip's words for the
    packages that differ from the base installation (none: the base itself). `isolated`: it shares no file with the
    base."""

    name: str
    requirements: tuple[str, ...] = ()
    isolated: bool = False

    @property
    def is_base(self) -> bool:
        """Whether it is the installation that this program runs in."""
        return not self.requirements and not self.isolated


def parse_request(text: str, isolated: bool = False, base: Path = Path()) -> EnvironmentRequest:
    """Returns the environment that a `--with` names: requirements joined by commas, or `current`. Relative paths begin
    in the folder `base`.

    Raises UserError for anything that pip would not understand, naming the part that is wrong.
    """
    parts = [part.strip() for part in split_commas(text)]
    if not any(parts):
        raise UserError(f"--with is empty. It takes {FORMS}.")
    if parts == [CURRENT]:
        return EnvironmentRequest(CURRENT, (), isolated)
    if CURRENT in parts:
        raise UserError(f"--with {text!r}: `current` stands alone, it is the installation as it is.")
    requirements = tuple(requirement_of(part, base) for part in parts)
    return EnvironmentRequest(", ".join(parts), requirements, isolated)


def split_commas(text: str) -> list[str]:
    """Returns the parts of a text between commas. A comma that goes on with a comparison (peft>=0.20,<0.21), or stands
    within brackets (trl[vllm,quantization]), belongs to its requirement."""
    parts, depth = [""], 0
    for place, sign in enumerate(text):
        depth += (sign == "[") - (sign == "]")
        if sign == "," and not depth and not re.match(r"\s*[<>=!~]", text[place + 1 :]):
            parts.append("")
        else:
            parts[-1] += sign
    return parts


def requirement_of(part: str, base: Path) -> str:
    """Returns one part of a `--with` as pip takes it: a path becomes absolute, everything else stays. Raises UserError
    for an empty part, a file that is not there, or what is no requirement."""
    from packaging.requirements import InvalidRequirement, Requirement

    if not part:
        raise UserError(f"--with has an empty part between commas. It takes {FORMS}.")
    if looks_like_path(part):
        path = (base / Path(part).expanduser()).resolve()
        if not path.exists():
            raise UserError(f"--with {part}: there is no file or folder {path}.")
        if path.is_dir() and not any((path / name).exists() for name in ("pyproject.toml", "setup.py", "setup.cfg")):
            raise UserError(f"--with {part}: the folder {path} is no Python project; it has no pyproject.toml.")
        return str(path)
    if part.startswith("git+"):
        return part
    try:
        Requirement(part)
    except InvalidRequirement as error:
        if re.fullmatch(r"[\w.-]+=[^=].*", part):
            raise UserError(f"--with {part}: write two equal signs, {part.replace('=', '==', 1)}.") from None
        raise UserError(f"--with {part}: {str(error).splitlines()[0]}. It takes {FORMS}.") from None
    return part


def looks_like_path(part: str) -> bool:
    """Returns whether a part of a `--with` is meant as a file or folder of this machine."""
    return part.startswith((".", "/", "~")) or (part.endswith(ARCHIVES) and "://" not in part and " @ " not in part)


def package_names(requirements: Iterable[str]) -> tuple[str, ...]:
    """Returns the normalised names of the packages that requirements name; those that pip alone can tell (a folder, an
    address of git) are left out."""
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename

    names = []
    for requirement in requirements:
        try:
            if requirement.endswith(".whl"):
                names.append(normal_name(parse_wheel_filename(Path(requirement).name)[0]))
            else:
                names.append(normal_name(Requirement(requirement).name))
        except (InvalidRequirement, InvalidWheelFilename):
            continue
    return tuple(names)


def read_environments(entries: object, lines: Lines, folder: Path) -> tuple[list[EnvironmentRequest], list[Problem]]:
    """Returns (the environments of a suite's `environments:` block, the mistakes in it). An entry is a text as `--with`
    takes it, or a mapping package -> version or list of versions, which makes a matrix of all combinations. Relative
    paths begin in `folder`, the suite's."""
    problems: list[Problem] = []
    requests: list[EnvironmentRequest] = []
    if not isinstance(entries, list):
        return [], [lines.problem(f"environments is {entries!r}; it must be a list of {FORMS}.", "environments")]
    for place, entry in enumerate(entries):
        try:
            requests += [parse_request(text, base=folder) for text in texts_of(entry)]
        except UserError as error:
            message = str(error).replace("--with ", "").replace("--with", "environments:")
            problems.append(lines.problem(message, "environments", place))
    for place, request in enumerate(requests):
        if request in requests[:place]:
            problems.append(lines.problem(f"{request.name} is listed twice. Remove one.", "environments"))
    return requests, problems


def texts_of(entry: object) -> list[str]:
    """Returns an entry of `environments:` as texts for `parse_request`: one for a text, one for each combination of a
    mapping's lists. Raises UserError for an entry of another kind."""
    if isinstance(entry, str):
        return [entry]
    if not isinstance(entry, Mapping) or not entry:
        raise UserError(f"got {entry!r}, wanted {FORMS}, or a mapping such as {{peft: [0.20.0, 0.21.2]}}.")
    lists: list[Sequence[object]] = [value if isinstance(value, list) else [value] for value in entry.values()]
    if any(isinstance(value, float) for values in lists for value in values):
        raise UserError(f"{dict(entry)!r} has a number as a version. Quote it: '0.20' is not 0.2.")
    return [
        ",".join(f"{name}=={version}" for name, version in zip(entry, versions, strict=True))
        for versions in itertools.product(*lists)
    ]
