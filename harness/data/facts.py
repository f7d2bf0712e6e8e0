"""What is known of models and tasks before anything runs: what planning, checking and predicting memory go by.

Learned once, by `tunebench fetch`, and kept in the cache, so that `check` and `plan` need neither torch nor lm-eval.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.architecture import Network

# What a tuned model is compared with its base on (`compare.py`), known ahead because it takes memory: of a task of
# running text so many texts, so many tokens of each, and so many places at a time. With a 135M model on two CPU cores
# that is at most 4 seconds of forward passes.
TEXTS, TOKENS, PLACES = 8, 128, 16


@dataclass(frozen=True)
class ModelFacts:
    """What fetching a model has shown: its folder, and the SHA-256 of its weights and tokenizer.

    `network`, and whether the tokenizer has a `chat` template (None: not known), are read from that folder whenever the
    facts are: it takes a millisecond, and cannot be out of date.
    """

    name: str
    fingerprint: str
    folder: str
    network: Network | None = None
    chat: bool | None = None


@dataclass(frozen=True)
class TaskFacts:
    """What fetching a task has shown. `unlearnable` is the reason why it cannot be trained on, or ""; `classes` are
    the training examples of each class, where there are classes. `metric` is the first that the task names."""

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


@dataclass(frozen=True)
class LengthFacts:
    """How long a task's texts are in a model's tokens: memory grows with them.

    `training` and `scored` hold 101 quantiles each (the shortest first, the longest last), of training examples
    with their answers and of the sequences that scoring gives to the model; empty where there are none. Nothing
    is cut at any `max_length`. `answer` and `continuation` are the most tokens of a sequence that are predicted,
    in training and in scoring; `sequences` counts the different ones that are scored.
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
    """What looking through a task's documents has shown, by split ("train", "validation", "scored").

    `empty` counts examples without text or answer. `told` is the share of scored items whose right choice is the only
    one that stands in the question; None where that has no meaning.
    """

    task: str
    empty: dict[str, int]
    told: float | None


@dataclass(frozen=True)
class OverlapFacts:
    """Scored items of one task that stand in what is learned of another, or of itself: `exact` in full, `near` but for
    a few words; of `n` items. `shown` are the beginnings of a few."""

    learned: str
    scored: str
    n: int
    exact: int
    near: int
    shown: tuple[str, ...]

    @property
    def count(self) -> int:
        return self.exact + self.near


@dataclass(frozen=True)
class Facts:
    """What `fetch` has found out, by name.

    Lengths, by (model, task), may be missing: a plan does without them. Overlaps go by (learned task, scored task).
    """

    models: dict[str, ModelFacts]
    tasks: dict[str, TaskFacts]
    lengths: dict[tuple[str, str], LengthFacts] = field(default_factory=dict)
    data: dict[str, DataFacts] = field(default_factory=dict)
    overlaps: dict[tuple[str, str], OverlapFacts] = field(default_factory=dict)
