"""What a cell's own figures say about it, as flags with their evidence."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from harness.records import Flag, Item

CRITERION = "choice_cross_entropy"  # accuracy is too noisy at 200 items; raw likelihood rises even when it falls
LEVEL = 0.05


def learned_nothing(tasks: Iterable[str], items: list[Item], base_items: Path) -> list[Flag]:
    """A flag for each learned task on which the cell is not better than the untouched base model.

    The test is paired over items, on choice-normalised cross-entropy, one-sided at 0.05 (Student's t of
    the differences). Tasks without choices are not judged.
    """
    import pyarrow.parquet as pq
    from scipy.stats import ttest_1samp

    base = {
        (row["task"], row["doc_id"]): row["value"]
        for row in pq.read_table(base_items, filters=[("metric", "=", CRITERION)]).to_pylist()
    }
    flags = []
    for task in tasks:
        gains = [
            base[item.task, item.doc_id] - item.value
            for item in items
            if item.task == task and item.metric == CRITERION and (item.task, item.doc_id) in base
        ]
        if len(gains) < 2:
            continue
        p_value = float(ttest_1samp(gains, 0.0, alternative="greater").pvalue)
        if not p_value < LEVEL:
            evidence = {"task": task, "mean_gain_nats": sum(gains) / len(gains), "p_value": p_value, "n": len(gains)}
            flags.append(Flag("learned_nothing", evidence))
    return flags
