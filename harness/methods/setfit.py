"""SetFit: a sentence encoder tuned on pairs, then a small head (Tunstall et al. 2022, arXiv:2209.11055)."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.methods.base import Context, LogFloat, Method, Options
from harness.methods.predictors import classifier_lm

if TYPE_CHECKING:
    from lm_eval.api.model import LM

HEAD, LABELS = "head.safetensors", "labels.json"
Pair = tuple[int, int, float]  # the numbers of two examples, and 1 where they have the same label, else 0


class SetFit(Method):
    """SetFit: contrastive tuning of a sentence encoder, then a small head; classification only.

    The sentence encoder `encoder` is tuned at `learning_rate` on pairs of texts, in batches of `pair_batch`. Each
    example is paired with `pairs` other texts of its label and with as many of other labels, drawn by the cell's seed;
    a text comes again when all others have. A label with a single text has no positive pairs. The pairs set the work of
    tuning; the suite's steps do not. Then the `head` is fitted on the frozen embeddings: a `logistic` regression, or a
    `differentiable` one (a linear layer and a softmax), trained for `head_epochs` at `head_learning_rate`.
    """

    name = "setfit"
    drafted_for = {"classification": "{}"}
    instead_of_quantized = "Its encoder is trained in full: drop quantize."
    paper = "arXiv:2209.11055"
    family = "few-shot"
    is_language_model = False
    foldable = False
    distributes = False
    own_trainer = True
    packages = ("setfit",)
    starts_at_base = "another model answers: its own encoder with a new head"
    space = {
        "learning_rate": LogFloat(1e-6, 1e-4),
        "pairs": Options((5, 10, 20)),
        "head": Options(("logistic", "differentiable")),
    }

    learning_rate: float = 2e-5
    encoder: str = "minilm-l6"
    pairs: int = 5
    pair_batch: int = 16
    head: Literal["logistic", "differentiable"] = "logistic"
    head_epochs: int = 25
    head_learning_rate: float = 1e-2

    def own_model(self) -> str | None:
        return self.encoder

    def problems(self) -> Iterable[str]:
        for name in ("pairs", "pair_batch", "head_epochs"):
            if getattr(self, name) < 1:
                yield f"{name} is {getattr(self, name)}; it must be at least 1."

    def load(self, context: Context) -> Any:
        return self._model(context.base, sorted({example.target.strip() for example in context.examples()}))

    def _model(self, folder: Path, labels: list[str]) -> Any:
        """Load the sentence encoder of a folder, with a head that is not fitted yet."""
        import torch
        from sentence_transformers import SentenceTransformer
        from setfit import SetFitHead, SetFitModel
        from sklearn.linear_model import LogisticRegression

        device = "cuda" if torch.cuda.is_available() else "cpu"
        body = SentenceTransformer(str(folder), device=device)
        head: Any = LogisticRegression()
        if self.head == "differentiable":
            width = body.get_embedding_dimension()
            head = SetFitHead(in_features=width, out_features=len(labels), device=device)
        return SetFitModel(model_body=body, model_head=head, labels=labels)

    def fit(self, model: Any, context: Context) -> Any:
        from datasets import Dataset
        from setfit import TrainingArguments

        examples = context.examples()
        texts, body = [one.context for one in examples], model.model_body
        # Each text is padded to this when a differentiable head is trained: without it, to all that the encoder takes.
        longest = max(map(len, body.tokenizer(texts)["input_ids"]))
        arguments = TrainingArguments(
            output_dir=str(context.scratch),
            batch_size=self.pair_batch,
            num_epochs=(1, self.head_epochs),
            body_learning_rate=self.learning_rate,
            head_learning_rate=self.head_learning_rate,
            max_length=min(longest, body.get_max_seq_length() or longest),
            seed=context.seed,
            report_to="none",
            save_strategy="no",
            logging_steps=1,
            show_progress_bar=False,
        )
        numbers = [model.labels.index(one.target.strip()) for one in examples]
        data = Dataset.from_dict({"text": texts, "label": numbers})
        pairs = draw_pairs(texts, numbers, self.pairs, context.seed)
        trainer = pair_trainer(pairs)(model=model, args=arguments, train_dataset=data, callbacks=context.callbacks())
        if pairs:
            trainer.train()
        else:  # a single text: there is nothing to tell it apart from
            trainer.train_classifier(texts, numbers)
        if self.head == "logistic":  # rows in memory as they are saved: another order would round otherwise
            model.model_head.coef_ = model.model_head.coef_.copy(order="C")
        return model

    def predictor(self, model: Any, context: Context) -> LM:
        return classifier_lm(model.labels, lambda texts: model.predict_proba(texts, as_numpy=True))

    def save(self, model: Any, folder: Path) -> None:
        """Write the encoder as sentence-transformers saves it, with the head's coefficients and the labels beside
        it."""
        import torch
        from safetensors.torch import save_file

        model.model_body.save(str(folder), create_model_card=False)
        if self.head == "logistic":
            names = ("coef_", "intercept_", "classes_")
            tensors = {name: torch.from_numpy(getattr(model.model_head, name)) for name in names}
        else:
            tensors = {name: value.cpu().contiguous() for name, value in model.model_head.state_dict().items()}
        save_file(tensors, folder / HEAD)
        (folder / LABELS).write_text(json.dumps(model.labels))

    def restore(self, context: Context, folder: Path) -> Any:
        from safetensors.torch import load_file

        model = self._model(folder, json.loads((folder / LABELS).read_text()))
        tensors = load_file(folder / HEAD)
        if self.head == "differentiable":
            model.model_head.load_state_dict(tensors)
        else:
            for name, value in tensors.items():
                setattr(model.model_head, name, value.numpy())
        return model


def draw_pairs(texts: Sequence[str], labels: Sequence[int], count: int, seed: int) -> list[Pair]:
    """Draw, for each example, `count` pairs with other texts of its label and `count` pairs with texts of other labels.

    Returns (number of the example, number of its partner, 1.0 for the same label or 0.0). They are drawn, not chosen
    from a list of all pairs, of which 10,000 texts have 50 million. No text is paired with itself, also where several
    examples have it. Partners of one example differ as long as there are enough of them.
    """
    order = random.Random(seed)
    distinct: dict[tuple[int, str], int] = {}  # (label, text) -> the first example that has them
    for number, (label, text) in enumerate(zip(labels, texts, strict=True)):
        distinct.setdefault((label, text), number)
    entries = sorted(distinct)  # entries of one label are next to each other
    sizes = Counter(label for label, _ in entries)
    starts = dict(zip(sizes, accumulate(sizes.values(), initial=0), strict=False))  # in the order of the entries
    places = {entry: place for place, entry in enumerate(entries)}
    known_as: Counter[str] = Counter(text for _, text in entries)  # labels by which a text goes
    pairs: list[Pair] = []
    for number, (label, text) in enumerate(zip(labels, texts, strict=True)):
        start, size = starts[label], sizes[label]
        own = places[label, text]
        alike = drawn(order, size - 1, count)
        pairs += [(number, distinct[entries[start + place + (start + place >= own)]], 1.0) for place in alike]
        outside = len(entries) - size
        # Of a text that other labels have as well, those entries are drawn and left out.
        more = drawn(order, outside, count + (known_as[text] - 1) * count)
        others = (entries[place + size * (place >= start)] for place in more)
        unlike = [distinct[entry] for entry in others if entry[1] != text]
        pairs += [(number, other, 0.0) for other in unlike[:count]]
    return pairs


def drawn(order: random.Random, among: int, count: int) -> list[int]:
    """Draw `count` numbers from 0 to `among` - 1 with the random numbers of `order`; each comes again only when all
    others have come as often. Empty where `among` is below 1."""
    if among < 1:
        return []
    rounds, rest = divmod(count, among)
    numbers: list[int] = []
    for _ in range(rounds):
        numbers += order.sample(range(among), among)
    return numbers + order.sample(range(among), rest)


def pair_trainer(pairs: Sequence[Pair]) -> Any:
    """Return a subclass of setfit's trainer that trains on these `pairs` of examples and draws none itself."""
    from datasets import Dataset
    from setfit import Trainer

    class PairTrainer(Trainer):
        def get_dataset(self, x: list[str], y: list[int], args: Any, max_pairs: int = -1) -> tuple[Any, Any]:
            one, other, same = zip(*pairs, strict=True)
            numbered = Dataset.from_dict({"sentence_1": one, "sentence_2": other, "label": same})

            def written(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
                """Replace the numbers of a batch by their texts, so that each text is in memory once."""
                return {name: of if name == "label" else [x[number] for number in of] for name, of in batch.items()}

            return numbered.with_transform(written), args.loss(self.model.model_body)

    return PairTrainer
