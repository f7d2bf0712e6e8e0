"""What the marks and columns of the tables mean; only those that are there."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from harness.report.columns import BESIDE, FRONT, headers
from harness.report.table import Report

ALWAYS = (
    "± is one standard error, √(mean item error² + variance between seeds / seeds): the items are the same for every "
    "seed, so more seeds do not shrink their share. One seed says nothing of others.",
    "Gain and Δ are changes against the untouched base model, their errors paired item by item. A negative Δ of "
    "nats/word or accuracy is something forgotten; n/a: no language model is left.",
    "Time and peak memory are of training alone, without loading and scoring.",
)
OF_COLUMNS = {  # the start of a header -> what is said of it
    FRONT: "On front: the probability that no other row that learned is better in both the score and the first "
    "retained task.",
    "KL to base": "KL to base: KL(p_base || p_tuned) of the next token's distribution, the mean over tokens of "
    "retained text. 0: nothing has moved. Tokens are the model's own: compare it within one model only.",
    "mean Δ": "Mean Δ: the mean change of the retained tasks with that metric, each with the same weight. It may hide "
    "one that fell behind one that rose: read it beside its parts.",
    "average": "Average: the mean score of all tasks that a row learned. Backward transfer: how much later tasks "
    "changed earlier ones (Lopez-Paz & Ranzato 2017). Forgetting: how far these are below their best (Chaudhry et al. "
    "2018); positive is worse.",
    "train energy": "Energy of training is what the GPU, or on a CPU the processor's packages, counted.",
    "MFU": "MFU: the matrix products that training calls for, a second, over the fastest that was measured of this "
    "device (Chowdhery et al. 2022).",
    "latency ms": "Latency: the median time to answer one document alone, as it is scored.",
}
MATCHED = (
    "At matched task score: the target is the lowest final score among labels with checkpoints that are better than "
    "the base model. Steps and changes are read off where a label's mean curve first reaches it, linear between its "
    "points; in parentheses the standard deviation between seeds. The curves are scored on test items, and nothing is "
    "chosen by them."
)


def footnotes(report: Report, hidden: Collection[str] = ()) -> list[str]:
    """`hidden` are columns that are not shown, for want of width."""
    return list(found(report, hidden))


def found(report: Report, hidden: Collection[str]) -> Iterator[str]:
    rows = [row for block in report.blocks for row in block.rows]
    shown = {name for block in report.blocks for name in headers(block)} - set(hidden)
    yield from ALWAYS
    if BESIDE in shown:
        yield (
            "Beside best: what a row is to the best score of its table, over items and seeds, p corrected for all "
            f"pairs of the table (Holm); tied: within {report.run.margin:g}; open (underpowered): seeds and items "
            "cannot tell. Blank: not trained on this table's examples."
        )
    for start, text in OF_COLUMNS.items():
        if any(name.startswith(start) for name in shown):
            yield text
    if any(row.n_train and row.doubtful for row in rows):
        yield (
            "† in at least one seed not shown to be better than the base model (paired tests); where it is half of "
            "them or more, on no front and not recommended."
        )
    if any(figure and figure.learned for row in rows for figure in row.retained.values()):
        yield "§ learned here: this row was trained on that task too."
    if any(block.matched for block in report.blocks):
        yield MATCHED
    if any(row.contended for row in rows):
        yield "‡ other work shared the machine meanwhile: do not compare this time."
