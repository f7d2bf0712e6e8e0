"""The quality of training data: which examples are chosen, and how they are corrupted. Pure.

`sampling.py` applies it to the examples that a cell draws; validation and test items are never touched. Everything is
drawn by the cell's seed, place by place: a larger slice contains the documents of a smaller one, with the same
corruptions (but `hard` examples are chosen anew, among more candidates).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from harness.data.lm_eval_task import Document

Select = Literal["random", "balanced", "diverse", "hard"]
POOL = 8  # candidates per example, among which the hardest are chosen


def no_bool(value: object) -> object:
    """Return the value, or raise a validation error for true and false: pydantic would take `labels: true` for 1."""
    if isinstance(value, bool):
        raise PydanticCustomError("float_type", "Input should be a valid number")
    return value


Number = Annotated[float, BeforeValidator(no_bool)]
Share = Annotated[Number, Field(ge=0)]


class Corruption(pydantic.BaseModel):
    """One entry of `corrupt:`; without keys the data is clean."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    labels: Share = Field(default=0.0, le=1, description="fraction of the examples that carry another class's label")
    imbalance: Number = Field(default=1.0, ge=1, description="ratio of the most frequent class to the rarest")
    duplicates: Share = Field(default=0.0, lt=1, description="fraction of the examples that repeat another one")
    truncate: Share = Field(default=0.0, lt=1, description="share of each text's words that is cut off its end")


UNSPOILT = Corruption()


@dataclass(frozen=True)
class Quality:
    """How training data is chosen (`select`) and corrupted. The default is clean, balanced data."""

    corrupt: Corruption = UNSPOILT
    select: str = "balanced"

    @property
    def data(self) -> dict[str, Any]:
        """The settings that differ from the default, as a cell stores them; empty for clean, balanced data."""
        changed: dict[str, Any] = {}
        if spoilt := self.corrupt.model_dump(exclude_defaults=True):
            changed["corrupt"] = spoilt
        if self.select != "balanced":
            changed["select"] = self.select
        return changed

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Quality:
        """Return the quality that a cell's `data` was made from (the inverse of `Quality.data`)."""
        return cls(Corruption(**data.get("corrupt", {})), data.get("select", "balanced"))

    @property
    def suffix(self) -> str:
        """The end of a cell's key, such as "/labels0.2+imbalance10/hard"; empty for the default."""
        spoilt = "+".join(f"{name}{value:g}" for name, value in self.data.get("corrupt", {}).items())
        return "".join(f"/{part}" for part in (spoilt, self.data.get("select")) if part)

    @property
    def condition(self) -> str:
        """The quality in words for the report, such as "labels 0.2 and imbalance 10, select hard"; empty for the
        default."""
        spoilt = " and ".join(f"{name} {value:g}" for name, value in self.data.get("corrupt", {}).items())
        chosen = f"select {self.select}" if "select" in self.data else ""
        return ", ".join(filter(None, (spoilt, chosen)))

    def repeats(self, n: int) -> int:
        """Return how many of `n` examples repeat another one."""
        return len(marked(n, self.corrupt.duplicates, "", spared=1))


CLEAN = Quality()


def rounded(share: float, n: int) -> int:
    """Return share·n rounded to an integer, halves up; the share is taken as the decimal number that was written, not
    as its binary approximation."""
    return int(Fraction(str(share)) * n + Fraction(1, 2))


def marked(n: int, share: float, salt: str, spared: int = 0) -> list[int]:
    """Return round(share·n) of the places 0 … n-1, in rising order; the first `spared` places are never chosen.

    Each stretch of places over which the rounded count rises by one holds one chosen place, drawn by `salt`. So the
    places for a smaller n are also chosen for a larger n (up to one more of them below the smaller n), and no place is
    likelier than another.
    """
    rng = random.Random(salt)
    places: list[int] = []
    start = 0
    for end in range(1, n + 1):
        if min(rounded(share, end), end - spared) > len(places):
            places.append(rng.randrange(max(start, spared), end))
            start = end
    return places


def flipped(answers: Sequence[tuple[int, int]], share: float, seed: int) -> dict[int, int]:
    """Return {place: the wrong choice that is taught there} for a `share` of the places, drawn by `seed`.

    `answers` lists (right choice, number of choices) by place, both as integers.
    """
    wrong = {}
    for place in marked(len(answers), share, f"{seed} labels"):
        right, choices = answers[place]
        others = [choice for choice in range(choices) if choice != right]
        wrong[place] = random.Random(f"{seed} label {place}").choice(others)
    return wrong


def repeated(n: int, share: float, seed: int) -> list[int]:
    """Return, for each of `n` places, the number of the document there: the next new one (0, 1, …) or, at a `share` of
    the places, a repeat of an earlier one.

    No document is repeated twice before every earlier one has been repeated once.
    """
    again = set(marked(n, share, f"{seed} duplicates", spared=1))
    rng = random.Random(f"{seed} repeats")
    numbers: list[int] = []
    waiting: list[int] = []
    fresh = 0
    for place in range(n):
        if place in again:
            waiting = waiting or list(range(fresh))
            numbers.append(waiting.pop(rng.randrange(len(waiting))))
        else:
            numbers.append(fresh)
            waiting.append(fresh)
            fresh += 1
    return numbers


def turns(n: int, classes: Sequence[str], ratio: float, seed: int) -> list[str]:
    """Return the class of each of `n` places, such that the first k places, for every k, have the classes in their
    shares.

    Shares fall geometrically from the most frequent class to the rarest, which is `ratio` times rarer (the "long tail"
    of Cao et al. 2019, arXiv:1906.07413); the seed decides which class is how frequent. Places are dealt out by
    Sainte-Laguë's rule: the j-th example of a class comes at (j + 1/2) / share.
    """
    names = sorted(classes)
    random.Random(f"{seed} imbalance").shuffle(names)
    steps = max(1, len(names) - 1)
    ranked = sorted(((place + 0.5) * ratio ** (rank / steps), rank) for rank in range(len(names)) for place in range(n))
    return [names[rank] for _, rank in ranked[:n]]


def imbalanced(order: Sequence[int], classes: Sequence[str], n: int, ratio: float, seed: int) -> list[int]:
    """Return the first `n` document numbers of `order` that give the class shares of `turns` with this `ratio`; fewer
    if a class runs out. `classes` holds the class of each document, by its number."""
    queues: dict[str, Iterator[int]] = {
        name: iter([place for place in order if classes[place] == name]) for name in dict.fromkeys(classes)
    }
    drawn = (next(queues[name], None) for name in turns(n, list(queues), ratio, seed))
    return [place for place in drawn if place is not None]


Ask = Callable[[Document], tuple[object, object]]  # a document -> (question, answer)


def truncated(document: Document, share: float, ask: Ask) -> tuple[Document, int]:
    """Return (the document with a `share` of the words of each of its texts cut off the end, number of words cut).
    `ask` returns the (question, answer) that a document gives.

    A text is a field of several words that the question shows; only the words that it shows count (a task may show the
    first 30). A field that changes the answer is left whole, and at least one word of every text stays.
    """
    gone = 0
    for name in document:
        document, lost = shortened(document, name, share, ask)
        gone += lost
    return document, gone


def shortened(document: Document, name: str, share: float, ask: Ask) -> tuple[Document, int]:
    """Return what `truncated` does, for the one field `name` of a document."""
    text = document[name]
    ends = [word.end() for word in re.finditer(r"\S+", text)] if isinstance(text, str) else []

    def cut(words: int) -> Document:
        return {**document, name: text[: ends[words - 1]]}

    if len(ends) < 2:
        return document, 0
    question, answer = ask(cut(len(ends)))
    first = ask(cut(1))
    if first[0] == question or first[1] != answer:
        return document, 0
    low, high = 1, len(ends)  # the fewest words that ask the same as all
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if ask(cut(middle))[0] == question else (middle + 1, high)
    lost = min(rounded(share, low), low - 1)
    return (cut(low - lost), lost) if lost else (document, 0)


def hardest(losses: Sequence[float]) -> list[int]:
    """Return places in the order of falling loss; `losses` holds the loss at each place. Losses are rounded to four
    decimals, so that the last bits of a device do not decide; equal losses keep their order."""
    return sorted(range(len(losses)), key=lambda place: -round(losses[place], 4))


def spread(texts: Sequence[str], n: int) -> list[int]:
    """Return the places of `n` texts that are far from each other: the first text, then each time the text whose
    nearest chosen text is farthest.

    k-centre greedy (Gonzalez 1985; for choosing data Sener & Savarese 2018, arXiv:1708.00489) on the cosine of TF-IDF
    vectors; of equals the first.
    """
    import numpy
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectors = TfidfVectorizer(token_pattern=r"(?u)\w+").fit_transform(texts)
    likeness = numpy.full(len(texts), -1.0)
    chosen = [0]
    while len(chosen) < n:
        last = vectors[chosen[-1]]
        likeness = numpy.maximum(likeness, (vectors @ last.T).toarray().ravel())
        likeness[chosen[-1]] = numpy.inf
        chosen.append(int(likeness.argmin()))
    return chosen
