"""Soft prompts: trained vectors in front of the input.

Prompt tuning: Lester et al. 2021, arXiv:2104.08691. P-tuning: Liu et al. 2021, arXiv:2103.10385.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal

from harness.methods.base import Footprint, LogFloat, Method, Network, Options

if TYPE_CHECKING:
    from torch import nn


def without_heads(name: str, network: Network) -> Iterable[str]:
    """Yield why a soft prompt cannot be put before a network's input: peft wants to know its attention heads."""
    if network.stateful or not network.heads:
        yield f"{name} wants a model with attention, which {network.kind} is not throughout. Use lora, or bitfit."


class PromptTuning(Method):
    """Prompt tuning: trained vectors before the input, started from a text or at random.

    With `init` text they start at the embeddings of `init_text`, whose choice decides much of what is learned. Without
    `virtual_tokens` the prompt is as long as its text (20 when it starts at random). It learns at `learning_rate`, and
    trains virtual tokens × hidden numbers.
    """

    name = "prompt_tuning"
    trains_quantized = True
    wraps = True
    packages = ("peft",)
    paper = "arXiv:2104.08691"
    starts_at_base = "the prompt stands before every input from the start"
    family = "additive"
    foldable = False
    space = {"learning_rate": LogFloat(1e-3, 1e-1)}

    learning_rate: float = 1e-2
    init: Literal["text", "random"] = "text"
    init_text: str = "Read the text below and answer with the one label that fits it best."
    virtual_tokens: int | None = None

    def problems(self) -> Iterable[str]:
        if self.virtual_tokens is not None and self.virtual_tokens < 1:
            yield f"virtual_tokens is {self.virtual_tokens}; it must be at least 1."
        if self.init == "text" and not self.init_text.strip():
            yield "init_text is empty. Give a text, or init: random."

    def misfits(self, network: Network) -> Iterable[str]:
        yield from without_heads(self.name, network)

    def footprint(self, network: Network) -> Footprint | None:
        # Of a text, about four letters to a token: only a tokenizer knows, and planning has none.
        guess = len(self.init_text) // 4 + 1 if self.init == "text" else 20
        count = self.virtual_tokens or guess
        return Footprint({"prompt": (count, network.hidden)}, virtual_tokens=count)

    def tokens_before(self, network: Network, length: Callable[[str], int]) -> int:
        return self._length(length) if self.init == "text" else self.virtual_tokens or 20

    def attach(self, model: nn.Module) -> nn.Module:
        from peft import PromptTuningConfig, PromptTuningInit, get_peft_model
        from transformers import AutoTokenizer

        folder = str(model.name_or_path)
        if self.init == "random":
            config = PromptTuningConfig(
                task_type="CAUSAL_LM",
                prompt_tuning_init=PromptTuningInit.RANDOM,
                num_virtual_tokens=self.virtual_tokens or 20,
            )
        else:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            config = PromptTuningConfig(
                task_type="CAUSAL_LM",
                prompt_tuning_init=PromptTuningInit.TEXT,
                prompt_tuning_init_text=self.init_text,
                num_virtual_tokens=self._length(lambda text: len(tokenizer(text)["input_ids"])),
                tokenizer_name_or_path=folder,
            )
        return get_peft_model(model, config)

    def _length(self, length: Callable[[str], int]) -> int:
        """Return the number of virtual tokens for the text, whose tokens `length` counts. Raises ValueError for a text
        with more tokens than `virtual_tokens`, which peft would silently cut."""
        needed = length(self.init_text)
        if self.virtual_tokens is not None and needed > self.virtual_tokens:
            raise ValueError(
                f"init_text is {needed} tokens long, virtual_tokens is {self.virtual_tokens}: the text would "
                f"be cut. Shorten it, raise virtual_tokens to {needed}, or leave virtual_tokens out."
            )
        return self.virtual_tokens or needed


class PTuning(Method):
    """P-tuning: a soft prompt that a small trained network (an encoder) makes from trained vectors.

    `virtual_tokens` is the length of the prompt, `encoder` the network (mlp: three linear layers; lstm: two
    bidirectional layers and two linear ones), `encoder_width` the width of its inner layers (by default the model's
    own). Vectors and encoder learn at `learning_rate`. `init` says what the untrained encoder gives: text, the
    embeddings of `init_text`, repeated or cut to that length; random, peft's own initial values, which learn slowly
    from few examples. The encoder is needed for training only: the prompt alone is saved. With width w, an mlp trains
    virtual tokens × hidden + (hidden w + w) + (w² + w) + (w hidden + hidden) numbers.
    """

    name = "p_tuning"
    trains_quantized = True
    wraps = True
    packages = ("peft",)
    paper = "arXiv:2103.10385"
    starts_at_base = "the prompt stands before every input from the start"
    family = "additive"
    foldable = False
    space = {"learning_rate": LogFloat(1e-4, 1e-2), "virtual_tokens": Options((8, 16, 32))}

    learning_rate: float = 1e-3
    virtual_tokens: int = 16
    encoder: Literal["mlp", "lstm"] = "mlp"
    encoder_width: int | None = None
    init: Literal["text", "random"] = "text"
    init_text: str = "Read the text below and answer with the one label that fits it best."

    def problems(self) -> Iterable[str]:
        if self.init == "text" and not self.init_text.strip():
            yield "init_text is empty. Give a text, or init: random."
        if self.virtual_tokens < 1:
            yield f"virtual_tokens is {self.virtual_tokens}; it must be at least 1."
        if self.encoder_width is not None and self.encoder_width < 1:
            yield f"encoder_width is {self.encoder_width}; it must be at least 1."

    def misfits(self, network: Network) -> Iterable[str]:
        yield from without_heads(self.name, network)

    def footprint(self, network: Network) -> Footprint | None:
        hidden, wide = network.hidden, self.encoder_width or network.hidden
        linears = [(hidden, wide), (wide, wide), (wide, hidden)]
        trained: dict[str, tuple[int, ...]] = {"prompt": (self.virtual_tokens, hidden)}
        if self.encoder == "lstm":
            linears = [(2 * wide, 2 * wide), (2 * wide, hidden)]
            for layer, into in enumerate((hidden, 2 * wide)):
                for way in ("forward", "backward"):  # each has four gates, with two matrices and two biases
                    name = f"lstm.{layer}.{way}"
                    trained |= {f"{name}.input": (4 * wide, into), f"{name}.state": (4 * wide, wide)}
                    trained |= {f"{name}.bias.{place}": (4 * wide,) for place in (0, 1)}
        for layer, (into, out) in enumerate(linears):
            trained |= {f"mlp.{layer}.weight": (out, into), f"mlp.{layer}.bias": (out,)}
        return Footprint(trained, virtual_tokens=self.virtual_tokens)

    def attach(self, model: nn.Module) -> nn.Module:
        from peft import PromptEncoderConfig, get_peft_model

        config = PromptEncoderConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=self.virtual_tokens,
            encoder_reparameterization_type=self.encoder.upper(),
            encoder_hidden_size=self.encoder_width or model.config.get_text_config().hidden_size,  # type: ignore
        )
        adapted = get_peft_model(model, config)
        if self.init == "text":
            self._start(adapted.prompt_encoder["default"], model)
        return adapted

    def _start(self, encoder: Any, model: Any) -> None:
        """Set the encoder's last layer, by least squares, so that the encoder returns the embeddings of the text."""
        import torch
        from transformers import AutoTokenizer

        ids = AutoTokenizer.from_pretrained(str(model.name_or_path), trust_remote_code=False)(self.init_text)[
            "input_ids"
        ]
        words = model.get_input_embeddings()
        places = torch.arange(self.virtual_tokens, device=words.weight.device)
        inner: list[torch.Tensor] = []
        last = encoder.mlp_head[-1]
        handle = last.register_forward_pre_hook(lambda _, given: inner.append(given[0]))
        with torch.no_grad():
            encoder(places[None])
            handle.remove()
            wanted = words(torch.tensor(ids, device=places.device)[places % len(ids)])
            last.bias.zero_()
            last.weight.copy_((torch.linalg.pinv(inner[0][0]) @ wanted).T)
