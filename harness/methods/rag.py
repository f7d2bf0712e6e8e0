"""Retrieval: the texts nearest to a question are put before it (Lewis et al. 2020); nothing is trained.

Over training examples it is nearest-neighbour few-shot prompting (Liu et al. 2021, arXiv:2101.06804).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.methods.base import Context, Footprint, Method, Network, Options
from harness.methods.predictors import prompted_lm

if TYPE_CHECKING:
    from lm_eval.api.model import LM
    from torch import nn

QUESTION, PASSAGES = "{question}", "{passages}"
VECTORS, TEXTS = "index.safetensors", "passages.json"
SENTENCE_END = re.compile(r"(?:(?<=[.!?])|(?<=[.!?][\"']))\s+")


class RAG(Method):
    """Retrieval (RAG): the nearest passages, or solved examples, before each question; no weight is trained.

    The sentence encoder `encoder` finds the nearest `passages` by cosine, among the cell's training examples with
    their answers or, with `store`, among the texts of that task's training split, cut into passages of whole sentences
    of about `words` words. `template` says where they stand ({passages}, {question}), the nearest one last and
    `separator` between them. A store is read as a whole, so such a cell has no size and no seed. Reading examples or
    documents is its training phase. Where the model's window is too short, the farthest passages are left out. On top
    of a tuned model (`method: [lora, rag]`), training sees the plain questions.
    """

    name = "rag"
    family = "no training"
    paper = "arXiv:2005.11401"
    trains = False
    packages = ("sentence_transformers",)
    foldable = False
    starts_at_base = "passages stand before the question"
    space = {"passages": Options((1, 2, 4, 8, 16)), "words": Options((32, 64, 128))}

    encoder: str = "minilm-l6"
    store: str | None = None
    passages: int = 8
    words: int = 64
    template: str = "{passages}\n\n{question}"
    separator: str = "\n\n"

    def __init__(self, **settings: object):
        super().__init__(**settings)
        self._encoder: Any = None
        self._texts: list[str] = []
        self._vectors: Any = None  # [texts, width], each of length 1

    @property
    def uses_data(self) -> bool:
        return self.store is None

    @property
    def prepares(self) -> bool:
        return True

    def borrows(self) -> tuple[str, ...]:
        return (self.encoder,)

    def reads(self, task: str) -> tuple[str, ...]:
        return (self.store,) if self.store else ()

    @property
    def serves(self) -> tuple[str, ...]:
        return ("base model", "encoder", "index")

    def problems(self) -> Iterable[str]:
        for name in ("passages", "words"):
            if getattr(self, name) < 1:
                yield f"{name} is {getattr(self, name)}; it must be at least 1."
        for mark in (PASSAGES, QUESTION):
            if self.template.count(mark) != 1:
                yield f"template is {self.template!r}; it must hold {mark} once."

    def footprint(self, network: Network) -> Footprint | None:
        return None  # how long its prompts are, only a tokenizer knows

    def fit(self, model: nn.Module, context: Context) -> nn.Module:
        if self.store:
            self._texts = [passage for text in context.texts(self.store) for passage in cut(text, self.words)]
        else:
            self._texts = [f"{one.context}{one.target}" for one in context.examples()]
        # Examples are found by their questions: an answer would draw them to questions that only sound like it.
        self._vectors = self._encode(
            context, self._texts if self.store else [one.context for one in context.examples()]
        )
        return model

    def predictor(self, model: nn.Module, context: Context) -> LM:
        return prompted_lm(
            context.language_model(model), context.task, lambda asked: self._nearest(context, asked), self._write
        )

    def _encode(self, context: Context, texts: list[str]) -> Any:
        if self._encoder is None:
            import torch
            from sentence_transformers import SentenceTransformer

            device = "cuda" if torch.cuda.is_available() else "cpu"
            self._encoder = SentenceTransformer(str(context.models[self.encoder]), device=device)
        return self._encoder.encode(
            texts, convert_to_tensor=True, normalize_embeddings=True, show_progress_bar=False
        ).cpu()

    def _nearest(self, context: Context, questions: list[str]) -> list[Sequence[str]]:
        """Return the nearest passages for each question, the nearest first."""
        if not questions:
            return []
        ranked = (self._encode(context, questions) @ self._vectors.T).argsort(dim=1, descending=True, stable=True)
        return [[self._texts[place] for place in row] for row in ranked[:, : self.passages].tolist()]

    def _write(self, found: Sequence[str], question: str, choices: list[str]) -> str:
        if not found:
            return question
        before, after = self.template.split(QUESTION)
        passages = self.separator.join(reversed(found))
        return before.replace(PASSAGES, passages) + question + after.replace(PASSAGES, passages)

    def save(self, model: nn.Module, folder: Path) -> None:
        from safetensors.torch import save_file

        folder.mkdir(parents=True)
        save_file({"vectors": self._vectors.contiguous()}, folder / VECTORS)
        (folder / TEXTS).write_text(json.dumps(self._texts, indent=1))

    def recall(self, context: Context, folder: Path) -> None:
        from safetensors.torch import load_file

        self._vectors = load_file(folder / VECTORS)["vectors"]
        self._texts = json.loads((folder / TEXTS).read_text())

    def restore(self, context: Context, folder: Path) -> nn.Module:
        self.recall(context, folder)
        return self.load(context)


def cut(text: str, words: int) -> Iterator[str]:
    """Yield a text as passages of whole sentences: each ends with the sentence that brings it to `words` words; the
    last one may be shorter."""
    held: list[str] = []
    for sentence in SENTENCE_END.split(text):
        held += sentence.split()
        if len(held) >= words:
            yield " ".join(held)
            held = []
    if held:
        yield " ".join(held)
