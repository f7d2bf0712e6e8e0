"""Scores generated text item by item; named by task YAMLs as `process_results: !function harness.data.generation.…`.

ROUGE-L: Lin 2004 (F-measure of the longest common subsequence, with stemming), by rouge-score.
chrF: Popović 2015 (character n-gram F-score), by sacrebleu, per sentence. Both are scaled to 0–1.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from harness.data.readers import as_text

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer


@cache
def _rouge() -> RougeScorer:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=True)


def overlap(doc: dict[str, object], results: list[str], target: str = "title") -> dict[str, float]:
    """Return {"rouge_l", "chrf"} (0–1) of a generated text, the first of `results`, against the column `target` of the
    document `doc`."""
    from sacrebleu import sentence_chrf

    generated, wanted = results[0].strip(), as_text(doc[target])
    return {
        "rouge_l": float(_rouge().score(wanted, generated)["rougeL"].fmeasure),
        "chrf": float(sentence_chrf(generated, [wanted]).score) / 100,
    }
