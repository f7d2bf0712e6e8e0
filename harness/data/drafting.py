"""Drafts a task from a data file: what kind of task its columns are for, and the YAML of it, with comments.

Nothing is guessed in silence: a draft says which columns it took for what, and why it could have been otherwise.
"""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from harness.data.division import lacks_answer
from harness.data.labels import is_missing, label_text
from harness.data.readers import Document, Value
from harness.data.task_draft import CONTEXTS, KINDS, Draft, Kind
from harness.errors import TaskError, counted, unknown

# Names by which columns are known, the likeliest first.
LABELS = (
    "label", "labels", "class", "category", "target", "sentiment", "topic", "intent", "stars", "rating", "polarity",
    "emotion", "y", "tag", "queue", "is_spam", "spam", "verdict",
)  # fmt: skip
TEXTS = (
    "text", "sentence", "content", "body", "review", "comment", "message", "title", "headline", "question", "query",
    "utterance", "tweet", "description", "document", "article", "abstract", "subject",
)  # fmt: skip
QUESTIONS = ("instruction", "prompt", "question", "query", "input", "source", "document", "article", "text")
ANSWERS = (
    "output", "response", "completion", "answer", "answers", "target", "summary", "headline", "translation", "chosen",
)  # fmt: skip
IGNORED = ("id", "idx", "index", "guid", "uuid", "url", "date", "timestamp", "split", "source_id")
MOST_CLASSES = 100
SHORT_ANSWER = 4  # words, up to which an answer is right or wrong as a whole
SHORT_TOKENS = 24  # and about so many tokens
MOST_TOKENS = 256  # that a draft lets a model write
TOKENS_PER_WORD = 1.5  # of English under a vocabulary of 50,000; other languages need more


def draft_task(
    name: str,
    source: str,
    rows: Sequence[Document],
    options: dict[str, Value] | None = None,
    kind: str = "",
    inputs: Sequence[str] = (),
    answer: str = "",
) -> Draft:
    """Drafts the task called `name` from the `rows` of a `source`, which a reader read with `options`. What the caller
    names (`kind`, `inputs`, `answer`) is taken; the rest is found by names and values. Raises TaskError where columns
    are unknown, or where no column can be an answer or an input."""
    own = columns_of(rows)
    if not rows or not own:
        raise TaskError(f"{source} has no rows.")
    names = clean_names(own)
    mistakes = [unknown("column", one, own) for one in (*inputs, *filter(None, [answer])) if one not in own]
    if kind and kind not in KINDS:
        mistakes.append(unknown("kind of task", kind, KINDS))
    if mistakes:
        raise TaskError("\n".join(mistakes))
    called = {column: clean for clean, column in names.items()}
    renamed = [{called[column]: value for column, value in row.items()} for row in rows]
    found = Finder(renamed, list(names), tuple(called[one] for one in inputs), called.get(answer, ""))
    chosen = kind or found.kind()
    maker = {"classification": classification, "generation": generation, "chat": chat, "text": text}[chosen]
    drafted = maker(found, name, source, dict(options or {}))
    drafted = replace(drafted, dropped=len(rows) - found.usable(drafted))
    used = {clean: names[clean] for clean in (*drafted.inputs, *filter(None, [drafted.answer]))}
    if all(clean == column for clean, column in used.items()):
        return drafted
    return replace(drafted, options={**drafted.options, "columns": used})


def columns_of(rows: Sequence[Document]) -> list[str]:
    """Returns the columns of rows, in the order in which they first stand there."""
    return list(dict.fromkeys(column for row in rows for column in row))


@dataclass(frozen=True)
class Finder:
    """Looks through rows for what their columns are for. `inputs` and `answer` are those that the caller named."""

    rows: Sequence[Document]
    columns: Sequence[str]
    inputs: tuple[str, ...]
    answer: str

    @property
    def has(self) -> str:
        """Which columns there are, in a sentence."""
        return f"It has {listed(self.columns[:20])}."

    def usable(self, draft: Draft) -> int:
        """Returns how many rows a draft leaves: what is asked differs, and there is an answer (of a kept class)."""
        asked = set()
        for row in self.rows:
            answer = row.get(draft.answer) if draft.answer else ""
            if draft.answer and lacks_answer(answer):
                continue
            if draft.choices and label_text(answer) not in draft.choices:
                continue
            asked.add(repr([row.get(column) for column in draft.unique]))
        return len(asked)

    def values(self, column: str) -> list[Value]:
        """Returns a column's values, without those that are missing."""
        return [row[column] for row in self.rows if not is_missing(row.get(column))]

    def named(self, names: Iterable[str], but: Sequence[str] = ()) -> str:
        """Returns the first column that is called so, whatever its case; "" for none."""
        by_name = {column.lower().strip(): column for column in reversed(self.columns) if column not in but}
        return next((by_name[name] for name in names if name in by_name), "")

    def kind(self) -> Kind:
        """Returns the likeliest kind of task."""
        if self.chat_column():
            return "chat"
        if self.answer:
            return "classification" if self.is_label(self.answer) else "generation"
        if self.label_column():
            return "classification"
        if self.answer_column():
            return "generation"
        return "text"

    def chat_column(self) -> str:
        """Returns the column that holds lists of messages; "" for none."""
        lists = [column for column in self.columns if self.is_chat(column)]
        return self.answer if self.answer in lists else next(iter(lists), "")

    def is_chat(self, column: str) -> bool:
        """Returns whether a column holds lists of messages, objects with a speaker and a text."""
        values = self.values(column)[:50]
        return bool(values) and all(
            isinstance(value, list) and value and all(isinstance(turn, dict) and turn_keys(turn) for turn in value)
            for value in values
        )

    def label_column(self) -> str:
        """Returns the column that holds classes; "" for none: one of a known name, else the one of fewest values."""
        able = [column for column in self.columns if self.is_label(column) and column not in self.inputs]
        known = [column for column in able if column.lower().strip() in LABELS]
        if known:
            return min(known, key=lambda column: LABELS.index(column.lower().strip()))
        if self.answer_column():
            return ""
        few = [column for column in able if column.lower() not in IGNORED and len(set(self.texts(column))) > 1]
        return min(few, key=lambda column: len(set(self.texts(column))), default="")

    def is_label(self, column: str) -> bool:
        """Returns whether a column's values are classes: short, few, and each of several rows."""
        values = self.values(column)
        if not values or any(isinstance(value, (list, dict)) for value in values):
            return False
        classes = Counter(map(label_text, values))
        if any(isinstance(value, float) and not value.is_integer() for value in values):
            return False
        most = min(MOST_CLASSES, max(2, len(values) // 5))
        return 1 <= len(classes) <= most and max(len(one.split()) for one in classes) <= 6

    def texts(self, column: str) -> list[str]:
        """Returns a column's values as texts."""
        return [label_text(value) for value in self.values(column)]

    def answer_column(self) -> str:
        """Returns the column that holds answers to be written; "" for none."""
        if self.answer:
            return self.answer
        found = self.named(ANSWERS, self.inputs)
        return found if found and len(self.columns) > 1 and self.input_columns(found) else ""

    def input_columns(self, answer: str) -> tuple[str, ...]:
        """Returns the columns that are asked: those that were named, else the likeliest."""
        if self.inputs:
            return self.inputs
        rest = [column for column in self.columns if column != answer and column.lower() not in IGNORED]
        written = [column for column in rest if any(isinstance(value, str) for value in self.values(column)[:50])]
        known = [column for name in TEXTS for column in written if column.lower().strip() == name]
        if known:
            return (known[0],)
        longest = sorted(written, key=lambda column: -statistics.mean(map(len, self.texts(column)) or [0]))
        return tuple(longest[:1]) or tuple(rest[:1])

    def question_columns(self, answer: str) -> tuple[str, ...]:
        """Returns the columns that a written answer answers: a question, with its context where there is one."""
        if self.inputs:
            return self.inputs
        question = self.named(QUESTIONS, [answer])
        if not question:
            return self.input_columns(answer)
        context = self.named(CONTEXTS, [answer, question])
        return (context, question) if context and context.lower() != "input" else (
            (question, context) if context else (question,)
        )  # fmt: skip

    def split(self, most_test: int = 200, most_validation: int = 100) -> tuple[int, int]:
        """Returns how many rows are for test and for validation: a fifth and a tenth, of many rows fewer."""
        return min(most_test, len(self.rows) // 5), min(most_validation, len(self.rows) // 10)


def classification(found: Finder, name: str, source: str, options: dict[str, Value]) -> Draft:
    """Drafts a task whose answers are classes."""
    answer = found.answer or found.label_column()
    if not answer:
        raise TaskError(f"no column of {source} holds classes. Name it by --answer. {found.has}")
    inputs = asked_columns(found, source, found.input_columns(answer), answer)
    classes = Counter(found.texts(answer))
    if len(classes) < 2:
        raise TaskError(
            f"column {answer!r} has one class, {next(iter(classes), '')!r}: there is nothing to tell apart."
        )
    choices = sorted(classes, key=class_order)
    rare = [one for one, count in classes.items() if count < 10]
    test, validation = found.split()
    missing = len(found.rows) - sum(classes.values())
    remarks = [
        f"{listed([answer])} is taken for the class and {listed(inputs)} for the text"
        + other_columns(found.columns, (answer, *inputs)),
    ]
    if missing:
        options |= {"drop_empty": True}
        remarks.append(f"{counted(missing, 'row')} without a class {'is' if missing == 1 else 'are'} left out")
    if rare:
        remarks.append(
            f"{counted(len(rare), 'class', 'classes')} with fewer than 10 rows: {listed(rare[:5])}. "
            "`drop_rare: true` leaves out those with too few for every split"
        )
    if any(one < 4 for one in classes.values()):
        options |= {"drop_rare": True}
        kept = [one for one in choices if classes[one] >= 4]
        remarks.append(
            f"classes with fewer than 4 rows are left out: {listed([c for c in choices if c not in kept][:5])}"
        )
        choices = kept if len(kept) > 1 else choices
    if all(re.fullmatch(r"-?\d+", one) for one in choices):
        remarks.append(
            f"the classes are numbers. Where they have names, say so: `rename: {{{choices[0]}: a name, …}}`, with the "
            "names in `doc_to_choice`; a language model knows words better"
        )
    return Draft(
        name, source, len(found.rows), "classification", inputs, answer, tuple(choices), options, tuple(remarks),
        max(test, min(len(choices), len(found.rows) // 4)), max(validation, min(len(choices), len(found.rows) // 4)),
    )  # fmt: skip


def generation(found: Finder, name: str, source: str, options: dict[str, Value]) -> Draft:
    """Drafts a task whose answers are written."""
    answer = found.answer_column()
    if not answer:
        raise TaskError(f"no column of {source} holds answers. Name it by --answer. {found.has}")
    inputs = asked_columns(found, source, found.question_columns(answer), answer)
    place, texts = answers_in(found.values(answer))
    if not texts:
        raise TaskError(f"column {answer!r} of {source} holds no text that could be an answer.")
    whole = sum(map(is_short, texts)) > len(texts) / 2
    test, validation = found.split(100, 50)
    remarks = [
        f"{listed(inputs)} asked, {listed([answer])} the answer" + other_columns(found.columns, (answer, *inputs))
    ]
    if place.startswith("[") or "[0]" in place:
        remarks.append("of several right answers the first is taken")
    return Draft(
        name, source, len(found.rows), "generation", inputs, answer, (), options, tuple(remarks), test, validation,
        stop_for(texts), tokens_for(texts), whole, listed=place,
    )  # fmt: skip


def chat(found: Finder, name: str, source: str, options: dict[str, Value]) -> Draft:
    """Drafts a task of conversations, the last message of which is learned."""
    column = found.chat_column()
    if not column:
        raise TaskError(f"no column of {source} holds lists of messages. {found.has}")
    values = [(number, row.get(column)) for number, row in enumerate(found.rows, start=1)]
    odd = [number for number, value in values if not is_conversation(value)]
    if odd:
        raise TaskError(
            f"{source}: {counted(len(odd), 'row')} of {len(values)} hold no conversation of two messages or more, each "
            f"with a speaker and a text (rows {', '.join(map(str, odd[:5]))}{', …' * (len(odd) > 5)}). Leave them out."
        )
    conversations = [value for _, value in values if isinstance(value, list)]
    keys = turn_keys(conversations[0][0]) or ("role", "content")
    last = Counter(str(turns[-1].get(keys[0])) for turns in conversations)
    told = [role for role in last if role.lower() not in ASSISTANT]
    if told:
        raise TaskError(
            f"{source}: {counted(sum(last[role] for role in told), 'conversation')} of {len(conversations)} end with a "
            f"message of {listed(told)}, which is no answer to learn. Leave out what follows the last answer of the "
            "assistant, or these conversations."
        )
    texts = [str(turns[-1].get(keys[1], "")) for turns in conversations]
    test, validation = found.split(100, 50)
    remark = f"the last message of {listed([column])} is learned, those before it are asked"
    return Draft(
        name, source, len(found.rows), "chat", (), column, (), options,
        (remark + other_columns(found.columns, (column,)),), test, validation, stop_for(texts), tokens_for(texts),
        sum(map(is_short, texts)) > len(texts) / 2, keys,
    )  # fmt: skip


def text(found: Finder, name: str, source: str, options: dict[str, Value]) -> Draft:
    """Drafts a task of running text, which is learned as it stands."""
    inputs = found.input_columns("")
    if not inputs:
        raise TaskError(f"no column of {source} holds text. {found.has}")
    test, validation = found.split(50, 50)
    remark = f"{listed(inputs[:1])} is running text to learn" + other_columns(found.columns, inputs[:1])
    return Draft(
        name, source, len(found.rows), "text", inputs[:1], "", (), options,
        (f"{remark}. Is one of the columns an answer? Name it: --answer COLUMN",), test, validation,
    )  # fmt: skip


def asked_columns(found: Finder, source: str, inputs: tuple[str, ...], answer: str) -> tuple[str, ...]:
    """Returns the columns that are asked. Raises TaskError where there is none, or where the answer is among them."""
    if answer in inputs:
        raise TaskError(f"column {answer!r} is asked and is the answer: the question would hold it. {found.has}")
    if not inputs:
        raise TaskError(f"no column of {source} but the answer {answer!r} can be asked. {found.has}")
    return inputs


ASSISTANT = ("assistant", "gpt", "model", "bot", "chatgpt", "chosen")


def is_conversation(value: Value) -> bool:
    """Returns whether a value is a list of messages, the last of which can answer those before it."""
    return isinstance(value, list) and len(value) > 1 and all(isinstance(one, dict) and turn_keys(one) for one in value)


def turn_keys(turn: dict[str, Value]) -> tuple[str, str] | None:
    """Returns the keys of a message's speaker and of its text; None for what is no message."""
    for role, content in (("role", "content"), ("from", "value"), ("speaker", "text"), ("role", "text")):
        if isinstance(turn.get(role), str) and isinstance(turn.get(content), str):
            return role, content
    return None


def answers_in(values: Sequence[Value]) -> tuple[str, list[str]]:
    """Returns where in a column's values the answer's text stands (as a template writes it: "" for the value itself),
    and the texts."""
    sample = next((value for value in values if value not in ([], {})), "")
    if isinstance(sample, list) and sample and isinstance(sample[0], str):
        return "[0]", [value[0] for value in values if isinstance(value, list) and value and isinstance(value[0], str)]
    if isinstance(sample, dict) and isinstance(sample.get("text"), list):  # as SQuAD has them
        lists = [value["text"] for value in values if isinstance(value, dict)]
        return ".text[0]", [str(one[0]) for one in lists if isinstance(one, list) and one]
    return "", [value if isinstance(value, str) else label_text(value) for value in values
                if not isinstance(value, (list, dict))]  # fmt: skip


def stop_for(texts: Sequence[str]) -> str:
    """Returns a text that ends an answer and stands in none of the answers."""
    stops = ("\n", "\n\n", "\nUser:", "\n###", "\n\n\n")
    return next((stop for stop in stops if not any(stop in one.strip() for one in texts)), "\n<end>")


def tokens_for(texts: Sequence[str]) -> int:
    """Returns how many tokens an answer may have: what 98 of 100 answers need, in steps of 16."""
    lengths = sorted(max(len(one.split()) * TOKENS_PER_WORD, length_of(one)) for one in texts)
    needed = lengths[min(len(lengths) - 1, int(0.98 * len(lengths)))] + 4
    return min(MOST_TOKENS, 16 * math.ceil(needed / 16))


def length_of(text: str) -> float:
    """Returns about how many tokens a text has: three letters of English make one, and each sign of other scripts two
    under a vocabulary of English."""
    foreign = sum(ord(sign) > 0x24F for sign in text)
    return (len(text) - foreign) / 3 + 2 * foreign


def is_short(text: str) -> bool:
    """Returns whether an answer is right or wrong as a whole, as a name or a date is."""
    return len(text.split()) <= SHORT_ANSWER and length_of(text) <= SHORT_TOKENS


def other_columns(columns: Sequence[str], taken: Sequence[str]) -> str:
    """Returns what is said of the columns that are not used; "" where all are."""
    rest = [column for column in columns if column not in taken]
    return f"; not used: {listed(rest[:6])}" + (f" and {len(rest) - 6} more" if len(rest) > 6 else "") if rest else ""


def listed(names: Sequence[str]) -> str:
    """Returns names in quotes, joined by commas."""
    return ", ".join(f"'{name}'" for name in names)


def class_order(name: str) -> tuple[int, float, str]:
    """Returns the key by which classes are sorted: numbers by their value, then texts."""
    return (0, float(name), name) if re.fullmatch(r"-?\d+(\.\d+)?", name) else (1, 0.0, name.lower())


def clean_names(columns: Sequence[str]) -> dict[str, str]:
    """Returns {name that a template can use: the column's own} of all columns; two that would be called alike get a
    number."""
    names: dict[str, str] = {}
    for column in columns:
        clean = (
            column if re.fullmatch(r"[A-Za-z_]\w*", column) else re.sub(r"\W+", "_", column.strip()).strip("_").lower()
        )
        clean = clean if clean and not clean[0].isdigit() else f"column_{clean}".rstrip("_")
        clean = f"{clean}_" if clean in RESERVED else clean
        number, wanted = 2, clean
        while wanted in names:
            wanted, number = f"{clean}_{number}", number + 1
        names[wanted] = column
    return names


# Words that mean something of their own in a template.
RESERVED = frozenset(
    ("and", "or", "not", "in", "is", "if", "else", "elif", "for", "loop", "true", "false", "none", "True", "False",
     "None", "self", "range", "dict", "namespace")
)  # fmt: skip
