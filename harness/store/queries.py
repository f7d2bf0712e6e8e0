"""Questions that reports and commands ask of the database."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.errors import StoreError
from harness.records import MARGIN

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True)
class StoredRun:
    """A run of a suite, with its environment. `margin` is its suite's: below it, scores are said to be tied."""

    run_id: str
    suite: str
    question: str
    env_digest: str
    started: Any
    status: str
    environment: dict[str, Any]
    margin: float = MARGIN


RUN = f"run_id, suite, question, env_digest, started, status, coalesce(margin, {MARGIN}) AS margin"  # of table runs


@dataclass(frozen=True)
class StoredCheck:
    """What an instrument's check of itself measured on a model, with the settings that its scores are made with;
    `measured` may be `at_most`, and is NaN where the check could not be done."""

    model: str
    precision: str
    attention: str
    name: str
    about: str
    measured: float
    at_most: float
    unit: str
    passed: bool


@dataclass(frozen=True)
class StoredScore:
    """A score, and the base model's own. `change_stderr` is the standard error of value − base_value from
    the items that both answered, paired; None where per-item values are not stored."""

    task: str
    role: str
    metric: str
    value: float
    stderr: float | None
    n: int
    higher_is_better: bool
    base_value: float | None
    change_stderr: float | None = None


@dataclass(frozen=True)
class StoredCheckpoint:
    """A score after so many steps of training."""

    step: int
    task: str
    metric: str
    value: float


@dataclass(frozen=True)
class CellRow:
    """A member of a run with its decisive attempt: the newest finished one, else the newest.

    `base_model` is the model of its baseline cell: the rows that it is compared with. `data` is how its training data
    was chosen and spoilt, nothing for clean data. `fingerprint` is that of the task's definition and documents.
    """

    key: str
    label: str
    spec_digest: str
    method: str
    family: str
    model: str
    base_model: str
    task: str
    learn: tuple[str, ...]
    n_train: int
    seed: int | None
    baseline: str
    status: str
    reason: str
    attempt_id: str
    contended: bool
    fingerprint: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    scores: list[StoredScore] = field(default_factory=list)
    phases: dict[str, dict[str, Any]] = field(default_factory=dict)
    facts: dict[str, float] = field(default_factory=dict)
    flags: dict[str, dict[str, Any]] = field(default_factory=dict)
    losses: list[tuple[int, str, float]] = field(default_factory=list)  # step, split, loss
    checkpoints: list[StoredCheckpoint] = field(default_factory=list)  # by step


def records(
    connection: duckdb.DuckDBPyConnection, query: str, parameters: list[Any] | dict[str, Any]
) -> list[dict[str, Any]]:
    """Rows as dicts by column name."""
    cursor = connection.execute(query, parameters)
    names = [column[0] for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def suites(connection: duckdb.DuckDBPyConnection) -> list[str]:
    return [row[0] for row in connection.execute("SELECT DISTINCT suite FROM runs ORDER BY 1").fetchall()]


def latest_run(connection: duckdb.DuckDBPyConnection, suite: str, tuned: bool = False) -> StoredRun | None:
    """The newest run of a suite, or None when there is none. One of some cells alone counts only where there is no
    other: what it did again stands in the report of the whole suite as well. With `tuned` the newest that has studies,
    of whatever part of the suite."""
    rows = records(
        connection,
        f"SELECT {RUN} FROM runs WHERE suite = ? "
        "ORDER BY CASE WHEN ? THEN run_id IN (SELECT run_id FROM members WHERE role = 'study') "
        "ELSE coalesce(len(only_cells), 0) = 0 END DESC, started DESC, run_id DESC LIMIT 1",
        [suite, tuned],
    )
    return StoredRun(**rows[0], environment=environment_of(connection, rows[0]["env_digest"])) if rows else None


def environment_of(connection: duckdb.DuckDBPyConnection, env_digest: str) -> dict[str, Any]:
    """An environment's record, its packages by name; nothing where no attempt has ended in it."""
    found = records(connection, "SELECT * FROM environments WHERE env_digest = ?", [env_digest])
    return {**found[0], "packages": json.loads(found[0]["packages"])} if found else {}


def checks_of(connection: duckdb.DuckDBPyConnection, run: StoredRun) -> list[StoredCheck]:
    """The instruments' checks in a run's environment, on its base models, with the settings that these are scored
    with; those that failed first. None where they were not done: cells ran elsewhere, or before there were any."""
    found = records(
        connection,
        """
        SELECT DISTINCT instruments.model, instruments.precision, instruments.attention, name, about, measured,
            at_most, unit, passed
        FROM members JOIN instruments ON instruments.model = members.model AND instruments.env_digest = $env
        LEFT JOIN cells ON cells.spec_digest = members.spec_digest
        WHERE members.run_id = $run AND members.baseline = ''
            AND instruments.precision = coalesce(cells.train ->> '$.precision', instruments.precision)
            AND instruments.attention = coalesce(cells.train ->> '$.attention', instruments.attention)
        ORDER BY ALL
        """,
        {"env": run.env_digest, "run": run.run_id},
    )
    return sorted((StoredCheck(**row) for row in found), key=lambda check: (check.model, check.passed))


def member_rows(connection: duckdb.DuckDBPyConnection, run: StoredRun) -> list[CellRow]:
    """Every member of a run, in the order of its plan."""
    found = records(
        connection,
        """
        WITH decisive AS (
            SELECT spec_digest, arg_max(attempt_id, (status = 'done', started, attempt_id)) AS attempt_id
            FROM attempts WHERE env_digest = $env GROUP BY spec_digest)
        SELECT members.key, members.label, members.spec_digest, members.model, members.task, members.n_train,
            members.seed, members.baseline, coalesce(members.data, '{}') AS data,
            coalesce(bare.model, members.model) AS base_model,
            coalesce(cells.method, '') AS method, coalesce(cells.family, '') AS family, cells.learn,
            coalesce(cells.fingerprints ->> ('$."' || members.task || '"'), '') AS fingerprint,
            coalesce(status, 'missing') AS status, coalesce(reason, '') AS reason,
            coalesce(attempts.attempt_id, '') AS attempt_id, coalesce(contended, false) AS contended
        FROM members
        LEFT JOIN members AS bare ON bare.run_id = members.run_id AND bare.spec_digest = members.baseline
        LEFT JOIN cells ON cells.spec_digest = members.spec_digest
        LEFT JOIN decisive ON decisive.spec_digest = members.spec_digest
        LEFT JOIN attempts ON attempts.attempt_id = decisive.attempt_id
        WHERE members.run_id = $run AND coalesce(members.role, '') <> 'study' ORDER BY members.position
        """,
        {"env": run.env_digest, "run": run.run_id},
    )
    rows = [
        CellRow(**{**record, "learn": tuple(record["learn"] or ()), "data": json.loads(record["data"])})
        for record in found
    ]
    by_attempt = {row.attempt_id: row for row in rows if row.attempt_id}
    attempts = list(by_attempt)
    of_spec = {row.spec_digest: row.attempt_id for row in rows}
    base_of = {row.attempt_id: of_spec.get(row.baseline, "") for row in rows if row.attempt_id}
    paired = paired_errors(connection, base_of)
    stored: dict[str, list[dict[str, Any]]] = {}
    for score in records(
        connection,
        "SELECT attempt_id, task, role, metric, value, stderr, n, higher_is_better FROM scores "
        "WHERE attempt_id IN (SELECT unnest(?)) ORDER BY attempt_id, position",
        [attempts],
    ):
        stored.setdefault(score.pop("attempt_id"), []).append(score)
    for attempt, scores in stored.items():
        # The base is the one of this run: another suite may measure the same cell against another.
        base = {(score["task"], score["metric"]): score["value"] for score in stored.get(base_of[attempt], ())}
        for score in scores:
            what = score["task"], score["metric"]
            by_attempt[attempt].scores.append(
                StoredScore(**score, base_value=base.get(what), change_stderr=paired.get((attempt, *what)))
            )
    for phase in records(connection, "SELECT * FROM phases WHERE attempt_id IN (SELECT unnest(?))", [attempts]):
        by_attempt[phase.pop("attempt_id")].phases[phase["phase"]] = phase
    for fact in records(connection, "SELECT * FROM facts WHERE attempt_id IN (SELECT unnest(?))", [attempts]):
        by_attempt[fact["attempt_id"]].facts[fact["name"]] = fact["value"]
    for flag in records(connection, "SELECT * FROM flags WHERE attempt_id IN (SELECT unnest(?))", [attempts]):
        by_attempt[flag["attempt_id"]].flags[flag["name"]] = json.loads(flag["evidence"])
    for step in records(
        connection,
        "SELECT attempt_id, step, split, loss FROM steps WHERE attempt_id IN (SELECT unnest(?)) ORDER BY step",
        [attempts],
    ):
        by_attempt[step["attempt_id"]].losses.append((step["step"], step["split"], step["loss"]))
    for found_at in records(
        connection,
        "SELECT attempt_id, step, task, metric, value FROM checkpoints WHERE attempt_id IN (SELECT unnest(?)) "
        "ORDER BY step",
        [attempts],
    ):
        by_attempt[found_at.pop("attempt_id")].checkpoints.append(StoredCheckpoint(**found_at))
    return rows


def item_values(
    connection: duckdb.DuckDBPyConnection, metrics: dict[str, tuple[str, str]]
) -> dict[str, dict[str, float]]:
    """attempt_id -> {doc_id: value} of one metric each; `metrics` maps an attempt to (task, metric)."""
    found = item_answers(connection, metrics)
    return {attempt: {doc: answer[0] for doc, answer in docs.items()} for attempt, docs in found.items()}


def item_answers(
    connection: duckdb.DuckDBPyConnection, metrics: dict[str, tuple[str, str]]
) -> dict[str, dict[str, tuple[float, str, str]]]:
    """attempt_id -> {doc_id: (value, prediction, target)}, as `item_values` asks."""
    rows = connection.execute(
        """
        WITH wanted AS (SELECT unnest($attempts) AS attempt_id, unnest($tasks) AS task, unnest($metrics) AS metric)
        SELECT items.attempt_id, items.doc_id, items.value, coalesce(prediction, ''), coalesce(target, '')
        FROM items JOIN wanted USING (attempt_id, task, metric)
        """,
        {
            "attempts": list(metrics),
            "tasks": [task for task, _ in metrics.values()],
            "metrics": [metric for _, metric in metrics.values()],
        },
    ).fetchall()
    found: dict[str, dict[str, tuple[float, str, str]]] = {}
    for attempt, doc, *answer in rows:
        found.setdefault(attempt, {})[doc] = tuple(answer)
    return found


def document_texts(connection: duckdb.DuckDBPyConnection, tasks: list[str]) -> dict[tuple[str, str], str]:
    """(task, doc_id) -> what the model was shown."""
    rows = connection.execute(
        "SELECT task, doc_id, text FROM documents WHERE task IN (SELECT unnest(?))", [tasks]
    ).fetchall()
    return {(task, doc): text for task, doc, text in rows}


def paired_errors(connection: duckdb.DuckDBPyConnection, base_of: dict[str, str]) -> dict[tuple[str, str, str], float]:
    """(attempt_id, task, metric) -> standard error of the mean difference from the base model, item by item.

    `base_of` maps each attempt to its base model's. Only where every item of the score has its partner. A
    ratio such as log-likelihood per word is taken as the mean over its texts.
    """
    pairs = {tuned: base for tuned, base in base_of.items() if base}
    rows = connection.execute(
        """
        WITH pairs AS (SELECT unnest($tuned) AS tuned_id, unnest($base) AS base_id)
        SELECT scores.attempt_id, scores.task, scores.metric,
            stddev_samp(tuned.value - untouched.value) / sqrt(count(*))
        FROM pairs
        JOIN scores ON scores.attempt_id = pairs.tuned_id
        JOIN items AS tuned ON tuned.attempt_id = pairs.tuned_id
            AND tuned.task = scores.task AND tuned.metric = scores.metric
        JOIN items AS untouched ON untouched.attempt_id = pairs.base_id
            AND untouched.task = tuned.task AND untouched.metric = tuned.metric
            AND untouched.doc_id = tuned.doc_id
        GROUP BY scores.attempt_id, scores.task, scores.metric, scores.n
        HAVING count(*) > 1 AND count(*) = scores.n
        """,
        {"tuned": list(pairs), "base": list(pairs.values())},
    ).fetchall()
    return {(attempt, task, metric): error for attempt, task, metric, error in rows}


def keys(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Every cell key of every run."""
    return [row[0] for row in connection.execute("SELECT DISTINCT key FROM members ORDER BY 1").fetchall()]


def cell_detail(connection: duckdb.DuckDBPyConnection, name: str) -> dict[str, Any] | None:
    """Everything about one cell, named by key, by its digest's start (6 digits or more) or by an attempt.

    A key may stand for several cells (another suite, other settings): the one of the newest run is shown.
    None when nothing has that name. Raises StoreError when several digests start with it.
    """
    found = connection.execute(
        """
        SELECT spec_digest FROM members JOIN runs USING (run_id) WHERE key = $name
        UNION ALL SELECT spec_digest FROM attempts WHERE attempt_id = $name
        UNION ALL SELECT spec_digest FROM cells WHERE length($name) >= 6 AND starts_with(spec_digest, $name)
        """,
        {"name": name},
    ).fetchall()
    if not found:
        return None
    newest = connection.execute(
        "SELECT spec_digest FROM members JOIN runs USING (run_id) WHERE key = ? ORDER BY started DESC LIMIT 1",
        [name],
    ).fetchall()
    starts = sorted({row[0] for row in found})
    if not newest and len(starts) > 1:
        raise StoreError(
            f"{name!r} stands for {len(starts)} cells: {', '.join(spec[:16] for spec in starts[:10])}. "
            "Give more digits, or a key."
        )
    spec = (newest or found)[0][0]
    cells = records(connection, "SELECT * FROM cells WHERE spec_digest = ?", [spec])
    members = records(
        connection,
        "SELECT DISTINCT key, members.suite FROM members WHERE spec_digest = ? ORDER BY ALL",
        [spec],
    )
    detail: dict[str, Any] = {
        "key": members[0]["key"] if members else name,
        "suites": [m["suite"] for m in members],
    }
    if not cells:
        return {**detail, "spec_digest": spec, "attempts": []}
    cell = cells[0]
    for column in ("settings", "train", "fingerprints", "objectives", "curriculum", "data", "study", "trial"):
        cell[column] = json.loads(cell[column] or "{}")  # taken in before there was such a column
    attempts = records(connection, "SELECT * FROM attempts WHERE spec_digest = ? ORDER BY started", [spec])
    detail |= {**cell, "attempts": attempts}
    if attempts:
        last = max(attempts, key=lambda row: (row["status"] == "done", row["started"]))["attempt_id"]
        detail["attempt_id"] = last
        for attempt in attempts:
            attempt["tuned"] = json.loads(attempt["tuned"] or "{}")
        detail["tuned"] = next(row["tuned"] for row in attempts if row["attempt_id"] == last)
        for table, order in (
            ("scores", "position"),
            ("phases", "phase"),
            ("facts", "name"),
            ("flags", "name"),
            ("checkpoints", "step"),
            ("trials", "number"),
        ):
            rows = records(connection, f"SELECT * FROM {table} WHERE attempt_id = ? ORDER BY {order}", [last])
            detail[table] = [{k: v for k, v in row.items() if k not in ("attempt_id", "position")} for row in rows]
        environment = records(
            connection,
            "SELECT environments.* FROM environments JOIN attempts USING (env_digest) WHERE attempt_id = ?",
            [last],
        )
        detail["environment"] = environment[0] if environment else {}
        if environment:  # with the commit of this attempt: the environment's own is that of its first
            made = next(row for row in attempts if row["attempt_id"] == last)
            environment[0] |= {"commit": made["commit"], "dirty": made["dirty"]}
            packages = json.loads(environment[0]["packages"])
            detail["environment"]["packages"] = " ".join(f"{name}=={value}" for name, value in packages.items())
    return detail


def origin(connection: duckdb.DuckDBPyConnection, attempt_id: str) -> dict[str, Any] | None:
    """What doing an attempt's cell again takes, as `reproduce.again` asks for it, but for its threads. Of the run that
    made it; where its record is lost, of the newest that the cell is part of. None when there is none either."""
    found = records(
        connection,
        """
        SELECT runs.suite, members.key, attempts.status, runs.only_cells IS NOT NULL AS knows_only,
            CASE WHEN runs.run_id = attempts.run_id THEN runs.command ELSE '' END AS command,
            attempts.commit, attempts.dirty, environments.packages
        FROM attempts
        JOIN members ON members.spec_digest = attempts.spec_digest
        JOIN runs ON runs.run_id = members.run_id
        JOIN environments ON environments.env_digest = attempts.env_digest
        WHERE attempt_id = ? ORDER BY members.run_id = attempts.run_id DESC, runs.started DESC LIMIT 1
        """,
        [attempt_id],
    )
    return {**found[0], "packages": json.loads(found[0]["packages"])} if found else None


def repeats(connection: duckdb.DuckDBPyConnection, attempt_id: str) -> dict[str, Any]:
    """How far finished attempts at one cell in one environment, those of `attempt_id`, are apart: the noise floor.

    `attempts` says how many there are; with two or more, `largest_difference` maps "task/metric" of each headline
    score to its largest less its smallest value.
    """
    same = """
        SELECT other.attempt_id FROM attempts AS this JOIN attempts AS other USING (spec_digest, env_digest)
        WHERE this.attempt_id = ? AND other.status = 'done'
    """
    ((count,),) = connection.execute(f"SELECT count(*) FROM ({same})", [attempt_id]).fetchall()
    found = connection.execute(
        f"""
        WITH headlines AS (
            SELECT task, role, min(position) AS place, arg_min(metric, position) AS metric,
                arg_min(value, position) AS value
            FROM scores WHERE attempt_id IN ({same}) GROUP BY attempt_id, task, role)
        SELECT task, metric, max(value) - min(value) FROM headlines
        GROUP BY task, role, metric HAVING count(*) > 1 ORDER BY min(place)
        """,
        [attempt_id],
    ).fetchall()
    largest = {f"{task}/{metric}": difference for task, metric, difference in found}
    return {"attempts": count, **({"largest_difference": largest} if largest else {})}
