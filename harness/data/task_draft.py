"""Defines a drafted task, and writes it as a task YAML with comments."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Literal

import yaml

from harness.data.readers import Value
from harness.errors import counted

Kind = Literal["classification", "generation", "chat", "text"]
KINDS: tuple[Kind, ...] = ("classification", "generation", "chat", "text")
CONTEXTS = ("input", "context", "passage", "system")


@dataclass(frozen=True)
class Draft:
    """A drafted task: its `name`, what its data is (`source`, the reader's `options`, `rows`), its `kind`, and the
    columns: `inputs` are asked, `answer` is the right answer ("" for text that is learned as it is), or the list of
    messages of a chat. `choices` are the classes. `remarks` are sentences on what could have been taken otherwise."""

    name: str
    source: str
    rows: int
    kind: Kind
    inputs: tuple[str, ...]
    answer: str = ""
    choices: tuple[str, ...] = ()
    options: dict[str, Value] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    test: int = 0
    validation: int = 0
    stop: str = "\n"
    tokens: int = 32
    whole: bool = True  # an answer is right or wrong as a whole, as a date is, and a summary is not
    turns: tuple[str, str] = ("role", "content")  # keys of a chat's messages
    dropped: int = 0  # rows that will be left out: repeats of what is asked, no answer, rare classes
    listed: str = ""  # where in the answer's value the text stands, such as ".text[0]"

    @property
    def train(self) -> int:
        """The rows that are left to learn from."""
        return self.usable - self.test - self.validation

    @property
    def usable(self) -> int:
        """The rows that are neither repeats nor without an answer, as far as the draft can tell."""
        return self.rows - self.dropped

    def yaml(self) -> str:
        """Returns the task's YAML."""
        arguments = {
            "source": self.source, **self.options, "unique": list(self.unique),
            **({"label": self.answer} if self.kind == "classification" else {}),
            **({"answer": self.answer} if self.kind == "generation" else {}),
            "test": self.test, "validation": self.validation,
        }  # fmt: skip
        lines = [
            f"# {WHAT[self.kind]}, drafted by `tunebench init` from {counted(self.rows, 'row')}. Change what you like:",
            "# every key is explained in docs/own-data.md.",
            f"task: {in_flow(self.name)}",
            "custom_dataset: !function harness.data.splits.documents",
            "dataset_kwargs:",
            *(f"  {key}: {flow(value)}{NOTES.get(key, '')}" for key, value in arguments.items()),
            "training_split: train",
            "validation_split: validation",
            "test_split: test",
            *self.form(),
            "metadata: {version: 1.0}",
        ]
        return "\n".join(lines) + "\n"

    @property
    def unique(self) -> tuple[str, ...]:
        """The columns whose values together may not repeat."""
        return (self.answer,) if self.kind == "chat" else self.inputs

    def form(self) -> list[str]:
        """Returns the lines of the YAML that say how it is asked and scored."""
        if self.kind == "text":
            return [
                "output_type: loglikelihood_rolling  # running text is learned and scored as it stands",
                'doc_to_text: ""', f"doc_to_target: {in_flow(template(self.inputs[0]))}",
                "metric_list:", "  - {metric: word_perplexity}",
            ]  # fmt: skip
        if self.kind == "classification":
            return [
                "output_type: multiple_choice",
                f"doc_to_text: {quoted(self.question())}",
                f"doc_to_choice: {flow(list(self.choices))}  # what the model chooses from; its words matter",
                f"doc_to_target: {in_flow(self.answer)}",
                "metric_list:", "  - {metric: acc, aggregation: mean, higher_is_better: true}",
            ]  # fmt: skip
        lines = [
            "output_type: generate_until", f"doc_to_text: {quoted(self.question())}",
            f"doc_to_target: {quoted(self.right_answer())}",
            f"generation_kwargs: {{until: [{quoted(self.stop)}], max_gen_toks: {self.tokens}, do_sample: false}}",
        ]  # fmt: skip
        if self.whole:
            return [*lines, "metric_list:", "  - {metric: exact_match, aggregation: mean, higher_is_better: true, "
                    "ignore_case: true, ignore_punctuation: true}"]  # fmt: skip
        return [
            *lines, "process_results: !function harness.data.generation.overlap  # how many of the answer's words",
            "metric_list:", "  - {metric: rouge_l, aggregation: mean, higher_is_better: true}",
            "  - {metric: chrf, aggregation: mean, higher_is_better: true}",
        ]  # fmt: skip

    def question(self) -> str:
        """Returns the template by which a document is asked."""
        if self.kind == "chat":
            role, content = self.turns
            return (
                f"{{% for turn in {self.answer}[:-1] %}}{{{{turn['{role}']|capitalize}}}}: {{{{turn['{content}']}}}}\n"
                "{% endfor %}Assistant:"
            )
        lines = []
        for column in self.inputs:
            line = f"{title(column)}: {{{{{column}}}}}\n"
            # An instruction without an input has the column, and nothing in it.
            optional = self.kind == "generation" and column in CONTEXTS and len(self.inputs) > 1
            lines.append(f"{{% if {column} %}}{line}{{% endif %}}" if optional else line)
        return "".join(lines) + f"{title(self.answer)}:"

    def right_answer(self) -> str:
        """Returns the template of the right answer."""
        if self.kind == "chat":
            return f"{{{{{self.answer}[-1]['{self.turns[1]}']}}}}"
        return f"{{{{{self.answer}{self.listed}}}}}"


WHAT: dict[Kind, str] = {
    "classification": "Classification",
    "generation": "Written answers",
    "chat": "Chat: the last answer is learned",
    "text": "Running text",
}
NOTES = {
    "unique": "  # rows that repeat are dropped",
    "test": "  # scored, and never learned from",
    "validation": "  # for tuning and early stopping",
}


def title(column: str) -> str:
    """Returns a column's name as a question shows it: "user_text" is "User text"."""
    words = re.sub(r"[\W_]+", " ", column).strip()
    return words[:1].upper() + words[1:] if words else "Text"


def template(column: str) -> str:
    """Returns the template that gives a column's value."""
    return f"{{{{{column}}}}}"


def quoted(value: str) -> str:
    """Returns a text in double quotes, with line breaks as \\n."""
    dumped = yaml.safe_dump(value, default_style='"', width=math.inf, allow_unicode=True)
    return str(dumped).strip()


def flow(value: object) -> str:
    """Returns a value as YAML writes it on one line."""
    dumped = yaml.safe_dump(value, default_flow_style=True, width=math.inf, allow_unicode=True, sort_keys=False)
    return str(dumped).strip().removesuffix("...").strip()


def in_flow(text: str) -> str:
    """Returns a text as it stands in a list or a mapping on one line: in quotes where it would be read otherwise."""
    return flow([text])[1:-1]
