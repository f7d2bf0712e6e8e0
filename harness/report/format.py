"""Formats numbers as text, in one place, so that every form of the report says the same."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from harness.records import bare_quantity, quantity

NA = "n/a"
MINUS = "−"
MOST_NAMES = 6  # names listed in a sentence
DIGITS = {
    "log_likelihood_per_word": 3,
    "choice_cross_entropy": 3,
    "kl_to_base": 3,
}  # effects on these metrics are of the order of 0.01


def digits_of(metric: str) -> int:
    """Returns the number of decimals that a metric is shown with: two where items are few hundred and the standard
    error is some hundredths, three for the metrics of `DIGITS`."""
    return DIGITS.get(metric, 2)


def number(value: float | None, digits: int = 2, signed: bool = False) -> str:
    """Formats a number with so many decimals, with a sign before positive ones too where `signed`; "n/a" for None. A
    value that rounds to 0 is not negative."""
    if value is None:
        return NA
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.replace("-", "+" if signed else "")
    return text.replace("-", MINUS)


def with_error(value: float | None, stderr: float | None, digits: int = 2, signed: bool = False) -> str:
    """Formats a value with its standard error, such as "0.81 ± 0.03"; "n/a" for a value of None."""
    if value is None:
        return NA
    return number(value, digits, signed) + (f" ± {stderr:.{digits}f}" if stderr is not None else "")


def share(part: float | None) -> str:
    """Formats a fraction in per cent, with two significant digits; "n/a" for None."""
    return quantity(part, "share")


def chance(value: float | None) -> str:
    """Formats a probability in per cent; "" for None. Draws cannot tell 0 or 1 from values close to it: "<1%",
    ">99%"."""
    if value is None:
        return ""
    return "<1%" if value < 0.01 else ">99%" if value > 0.99 else f"{100 * value:.0f}%"


def size(count: float | None) -> str:
    """Formats bytes in binary units, such as "1.5 GiB"; "n/a" for None."""
    return quantity(count, "B")


def seconds(value: float | None) -> str:
    """Formats seconds without their unit; "n/a" for None."""
    return bare_quantity(value, "s")


def count(value: float | None) -> str:
    """Formats a number without decimals, with a blank at every thousand; "n/a" for None."""
    return NA if value is None else f"{value:,.0f}".replace(",", " ")


def escape(text: str) -> str:
    """Escapes text so that Markdown shows it as it is, also in a table."""
    for sign in "\\`*[]|":
        text = text.replace(sign, "\\" + sign)
    return " ".join(text.replace("<", "&lt;").split())


def slug(text: str) -> str:
    """Turns text into a name for files and for anchors in a page: other characters than letters, digits, "_", "." and
    "-" become "-"."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-")


def wordy(rows: Sequence[Sequence[str]]) -> list[bool]:
    """Returns for each column whether most of its texts begin with a letter; such columns of words are set flush
    left."""
    columns = [[text for text in column if text and text != NA] for column in zip(*rows, strict=True)] if rows else []
    return [2 * sum(text[0].isalpha() for text in column) > len(column) for column in columns]


def some(names: Iterable[str]) -> str:
    """Joins names with commas: all of them, or, where they are more than `MOST_NAMES` + 1, the first `MOST_NAMES`, and
    counts the rest."""
    found = list(names)
    more = len(found) - MOST_NAMES
    return ", ".join(found) if more <= 1 else f"{', '.join(found[:MOST_NAMES])} and {more} more"
