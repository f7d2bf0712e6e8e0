"""SetFit: a sentence encoder tuned on pairs, then a small head (Tunstall et al. 2022, arXiv:2209.11055)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.methods.base import Job, LogFloat, Method, Options

if TYPE_CHECKING:
    from lm_eval.api.model import LM


class SetFit(Method):
    """SetFit: contrastive tuning of a sentence encoder, then a logistic head; classification only.

    Its work is set by `pairs` (positive and negative pairs per example) instead of the suite's steps.
    """

    name = "setfit"
    paper = "arXiv:2209.11055"
    family = "few-shot"
    is_language_model = False
    foldable = False
    distributes = False
    own_trainer = True
    space = {"learning_rate": LogFloat(1e-6, 1e-4), "pairs": Options((5, 10, 20))}

    learning_rate: float = 2e-5
    encoder: str = "minilm-l6"
    pairs: int = 5
    pair_batch: int = 16

    def own_model(self) -> str | None:
        return self.encoder

    def problems(self) -> Iterable[str]:
        if self.quantize:
            yield "quantize does not go with setfit: its encoder is trained in full. Drop it."
        if self.pairs < 1:
            yield f"pairs is {self.pairs}; it must be at least 1."
        if self.pair_batch < 1:
            yield f"pair_batch is {self.pair_batch}; it must be at least 1."

    def load(self, job: Job) -> Any:
        from setfit import SetFitModel

        labels = sorted({example.target.strip() for example in job.examples()})
        return SetFitModel.from_pretrained(str(job.base), labels=labels, device="cpu" if not _cuda() else "cuda")

    def fit(self, model: Any, job: Job) -> Any:
        from datasets import Dataset
        from setfit import Trainer, TrainingArguments

        examples = job.examples()
        arguments = TrainingArguments(
            output_dir=str(job.scratch),
            batch_size=self.pair_batch,
            num_epochs=1,
            num_iterations=self.pairs,
            body_learning_rate=self.learning_rate,
            seed=job.seed,
            report_to="none",
            save_strategy="no",
            logging_steps=1,
            show_progress_bar=False,
        )
        data = Dataset.from_dict({"text": [e.context for e in examples], "label": [e.target.strip() for e in examples]})
        trainer = Trainer(model=model, args=arguments, train_dataset=data, callbacks=job.callbacks())
        trainer.train()
        return model

    def predictor(self, model: Any, job: Job) -> LM:
        return classifier_lm(model)

    def save(self, model: Any, folder: Path) -> None:
        model.save_pretrained(str(folder))


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def classifier_lm(model: Any) -> LM:
    """The classifier as an lm-eval model: a continuation's log-likelihood is its label's log-probability."""
    from lm_eval.api.model import LM

    class ClassifierLM(LM):
        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            texts = list(dict.fromkeys(request.args[0] for request in requests))
            rows = model.predict_proba(texts, as_numpy=True)
            chances = {text: dict(zip(model.labels, row, strict=True)) for text, row in zip(texts, rows, strict=True)}
            answers = []
            for request in requests:
                context, continuation = request.args
                chance = float(chances[context].get(continuation.strip(), 0.0))
                # A label never seen in training has no probability; a floor keeps its cross-entropy finite.
                answers.append((math.log(max(chance, 1e-9)), chance >= max(chances[context].values())))
            return answers

        def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
            raise NotImplementedError("a classifier has no likelihood of running text")

        def generate_until(self, requests: list[Any]) -> list[str]:
            raise NotImplementedError("a classifier does not generate")

    return ClassifierLM()
