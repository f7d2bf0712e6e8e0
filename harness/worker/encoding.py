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
        rows, cut = encoded(lm, examples, self.max_length)
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


def encoded(lm: TunedLM, examples: Sequence[Example], max_length: int) -> tuple[list[Row], list[int]]:
    """(rows of examples as the scorer encodes what it asks, tokens that each row lost to `max_length`)."""
    return encode(list(examples), encoder_of(lm), lm.eot_token_id, max_length, writer_of(lm), lm.openings())


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


def writer_of(lm: TunedLM) -> Callable[[str, str], tuple[list[int], list[int]]]:
    """(context, answer) -> token ids, of an answer that the model writes: behind the very tokens that it is asked with.

    The two together may be other tokens (a blank at the end of the context joins the answer's first word): then the
    answer's tokens are those that read as the answer behind the context.
    """

    def writer(context: str, answer: str) -> tuple[list[int], list[int]]:
        asked = lm.question_tokens(context)
        before = lm.tok_decode(asked)
        ways = [
            behind(asked, lm.question_tokens(context + answer)),
            lm.tok_encode(answer, add_special_tokens=False),
            # Some tokenizers put a blank before whatever they are given.
            behind(*(lm.tok_encode(text, add_special_tokens=False) for text in ("\n", f"\n{answer}"))),
        ]
        known = [ids for ids in ways if ids is not None]
        return asked, next((ids for ids in known if lm.tok_decode(asked + ids) == before + answer), known[0])

    return writer


def behind(start: list[int], whole: list[int]) -> list[int] | None:
    """What follows `start` in `whole`; None where `whole` begins with something else."""
    return whole[len(start) :] if whole[: len(start)] == start else None
