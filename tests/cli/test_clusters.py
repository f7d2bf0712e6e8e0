"""A task whose items come in clusters, from its YAML to a verdict."""

from __future__ import annotations

import json
from pathlib import Path

from commands import refused, tunebench
from tiny import SUITE, TASK, rows, write_csv


def write_clustered(project: Path, column: str = "person") -> None:
    """The task `colours` with a column `person` that its YAML names, and the suite `small` with two seeds."""
    folder = project / "suites" / "tasks"
    write_csv(folder / "colours.csv", [{**row, "person": row["text"].split()[0]} for row in rows()])
    metadata = f"metadata:\n  version: 1.0\n  cluster: {column}\n"
    (folder / "colours.yaml").write_text(TASK.replace("{{", "{").replace("}}", "}") + metadata)
    text = SUITE.replace("[8, 16]", "[8]").replace("seeds: [0]", "seeds: [0, 1]")
    (project / "suites" / "small.yaml").write_text(text)


def test_from_a_cluster_column_to_a_verdict(project: Path) -> None:
    write_clustered(project)
    done = tunebench("run", "small")
    assert done.returncode == 0, done.stderr
    count = "select count(distinct cluster) as n, count(*) - count(cluster) as bare from items where task = '{}'"
    ((clusters, bare),) = [
        tuple(row.values()) for row in json.loads(tunebench("sql", count.format("colours"), "--json").stdout)
    ]
    assert 5 < clusters <= 15
    assert bare == 0
    assert json.loads(tunebench("sql", count.format("prose"), "--json").stdout)[0]["n"] == 0
    scores = "select distinct clusters, clustered_by from scores where task = 'colours' and metric = 'acc'"
    stored = json.loads(tunebench("sql", scores, "--json").stdout)
    assert stored == [{"clusters": clusters, "clustered_by": "person"}]
    words = f"30 items in {clusters} clusters (person)"
    assert words in tunebench("compare", "full", "lora").stdout
    (found,) = json.loads(tunebench("compare", "full", "lora", "--json").stdout)
    assert (found["items"], found["clusters"], found["clustered_by"]) == (30, clusters, "person")
    first, second = (f"{label}/tiny/colours/n8/s0" for label in ("full", "lora"))
    assert "By a paired t-test over clusters" in tunebench("compare", first, second).stdout
    assert f"30 test items in {clusters} clusters (person), so" in tunebench("plan", "small").stdout
    shown = tunebench("report", "small")
    assert shown.returncode == 0, shown.stderr
    assert words in " ".join(shown.stdout.split())
    assert words in (project / "reports" / "small" / "index.html").read_text()
    assert tunebench("recommend", "small").returncode == 0
    assert tunebench("rebuild").returncode == 0
    assert words in tunebench("compare", "full", "lora").stdout


def test_check_refuses_a_column_that_the_data_lack(project: Path) -> None:
    write_clustered(project, "persn")
    assert tunebench("fetch", "small").returncode == 0
    said = (
        "suites/tasks/colours.yaml:15: task 'colours': metadata.cluster: unknown column 'persn'. Did you mean 'person'?"
    )
    for command in ("check", "plan", "run"):
        refused(tunebench(command, "small"), said)
    write_clustered(project)
    assert tunebench("fetch", "small").returncode == 0
    assert "no mistakes found" in tunebench("check", "small").stdout
