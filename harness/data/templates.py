"""Renders a task's templates in Jinja's sandbox, and compiles each of them once.

A `doc_to_text` is text from a file of somebody else's; in plain Jinja it can reach Python's `os` and run programs.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2.sandbox import SandboxedEnvironment

# Types whose methods change nothing but the value itself. An image's `save`, for one, writes a file.
HARMLESS = ("builtins", "datetime", "decimal", "fractions", "jinja2.", "markupsafe")
MOST_RESULT = 10**7  # length of a text, and size of a number, that an operator may make


@cache
def use_sandbox() -> None:
    """Make lm-eval render every template in a sandbox, and cache compiled templates.

    lm-eval compiles a task's template anew for every document (lm-eval 0.4.13, `lm_eval.utils.apply_template`), a
    millisecond each: most of the time that a task takes to prepare.
    """
    from lm_eval import utils

    sandbox = make_sandbox(utils.env)
    vars(sandbox)["from_string"] = lru_cache(maxsize=1024)(sandbox.from_string)
    utils.env = sandbox


def render_template(text: str, row: Mapping[str, Any]) -> str:
    """Return what a task's template, or a column's name, gives for a row, as lm-eval renders it. Raises KeyError or
    jinja2's UndefinedError for a column that the row lacks, SecurityError for a template that reaches beyond it."""
    from lm_eval import utils

    if "{" not in text:
        return str(row[text])
    use_sandbox()
    return str(utils.env.from_string(text).render(**row))


def template_columns(text: str) -> set[str]:
    """Return the columns that a template shows; a text without braces is a column itself."""
    from jinja2 import meta
    from lm_eval import utils

    if "{" not in text:
        return {text} if text else set()
    use_sandbox()
    return set(meta.find_undeclared_variables(utils.env.parse(text)))


def make_sandbox(like: Any) -> SandboxedEnvironment:
    """Return a sandbox with the filters, tests and globals of another environment, and its way of treating undefined
    names and newlines."""
    from jinja2.exceptions import SecurityError
    from jinja2.sandbox import SandboxedEnvironment

    class Sandbox(SandboxedEnvironment):
        """Jinja's sandbox, in which only methods of plain values can be called, and operators make no huge values."""

        intercepted_binops = frozenset({"*", "**"})

        def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
            """Return whether a template may reach `obj.attr`: no internals, and methods of plain values alone."""
            if callable(value) and not type(obj).__module__.startswith(HARMLESS):
                return False
            return super().is_safe_attribute(obj, attr, value)

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            """Return the operator's result. Raises SecurityError where it would be huge."""
            if operator == "*" and is_huge_product(left, right):
                raise SecurityError(f"a product of more than {MOST_RESULT:,} characters or digits")
            if operator == "**" and (not is_number(left) or not is_number(right) or abs(right) > 1000):
                raise SecurityError("a power with an exponent above 1000")
            return super().call_binop(context, operator, left, right)

    made = Sandbox(undefined=like.undefined, keep_trailing_newline=like.keep_trailing_newline)
    made.filters |= like.filters
    made.tests |= like.tests
    return made


def is_number(value: object) -> bool:
    """Return whether a value is a whole or a real number."""
    return isinstance(value, int | float)


def is_huge_product(left: object, right: object) -> bool:
    """Return whether `left * right` repeats a text or a list more than `MOST_RESULT` characters or elements long."""
    for one, other in ((left, right), (right, left)):
        if isinstance(one, str | bytes | list | tuple) and isinstance(other, int):
            return len(one) * other > MOST_RESULT
    return False
