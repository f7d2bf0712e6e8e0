"""Scores generated text item by item; named by task YAMLs as `process_results: !function harness.data.generation.…`.

ROUGE-L: Lin 2004 (F-measure of the longest common subsequence, with stemming), by rouge-score.
chrF: Popović 2015 (character n-gram F-score), by sacrebleu, per sentence. Both are scaled to 0–1.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer


@cache
def _rouge() -> RougeScorer:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=True)


def overlap(doc: dict[str, object], results: list[str], wanted: str = "") -> dict[str, float]:
    """Return {"rouge_l", "chrf"} (0–1) of a generated text, the first of `results`, against the right answer `wanted`
    to the document `doc`, which the task gives (`HeardTask.process_results`)."""
    from sacrebleu import sentence_chrf

    generated = results[0].strip()
    return {
        "rouge_l": float(_rouge().score(wanted, generated)["rougeL"].fmeasure),
        "chrf": float(sentence_chrf(generated, [wanted]).score) / 100,
    }
