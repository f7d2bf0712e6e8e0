"""How many tokens of a model's window a task keeps free for the answer that the model writes: its `generation_kwargs`,
read as lm-eval reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.errors import LONGEST_SHOWN, TaskError, unknown

GENERATED = 256  # lm-eval's own default
NAMES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # the first that is given counts
MOST = 1e9
SWITCHES = ("do_sample", "early_stopping", "renormalize_logits", "remove_invalid_values")
# What else of transformers' `generate` changes the text: (kind, least, most). Its other keys change what comes back, or
# are set by lm-eval, which would be given twice.
NUMBERS: dict[str, tuple[type, float, float]] = {
    "temperature": (float, 0.0, MOST),
    "top_p": (float, 0.0, 1.0),
    "top_k": (int, 0, MOST),
    "min_p": (float, 0.0, 1.0),
    "typical_p": (float, 0.0, 1.0),
    "epsilon_cutoff": (float, 0.0, 1.0),
    "eta_cutoff": (float, 0.0, 1.0),
    "num_beams": (int, 1, MOST),
    "repetition_penalty": (float, 0.01, MOST),
    "length_penalty": (float, -MOST, MOST),
    "no_repeat_ngram_size": (int, 0, MOST),
}
WHOLE = {"max_length": "max_gen_toks", "min_length": "min_new_tokens"}  # key that counts the question too: its like


def answer_tokens(options: Mapping[str, Any] | None, default: int = GENERATED) -> int:
    """Return the most tokens of a written answer, by a task's `generation_kwargs`; `default` where they do not say."""
    given = [value for name in NAMES if (value := (options or {}).get(name)) is not None]
    return int(given[0]) if given else default


def check_generation(options: Mapping[str, Any]) -> None:
    """Raise TaskError where one of a task's `generation_kwargs` cannot be used: lm-eval and transformers would meet it
    in the middle of scoring."""
    options = {name: value for name, value in options.items() if value is not None}
    until = options.get("until", [])
    texts = [until] if isinstance(until, str) else until
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise TaskError(f"generation_kwargs: until: got {shown(until)}, wanted a text or a list of texts.")
    for name, instead in WHOLE.items():
        if name in options:
            raise TaskError(
                f"generation_kwargs: {name}: {shown(options[name])} counts the tokens of the question too, so an item "
                f"with a long question would get no answer. Give {instead}, the tokens of the answer alone."
            )
    check_lengths(options)
    for name, value in options.items():
        if name not in ("until", *NAMES, "min_new_tokens"):
            check_value(name, value)


def check_lengths(options: Mapping[str, Any]) -> None:
    """Raise TaskError where the most tokens of an answer, or the least, are no whole number, or contradict each
    other."""
    for name, least in (*((name, 1) for name in NAMES), ("min_new_tokens", 0)):
        tokens = options.get(name, least)
        if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < least:
            raise TaskError(
                f"generation_kwargs: {name}: got {shown(tokens)}, wanted a whole number of at least {least}."
            )
    given = {name: options[name] for name in NAMES if name in options}
    if len(set(given.values())) > 1:
        raise TaskError(
            f"generation_kwargs: {' and '.join(f'{name}: {value}' for name, value in given.items())} both say how many "
            "tokens an answer may have. Keep one of them."
        )
    if options.get("min_new_tokens", 0) > answer_tokens(options):
        raise TaskError(
            f"generation_kwargs: min_new_tokens: {options['min_new_tokens']} is more than an answer may have, "
            f"{answer_tokens(options)} tokens (max_gen_toks). Lower one, or raise the other."
        )


def check_value(name: str, value: object) -> None:
    """Raise TaskError for a key of transformers' `generate` that cannot be given here, or a value that it refuses."""
    if name in SWITCHES:
        if not isinstance(value, bool):
            raise TaskError(f"generation_kwargs: {name}: got {shown(value)}, wanted true or false.")
        return
    if name not in NUMBERS:
        known = ["until", *NAMES, "min_new_tokens", *SWITCHES, *NUMBERS]
        raise TaskError(f"generation_kwargs: {unknown('key', name, known)}")
    kind, least, most = NUMBERS[name]
    allowed = int if kind is int else int | float
    if isinstance(value, bool) or not isinstance(value, allowed) or not least <= value <= most:
        noun = "a whole number" if kind is int else "a number"
        bound = f"of at least {least}" if most == MOST else f"from {least} to {most}"
        raise TaskError(f"generation_kwargs: {name}: got {shown(value)}, wanted {noun} {bound}.")


def shown(value: object) -> str:
    """Return a value as a message quotes it."""
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"
