"""Shows how to run the suite again, and what it was run with."""

from __future__ import annotations

import re
from collections.abc import Iterator

from harness.records import shell_line
from harness.report.elements import Code, Custom, Element, Text
from harness.report.sections.base import Section, Subject

# The packages that a reader asks for first; the database has all of them.
PACKAGES = ("torch", "transformers", "peft", "accelerate", "lm_eval", "bitsandbytes", "setfit", "mergekit")


class Reproduce(Section):
    """The command, the commit, the machine and the packages."""

    name = "reproduce"
    title = "How to reproduce"
    link = "Reproduce"
    order = 330
    forms = frozenset({"page", "markdown"})

    def elements(self, subject: Subject) -> Iterator[Element]:
        run = subject.report.run
        environment = run.environment
        yield Code(command_of(run.suite))
        if environment:
            device = environment["accelerator"] or environment["cpu"]
            dirty = " with uncommitted changes" if environment["dirty"] else ""
            yield Text(f"Run {run.run_id} on {device}, commit {environment['commit'][:12]}{dirty}.")

    def on_page(self, subject: Subject) -> Iterator[Element]:
        """Yields the command, then the run, its environment and the version of every package."""
        run = subject.report.run
        packages = run.environment.get("packages", {})
        yield Code(command_of(run.suite))
        yield Custom(
            "reproduce.html.jinja",
            {
                "run": run,
                "environment": run.environment,
                "packages": {name: packages[name] for name in PACKAGES if name in packages},
                "all_packages": packages,
            },
        )


def command_of(suite: str) -> str:
    """Returns the command that runs a suite and writes its report. A name that is more than a name goes without `make`,
    which would hand it to a shell as it is."""
    plain = re.fullmatch(r"\w[\w.-]*", suite, re.ASCII)
    return f"make bench SUITE={suite}" if plain else shell_line(["tunebench", "run", "--", suite])
