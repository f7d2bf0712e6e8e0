"""Which cell next: every cell once, after what it needs, the longest first."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st
from results_factory import cell

from harness.execute.durations import Durations
from harness.execute.queue import HELD, PATIENCE, TO_DO, Queue
from harness.records import Cell, Status


def cells_of(needs: list[set[int]]) -> list[Cell]:
    """Cells that need earlier ones, by their numbers."""
    made: list[Cell] = []
    for number, wanted in enumerate(needs):
        bare = cell(f"c{number}", 8, 0)
        roles = {f"expert:{need}": made[need].spec_digest for need in wanted}
        made.append(Cell(**{**vars(bare), "needs": roles, "baseline": made[0].spec_digest if number else ""}))
    return made


def earlier(number: int) -> st.SearchStrategy[set[int]]:
    """Some of the cells before a cell."""
    return st.sets(st.integers(0, number - 1), max_size=3) if number else st.just(set())


graphs = st.integers(1, 12).flatmap(lambda count: st.tuples(*map(earlier, range(count))))


def run_through(queue: Queue, slots: int, ends: Callable[[Cell], str]) -> tuple[list[Cell], list[Cell]]:
    """Start and end cells, `slots` at a time, first in first out: (started, skipped because of their needs)."""
    running: list[Cell] = []
    started, skipped = [], []
    while True:
        while queue.blocked:
            found, _ = queue.blocked.popleft()
            queue.end(found.spec_digest, Status.SKIPPED)
            skipped.append(found)
        taken = queue.take(lambda found: True) if len(running) < slots else None
        if taken:
            running.append(taken[0])
            started.append(taken[0])
        elif running:
            ended = running.pop(0)
            queue.end(ended.spec_digest, ends(ended))
        elif not queue.blocked:
            return started, skipped


def test_labels_take_turns() -> None:
    """Whatever their lengths: what the machine does meanwhile, it does to all of them."""
    cells = [cell(label, 8, seed) for label in ("slow", "fast", "twin") for seed in (0, 1, 2)]
    queue = Queue(
        cells, {made.spec_digest: "to do" for made in cells}, lambda made: 9.0 if made.label == "slow" else 1.0
    )
    started, _ = run_through(queue, 1, lambda made: Status.DONE)
    assert [made.seed for made in started] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [made.label for made in started][::3] == ["slow"] * 3
    firsts = {tuple(made.label for made in started[at + 1 : at + 3]) for at in (0, 3, 6)}
    assert firsts <= {("fast", "twin"), ("twin", "fast")}


@given(graphs, st.integers(1, 4), st.sets(st.integers(0, 11)))
def test_every_cell_once_after_what_it_needs(needs: list[set[int]], slots: int, failing: set[int]) -> None:
    cells = cells_of(list(needs))
    number = {made.spec_digest: place for place, made in enumerate(cells)}
    states: dict[str, str] = {made.spec_digest: "to do" for made in cells}
    queue = Queue(cells, states, lambda made: 1.0 + number[made.spec_digest] % 3)
    order: list[int] = []

    def ends(ended: Cell) -> str:
        order.append(number[ended.spec_digest])
        return Status.FAILED if number[ended.spec_digest] in failing else Status.DONE

    started, skipped = run_through(queue, slots, ends)
    assert sorted(number[made.spec_digest] for made in [*started, *skipped]) == list(range(len(cells)))
    for made in started:
        assert all(states[need] == Status.DONE for need in made.needs.values())
    for made in skipped:
        assert any(states[need] != Status.DONE for need in made.needs.values())
    assert queue.counts["to do"] == queue.counts["running"] == queue.waiting == 0
    assert sum(queue.counts.values()) == len(cells)
    assert not +queue.waiting_by_method


def test_the_longest_goes_first_and_what_others_wait_for_counts_with_them() -> None:
    cells = cells_of([set(), set(), set(), {1}])
    seconds = dict(zip((made.spec_digest for made in cells), (1.0, 2.0, 5.0, 4.0), strict=True))
    queue = Queue(cells, {made.spec_digest: "to do" for made in cells}, lambda made: seconds[made.spec_digest])
    started, _ = run_through(queue, 1, lambda made: Status.DONE)
    assert [made.label for made in started] == ["c0", "c1", "c2", "c3"]  # 2 + 4 seconds are more than 5


def test_what_ended_before_is_neither_run_nor_waited_for() -> None:
    cells = cells_of([set(), {0}, {1}])
    states = {cells[0].spec_digest: "done", cells[1].spec_digest: "failed", cells[2].spec_digest: "to do"}
    queue = Queue(cells, states, lambda made: 1.0)
    found, reason = queue.blocked[0]
    assert found is cells[2]
    assert reason == f"needs {cells[1].key} (failed)"


def test_a_large_cell_is_not_passed_over_for_ever() -> None:
    cells = cells_of([set() for _ in range(12)])
    states: dict[str, str] = {made.spec_digest: "to do" for made in cells}
    states[cells[0].spec_digest] = "done"
    large = cells[1]
    queue = Queue(cells, states, lambda made: 9.0 if made is large else 1.0)

    def small_only(found: Cell) -> bool | None:
        return None if found is large else True

    taken = 0
    while queue.take(small_only):
        taken += 1
    assert taken == PATIENCE
    assert queue.take(lambda found: True) == (large, True)


def test_expected_seconds_are_those_of_the_nearest_kin() -> None:
    one = cell("lora", 8, 0)
    expected = Durations([("lora", one.model, one.task, 8, 10.0), ("lora", one.model, one.task, 32, 30.0),
                         ("full", one.model, one.task, 8, 50.0)])  # fmt: skip
    assert expected.seconds(one) == 10.0
    assert expected.seconds(cell("lora", 64, 0)) == 20.0
    assert expected.seconds(cell("lora", 8, 0, model="another")) == 20.0
    assert expected.seconds(cell("dora", 8, 0)) is None
    assert expected.sort_key(cell("dora", 8, 0)) == 30.0
    assert expected.sort_key(cell("base")) == 15.0
    assert Durations().sort_key(one) > 0


def test_a_cell_that_is_put_back_is_counted_as_one_of_its_method() -> None:
    made = cell("lora", 8, 0)
    queue = Queue([made], {made.spec_digest: "to do"}, lambda cell: 1.0)
    assert queue.take(lambda cell: True)
    assert +queue.waiting_by_method == {}
    for _ in range(2):
        queue.put_back(made.spec_digest)
        assert (queue.waiting, +queue.waiting_by_method) == (1, {"lora": 1})


def test_held_cells_run_once_they_are_admitted_with_what_they_need() -> None:
    base, expert, merged, other = cells_of([set(), set(), {1}, set()])
    states = dict.fromkeys((made.spec_digest for made in (base, expert, merged, other)), HELD)
    queue = Queue([base, expert, merged, other], states, lambda made: 1.0)
    assert queue.take(lambda found: True) is None
    assert (queue.waiting, queue.counts[HELD]) == (0, 4)
    queue.admit([merged.spec_digest, expert.spec_digest, base.spec_digest])
    started, skipped = run_through(queue, 1, lambda made: Status.DONE)
    assert [made.label for made in started] == [base.label, expert.label, merged.label]
    assert (skipped, states[other.spec_digest]) == ([], HELD)
    queue.admit([other.spec_digest, merged.spec_digest])  # what has ended is not run again
    assert run_through(queue, 1, lambda made: Status.DONE)[0] == [other]


def test_a_cell_that_is_admitted_waits_for_what_runs() -> None:
    base, first, second = cells_of([set(), set(), {1}])
    states = {base.spec_digest: Status.DONE, first.spec_digest: TO_DO, second.spec_digest: HELD}
    queue = Queue([base, first, second], states, lambda made: 1.0)
    queue.take(lambda found: True)
    queue.admit([second.spec_digest])
    assert queue.take(lambda found: True) is None
    queue.end(first.spec_digest, Status.FAILED)
    assert [found.label for found, _ in queue.blocked] == [second.label]
