"""The loss of training: what a model predicts for the answer tokens of a batch, and their cross-entropy.

Not covered: the training loop (`train.py`), and what objectives add.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from harness.methods import Answers
from harness.models import forest_logits, layer_width, logits_at, most_nodes, plant, runs_forests
from harness.worker.frozen_layers import FrozenLayers


@dataclass
class Packing:
    """That batches are laid out as forests, and how often they were: of `batches` of several rows, so many `packed`.
    `frozen` remembers what the model's lower layers give, where these are not trained."""

    frozen: FrozenLayers | None = None
    batches: int = 0
    packed: int = 0


def answer_logits(
    model: nn.Module,
    input_ids: torch.Tensor,
    labels: torch.Tensor,
    attention_mask: torch.Tensor,
    packing: Packing | None = None,
) -> Answers:
    """Returns what a model predicts for the answer tokens of a right-padded batch [batch, length].

    With `packing`, the rows are laid out as a forest (`models/forest.py`) where that makes less work and the model
    gives the same logits so; else as they are, and the places where no other row answers are computed too.
    """
    places = [row.nonzero().squeeze(1).tolist() for row in labels[:, 1:] != -100]  # place i predicts token i + 1
    if packing is not None and len(labels) > 1:
        packing.batches += 1
        answers = packed_answers(model, input_ids, labels, attention_mask, places, packing.frozen)
        if answers is not None:
            packing.packed += 1
            return answers
    length = input_ids.shape[1]
    wanted = (labels[:, 1:] != -100).any(dim=0).nonzero().squeeze(1)
    logits = logits_at(model, input_ids, wanted - length, attention_mask)
    rows = torch.arange(len(labels), device=labels.device).repeat_interleave(len(wanted))
    return Answers(logits.flatten(0, 1), labels[:, wanted + 1].flatten(), rows)


def packed_answers(
    model: nn.Module,
    input_ids: torch.Tensor,
    labels: torch.Tensor,
    attention_mask: torch.Tensor,
    places: list[list[int]],
    frozen: FrozenLayers | None,
) -> Answers | None:
    """Returns what `answer_logits` does, by a forest; None where that makes no less work, or the model does not run
    it. `places`: the places of each row that predict an answer token."""
    lengths = attention_mask.sum(dim=1).tolist()
    sequences = [ids[:length] for ids, length in zip(input_ids.tolist(), lengths, strict=True)]
    if not any(places):
        return None
    forest = plant(sequences, places, layer_width(model), most_nodes(model))
    if forest is None or not runs_forests(model, sequences, input_ids.device):
        return None
    rows = torch.tensor([row for row, wanted in enumerate(places) for _ in wanted], device=labels.device)
    wanted = torch.tensor([place + 1 for wanted in places for place in wanted], device=labels.device)
    if frozen is None:
        logits = forest_logits(model, forest, input_ids.device)
    else:
        texts = [tuple(tokens[: len(path)]) for tokens, path in zip(sequences, forest.paths, strict=True)]
        logits = frozen.logits(model, forest, texts, input_ids.device)
    return Answers(logits, labels[rows, wanted], rows)


def token_losses(answers: Answers) -> torch.Tensor:
    """Returns the cross-entropy [answers] of each answer token, in nats; 0 where there is no answer token."""
    return cross_entropy(answers.logits.float(), answers.targets, ignore_index=-100, reduction="none")


def weighted_sum(
    losses: torch.Tensor, answers: Answers, weights: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns (sum of token losses, number of answer tokens). With `weights` [batch], both count each token times its
    row's weight."""
    real = answers.targets != -100
    if weights is None:
        return losses.sum(), real.sum()
    of_answers = weights[answers.rows]
    return (losses * of_answers).sum(), (real * of_answers).sum()


def task_sum(
    losses: torch.Tensor, answers: Answers, aside: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns (sum of token losses, number of answer tokens) of the rows that answer a task, each token counting once.
    Rows marked in `aside` [batch] are left out."""
    wanted = answers.targets != -100
    if aside is not None:
        wanted = wanted & ~aside[answers.rows]
    return (losses * wanted).sum(), wanted.sum().to(losses.dtype)


def weighted_count(labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Returns the number of answer tokens in `labels` [batch, length], each times its row's weight (`weights`
    [batch])."""
    return ((labels != -100).sum(dim=1) * weights).sum()


def answer_loss(
    model: nn.Module, input_ids: torch.Tensor, labels: torch.Tensor, attention_mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns (summed cross-entropy in nats, number of answer tokens) of a right-padded batch [batch, length]."""
    answers = answer_logits(model, input_ids, labels, attention_mask)
    return weighted_sum(token_losses(answers), answers)
