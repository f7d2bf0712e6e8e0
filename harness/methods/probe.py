"""Classification heads on the model's hidden states, in place of its output layer, alone or together with the body.

Linear probes: Alain & Bengio 2016, arXiv:1610.01644. Head and body: Radford et al. 2018; Howard & Ruder 2018,
arXiv:1801.06146.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.methods.base import (
    Context,
    Footprint,
    Group,
    LogFloat,
    Method,
    Network,
    Options,
    Row,
    context_length,
    cut_left,
)
from harness.methods.predictors import classifier_lm

if TYPE_CHECKING:
    import torch
    from lm_eval.api.model import LM

    from harness.data import Example

LABELS, WEIGHTS = "labels.json", "classifier.safetensors"


class Headed(Method):
    """A language model whose output layer is a classification head over the labels of the training examples.

    `pool` is what the head reads of a text's last hidden states: that of the `last` token, or their `mean`. A label
    that no training example has is never predicted.
    """

    family = "output layer"
    is_language_model = False
    foldable = False
    distributes = False
    starts_at_base = "its head is new: untrained, it gives every label the same probability"

    pool: Literal["last", "mean"] = "mean"

    @property
    def serves(self) -> tuple[str, ...]:
        return ("base model", "head")

    def footprint(self, network: Network) -> Footprint | None:
        return None  # how many labels there are, only the data know

    def load(self, context: Context) -> Any:
        labels = sorted({one.target.strip() for one in context.examples()})
        return with_head(context.load_model(quantize=self.quantize), labels, self.pool)

    def rows(self, model: Any, found: list[Example], context: Context) -> list[Row]:
        """Encode each text with one more place after it, at which the head predicts the label's number. Examples whose
        label the head does not have are left out."""
        kept = [one for one in found if one.target.strip() in model.labels]
        texts = encode(context, [one.context for one in kept], context.settings.max_length - 1)
        return [row(ids, model.labels.index(one.target.strip())) for ids, one in zip(texts, kept, strict=True)]

    def predictor(self, model: Any, context: Context) -> LM:
        size = context.settings.eval_batch_size
        window = (context_length(model.config.to_dict()) or context.settings.max_length + 1) - 1

        def chances(texts: list[str]) -> Any:
            states = pooled(model, [row(ids, 0) for ids in encode(context, texts, window)], size)
            return model.classify(states).softmax(-1).tolist()

        return classifier_lm(model.labels, chances)

    def save(self, model: Any, folder: Path) -> None:
        from safetensors.torch import save_file

        folder.mkdir(parents=True)
        kept = {name for name, value in model.named_parameters() if value.requires_grad} | {"mean", "scale"}
        tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
        save_file({name: value for name, value in tensors.items() if name in kept}, folder / WEIGHTS)
        (folder / LABELS).write_text(json.dumps(model.labels))

    def restore(self, context: Context, folder: Path) -> Any:
        from safetensors.torch import load_file

        labels = json.loads((folder / LABELS).read_text())
        model = with_head(context.load_model(quantize=self.quantize), labels, self.pool)
        model.load_state_dict(load_file(folder / WEIGHTS), strict=False)
        return model.eval()


class Classifier(Headed):
    """Classifier: a classification head in place of the output layer, trained together with the body.

    The classic recipe of transfer learning. The body learns at `learning_rate`, the new head at `head_learning_rate`.
    It trains the body's parameters and labels × (hidden + 1) of the head.
    """

    name = "classifier"
    instead_of_quantized = "Use linear_probe, or drop quantize."
    paper = "Radford et al. 2018"
    space = {
        "learning_rate": LogFloat(1e-6, 1e-3),
        "head_learning_rate": LogFloat(1e-4, 1e-1),
        "pool": Options(("last", "mean")),
    }

    learning_rate: float = 1e-4
    head_learning_rate: float = 1e-2

    @property
    def serves(self) -> tuple[str, ...]:
        return ("model",)  # the body is another than the base's

    def parameter_groups(self, model: Any) -> list[Group]:
        return [
            {"params": list(model.body.parameters()), "lr": self.learning_rate},
            {"params": list(model.head.parameters()), "lr": self.head_learning_rate},
        ]


class LinearProbe(Headed):
    """Linear probe: a classification head on the frozen model's hidden states, standardised over the examples.

    `solver` is `logistic`, a logistic regression solved to convergence (`strength` is the inverse of its L2 penalty),
    or `sgd`, with the suite's optimiser and steps at `learning_rate`. It trains labels × (hidden + 1) parameters. The
    base model does not change, but a classifier writes no text, so there is no retention to score.
    """

    name = "linear_probe"
    drafted_for = {"classification": "{}"}
    trains_quantized = True
    paper = "arXiv:1610.01644"
    packages = ("sklearn",)
    space = {
        "strength": LogFloat(1e-4, 1e1),
        "learning_rate": LogFloat(1e-4, 1e-1),
        "pool": Options(("last", "mean")),
    }

    solver: Literal["logistic", "sgd"] = "logistic"
    strength: float = 0.01
    learning_rate: float = 1e-2

    def __init__(self, **settings: object):
        super().__init__(**settings)
        idle = "strength" if self.solver == "sgd" else "learning_rate"
        self.declare(space={key: found for key, found in type(self).space.items() if key != idle})

    def problems(self) -> Iterable[str]:
        if self.strength <= 0:
            yield f"strength is {self.strength}; it must be above 0."

    def attach(self, model: Any) -> Any:
        model.requires_grad_(False)
        model.head.requires_grad_(True)
        return model

    def fit(self, model: Any, context: Context) -> Any:
        rows = self.rows(model, context.examples(), context)
        states = pooled(model, rows, context.settings.eval_batch_size)
        model.mean.copy_(states.mean(0))
        spread = states.std(0, correction=0)
        model.scale.copy_(spread.where(spread > 0, 1.0))
        if self.solver == "sgd":
            return context.train(model, self)
        if model.labels[1:]:
            regress(model, states, [one["labels"][-1] for one in rows], self.strength)
        return model


def regress(model: Any, states: torch.Tensor, labels: list[int], strength: float) -> None:
    """Fit a logistic regression of `labels` (one number a text) on states [texts, hidden], standardised by the model's
    `mean` and `scale`, and set the model's head to it. `strength` is the inverse of its L2 penalty."""
    import torch
    from sklearn.linear_model import LogisticRegression

    features = ((states - model.mean) / model.scale).double().cpu().numpy()
    solved = LogisticRegression(C=strength, max_iter=1000).fit(features, labels)
    weight, bias = torch.from_numpy(solved.coef_), torch.from_numpy(solved.intercept_)
    if len(weight) == 1:  # of two labels scikit-learn gives the second's, against 0 for the first
        weight, bias = torch.cat([0 * weight, weight]), torch.cat([0 * bias, bias])
    with torch.no_grad():
        model.head.weight.copy_(weight)
        model.head.bias.copy_(bias)


def with_head(base: Any, labels: list[str], pool: str) -> Any:
    """Return the decoder of a causal model with a classification head, which starts at zero, in place of its output
    layer. It has an output for each of `labels`; `pool` says what it reads: the hidden state of the "last" token, or
    the "mean"."""
    import torch
    from transformers.modeling_outputs import CausalLMOutput

    class Classifying(torch.nn.Module):
        """A classifier that maps token ids [batch, length] to logits [batch, places, labels]: at each place, of the
        text up to there.

        It is trained and measured like a language model, by its prediction at a place.
        """

        mean: torch.Tensor
        scale: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            width = base.get_input_embeddings().embedding_dim
            device = base.get_input_embeddings().weight.device
            self.body, self.config, self.labels = base.get_decoder(), base.config, labels
            self.head = torch.nn.Linear(width, len(labels), device=device)
            torch.nn.init.zeros_(self.head.weight)
            torch.nn.init.zeros_(self.head.bias)
            self.register_buffer("mean", torch.zeros(width, device=device))
            self.register_buffer("scale", torch.ones(width, device=device))

        def states(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
            """Return the hidden states that the head reads at each place: [batch, length, hidden]."""
            hidden = self.body(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
            if pool == "last":
                return hidden
            counts = torch.arange(1, hidden.shape[1] + 1, device=hidden.device)
            return hidden.cumsum(1) / counts[:, None]

        def classify(self, states: torch.Tensor) -> torch.Tensor:
            return self.head((states - self.mean) / self.scale)

        def forward(
            self,
            input_ids: torch.Tensor,
            attention_mask: torch.Tensor | None = None,
            logits_to_keep: Any = slice(None),
            use_cache: bool = False,
        ) -> CausalLMOutput:
            return CausalLMOutput(logits=self.classify(self.states(input_ids, attention_mask)[:, logits_to_keep]))

        def gradient_checkpointing_enable(self, *args: Any, **options: Any) -> None:
            self.body.gradient_checkpointing_enable(*args, **options)

    return Classifying().eval()


def encode(context: Context, texts: list[str], most: int) -> list[list[int]]:
    """Return the token ids of each text. A text of more than `most` tokens keeps its last ids and those that open every
    text, `most` in all; an empty text gets one token."""
    ids = context.tokenizer(texts)["input_ids"] if texts else []
    openings = [context.tokenizer("")["input_ids"]]
    return [cut_left(one, most, openings) or [context.tokenizer.eos_token_id or 0] for one in ids]


def row(ids: list[int], label: int) -> dict[str, list[int]]:
    """Return a text as the training loop takes it, {input_ids, labels}: after its last token the `label` (its number)
    is predicted."""
    return {"input_ids": [*ids, 0], "labels": [-100] * len(ids) + [label]}


def pooled(model: Any, rows: Sequence[Row], batch_size: int) -> torch.Tensor:
    """Return the hidden state that the head of `model` reads of each text: [texts, hidden], in fp32. `rows` are those
    of `row`, whose last place is not read."""
    import torch

    by_text: list[torch.Tensor] = [torch.empty(0)] * len(rows)
    ranked = sorted(range(len(rows)), key=lambda place: len(rows[place]["input_ids"]))
    device = model.head.weight.device
    for start in range(0, len(ranked), batch_size):
        batch = ranked[start : start + batch_size]
        texts = [rows[place]["input_ids"][:-1] for place in batch]
        longest = len(texts[-1])
        ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids in texts], device=device)
        with torch.no_grad():
            states = model.states(ids)
        for rank, place in enumerate(batch):
            by_text[place] = states[rank, len(texts[rank]) - 1].float()
    return torch.stack(by_text)
