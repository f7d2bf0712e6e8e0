"""Encodes examples and running text as token ids, exactly as the scorer encodes its questions, and counts the tokens
that are cut off."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from harness.data import Example, alike, encode
from harness.records import Fact

if TYPE_CHECKING:
    from harness.worker.evaluate import TunedLM

Row = dict[str, list[int]]  # {input_ids, labels}, as long as each other; -100 where nothing is learned


class Encoding:
    """Encoder of one cell's training data: cuts every row to `max_length` tokens, or to what the model holds if that is
    less (its virtual tokens taken off), and counts what it cuts off."""

    def __init__(self, max_length: int):
        self.max_length = max_length
        self.cut: dict[Example, int] = {}  # tokens
        self.text_cut: list[int] = []  # tokens of each passage of running text

    def rows(self, lm: TunedLM, examples: Sequence[Example]) -> list[Row]:
        """Returns a row {input_ids, labels} for each example; the loss is on its answer. A context that is too long
        loses its beginning, except for the tokens that open every text."""
        rows, cut = encoded(lm, examples, self.most(lm))
        self.cut.update(zip(examples, cut, strict=True))
        return rows

    def text_rows(self, lm: TunedLM, texts: Iterable[str]) -> list[Row]:
        """Returns a row {input_ids, labels} for each text, behind the scorer's prefix token; the loss is on every other
        token. A text that is too long loses its end."""
        token_ids, most = [[lm.prefix_token_id, *lm.tok_encode(text)] for text in texts], self.most(lm)
        self.text_cut += [max(0, len(ids) - most) for ids in token_ids]
        return [{"input_ids": ids[:most], "labels": [-100, *ids[1:most]]} for ids in token_ids]

    def most(self, lm: TunedLM) -> int:
        """Returns the most tokens of a row for the model of `lm`."""
        return min(self.max_length, lm.max_length)

    def truncation(self, learned: Iterable[Example]) -> list[Fact]:
        """Returns facts of how many of the `learned` examples, and how many of their tokens, `max_length` has cut; 0
        where it cut nothing. Each passage of running text that was read counts as an example. No facts for a method
        that encodes its examples in its own way."""
        cut = [self.cut[example] for example in learned if example in self.cut] + self.text_cut
        if not cut:
            return []
        return [
            Fact("truncated_train_examples", sum(count > 0 for count in cut), "examples", False),
            Fact("truncated_train_tokens", sum(cut), "tokens", False),
        ]


def encoded(lm: TunedLM, examples: Sequence[Example], max_length: int) -> tuple[list[Row], list[int]]:
    """Returns (a row {input_ids, labels} for each example, encoded as the scorer `lm` encodes its questions; the number
    of tokens that each row lost to `max_length`)."""
    return encode(list(examples), encoder_of(lm), lm.eot_token_id, max_length, writer_of(lm), lm.openings())


def encoder_of(lm: TunedLM) -> Callable[[str, str], tuple[list[int], list[int]]]:
    """Returns the scorer's own function (context, continuation) -> (context ids, continuation ids). An empty context
    becomes the scorer's prefix token.

    lm-eval counts white space at the end of a context as part of the answer. Here the tokens with which the context
    alone ends are given back to the context: otherwise half of an answer's loss would be a template's line break.
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
    """Returns a function (context, answer) -> (context ids, answer ids) for answers that the model generates. The
    context ids are the very tokens from which it generates.

    Context and answer together may be other tokens (a blank at the end of the context joins the answer's first word).
    The answer's tokens are then those that decode to the answer when they follow the context.
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
    """Returns what follows `start` in `whole`; None where `whole` does not begin with `start`."""
    return whole[len(start) :] if whole[: len(start)] == start else None
