"""Running text to learn from: cut into passages, apart from what is scored, encoded as it would be scored."""

from pathlib import Path
from typing import Any

import pytest
from tiny import STORY, write_story
from tools import cell_named, context_of, plan_of

from harness.data import sampling, splits, tasks
from harness.errors import TaskError


def test_texts_become_passages_apart_from_what_is_tested(project: Path) -> None:
    task = tasks.load_task(write_story(project))
    found = sampling.texts(task)
    scored = [document["text"] for document in task.eval_docs]
    assert len(scored) == 2
    assert all(len(text.split()) == 4 for text in [*found, *scored])
    sources = [{text.split("x")[0] for text in split} for split in (found, scored)]
    assert not sources[0] & sources[1]
    assert len(found) == len(set(found)) == 10 * 2 - 2  # two passages a text, a tenth of them kept for validation


def test_texts_are_nested_and_drawn_by_seed(project: Path) -> None:
    task = tasks.load_task(write_story(project))
    assert sampling.texts(task, 5) == sampling.texts(task, 9)[:5]
    assert sampling.texts(task, 5, seed=1) != sampling.texts(task, 5)
    with pytest.raises(TaskError, match="has 18 training texts, 19 were asked for"):
        sampling.texts(task, 19)


def test_a_task_with_questions_gives_them_with_their_answers(project: Path) -> None:
    task = tasks.load_task(project / "suites" / "tasks" / "colours.yaml")
    asked = {document["text"] for document in task.eval_docs}
    found = sampling.texts(task, 20)
    assert all(text.startswith("Text: ") and text.split()[-1] in ("red", "blue", "green") for text in found)
    assert not any(text.split("Text: ")[1].split("\n")[0] in asked for text in found)


def test_what_has_no_training_split_is_said(project: Path) -> None:
    with pytest.raises(TaskError, match="'prose' has no training split"):
        sampling.texts(tasks.load_task(project / "suites" / "tasks" / "prose.yaml"))


def test_texts_of_which_another_task_scores_a_passage_are_left_out(project: Path, monkeypatch: Any) -> None:
    path = write_story(project)
    rows = (path.parent / "story.csv").read_text().splitlines()[1:]
    scored = {"test": [{"text": " ".join(rows[3].split()[2:5])}]}
    monkeypatch.setattr(splits, "passages", lambda **options: scored)
    (path.parent / "scored.yaml").write_text("task: scored\ndataset_kwargs: {words: 3}\n")
    path.write_text(STORY.replace("test: 2", "test: 2, without: scored.yaml"))
    task = tasks.load_task(path)
    every = [document["text"] for split in (task.training_docs(), task.eval_docs) for document in split]
    assert not any(text.startswith("w3x") for text in every)
    assert {text.split("x")[0] for text in every} == {f"w{text}" for text in range(12) if text != 3}


def test_too_few_texts_are_said(project: Path) -> None:
    with pytest.raises(TaskError, match="2 texts cannot give 2 test passages"):
        tasks.load_task(write_story(project, texts=2))


SUITE = """\
version: 1
models: [tiny]
tasks:
  - {learn: colours, sizes: [8]}
retain: [story]
methods:
  full: {}
train: {steps: 2, batch_size: 4, max_length: 12}
"""


def test_text_is_learned_as_it_would_be_scored(project: Path, tmp_path: Path) -> None:
    write_story(project)
    plan = plan_of(project, SUITE)
    cell = cell_named(plan, "full/tiny/colours/n8/s0")
    work = context_of(plan, cell, tmp_path / "attempts" / "a")
    model = work.load_model()
    lm = work.language_model(model)
    texts = sampling.texts(work.data.tasks["story"], 3, work.seed)
    for row, text in zip(work.text_rows(model, "story", 3), texts, strict=True):
        whole = [lm.prefix_token_id, *lm.tok_encode(text)]
        assert row == {"input_ids": whole[:12], "labels": [-100, *whole[1:12]]}


@pytest.mark.real
def test_book_text_shares_no_eight_words_in_a_row_with_what_is_scored() -> None:
    folder = Path(__file__).parents[2] / "suites" / "tasks"
    learned = tasks.load_task(folder / "book-text.yaml")
    scored = [
        document["text"]
        for task in (learned, tasks.load_task(folder / "tales-perplexity.yaml"))
        for document in task.eval_docs
    ]

    def runs(text: str) -> set[tuple[str, ...]]:
        words = text.lower().split()
        return {tuple(words[start : start + 8]) for start in range(len(words) - 7)}

    known = set[tuple[str, ...]]().union(*map(runs, scored))
    assert len(scored) == 30
    assert not [text for text in sampling.texts(learned) if runs(text) & known]
