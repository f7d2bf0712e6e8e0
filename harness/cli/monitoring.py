"""Watches an exported result on fresh data: what was stored of it when it was exported, and what has changed since.

An export holds `monitor.json`: how its task asks and what is right, and of each scored test item its value, its answer,
its length and its words as hashes, so that no text of the data is in it.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.analysis import (
    PERMUTATIONS,
    Drift,
    ScoreChange,
    advise,
    bucket,
    buckets_of,
    corrected_drifts,
    input_drift,
    length_drift,
    rows_to_settle,
    score_change,
    share_drift,
    words_of,
)
from harness.cli.exporting import Answered, run_card
from harness.data import normalise, render_template, template_columns
from harness.errors import UserError, unknown
from harness.records import MARGIN

if TYPE_CHECKING:
    from harness.store import CellRow

MONITOR_FILE = "monitor.json"
FORMAT = 1
MOST = 200  # fresh rows that are answered, unless more are asked for: minutes with a model of 135M on two cores
ALPHA = 0.05
LEAST = 20  # rows that a test of drift needs
CHOICE_METRICS = ("acc", "acc_norm", "acc_bytes")
WRITTEN_METRICS = ("exact_match", "rouge_l", "chrf")
ANSWERS = """
import json, sys
asked = json.load(sys.stdin)
json.dump([answer(one["question"], *([one["choices"]] if one["choices"] else [])) for one in asked], sys.stdout)
"""


@dataclass(frozen=True)
class Known:
    """What an export knows of how it was scored. `question`, `target` and `choices_template` are the task's templates
    or columns ("" where a function makes them); `rename` maps raw classes to their names; `options` are the metric's.
    Each of `items` has `id`, `value`, `answer`, `words` (their number) and `buckets`."""

    cell: str
    task: str
    metric: str
    score: float
    higher_is_better: bool
    question: str
    target: str
    choices: tuple[str, ...]
    choices_template: str
    rename: Mapping[str, str]
    options: Mapping[str, Any]
    n_train: int
    train_seconds: float | None
    items: Sequence[Mapping[str, Any]]
    format: int = FORMAT

    def to_json(self) -> str:
        """Returns the text of `monitor.json`."""
        return json.dumps(asdict(self), ensure_ascii=False)


@dataclass(frozen=True)
class Watched:
    """What was found on fresh data: `rows` that were read and `answered`, what the score changed (None without labels),
    `drifts` with p-values corrected for their number, the `telling` words of the new inputs, `advice` and its
    reason."""

    rows: int
    answered: int
    labelled: int
    change: ScoreChange | None
    drifts: list[Drift]
    telling: list[str]
    advice: str
    notes: list[str] = field(default_factory=list)


def known_of(row: CellRow, config: Mapping[str, Any], answered: Answered) -> Known:
    """Returns what is kept of a cell. `config` is its task's YAML, its functions as paths; `answered` are its scored
    items."""
    score, choices = row.scores[0], answered.choices
    metrics = {str(one.get("metric")): one for one in config.get("metric_list") or () if isinstance(one, dict)}
    options = {
        key: value for key, value in metrics.get(score.metric, {}).items() if key.startswith(("ignore_", "regexes"))
    }
    rename = (config.get("dataset_kwargs") or {}).get("rename") or {}
    listed = config.get("doc_to_choice")
    trained = row.phases.get("train", {}).get("seconds")
    return Known(
        row.key, score.task, score.metric, score.value, score.higher_is_better, template(config.get("doc_to_text")),
        template(config.get("doc_to_target")), tuple(choices),
        listed if isinstance(listed, str) and not choices else "",
        {str(key): str(value) for key, value in rename.items()}, options, row.n_train, trained,
        [
            {"id": item_id(question), "value": value, "answer": answer, "words": len(words_of(question)),
             "buckets": buckets_of(question)}
            for (question, answer, _), value in zip(answered.items, answered.values, strict=True)
        ],
    )  # fmt: skip


def template(value: object) -> str:
    """Returns a template or column of a task's YAML; "" for a function."""
    text = "" if value is None else str(value)
    return "" if Path(text).is_absolute() and "{" not in text else text  # lm-eval gives a function as its path


def item_id(question: str) -> str:
    """Returns the name of an item by its question, white space and case aside: 16 hex digits."""
    return hashlib.sha256(normalise(question).encode()).hexdigest()[:16]


def read_known(folder: Path) -> Known:
    """Returns what an export knows. Raises UserError for a folder that is no export, or one of another version."""
    path = folder / MONITOR_FILE
    if not path.exists():
        raise UserError(
            f"{folder} has no {MONITOR_FILE}: it is no export of a task that asks questions, or an older one. "
            "Export the cell again (`tunebench export`)."
        )
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["format"] != FORMAT:
            raise UserError(f"{path} has format {stored['format']}, and this tunebench reads {FORMAT}. Export again.")
        return Known(**{**stored, "choices": tuple(stored["choices"])})
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error}). Export the cell again.") from None


def monitor(folder: Path, data: Path, most: int = MOST, margin: float = MARGIN) -> Watched:
    """Asks the export in `folder` the rows of the file `data`, at most `most` of them evenly spaced, by the lines of
    its card in a fresh Python, and compares scores, inputs and answers with those that were stored. Raises UserError
    for a folder that is no export, and for rows that lack a column of the question."""
    from harness.data import read_splits

    known = read_known(folder)
    if not data.exists():
        raise UserError(f"no file {data}.")
    rows = [row for split in read_splits({"": [data]}, "auto", {}).values() for row in split]
    if not rows:
        raise UserError(f"{data} has no rows.")
    kept = [rows[place * len(rows) // min(most, len(rows))] for place in range(min(most, len(rows)))]
    asked = [question_of(known, row) for row in kept]
    given = run_card(folder, ANSWERS, json.dumps(asked))
    return compared(
        known, asked, [str(one) for one in given], [target_of(known, row) for row in kept], len(rows), margin
    )


def compared(known: Known, asked: Sequence[Mapping[str, Any]], answers: Sequence[str], targets: Sequence[str | None],
             rows: int, margin: float = MARGIN) -> Watched:  # fmt: skip
    """Returns what has changed. `asked` has the `question` of each answered row, `answers` what the export answered,
    and `targets` what is right (None: no label); `rows` were in the file."""
    notes = []
    marked = [
        (str(one["question"]), answer, target) for one, answer, target in zip(asked, answers, targets, strict=True)
    ]
    labelled = [(question, answer, target) for question, answer, target in marked if target is not None]
    scored = [
        (item_id(question), value)
        for question, answer, target in labelled
        if (value := value_of(known, answer, target)) is not None
    ]
    if labelled and not scored:
        notes.append(f"the metric {known.metric} cannot be computed from an export: no score")
    stored = {str(item["id"]): float(item["value"]) for item in known.items}
    change = score_change(stored, scored, known.higher_is_better) if scored else None
    drifts, telling = [], []
    questions = [str(one["question"]) for one in asked]
    if min(len(questions), len(known.items)) >= LEAST:
        words, order = input_drift([item["buckets"] for item in known.items], [buckets_of(one) for one in questions])
        drifts = [
            length_drift([int(item["words"]) for item in known.items], [len(words_of(one)) for one in questions]),
            words,
            share_drift("answers", [kind_of(known, str(item["answer"])) for item in known.items],
                        [kind_of(known, one) for one in answers]),
        ]  # fmt: skip
        drifts = corrected_drifts(drifts)
        telling = words_for(order, questions) if drifts[1].p < ALPHA else []
    else:
        notes.append(f"fewer than {LEAST} rows: drift is not tested")
    return Watched(rows, len(asked), len(scored), change, drifts, telling, advise(change, margin), notes)


def question_of(known: Known, row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns {question, choices} of a fresh row: by the task's template where its columns are there, else as the
    column `question` has the whole prompt. Raises UserError where neither is."""
    columns = template_columns(known.question)
    if known.question and all(column in row for column in columns):
        question = render_template(known.question, row)
    elif "question" in row:
        question = str(row["question"])
    else:
        missing = next((column for column in sorted(columns) if column not in row), "question")
        raise UserError(f"{unknown('column', missing, list(row))} The question of {known.task} shows it; or give the "
                        "whole prompt in a column `question`.")  # fmt: skip
    choices: tuple[str, ...] = ()
    if known.choices_template:
        value = render_template(known.choices_template, row)
        choices = tuple(map(str, ast.literal_eval(value))) if value.startswith("[") else (value,)
    return {"question": question, "choices": choices}


def target_of(known: Known, row: Mapping[str, Any]) -> str | None:
    """Returns the right answer to a fresh row, as text; None where it has no label. A number stands for the choice in
    that place where no choice is called so, as lm-eval has it."""
    columns = template_columns(known.target)
    if not known.target or any(row.get(column) in (None, "") for column in columns):
        return None
    text = render_template(known.target, row)
    text = known.rename.get(text, text)
    choices = known.choices or tuple(question_of(known, row)["choices"])
    if text.isdigit() and choices and text not in choices and int(text) < len(choices):
        return choices[int(text)]
    return text


def value_of(known: Known, answer: str, target: str) -> float | None:
    """Returns the value of the headline metric for one answer; None for a metric that is not known here."""
    if known.metric in CHOICE_METRICS:
        return float(answer.strip() == target.strip())
    if known.metric == "exact_match":
        return float(plain(known, answer) == plain(known, target))
    if known.metric in WRITTEN_METRICS:
        from harness.data import overlap

        return overlap({}, [answer], target)[known.metric]
    return None


def plain(known: Known, text: str) -> str:
    """Returns a text as lm-eval's exact_match compares it, by the metric's options."""
    for pattern in known.options.get("regexes_to_ignore") or ():
        text = re.sub(pattern, "", text)
    text = text.lower() if known.options.get("ignore_case") else text
    if known.options.get("ignore_punctuation"):
        text = text.translate(str.maketrans("", "", string.punctuation))
    return text.strip()


def kind_of(known: Known, answer: str) -> str:
    """Returns the class of an answer: the choice, or of a written answer how long it is."""
    if known.metric in CHOICE_METRICS and not known.choices_template:
        return answer.strip()
    words = len(words_of(answer))
    return "empty" if not words else "1 to 3 words" if words < 4 else "4 to 15 words" if words < 16 else "16 or more"


def words_for(order: Sequence[int], questions: Sequence[str], most: int = 8) -> list[str]:
    """Returns the words of the new questions that speak most for their being new; `order` has buckets, the most telling
    first."""
    place = {number: rank for rank, number in enumerate(order)}
    words = sorted({word for question in questions for word in words_of(question)})
    return sorted(words, key=lambda word: place.get(bucket(word), len(place)))[:most]


def told(known: Known, found: Watched, margin: float) -> list[str]:
    """Returns what was found in sentences: the score, drift, and whether training again pays, with the rule."""
    lines = []
    change = found.change
    if found.rows > found.answered:
        lines.append(f"{found.answered} of {found.rows} rows were answered, evenly spaced (--most takes more)")
    if change:
        how = "the same items" if change.is_paired else "other items"
        lines.append(
            f"{known.metric} on {known.task}: {change.now.value:.3f} now ({change.now.low:.3f} to "
            f"{change.now.high:.3f}, {change.n} rows), {change.before:.3f} when scored "
            f"({change.n_before} items); difference on {how} {change.difference.value:+.3f} "
            f"({change.difference.low:+.3f} to {change.difference.high:+.3f})"
        )
    drifted = [one.name for one in found.drifts if one.p < ALPHA]
    if found.drifts:
        lines.append(
            f"drift is shown of {' and '.join(drifted)}" if drifted
            else f"no drift is shown of {', '.join(one.name for one in found.drifts)}"
        )  # fmt: skip
        lines.append(
            f"p is by {PERMUTATIONS} permutations, corrected for {len(found.drifts)} tests (Holm); "
            f"below {ALPHA} is drift"
        )
    if found.telling:
        lines.append(f"words that are new or more frequent: {', '.join(found.telling)}")
    lines += [*found.notes, *advice_lines(known, found, margin, bool(drifted))]
    return lines


def advice_lines(known: Known, found: Watched, margin: float, drifted: bool) -> list[str]:
    """Returns the advice, and the rule by which it is given."""
    rule = (
        f"the rule: train again where the whole interval of the difference lies below −{margin:g}, and not where "
        "it lies above; drift alone decides nothing"
    )
    cost = f"; training took {known.train_seconds:.0f} s on {known.n_train} examples" if known.train_seconds else ""
    if found.advice == "retrain":
        return [f"training again pays: the score is shown to be lower by more than {margin:g}{cost}", rule]
    if found.advice == "keep":
        return [f"no need to train again: the score is shown to be no lower than by {margin:g}", rule]
    if found.advice == "open":
        assert found.change is not None
        needed = rows_to_settle(found.change, margin)
        more = (
            f"about {needed:,} labelled rows would settle a difference like this" if needed
            else "more rows would not settle it: the stored score is too uncertain, or the difference is the margin"
        )  # fmt: skip
        return [f"open whether training again pays: {more}{cost}", rule]
    next_step = "label a sample of these rows and run this again" if drifted else "label some rows to know the score"
    return [f"whether training again pays is not known without labels: {next_step}", rule]
