"""Group relative policy optimisation: sampled answers, rewarded by the task's own metric (Shao et al. 2024,
arXiv:2402.03300)."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from harness.methods.base import Context, LogFloat, Network, Options, TrainSettings, cut_left
from harness.methods.wrappers import Around

if TYPE_CHECKING:
    from torch import nn


class GRPO(Around):
    """GRPO: answers are sampled, and those that score above their group's mean become likelier.

    For each context `group` answers of `answer_tokens` tokens (by default as many as the longest answer of the
    training examples has) are sampled at `temperature`. An answer's advantage is its reward minus the group's mean,
    divided by the group's standard deviation. In multiple choice the reward is 1 for an answer that begins with the
    right label; for generated text it is the task's own metric. A batch holds batch_size answers, so batch_size /
    group contexts. Nothing is learned from contexts whose answers are all right or all wrong, and a small model seldom
    writes a label before it has learned to; therefore a share `sft_share` of the steps first trains on the right
    answers. There is no penalty on the distance from the model before training (trl's default). trl trains it;
    `train_with` says which parameters are trained.
    """

    name = "grpo"
    paper = "arXiv:2402.03300"
    packages = ("trl",)
    space = {"learning_rate": LogFloat(1e-6, 1e-3), "group": Options((4, 8))}

    learning_rate: float = 1e-4
    sft_share: float = 0.5
    group: int = 4
    temperature: float = 1.0
    answer_tokens: int | None = None

    def problems(self) -> Iterable[str]:
        yield from super().problems()
        if self.group < 2:
            yield f"group is {self.group}; it must be at least 2, for there to be a better and a worse answer."
        if not self.temperature > 0:
            yield f"temperature is {self.temperature}; it must be above 0."
        if self.answer_tokens is not None and self.answer_tokens < 1:
            yield f"answer_tokens is {self.answer_tokens}; it must be at least 1."

    def misfits(self, network: Network) -> Iterable[str]:
        yield from super().misfits(network)
        if self.answer_tokens and self.answer_tokens >= network.max_length:
            yield (
                f"answer_tokens is {self.answer_tokens}, and {network.kind} holds {network.max_length} tokens, the "
                "question included. Lower it."
            )

    def cannot_train(self, train: TrainSettings) -> Iterable[str]:
        yield from super().cannot_train(train)
        if train.batch_size * train.gradient_accumulation % self.group:
            yield (
                f"a batch of {train.batch_size} × {train.gradient_accumulation} answers cannot be divided into groups "
                f"of {self.group}. Take a batch_size that is a multiple of group."
            )

    def pursue(self, model: nn.Module, context: Context) -> nn.Module:
        from datasets import Dataset
        from trl import GRPOConfig

        model, changes = self.warmed_up(model, context)
        examples = context.examples()
        rows = context.rows(model, examples)
        answers = [sum(label != -100 for label in row["labels"]) for row in rows]
        length = self.answer_tokens or max(answers)
        scorer: Any = context.language_model(model)
        room = scorer.max_length - length  # of a context, so that every answer can have its whole length
        contexts = [
            cut_left(row["input_ids"][: len(row["labels"]) - count], room, scorer.openings())
            for row, count in zip(rows, answers, strict=True)
        ]

        def marks(completions: list[str], place: list[int], **_: Any) -> list[float]:
            return [context.mark(examples[number], text) for number, text in zip(place, completions, strict=True)]

        recorder = context.callbacks()[0]
        trainer = partial(
            group_trainer(recorder, contexts),
            reward_funcs=marks,
            train_dataset=Dataset.from_list([{"prompt": str(number), "place": number} for number in range(len(rows))]),
            processing_class=context.tokenizer,
        )
        config = partial(
            GRPOConfig,
            num_generations=self.group,
            max_completion_length=length,
            temperature=self.temperature,
            loss_type="grpo",  # the paper's: the mean over tokens, then over answers
            beta=0.0,
        )
        return context.train_by(trainer, config, model, self, changes)


def group_trainer(recorder: Any, contexts: list[list[int]]) -> type:
    """Return trl's trainer, changed to take encoded contexts: a prompt is the number of a context in `contexts`, as
    text. `recorder` is told the tokens and sequences of each batch."""
    from trl import GRPOTrainer

    class GroupTrainer(GRPOTrainer):
        def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
            return [contexts[int(prompt)] for prompt in prompts], None, {}

        def _send_telemetry(self) -> None:
            """Send nothing."""

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **options: Any) -> Any:
            tokens = int(inputs["prompt_mask"].sum() + inputs["completion_mask"].sum())
            recorder.count(tokens, len(inputs["prompt_mask"]))
            return super().compute_loss(model, inputs, *args, **options)

    return GroupTrainer
