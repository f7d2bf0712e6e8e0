"""An lm-eval task that takes the delimiter off a generated answer before scoring it, because training teaches it."""

from __future__ import annotations

import re
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask

from harness.data.answers import delimiter_of, heard


class UnknownName(Exception):
    """A template names what a document does not have. `name` is that name, `columns` are those of the documents, or
    nothing where the name is one inside a column."""

    def __init__(self, message: str, columns: list[str]):
        super().__init__(message)
        quoted = re.findall(r"'([^']+)'", message)
        self.name = quoted[-1] if quoted else ""
        self.columns = columns if message.endswith("is undefined") else []


class HeardTask(ConfigurableTask):  # type: ignore[misc]  # it is untyped
    """An lm-eval task whose filters and metric get a generated answer without the delimiter that a trained model writes
    first.

    lm-eval puts `target_delimiter` (" ", where a YAML has none) before the answers that a model is shown, and compares
    what the model writes with the bare answer.
    """

    def __init__(self, config: dict[str, Any]):
        """Load the task's documents and render its first one. Raises UnknownName where a template names what a document
        does not have."""
        from jinja2.exceptions import UndefinedError

        try:
            super().__init__(config=config)
        except UndefinedError as error:
            raise UnknownName(str(error), getattr(self, "features", [])) from error

    chat = False  # whether the last requests were made through a chat template

    def construct_requests(self, doc: dict[str, Any], ctx: Any, **options: Any) -> list[Instance] | Instance:
        """Return lm-eval's requests for a document, and note whether they go through a chat template."""
        self.chat = bool(options.get("apply_chat_template"))
        requests: list[Instance] | Instance = super().construct_requests(doc, ctx, **options)
        return requests

    def apply_filters(self) -> list[Instance] | None:
        """Take the delimiter off every generated answer, then let lm-eval's filters run."""
        if self.OUTPUT_TYPE == "generate_until":
            for request in self.instances:
                delimiter = delimiter_of(self, request.doc, self.chat)
                request.resps = [heard(text, delimiter) for text in request.resps]
        answers: list[Instance] | None = super().apply_filters()
        return answers
