"""Counts how many tokens a task's texts have for a model, once at `fetch`, for predicting memory.

Not covered: how memory follows from the lengths (`plan/memory.py`). Large splits are sampled with a fixed stride, so
that a pair of model and task takes seconds; the longest text of a sample is not quite the longest of all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.data import (
    Catalog,
    Document,
    LengthFacts,
    ModelFacts,
    Task,
    TaskFacts,
    answer_tokens,
    draw_shots,
    example,
    keep_facts,
    learning_docs,
    opened,
    unlearnable,
)
from harness.errors import SourceError, TunebenchError
from harness.models.loading import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SAMPLE = 400  # documents of a split whose texts are encoded
QUANTILES = 101
LONGEST_REASON = 300  # characters of what transformers says

Length = tuple[int, int]  # (tokens of a sequence, tokens of it that are predicted)


def prepare(catalog: Catalog, model: ModelFacts, task: TaskFacts) -> LengthFacts:
    """Count how many tokens a task's texts have for a model's tokenizer, cache the counts for `plan`, and return them.
    Raises TaskError for a task that cannot be opened, and SourceError for a tokenizer that cannot be used."""
    loaded = opened(task)
    try:
        tokenizer = load_tokenizer(Path(model.folder))
        tokenizer("text")  # some faults show only in use
    except TunebenchError:
        raise
    except Exception as error:  # transformers raises anything for files that are not as it writes them
        reason = " ".join(str(error).split())[:LONGEST_REASON]
        raise SourceError(
            f"model {model.name!r} ({model.folder}): its tokenizer cannot be used ({type(error).__name__}: "
            f"{reason}). Download it again, or correct tokenizer_config.json."
        ) from error
    facts = count(model, task, tokenizer, loaded)
    keep_facts(catalog.length_facts_path(model, task), facts)
    return facts


def count(model: ModelFacts, task: TaskFacts, tokenizer: PreTrainedTokenizerBase, loaded: Task) -> LengthFacts:
    """Return how many tokens the texts of one task have for one tokenizer: those of its training split (none for a task
    that cannot be learned) and those that are scored. `loaded` is the task in lm-eval. Large splits are sampled."""

    def measure(pairs: Sequence[tuple[str, str]]) -> list[Length]:
        """Return (tokens in all, tokens predicted) of (context, continuation) pairs, encoded as the scorer does: both
        together, then split."""
        wholes = tokens(tokenizer, [context + continuation for context, continuation in pairs])
        contexts = tokens(tokenizer, [context.rstrip() for context, _ in pairs])
        return [
            (max(whole, 1), max(1, whole - before) if context else whole)
            for (context, _), whole, before in zip(pairs, wholes, contexts, strict=True)
        ]

    training: list[Length] = []
    if not unlearnable(loaded):
        closed = loaded.OUTPUT_TYPE != "multiple_choice"
        examples = [example(loaded, document, closed) for document in strided(learning_docs(loaded)[0])]
        training = measure([(learned.context, learned.target) for learned in examples])
        training = [(whole + closed, answer + closed) for whole, answer in training]
    scored: list[Length] = []
    documents = list(loaded.eval_docs)
    sample = strided(documents)
    asked = dict.fromkeys(request for document in sample for request in requests(loaded, document))
    scored = measure(list(asked))
    if loaded.OUTPUT_TYPE == "generate_until":
        more = answer_tokens(loaded.config.generation_kwargs)
        scored = [(whole + more, 1) for whole, _ in scored]
    return LengthFacts(
        model=model.name,
        task=task.name,
        training=quantiles([whole for whole, _ in training]),
        answer=max((answer for _, answer in training), default=0),
        scored=quantiles([whole for whole, _ in scored]),
        continuation=max((continuation for _, continuation in scored), default=0),
        sequences=round(len(scored) * len(documents) / max(1, len(sample))),
    )


def strided(documents: Sequence[Document]) -> list[Document]:
    """Return at most SAMPLE (400) of the documents, at equal distances from the first on."""
    return list(documents[:: max(1, -(-len(documents) // SAMPLE))])


def tokens(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[int]:
    """Return the number of tokens of each text, with the special tokens that the tokenizer adds by itself."""
    return [len(ids) for ids in tokenizer(texts)["input_ids"]] if texts else []


def requests(task: Task, document: Document) -> Iterable[tuple[str, str]]:
    """Return the (context, continuation) pairs that lm-eval scores for a document; where the model writes the answer,
    the continuation is empty."""
    kind = task.OUTPUT_TYPE
    if kind == "loglikelihood_rolling":
        return [("", str(task.doc_to_target(document)))]
    if task.multiple_input:
        contexts = task.doc_to_choice(document)
        return [(str(context), str(task.doc_to_target(document))) for context in contexts]
    context = task.fewshot_context(document, num_fewshot=draw_shots(task), gen_prefix=task.doc_to_prefix(document))
    if kind == "multiple_choice":
        return [(context, f"{task.config.target_delimiter}{choice}") for choice in task.doc_to_choice(document)]
    return [(context, str(task.doc_to_target(document)) if kind == "loglikelihood" else "")]


def quantiles(values: Sequence[int]) -> tuple[int, ...]:
    """Return 101 quantiles: the shortest value, 99 between, and the longest; empty for no values."""
    ranked = sorted(values)
    last = len(ranked) - 1
    return tuple(ranked[round(place * last / (QUANTILES - 1))] for place in range(QUANTILES)) if ranked else ()
