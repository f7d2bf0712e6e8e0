"""Runs the studies of a plan: which trials come next, their outcomes, and how a study ends.

A study takes no room of its own. Its trials are cells that are put into the queue batch by batch, so they run wherever
cells run, beside one another too, and resuming, limits and failures are those of cells. A trial that has ended before,
in this run or an earlier one, is looked up. When the last has ended, the study's result is written like any cell's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.environment import now
from harness.plan import range_edge, trial_cell
from harness.records import (
    BEST_TRIAL,
    OWN_CHECK,
    STUDY,
    WARM,
    Cell,
    CellResult,
    EarlierTrial,
    Environment,
    Fact,
    Flag,
    Status,
    Trial,
    with_settings,
)
from harness.store import read_result
from harness.suite import setting_name

if TYPE_CHECKING:
    from harness.plan import Proposal, StudySearch

STALLED = 8  # trials in a row that use nothing of the budget: then a study ends
TRIES = 2  # times that a trial whose process was lost is started in one run


@dataclass
class Course:
    """A study under way. `batch` has the trials that the search proposed last, `begun` those of them that are in the
    queue, `trials` all those with an outcome, by number. `started` is in ISO 8601."""

    study: Cell
    search: StudySearch
    started: str
    trials: dict[int, Trial] = field(default_factory=dict)
    batch: list[Proposal] = field(default_factory=list)
    begun: dict[str, list[int]] = field(default_factory=dict)  # spec digest of a trial's cell -> numbers

    @property
    def numbers_begun(self) -> set[int]:
        """Numbers of the trials that are in the queue."""
        return {number for numbers in self.begun.values() for number in numbers}

    @property
    def budget(self) -> dict[str, float]:
        """Limits of all trials together, {"seconds", "tokens"}, as far as the suite sets them."""
        return {name: self.study.study[name] for name in ("seconds", "tokens") if self.study.study.get(name)}

    def spent(self) -> dict[str, float]:
        """Returns the seconds and tokens that the trials with an outcome took together."""
        return {
            "seconds": sum(trial.seconds for trial in self.trials.values()),
            "tokens": sum(trial.tokens or 0 for trial in self.trials.values()),
        }

    @property
    def used_up(self) -> bool:
        """Whether the budget is used up, or the last trials used nothing of it (`STALLED` in a row)."""
        spent = self.spent()
        if any(spent[name] >= most for name, most in self.budget.items()):
            return True
        # Repeats, and trials that fail before they begin, cost nothing: what is counted would never be used up.
        last = [self.trials[number] for number in sorted(self.trials)[-STALLED:]]
        return len(last) == STALLED and any(not any(getattr(trial, name) for trial in last) for name in self.budget)


class Studies:
    """All studies of a run.

    `add(trial, study)` puts a trial's cell into the queue, before the cells that wait for its study (a spec digest).
    `ended` maps a trial's spec digest to the folder of its attempt that ended, in this run or an earlier one.
    `finish(study, result_of)` keeps the result of a study; `result_of` makes it for an attempt's name.
    """

    def __init__(
        self,
        add: Callable[[Cell, str], None],
        ended: Mapping[str, Path],
        finish: Callable[[Cell, Callable[[str], CellResult]], None],
        environment: Environment,
        run_id: str,
    ):
        self.add, self.finish = add, finish
        self.ended = dict(ended)
        self.environment, self.run_id = environment, run_id
        self.courses: dict[str, Course] = {}
        self.under_way: set[str] = set()  # trials' cells that were put into the queue
        self.tries: dict[str, int] = {}
        self.choices: dict[str, dict[str, Any]] = {}

    def begin(self, study: Cell, done: Mapping[str, Path]) -> None:
        """Start a study, and put its first trials into the queue. `done` maps spec digests of finished cells to their
        attempt folders; the study that it starts from (`warm_start`) is looked up there."""
        from harness.plan import StudySearch

        kin = study.needs.get(WARM, "")
        warm = self.choice(done[kin]) if kin in done else None  # it may have failed: then there is no start to take
        course = Course(study, StudySearch(study.study, warm), now())
        self.courses[study.spec_digest] = course
        self.advance(course)

    def take(self, result: CellResult, folder: Path) -> None:
        """Take in the result of a trial whose process has ended; `folder` is its attempt's. The studies that asked for
        the trial note it and go on. An interrupted trial is not noted: it is put into the queue once more, and if it is
        interrupted again, those studies end as interrupted, and a later run can go on with them."""
        name = result.cell.spec_digest
        if result.status is Status.INTERRUPTED:
            self.tries[name] = self.tries.get(name, 1) + 1
            waiting = [course for course in self.courses.values() if name in course.begun]
            if waiting and self.tries[name] <= TRIES:
                self.add(result.cell, waiting[0].study.spec_digest)
                return
            self.under_way.discard(name)
            for course in waiting:
                self.stop(course, f"trial {course.begun[name][0]} was interrupted: {result.reason}")
            return
        self.ended[name] = folder
        for course in [course for course in self.courses.values() if name in course.begun]:
            self.note(course, name)
            self.advance(course)

    def close(self) -> list[Cell]:
        """Returns the studies that have not ended: the same command goes on with them."""
        return [course.study for course in self.courses.values()]

    def earlier(self, cell: Cell) -> tuple[EarlierTrial, ...]:
        """Returns the trials of the batches before a trial's own, with which it is compared to end it early; none for a
        cell of no study under way."""
        for course in self.courses.values():
            if cell.spec_digest in course.begun:
                before = [trial for number, trial in course.trials.items() if number < course.batch[0].number]
                return tuple(
                    EarlierTrial(
                        number=trial.number,
                        status=trial.status,
                        merit=trial.merits[0] if trial.merits else None,
                        intermediate=list(trial.intermediate),
                    )
                    for trial in before
                )
        return ()

    def resolved(self, cell: Cell, done: Mapping[str, Path]) -> Cell:
        """Returns a cell with the settings that its study chose; any other cell as it is. `done` maps spec digests of
        finished cells to their attempt folders."""
        return with_settings(cell, self.settled(cell, done))

    def settled(self, cell: Cell, done: Mapping[str, Path]) -> dict[str, Any]:
        """Returns full name -> value of the settings that a cell's study chose; empty where it has no finished study.
        `done` maps spec digests of finished cells to their attempt folders."""
        study = cell.needs.get(STUDY, "")
        return self.choice(done[study]) if study in done else {}

    def choice(self, folder: Path) -> dict[str, Any]:
        """Returns the settings that a finished study chose, by full name. `folder` is the study's attempt folder."""
        if folder.name not in self.choices:
            self.choices[folder.name] = read_result(folder).tuned
        return self.choices[folder.name]

    def advance(self, course: Course) -> None:
        """Give the search the outcomes, and put the next trials into the queue. Ends the study when there are none."""
        study = course.study.spec_digest
        while study in self.courses:
            if all(asked.number in course.trials for asked in course.batch):
                course.search.tell(course.trials[asked.number] for asked in course.batch)
                course.batch = [] if course.used_up else course.search.ask()
                if not course.batch:
                    return self.end(course)
            for asked in course.batch:
                if asked.number in course.trials or asked.number in course.numbers_begun:
                    continue
                if course.budget:  # one after the other: whether there is a next one depends on what this one takes
                    if course.begun:
                        return None
                    if course.used_up:
                        return self.end(course)
                self.start(course, asked)
            if course.begun:
                return None
        return None

    def start(self, course: Course, asked: Proposal) -> None:
        """Put the cell of a proposed trial into the queue, or take its outcome where it has ended before."""
        cell = trial_cell(course.study, asked.number, asked.params)
        name = cell.spec_digest
        course.begun.setdefault(name, []).append(asked.number)
        if name in self.ended:
            self.note(course, name)
        elif name not in self.under_way:
            self.under_way.add(name)
            self.add(cell, course.study.spec_digest)

    def note(self, course: Course, name: str) -> None:
        """Record the outcome of the trial whose cell has the spec digest `name`. A trial that repeats an earlier
        trial's settings costs nothing of the budget."""
        folder = self.ended[name]
        result = read_result(folder)
        proposals = {proposal.number: proposal for proposal in course.batch}
        for number in course.begun.pop(name):
            again = any(trial.attempt_id == folder.name for trial in course.trials.values())
            trial = trial_from(proposals[number], result, course.study)
            course.trials[number] = replace(trial, seconds=0.0, tokens=0) if again else trial

    def stop(self, course: Course, reason: str) -> None:
        """End a study as interrupted, for this reason: it cannot go on now, and a later run can go on with it."""
        study = self.courses.pop(course.study.spec_digest).study
        self.finish(study, lambda attempt: self.result(course, attempt, Status.INTERRUPTED, reason))

    def end(self, course: Course) -> None:
        """Choose the best trial, now that the search is over, and write the study's result. Where no trial ended well,
        the study is skipped (if all its trials were) or failed."""
        from harness.plan import best_trial, pareto_front, setting_importances

        trials = [course.trials[number] for number in sorted(course.trials)]
        best = best_trial(trials)
        on_front = {trial.number for trial in pareto_front(trials)} if len(course.study.study["goals"]) > 1 else set()
        course.trials = {trial.number: replace(trial, front=trial.number in on_front) for trial in trials}
        study = self.courses.pop(course.study.spec_digest).study
        if best is None:
            first = trials[0]
            skipped = all(trial.status == Status.SKIPPED for trial in trials)
            status = Status.SKIPPED if skipped else Status.FAILED
            reason = f"none of {len(trials)} trials ended well; the first: {first.status}: {first.reason}"
            self.finish(study, lambda attempt: self.result(course, attempt, status, reason))
            return
        facts = [
            Fact("trials", len(trials), "trials"),
            Fact(BEST_TRIAL, best.number, ""),
            *(Fact(f"{name}_spent", value, unit, False) for (name, value), unit in
              zip(course.spent().items(), ("s", "tokens"), strict=True)),
            *(Fact(f"{kind}:{setting_name(name)}", value, "")
              for kind, shares in setting_importances(study.study, trials).items() for name, value in shares.items()),
        ]  # fmt: skip
        self.finish(
            study,
            lambda attempt: replace(
                self.result(course, attempt, Status.DONE, ""),
                tuned=best.params,
                facts=tuple(facts),
                flags=tuple(edges(best, study)),
            ),
        )

    def result(self, course: Course, attempt: str, status: Status, reason: str) -> CellResult:
        """Returns a study's result with its trials so far; `attempt` is the name of the study's attempt."""
        trials = tuple(course.trials[number] for number in sorted(course.trials))
        return CellResult(
            attempt, self.run_id, course.study, self.environment, status, reason, course.started,
            seconds=course.spent()["seconds"], trials=trials,
        )  # fmt: skip


def edges(best: Trial, study: Cell) -> Iterable[Flag]:
    """Returns a flag where the best value of a setting lies at the end of its range: the optimum may lie beyond. The
    label's own value at the end of a list raises none: such a list often ends where the setting does (no dropout)."""
    space, default = study.study["space"], study.study["default"]
    at_edges = {
        setting_name(name): {"value": value, "end": end, "range": space[name]}
        for name, value in best.params.items()
        if not (isinstance(space[name], list) and value == default[name])
        and (end := range_edge(value, study.study["space"][name]))
    }
    return [Flag("edge_of_space", at_edges)] if at_edges else []


def trial_from(asked: Proposal, result: CellResult, study: Cell) -> Trial:
    """Returns the proposed trial with its outcome, from its attempt's result. The goals of `study` say what its merits
    are. A trial that lacks the score of a goal counts as failed; a done one without scores was pruned."""
    how = study.study
    status = "pruned" if result.status is Status.DONE and not result.scores else str(result.status)
    values: dict[str, float] = {}
    merits: list[float] = []
    train = next((phase for phase in result.phases if phase.phase == "train"), None)
    costs = [phase for phase in result.phases if phase.phase != OWN_CHECK]
    peaks = [peak for phase in costs if (peak := phase.allocated_bytes or phase.rss_bytes)]
    value, reason = None, result.reason
    if status == "done":
        own = [score for score in result.scores if score.task == study.task]
        sought = next((score for score in own if how["metric"] in (None, score.metric)), None)
        if sought is None:
            status = str(Status.FAILED)
            reason = f"{study.task} has no metric {how['metric']!r}, it has {', '.join(score.metric for score in own)}"
        else:
            value = sought.value
            values = {score.metric: score.value for score in own} | {"score_stderr": sought.stderr or 0.0}
            retained = next((score for score in result.scores if score.role == "retain"), None)
            if retained:
                values[f"{retained.task}:{retained.metric}"] = retained.value
            for goal in how["goals"]:
                if goal == "memory":
                    merits.append(-float(max(peaks, default=0)))
                elif score := retained if goal == "retention" else sought:
                    merits.append(score.value if score.higher_is_better else -score.value)
            if len(merits) < len(how["goals"]):
                status, reason = str(Status.FAILED), "it retains nothing: it is no language model"
    elif status == "pruned" and result.intermediate:
        value, merits = result.intermediate[-1]["value"], [result.intermediate[-1]["merit"]]
    return Trial(
        number=asked.number,
        params=asked.params,
        status=status,
        reason=reason,
        value=value,
        values=values,
        merits=tuple(merits),
        seconds=result.seconds,
        tokens=(train.tokens if train else None) or sum(step.tokens or 0 for step in result.steps) or None,
        peak_bytes=max(peaks, default=None),
        intermediate=result.intermediate,
        origin=asked.origin,
        attempt_id=result.attempt_id,
    )
