"""Texts that stand in other texts: found when they are equal, when they are inside, and when a few words changed."""

from hypothesis import given
from hypothesis import strategies as st

from harness.data.contamination import NEAR, contained, matches, ngrams

WORD = st.text("abcdefghij", min_size=1, max_size=4)
TEXT = st.lists(WORD, min_size=1, max_size=30).map(" ".join)
LONG = " ".join(f"word{number}" for number in range(40))


@given(st.lists(TEXT, max_size=6), TEXT)
def test_an_equal_text_is_always_found(others: list[str], text: str) -> None:
    assert contained([text], [*others, f"  {text.upper()}!"])[0] == 1.0


@given(st.lists(TEXT, min_size=1, max_size=6), st.lists(TEXT, min_size=1, max_size=6))
def test_shares_are_those_of_a_plain_comparison(scored: list[str], learned: list[str]) -> None:
    wanted = {}
    for place, text in enumerate(scored):
        shares = [len(ngrams(text) & ngrams(other)) / len(ngrams(text)) for other in learned]
        if max(shares) >= NEAR:
            wanted[place] = max(shares)
    found = contained(scored, learned)
    assert found.keys() == wanted.keys()
    assert all(abs(share - wanted[place]) < 1e-12 for place, share in found.items())


def test_a_text_inside_a_longer_one_and_one_with_a_word_changed() -> None:
    inside = "before it " + LONG + " and after it"
    changed = LONG.replace("word5 ", "else ")
    assert contained([LONG], [inside]) == {0: 1.0}
    assert contained([LONG], [changed])[0] == 31 / 36
    assert contained([LONG], [LONG.replace("word5 ", "else ").replace("word15 ", "or ")]) == {}


def test_short_texts_count_only_when_they_are_equal() -> None:
    assert contained(["the red rose"], ["the red rose is here"]) == {}
    assert list(matches(["the red rose"], ["x", "The red rose."])) == [(0, 1, 1.0)]
    assert contained([""], [""]) == {}
