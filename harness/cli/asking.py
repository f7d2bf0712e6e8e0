"""Asks the finished cells of a suite one's own questions, and shows their replies side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli.display import say, show_table
from harness.errors import UserError, unknown
from harness.records import visible

if TYPE_CHECKING:
    from harness.store import CellRow, Store
    from harness.worker import Question, Reply

MOST_CHOICES = 8  # columns of probabilities; of more choices the likeliest three are shown


@dataclass(frozen=True)
class Asked:
    """The replies of cells, in the order of the questions. `left_out` maps a label to why it was not asked."""

    task: str
    questions: Sequence[Question]
    replies: Sequence[tuple[CellRow, Sequence[Reply]]]
    left_out: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        """Returns the replies as `--json` prints them."""
        found = []
        for place, question in enumerate(self.questions):
            answers = [
                {
                    "label": row.label, "cell": row.key, "answer": replies[place].text, "prompt": replies[place].prompt,
                    "probabilities": dict(replies[place].probabilities), "latency_ms": 1000 * replies[place].seconds,
                }
                for row, replies in self.replies
            ]  # fmt: skip
            found.append({"question": question, "answers": answers})
        return {"task": self.task, "questions": found, "left_out": self.left_out}


@dataclass(frozen=True)
class Asker:
    """Chooses cells of the newest run of a suite and asks them: the base model's, and one for each of `labels` (all
    labels where there are none). An empty `task`, `model`, `size` or `seed` stands for the suite's first task, every
    model, the largest size, the first seed."""

    store: Store
    suite: str
    task: str = ""
    model: str = ""
    size: int | None = None
    seed: int | None = None
    labels: tuple[str, ...] = ()

    def ask(self, questions: Sequence[Question], raw: bool) -> Asked:
        """Returns the replies of the chosen cells. Raises UserError where no cell can be asked, or where a question
        does not fit the task."""
        from harness.store import read_job
        from harness.worker import ask

        task, rows = self.chosen()
        replies, left_out = [], {}
        for row in rows:
            if row.status != "done":
                left_out[named(row)] = f"not done ({row.status})"
                continue
            attempt = self.store.attempt_folder(row.attempt_id)
            weightless = not (attempt / "weights").exists()
            try:
                replies.append((row, ask(attempt, read_job(attempt), questions, raw)))
            except UserError as error:
                if not weightless:
                    raise
                left_out[named(row)] = str(error)
        if not replies:
            told = "\n".join(f"{name}: {reason}" for name, reason in left_out.items())
            raise UserError(f"no cell of {self.suite} can be asked.\n{told}")
        return Asked(task, questions, replies, left_out)

    def chosen(self) -> tuple[str, list[CellRow]]:
        """Returns the task, and the row of each label and model that is to be asked, base models first."""
        from harness.store import all_suites, latest_run, member_rows

        with self.store.look() as connection:
            run = latest_run(connection, self.suite)
            if run is None:
                raise UserError(unknown("suite with results", self.suite, all_suites(connection)))
            rows = member_rows(connection, run)
        for name, wanted, known in (
            ("task", self.task, [row.task for row in rows]),
            ("model", self.model, [row.base_model for row in rows]),
            *(("label", label, [row.label for row in rows]) for label in self.labels),
        ):
            if wanted and wanted not in known:
                raise UserError(unknown(f"{name} of {self.suite}", wanted, dict.fromkeys(known)))
        task = self.task or rows[0].task
        rows = [row for row in rows if row.task == task and self.model in ("", row.base_model)]
        found: dict[tuple[str, str], CellRow] = {}
        for row in sorted(rows, key=lambda row: (row.status != "done", -row.n_train, row.seed or 0)):
            bare = not row.baseline
            fits = (self.size in (None, row.n_train) and self.seed in (None, row.seed)) or row.seed is None
            if bare or (fits and (not self.labels or row.label in self.labels)):
                found.setdefault((row.label, row.base_model), row)
        order = {row.attempt_id: place for place, row in enumerate(rows)}
        return task, sorted(found.values(), key=lambda row: (bool(row.baseline), order[row.attempt_id]))


def named(row: CellRow) -> str:
    """Returns a row's label with its model."""
    return f"{row.label} ({row.model})"


def questions_of(texts: Sequence[str], file: Path | None) -> list[Question]:
    """Returns the questions of a command: the texts, then those of a file: each line of plain text, each row of other
    files. Raises UserError where there are none, and TaskError for a file that cannot be read whole."""
    from harness.data import read_splits

    found: list[Question] = [*texts]
    if file is not None:
        if not file.exists():
            raise UserError(f"no file {file}.")
        rows = [row for split in read_splits({"": [file]}, "auto", {}).values() for row in split]
        found += [str(row["text"]) if set(row) == {"text"} else dict(row) for row in rows]
    if not found:
        raise UserError('nothing to ask: give texts (`tunebench try SUITE "…"`), or a file by --file.')
    return found


def shown_replies(asked: Asked) -> None:
    """Prints the replies to each question in a table, a row for each cell."""
    for place, question in enumerate(asked.questions):
        text = (
            question if isinstance(question, str) else ", ".join(f"{key}: {value}" for key, value in question.items())
        )
        columns, rows = table_of([(row, replies[place]) for row, replies in asked.replies])
        show_table(visible(text), columns, rows, frozenset({*columns[2:], "ms"}) - {"likeliest"})
        say()
    several = len({row.model for row, _ in asked.replies}) > 1
    say(f"probabilities are shares among the choices of {asked.task}; ms: one question alone, in this process")
    for name, reason in asked.left_out.items():
        say(f"left out: {name if several else name.split(' (')[0]}: {reason}")


def table_of(replies: Sequence[tuple[CellRow, Reply]]) -> tuple[list[str], list[list[str]]]:
    """Returns (columns, rows) of the replies to one question."""
    choices = list(replies[0][1].probabilities)
    alike = all(list(reply.probabilities) == choices for _, reply in replies)
    own = choices if alike and 0 < len(choices) <= MOST_CHOICES else []
    several = len({row.model for row, _ in replies}) > 1
    columns = ["label", *(["model"] if several else []), "answer", *own]
    columns += [] if own or not choices else ["likeliest"]
    return [*columns, "ms"], [list(cells_of(row, reply, own, several)) for row, reply in replies]


def cells_of(row: CellRow, reply: Reply, choices: Sequence[str], several: bool) -> Iterator[str]:
    """Yields the texts of one row of the table."""
    yield row.label
    if several:
        yield row.model
    yield visible(reply.text.strip()) or "(empty)"
    yield from (f"{reply.probabilities[choice]:.3f}" for choice in choices)
    if not choices and reply.probabilities:
        likeliest = sorted(reply.probabilities.items(), key=lambda pair: -pair[1])[:3]
        yield ", ".join(f"{choice} {share:.3f}" for choice, share in likeliest)
    yield f"{1000 * reply.seconds:.0f}"
