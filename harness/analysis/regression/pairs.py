"""Matches the attempts of two environments cell by cell, and says where one of the two has no result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.analysis.regression.records import Change, Side
from harness.analysis.verdicts import Point
from harness.data import Quality
from harness.store import CellRow


@dataclass(frozen=True)
class CellPair:
    """A cell's attempts in the old and in the new environment, in the order in which they started; its names are those
    of its newest attempt."""

    key: str
    label: str
    spec_digest: str
    where: str
    trained: bool  # another rounding may give another model: it trains, or is made of cells that came out differently
    old: tuple[CellRow, ...]
    new: tuple[CellRow, ...]

    @property
    def done(self) -> tuple[list[CellRow], list[CellRow]]:
        """The attempts that ended well: (old, new)."""
        return [row for row in self.old if row.status == "done"], [row for row in self.new if row.status == "done"]

    @property
    def missing(self) -> Side | None:
        """Whose attempts all failed: of the old environment, the new one, or both; None where both have a result."""
        old, new = self.done
        if old and new:
            return None
        return "new" if old else "old" if new else "both"

    @property
    def reason(self) -> str:
        """Why an environment has no result, in words; "" where both have one."""
        rows = self.new if self.missing == "new" else self.old if self.missing else ()
        return "; ".join(dict.fromkeys(f"{row.status}: {row.reason}".removesuffix(": ") for row in rows))

    def absent(self, metric: str, margin: float) -> Change | None:
        """Returns the change "cannot run there" with its reason; None where both environments have a result."""
        if self.missing is None:
            return None
        better = {"new": False, "old": True, "both": None}[self.missing]
        return Change(
            "cell", self.key, metric, "cannot run there", margin, self.label, self.where, self.spec_digest,
            better=better, missing=self.missing, reason=self.reason, cells=1,
        )  # fmt: skip


def matched_cells(
    old: Iterable[CellRow], new: Iterable[CellRow]
) -> tuple[list[CellPair], tuple[str, ...], tuple[str, ...]]:
    """Matches rows of two environments (an attempt each) by spec digest. Returns (the cells that both attempted, in the
    order of the old environment; keys of the cells that the old one alone attempted; those of the new one alone)."""
    sides: list[dict[str, list[CellRow]]] = [{}, {}]
    for rows, by_spec in zip((old, new), sides, strict=True):
        for row in rows:
            by_spec.setdefault(row.spec_digest, []).append(row)
    first, second = sides
    pairs = [pair_of(first[spec], second[spec]) for spec in first if spec in second]
    only_old, only_new = (
        tuple(rows[-1].key for spec, rows in these.items() if spec not in others)
        for these, others in ((first, second), (second, first))
    )
    return pairs, only_old, only_new


def pair_of(old: Sequence[CellRow], new: Sequence[CellRow]) -> CellPair:
    """Makes the pair of one cell from its attempts in both environments."""
    row = new[-1]
    where = Point(row.task, row.base_model, row.n_train, Quality.of(row.data).condition)
    return CellPair(row.key, row.label, row.spec_digest, str(where), row.seed is not None, tuple(old), tuple(new))


def by_label(pairs: Iterable[CellPair]) -> dict[str, list[CellPair]]:
    """Groups pairs by label, in the order in which the labels come first."""
    groups: dict[str, list[CellPair]] = {}
    for pair in pairs:
        groups.setdefault(pair.label, []).append(pair)
    return groups


def undisturbed(pairs: Sequence[CellPair], digests: Mapping[str, str]) -> frozenset[str]:
    """Returns the labels beside which the new environment computes to the last bit as the old one did.

    An upgrade that rounds differently makes another model of every cell that trains, and scores that move without a
    cause: then a single cell says nothing, as a single seed says nothing. Where at least half of the *other* labels
    (of those that train, if any) came out identical in every item and loss, no such rounding is at work, and what moved
    was moved by something of its own. `digests` are attempt_id -> `store.outcome_digests`.
    """
    labels = by_label(pair for pair in pairs if pair.missing is None)
    alike = {label: all(is_identical(pair, digests) for pair in own) for label, own in labels.items()}
    training = {label for label, own in labels.items() if any(pair.trained for pair in own)}
    quiet = set()
    for label in labels:
        others = [name for name in training if name != label] or [name for name in labels if name != label]
        if others and 2 * sum(alike[name] for name in others) >= len(others):
            quiet.add(label)
    return frozenset(quiet)


def without_training(
    pairs: Sequence[CellPair], needs: Mapping[str, tuple[str, ...]], digests: Mapping[str, str]
) -> list[CellPair]:
    """Returns the pairs, those with `trained` unset that train nothing and whose needs, if any, came out the same to
    the last bit: a merge of the same experts differs by what merges alone. `needs` maps the spec digest of a cell
    without training to those of the cells it is made of."""
    same = {pair.spec_digest for pair in pairs if is_identical(pair, digests)}
    return [
        replace(pair, trained=False) if pair.spec_digest in needs and same.issuperset(needs[pair.spec_digest]) else pair
        for pair in pairs
    ]


def is_identical(pair: CellPair, digests: Mapping[str, str]) -> bool:
    """Whether all finished attempts of a cell, in both environments, came out the same to the last bit."""
    found = {digests.get(row.attempt_id, "") for side in pair.done for row in side}
    return len(found) == 1 and "" not in found
