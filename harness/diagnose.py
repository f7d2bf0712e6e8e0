"""What a cell's own figures say about it, as flags with their evidence."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.records import Flag, Item, Score

LOSS = "choice_cross_entropy"  # accuracy is noisy at 200 items; raw likelihood rises even when accuracy falls
LEVEL = 0.05


def learned_nothing(tasks: Iterable[str], scores: list[Score], items: list[Item], base_items: Path) -> list[Flag]:
    """A flag for each learned task on which the cell is not better than the untouched base model.

    Two paired one-sided tests over items, at 0.05 between them (Bonferroni): Student's t of the gain in
    choice-normalised cross-entropy, where the task has choices, and a test of the headline metric: an exact
    sign test where items are right or wrong (McNemar), Student's t where they are graded. The headline
    counts because a classifier that is right but unsure of itself has learned.
    """
    import pyarrow.parquet as pq

    base = {(row["task"], row["doc_id"], row["metric"]): row["value"] for row in pq.read_table(base_items).to_pylist()}
    flags = []
    for task in tasks:
        metrics = {score.metric: score.higher_is_better for score in scores if score.task == task}
        tested = dict.fromkeys([next(iter(metrics), ""), LOSS])
        evidence: dict[str, Any] = {"task": task}
        p_values = []
        for metric in tested:
            gains = [
                (item.value - base[task, item.doc_id, metric]) * (1 if metrics[metric] else -1)
                for item in items
                if item.task == task and item.metric == metric and (task, item.doc_id, metric) in base
            ]
            if len(gains) > 1:
                p_values.append(p_of_gain(gains))
                evidence |= {
                    f"mean_gain_{metric}": sum(gains) / len(gains),
                    f"p_{metric}": p_values[-1],
                    "n": len(gains),
                }
        if p_values and not min(p_values) < LEVEL / len(p_values):
            flags.append(Flag("learned_nothing", evidence))
    return flags


def p_of_gain(gains: list[float]) -> float:
    """One-sided p-value of "the gain is above zero": by signs for gains of -1, 0 and 1, else Student's t."""
    from scipy.stats import binomtest, ttest_1samp

    if set(gains) <= {-1.0, 0.0, 1.0}:
        won, lost = gains.count(1.0), gains.count(-1.0)
        return float(binomtest(won, won + lost, alternative="greater").pvalue) if won + lost else 1.0
    if len(set(gains)) == 1:
        return 0.0 if gains[0] > 0 else 1.0
    return float(ttest_1samp(gains, 0.0, alternative="greater").pvalue)
