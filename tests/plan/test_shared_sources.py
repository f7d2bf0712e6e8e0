"""What is read against forgetting does not come from where retention takes what it scores."""

from pathlib import Path

import pytest
from tiny import write_story
from tools import plan_of

from harness.data import tasks
from harness.errors import SuiteError

SUITE = """\
version: 1
models: [tiny]
tasks: [{{learn: colours, sizes: [8]}}]
retain: [{retain}]
methods: {{x: {label}}}
{more}train: {{steps: 2, batch_size: 4}}
"""
LABELS = [
    "{method: lora, objectives: {retain: {text: story}}}",
    "{method: lora, objectives: {ewc: {text: story}}}",
    "{method: lora, curriculum: {replay: {text: story}}}",
]


def scored_story(project: Path, text: str = "story.csv") -> None:
    """A task that scores other passages of what `story` is taken from."""
    folder = project / "suites" / "tasks"
    write_story(project)
    rolling = (folder / "prose.yaml").read_text().replace("task: prose", "task: tale").replace("prose.csv", text)
    (folder / "tale.yaml").write_text(rolling)
    (folder / "other.csv").write_text("text\nquite another thing than what is told there\n")


@pytest.mark.parametrize("label", LABELS)
def test_text_from_the_source_that_retention_scores_is_refused(project: Path, label: str) -> None:
    scored_story(project)
    with pytest.raises(
        SuiteError, match=r"reads 'story' from the source that 'tale' is taken from \(file:.*story\.csv\)"
    ):
        plan_of(project, SUITE.format(retain="tale", label=label, more="allow_leaks: []\n"))
    assert plan_of(project, SUITE.format(retain="tale", label=label, more="allow_leaks: [tale]\n")).cells


@pytest.mark.parametrize("label", LABELS)
def test_text_from_elsewhere_is_taken(project: Path, label: str) -> None:
    scored_story(project, "other.csv")
    assert plan_of(project, SUITE.format(retain="tale, prose", label=label, more="")).cells


def test_the_shipped_texts_do_not_share_a_source() -> None:
    folder = Path(__file__).parents[2] / "suites" / "tasks"
    read = {*tasks.sources_of(folder / "book-text.yaml", "training_split")}
    scored = {*tasks.sources_of(folder / "tales-perplexity.yaml", "test_split")}
    assert read
    assert scored
    assert not read & scored


def test_where_documents_come_from(project: Path) -> None:
    folder = project / "suites" / "tasks"
    assert tasks.sources_of(folder / "colours.yaml", "training_split") == (f"file:{folder / 'colours.csv'}",)
    assert tasks.sources_of(folder / "prose.yaml", "test_split") == (f"file:{folder / 'prose.csv'}",)
    (folder / "hub.yaml").write_text("task: hub\ndataset_path: org/set\ndataset_name: small\n")
    assert tasks.sources_of(folder / "hub.yaml", "test_split") == ("org/set/small",)
    (folder / "parts.yaml").write_text(
        "task: parts\ndataset_path: csv\ntraining_split: train\ntest_split: test\n"
        "dataset_kwargs: {data_files: {train: one.csv, test: [two.csv, three.csv]}}\n"
    )
    assert tasks.sources_of(folder / "parts.yaml", "training_split") == (f"file:{folder / 'one.csv'}",)
    assert len(tasks.sources_of(folder / "parts.yaml", "test_split", "validation_split")) == 2
