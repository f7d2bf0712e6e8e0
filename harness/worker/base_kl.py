"""KL divergence of a tuned model from the untouched base model on general text: how far tuning has moved the model.

KL(p_base || p_tuned) in nats per token, where p is a model's distribution of the next token over its whole vocabulary.
It is never negative, and 0 only where nothing has changed, while the likelihood of a text may stay the same, or rise,
in a model that has moved. The models are compared on the retained texts whose likelihood is scored (at most `TEXTS` a
task, `TOKENS` tokens of each), behind the same prefix token and through the same code (`evaluate.TunedLM`), so that a
soft prompt stands before the text here too.

Both models are in memory at once. Not covered: whether there is room for both (`scoring.py`, `plan/memory.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from harness.data import PLACES, TEXTS, TOKENS
from harness.records import Item, Score
from harness.worker.evaluate import Documents, TunedLM, jackknife, ratio, spread_evenly

KL = "kl_to_base"


def compare(
    tuned: TunedLM,
    base: TunedLM,
    documents: Documents,
    tasks: Iterable[str],
    clusters: Mapping[tuple[str, str], str] | None = None,
) -> tuple[list[Score], list[Item], int]:
    """Returns (the score `kl_to_base` of each task, an item for each text, the number of tokens that were compared).

    `documents` maps (task, doc_id) to a text, as scoring leaves them; `tasks` are names of tasks of running text. At
    most `TEXTS` texts a task are compared, evenly spaced; a task without any text has no score. A score is a mean over
    tokens; its standard error leaves out one text at a time (delete-one jackknife), as tokens of one text move
    together, or one cluster of texts: `clusters` maps (task, doc_id) to a cluster, where texts have one.
    """
    clusters = clusters or {}
    scores: list[Score] = []
    items: list[Item] = []
    tokens = 0
    for name in tasks:
        inputs_by_id = {doc_id: text_inputs(base, text) for (task, doc_id), text in documents.items() if task == name}
        chosen = spread_evenly([(doc_id, inputs) for doc_id, inputs in inputs_by_id.items() if inputs], TEXTS)
        if not chosen:
            continue
        texts = [inputs for _, inputs in chosen]
        pairs = [
            (divergence(before, after), len(before))
            for before, after in zip(base.logits_of(texts), tuned.logits_of(texts), strict=True)
        ]
        tokens += sum(count for _, count in pairs)
        of_texts = [clusters.get((name, doc_id)) for doc_id, _ in chosen]
        shared = [cluster for cluster in of_texts if cluster is not None]
        error = jackknife(pairs, ratio, shared)
        scores.append(Score(name, "retain", KL, *error, len(pairs), False, len(set(shared)) or None))
        for (doc_id, _), (total, count), cluster in zip(chosen, pairs, of_texts, strict=True):
            items.append(Item(name, doc_id, KL, total / count, "", "", cluster))
    return scores, items, tokens


def text_inputs(lm: TunedLM, text: str) -> list[int]:
    """Returns the token ids to run a model on for one text: the prefix token of the scorer `lm`, then the text's tokens
    (at most `TOKENS`) without the last one, which is only predicted. Empty for a text without tokens."""
    ids = lm.tok_encode(text)[: min(TOKENS, lm.max_length)]
    return [lm.prefix_token_id, *ids[:-1]] if ids else []


def divergence(base: torch.Tensor, tuned: torch.Tensor) -> float:
    """Returns the sum over all tokens of KL(p_base || p_tuned), in nats. `base` and `tuned` are logits [tokens,
    vocabulary]."""
    total = 0.0
    for start in range(0, len(base), PLACES):
        before, after = (logits[start : start + PLACES].double().log_softmax(-1) for logits in (base, tuned))
        probabilities = before.exp()
        # A word that the base model rules out adds nothing, whatever the tuned one makes of it.
        total += float(torch.where(probabilities > 0, probabilities * (before - after), 0.0).sum())
    return total
