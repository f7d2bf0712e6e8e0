"""Decides which setting a study tries next, when a trial is ended early, and which setting wins, by Optuna's ask and
tell.

A search depends on the results of its trials alone. Each trial gets a new sampler, seeded by the search and the trial's
number. Proposals come in batches of a fixed size, and a batch's results count only when all of it has ended. So a study
that was killed repeats the same proposals, and trials that run at the same time do not change them. Not covered: what
is searched (`suite/search_space.py`), and running trials (`execute/studies.py`).
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UserError
from harness.records import EarlierTrial, JsonObject, RungScore, Trial
from harness.suite import MOST_TRIALS, Range, setting_name

if TYPE_CHECKING:
    import optuna

STARTUP = 5  # trials before tpe and gp look at results
MEDIAN_OF = 4  # trials that the median pruner wants to have seen
REDUCTION = 2  # asha and hyperband: half of the trials go on from each rung to the next, twice as far
WILCOXON = 0.1  # p-value below which a trial is held to be worse than the best, item by item
TREES = 0  # seed of fANOVA's forest
DEFAULT, WARM_START, SAMPLER = "default", "warm start", "sampler"


@dataclass(frozen=True)
class Proposal:
    """A setting for a study to try, `params` as {full name: value}. Number 0 is the label's own setting, before tuning.
    `origin` says who proposed it: "default", "warm start" or "sampler"."""

    number: int
    params: JsonObject
    origin: str


class StudySearch:
    """The search of one study: proposes settings and takes in results. `how` is the `study` of the study's cell; `warm`
    the best setting of another study as {full name: value}, tried second where it differs from the label's own."""

    def __init__(self, how: JsonObject, warm: JsonObject | None = None):
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.how = how
        self.space: dict[str, Range] = how["space"]
        self.distributions = {name: distribution(found) for name, found in self.space.items()}
        self.study = optuna.create_study(study_name=how["search"], directions=["maximize"] * len(how["goals"]))
        self.first = [Proposal(0, dict(how["default"]), DEFAULT)]
        if warm and dict(warm) != how["default"]:
            self.first.append(Proposal(1, dict(warm), WARM_START))
        self.asked: dict[int, optuna.Trial] = {}
        self.number = 0
        self.grid: list[JsonObject] = []
        if how["sampler"] == "grid":
            # Optuna's own may hand out a point twice in a batch. Shuffled, so that half a grid covers the space.
            self.grid = grid_of(self.space, how["points"])
            random.Random(seed_of(how["search"], 0)).shuffle(self.grid)

    @property
    def most(self) -> float:
        """The largest number of trials: as many as the budget allows or, for the sampler grid, as many as there are
        points besides the first settings, if those are fewer."""
        return min(self.how.get("trials") or MOST_TRIALS, len(self.first) + len(self.grid) if self.grid else math.inf)

    def ask(self) -> list[Proposal]:
        """Return the next batch of settings to try; empty when the search is over."""
        batch: list[Proposal] = []
        while len(batch) < self.how["batch"] and self.number < self.most:
            batch.append(self._ask())
            self.number += 1
        return batch

    def tell(self, trials: Iterable[Trial]) -> None:
        """Record a batch's results, in the order of their numbers, whatever order the trials ended in. Points of a
        grid, and settings outside the ranges, are not passed on to the sampler."""
        from optuna.trial import TrialState

        for trial in sorted(trials, key=lambda one: one.number):
            asked = self.asked.get(trial.number)
            if asked is None:
                continue  # a point of a grid; or a setting outside the ranges: it counts, the sampler need not know
            if trial.status == "pruned":
                for score in trial.intermediate:
                    asked.report(score["merit"], score["rung"])
                self.study.tell(asked, state=TrialState.PRUNED)
            elif trial.status == "done":
                self.study.tell(asked, list(trial.merits))
            else:
                self.study.tell(asked, state=TrialState.FAIL)

    def _ask(self) -> Proposal:
        if not self.grid:
            self.study.sampler = sampler(self.how, seed_of(self.how["search"], self.number))
        if self.number < len(self.first):
            first = self.first[self.number]
            if not self.grid and all(inside(value, self.distributions[name]) for name, value in first.params.items()):
                self.study.enqueue_trial(first.params)
                self.asked[self.number] = self.study.ask(self.distributions)
            return first
        if self.grid:
            return Proposal(self.number, self.grid[self.number - len(self.first)], SAMPLER)
        trial = self.asked[self.number] = self.study.ask(self.distributions)
        return Proposal(self.number, dict(trial.params), SAMPLER)


def seed_of(search: str, number: int) -> int:
    """Return a sampler's seed: a hash of the search's digest and the trial's number."""
    return int(hashlib.sha256(f"{search} {number}".encode()).hexdigest()[:8], 16)


def distribution(found: Range) -> optuna.distributions.BaseDistribution:
    """Return Optuna's distribution for a range: of the listed values, or of whole numbers or floats on a log scale."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(found, list):
        return CategoricalDistribution(found)
    if isinstance(found["low"], int) and isinstance(found["high"], int):
        return IntDistribution(found["low"], found["high"], log=True)
    return FloatDistribution(found["low"], found["high"], log=True)


def inside(value: object, where: optuna.distributions.BaseDistribution) -> bool:
    """Return whether a value belongs to one of Optuna's distributions."""
    try:
        return bool(where._contains(where.to_internal_repr(value)))
    except (TypeError, ValueError):
        return False


def sampler(how: JsonObject, seed: int) -> optuna.samplers.BaseSampler:
    """Return a new sampler of Optuna for a study's settings `how`: of the kind that `how["sampler"]` names, and TPE for
    any other name."""
    from optuna import samplers

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental features
        match how["sampler"]:
            case "random":
                return samplers.RandomSampler(seed=seed)
            case "cmaes":
                return samplers.CmaEsSampler(seed=seed, n_startup_trials=STARTUP, warn_independent_sampling=False)
            case "gp":
                return samplers.GPSampler(seed=seed, n_startup_trials=STARTUP)
            case _:
                return samplers.TPESampler(
                    seed=seed, n_startup_trials=STARTUP, multivariate=True, constant_liar=True,
                    warn_independent_sampling=False,
                )  # fmt: skip


def grid_of(space: Mapping[str, Range], points: int) -> list[JsonObject]:
    """Return every combination of values, as {full name: value}. A list gives its values, a range `points` values at
    equal distances on a log scale; of whole numbers it may give fewer."""
    points_of: dict[str, list[object]] = {}
    for name, values in space.items():
        if isinstance(values, list):
            points_of[name] = values
        else:
            low, high = values["low"], values["high"]
            inner = [low * (high / low) ** (place / (points - 1)) for place in range(1, points - 1)]
            whole = isinstance(low, int) and isinstance(high, int)
            points_of[name] = list(dict.fromkeys([low, *(map(round, inner) if whole else inner), high]))
    return [dict(zip(points_of, values, strict=True)) for values in itertools.product(*points_of.values())]


# --- ending a trial early ---


def rung_shares(pruner: str, rungs: int) -> list[float]:
    """Return the shares of a trial's steps at which it is scored, rising and `rungs` in number: halved again and again
    (asha, hyperband), or at equal distances."""
    if pruner in ("asha", "hyperband"):
        return [REDUCTION ** (rung - rungs) / 1.0 for rung in range(rungs)]
    return [rung / (rungs + 1) for rung in range(1, rungs + 1)]


def should_prune(trial: JsonObject, earlier: Sequence[EarlierTrial], reached: Sequence[RungScore]) -> bool:
    """Return whether a trial should end at the rung that it has reached.

    `trial` is the `trial` of its cell; `earlier` are the trials of the batches before; `reached` are this trial's
    scores so far. Trials that run at the same time do not count: they may be others when the study runs again.
    """
    if trial["pruner"] == "wilcoxon":
        return lags_by_item(earlier, reached[-1])
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    pruner: optuna.pruners.BasePruner = optuna.pruners.MedianPruner(n_startup_trials=MEDIAN_OF)
    if trial["pruner"] == "asha":
        pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=REDUCTION)
    elif trial["pruner"] == "hyperband":
        pruner = optuna.pruners.HyperbandPruner(1, REDUCTION ** trial["rungs"], REDUCTION)
    halving = trial["pruner"] != "median"
    study = optuna.create_study(
        study_name=trial["search"], direction="maximize", pruner=pruner, sampler=optuna.samplers.RandomSampler(seed=0)
    )
    earlier_by_number = {past["number"]: past for past in earlier}

    def replay(scores: Sequence[RungScore]) -> tuple[optuna.Trial, bool]:
        asked, ends = study.ask(), False
        for score in scores:
            asked.report(score["merit"], REDUCTION ** (score["rung"] - 1) if halving else score["rung"])
            ends = asked.should_prune()
        return asked, ends

    states = {"done": optuna.trial.TrialState.COMPLETE, "pruned": optuna.trial.TrialState.PRUNED}
    for number in range(trial["number"]):
        past = earlier_by_number.get(number)  # None: it runs beside this one
        asked, _ = replay(past["intermediate"] if past else ())
        if past and past["status"] != "running":
            state = states.get(past["status"], optuna.trial.TrialState.FAIL)
            study.tell(asked, past["merit"] if past["status"] == "done" else None, state=state)
    return replay(reached)[1]


def lags_by_item(earlier: Sequence[EarlierTrial], now: RungScore) -> bool:
    """Return whether Optuna's Wilcoxon pruner would end a trial: it compares the trial's validation items (`now` is its
    score at the rung that it has reached) with those of the best earlier trial at the same rung. False where no earlier
    trial ended well with a score there."""
    import optuna

    at_rung = [
        (past["merit"], score["items"])
        for past in earlier
        if past["status"] == "done" and past["merit"] is not None
        for score in past["intermediate"]
        if score["rung"] == now["rung"]
    ]
    if not at_rung:
        return False
    best = max(at_rung, key=lambda pair: pair[0])[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an experimental feature
        pruner = optuna.pruners.WilcoxonPruner(p_threshold=WILCOXON)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    study.add_trial(optuna.trial.create_trial(value=0.0, intermediate_values=dict(enumerate(best))))
    trial = study.ask()
    for place, value in enumerate(now["items"]):
        trial.report(value, place)
    return trial.should_prune()


# --- which setting wins ---


def pareto_front(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials on the Pareto front: no other trial is as good in every goal and better in one. Trials that did
    not end well are left out."""

    def beats(one: Trial, other: Trial) -> bool:
        pairs = list(zip(one.merits, other.merits, strict=True))
        return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)

    done = [trial for trial in trials if trial.status == "done"]
    return [trial for trial in done if not any(beats(other, trial) for other in done)]


def best_trial(trials: Sequence[Trial]) -> Trial | None:
    """Return the winning trial, or None where no trial ended well.

    With one goal, the best score wins; ties go to the lowest cross-entropy among the choices (accuracy on a hundred
    items has many ties), then to the earliest trial. With several goals, the winner is the trial of the Pareto front
    that is best in the second goal (of equals the third) among those whose score is within one standard error of the
    best score (the one-standard-error rule; Breiman et al. 1984).
    """
    candidates = pareto_front(trials)
    if not candidates:
        return None

    def order(trial: Trial) -> tuple[float, float, int]:
        return trial.merits[0], -trial.values.get("choice_cross_entropy", 0.0), -trial.number

    best = max(candidates, key=order)
    if len(best.merits) == 1:
        return best
    enough = best.merits[0] - best.values.get("score_stderr", 0.0)
    return max(
        (trial for trial in candidates if trial.merits[0] >= enough), key=lambda one: (one.merits[1:], order(one))
    )


def setting_importances(how: JsonObject, trials: Sequence[Trial]) -> dict[str, dict[str, float]]:
    """Return how much each setting explains of the score's variance, by two methods: {"fanova": {full name: share},
    "ped_anova": …}. Empty for a single setting, with too few finished trials to say, or where all score the same.
    `how` describes the study, as its cell holds it (`Cell.study`); trials with a value outside the ranges of its space
    are left out."""
    from optuna import importance

    where = {name: distribution(found) for name, found in how["space"].items()}
    # Optuna looks at the settings that all trials share: one outside its range would take the setting out altogether.
    fit = [trial for trial in trials if all(inside(trial.params.get(name), known) for name, known in where.items())]
    done = [trial for trial in fit if trial.status == "done"]
    if len(how["space"]) < 2 or len(done) < 2 * len(how["space"]) or len({trial.merits[0] for trial in done}) < 2:
        return {}
    study = to_optuna_study(how, done)
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kinds = {
            "fanova": importance.FanovaImportanceEvaluator(seed=TREES),
            "ped_anova": importance.PedAnovaImportanceEvaluator(),
        }
        for name, kind in kinds.items():
            shares = importance.get_param_importances(study, evaluator=kind, target=lambda trial: trial.values[0])
            found[name] = {key: float(value) for key, value in shares.items() if math.isfinite(value)}
    return found


# --- for Optuna's own tools ---


def to_optuna_study(
    how: JsonObject, trials: Sequence[Trial], storage: str | optuna.storages.BaseStorage | None = None, name: str = ""
) -> optuna.Study:
    """Return an Optuna study with these trials, for Optuna's own tools. `how` is the `study` of the study's cell. The
    Optuna study lies in `storage` (by default in memory) and has the `name`, by default the search's digest.

    Its values are turned so that more is better; the scores as measured, and the reason why a trial failed, are user
    attributes. A setting outside the ranges is left out of `params` and kept as an attribute.
    """
    import optuna
    from optuna.trial import TrialState, create_trial

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        storage=storage, study_name=name or how["search"], directions=["maximize"] * len(how["goals"])
    )
    if len(how["goals"]) > 1:
        study.set_metric_names(list(how["goals"]))
    where = {name: distribution(found) for name, found in how["space"].items()}
    states = {"done": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
    for trial in sorted(trials, key=lambda one: one.number):
        fitting = {key: value for key, value in trial.params.items() if inside(value, where[key])}
        state = states.get(trial.status, TrialState.FAIL)
        notes = {"origin": trial.origin, "status": trial.status, "seconds": trial.seconds, **trial.values}
        notes |= {"reason": trial.reason} if trial.reason else {}
        notes |= {setting_name(key): repr(value) for key, value in trial.params.items() if key not in fitting}
        study.add_trial(
            create_trial(
                state=state,
                values=list(trial.merits) if trial.merits and state != TrialState.FAIL else None,
                params=fitting,
                distributions={key: where[key] for key in fitting},
                intermediate_values={score["rung"]: score["merit"] for score in trial.intermediate},
                user_attrs=notes,
            )
        )
    return study


def optuna_storage(path: Path) -> str | optuna.storages.BaseStorage:
    """Return Optuna's storage for a new file: SQLite (.db, .sqlite, .sqlite3) or Optuna's journal (.log, .journal).
    Raises UserError for another ending, or when the file exists."""
    if path.exists():
        raise UserError(f"{path} is there already. Name another file, or remove it.")
    if path.suffix in (".db", ".sqlite", ".sqlite3"):
        return f"sqlite:///{path}"
    if path.suffix in (".log", ".journal"):
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        return JournalStorage(JournalFileBackend(str(path)))
    raise UserError(f"{path}: its ending says which storage is meant: .db (SQLite) or .log (Optuna's journal).")
