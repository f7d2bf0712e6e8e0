"""In: task YAMLs and the sources they name. Out: documents in fixed splits, training examples, and facts about both."""

from __future__ import annotations

from harness.data import leaks, sources, tasks, trust
from harness.data.answer_room import answer_tokens
from harness.data.answers import first_metric
from harness.data.catalog import (
    CODE,
    Catalog,
    ModelEntry,
    data_files,
    find_root,
    keep_facts,
    keep_structure,
    lm_eval_tasks,
    load_catalog,
    places,
)
from harness.data.clusters import (
    cluster_column,
    cluster_of,
    effective_clusters,
    effective_items,
    independent_units,
    items_text,
    mean_test,
)
from harness.data.contamination import normalise
from harness.data.counts import classes_text, counts_line
from harness.data.descriptions import longest_lengths
from harness.data.downloads import Download, model_download, task_download
from harness.data.drafting import draft_task
from harness.data.facts import PLACES, TEXTS, TOKENS, Facts, LengthFacts, ModelFacts, TaskFacts
from harness.data.few_shot import draw_shots
from harness.data.generation import overlap
from harness.data.lm_eval_task import Document, Render, Task
from harness.data.quality import CLEAN, UNSPOILT, Corruption, Number, Quality, Select, marked, turns
from harness.data.readers import read_splits
from harness.data.sampling import draw, examples, texts
from harness.data.sources import cache_root, is_offline
from harness.data.task_code import TaskCode, code_of, definition_files, yaml_files
from harness.data.task_draft import KINDS, Draft, in_flow
from harness.data.tasks import (
    Example,
    alike,
    cut_left,
    encode,
    example,
    for_validation,
    gold,
    learning_docs,
    load_task,
    mark,
    opened,
    unlearnable,
    wrong_answers,
)
from harness.data.templates import render_template, template_columns
from harness.data.yaml_limits import compose_yaml, load_yaml

__all__ = [
    "CLEAN",
    "CODE",
    "KINDS",
    "PLACES",
    "TEXTS",
    "TOKENS",
    "UNSPOILT",
    "Catalog",
    "Corruption",
    "Document",
    "Download",
    "Draft",
    "Example",
    "Facts",
    "LengthFacts",
    "ModelEntry",
    "ModelFacts",
    "Number",
    "Quality",
    "Render",
    "Select",
    "Task",
    "TaskCode",
    "TaskFacts",
    "alike",
    "answer_tokens",
    "cache_root",
    "classes_text",
    "cluster_column",
    "cluster_of",
    "code_of",
    "compose_yaml",
    "counts_line",
    "cut_left",
    "data_files",
    "definition_files",
    "draft_task",
    "draw",
    "draw_shots",
    "effective_clusters",
    "effective_items",
    "encode",
    "example",
    "examples",
    "find_root",
    "first_metric",
    "for_validation",
    "gold",
    "in_flow",
    "independent_units",
    "is_offline",
    "items_text",
    "keep_facts",
    "keep_structure",
    "leaks",
    "learning_docs",
    "lm_eval_tasks",
    "load_catalog",
    "load_task",
    "load_yaml",
    "longest_lengths",
    "mark",
    "marked",
    "mean_test",
    "model_download",
    "normalise",
    "opened",
    "overlap",
    "places",
    "read_splits",
    "render_template",
    "sources",
    "task_download",
    "tasks",
    "template_columns",
    "texts",
    "trust",
    "turns",
    "unlearnable",
    "wrong_answers",
    "yaml_files",
]
