"""The way in from Python, `from harness import Suite, run, results`: what commands do, with objects in place of text.

Not covered: how results are stored (`store`), judged (`analysis`) and worded (`report`).
"""

from __future__ import annotations

import logging
import os
import shlex
import sys
import types
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UserError

if TYPE_CHECKING:
    import altair
    import duckdb
    import pandas

    from harness.analysis import CellComparison, GroupComparison, LabelComparison
    from harness.report import Recommendation, ReportPaths
    from harness.report.table import Report
    from harness.store import Store, StoredRun
    from harness.suite import Suite


@dataclass(frozen=True, eq=False)
class Results:
    """The newest run of a suite, as it was stored when this was made; `results` makes a newer one.

    Tables are of pandas. Each asks for what it needs the first time, so that looking at scores reads no items.
    """

    store: Store
    report: Report

    @property
    def run(self) -> StoredRun:
        """The run: its id, suite, question, start, status, and environment."""
        return self.report.run

    @cached_property
    def cells(self) -> pandas.DataFrame:
        """A row for each cell: what it is, how it ended, its headline score and change against the base model, seconds
        and bytes of each phase, and all its facts."""
        from harness.store import cell_frame

        return cell_frame(self.report.cells, self.report.designs)

    @cached_property
    def scores(self) -> pandas.DataFrame:
        """A row for each score of each cell, on learned and retained tasks, with its standard error."""
        from harness.store import score_frame

        return score_frame(self.report.cells)

    @cached_property
    def items(self) -> pandas.DataFrame:
        """A row for each scored item: its value, the model's answer and the right one. Large suites have millions."""
        from harness.store import item_frame

        with self.connect() as connection:
            return item_frame(connection, self.report.cells)

    @property
    def answer(self) -> list[str]:
        """What the results answer, in at most ten sentences."""
        from harness.report import answer_lines

        return answer_lines(self.report)

    @cached_property
    def charts(self) -> dict[str, altair.TopLevelMixin]:
        """The charts of the report as charts of Altair, by the names of their files."""
        from harness.report import drawn_charts

        return drawn_charts(self.report)

    @contextmanager
    def connect(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Opens the database for the length of a `with` block, read-only. It holds all suites of the results folder.
        DuckDB lets no other process write meanwhile."""
        with self.store.open(read_only=True) as connection:
            yield connection

    def sql(self, query: str, parameters: Sequence[object] | Mapping[str, object] = ()) -> pandas.DataFrame:
        """Returns the rows of a query to the database, which holds all suites of the results folder. Values of
        `parameters` stand for the `?` or `$name` of the query. Raises UserError for a query that fails."""
        import duckdb

        with self.connect() as connection:
            try:
                return connection.execute(query, parameters).df()
            except duckdb.Error as error:
                raise UserError(f"the query failed: {error}") from error

    def compare(
        self, a: str, b: str, *, metric: str = "", margin: float | None = None, task: str = "", model: str = "",
        size: int | None = None,
    ) -> LabelComparison | CellComparison | GroupComparison:  # fmt: skip
        """Returns the verdicts on two labels of the suite, two cells, two runs or two environments, as `tunebench
        compare` has them: `.tables` of labels are pairs of a table and its verdict. `margin` is the difference of
        scores that does not matter, by default the suite's; `metric` is another metric than the headline, or a cost.

        Raises UserError for a name that stands for nothing, and for two names of different kinds.
        """
        from harness.analysis import Request, resolve

        with self.connect() as connection:
            return resolve(connection, a, b, Request(self.run.suite, margin, metric, task, model, size))

    def recommend(
        self, *, examples: int | None = None, memory: float | None = None, latency_ms: float | None = None,
        budget: float | None = None, max_forgetting: float | None = None, task: str = "", model: str = "",
    ) -> list[Recommendation]:  # fmt: skip
        """Returns which label to use within the limits, for each model and task of the suite, or for those that are
        named. `examples` is the number of training examples that there are (default: the largest size that was run),
        `memory` in bytes, `budget` in the currency of the assumed prices, `max_forgetting` in the unit of the first
        retained task. Raises UserError for names and limits that do not fit the suite."""
        from harness.analysis import Wishes
        from harness.report import prices_of, questions, recommendations

        margin = self.run.margin
        wishes = Wishes(memory, max_forgetting, "", latency_ms, budget, margin)
        return recommendations(questions(self.report, examples, task, model, margin), wishes, prices_of(self.report))

    def write_report(self, folder: Path | str) -> ReportPaths:
        """Writes the report's page, Markdown, plots and tables into a folder; returns the paths of the first two."""
        from harness.report import write_report

        return write_report(self.report, Path(folder))

    def __repr__(self) -> str:
        done = sum(cell.status == "done" for cell in self.report.cells)
        return f"<Results of {self.run.suite}: {done} of {len(self.report.cells)} cells done, run {self.run.run_id}>"


def results(suite: str | Path | Suite, folder: Path | str | None = None) -> Results:
    """Returns the results of the newest run of a suite: its name, the path of its file, or the suite itself.

    `folder` is the results folder; by default `TUNEBENCH_RESULTS`, else `results/` of the project that the current
    folder lies in. Raises StoreError where nothing is stored, or nothing of this suite.
    """
    from harness.cli.options import suite_name
    from harness.report import load

    store = store_in(folder)
    return Results(store, load(store, suite_name(str(getattr(suite, "name", suite)))))


def run(
    suite: str | Path | Suite, folder: Path | str | None = None, *, only: Iterable[str] = (),
    retry: Iterable[str] = (), jobs: int | None = None, threads: int | None = None, executor: str = "local",
) -> Results:  # fmt: skip
    """Runs every cell of a suite that is not done yet, as `tunebench run` does, and returns the suite's results. Cells
    that did not end as done are printed, and their `status` is in `Results.cells`.

    `folder` is as for `results`. `only` are keys, labels or patterns such as "lora/*"; cells with a status in `retry`
    run again; `jobs` is how many run at a time, `threads` the CPU threads of each; `executor` is local, ray or slurm.

    Raises UserError for names that are unknown and for instruments that fail their checks, SuiteError with every
    mistake of the suite, SourceError for what cannot be downloaded.
    """
    from harness.cli.options import get_facts, project
    from harness.cli.running import again, check_executor, run_plan
    from harness.data import find_root
    from harness.execute import Choices
    from harness.plan import make_plan, select_cells
    from harness.suite import Suite, find_suite, load_suite

    catalog = project()
    loaded = suite if isinstance(suite, Suite) else load_suite(find_suite(str(suite), find_root(Path.cwd())), catalog)
    check_executor(executor)
    choices = Choices(executor, jobs, threads or 0, again(retry))
    store = store_in(folder)
    chosen = list(only)
    words = [f"--only={pattern}" for pattern in chosen] + [f"--retry={status}" for status in sorted(choices.retry)]
    words += [f"--{name}={value}" for name, value in (("jobs", jobs), ("threads", threads)) if value]
    command = shlex.join(["tunebench", "run", str(suite if isinstance(suite, str) else loaded.path), *words])
    with as_it_was():
        plan = select_cells(make_plan(loaded, get_facts(catalog, loaded)), chosen)
        run_plan(plan, choices, catalog, store, command=command)
    return results(loaded, store.folder)


def store_in(folder: Path | str | None) -> Store:
    """Returns the store in `folder`, by default that of the project that the current folder lies in."""
    from harness.data import find_root
    from harness.store import Store

    named = folder or os.environ.get("TUNEBENCH_RESULTS")
    return Store(Path(named) if named else find_root(Path.cwd()) / "results")


@contextmanager
def as_it_was() -> Iterator[None]:
    """Leaves logging, warnings and environment variables of the caller's Python as they were before the block.

    Meanwhile there is no main script: the processes of cells would run it again, as multiprocessing does where it is
    not guarded by `if __name__ == "__main__"`.
    """
    disabled, variables, main = logging.root.manager.disable, dict(os.environ), sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        with warnings.catch_warnings():
            yield
    finally:
        sys.modules["__main__"] = main
        logging.disable(disabled)
        os.environ.clear()
        os.environ.update(variables)
