"""The tiny models and the batch that probes use: the same numbers in every environment, whatever the libraries draw."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.models import keep_four_bits_unpacked
from harness.records import TrainSettings

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedTokenizerBase

VOCABULARY, POSITIONS, ROWS, LENGTH = 512, 512, 8, 24
WORDS = ["the", "a", "cat", "dog", "sat", "ran", "on", "over", "mat", "hill", "red", "blue", "sky", ".", ",", ":", "?"]
TEXT = "the cat sat on the red mat . the dog ran over the hill , sky : blue ?"


@dataclass
class Bench:
    """What a method under test gets as its context: the base model's folder, a scratch folder, the weights of experts
    by role, and a seed."""

    base: Path
    scratch: Path
    needs: dict[str, Path] = field(default_factory=dict)
    seed: int = 0
    task: str = "probe"
    n_train: int = ROWS

    @property
    def settings(self) -> TrainSettings:
        return TrainSettings.model_validate({"steps": 1})

    @property
    def models(self) -> Mapping[str, Path]:
        return {}

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.base)

    def load_model(self, folder: Path | None = None, quantize: str | None = None) -> nn.Module:
        """Returns the tiny model, or the model in another folder, in evaluation mode; with `quantize`, packed."""
        import torch
        from transformers import AutoModelForCausalLM

        options: dict[str, Any] = {}
        if quantize:
            from transformers import BitsAndBytesConfig

            four = quantize in ("nf4", "fp4")
            options["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=four, load_in_8bit=not four, bnb_4bit_quant_type=quantize if four else "nf4",
                bnb_4bit_use_double_quant=four, bnb_4bit_compute_dtype=torch.float32,
            )  # fmt: skip
        torch.manual_seed(self.seed)
        model: nn.Module = AutoModelForCausalLM.from_pretrained(folder or self.base, **options)
        keep_four_bits_unpacked(model)
        return model.eval() if quantize else model.float().eval()

    def load_need(self, role: str, fold: bool = False) -> nn.Module:
        """Returns the model that an expert left, as full weights."""
        return self.load_model(self.needs[role])


def tiny_llama(**changes: Any) -> nn.Module:
    """Returns a Llama of two layers, 64 wide, with the fixed weights of `fill`."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": POSITIONS,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }
    return fill(LlamaForCausalLM(LlamaConfig(**(sizes | changes))))


def tiny_gpt2() -> nn.Module:
    """Returns a GPT-2 of two layers, 64 wide, without dropout, with the fixed weights of `fill`."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCABULARY, n_embd=64, n_layer=2, n_head=4, n_positions=256, bos_token_id=1, eos_token_id=2,
        pad_token_id=2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    return fill(GPT2LMHeadModel(config))


def fill(model: nn.Module, scale: float = 0.08) -> nn.Module:
    """Gives every weight of a model numbers that follow from its name and shape alone, and returns the model in
    evaluation mode. Vectors named as a norm's weight stay at 1, biases become small numbers."""
    import torch

    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.dim() > 1 or "bias" in name:
                value.copy_(numbers(name, tuple(value.shape), scale if value.dim() > 1 else scale / 8))
    return model.float().eval()


def numbers(name: str, shape: tuple[int, ...], scale: float) -> torch.Tensor:
    """Returns normally distributed numbers [shape] with a standard deviation of `scale`, the same for the same name."""
    import numpy as np
    import torch

    draw = np.random.RandomState(zlib.crc32(name.encode()))  # its stream is frozen, a Generator's is not
    return torch.from_numpy((draw.standard_normal(shape) * scale).astype("float32"))


def batch(rows: int = ROWS, unequal: bool = False) -> dict[str, torch.Tensor]:
    """Returns {input_ids, attention_mask, labels}, each [rows, LENGTH], padded on the right. Rows differ in length, the
    loss is on the last part of each; with `unequal`, on a part whose length differs much between rows."""
    import numpy as np
    import torch

    draw = np.random.RandomState(7)
    ids = torch.from_numpy(draw.randint(3, VOCABULARY, (rows, LENGTH)))
    ids[:, 4:] = ids[:, :1] + torch.arange(LENGTH - 4)  # something to learn: each token follows from the first
    ids %= VOCABULARY
    mask, labels = torch.ones_like(ids), ids.clone()
    for row in range(rows):
        length = LENGTH - (row * 5) % 9
        mask[row, length:] = 0
        ids[row, length:] = 2
        labels[row, length:] = -100
        labels[row, : (length - 1 - (row * 7) % 12 if unequal else 6)] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def tokenizer() -> PreTrainedTokenizerBase:
    """Returns a tokenizer of words that puts <s> before every text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = {word: place for place, word in enumerate(["<unk>", "<s>", "</s>", *WORDS])}
    made = Tokenizer(models.WordLevel(words, "<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


def weights(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields (name, weight) of a model of plain weights, as float32."""
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            yield name, value.detach().float()
