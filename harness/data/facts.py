"""Facts about models and tasks that planning, checking and predicting memory use before anything runs.

`tunebench fetch` finds them once and caches them, so that `check` and `plan` need neither torch nor lm-eval.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.architecture import Network

# How much text a tuned model is compared with its base on (`worker/base_kl.py`), known ahead because it takes memory:
# texts of a task of running text, tokens of each, and places at a time. With a 135M model on two CPU cores that is at
# most 4 seconds of forward passes.
TEXTS, TOKENS, PLACES = 8, 128, 16


@dataclass(frozen=True)
class ModelFacts:
    """A fetched model: its folder, and the SHA-256 of its weights and tokenizer (`fingerprint`). `revision` is the
    commit that its `hf:` source was resolved to when it was fetched; "" for other sources.

    `network`, `revision`, whether the tokenizer has a `chat` template (None: not known), and `chat_demand` (what that
    says where a system message is missing that it demands; else "") are not cached but read from the folder each time:
    that takes milliseconds, and cannot be out of date.
    """

    name: str
    fingerprint: str
    folder: str
    network: Network | None = None
    chat: bool | None = None
    revision: str = ""
    chat_demand: str = ""


@dataclass(frozen=True)
class TaskFacts:
    """A fetched task: its file, its fingerprint, and the number of documents in each split.

    `unlearnable` is the reason why it cannot be trained on, empty if it can. `classes` counts the training examples of
    each class, where there are classes. `metric` is the headline; `learned_from` and `scored_from` name the sources of
    the training split and of the scored split. `cluster` is the column that names the cluster of a scored item, and
    `clusters` the number of clusters; "" and 0 where items are independent. `cluster_problem` is what is wrong with
    that column, as (message, file, line); () where nothing is.

    `rows_read` counts the rows of the data by published split ("" for one file), `dropped` those left out by reason,
    `kept` the documents of each split by class ("" without classes); `remarks` are sentences on them without a full
    stop. `counts.counts_line` writes the line that is shown of them. `described`: the task has a `description`, which a
    chat template is given as the system message. `answer_tokens` is the most tokens of an answer that the model writes;
    0 where it writes none.
    """

    name: str
    path: str
    fingerprint: str
    output_type: str
    n_train: int
    n_validation: int
    n_test: int
    unlearnable: str = ""
    classes: dict[str, int] = field(default_factory=dict)
    metric: str = ""
    learned_from: tuple[str, ...] = ()
    scored_from: tuple[str, ...] = ()
    cluster: str = ""
    clusters: int = 0
    cluster_problem: tuple[str, str, int] | tuple[()] = ()
    rows_read: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    kept: dict[str, dict[str, int]] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    described: bool = False
    answer_tokens: int = 0


@dataclass(frozen=True)
class LengthFacts:
    """How many tokens a task's texts have for one model: memory grows with them.

    `training` and `scored` hold 101 quantiles each (the shortest first, the longest last), of training examples with
    their answers and of the sequences that scoring gives to the model; empty where there are none. Nothing is cut at
    any `max_length`. `answer` and `continuation` are the most tokens of a sequence that are predicted, in training and
    in scoring; `sequences` is the number of distinct scored sequences.
    """

    model: str
    task: str
    training: tuple[int, ...]
    answer: int
    scored: tuple[int, ...]
    continuation: int
    sequences: int


@dataclass(frozen=True)
class DataFacts:
    """Faults of a task's documents.

    `empty` counts examples without text or answer by split ("train", "validation", "scored"). `told` is the share of
    scored items whose question contains the right choice and no other; None for tasks whose items do not all have the
    same choices. `contradicting` is the number of training questions that stand there with different right choices,
    `shown` are the beginnings of a few. `known_validation` counts the validation items that stand in training text, in
    full or nearly; `copies` the scored items that stand so in another scored item, `copied` are the beginnings of a
    few.
    """

    task: str
    empty: dict[str, int]
    told: float | None
    contradicting: int = 0
    shown: tuple[str, ...] = ()
    known_validation: int = 0
    copies: int = 0
    copied: tuple[str, ...] = ()


@dataclass(frozen=True)
class OverlapFacts:
    """The scored items of one task that are in the learned text of another task, or of the same task.

    Of the `n` scored items, `exact` are in that text in full and `near` but for a few words. `shown` are the beginnings
    of a few of them.
    """

    learned: str
    scored: str
    n: int
    exact: int
    near: int
    shown: tuple[str, ...]

    @property
    def count(self) -> int:
        """The number of scored items that are in the learned text in full or nearly."""
        return self.exact + self.near


@dataclass(frozen=True)
class Facts:
    """The facts of all models and tasks of a suite, by name; `data` has the faults of each task's documents.

    `lengths`, by (model, task), may be missing: a plan does without them. `overlaps` are by (learned task, scored
    task). `unfetched` are the models and tasks that have not been fetched, of which the facts are those of a published
    description: enough to plan, and not to run.
    """

    models: dict[str, ModelFacts]
    tasks: dict[str, TaskFacts]
    lengths: dict[tuple[str, str], LengthFacts] = field(default_factory=dict)
    data: dict[str, DataFacts] = field(default_factory=dict)
    overlaps: dict[tuple[str, str], OverlapFacts] = field(default_factory=dict)
    unfetched: frozenset[str] = frozenset()
