"""Texts that stand in other texts: found when they are equal, when they are inside, and when a few words changed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.data.contamination import NEAR, contained, copies, matches, ngrams, normalise

WORD = st.text("abcdefghij", min_size=1, max_size=4)
TEXT = st.lists(WORD, min_size=1, max_size=30).map(" ".join)
LONG = " ".join(f"word{number}" for number in range(40))


@given(st.lists(TEXT, max_size=6), TEXT)
def test_an_equal_text_is_always_found(others: list[str], text: str) -> None:
    assert contained([text], [*others, f"  {text.upper()}  "])[0] == 1.0


@given(st.lists(TEXT, min_size=1, max_size=2), st.lists(TEXT, min_size=1, max_size=2))
def test_shares_are_those_of_a_plain_comparison(scored: list[str], learned: list[str]) -> None:
    wanted = {}  # so few texts share nothing that counts as common
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
    assert list(matches(["the red rose"], ["x", "The  red rose"])) == [(0, 1, 1.0)]
    assert contained(["learn C"], ["learn C++"]) == contained(["so good 👍"], ["so good 👎"]) == {}
    assert contained([""], [""]) == {}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("so 👍", "so 👎"), ("C", "C++"), ("wait", "wait?"), ("दिन काम", "दिन कम"), ("ไม่ดี", "ไม่ดิ"),
        ("👩‍🚀", "👨‍🚀"), ("1.5", "15"), ("a-b", "a b"), ("résumé", "resume"), (":)", ":("),
    ],
)  # fmt: skip
def test_nothing_that_carries_meaning_is_taken_off(one: str, other: str) -> None:
    assert normalise(one) != normalise(other)
    assert contained([one], [other]) == {}


@pytest.mark.parametrize(("one", "other"), [("Ä", "A\u0308"), ("A  b", "a\tB"), (" Straße\n", "straße")])
def test_form_case_and_spaces_do_not_count(one: str, other: str) -> None:
    assert normalise(one) == normalise(other)
    assert contained([one], [other]) == {0: 1.0}


def test_punctuation_does_not_hide_a_longer_text() -> None:
    assert contained(["we went home at nine"], ["And then (we went home at nine), he said."]) == {0: 1.0}


def test_a_script_without_spaces_is_searched_by_its_characters() -> None:
    text = "วันนี้อากาศดีมากฉันจึงไปตลาดกับเพื่อนแล้วเราก็กินข้าวด้วยกันที่ร้านเก่า"
    other = "เขาไม่ชอบอ่านหนังสือแต่ชอบดูหนังกับพี่สาวของเขาทุกวันอาทิตย์ตอนเย็น"
    assert contained([text], [f"เขาพูดว่า{text}"]) == {0: 1.0}
    assert contained([text], [other]) == {}


OPENING = "hello my friend I hope that you are well today and that you can help me with something small"


def test_an_opening_that_many_texts_share_is_no_evidence() -> None:
    learned = [f"{OPENING} about order {number} of mine" for number in range(20)]
    scored = [f"{OPENING} about parcel {number} of his" for number in range(8)]
    assert contained(scored, learned) == {}
    assert contained(scored, [*learned, *scored[:3]]) == {0: 1.0, 1: 1.0, 2: 1.0}


def test_a_text_of_which_many_edited_copies_are_learned_is_still_found() -> None:
    copies = [LONG.replace(f"word{place} ", f"other{place} ") for place in range(5, 35, 3)]
    assert contained([LONG], copies)[0] > NEAR


def test_copies_within_are_those_too_many() -> None:
    long = "the cat sat on the mat and looked at the dog that slept beside the old stove in the kitchen"
    texts = [
        long,
        "quite another thing than what the cat and the dog did",
        f"{long} yesterday",
        long.upper(),
        "C",
        "C++",
    ]
    assert copies(texts) == {2: 0, 3: 0} or copies(texts) == {0: 2, 3: 0}
    assert copies([f"opening words that all of these texts have in common: {n}" for n in range(9)]) == {}
    assert copies(["", " ", "x"]) == {1: 0}
