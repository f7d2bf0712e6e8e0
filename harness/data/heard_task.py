"""An lm-eval task that takes the delimiter off a generated answer before scoring it, because training teaches it."""

from __future__ import annotations

import re
from typing import Any, cast

from jinja2.exceptions import UndefinedError
from lm_eval import utils
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask

from harness.data import generation
from harness.data.answer_room import check_generation, shown
from harness.data.answers import answer_of, delimiter_of, heard
from harness.data.labels import PLAIN, label_text
from harness.errors import TaskError, unknown


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
        try:
            super().__init__(config=config)
        except IndexError:
            # At the end lm-eval looks the first document's answer up among the choices, for its log. Whether all
            # answers are choices is checked when the task is prepared, with a message that helps.
            if not getattr(self, "features", None) or not len(self.task_docs):
                raise
        except UndefinedError as error:
            raise UnknownName(str(error), getattr(self, "features", [])) from error
        self.made = True

    made = False  # whether lm-eval has looked at the first document for the form of all
    chat = False  # whether the last requests were made through a chat template

    def doc_to_choice(self, doc: Any, doc_to_choice: Any = None) -> list[str]:
        """Return a document's choices as texts; those of a column or a template may be numbers or truth values. Raises
        TaskError for a template that gives no list."""
        try:
            choices = super().doc_to_choice(doc, doc_to_choice)
        except (ValueError, SyntaxError) as error:
            raise TaskError(
                f"doc_to_choice ({shown(self.config.doc_to_choice)}) is neither a list, nor a column of the documents, "
                "nor a template that gives a list of texts in quotes. Write a list: doc_to_choice: [yes, no]."
            ) from error
        if isinstance(choices, str) or all(isinstance(choice, str) for choice in choices):
            return cast("list[str]", choices)
        return [choice if isinstance(choice, str) else label_text(choice) for choice in choices]

    def doc_to_text(self, doc: Any, doc_to_text: Any = None) -> Any:
        """Return a document's question. Digits are a text as any other where a template puts a column in, or where the
        first document has a text: lm-eval would take them for the place of a choice, document by document."""
        given = self.config.doc_to_text if doc_to_text is None else doc_to_text
        template = self.prompt is None and isinstance(given, str) and given not in self.features
        if template and (PLAIN.fullmatch(given) or (self.made and not self.multiple_input)):
            return utils.apply_template(given, doc)  # by its module, which has the sandbox's
        text = super().doc_to_text(doc, doc_to_text)
        if self.made and isinstance(text, int | float) and not self.multiple_input:
            return label_text(text)
        return text

    def doc_to_target(self, doc: Any, doc_to_target: Any = None) -> int | str | list[Any]:
        """Return a document's target. Raises TaskError where a template renders digits that lm-eval cannot read as a
        number, such as 01."""
        try:
            return cast("int | str | list[Any]", super().doc_to_target(doc, doc_to_target))
        except SyntaxError as error:
            raise TaskError(
                f"doc_to_target ({self.config.doc_to_target}) gives digits that lm-eval cannot read as the place of a "
                f"choice ({error.__class__.__name__}: {error}). To compare texts, name the column: "
                "doc_to_target: label."
            ) from error

    def build_qa_turn(self, *, c: Any = None, a: Any = None, **options: Any) -> list[Any]:
        """Return lm-eval's messages for a question and its answer. An answer that is a number is written as text, as in
        training; lm-eval stops at it."""
        if isinstance(a, int | float) and not (c and isinstance(a, int)):
            a = str(a)
        elif isinstance(a, list):
            a = [one if isinstance(one, str) else str(one) for one in a]
        return cast("list[Any]", super().build_qa_turn(c=c, a=a, **options))

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **options: Any) -> None:
        """Load the data as lm-eval does. Raises TaskError where the YAML names a split that they do not have."""
        super().download(dataset_kwargs, **options)
        for key in ("training_split", "validation_split", "test_split", "fewshot_split"):
            name = getattr(self.config, key)
            if name is not None and name not in self.dataset:
                raise TaskError(f"{key}: {unknown('split', name, self.dataset)}")
        if self.OUTPUT_TYPE == "generate_until":
            check_generation(self.config.generation_kwargs or {})

    def construct_requests(self, doc: dict[str, Any], ctx: Any, **options: Any) -> list[Instance] | Instance:
        """Return lm-eval's requests for a document, and note whether they go through a chat template."""
        self.chat = bool(options.get("apply_chat_template"))
        requests: list[Instance] | Instance = super().construct_requests(doc, ctx, **options)
        return requests

    def process_results(self, doc: Any, results: Any) -> dict[str, Any]:
        """Return {metric: value} of the responses to a document. `generation.overlap` compares with the right answer of
        the document, whatever column that is in: lm-eval gives it the document alone."""
        if self.config.process_results is generation.overlap:
            return dict(generation.overlap(doc, results, answer_of(self, doc)))
        return cast("dict[str, Any]", super().process_results(doc, results))

    def apply_filters(self) -> list[Instance] | None:
        """Take the delimiter off every generated answer, then let lm-eval's filters run."""
        if self.OUTPUT_TYPE == "generate_until":
            for request in self.instances:
                delimiter = delimiter_of(self, request.doc, self.chat)
                request.resps = [heard(text, delimiter) for text in request.resps]
        answers: list[Instance] | None = super().apply_filters()
        return answers
