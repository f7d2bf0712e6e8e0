"""Defines the columns of the main table and their texts, as terminal, Markdown and HTML all show them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from harness.records import bare_quantity
from harness.report.estimates import Estimate
from harness.report.format import NA, chance, count, digits_of, number, seconds, share, size, with_error
from harness.report.table import COSTS, KL, SEVERAL, UNITS, Block, Row

# Columns that a narrow terminal leaves out, in this order.
SPARE = (
    "on front", "MFU", "latency ms", "train energy", "mean Δ", "tokens/s", "to ship", "trainable", "peak memory",
    "seeds", "KL to base", "train s", "backward transfer", "forgetting", "average",
)  # fmt: skip


BESIDE, FRONT = "vs best", "on front"
OPEN = "open"


@dataclass(frozen=True)
class Column:
    """A column of the main table: its header, the text it shows for a row, and the number (or text) that rows are
    sorted by, None where a row has none. `error` gives the standard error of that number, for columns that have one."""

    name: str
    text: Callable[[Row], str]
    value: Callable[[Row], float | str | None]
    error: Callable[[Row], float | None] | None = None


def title(n_train: int, condition: str) -> str:
    """Returns the title of a table, such as "128 training examples, labels 0.2"."""
    return ", ".join(filter(None, (f"{n_train} training examples" if n_train else "untrained", condition)))


def columns(block: Block) -> list[Column]:
    """Returns the columns of a block's table from left to right: what a row is, what it scores, retains and costs."""
    return [
        Column("method", lambda row: name(block, row), lambda row: row.label),
        Column("seeds", seeds, lambda row: row.seeds if row.n_train else None),
        Column(
            block.metric or "score",
            lambda row: level(row.score),
            lambda row: row.score.value if row.score else None,
            lambda row: row.score.stderr if row.score else None,
        ),
        estimate_column("gain", lambda row: row.score),
        *ranking_columns(block),
        *(estimate_column(f"Δ {task}" + unit(block, task), retained_of(task)) for task in block.retain),
        *(estimate_column(f"mean Δ {metric}", mean_change_of(metric)) for metric in averaged(block)),
        *(kl_column(block, task) for task in moved(block)),
        *(several_column(column) for column in several(block)),
        Column(
            "train s",
            lambda row: seconds(row.train_seconds) + disturbed(row) if timed(row) else "",
            lambda row: row.train_seconds if timed(row) else None,
        ),
        Column(
            "tokens/s",
            lambda row: count(row.tokens_per_second) if row.tokens_per_second else "",
            lambda row: row.tokens_per_second,
        ),
        Column("peak memory", lambda row: size(row.peak_bytes) if row.peak_bytes else "", lambda row: row.peak_bytes),
        Column(
            "trainable",
            lambda row: share(row.trainable) if row.n_train else "",
            lambda row: row.trainable if row.n_train else None,
        ),
        Column(
            "to ship",
            lambda row: size(row.artifact_bytes) if row.artifact_bytes else "",
            lambda row: row.artifact_bytes,
        ),
        *(cost_column(column) for column in costs(block)),
    ]


def estimate_column(header: str, pick: Callable[[Row], Estimate | None]) -> Column:
    """Makes a column that shows the change of one estimate against the base model. `pick` reads the estimate off a
    row."""
    return Column(
        header,
        lambda row: "" if bare(row) else change(pick(row)),
        lambda row: estimate.gain if (estimate := pick(row)) and not bare(row) else None,
        lambda row: estimate.gain_stderr if (estimate := pick(row)) and not bare(row) else None,
    )


def retained_of(task: str) -> Callable[[Row], Estimate | None]:
    """Returns a function that reads a row's estimate on a retained task, for `estimate_column`."""
    return lambda row: row.retained.get(task)


def mean_change_of(metric: str) -> Callable[[Row], Estimate | None]:
    """Returns a function that reads a row's mean change over the retained tasks with that metric, for
    `estimate_column`."""
    return lambda row: row.mean_changes.get(metric)


def kl_column(block: Block, task: str) -> Column:
    """Makes the column of the KL to base on a retained text. The header names the text where there are several."""

    def value(row: Row) -> float | None:
        return estimate.value if (estimate := row.moved.get(task)) else None

    header = f"KL to base{f', {task}' if moved(block)[1:] else ''} ({UNITS[KL]})"

    def error(row: Row) -> float | None:
        return estimate.stderr if (estimate := row.moved.get(task)) else None

    return Column(header, lambda row: "" if bare(row) else level(row.moved.get(task)), value, error)


def several_column(header: str) -> Column:
    """Makes one of the columns of `SEVERAL`, which are about rows that learned several tasks."""
    return Column(
        header,
        lambda row: number(row.several.get(header), signed=SEVERAL[header] != ""),
        lambda row: row.several.get(header),
    )


def cost_column(header: str) -> Column:
    """Makes one of the columns of `COSTS`."""
    return Column(header, lambda row: cost(row, header), lambda row: row.costs.get(header))


def ranking_columns(block: Block) -> list[Column]:
    """Makes the columns of a row's verdict against the best of its table, and of its probability of being on the Pareto
    front of learning and forgetting. Empty where nothing was compared."""
    found = []
    if any(len(ranking.labels) > 1 and ranking.seeds_known for ranking in block.rankings.values()):
        found.append(Column(BESIDE, lambda row: beside_best(block, row), lambda row: place(block, row)))
    if block.fronts:
        found.append(
            Column(
                FRONT,
                lambda row: chance(front_of(block, row)),
                lambda row: front_of(block, row),
            )
        )
    return found


def beside_best(block: Block, row: Row) -> str:
    """Returns "best", or the verdict on the row against the best row of its table; "" where the row is not compared."""
    ranking = block.ranking(row.n_train, row.condition)
    if not row.n_train or not ranking.best or row.label not in ranking.labels:
        return ""
    if row.label == ranking.best:
        return "best"
    verdict = ranking.between(row.label, ranking.best)
    return OPEN if verdict and verdict.verdict == "underpowered" else verdict.verdict if verdict else ""


def place(block: Block, row: Row) -> int | None:
    """Returns the row's rank by score among the rows that are compared, 1 for the best; None where it is not
    compared."""
    labels = block.ranking(row.n_train, row.condition).labels
    return labels.index(row.label) + 1 if row.n_train and row.label in labels else None


def front_of(block: Block, row: Row) -> float | None:
    """Returns the row's probability of being on the Pareto front of learning and forgetting in its table; None where it
    is not known."""
    return block.fronts.get((row.label, row.n_train, row.condition))


def headers(block: Block) -> list[str]:
    """Returns the headers of a block's table, in the order of `columns`."""
    return [column.name for column in columns(block)]


def costs(block: Block) -> list[str]:
    """Returns the names of those columns of `COSTS` for which some row has a figure."""
    return [name for name in COSTS if any(name in row.costs for row in block.rows)]


def several(block: Block) -> list[str]:
    """Returns the names of those columns about several learned tasks for which some row has a figure."""
    return [name for name in SEVERAL if any(name in row.several for row in block.rows)]


def averaged(block: Block) -> list[str]:
    """Returns the metrics that two or more retained capability tasks share as their headline, so that their changes
    have a mean."""
    return list(dict.fromkeys(metric for row in block.rows for metric in row.mean_changes))


def moved(block: Block) -> list[str]:
    """Returns the retained texts for which some row has a KL to the base model; empty for results from before it was
    measured."""
    return [task for task in block.retain if any(task in row.moved for row in block.rows)]


def unit(block: Block, task: str) -> str:
    """Returns the unit of a retained task's score in brackets, with a blank before it; "" where no row has a score on
    it."""
    for row in block.rows:
        estimate = row.retained.get(task)
        if estimate:
            return f" ({UNITS.get(estimate.metric, estimate.metric)})"
    return ""


def texts(block: Block, row: Row) -> list[str]:
    """Returns the texts of one row, in the order of `headers`. A row without a finished cell shows its status and no
    number."""
    if not row.seeds:
        status = ", ".join(dict.fromkeys(status for _, status, _ in row.failures))
        return [name(block, row), seeds(row), status, *[""] * (len(headers(block)) - 3)]
    return [column.text(row) for column in columns(block)]


def bare(row: Row) -> bool:
    """Whether the row is the base model, whose changes would be against itself."""
    return row.label == "base"


def timed(row: Row) -> bool:
    """Whether the row was trained and the time of its training is known."""
    return row.n_train > 0 and row.train_seconds is not None


def disturbed(row: Row) -> str:
    """Returns the mark of a row whose times, rates and energy say little, with a blank before it; else ""."""
    return " ‡" if row.disturbed else ""


def cost(row: Row, name: str) -> str:
    """Returns the text of the column `name` of `COSTS` for a row, with a mark where the row was disturbed; "" without a
    figure. Energy beside other work has no mark: it is absent then."""
    if name not in row.costs:
        return ""
    unit = COSTS[name].unit
    return bare_quantity(row.costs[name], unit) + ("" if unit == "J" and not row.speed_off else disturbed(row))


def name(block: Block, row: Row) -> str:
    """Returns the row's label, marked where a seed is not shown to have learned, with its model where that is not the
    block's."""
    mark = " †" if row.doubtful and row.n_train else ""
    return row.label + mark + (f" ({row.model})" if row.model != block.model else "")


def seeds(row: Row) -> str:
    """Returns how many seeds finished: "2", or "1 of 2" where a seed has not; "" for a row that was not trained."""
    if not row.n_train:
        return ""
    return f"{row.seeds} of {row.seeds + len(row.failures)}" if row.failures else str(row.seeds)


def change(estimate: Estimate | None) -> str:
    """Returns the text of the difference from the base model with its standard error, "n/a" without an estimate."""
    if estimate is None:
        return NA
    text = with_error(estimate.gain, estimate.gain_stderr, digits_of(estimate.metric), signed=True)
    return text + (" §" if estimate.learned else "")


def level(estimate: Estimate | None) -> str:
    """Returns the text of an estimate with its standard error, "n/a" without one."""
    return with_error(estimate.value, estimate.stderr, digits_of(estimate.metric)) if estimate else NA


def problem(row: Row) -> str:
    """Returns why a row has no finished cell, such as "oom: CUDA out of memory …"; "" where it has one."""
    if row.seeds:
        return ""
    return "; ".join(dict.fromkeys(status + (f": {why}" if why else "") for _, status, why in row.failures))
