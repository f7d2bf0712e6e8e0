"""Reads the chat template of a model's folder, and tries it, without transformers.

What is tried is what is asked later: a question as a user's message, with or without a system message before it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NoReturn

ASKED = {"role": "user", "content": "Which one?"}
SYSTEM = {"role": "system", "content": "Answer."}


def chat_template(folder: Path) -> str:
    """Return the chat template of a model's tokenizer, from a file of its own or from its configuration; "" where there
    is none. Of several named ones, the one named "default", else the first."""
    try:
        if (folder / "chat_template.jinja").exists():
            return (folder / "chat_template.jinja").read_text(encoding="utf-8")
        for name in ("chat_template.json", "tokenizer_config.json"):
            if (folder / name).exists():
                found = json.loads((folder / name).read_text(encoding="utf-8")).get("chat_template")
                if isinstance(found, list):
                    named = {str(one.get("name")): one.get("template") for one in found}
                    found = named.get("default", next(iter(named.values()), ""))
                if found:
                    return str(found)
    except (OSError, ValueError, AttributeError):
        return ""
    return ""


def demands_system(template: str) -> str:
    """Return what a chat template says where a question comes without a system message and with one is taken; "" where
    it takes a question alone, or neither."""
    if not template:
        return ""
    alone = refusal(template, [ASKED])
    return alone if alone and not refusal(template, [SYSTEM, ASKED]) else ""


def refusal(template: str, messages: list[dict[str, str]]) -> str:
    """Return what a chat template raises for these messages, "" where it renders them. It is rendered as transformers
    does (`render_jinja_template`), in a sandbox."""
    from datetime import datetime

    from jinja2.exceptions import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> NoReturn:
        raise TemplateError(message)

    sandbox = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", "jinja2.ext.do"]
    )
    sandbox.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False)
    sandbox.globals["raise_exception"] = raise_exception
    sandbox.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    try:
        sandbox.from_string(template).render(
            messages=messages, add_generation_prompt=True, tools=None, documents=None, bos_token="<s>", eos_token="</s>"
        )
    except TemplateError as error:
        return str(error) or type(error).__name__
    except Exception:  # a template may do anything; whether it works is found when it is used
        return ""
    return ""
