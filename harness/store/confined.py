"""Confines a database connection: nothing but the database is read, and the database is one that tunebench made.

A database file may come from anywhere. Its views can read any file of this machine, and its macros can stand in for
functions that queries call.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from harness.store import schema

if TYPE_CHECKING:
    import duckdb

# Python's variables are no tables, and nothing is downloaded or loaded.
CONFINED = {
    "python_enable_replacements": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
}
FOR_READING = {**CONFINED, "enable_external_access": "false", "lock_configuration": "true"}
# What DuckDB runs when something else is asked for: kind -> query for the (name, definition) of each.
OBJECTS = {
    "table": "SELECT table_name, sql FROM duckdb_tables() WHERE NOT internal AND schema_name = 'main'",
    "view": "SELECT view_name, sql FROM duckdb_views() WHERE NOT internal",
    "macro": "SELECT function_name, macro_definition FROM duckdb_functions() WHERE NOT internal",
    "type": "SELECT type_name, '' FROM duckdb_types() WHERE NOT internal",
    "index": "SELECT index_name, sql FROM duckdb_indexes() WHERE sql IS NOT NULL",
    "sequence": "SELECT sequence_name, sql FROM duckdb_sequences()",
}


def confine_writer(connection: duckdb.DuckDBPyConnection, folder: Path) -> None:
    """Let a connection that writes reach the files in the results folder `folder` and no others, for good."""
    connection.execute("SET allowed_directories = [?]", [f"{folder.resolve()}/"])
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def strange_objects(connection: duckdb.DuckDBPyConnection, version: int) -> list[str]:
    """Returns what a database of schema `version` holds that tunebench does not make, such as "view items": a view, a
    macro or the like of any name, and a table of tunebench's that is defined in another way. Further tables of the
    user's own do no harm and are not among them."""
    expected, objects = objects_of(version), objects_in(connection)
    ours = expected["table"].keys() | objects_of(len(schema.MIGRATIONS))["table"].keys()
    strange = []
    for kind, there in objects.items():
        for name, definition in there:
            usual = expected[kind].get(name)
            of_the_user = kind == "table" and name not in ours
            if definition != usual and not of_the_user:
                strange.append(f"{kind} {name}")
    tables = {name for name, _ in objects["table"]}
    return strange + [f"no table {name}" for name in expected["table"] if name not in tables]


def objects_in(connection: duckdb.DuckDBPyConnection) -> dict[str, list[tuple[str, str]]]:
    """Returns kind -> (name, definition) of everything in a database that is not DuckDB's own."""
    return {kind: connection.execute(query).fetchall() for kind, query in OBJECTS.items()}


@cache
def objects_of(version: int) -> dict[str, dict[str, str]]:
    """Returns kind -> name -> definition of everything that tunebench makes in a database of schema `version`."""
    import duckdb

    with duckdb.connect(":memory:", config=CONFINED) as connection:
        if version:
            schema.migrate(connection, schema.MIGRATIONS[:version])
        return {kind: dict(objects) for kind, objects in objects_in(connection).items()}
