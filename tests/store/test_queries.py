"""What the report and `show` read back from the database."""

from __future__ import annotations

import statistics
from dataclasses import replace

import pytest
from results_factory import PROSE, TASK, Results, cell, demo, environment, items, scores

from harness.errors import StoreError
from harness.records import Status, TrainSettings
from harness.store import all_keys, all_suites, cell_detail, latest_run, member_rows, origin, repeats
from harness.worker.evaluate import mean_and_stderr


def rows_of(store, suite="demo"):
    with store.open(read_only=True) as connection:
        return {row.key: row for row in member_rows(connection, latest_run(connection, suite))}


def test_newest_run_counts(tmp_path):
    Results(tmp_path, run_id="old", question="Old?", started="2026-01-01T00:00:00+00:00").store()
    Results(tmp_path, run_id="new", question="New?", started="2026-02-01T00:00:00+00:00").store()
    store = Results(tmp_path, run_id="other", suite="another", started="2026-03-01T00:00:00+00:00").store()
    with store.open(read_only=True) as connection:
        assert latest_run(connection, "demo").question == "New?"
        assert latest_run(connection, "nowhere") is None
        assert all_suites(connection) == ["another", "demo"]


def test_a_finished_attempt_beats_a_newer_failure_and_else_the_newest_counts(tmp_path):
    results = Results(tmp_path)
    kept = results.add(cell("kept", 32, 0), scores(0.8))
    results.add(cell("kept", 32, 0), status=Status.OOM, reason="later")
    results.add(cell("broken", 32, 0), status=Status.OOM, reason="first")
    results.add(cell("broken", 32, 0), status=Status.FAILED, reason="second")
    rows = rows_of(results.store())
    assert rows["kept/tiny/topic/n32/s0"].attempt_id == kept
    assert rows["kept/tiny/topic/n32/s0"].status == "done"
    assert rows["broken/tiny/topic/n32/s0"].reason == "second"


def test_attempts_in_another_environment_do_not_count(tmp_path):
    results = Results(tmp_path)
    results.add(cell("here", 32, 0), scores(0.8))
    results.add(cell("there", 32, 0), scores(0.8), env=environment(cpu="another CPU"))
    rows = rows_of(results.store())
    assert rows["here/tiny/topic/n32/s0"].status == "done"
    assert rows["there/tiny/topic/n32/s0"].status == "missing"


def test_a_cell_that_has_not_run_is_known_by_its_key(tmp_path):
    results = Results(tmp_path)
    results.member(cell("late", 128, 3))
    row = rows_of(results.store())["late/tiny/topic/n128/s3"]
    assert (row.status, row.label, row.model, row.task, row.n_train) == ("missing", "late", "tiny", TASK, 128)
    assert row.scores == []


def test_scores_keep_their_order_and_know_the_base_value(tmp_path):
    row = rows_of(demo(tmp_path))["lora/tiny/topic/n32/s1"]
    assert [(score.task, score.metric) for score in row.scores[:3]] == [
        (TASK, "acc"),
        (TASK, "choice_cross_entropy"),
        (PROSE, "log_likelihood_per_word"),
    ]
    assert row.scores[0].value == pytest.approx(0.81)
    assert row.scores[0].base_value == pytest.approx(0.60)
    assert row.phases["train"]["seconds"] == 54.0
    assert row.facts["trainable_params"] == 1e6
    assert [loss for _, split, loss in row.losses if split == "train"][:2] == [2.1, 1.7]


def test_paired_errors_come_from_the_difference_on_each_item(tmp_path):
    row = rows_of(demo(tmp_path))["full/tiny/topic/n32/s0"]
    prose = next(score for score in row.scores if score.metric == "log_likelihood_per_word")
    assert prose.change_stderr == pytest.approx(statistics.stdev([0.3, 0.4, 0.5, 0.6]) / 2)
    assert prose.stderr == 0.15  # the unpaired error stays what it was
    entropy = next(score for score in row.scores if score.metric == "choice_cross_entropy")
    assert entropy.change_stderr is None  # no items of it were stored


def test_paired_errors_need_every_item(tmp_path):
    results = Results(tmp_path)
    base = cell("base")
    metric = "log_likelihood_per_word"
    results.add(base, scores(0.6, 0.03, -5.0), items=items(PROSE, metric, [-5, -5, -5]))
    tuned = cell("lora", 32, 0, baseline=base.spec_digest)
    results.add(tuned, scores(0.7, 0.03, -5.2), items=items(PROSE, metric, [-5, -6, -5, -4]))
    row = rows_of(results.store())["lora/tiny/topic/n32/s0"]
    assert [score.change_stderr for score in row.scores] == [None] * len(row.scores)


def test_detail_by_key_digest_and_attempt(tmp_path):
    store = demo(tmp_path)
    key = "lora/tiny/topic/n32/s0"
    with store.open(read_only=True) as connection:
        detail = cell_detail(connection, key)
        digest, attempt = detail["spec_digest"], detail["attempts"][0]["attempt_id"]
        assert cell_detail(connection, digest[:10]) == cell_detail(connection, attempt) == detail
        assert cell_detail(connection, "lora/nothing") is None
        assert cell_detail(connection, digest[:3]) is None
        assert key in all_keys(connection)
    assert detail["settings"] == {"rank": 8}
    assert detail["train"] == TrainSettings(steps=48).model_dump(mode="json")
    assert detail["scores"][0]["metric"] == "acc"
    assert {phase["phase"] for phase in detail["phases"]} == {"load", "train", "evaluate"}
    assert "torch==2.9.0" in detail["environment"]["packages"]


def test_detail_of_a_failed_a_flagged_and_a_missing_cell(tmp_path):
    store = demo(tmp_path)
    with store.open(read_only=True) as connection:
        failed = cell_detail(connection, "qlora/tiny/topic/n32/s0")
        flagged = cell_detail(connection, "prompt/tiny/topic/n32/s0")
        missing = cell_detail(connection, "late/tiny/topic/n32/s0")
    assert (failed["attempts"][0]["status"], failed["attempts"][0]["reason"]) == (
        "oom",
        "resident memory passed 7.5 GiB",
    )
    assert flagged["flags"][0]["name"] == "learned_nothing"
    assert missing["attempts"] == []


def test_a_start_that_several_digests_share_is_refused(tmp_path):
    from dataclasses import replace

    results = Results(tmp_path)
    for number in range(2):
        twin = replace(cell("lora", 32, number), spec_digest="abcdef" + str(number) * 58)
        results.add(twin, scores(0.8))
    store = results.store()
    with store.open(read_only=True) as connection:
        with pytest.raises(StoreError, match="2 cells"):
            cell_detail(connection, "abcdef")
        assert cell_detail(connection, "abcdef1")["seed"] == 1


def test_the_quality_of_data_is_kept_of_cells_and_of_those_that_have_not_run(tmp_path):
    results = Results(tmp_path)
    noise = {"corrupt": {"labels": 0.4}}
    results.add(cell("lora", 32, 0, data=noise), scores(0.8))
    results.member(cell("late", 32, 0, data={"select": "hard"}))
    results.add(cell("lora", 32, 0), scores(0.9))
    store = results.store()
    rows = rows_of(store)
    assert rows["lora/tiny/topic/n32/s0/labels0.4"].data == noise
    assert rows["late/tiny/topic/n32/s0/hard"].data == {"select": "hard"}
    assert rows["lora/tiny/topic/n32/s0"].data == {}
    with store.open(read_only=True) as connection:
        assert cell_detail(connection, "lora/tiny/topic/n32/s0/labels0.4")["data"] == noise
        kept = connection.execute("SELECT data ->> '$.corrupt.labels' FROM cells ORDER BY ALL NULLS LAST").fetchall()
    assert [row[0] for row in kept] == ["0.4", None]


def test_cells_of_a_migrated_database_can_be_shown(tmp_path):
    results = Results(tmp_path)
    results.add(cell("lora", 32, 0), scores(0.8))
    store = results.store()
    with store.open() as connection:
        connection.execute("UPDATE cells SET objectives = NULL, curriculum = NULL, data = NULL")
        connection.execute("UPDATE members SET data = NULL")
    assert rows_of(store)["lora/tiny/topic/n32/s0"].data == {}
    with store.open(read_only=True) as connection:
        assert cell_detail(connection, "lora/tiny/topic/n32/s0")["data"] == {}


def test_a_run_of_some_cells_counts_only_where_there_is_no_whole_one(tmp_path):
    def newest(store):
        with store.open(read_only=True) as connection:
            return latest_run(connection, "demo").run_id

    days = iter(range(1, 9))

    def run(name, only):
        started = f"2026-01-0{next(days)}T00:00:00+00:00"
        return Results(tmp_path, run_id=name, started=started, only_cells=only).store()

    assert newest(run("some", ("lora",))) == "some"
    assert newest(run("from before there was --only", None)) == "from before there was --only"
    assert newest(run("all", ())) == "all"
    assert newest(run("some again", ("lora",))) == "all"


def test_repeats_are_the_spread_of_headlines_in_one_environment(tmp_path):
    results = Results(tmp_path)
    tuned = cell("lora", 32, 0)
    first = results.add(tuned, scores(0.70, prose=-5.0))
    alone = results.add(cell("full", 32, 0), scores(0.9))
    results.add(tuned, scores(0.75, prose=-5.0))
    results.add(tuned, scores(0.72, prose=-5.0))
    results.add(tuned, status=Status.OOM)
    results.add(tuned, scores(0.1, prose=-9.0), env=environment(cpu="another CPU"))
    with results.store().open(read_only=True) as connection:
        found = repeats(connection, first)
        assert repeats(connection, alone) == {"attempts": 1}
    assert found["attempts"] == 3
    # The second metric of a task is no headline.
    assert found["largest_difference"] == {
        f"{TASK}/acc": pytest.approx(0.05),
        f"{PROSE}/log_likelihood_per_word": 0.0,
    }


def test_where_an_attempt_comes_from(tmp_path):
    results = Results(tmp_path, command="tunebench run demo --jobs 2")
    attempt = results.add(cell("lora", 32, 0), scores(0.7))
    store = results.store()
    Results(tmp_path, run_id="later", suite="other", members=results.members, started="2027-01-01T00:00:00Z").store()
    with store.open(read_only=True) as connection:
        found = origin(connection, attempt)
        assert origin(connection, "nothing") is None
    assert found == {
        "suite": "demo", "key": "lora/tiny/topic/n32/s0", "status": "done", "command": "tunebench run demo --jobs 2",
        "knows_only": True, "commit": "0123456789abcdef", "dirty": True, "packages": environment().packages,
    }  # fmt: skip
    with store.open() as connection:  # the record of its own run is lost: another's options are not its
        connection.execute("DELETE FROM runs WHERE run_id = 'run-1'; DELETE FROM members WHERE run_id = 'run-1'")
        assert (origin(connection, attempt)["suite"], origin(connection, attempt)["command"]) == ("other", "")
        connection.execute("DELETE FROM runs")
        assert origin(connection, attempt) is None


def test_the_commit_of_a_cell_is_its_attempts_own_not_the_environments_first(tmp_path):
    from dataclasses import replace

    results = Results(tmp_path)
    results.add(cell("full", 32, 0), scores(0.8))
    later = replace(results.environment, created="2026-02-01T00:00:00.000+00:00", commit="later", dirty=False)
    results.add(cell("lora", 32, 0), scores(0.8), env=later)
    with results.store().open(read_only=True) as connection:
        detail = cell_detail(connection, "lora/tiny/topic/n32/s0")
        assert origin(connection, detail["attempt_id"])["commit"] == "later"
    assert (detail["environment"]["commit"], detail["environment"]["dirty"]) == ("later", False)
    assert detail["environment"]["created"].year == 2026
    assert detail["environment"]["created"].month == 1


def test_paired_errors_of_items_in_clusters_are_clustered(tmp_path):
    results = Results(tmp_path)
    clusters = ["a", "a", "a", "b", "b", "c", "c", "c", "c", "d"]
    gains = [0.1, 0.3, 0.2, -0.1, 0.0, 0.5, 0.4, 0.6, 0.5, 0.2]
    of_clusters = {"clusters": 4, "clustered_by": "book"}

    def scored(value, values):
        made = items(PROSE, "log_likelihood_per_word", values)
        made = [replace(item, cluster=cluster) for item, cluster in zip(made, clusters, strict=True)]
        return [replace(score, n=10, **of_clusters) for score in scores(0.6, 0.03, value)], made

    base = cell("base")
    found, made = scored(-5.0, [-5.0] * 10)
    results.add(base, found, items=made)
    tuned = cell("lora", 32, 0, baseline=base.spec_digest)
    found, made = scored(-4.8, [gain - 5.0 for gain in gains])
    results.add(tuned, found, items=made)
    row = rows_of(results.store())["lora/tiny/topic/n32/s0"]
    score = next(score for score in row.scores if score.metric == "log_likelihood_per_word")
    assert (score.clusters, score.clustered_by) == (4, "book")
    assert score.change_stderr == pytest.approx(mean_and_stderr(gains, clusters)[1])
    assert score.change_stderr > 1.3 * mean_and_stderr(gains)[1]
