"""An lm-eval task that takes the delimiter off a generated answer before scoring it, because training teaches it."""

from __future__ import annotations

from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask

from harness.data.answers import delimiter_of, heard
from harness.errors import TaskError, unknown


class HeardTask(ConfigurableTask):  # type: ignore[misc]  # it is untyped
    """An lm-eval task whose filters and metric get a generated answer without the delimiter that a trained model writes
    first.

    lm-eval puts `target_delimiter` (" ", where a YAML has none) before the answers that a model is shown, and compares
    what the model writes with the bare answer.
    """

    chat = False  # whether the last requests were made through a chat template

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **options: Any) -> None:
        """Load the data as lm-eval does. Raises TaskError where the YAML names a split that they do not have."""
        super().download(dataset_kwargs, **options)
        for key in ("training_split", "validation_split", "test_split", "fewshot_split"):
            name = getattr(self.config, key)
            if name is not None and name not in self.dataset:
                raise TaskError(f"{key}: {unknown('split', name, self.dataset)}")

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
