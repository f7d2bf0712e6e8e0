"""What a cell's own figures say about it, as flags with their evidence."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from harness.records import Flag, Item

LOSS = "choice_cross_entropy"  # accuracy is noisy at 200 items; raw likelihood rises even when accuracy falls
HIT = "acc"
LEVEL = 0.05


def learned_nothing(tasks: Iterable[str], items: list[Item], base_items: Path) -> list[Flag]:
    """A flag for each learned task on which the cell is not better than the untouched base model.

    Two paired one-sided tests over items, at 0.05 between them (Bonferroni): Student's t of the gain in
    choice-normalised cross-entropy, and an exact sign test of accuracy (McNemar), since a classifier that
    is right but unsure of itself has learned. Tasks without choices are not judged.
    """
    import pyarrow.parquet as pq
    from scipy.stats import binomtest, ttest_1samp

    base = {
        (row["task"], row["doc_id"], row["metric"]): row["value"]
        for row in pq.read_table(base_items, filters=[("metric", "in", [LOSS, HIT])]).to_pylist()
    }

    def gains(task: str, metric: str, sign: int) -> list[float]:
        return [
            sign * (item.value - base[task, item.doc_id, metric])
            for item in items
            if item.task == task and item.metric == metric and (task, item.doc_id, metric) in base
        ]

    flags = []
    for task in tasks:
        losses, hits = gains(task, LOSS, -1), gains(task, HIT, +1)
        if len(losses) < 2:
            continue
        won, lost = sum(gain > 0 for gain in hits), sum(gain < 0 for gain in hits)
        p_loss = float(ttest_1samp(losses, 0.0, alternative="greater").pvalue) if len(set(losses)) > 1 else 1.0
        p_hit = float(binomtest(won, won + lost, alternative="greater").pvalue) if won + lost else 1.0
        if not min(p_loss, p_hit) < LEVEL / 2:
            evidence = {
                "task": task,
                "n": len(losses),
                "mean_gain_nats": sum(losses) / len(losses),
                "p_cross_entropy": p_loss,
                "items_won": won,
                "items_lost": lost,
                "p_accuracy": p_hit,
            }
            flags.append(Flag("learned_nothing", evidence))
    return flags
