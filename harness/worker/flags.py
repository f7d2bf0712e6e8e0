"""Flags that are raised from a cell's own scores and losses, each with its evidence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.data import mean_test
from harness.records import Flag, Item, Score, Step

if TYPE_CHECKING:
    from torch import Tensor

# How far a retained score may fall before it is called forgetting: nats per word, and shares of right answers.
FORGETTING = {"log_likelihood_per_word": 0.1, "acc": 0.05, "acc_norm": 0.05, "exact_match": 0.05}
TURNED = 0.05  # the rise of the validation loss above its lowest, as a share of it, that is called overfitting
LEARNT = 0.01  # nats: a training loss below it is at its end
FALLING = 0.1  # the fall of the training loss over the last third of the steps, as a share of it, that is not the end
LEAST_STEPS = 12  # of training, before anything is said of its last third
START = 1e-3  # nats: in fp32 most adapters change nothing at all, and rounding less than this
LOSS = "choice_cross_entropy"  # accuracy is noisy at 200 items; raw likelihood rises even when accuracy falls
LEVEL = 0.05


def learned_nothing(tasks: Iterable[str], scores: list[Score], items: list[Item], base_items: Path) -> list[Flag]:
    """Returns the flag `learned_nothing` if the cell is not better than the untouched base model on some of `tasks`
    (those that it learned), with the evidence of each; otherwise no flag. `base_items` is the base model's file of
    items.

    Two paired one-sided tests over the items that both were scored on, at 0.05 between them (Bonferroni): Student's t
    of the gain in choice-normalised cross-entropy, where the task has choices, and a test of the headline metric: an
    exact sign test where items are right or wrong (McNemar), Student's t where they are graded or come in clusters. The
    headline counts because a classifier that is right but unsure of itself has learned. Tasks with fewer than two such
    items are passed over.
    """
    base = base_values(base_items)
    evidence_by_task: dict[str, dict[str, float]] = {}
    for task in tasks:
        metrics = {score.metric: score.higher_is_better for score in scores if score.task == task}
        tested = dict.fromkeys([next(iter(metrics), ""), LOSS])
        evidence: dict[str, float] = {}
        p_values = []
        for metric in tested:
            both = scored_by_both(items, base, task, metric)
            gains = [(item.value - base[task, item.doc_id, metric]) * (1 if metrics[metric] else -1) for item in both]
            if len(gains) > 1:
                p_values.append(p_of_gain(gains, clusters_of(both)))
                evidence |= {
                    f"mean_gain_{metric}": sum(gains) / len(gains),
                    f"p_{metric}": p_values[-1],
                    "n": len(gains),
                }
        if p_values and not min(p_values) < LEVEL / len(p_values):
            evidence_by_task[task] = evidence
    return [Flag("learned_nothing", evidence_by_task)] if evidence_by_task else []


def not_the_base(before: Tensor, after: Tensor) -> list[Flag]:
    """Returns the flag `not_the_base_at_start` if a method that says it starts as the base model does not: the
    log-probabilities [tokens] of the same answer, `before` and `after` the method was put on the model, differ by more
    than `START` nats. Otherwise no flag."""
    change = float((after - before).abs().max()) if after.shape == before.shape else float("inf")
    if change <= START:
        return []
    return [Flag("not_the_base_at_start", {"change_nats": change, "at_most": START})]


def scored_by_both(
    items: Iterable[Item], base: Mapping[tuple[str, str, str], float], task: str, metric: str
) -> list[Item]:
    """Returns the cell's items of a task and metric that the base model was scored on too. `base` are its values, as
    `base_values` returns them."""
    return [i for i in items if (i.task, i.metric) == (task, metric) and (task, i.doc_id, metric) in base]


def clusters_of(items: Iterable[Item]) -> list[str]:
    """Returns the cluster of each item that has one; empty where items are independent."""
    return [item.cluster for item in items if item.cluster is not None]


def p_of_gain(gains: list[float], clusters: Sequence[str] = ()) -> float:
    """Returns the one-sided p-value of "the mean of `gains` (one an item) is above zero": by an exact sign test where
    all are -1, 0 or 1, else by Student's t. With `clusters`, one for each gain, by Student's t over clusters."""
    from scipy.stats import binomtest, ttest_1samp

    if clusters:
        return mean_test(gains, clusters)
    if set(gains) <= {-1.0, 0.0, 1.0}:
        won, lost = gains.count(1.0), gains.count(-1.0)
        return float(binomtest(won, won + lost, alternative="greater").pvalue) if won + lost else 1.0
    if len(set(gains)) == 1:
        return 0.0 if gains[0] > 0 else 1.0
    return float(ttest_1samp(gains, 0.0, alternative="greater").pvalue)


def of_answers(steps: Iterable[Step], head: bool = False) -> list[Step]:
    """Returns copies of training steps whose `loss` is the cross-entropy of the answers. Steps without a cross-entropy
    are left out, as penalties and terms of objectives fall and rise for reasons of their own.

    With `head`, steps of a classification head keep their own loss, the cross-entropy of its labels, which may be
    compared within the cell.
    """
    return [
        replace(step, loss=step.loss if step.cross_entropy is None else step.cross_entropy)
        for step in steps
        if head or step.cross_entropy is not None
    ]


def overfitted(steps: Iterable[Step]) -> list[Flag]:
    """Returns the flag `overfitting` if the validation loss ended more than 5% above its lowest value while the
    training loss fell on; otherwise no flag. `steps` are those of `of_answers`.

    Evidence: the step and loss where validation was lowest, the last validation loss, and its distance from the
    training loss at the end (means of a tenth of the steps). Needs at least three validations.
    """
    steps = list(steps)
    training = [step for step in steps if step.split == "train"]
    validation = [step for step in steps if step.split == "validation"]
    if len(validation) < 3 or not training:
        return []
    best = min(validation, key=lambda step: step.loss)
    last = validation[-1]
    size = max(1, len(training) // 10)
    around = [step.loss for step in training if step.step <= best.step][-size:]
    end = [step.loss for step in training[-size:]]
    if not around or last.loss <= best.loss * (1 + TURNED) or mean(end) >= mean(around):
        return []
    evidence = {
        "lowest_step": best.step,
        "lowest_validation_loss": best.loss,
        "last_validation_loss": last.loss,
        "last_training_loss": mean(end),
        "gap": last.loss - mean(end),
    }
    return [Flag("overfitting", evidence)]


def underfitted(steps: Iterable[Step]) -> list[Flag]:
    """Returns the flag `underfitting` if the training loss was still falling at the end; otherwise no flag. `steps` are
    those of `of_answers`.

    A line through the last third of the losses (least squares) must fall by a tenth of its start or more, with a slope
    below zero at 0.05 (one-sided t-test). A loss below a hundredth of a nat is learnt by heart and has nowhere to fall.
    Needs at least 12 steps.
    """
    from scipy.stats import linregress

    losses = [step.loss for step in steps if step.split == "train"]
    if len(losses) < LEAST_STEPS:
        return []
    tail = losses[-(len(losses) // 3) :]
    line = linregress(range(len(tail)), tail, alternative="less")
    start, end = line.intercept, line.intercept + line.slope * (len(tail) - 1)
    if start < LEARNT or line.pvalue >= LEVEL or start - end < FALLING * start:
        return []
    evidence = {"steps": len(tail), "from": float(start), "to": float(end), "p": float(line.pvalue)}
    return [Flag("underfitting", evidence)]


def forgot(tasks: Iterable[str], scores: list[Score], items: list[Item], base_items: Path) -> list[Flag]:
    """Returns the flag `forgetting` if the headline of some of `tasks` (those that are retained) fell by more than its
    limit (`FORGETTING`) below the untouched base model's, with the evidence of each; otherwise no flag. `base_items` is
    the base model's file of items.

    The test is a paired one-sided t-test over items (or over their clusters) against that limit, at 0.05. Tasks with
    another headline metric have no limit and are passed over.
    """
    from scipy.stats import ttest_1samp

    evidence_by_task: dict[str, dict[str, float | str]] = {}
    base = base_values(base_items)
    for task in tasks:
        score = next((score for score in scores if score.task == task), None)
        if score is None or score.metric not in FORGETTING:
            continue
        both = scored_by_both(items, base, task, score.metric)
        changes = [item.value - base[task, item.doc_id, score.metric] for item in both]
        limit = FORGETTING[score.metric]
        if len(changes) < 2 or mean(changes) >= -limit:
            continue
        same = len(set(changes)) == 1
        if clusters := clusters_of(both):
            p_value = mean_test([-change for change in changes], clusters, limit)
        else:
            p_value = 0.0 if same else float(ttest_1samp(changes, -limit, alternative="less").pvalue)
        if p_value < LEVEL:
            evidence_by_task[task] = {"metric": score.metric, "change": mean(changes), "limit": -limit, "p": p_value}
    return [Flag("forgetting", evidence_by_task)] if evidence_by_task else []


def base_values(base_items: Path) -> dict[tuple[str, str, str], float]:
    """Returns (task, doc_id, metric) -> value of the untouched base model, from its file of items (Parquet)."""
    import pyarrow.parquet as pq

    return {(row["task"], row["doc_id"], row["metric"]): row["value"] for row in pq.read_table(base_items).to_pylist()}


def mean(values: list[float]) -> float:
    return sum(values) / len(values)
