"""Makes text of unknown origin safe to print: on one line of a terminal, and as words of a command line."""

from __future__ import annotations

import shlex
from collections.abc import Iterable


def visible(text: str) -> str:
    """Return text with every sign escaped that does not print, such as "\\n" for a new line: what moves the cursor,
    turns text around or hides it."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def printable(text: str) -> str:
    """Return text with every sign escaped that does not print, as `visible` does, but for new lines and tabs."""
    return "".join(sign if sign in "\n\t" else visible(sign) for sign in text)


def shell_line(words: Iterable[str]) -> str:
    """Return words as a line for a shell, each quoted where it must be."""
    return " ".join(map(shell_word, words))


def shell_word(word: str) -> str:
    """Return a word quoted for a shell. One with signs that do not print, such as a new line or what a terminal acts on
    when text is pasted, is written with escapes ($'…' of bash, zsh and ksh)."""
    if word.isprintable():
        return shlex.quote(word)
    escaped = word.replace("\\", "\\\\").replace("'", "\\'")
    return "$'" + "".join(sign if sign.isprintable() else in_bytes(sign) for sign in escaped) + "'"


def in_bytes(sign: str) -> str:
    """Return a sign as the escapes of its bytes in UTF-8, such as "\\x0a" for a new line."""
    return "".join(f"\\x{byte:02x}" for byte in sign.encode("utf-8", "surrogatepass"))
