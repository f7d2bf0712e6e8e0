"""The database's tables, a public contract: names are stable, and every change is a numbered migration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from harness.errors import NewerStore, StoreError

if TYPE_CHECKING:
    import duckdb

Step = Callable[["duckdb.DuckDBPyConnection"], None]
MIGRATIONS: list[Step] = []


def migration(step: Step) -> Callable[..., None]:
    """Register a function that changes the tables as the next schema version, to be used as its decorator. The
    version's number is the function's place in this module, from 1."""
    MIGRATIONS.append(step)
    return step


@migration
def first_tables(connection: duckdb.DuckDBPyConnection) -> None:
    """Make the tables of the first version."""
    connection.execute(
        """
        CREATE TABLE environments (
            env_digest VARCHAR PRIMARY KEY, created TIMESTAMPTZ, python VARCHAR, os VARCHAR, cpu VARCHAR,
            accelerator VARCHAR, driver VARCHAR, packages JSON, commit VARCHAR, dirty BOOLEAN);
        CREATE TABLE runs (
            run_id VARCHAR PRIMARY KEY, suite VARCHAR, question VARCHAR, env_digest VARCHAR,
            started TIMESTAMPTZ, finished TIMESTAMPTZ, status VARCHAR, command VARCHAR);
        CREATE TABLE cells (
            spec_digest VARCHAR PRIMARY KEY, method VARCHAR, family VARCHAR, model VARCHAR, task VARCHAR,
            n_train INTEGER, seed INTEGER, settings JSON, train JSON, learn VARCHAR[], retain VARCHAR[],
            needs VARCHAR[], fingerprints JSON);
        CREATE TABLE members (
            run_id VARCHAR, suite VARCHAR, key VARCHAR, label VARCHAR, spec_digest VARCHAR,
            position INTEGER, model VARCHAR, task VARCHAR, n_train INTEGER, seed INTEGER, baseline VARCHAR,
            PRIMARY KEY (run_id, key));
        CREATE TABLE attempts (
            attempt_id VARCHAR PRIMARY KEY, run_id VARCHAR, spec_digest VARCHAR, env_digest VARCHAR,
            status VARCHAR, reason VARCHAR, started TIMESTAMPTZ, seconds DOUBLE, contended BOOLEAN,
            commit VARCHAR, dirty BOOLEAN);
        CREATE TABLE scores (
            attempt_id VARCHAR, task VARCHAR, role VARCHAR, metric VARCHAR, value DOUBLE, stderr DOUBLE,
            n INTEGER, higher_is_better BOOLEAN, base_value DOUBLE, position INTEGER);
        CREATE TABLE items (
            attempt_id VARCHAR, task VARCHAR, doc_id VARCHAR, metric VARCHAR, value DOUBLE,
            prediction VARCHAR, target VARCHAR);
        CREATE TABLE documents (
            task VARCHAR, fingerprint VARCHAR, doc_id VARCHAR, text VARCHAR, PRIMARY KEY (fingerprint, doc_id));
        CREATE TABLE phases (
            attempt_id VARCHAR, phase VARCHAR, seconds DOUBLE, tokens BIGINT, samples BIGINT,
            allocated_bytes BIGINT, reserved_bytes BIGINT, device_bytes BIGINT, rss_bytes BIGINT,
            energy_j DOUBLE);
        CREATE TABLE steps (
            attempt_id VARCHAR, step INTEGER, split VARCHAR, loss DOUBLE, learning_rate DOUBLE,
            tokens BIGINT, seconds DOUBLE);
        CREATE TABLE trials (
            study_digest VARCHAR, number INTEGER, params JSON, value DOUBLE, status VARCHAR, seconds DOUBLE,
            peak_bytes BIGINT, intermediate JSON, PRIMARY KEY (study_digest, number));
        CREATE TABLE facts (
            attempt_id VARCHAR, name VARCHAR, value DOUBLE, unit VARCHAR, higher_is_better BOOLEAN);
        CREATE TABLE flags (attempt_id VARCHAR, name VARCHAR, evidence JSON);
        """
    )


@migration
def what_shared_the_machine(connection: duckdb.DuckDBPyConnection) -> None:
    """Add on which device an attempt ran and which cells ran beside it, and a table with the sizes of its files."""
    connection.execute("ALTER TABLE attempts ADD COLUMN beside VARCHAR[]")
    connection.execute("ALTER TABLE attempts ADD COLUMN device VARCHAR")
    # How long an attempt's files were when they were taken in: a truncated one is noticed before a run.
    connection.execute("CREATE TABLE files (attempt_id VARCHAR, result_bytes BIGINT, items_bytes BIGINT)")


@migration
def what_is_put_beside_a_method(connection: duckdb.DuckDBPyConnection) -> None:
    """Add the columns of a cell's objectives and curriculum to the table `cells`."""
    connection.execute("ALTER TABLE cells ADD COLUMN objectives JSON")
    connection.execute("ALTER TABLE cells ADD COLUMN curriculum JSON")


@migration
def how_data_was_chosen_and_spoilt(connection: duckdb.DuckDBPyConnection) -> None:
    """Add the column of the quality of a cell's training data to the tables `cells` and `members`."""
    connection.execute("ALTER TABLE cells ADD COLUMN data JSON")
    connection.execute("ALTER TABLE members ADD COLUMN data JSON")  # of cells that have not run there is no other trace


@migration
def what_the_instruments_said(connection: duckdb.DuckDBPyConnection) -> None:
    """Add a table for the self-checks of the measuring instruments."""
    connection.execute(
        """
        CREATE TABLE instruments (
            env_digest VARCHAR, model VARCHAR, precision VARCHAR, attention VARCHAR, created TIMESTAMPTZ,
            name VARCHAR, about VARCHAR, measured DOUBLE, at_most DOUBLE, unit VARCHAR, passed BOOLEAN,
            PRIMARY KEY (env_digest, model, precision, attention, name))
        """
    )


@migration
def which_cells_a_run_was_asked_for(connection: duckdb.DuckDBPyConnection) -> None:
    """Add the patterns of `--only` to a run."""
    # Empty: the whole suite. NULL: a run of a tunebench that knew no --only.
    connection.execute("ALTER TABLE runs ADD COLUMN only_cells VARCHAR[]")


@migration
def scores_along_training(connection: duckdb.DuckDBPyConnection) -> None:
    """Add a table for the scores of checkpoints."""
    connection.execute(
        """
        CREATE TABLE checkpoints (
            attempt_id VARCHAR, step INTEGER, task VARCHAR, role VARCHAR, metric VARCHAR, value DOUBLE,
            stderr DOUBLE, n INTEGER, higher_is_better BOOLEAN)
        """
    )


@migration
def what_tuning_tried(connection: duckdb.DuckDBPyConnection) -> None:
    """Make the table of trials anew, and add what studies chose to attempts, cells and members."""
    # A study has a result in each environment: its trials go by its attempt. Nothing wrote to the first such table.
    connection.execute(
        """
        DROP TABLE trials;
        CREATE TABLE trials (
            attempt_id VARCHAR, study_digest VARCHAR, number INTEGER, params JSON, value DOUBLE, status VARCHAR,
            reason VARCHAR, seconds DOUBLE, tokens BIGINT, peak_bytes BIGINT, intermediate JSON, measured JSON,
            merits DOUBLE[], origin VARCHAR, trial_attempt_id VARCHAR, front BOOLEAN, chosen BOOLEAN,
            PRIMARY KEY (attempt_id, number));
        ALTER TABLE attempts ADD COLUMN tuned JSON;
        ALTER TABLE cells ADD COLUMN study JSON;
        ALTER TABLE cells ADD COLUMN trial JSON;
        ALTER TABLE members ADD COLUMN role VARCHAR;
        """
    )


@migration
def below_which_difference_methods_are_tied(connection: duckdb.DuckDBPyConnection) -> None:
    """Add the margin of a run's suite."""
    # NULL: a run of a tunebench whose suites had no margin of their own. The default holds for it.
    connection.execute("ALTER TABLE runs ADD COLUMN margin DOUBLE")


@migration
def cross_entropy_apart_from_what_was_minimised(connection: duckdb.DuckDBPyConnection) -> None:
    """Add the cross-entropy of a step's answer tokens."""
    # NULL: there is none, or the step is of a tunebench that kept the sum of all terms alone.
    connection.execute("ALTER TABLE steps ADD COLUMN cross_entropy DOUBLE")


@migration
def what_a_seed_that_ended_badly_counts_as(connection: duckdb.DuckDBPyConnection) -> None:
    """Add what a seed that ended badly counts as in a run's suite."""
    # NULL: a run of a tunebench that left such seeds out. The default holds for it.
    connection.execute("ALTER TABLE runs ADD COLUMN failed_seeds VARCHAR")


@migration
def which_items_share_a_cluster(connection: duckdb.DuckDBPyConnection) -> None:
    """Add the cluster of an item, and by what a score's error is clustered."""
    # NULL: the items are independent, or were scored by a tunebench that took all items to be.
    connection.execute("ALTER TABLE items ADD COLUMN cluster VARCHAR")
    connection.execute("ALTER TABLE scores ADD COLUMN clusters INTEGER")
    connection.execute("ALTER TABLE scores ADD COLUMN clustered_by VARCHAR")


@migration
def whole_numbers_of_64_bits(connection: duckdb.DuckDBPyConnection) -> None:
    """Widen seeds and counts to 64 bits: a seed of 3,000,000,000 trains, and its result did not fit."""
    for table, columns in {
        "cells": ("n_train", "seed"),
        "members": ("n_train", "seed"),
        "scores": ("n", "clusters"),
        "steps": ("step",),
        "checkpoints": ("step", "n"),
    }.items():
        for column in columns:
            connection.execute(f"ALTER TABLE {table} ALTER COLUMN {column} TYPE BIGINT")
    # A column of a primary key cannot be altered: the table is made anew.
    connection.execute(
        """
        CREATE TABLE trials_before AS FROM trials;
        DROP TABLE trials;
        CREATE TABLE trials (
            attempt_id VARCHAR, study_digest VARCHAR, number BIGINT, params JSON, value DOUBLE, status VARCHAR,
            reason VARCHAR, seconds DOUBLE, tokens BIGINT, peak_bytes BIGINT, intermediate JSON, measured JSON,
            merits DOUBLE[], origin VARCHAR, trial_attempt_id VARCHAR, front BOOLEAN, chosen BOOLEAN,
            PRIMARY KEY (attempt_id, number));
        INSERT INTO trials BY NAME FROM trials_before;
        DROP TABLE trials_before;
        """
    )


@migration
def which_commits_of_the_hub_a_run_used(connection: duckdb.DuckDBPyConnection) -> None:
    """Add the commits that a run's models from the Hub were resolved to."""
    # NULL: a run of a tunebench that kept them in the models' fingerprints alone.
    connection.execute("ALTER TABLE runs ADD COLUMN revisions JSON")


@migration
def what_else_decides_results(connection: duckdb.DuckDBPyConnection) -> None:
    """Add the CPU threads of a cell, and the version of how tunebench computes results, to environments."""
    # NULL: an environment of a tunebench that kept them in the digest alone.
    connection.execute("ALTER TABLE environments ADD COLUMN threads BIGINT")
    connection.execute("ALTER TABLE environments ADD COLUMN result_version BIGINT")


@migration
def as_which_text_a_suite_was_read(connection: duckdb.DuckDBPyConnection) -> None:
    """Add the text of a run's suite, as its file may be untracked, or change later."""
    # NULL: a run of a tunebench that kept the path in its command alone.
    connection.execute("ALTER TABLE runs ADD COLUMN suite_text VARCHAR")


@migration
def what_became_of_the_rows_of_a_task(connection: duckdb.DuckDBPyConnection) -> None:
    """Add what became of the rows of a run's tasks: read, dropped by reason, kept in each split by class."""
    # NULL: a run of a tunebench that told them at fetch and check alone.
    connection.execute("ALTER TABLE runs ADD COLUMN task_rows JSON")


def version_of(connection: duckdb.DuckDBPyConnection) -> int:
    """Returns the schema version of a database; 0 for an empty one. Raises NewerStore when it is newer than the
    versions that this tunebench knows."""
    tables = {row[0] for row in connection.execute("SHOW TABLES").fetchall()}
    if "schema_version" not in tables:
        return 0
    (version,) = connection.execute("SELECT coalesce(max(version), 0) FROM schema_version").fetchall()[0]
    if version > len(MIGRATIONS):
        raise NewerStore(
            f"the database has schema {version}, this tunebench knows {len(MIGRATIONS)}. "
            "Upgrade tunebench, or move the database away and run `tunebench rebuild`."
        )
    return int(version)


def check_version(connection: duckdb.DuckDBPyConnection) -> None:
    """Check the schema of a database for readers, who cannot migrate it. Raises NewerStore, or StoreError when it is
    older."""
    version = version_of(connection)
    if version < len(MIGRATIONS):
        raise StoreError(
            f"the database has schema {version}, this tunebench wants {len(MIGRATIONS)}. "
            "`tunebench rebuild` makes it anew from the result files."
        )


def migrate(connection: duckdb.DuckDBPyConnection, steps: Sequence[Step] | None = None) -> None:
    """Bring a database to the newest schema, or to the last of `steps`, each step in a transaction of its own. Raises
    NewerStore."""
    version = version_of(connection)
    connection.execute("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER, applied TIMESTAMPTZ)")
    for number, step in enumerate((MIGRATIONS if steps is None else steps)[version:], start=version + 1):
        connection.execute("BEGIN")
        try:
            step(connection)
            connection.execute("INSERT INTO schema_version VALUES (?, now())", [number])
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
