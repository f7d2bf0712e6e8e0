"""Direct preference optimisation: a right answer against a wrong one (Rafailov et al. 2023, arXiv:2305.18290)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from harness.methods.base import Context, Footprint, LogFloat, Network, Options, Row
from harness.methods.wrappers import Around

if TYPE_CHECKING:
    from torch import nn

SIDES = ("chosen", "rejected")


class DPO(Around):
    """DPO: the right choice becomes likelier than each wrong one, relative to what the model before training thinks.

    The loss of a pair is -log σ(β (log p/p₀ of the right answer - log p/p₀ of the wrong one)), with p₀ the model
    before training and β `beta`. Answers of one or two tokens need a larger β than the 0.1 that is used for
    paragraphs: with 0.1 the loss falls until the odds have moved by about e³⁰, and wrong answers become certain. Every
    example gives a pair for each of its wrong choices, or for the first `pairs` of them in an order that the seed
    decides; a pair counts as one example of a batch. trl trains it; `train_with` says which parameters are trained.
    """

    name = "dpo"
    paper = "arXiv:2305.18290"
    packages = ("trl",)
    wants_choices = True
    space = {"learning_rate": LogFloat(1e-5, 1e-2), "beta": Options((0.1, 0.3, 1.0, 3.0))}

    learning_rate: float = 3e-4
    beta: float = 1.0
    pairs: int | None = None

    def problems(self) -> Iterable[str]:
        yield from super().problems()
        if not self.beta > 0:
            yield f"beta is {self.beta}; it must be above 0."
        if self.pairs is not None and self.pairs < 1:
            yield f"pairs is {self.pairs}; it must be at least 1."

    def footprint(self, network: Network) -> Footprint | None:
        found = super().footprint(network)
        return replace(found, sequences=2) if found else None

    def pursue(self, model: nn.Module, context: Context) -> nn.Module:
        from datasets import Dataset
        from trl import DPOConfig

        model, changes = self.warmed_up(model, context)
        rows = self.preferences(model, context)
        recorder = context.callbacks()[0]
        trainer = partial(
            pair_trainer(recorder),
            ref_model=no_reference(model),
            train_dataset=Dataset.from_list(rows),
            data_collator=collate,
            processing_class=context.tokenizer,
        )
        config = partial(
            DPOConfig, beta=self.beta, disable_dropout=False, precompute_ref_log_probs=True, max_length=None
        )
        return context.train_by(trainer, config, model, self, changes)

    def preferences(self, model: nn.Module, context: Context) -> list[dict[str, Any]]:
        """Return a record for each pair of a right and a wrong answer to the same example, encoded as the scorer does:
        chosen_ids and chosen_labels of the right one, rejected_ids and rejected_labels of the wrong one, and
        ref_chosen_logps and ref_rejected_logps, their log-likelihoods under `model`, which is not trained yet."""
        import random

        order = random.Random(context.seed)
        examples = [
            (right, wrong) for right in context.examples() for wrong in self._drawn(context.wrong(right), order)
        ]
        scorer: Any = context.language_model(model.eval())
        rows = context.rows(model, [pair[side] for side in range(2) for pair in examples])
        # Both at once: answers to the same context share what the model computes.
        known = scorer._loglikelihood_tokens([(None, *halves(row)) for row in rows], disable_tqdm=True)
        made: list[dict[str, Any]] = [{} for _ in examples]
        for place, (row, (value, _)) in enumerate(zip(rows, known, strict=True)):
            side = SIDES[place // len(examples)]
            made[place % len(examples)] |= {
                f"{side}_ids": row["input_ids"], f"{side}_labels": row["labels"], f"ref_{side}_logps": value,
            }  # fmt: skip
        return made

    def _drawn(self, wrong: list[Any], order: Any) -> list[Any]:
        return wrong if self.pairs is None else order.sample(wrong, min(self.pairs, len(wrong)))


def halves(row: Row) -> tuple[list[int], list[int]]:
    """Split an encoded example into (token ids of the context, token ids of the answer)."""
    start = next(place for place, label in enumerate(row["labels"]) if label != -100)
    return row["input_ids"][:start], row["input_ids"][start:]


def collate(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    """Batch n pairs (records of `DPO.preferences`) as 2n sequences, padded on the right: first all chosen answers, then
    all rejected ones. Returns {input_ids, attention_mask, completion_mask, each [2n, length]; ref_chosen_logps,
    ref_rejected_logps, each [n]}."""
    import torch

    rows = [(pair[f"{side}_ids"], pair[f"{side}_labels"]) for side in SIDES for pair in pairs]
    length = max(len(ids) for ids, _ in rows)
    return {
        "input_ids": torch.tensor([ids + [0] * (length - len(ids)) for ids, _ in rows]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * (length - len(ids)) for ids, _ in rows]),
        "completion_mask": torch.tensor(
            [[int(label != -100) for label in labels] + [0] * (length - len(labels)) for _, labels in rows]
        ),
        **{f"ref_{side}_logps": torch.tensor([pair[f"ref_{side}_logps"] for pair in pairs]) for side in SIDES},
    }


def no_reference(model: nn.Module) -> nn.Module:
    """Return a stand-in for trl's reference model, which is never run, because the reference's log-likelihoods are
    known.

    Without a reference, trl adds a second adapter to a model of peft's, which not every kind of adapter can have.
    """
    from torch import nn

    class Absent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = model.config

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            raise RuntimeError("the reference's log-likelihoods are known before training")

    return Absent()


def pair_trainer(recorder: Any) -> type:
    """Return trl's trainer, changed to take pairs that are encoded and whose reference log-likelihoods are known.
    `recorder` is told the tokens and sequences of each batch."""
    from trl import DPOTrainer

    class PairTrainer(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
            return dataset

        def _precompute_ref_logps(self, dataset: Any, *args: Any) -> Any:
            return dataset

        def _send_telemetry(self) -> None:
            """Send nothing."""

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **options: Any) -> Any:
            mask = inputs["attention_mask"]
            recorder.count(int(mask.sum()), len(mask))
            return super().compute_loss(model, inputs, *args, **options)

    return PairTrainer
