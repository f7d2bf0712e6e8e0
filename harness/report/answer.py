"""The answer in plain words, before any table."""

from __future__ import annotations

import math
from collections.abc import Iterator

from harness.report.format import NA, digits_of, number, seconds, size, with_error
from harness.report.table import UNITS, Block, Row


def sentences(block: Block) -> list[str]:
    """What a reader should take away from one block, at its largest data size and on clean data where there is some.

    Differences are called small when they are within two joint standard errors: a rule of thumb for
    reading, not a test (items are shared between rows, which this leaves out of account).
    """
    if not block.sizes:
        return []
    n_train, condition = next(point for point in block.tables if point[0] == block.sizes[-1])
    rows = [row for row in block.at(n_train, condition) if row.n_train and row.score]
    if not rows:
        return [f"No method has finished on {block.task} yet."]
    lines = [best(block, rows, n_train, condition), *against_full(block, rows)]
    if not condition:
        lines += spoilt(block, rows)
    judged = [row for row in rows if row.learned]
    first = block.retain[0] if block.retain else ""
    kept = [row for row in judged if first and loss_of(row, first) is not None]
    if kept:
        gentle = min(kept, key=lambda row: loss_of(row, first) or 0.0)
        harsh = max(kept, key=lambda row: loss_of(row, first) or 0.0)
        unit = unit_of(gentle, first)
        lines.append(
            f"Of those that learned, {gentle.label} forgets least on {first} ({change(gentle, first)}{unit})"
            + (f" and {harsh.label} most ({change(harsh, first)}{unit})." if harsh is not gentle else ".")
        )
    timed = [row for row in judged if row.train_seconds is not None and row.trainable]  # a merge trains nothing
    if timed:
        quick = min(timed, key=lambda row: row.train_seconds or 0.0)
        slow = max(timed, key=lambda row: row.train_seconds or 0.0)
        if quick is not slow:
            lines.append(
                f"{quick.label} trains fastest ({seconds(quick.train_seconds)} s), {slow.label} slowest "
                f"({seconds(slow.train_seconds)} s)."
            )
    shipped = [row for row in judged if row.artifact_bytes]
    if shipped:
        small = min(shipped, key=lambda row: row.artifact_bytes or 0.0)
        lines.append(f"{small.label} is the smallest to ship ({size(small.artifact_bytes)}).")
    idle = [row.label for row in rows if not row.learned]
    if idle:
        lines.append(f"Not shown to be better than the untouched model: {', '.join(idle)}.")
    return lines


def spoilt(block: Block, rows: list[Row]) -> Iterator[str]:
    """What other data of the same size does to each label, the one that stands it best first."""
    clean = {row.label: row for row in rows}
    for condition in block.conditions[1:]:
        others = [row for row in block.at(rows[0].n_train, condition) if row.score and row.n_train]
        pairs = [(clean[row.label], row) for row in others if row.label in clean]
        pairs.sort(key=lambda pair: goodness(pair[0]) - goodness(pair[1]))
        said = [
            f"{row.label} {number(row.score.value - before.score.value, digits_of(block.metric), signed=True)}"
            + (" (within noise)" if within_noise(before, row) else "")
            for before, row in pairs
            if row.score and before.score
        ]
        if said:
            yield f"With {condition}, {block.metric} changes, beside clean balanced data: {', '.join(said)}."


def best(block: Block, rows: list[Row], n_train: int, condition: str = "") -> str:
    top = max(rows, key=goodness)
    assert top.score is not None
    text = (
        f"With {n_train} examples{f' ({condition})' if condition else ''}, {top.label} scores highest on {block.task}: "
        f"{block.metric} {with_error(top.score.value, top.score.stderr, digits_of(block.metric))}"
    )
    if block.base and block.base.score:
        text += f", against {number(block.base.score.value, digits_of(block.metric))} for the untouched model"
    close = [row.label for row in rows if row is not top and within_noise(top, row)]
    if close:
        text += f". Within two standard errors of it: {', '.join(close)}"
    if all(row.seeds < 2 for row in rows):
        text += ". One seed: another seed may change the order"
    return text + "."


def goodness(row: Row) -> float:
    assert row.score is not None
    return row.score.value if row.score.higher_is_better else -row.score.value


def against_full(block: Block, rows: list[Row]) -> list[str]:
    """How those that train a part of the weights stand beside the best that trains all of them."""
    same = [row for row in rows if row.model == block.model and row.trainable]
    whole = [row for row in same if (row.trainable or 0.0) > 0.999]
    parts = [row for row in same if row not in whole]
    if not whole or not parts:
        return []
    full = max(whole, key=goodness)
    alike = [row.label for row in parts if within_noise(full, row)]
    above = [row.label for row in parts if row.label not in alike and goodness(row) > goodness(full)]
    below = [row.label for row in parts if row.label not in alike and row.label not in above]
    said = [
        f"{', '.join(labels)} {words}"
        for labels, words in (
            (above, "above by more than two standard errors"),
            (alike, "within noise"),
            (below, "below by more than two standard errors"),
        )
        if labels
    ]
    return [f"Beside {full.label}, which trains every weight: {'; '.join(said)}."]


def within_noise(one: Row, other: Row) -> bool:
    """Within two joint standard errors; False where an error is unknown and the values differ."""
    if not one.score or not other.score:
        return False
    joint = math.hypot(one.score.stderr or 0.0, other.score.stderr or 0.0)
    return abs(one.score.value - other.score.value) <= 2 * joint


def loss_of(row: Row, task: str) -> float | None:
    """How much worse a row is than the base on a retained task; positive is worse."""
    figure = row.retained.get(task)
    if figure is None or figure.gain is None or figure.learned:
        return None
    return -figure.gain if figure.higher_is_better else figure.gain


def change(row: Row, task: str) -> str:
    figure = row.retained.get(task)
    return number(figure.gain, digits_of(figure.metric), signed=True) if figure else NA


def unit_of(row: Row, task: str) -> str:
    figure = row.retained.get(task)
    unit = UNITS.get(figure.metric, "") if figure else ""
    return f" {unit}" if unit else ""
