"""Says how far new inputs and answers are from those on which a result was scored. Pure: numbers and texts in, numbers
out.

Inputs are told apart by a classifier two-sample test (Lopez-Paz & Oquab 2017, arXiv:1610.06545): if a classifier that
sees the words of half of both samples can say of the other half which sample a text is from, the samples differ. The
classifier is naive Bayes over which words occur (Bernoulli, Laplace's correction), as it is fitted in one product of
matrices, so that the p-value can come from permutations and no distribution is assumed. Words are kept as hashes: what
is compared with need not be kept as text.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from harness.analysis.stats.intervals import corrected

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    Array = NDArray[numpy.float64]

BUCKETS = 4096  # words are counted by hash: with some thousand different words, a tenth share a bucket
FOLDS = 5
PERMUTATIONS = 499  # the least p is 1/500
TOLD = 8  # words that are named
# Scripts that write no spaces between words are counted by character.
WORD = re.compile(r"[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]|[^\W_]+")


@dataclass(frozen=True)
class Drift:
    """How far one property of two samples is apart: what it was and is (`before`, `now`, in words with unit), `p` the
    chance of a difference as large or larger where both come from one source, and `size` in words."""

    name: str
    before: str
    now: str
    size: str
    p: float


def words_of(text: str) -> list[str]:
    """Returns the words of a text, in NFC and lower case."""
    return WORD.findall(unicodedata.normalize("NFC", text).lower())


def bucket(word: str) -> int:
    """Returns the number, 0 to BUCKETS - 1, under which a word is counted."""
    return zlib.crc32(word.encode()) % BUCKETS


def buckets_of(text: str) -> list[int]:
    """Returns the numbers of the words that occur in a text, rising."""
    return sorted({bucket(word) for word in words_of(text)})


def input_drift(
    before: Sequence[Sequence[int]], now: Sequence[Sequence[int]], seed: int = 0
) -> tuple[Drift, list[int]]:
    """Compares the words of two samples of texts, each text given by its `buckets_of`. Returns the drift, whose size is
    the share of texts that the classifier places rightly (0.5: none can be told apart), and the buckets that speak for
    the new sample, the most telling first. Raises ValueError for an empty sample."""
    import numpy

    if not before or not now:
        raise ValueError("both samples need texts")
    labels = numpy.repeat([0.0, 1.0], [len(before), len(now)])
    seen = numpy.zeros((len(labels), BUCKETS), dtype=numpy.float32)
    for place, numbers in enumerate([*before, *now]):
        seen[place, list(numbers)] = 1.0
    used = seen.any(axis=0)
    random = numpy.random.default_rng(seed)
    folds = random.permutation(len(labels)) % FOLDS
    kept = numpy.flatnonzero(used)

    def rightly(of: Array) -> float:
        return placed_rightly(seen[:, kept], of, folds)

    observed = rightly(labels)
    p = permuted(observed, lambda: rightly(random.permutation(labels)))
    weights = evidence(seen[:, kept], labels)[0]
    telling = [int(kept[place]) for place in numpy.argsort(-weights)]
    return Drift("words", "", "", f"{observed:.0%} of texts can be told from the old ones (50%: none)", p), telling


def evidence(seen: NDArray[numpy.float32], labels: Array) -> tuple[Array, float]:
    """Returns (the log of how much more often each word occurs in texts labelled 1, the log of what its absence says in
    sum), by naive Bayes with Laplace's correction. Both classes weigh alike, however many texts they have."""
    import numpy

    counts = [labels @ seen, (1 - labels) @ seen]
    sizes = [labels.sum(), len(labels) - labels.sum()]
    new, old = ((count + 1) / (size + 2) for count, size in zip(counts, sizes, strict=True))
    absent = numpy.log1p(-new) - numpy.log1p(-old)
    return numpy.log(new) - numpy.log(old) - absent, float(absent.sum())


def placed_rightly(seen: NDArray[numpy.float32], labels: Array, folds: NDArray[numpy.int64]) -> float:
    """Returns the share of texts that are placed rightly by a classifier fitted on the other folds, the mean of both
    labels' shares; a text on the border counts half."""
    import numpy

    hits = numpy.zeros(len(labels))
    for fold in range(FOLDS):
        asked = folds == fold
        known = ~asked
        if not asked.any() or labels[known].min(initial=1) == labels[known].max(initial=0):
            hits[asked] = 0.5
            continue
        weights, rest = evidence(seen[known], labels[known])
        values = seen[asked] @ weights + rest
        hits[asked] = numpy.where(values == 0, 0.5, (values > 0) == (labels[asked] == 1))
    return float((hits[labels == 1].mean() + hits[labels == 0].mean()) / 2)


def length_drift(before: Sequence[int], now: Sequence[int], seed: int = 0) -> Drift:
    """Compares the lengths of two samples of texts, in words, by the mean of their logarithms; p by permutation."""
    import numpy

    random = numpy.random.default_rng(seed)
    logs = numpy.log1p(numpy.asarray([*before, *now], dtype=float))

    def apart(values: Array) -> float:
        return abs(float(values[: len(before)].mean() - values[len(before) :].mean()))

    p = permuted(apart(logs), lambda: apart(random.permutation(logs)))
    old, new = float(numpy.median(before)), float(numpy.median(now))
    ratio = float(numpy.exp(logs[len(before) :].mean() - logs[: len(before)].mean()))
    return Drift("length", f"median {old:g} words", f"median {new:g} words", f"{ratio:.2f} times as long", p)


def share_drift(name: str, before: Sequence[str], now: Sequence[str], seed: int = 0) -> Drift:
    """Compares the shares of classes in two samples by Pearson's chi-squared statistic; p by permutation, so that rare
    classes do no harm. Its size is the share of texts that would have to change class (total variation)."""
    import numpy

    classes = sorted({*before, *now})
    codes = numpy.searchsorted(classes, [*before, *now])
    random, n = numpy.random.default_rng(seed), len(before)

    def statistic(values: NDArray[numpy.int64]) -> float:
        table = numpy.stack([numpy.bincount(part, minlength=len(classes)) for part in (values[:n], values[n:])])
        expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / table.sum()
        return float(((table - expected) ** 2 / expected).sum())

    p = permuted(statistic(codes), lambda: statistic(random.permutation(codes)))
    old, new = Counter(before), Counter(now)
    moved = {each: new[each] / len(now) - old[each] / len(before) for each in classes}
    most = sorted(classes, key=lambda each: -abs(moved[each]))[:3]

    def told(counts: Counter[str], total: int) -> str:
        return ", ".join(f"{each} {counts[each] / total:.0%}" for each in most)

    distance = sum(map(abs, moved.values())) / 2
    return Drift(name, told(old, len(before)), told(new, len(now)), f"{distance:.0%} of answers moved", p)


def permuted(observed: float, draw: Callable[[], float]) -> float:
    """Returns the permutation p-value of a statistic: the share of draws, the observed one among them, that are as
    large (Phipson & Smyth 2010, arXiv:1603.05766)."""
    drawn = sum(draw() >= observed - 1e-12 for _ in range(PERMUTATIONS))
    return (drawn + 1) / (PERMUTATIONS + 1)


def corrected_drifts(drifts: Sequence[Drift]) -> list[Drift]:
    """Returns the drifts with p-values corrected for all of them together (Holm)."""
    return [replace(one, p=p) for one, p in zip(drifts, corrected([one.p for one in drifts]), strict=True)]
