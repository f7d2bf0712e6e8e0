"""Changes of costs between two environments: time, memory, size, as ratios over interleaved repeats. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.analysis.cost_ratios import PEAK, CostKind, Units, cost_kind, value_of
from harness.analysis.machine_speed import cell_speeds, speed_off, speeds_of, usual_speeds
from harness.analysis.regression.families import Tested, exact, judged
from harness.analysis.regression.pairs import CellPair, by_label
from harness.analysis.regression.patterns import Rest, made
from harness.analysis.regression.records import (
    MEMORY_MARGIN,
    TIME_MARGIN,
    Change,
    MetricChanges,
    Pattern,
    effect_text,
    share_text,
)
from harness.analysis.regression.repeats import Environment, NeighbourPair, RatioEstimate, Repeat, Session
from harness.errors import counted
from harness.records import OWN_CHECK
from harness.store import CellRow

# Costs that are compared unless others are asked for, as far as cells have them.
COSTS = (
    "train_seconds", "evaluate_seconds", "load_seconds", "infer_seconds", "latency_ms_p50", PEAK, "load_rss_bytes",
    "train_rss_bytes", "train_allocated_bytes", "evaluate_rss_bytes", "trainable_params", "artifact_bytes",
)  # fmt: skip
NOT_IN_TURN = (
    "each environment measured it once, so that the machine's own changes cannot be told from the environment's. "
    "Repeat the cells in turn (A B A B)"
)
COUNTED = ("parameters",)  # units of costs that are counted, not measured: one value is exact


def margin_of(kind: CostKind, memory: float = MEMORY_MARGIN, time: float = TIME_MARGIN) -> float:
    """Returns the relative difference of a cost that does not matter: that of time for what the machine's speed
    changes, that of memory for bytes, and 0 for what is counted."""
    return 0.0 if kind.unit in COUNTED else time if kind.timed else memory


def cost_changes(
    pairs: Sequence[CellPair],
    units: Units,
    names: Iterable[str] = COSTS,
    margins: Mapping[str, float] | None = None,
) -> list[MetricChanges]:
    """Returns what each cost of these `names` says of two environments; costs that no cell has are left out. `units`
    are those of facts: name -> (unit, whether more is better). `margins` maps a cost to another relative difference
    that does not matter."""
    rows = [row for pair in pairs for side in pair.done for row in side]
    found = []
    for name in dict.fromkeys(names):
        kind = cost_kind(name, rows, units)
        if kind and not name.startswith(f"{OWN_CHECK}_"):
            found.append(CostFamily(pairs, kind, (margins or {}).get(name, margin_of(kind)), rows).changes())
    return found


@dataclass(frozen=True)
class CostFamily:
    """The comparison of one cost over all cells."""

    pairs: Sequence[CellPair]
    kind: CostKind
    margin: float
    rows: Sequence[CellRow]  # all finished attempts of both environments

    def changes(self) -> MetricChanges:
        """Returns the changes of all cells and labels, and of everything, with the pattern that they make."""
        usual = usual_speeds(cell_speeds(self.rows))
        repeats: dict[str, list[Repeat]] = {}
        dropped: dict[str, str] = {}
        compared = [pair for pair in self.pairs if pair.missing is None]
        for pair in compared:
            repeats[pair.spec_digest], dropped[pair.spec_digest] = self.repeats(pair, usual)
        every = [one for own in repeats.values() for one in own]
        session = Session.of(every, drifts=self.kind.timed)
        groups = by_label(pair for pair in compared if self.has_both(repeats[pair.spec_digest]))
        labels = [self.tested("label", label, own, repeats, session) for label, own in groups.items()]
        several = [pair for own in groups.values() if len(own) > 1 for pair in own]
        cells = [self.tested("cell", pair.key, [pair], repeats, session) for pair in several]
        every_pair = [pair for own in groups.values() for pair in own]
        whole = self.tested("everything", "", every_pair, repeats, session) if len(groups) > 1 else None
        judgements = judged([*([whole] if whole else []), *labels, *cells], self.kind.higher_is_better)
        everything = judgements.pop(0) if whole else None
        of_labels, of_cells = judgements[: len(labels)], judgements[len(labels) :]
        of_cells += [
            replace(change, level="cell", name=own[0].key, where=own[0].where, spec_digest=own[0].spec_digest)
            for change, own in zip(of_labels, groups.values(), strict=True)
            if len(own) == 1
        ]
        # A cell that cannot run is told with the scores; here it has no value.
        lone = [pair for pair in compared if pair not in every_pair]
        of_cells += [self.unmeasured(pair, dropped[pair.spec_digest]) for pair in lone if dropped[pair.spec_digest]]
        pattern = self.pattern(of_labels, everything, of_cells, groups, session)
        return MetricChanges(
            self.kind.name, "cost", self.margin, pattern, tuple(of_cells), tuple(of_labels), everything, self.kind.timed
        )

    def repeats(self, pair: CellPair, usual: Mapping[str, float]) -> tuple[list[Repeat], str]:
        """Returns a cell's measurements of the cost, and why some were left out ("" where none was): other cells shared
        the device, or the machine was at another speed than usual."""
        found: list[Repeat] = []
        reasons: dict[str, None] = {}
        sides: tuple[Environment, ...] = ("old", "new")
        for environment, rows in zip(sides, pair.done, strict=True):
            for row in rows:
                value = value_of(row, self.kind.name)
                speeds = speeds_of(row)
                if value is None or not math.isfinite(value) or value <= 0:
                    continue
                if self.kind.disturbed and row.contended:
                    reasons["other cells shared its device"] = None
                    continue
                if self.kind.timed and speed_off(speeds, usual) is not None:
                    reasons["the machine was at another speed than usual"] = None
                    continue
                known = [speeds[name] / usual[name] for name in speeds if name in usual]
                speed = math.exp(math.fsum(map(math.log, known)) / len(known)) if known and self.kind.timed else None
                started = row.started.timestamp() if row.started else float(len(found))
                found.append(Repeat(environment, pair.spec_digest, pair.label, started, value, speed))
        return found, "; ".join(reasons)

    @staticmethod
    def has_both(repeats: Sequence[Repeat]) -> bool:
        """Whether both environments have a measurement."""
        return {one.environment for one in repeats} == {"old", "new"}

    def tested(
        self,
        level: str,
        name: str,
        of: Sequence[CellPair],
        repeats: Mapping[str, Sequence[Repeat]],
        session: Session,
    ) -> Tested:
        """Returns the test of a cell, a label or everything."""
        specs = {pair.spec_digest for pair in of}
        pairs = [pair for pair in session.pairs if pair.cell in specs]
        change = Change(
            level,  # type: ignore[arg-type]
            name, self.kind.name, "cannot tell", self.margin, "" if level == "everything" else of[0].label,
            of[0].where if level == "cell" else "", of[0].spec_digest if level == "cell" else "",
            relative=True, cells=len(of), repeats=len(pairs),
        )  # fmt: skip
        if fixed := self.constant(of, repeats):
            ratio = fixed[0]
            if len(fixed) == len(of) and max(fixed) == min(fixed):
                settled = replace(change, effect=ratio, interval=exact(ratio), repeats=len(pairs) or 1)
                if ratio == 1:
                    return Tested(replace(settled, answer="same", identical=True, p_same=0.0))
                beyond = abs(math.log(ratio)) > math.log1p(self.margin)
                return Tested(settled, p=0.0 if beyond else 1.0, p_same=0.0 if not beyond else 1.0)
        if not pairs:
            reason = "no repeat of one environment ran next to one of the other"
            return Tested(replace(change, reason=reason), tested=False)
        found = self.ratio(level, of, pairs, session)
        if self.kind.timed and max(pair.place for pair in pairs) < 1:
            return Tested(replace(change, effect=math.exp(found.effect), reason=NOT_IN_TURN), tested=False)
        if not found.stderr and len(pairs) < 2:
            reason = (
                f"{counted(len(pairs), 'pair')} of repeats, which show no spread. Repeat the cells in turn (A B A B)"
            )
            return Tested(replace(change, effect=math.exp(found.effect), reason=reason), tested=False)
        change = replace(change, effect=math.exp(found.effect), interval=found.interval)
        remark = self.machine_remark(found)
        change = replace(change, remarks=(remark,) if remark else ())
        return Tested(change, found.p_beyond(self.margin), found.p_same(self.margin))

    def constant(self, of: Sequence[CellPair], repeats: Mapping[str, Sequence[Repeat]]) -> list[float]:
        """Returns the ratio of each cell whose cost does not vary at all: what is counted, or what came out the same in
        two repeats or more of either environment, or in all of both."""
        ratios = []
        for pair in of:
            sides = [{one.value for one in repeats[pair.spec_digest] if one.environment == e} for e in ("old", "new")]
            counts = [sum(one.environment == e for one in repeats[pair.spec_digest]) for e in ("old", "new")]
            if all(len(values) == 1 for values in sides):
                old, new = (next(iter(values)) for values in sides)
                if self.kind.unit in COUNTED or (not self.kind.timed and (min(counts) > 1 or old == new)):
                    ratios.append(new / old)
        return ratios

    @staticmethod
    def ratio(level: str, of: Sequence[CellPair], pairs: Sequence[NeighbourPair], session: Session) -> RatioEstimate:
        """Returns the mean ratio of some cells; for everything, each label is one witness."""
        return session.ratio(pairs, {pair.spec_digest: pair.label for pair in of} if level == "everything" else None)

    def machine_remark(self, found: RatioEstimate) -> str:
        """Says how much slower or faster the machine itself was for the new environment, where that is more than half a
        per cent; "" else."""
        if abs(found.machine) < 0.005:
            return ""
        how = "slower" if found.machine > 0 else "faster"
        return (
            f"the machine was {share_text(abs(math.expm1(found.machine)))} {how} during the repeats of the new "
            "environment; the interval allows for it"
        )

    def unmeasured(self, pair: CellPair, reason: str) -> Change:
        """Returns the change of a cell of which an environment has no measurement that counts."""
        return Change(
            "cell", pair.key, self.kind.name, "cannot tell", self.margin, pair.label, pair.where, pair.spec_digest,
            relative=True, reason=reason, cells=1,
        )  # fmt: skip

    def pattern(
        self,
        labels: Sequence[Change],
        everything: Change | None,
        cells: Sequence[Change],
        groups: Mapping[str, Sequence[CellPair]],
        session: Session,
    ) -> Pattern:
        """Returns what moved as a whole."""
        specs = {label: {pair.spec_digest: label for pair in own} for label, own in groups.items()}

        def ratio_of(names: Sequence[str]) -> RatioEstimate | None:
            unit_of = {spec: label for name in names for spec, label in specs[name].items()}
            pairs = [pair for pair in session.pairs if pair.cell in unit_of]
            return session.ratio(pairs, unit_of if len(names) > 1 else None) if pairs else None

        known = [(change, ratio) for change in labels if (ratio := ratio_of([change.name]))]

        def rest_of(places: Sequence[int]) -> Rest:
            found = ratio_of([known[place][0].name for place in places])
            assert found is not None
            ends = found.interval
            logs = replace(ends, value=found.effect, low=math.log(ends.low), high=math.log(ends.high))
            return Rest(
                found.effect, found.stderr, found.df, found.p_beyond(self.margin), found.p_same(self.margin), logs
            )

        triples = [(change, ratio.effect, ratio.stderr) for change, ratio in known]
        return made(triples, everything, cells, rest_of, lambda value: effect_text(value, True, False), math.exp)
