"""How fast the adapted model answers: latency of one document alone, throughput of a batch of them.

The model answers documents of a scored task, with the very requests and the very LM of scoring; so classifiers,
prompting and retrieval are measured with all that they do for an answer. A document of multiple choice is answered when
all its choices are scored, one of generated text when it has been generated. Adapters that can be folded into the
base's weights are folded, as they would be served; the latency before folding is a fact of its own. Measured after
scoring, it changes no score.

Suites have many cells, so the time is bounded: some seconds with a model of 135M on two cores.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import numpy

from harness.records import Fact
from harness.worker.evaluate import spread_evenly

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM

DOCUMENTS = 8  # asked alone, in turn
PASSES, ALONE_SECONDS = 16, 0.75  # at most, without the first; none is begun after so long
BATCHES, BATCH_SECONDS = 3, 1.0
P90_FROM = 5  # passes; among fewer there is no slowest tenth


def inference_facts(lm: LM, requests: Sequence[Instance], batch_size: int) -> list[Fact]:
    """Returns facts of the latency of single documents (`latency_ms_…`) and of the throughput of a batch of
    `inference_batch` documents. `requests` are lm-eval's, of one task.

    The batch has `batch_size` documents, fewer where there are not as many or where these would take too long. Tokens
    per second count the tokens that the model was given, without padding; absent where nobody counts them (classifiers,
    generated text).
    """
    requests_by_document: dict[int, list[Instance]] = {}
    for request in requests:
        requests_by_document.setdefault(request.doc_id, []).append(request)
    documents = list(requests_by_document.values())
    if not documents:
        return []
    with getattr(lm, "ready", nullcontext)():
        alone = spread_evenly(documents, DOCUMENTS)
        times = repeated(lambda number: answer(lm, alone[number % len(alone)]), PASSES, ALONE_SECONDS)
        facts = [
            Fact("latency_ms_p50", 1000 * statistics.median(times), "ms", False),
            Fact("latency_passes", len(times), "passes"),
        ]
        if len(times) >= P90_FROM:
            facts.append(Fact("latency_ms_p90", 1000 * float(numpy.quantile(times, 0.9)), "ms", False))
        # The size is chosen as if nothing were gained by asking documents together.
        batch = spread_evenly(documents, min(batch_size, int(BATCH_SECONDS / statistics.median(times))))
        if len(batch) > 1:
            facts += throughput(lm, batch)
    return facts


def unfolded_facts(lm: LM, requests: Sequence[Instance]) -> list[Fact]:
    """Returns the fact `latency_ms_p50_unfolded`: the median latency in ms of a model whose adapters are still apart
    from the base's weights."""
    return [
        Fact("latency_ms_p50_unfolded", fact.value, "ms", False)
        for fact in inference_facts(lm, requests, 1)
        if fact.name == "latency_ms_p50"
    ]


def throughput(lm: LM, batch: Sequence[Sequence[Instance]]) -> list[Fact]:
    """Returns facts of a batch (for each document its requests) that is asked as one, several times: its size in
    documents, documents per second and, where they are counted, tokens per second."""
    together = [request for document in batch for request in document]
    tokens: list[int] = []

    def ask(number: int) -> None:
        before = tokens_of(lm)
        answer(lm, together)
        tokens.append(tokens_of(lm) - before)

    seconds = statistics.fmean(repeated(ask, BATCHES, BATCH_SECONDS))
    facts = [
        Fact("inference_batch", len(batch), "documents"),
        Fact("inference_documents_per_second", len(batch) / seconds, "documents/s", True),
    ]
    if tokens[-1]:
        facts.append(Fact("inference_tokens_per_second", tokens[-1] / seconds, "tokens/s", True))
    return facts


def answer(lm: LM, requests: Sequence[Instance]) -> None:
    """Ask the model the requests once more, grouped by kind as lm-eval does. The answers are dropped: those that were
    scored stay as they are."""
    for kind in dict.fromkeys(request.request_type for request in requests):
        getattr(lm, kind)([request for request in requests if request.request_type == kind])


def tokens_of(lm: LM) -> int:
    """Returns how many tokens an LM has scored so far; 0 where it does not count them."""
    return int(getattr(lm, "scored_tokens", 0))


def repeated(work: Callable[[int], None], most: int, seconds: float) -> list[float]:
    """Returns the seconds that each of `work(1)`, `work(2)`, … took, after `work(0)` to warm up: at most `most` times,
    and none is begun once all together have taken `seconds`. Where `work(0)` alone takes that long, its own time is
    returned."""
    times: list[float] = []
    while len(times) < most + 1 and sum(times) < seconds:
        started = time.perf_counter()
        work(len(times))
        times.append(time.perf_counter() - started)
    return times[1:] or times
