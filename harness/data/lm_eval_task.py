"""Types for the parts of an lm-eval task that this package uses; importing lm-eval's own class takes seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

Document = dict[str, Any]  # a task's item: its columns
Target = int | str | list[str]  # the index of the right choice, the answer, or several answers
Render = Callable[..., str]  # an LM's `apply_chat_template`: messages -> the text of the prompt


class TaskConfig(Protocol):
    """The settings of a task's YAML that this package reads, with lm-eval's defaults."""

    task: str
    doc_to_choice: object  # a list, or a mapping to them, where every item has the same choices
    doc_to_target: object  # a column, a template, the number of a choice, or a function
    description: object  # an instruction before every question
    target_delimiter: str
    generation_kwargs: dict[str, Any] | None
    num_fewshot: int | None
    repeats: int  # answers that are asked of a question
    metadata: dict[str, Any] | None  # what a YAML says of itself; `cluster` names a column


class Sampler(Protocol):
    """The pool that few-shot examples are drawn from."""

    df: Sequence[Document]


class Filter(Protocol):
    """A step that turns generated answers into what is scored: `resps` and what it returns hold a list of answers for
    each document."""

    def apply(self, resps: list[list[str]], docs: list[Document]) -> Iterable[list[str]]: ...


class FilterSteps(Protocol):
    """A named sequence of filters of an lm-eval task; each is constructed when it is used."""

    filters: Sequence[Callable[[], Filter]]


class Task(Protocol):
    """An lm-eval task with its documents: the part of lm-eval's own class that is used here, whose methods mean what
    they mean there. `eval_docs` and `task_docs` are the documents that are scored."""

    OUTPUT_TYPE: str  # multiple_choice, loglikelihood, loglikelihood_rolling or generate_until
    multiple_input: int  # how many contexts an item has, where its choices are contexts; otherwise 0
    config: TaskConfig
    sampler: Sampler
    features: Sequence[str]  # the columns of its documents
    dataset: object  # {split: documents} as `custom_dataset` or `datasets` gave it
    task_docs: Sequence[Document]
    _filters: Sequence[FilterSteps]

    @property
    def eval_docs(self) -> Iterable[Document]: ...

    def set_fewshot_seed(self, seed: int) -> None: ...

    def has_training_docs(self) -> bool: ...

    def has_validation_docs(self) -> bool: ...

    def has_test_docs(self) -> bool: ...

    def training_docs(self) -> Iterable[Document]: ...

    def validation_docs(self) -> Iterable[Document]: ...

    def doc_to_text(self, doc: Document) -> str | int: ...

    def doc_to_target(self, doc: Document) -> Target: ...

    def doc_to_choice(self, doc: Document) -> list[str]: ...

    def doc_to_prefix(self, doc: Document) -> str | None: ...

    def fewshot_context(
        self,
        doc: Document,
        num_fewshot: int,
        *,
        apply_chat_template: bool = False,
        chat_template: Render | None = None,
        gen_prefix: str | None = None,
    ) -> str: ...

    def construct_requests(
        self, doc: Document, ctx: str, *, metadata: tuple[str, int, int], apply_chat_template: bool
    ) -> list[Instance]: ...

    def process_results(self, doc: Document, results: Sequence[object]) -> Mapping[str, object]: ...

    def aggregation(self) -> Mapping[str, object]: ...

    def higher_is_better(self) -> Mapping[str, bool]: ...
