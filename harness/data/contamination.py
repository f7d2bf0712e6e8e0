"""Finds texts that are contained in other texts, by their word n-grams. Pure.

Containment after GPT-3's test for contamination (Brown et al. 2020, arXiv:2005.14165, app. C), exact: every scored
text is compared with every learned one through an index of n-grams.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

WORDS = 5  # of an n-gram
NEAR = 0.8  # the share of a text's n-grams that one other text has


def normalise(text: str) -> str:
    """Return a text in lower case, with letters and digits only and single spaces; two texts that are then equal count
    as duplicates."""
    return " ".join(re.findall(r"\w+", text.lower()))


def ngrams(text: str) -> set[str]:
    """Return the set of a text's word 5-grams; the whole text where it is shorter."""
    words = normalise(text).split()
    if len(words) < WORDS:
        return {f"<{' '.join(words)}>"} if words else set()
    return {" ".join(words[place : place + WORDS]) for place in range(len(words) - WORDS + 1)}


def matches(scored: Sequence[str], learned: Sequence[str]) -> Iterator[tuple[int, int, float]]:
    """Yield (place in `scored`, place in `learned`, share) for every scored text that a learned text contains.

    The share, from 0.8 to 1, is the fraction of the scored text's 5-grams that the learned text has too. A text of
    fewer than five words counts only when the texts are equal but for case and punctuation.
    """
    grams = [ngrams(text) for text in scored]
    index: dict[str, list[int]] = defaultdict(list)
    for place, held in enumerate(grams):
        for gram in held:
            index[gram].append(place)
    for place, text in enumerate(learned):
        for one, count in Counter(one for gram in ngrams(text) for one in index.get(gram, ())).items():
            if count / len(grams[one]) >= NEAR:
                yield one, place, count / len(grams[one])


def contained(scored: Sequence[str], learned: Sequence[str]) -> dict[int, float]:
    """Return {place in `scored`: largest share of that text that one learned text contains} (see `matches`)."""
    shares: dict[int, float] = {}
    for one, _, share in matches(scored, learned):
        shares[one] = max(share, shares.get(one, 0.0))
    return shares
