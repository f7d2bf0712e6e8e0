"""Finds texts that are contained in other texts, by their word n-grams. Pure.

Containment after GPT-3's test for contamination (Brown et al. 2020, arXiv:2005.14165, app. C), exact: every scored
text is compared with every learned one through an index of n-grams. As there, n-grams that many texts share are no
evidence: a chat's opening, a system prompt or an instruction says nothing of the item that follows it.

Nothing that carries meaning is taken off a text: letters of every script with their vowel signs, emoji, punctuation.
"""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import regex

WORDS = 5  # of an n-gram
NEAR = 0.8  # the share of a text's n-grams that one other text has
SHARED = 4  # texts beside the scored one that have an n-gram: from here on it is common
# A word with its vowel signs, a character of a script that writes no spaces between words, or any other mark alone.
UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
PARTS = regex.compile(rf"[{UNSPACED}]\p{{M}}*|[\w--[{UNSPACED}]]+|\S", regex.V1)
UNSPACED_PART = regex.compile(rf"[{UNSPACED}]", regex.V1)
CHARACTERS = 5  # of such a script that count as one word: two to five make one
POINTS = CHARACTERS * WORDS  # the size of an n-gram: a word has `CHARACTERS` of them, a character of such a script one

Compared = str | tuple[str, ...]  # a text, or the forms of one text


def normalise(text: str) -> str:
    """Return a text in NFC and lower case with single spaces; two texts that are then equal count as duplicates."""
    return " ".join(unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).lower()).split())


def words(text: str) -> list[str]:
    """Return the parts of a normalised text: words, marks, and the characters of scripts without spaces."""
    parts: list[str] = PARTS.findall(normalise(text))
    return parts


def ngrams(text: str) -> set[str]:
    """Return the set of a text's 5-grams of words, punctuation counting as words; the whole text where it has no five.

    Where a script writes no spaces between words (Thai, Chinese), 25 characters stand for five words.
    """
    parts = words(text)
    sizes = [1 if UNSPACED_PART.match(part) else CHARACTERS for part in parts]
    grams: set[str] = set()
    end = points = 0
    for start, size in enumerate(sizes):
        while end < len(parts) and points < POINTS:
            points += sizes[end]
            end += 1
        if points < POINTS:
            break
        grams.add(" ".join(parts[start:end]))
        points -= size
    return grams or ({f"<{normalise(text)}>"} if parts else set())


def matches(scored: Sequence[str], learned: Sequence[Compared]) -> Iterator[tuple[int, int, float]]:
    """Yield (place in `scored`, place in `learned`, share) for every scored text that a learned text contains. A
    learned text may be given in several forms, of which each counts; the last is the whole.

    The share, from 0.8 to 1, is the fraction of the scored text's n-grams that the learned text has too. Where other
    texts share so much (`SHARED` of them or more), the n-grams of the scored text's own must be there as well, and in
    the same share. A text of fewer than five words counts only when the texts are equal but for case and spaces.
    """
    grams = [ngrams(text) for text in scored]
    index: dict[str, list[int]] = defaultdict(list)
    for place, held in enumerate(grams):
        for gram in held:
            index[gram].append(place)
    in_learned: list[list[str]] = []
    for text in learned:
        forms = (text,) if isinstance(text, str) else text
        in_learned.append([gram for gram in set().union(*map(ngrams, forms)) if gram in index])
    holders = texts_by_gram(scored, learned, grams, in_learned)
    own = [{gram for gram in held if holders[gram] <= SHARED} for held in grams]
    for place, found in enumerate(in_learned):
        for one, count in Counter(one for gram in found for one in index[gram]).items():
            share = count / len(grams[one])
            if share >= NEAR and (not own[one] or len(own[one].intersection(found)) / len(own[one]) >= NEAR):
                yield one, place, share


def texts_by_gram(
    scored: Sequence[str], learned: Sequence[Compared], grams: Sequence[set[str]], in_learned: Sequence[list[str]]
) -> Counter[str]:
    """Return how many different texts have each n-gram; texts that are equal when normalised count once. `grams` and
    `in_learned` hold the n-grams of the texts of `scored` and `learned`."""
    seen: set[str] = set()
    holders: Counter[str] = Counter()
    for text, held in [*zip(scored, grams, strict=True), *zip(learned, in_learned, strict=True)]:
        known = normalise(text if isinstance(text, str) else text[-1])
        if known not in seen:
            seen.add(known)
            holders.update(held)
    return holders


def copies(texts: Sequence[str]) -> dict[int, int]:
    """Return {place of a text: place of another that contains it, in full or nearly}. Of texts that contain each other
    one is left out, so that the length is the number of texts too many.

    As in `matches`; a text whose n-grams are all common is a copy only of an equal one.
    """
    first: dict[str, int] = {}
    found: dict[int, int] = {}
    for place, text in enumerate(texts):
        other = first.setdefault(normalise(text), place)
        if other != place:
            found[place] = other
    grams = {place: ngrams(texts[place]) for place in first.values()}
    index: dict[str, list[int]] = defaultdict(list)
    for place, held in grams.items():
        for gram in held:
            index[gram].append(place)
    for place, held in grams.items():
        own = [gram for gram in held if len(index[gram]) <= SHARED]
        for other, count in Counter(one for gram in own for one in index[gram] if one != place).items():
            near = count >= NEAR * len(own) and len(held & grams[other]) >= NEAR * len(held)
            if near and found.get(other) != place:
                found[place] = other
                break
    return found


def contained(scored: Sequence[str], learned: Sequence[Compared]) -> dict[int, float]:
    """Return {place in `scored`: largest share of that text that one learned text contains} (see `matches`)."""
    shares: dict[int, float] = {}
    for one, _, share in matches(scored, learned):
        shares[one] = max(share, shares.get(one, 0.0))
    return shares
