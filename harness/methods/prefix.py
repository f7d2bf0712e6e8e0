"""Prefix tuning: trained keys and values before those of the input, in every layer (Li & Liang 2021)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from harness.methods.base import Footprint, LogFloat, Method, Network, Options, TrainSettings

if TYPE_CHECKING:
    import torch
    from torch import nn


class PrefixTuning(Method):
    """Prefix tuning: trained keys and values that every layer attends to, before those of the input.

    `virtual_tokens` is their number in each layer; they learn at `learning_rate`. `init` sets their initial values:
    "text" takes the keys and values that the base model computes for `init_text`, repeated or cut to that many tokens;
    "words" those of random words; "random" standard normal numbers. The paper found that activations of real words are
    a much better start than random numbers. It trains virtual tokens × 2 layers × keys (key heads × their width)
    numbers.
    """

    name = "prefix_tuning"
    trains_quantized = True
    wraps = True
    packages = ("peft",)
    paper = "arXiv:2101.00190"
    family = "additive"
    foldable = False
    starts_at_base = "the prefix stands before every input from the start"
    space = {"learning_rate": LogFloat(1e-4, 1e-1), "virtual_tokens": Options((8, 16, 32))}

    learning_rate: float = 1e-2
    virtual_tokens: int = 16
    init: Literal["text", "words", "random"] = "text"
    init_text: str = "Read the text below and answer with the one label that fits it best."

    def problems(self) -> Iterable[str]:
        if self.virtual_tokens < 1:
            yield f"virtual_tokens is {self.virtual_tokens}; it must be at least 1."
        if self.init == "text" and not self.init_text.strip():
            yield "init_text is empty. Give a text, or init: words."

    def cannot_train(self, train: TrainSettings) -> Iterable[str]:
        if train.gradient_checkpointing:
            yield (
                f"{self.name} does not go with gradient_checkpointing: layers that are run again have no prefix. "
                "Give it train: {gradient_checkpointing: false}."
            )

    def misfits(self, network: Network) -> Iterable[str]:
        if network.stateful or not network.attends:
            yield (
                f"prefix_tuning trains keys and values, and {network.kind} has layers without attention. Use lora, or "
                "prompt_tuning."
            )

    def footprint(self, network: Network) -> Footprint | None:
        keys = sum(
            network.weights[name][0]
            for layer in network.layers
            for short, name in layer.items()
            if short.endswith(("k_proj.weight", "v_proj.weight"))
        )
        return Footprint({"prefix": (self.virtual_tokens, keys)}, prefix_tokens=self.virtual_tokens)

    def attach(self, model: nn.Module) -> nn.Module:
        from peft import PrefixTuningConfig, get_peft_model

        start = self._start(model)
        config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=self.virtual_tokens)
        adapted = get_peft_model(model, config)
        if start is not None:
            from peft.tuners.cartridge.utils import initialize_kv_prefix_from_past_key_values

            initialize_kv_prefix_from_past_key_values(adapted, past_key_values=start)
        return adapted

    def _start(self, model: Any) -> Any:
        """Return the initial keys and values, those of real words, as the model's own cache; None for random
        numbers."""
        import torch

        if self.init == "random":
            return None
        ids = self._words(model)[None].to(next(model.parameters()).device)
        with torch.no_grad():
            return model(input_ids=ids, use_cache=True).past_key_values

    def _words(self, model: Any) -> torch.Tensor:
        """Return the token ids [virtual_tokens] of the words whose keys and values the prefix starts from."""
        import torch
        from transformers import AutoTokenizer

        if self.init == "words":
            return torch.randint(0, model.config.get_text_config().vocab_size, (self.virtual_tokens,))
        ids = AutoTokenizer.from_pretrained(str(model.name_or_path), trust_remote_code=False)(self.init_text)[
            "input_ids"
        ]
        return torch.tensor([ids[place % len(ids)] for place in range(self.virtual_tokens)])
