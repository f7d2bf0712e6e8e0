"""Exports a cell's result for other libraries, with a card, and checks in a fresh process that it answers as stored."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UserError, counted, unknown
from harness.records import quantity

if TYPE_CHECKING:
    import duckdb

    from harness.data import Catalog
    from harness.report import CardFacts
    from harness.store import CellRow, Store

EXPECTED = 10  # test items whose answers go with an export
EXPECTED_FILE, CARD, USE = "expected.json", "README.md", "use.py"
CHECK_SECONDS = 1200
SHOWN_FIGURES = ("trainable_params", "artifact_bytes", "latency_ms_p50")
CHECK = """
import json, sys
told = json.load(open("expected.json", encoding="utf-8"))
given = [answer(one["question"], *([one["choices"]] if "choices" in one else [])) for one in told]
json.dump([[one["answer"], now] for one, now in zip(told, given) if one["answer"] != now], sys.stdout)
"""


@dataclass(frozen=True)
class Answered:
    """Test items of a cell's headline task: (question, answer as stored, the choices that it offers), and their
    `values` of the headline metric. `choices` are those that every question offers; empty where each has its own
    (`own_choices`), or none."""

    items: Sequence[tuple[str, str, tuple[str, ...]]]
    choices: tuple[str, ...]
    values: Sequence[float] = ()

    @property
    def own_choices(self) -> bool:
        """Whether each question has its own choices."""
        return not self.choices and any(choices for _, _, choices in self.items)

    def to_json(self) -> str:
        """Returns the first items as `expected.json` has them."""
        rows = [
            {"question": asked, "answer": told, **({"choices": list(choices)} if self.own_choices else {})}
            for asked, told, choices in self.items[:EXPECTED]
        ]
        return json.dumps(rows, indent=1, ensure_ascii=False)


def export_cell(store: Store, catalog: Catalog, name: str, target: Path, folded: bool) -> CardFacts:
    """Exports a cell to the folder `target`, which must not hold anything yet; returns what its card says. Raises
    UserError where the cell is not done, and where no other library could load it; nothing is left then."""
    from harness.cli.monitoring import MONITOR_FILE, known_of
    from harness.report import card_code, model_card
    from harness.store import all_keys, cell_detail, cell_row, read_job
    from harness.worker import export

    target = target.absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} is there already. Name an empty or a new folder.")
    with store.look() as connection:
        if cell_detail(connection, name) is None:
            raise UserError(unknown("cell", name, all_keys(connection)))
        _, row = cell_row(connection, name)
        if row.status != "done":
            raise UserError(f"{row.key} is not done ({row.status}): there is nothing to export.")
        answered = answered_items(connection, row)
        detail = cell_detail(connection, row.attempt_id) or {}
        facts = card_facts(connection, catalog, row, detail, answered)
    attempt = store.attempt_folder(row.attempt_id)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=".exporting-"))
    try:
        making, question = scratch / "made", answered.items[0][0]
        base = facts.source.removeprefix("hf:").split("@")[0] if facts.source.startswith("hf:") else ""
        made = export(attempt, read_job(attempt), making, folded, answered.choices, question, base)
        if made.form == "sentence_classifier" or made.tokens or facts.asks:
            (making / EXPECTED_FILE).write_text(answered.to_json(), encoding="utf-8")
            known = known_of(row, task_config(catalog, row.scores[0].task), answered)
            (making / MONITOR_FILE).write_text(known.to_json(), encoding="utf-8")
        (making / USE).write_text(card_code(facts, made), encoding="utf-8")
        (making / CARD).write_text(model_card(facts, made), encoding="utf-8")
        if target.exists():
            target.rmdir()
        making.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return facts


def answered_items(connection: duckdb.DuckDBPyConnection, row: CellRow) -> Answered:
    """Returns the test items of a cell with the answers that it gave, and what they offer. Raises UserError where none
    are stored."""
    from harness.store import document_texts, item_answers, offered_choices

    headline = row.scores[0]
    answers = item_answers(connection, {row.attempt_id: (headline.task, headline.metric)}).get(row.attempt_id, {})
    texts = document_texts(connection, {row.fingerprint})
    offered = offered_choices(connection, row.attempt_id, headline.task)
    asked = {doc: answer for doc, answer in answers.items() if (headline.task, doc) in texts}
    items = [
        (texts[headline.task, doc], answer.prediction.strip(), offered.get(doc, ())) for doc, answer in asked.items()
    ]
    if not items:
        raise UserError(f"{row.key}: no single answers are stored, by which an export could be checked.")
    alike = {frozenset(choices) for choices in offered.values()}
    values = [answer.value for answer in asked.values()]
    return Answered(items, next(iter(offered.values())) if len(alike) == 1 else (), values)


def card_facts(
    connection: duckdb.DuckDBPyConnection,
    catalog: Catalog,
    row: CellRow,
    detail: Mapping[str, Any],
    answered: Answered,
) -> CardFacts:
    """Returns what a cell's card says of it."""
    from harness.analysis import RIGHT_OR_WRONG, interval_of, side_of
    from harness.environment import RESULT_PACKAGES, normal_name
    from harness.report import CardFacts
    from harness.store import item_values

    headline = row.scores[0]
    values = item_values(connection, {row.attempt_id: (headline.task, headline.metric)})
    side = side_of(row.label, [row], values)
    low, high = (None, None) if side.missing else interval_of(side, side.metric in RIGHT_OR_WRONG)
    scores = []
    for score in row.scores:
        interval = ""
        if score is headline and low is not None and high is not None:
            interval = f"{low:.3f} to {high:.3f}"
        elif score.stderr:
            interval = f"± {1.96 * score.stderr:.3f}"
        base = "" if score.base_value is None else f"{score.base_value:.3f}"
        scores.append((score.task, score.metric, f"{score.value:.3f}", interval, score.n, base))
    pins = [text.split("==", 1) for text in str(detail["environment"].get("packages", "")).split() if "==" in text]
    versions = {normal_name(one): version for one, version in pins}
    settings = {
        **detail.get("settings", {}),
        **{f"train.{key}": value for key, value in detail.get("train", {}).items()},
        **detail.get("tuned", {}),
    }
    stored = {fact["name"]: fact for fact in detail.get("facts", [])}
    return CardFacts(
        row.key, row.label, row.method, row.model, catalog.model(row.model).sources[0], row.task,
        row.fingerprint, row.n_train, row.seed, scores,
        {str(key): str(value) for key, value in settings.items() if value not in (None, "", {}, [])},
        {one: versions[one] for one in map(normal_name, RESULT_PACKAGES) if one in versions},
        {one: quantity(stored[one]["value"], stored[one]["unit"]) for one in SHOWN_FIGURES if one in stored},
        answered.choices, answered.own_choices, headline.metric, str(detail.get("revision") or ""),
    )  # fmt: skip


def check_export(target: Path) -> tuple[int, list[tuple[str, str]]]:
    """Runs the card's own lines, as `use.py` holds them, in a fresh Python without this package, on the items there.
    Returns (how many items were asked, (stored answer, answer now) of those that differ). Raises UserError where the
    lines fail."""
    if not (target / EXPECTED_FILE).exists():
        return 0, []
    wrong = run_card(target, CHECK)
    count = len(json.loads((target / EXPECTED_FILE).read_text(encoding="utf-8")))
    return count, [(stored, given) for stored, given in wrong]


def run_card(target: Path, script: str, given: str = "") -> Any:
    """Runs the lines of an export's card, then `script`, in a fresh Python without this package, with the text `given`
    as its input; returns the JSON that it prints last. Raises UserError where the lines fail."""
    from harness.data import cache_root

    code = (target / USE).read_text(encoding="utf-8")
    whole = f"import sys\nsys.modules['harness'] = None  # an export needs nothing of it\n{code}{script}"
    environment = {
        **os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1",
        "PYTHONIOENCODING": "utf-8", "HF_HUB_CACHE": str(cache_root() / "hf"),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", whole], cwd=target, capture_output=True, encoding="utf-8",
        timeout=CHECK_SECONDS, env=environment, input=given, check=False,
    )  # fmt: skip
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"{target}: the lines of its card do not run: {last}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def task_config(catalog: Catalog, task: str) -> dict[str, Any]:
    """Returns the YAML of a task with what it includes, its functions as names; empty where it cannot be read."""
    from lm_eval.tasks._yaml_loader import load_yaml

    try:
        return dict(load_yaml(catalog.task_path(task), resolve_func=False))
    except (UserError, OSError, ValueError):
        return {}


def checked_text(count: int, wrong: Sequence[tuple[str, str]]) -> str:
    """Returns what the check found, in a sentence."""
    if not count:
        return "not checked: its task is running text, and asks nothing"
    if not wrong:
        return f"checked: {counted(count, 'test item')} answered as stored, by the lines of its card in a fresh Python"
    first = wrong[0]
    return f"{len(wrong)} of {count} test items are answered otherwise than stored, such as {first[0]!r} → {first[1]!r}"
