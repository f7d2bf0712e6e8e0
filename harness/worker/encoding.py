"""Examples and running text as token ids, encoded as the scorer encodes what it asks; and what was cut off of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from harness.data import Example, alike, encode
from harness.records import Fact

if TYPE_CHECKING:
    from harness.worker.evaluate import TunedLM

Row = dict[str, list[int]]  # {input_ids, labels}, as long as each other; -100 where nothing is learned


class Encoding:
    """Encodes for one cell, at most `max_length` tokens a row, and counts what it cuts off."""

    def __init__(self, max_length: int):
        self.max_length = max_length
        self.cut: dict[Example, int] = {}  # tokens
        self.text_cut: list[int] = []  # tokens of each passage of running text

    def rows(self, lm: TunedLM, examples: Sequence[Example]) -> list[Row]:
        """Rows of examples; the loss is on their answers. Contexts lose their beginning, but for what opens every
        text."""
        rows, cut = encode(list(examples), encoder_of(lm), lm.eot_token_id, self.max_length, openings_of(lm))
        self.cut.update(zip(examples, cut, strict=True))
        return rows

    def text_rows(self, lm: TunedLM, texts: Iterable[str]) -> list[Row]:
        """Rows of running text behind the scorer's prefix token; the loss is on every other token. Texts lose their
        end."""
        token_ids = [[lm.prefix_token_id, *lm.tok_encode(text)] for text in texts]
        self.text_cut += [max(0, len(ids) - self.max_length) for ids in token_ids]
        return [{"input_ids": ids[: self.max_length], "labels": [-100, *ids[1 : self.max_length]]} for ids in token_ids]

    def truncation(self, learned: Iterable[Example]) -> list[Fact]:
        """Facts of what `max_length` cut off the training data, 0 where it cut nothing; none for a method that encodes
        its examples in its own way. Running text that is read besides counts too, each passage as an example."""
        cut = [self.cut[example] for example in learned if example in self.cut] + self.text_cut
        if not cut:
            return []
        return [
            Fact("truncated_train_examples", sum(count > 0 for count in cut), "examples", False),
            Fact("truncated_train_tokens", sum(cut), "tokens", False),
        ]


def openings_of(lm: TunedLM) -> list[list[int]]:
    """What may open every text: what the tokenizer puts before one, or a chat template's beginning-of-text token."""
    begin = lm.tokenizer.bos_token_id
    return [lm.tok_encode(""), [] if begin is None else [begin]]


def encoder_of(lm: TunedLM) -> Callable[[str, str], tuple[list[int], list[int]]]:
    """The scorer's own (context, continuation) -> token ids; an empty context is its prefix token, as there.

    lm-eval counts white space at the end of a context as part of the answer. Of the same tokens, those that the context
    alone ends with are its own here: else half of an answer's loss would be a template's line break.
    """

    def encoder(context: str, continuation: str) -> tuple[list[int], list[int]]:
        if not context:
            return [lm.prefix_token_id], lm.tok_encode(continuation, add_special_tokens=False)
        context_ids, continuation_ids = lm._encode_pair(context, continuation)
        if context != context.rstrip():
            shared = alike(lm.tok_encode(context), [*context_ids, *continuation_ids])
            moved = max(0, min(shared - len(context_ids), len(continuation_ids) - 1))
            return [*context_ids, *continuation_ids[:moved]], continuation_ids[moved:]
        return context_ids, continuation_ids

    return encoder
