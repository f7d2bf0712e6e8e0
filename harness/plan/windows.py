"""Finds where a model's window, the most tokens of a sequence, is too short for what a suite asks of it: for the answer
that a task wants written, for an answer that is scored, or for a soft prompt.

Longer questions are no mistake: they lose their beginning, in training as in scoring.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from harness.architecture import Network, context_length
from harness.data import Facts, ModelFacts
from harness.errors import counted
from harness.methods import Method
from harness.suite import Suite, Variant, build_expert

NO_LIMIT = 10**12  # tokenizers write a number far above this where they set no length


def window_mismatches(label: Variant, suite: Suite, facts: Facts) -> Iterator[str]:
    """Yield why a label, or an expert that it asks for, cannot be scored on the tasks of the suite within the window of
    a model. Models whose layers are not known are passed over."""
    found: dict[str, None] = {}
    for task, _ in suite.tasks:
        scored = dict.fromkeys([*label.recipe.learns(task), *suite.retain])
        asked: list[tuple[Method | None, str | None, list[str]]] = [(label.method, None, list(scored))]
        for expert in label.recipe.wants(task):
            method = build_expert(expert, suite.lines, ("methods", label.name))
            asked.append((method, expert.model, [expert.learn]))
        for method, own, names in asked:
            for model in suite.models if own is None else [own]:
                if method and method.is_language_model and method.own_model() is None:
                    found |= dict.fromkeys(misfits(method, names, facts.models[model], facts))
    yield from found


def misfits(method: Method, tasks: list[str], model: ModelFacts, facts: Facts) -> Iterator[str]:
    """Yield why a method's results on a model cannot be scored on some tasks within its window."""
    network = model.network
    if network is None or not network.layers:
        return
    holds = window(model, network)
    try:
        before = method.tokens_before(network, lambda text: token_count(model.folder, text))
    except ValueError as error:
        yield f"{error} (model {model.name})"
        return
    left = holds - before
    room = f"{model.name} holds {holds} tokens, question included"
    if before:
        room += f", and {counted(before, 'virtual token')} of {method.name} stand{'s' * (before == 1)} before them"
    if left < 2:
        yield f"{room}. Give it fewer virtual tokens, or take a model with a longer window."
        return
    for name in tasks:
        written = facts.tasks[name].answer_tokens
        if written >= left:
            yield (
                f"task {name!r} wants answers of up to {written} tokens (max_gen_toks), and {room}. Give the task "
                f"generation_kwargs: {{max_gen_toks: …}} of at most {left - 1}, less what its questions need, or take "
                "a model with a longer window."
            )
        lengths = facts.lengths.get((model.name, name))
        whole = facts.tasks[name].output_type in ("multiple_choice", "loglikelihood")
        if whole and lengths and lengths.continuation > left:
            yield (
                f"task {name!r} has an answer to score of {lengths.continuation} tokens, and {room}. Leave such items "
                "out of the task, or take a model with a longer window."
            )


def window(model: ModelFacts, network: Network) -> int:
    """Return the most tokens of a sequence of a model; where its configuration sets no bound, as in BLOOM and Mamba,
    the tokenizer's bound, or 2048. As the scorer has it."""
    bound = context_length(network.config)
    return bound if bound is not None else tokenizer_bound(model.folder) or network.max_length


@cache
def tokenizer_bound(folder: str) -> int | None:
    """Return the most tokens that a tokenizer's configuration allows; None where it sets no bound."""
    try:
        bound = json.loads((Path(folder) / "tokenizer_config.json").read_text("utf-8"))["model_max_length"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return int(bound) if isinstance(bound, int | float) and 0 < bound < NO_LIMIT else None


@cache
def token_count(folder: str, text: str) -> int:
    """Return the number of tokens of a text, with the special tokens that the tokenizer of the model in `folder`
    adds."""
    path = Path(folder) / "tokenizer.json"
    if path.exists():
        from tokenizers import Tokenizer  # transformers' own would take a second to import

        return len(Tokenizer.from_file(str(path)).encode(text).ids)
    from harness.models import load_tokenizer

    return len(load_tokenizer(Path(folder))(text)["input_ids"])
