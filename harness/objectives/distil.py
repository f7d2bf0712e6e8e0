"""Distillation: a student learns a frozen teacher's answers, and how sure the teacher is of them.

Soft targets: Hinton, Vinyals & Dean 2015, arXiv:1503.02531. Hidden states: patient distillation, Sun et al. 2019,
arXiv:1908.09355. The teacher's own answers as targets: Kim & Rush 2016, arXiv:1606.07947.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.objectives.base import (
    Batch,
    Context,
    Expert,
    LogFloat,
    Method,
    Objective,
    Options,
    Settings,
    decoder_layers,
)

if TYPE_CHECKING:
    import torch
    from torch import nn

    from harness.data import Example

ROLE = "teacher"


class Distil(Objective):
    """Distillation from a teacher: (1 - alpha) · cross-entropy + alpha · T² · KL(teacher / T || student / T).

    `teacher` is {method, and that method's settings}: a cell of the same plan, trained on the same task, size and seed
    (with `model:` from another base model); or {model} alone: that base model itself. `alpha` is the teacher's share
    and `temperature` the T by which the logits of both are divided, at the positions that predict an answer, as a mean
    over its tokens. `hidden` adds hidden · |s/|s| - t/|t||² of the hidden states after each student layer and the
    teacher layer at the same relative depth, as a mean over layers and tokens; both must have the same width, since a
    projection between two widths would be trained as well. Comparing logits needs the same vocabulary. `targets:
    answers` needs none of this: the teacher answers the training questions (the likeliest choice, or greedy text), and
    the student learns those answers in place of the right ones; validation examples keep the right answers.
    """

    name = "distil"
    paper = "arXiv:1503.02531"
    space = {"alpha": Options((0.25, 0.5, 0.75, 1.0)), "temperature": LogFloat(1.0, 8.0)}

    teacher: Settings = {}
    targets: Literal["logits", "answers"] = "logits"
    temperature: float = 2.0
    alpha: float = 0.5
    hidden: float = 0.0

    @property
    def task_weight(self) -> float:
        return 1.0 if self.targets == "answers" else 1.0 - self.alpha

    def problems(self) -> Iterable[str]:
        if not self.teacher:
            yield "teacher is missing: teacher: {method: full}, a cell of the plan; or {model: NAME}, untouched."
        for key in ("method", "model"):
            if key in self.teacher and not isinstance(self.teacher[key], str):
                yield f"teacher.{key} is {self.teacher[key]!r}; it must be a name."
        extra = sorted(set(self.teacher) - {"model"})
        if "method" not in self.teacher and extra:
            yield f"teacher has {', '.join(extra)} and no method. Name the method that has these settings."
        if not 0 <= self.alpha <= 1:
            yield f"alpha is {self.alpha}; it must be from 0 to 1."
        if self.temperature <= 0:
            yield f"temperature is {self.temperature}; it must be above 0."
        if self.hidden < 0:
            yield f"hidden is {self.hidden}; it must be at least 0."
        if self.targets == "answers":
            for key in ("temperature", "alpha", "hidden"):
                if getattr(self, key) != self.fields()[key]:
                    yield f"{key} has no effect on targets: answers, which are learned like the right ones. Drop it."

    def refuses_need(self, expert: Method) -> Iterable[str]:
        own_answers = type(expert).predictor is not Method.predictor
        if not (expert.trains and expert.is_language_model) or own_answers or list(expert.wants("?")):
            yield (
                f"{expert.name} cannot be a teacher: one is a language model with trained weights of its own. "
                "Name another method, or {model: NAME} for an base model."
            )

    def wants(self, task: str) -> Iterable[Expert]:
        if "method" in self.teacher:
            settings = {key: value for key, value in self.teacher.items() if key not in ("method", "model")}
            yield Expert(ROLE, self.teacher["method"], settings, task, self.teacher.get("model"))

    def borrows(self) -> tuple[str, ...]:
        return (self.teacher["model"],) if set(self.teacher) == {"model"} else ()

    # --- working ---

    def examples(self, found: list[Example], context: Context) -> list[Any]:
        return (
            answered(found, context.language_model(self._load(context), self._base(context)))
            if self.targets == "answers"
            else found
        )

    @property
    def reads_states(self) -> bool:
        return bool(self.hidden)

    def prepare(self, model: nn.Module, context: Context) -> None:
        if self.targets == "answers":
            return
        check_vocabulary(context.base, self._base(context))
        self._context, self._teacher = context, self._load(context)
        if self.hidden:
            self._pairs = pair_layers(model, self._teacher)

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        import torch
        from torch.nn.functional import kl_div, log_softmax

        if self.targets == "answers":
            return batch.logits.new_zeros(())
        with torch.no_grad():
            ask = self._context.padded_logits if self.reads_states else self._context.answer_logits
            taught = ask(self._teacher, batch.input_ids, batch.labels, batch.attention_mask)
        real = batch.targets != -100
        wanted = log_softmax(taught.logits[taught.targets != -100].float() / self.temperature, dim=-1)
        logs = log_softmax(batch.logits[real].float() / self.temperature, dim=-1)
        divergence = kl_div(logs, wanted, reduction="sum", log_target=True) / real.sum()
        term = self.alpha * self.temperature**2 * divergence
        return term + self.hidden * self._apart(batch.attention_mask) if self.hidden else term

    def _apart(self, mask: torch.Tensor) -> torch.Tensor:
        """Return the mean squared distance of paired hidden states, each scaled to length one, over all tokens but
        padding."""
        import torch
        from torch.nn.functional import normalize

        real, length = mask.bool(), mask.shape[1]  # a soft prompt stands before the input
        parts = [
            (normalize(one()[:, -length:].float(), dim=-1) - normalize(other()[:, -length:].float(), dim=-1))[real]
            for one, other in self._pairs
        ]
        return torch.stack([part.square().sum(dim=-1).mean() for part in parts]).mean()

    def _load(self, context: Context) -> nn.Module:
        model = context.load_need(ROLE) if "method" in self.teacher else context.load_model(self._base(context))
        return model.requires_grad_(False).eval()

    def _base(self, context: Context) -> Path:
        """Return the folder of the teacher's base model."""
        return context.models[self.teacher["model"]] if "model" in self.teacher else context.base


def answered(found: list[Example], lm: Any) -> list[Any]:
    """Return the examples with the answers of `lm`, an lm-eval model, in place of the right ones: the likeliest choice,
    or generated text where there are no choices."""
    from lm_eval.api.instance import Instance

    def ask(kind: str, asked: list[tuple[Any, ...]]) -> list[Any]:
        requests = [Instance(kind, {}, arguments, place) for place, arguments in enumerate(asked)]
        return getattr(lm, kind)(requests, disable_tqdm=True) if requests else []

    chosen = [one for one in found if one.choices]
    open_ones = [one for one in found if not one.choices]
    values = iter(ask("loglikelihood", [(one.context, choice) for one in chosen for choice in one.choices]))
    best = iter([max(zip([next(values)[0] for _ in one.choices], one.choices, strict=True))[1] for one in chosen])
    said = iter(ask("generate_until", [(one.context, dict(one.generation)) for one in open_ones]))
    return [replace(one, target=next(best) if one.choices else next(said).rstrip()) for one in found]


def check_vocabulary(student: Path, teacher: Path) -> None:
    """Raise ValueError when a token id can mean different texts for student and teacher, given the folders of their
    base models."""
    if student == teacher:
        return
    from transformers import AutoTokenizer

    one, other = (
        AutoTokenizer.from_pretrained(folder, trust_remote_code=False).get_vocab() for folder in (student, teacher)
    )
    if one != other:
        raise ValueError(
            f"student and teacher have different vocabularies ({len(one)} and {len(other)} tokens, "
            f"{len(one.items() & other.items())} of them alike), so their logits cannot be compared. "
            "Use targets: answers."
        )


Kept = Callable[[], Any]


def pair_layers(student: nn.Module, teacher: nn.Module) -> list[tuple[Kept, Kept]]:
    """Pair each student layer with the teacher layer at the same share of the depth.

    Returns, for each student layer from the lowest up, (function that gives the student layer's last output, the same
    for the teacher layer). Raises ValueError for models of different width.
    """
    sides = []
    for model in (student, teacher):
        inner: Any = getattr(model, "get_base_model", lambda model=model: model)()
        sides.append((inner.config.get_text_config().hidden_size, decoder_layers(inner)))
    (width, layers), (other, above) = sides
    if width != other:
        raise ValueError(
            f"hidden states of the student are {width} wide, the teacher's {other}: they cannot be compared. "
            "Drop hidden, or take a teacher of the same width."
        )
    paired = [above[(place + 1) * len(above) // len(layers) - 1] for place in range(len(layers))]
    return [(keep(one, True), keep(two, False)) for one, two in zip(layers, paired, strict=True)]


def keep(layer: nn.Module, training: bool) -> Kept:
    """Return a function that gives the last output that a layer had in training mode (`training`) or else in evaluation
    mode. Students are kept in training mode only, so that scoring leaves nothing behind."""
    kept: dict[str, Any] = {}

    def hook(module: nn.Module, given: Any, made: Any) -> None:
        if module.training is training:
            kept["made"] = made[0] if isinstance(made, tuple) else made

    layer.register_forward_hook(hook)
    return lambda: kept["made"]
