"""Training rows: what of them is the answer, and what of a row that is too long is kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import opens_texts
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.data import Example
from harness.worker.encoding import Encoding
from harness.worker.evaluate import TunedLM


@pytest.fixture
def lm(tiny_model: Path) -> TunedLM:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    opens_texts(tokenizer)
    return TunedLM(AutoModelForCausalLM.from_pretrained(tiny_model), tokenizer, 2)


def parts(lm: TunedLM, one: Example, most: int = 64) -> tuple[str, str]:
    """(context, answer) of the row of an example, as text."""
    (row,) = Encoding(most).rows(lm, [one])
    answer = [label for label in row["labels"] if label != -100]
    context = row["input_ids"][: len(row["input_ids"]) - len(answer)]
    assert [*context, *answer] == row["input_ids"]
    return lm.tokenizer.decode(context), lm.tokenizer.decode(answer)


@pytest.mark.parametrize("space", ["\n", "\n\n", " \n", "\t"])
@pytest.mark.parametrize("closed", [False, True])
def test_white_space_that_ends_a_context_is_no_part_of_the_answer(lm: TunedLM, space: str, closed: bool) -> None:
    one = Example(f"Colour?{space}", "blue", closed)
    assert parts(lm, one) == (f"<s>Colour?{space}", "blue" + "</s>" * closed)
    (row,) = Encoding(64).rows(lm, [one])
    assert row["input_ids"][: -1 if closed else None] == lm.tok_encode(f"Colour?{space}blue")  # as the scorer has them


def test_a_blank_that_is_one_token_with_the_answer_stays_with_it(lm: TunedLM) -> None:
    assert parts(lm, Example("Text: the sky\nColour: ", "blue", False)) == ("<s>Text: the sky\nColour:", " blue")


def test_a_row_that_is_cut_keeps_the_token_that_opens_it(lm: TunedLM) -> None:
    whole = lm.tok_encode("Text: Ada likes the sky\nColour: blue")
    (row,) = Encoding(8).rows(lm, [Example("Text: Ada likes the sky\nColour:", " blue", False)])
    assert whole[0] == lm.tokenizer.bos_token_id
    assert row["input_ids"] == [whole[0], *whole[-7:]]


def test_a_chat_templates_own_token_is_kept_too(tiny_model: Path) -> None:
    """Where the template writes it, the tokenizer does not: it may put nothing before other texts."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_model), AutoTokenizer.from_pretrained(tiny_model)
    lm = TunedLM(model, tokenizer, 2)
    (row,) = Encoding(8).rows(lm, [Example("<s>Text: Ada likes the sky\nColour:", " blue", False)])
    assert (row["input_ids"][0], len(row["input_ids"])) == (tokenizer.bos_token_id, 8)
    (plain,) = Encoding(8).rows(lm, [Example("Text: Ada likes the sky\nColour:", " blue", False)])
    assert plain["input_ids"][1:] == row["input_ids"][1:]
