"""Counts the FLOPs of training and measures how fast a device multiplies matrices; utilisation is made of both.

Model FLOPs utilisation (Chowdhery et al. 2022, arXiv:2204.02311, appendix B) is the rate of the operations that a
model's training calls for, over the most that the device can do. Counted are, as there and in Kaplan et al. 2020
(arXiv:2001.08361, section 2.1), matrix multiplications alone, at two operations a multiplication and addition:

- a matrix of n numbers takes 2n for each token on the way forward, 2n more on the way back where the gradient must go
  on through it (something is trained before it), and 2n for its own gradient where it is trained. With all weights
  trained that is 6n; LoRA spares the last 2n of all but its own matrices, and layer-wise tuning spares both in the
  layers below.
- attention takes 4·s·q a layer and token on the way forward, and twice that on the way back (12·s·q): s is the length
  of the sequence, q the width of all queries together. Keys that a causal mask hides are counted, as there.
- the output layer counts only where an answer token is predicted: nothing else is asked of it here.

Tokens are those without padding, s is the mean length of a step's sequences, and what is computed a second time
(checkpointed layers) counts once: so waste lowers the utilisation. Not counted: norms, activations, the loss, the
optimiser, DoRA's norms of weights, and validation.

Not covered, and then there is no count: networks of another form than Llama's, adapters other than those named below,
the network that makes p-tuning's prompt, objectives with models or text of their own, trainers of other libraries.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from harness.architecture import LAYER, LINEARS, Network

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.nn import Parameter

ANSWERS, TOKENS = "answers", "tokens"  # what a matrix is multiplied with
# Within a layer, what comes before what.
STAGES = {
    "input_layernorm": 0, "q_proj": 1, "k_proj": 1, "v_proj": 1, "q_norm": 2, "k_norm": 2, "o_proj": 3,
    "self_attn.adapter": 4, "post_attention_layernorm": 5, "pre_feedforward_layernorm": 6, "gate_proj": 7,
    "up_proj": 7, "down_proj": 8, "mlp.adapter": 9, "post_feedforward_layernorm": 10,
}  # fmt: skip
STEP = 100  # between the places of two layers
SECOND = 0.5  # the second matrix of an adapter comes behind its first
KEYS = 2  # the stage of what attention is given
PROMPT, TOP_NORM, OUTPUT, NOWHERE = -1.0, 1e9, 1e10, math.inf  # the places of what is in no layer
# Parameters in layers that are no matrices which tokens are multiplied with.
VECTORS = re.compile(r"norm\.weight$|bias$|lora_magnitude_vector|lora_E|ranknum|ia3_l")
FIRST, LAST = re.compile(r"lora_A|adapter\.down\.weight"), re.compile(r"lora_B|adapter\.up\.weight")


@dataclass(frozen=True)
class Part:
    """A parameter as FLOPs count it: each token of the kind `rows` (all tokens, or those that predict answers) is
    multiplied with `size` of its numbers. `place` says where it lies between input and output, as only what lies behind
    something trained needs a backward pass. `flag.requires_grad` says whether it is trained."""

    flag: Parameter | Fixed
    size: int
    place: float
    rows: str = TOKENS


@dataclass(frozen=True)
class FlopCount:
    """Counter of the FLOPs of one model's training steps. `parts` are its parameters, `widths` has the width of each
    layer's queries, `answers` the answer tokens of a mean example, `virtual` the number of tokens put before the
    input's own, `prefix` the number of places before them of which there are keys and values alone."""

    parts: tuple[Part, ...]
    widths: tuple[int, ...]
    answers: float
    virtual: int = 0
    prefix: int = 0

    def trained(self) -> tuple[bool, ...]:
        """Returns for each of `parts` whether it is trained at this moment: some methods change that between steps."""
        return tuple(part.flag.requires_grad for part in self.parts)

    def step(self, tokens: float, sequences: int, trained: Sequence[bool]) -> float:
        """Returns the FLOPs of one step on `tokens` tokens (without padding) in `sequences` sequences. `trained` says
        for each of `parts` whether it is trained in this step."""
        if not sequences:
            return 0.0
        rows = {TOKENS: tokens + self.virtual * sequences, ANSWERS: self.answers * sequences}
        pairs = list(zip(self.parts, trained, strict=True))
        lowest = min((part.place for part, is_trained in pairs if is_trained), default=NOWHERE)
        flops = 0.0
        for part, is_trained in pairs:
            flops += 2 * part.size * rows[part.rows] * (1 + (lowest < part.place) + is_trained)
        seen = tokens / sequences + self.virtual + self.prefix
        for number, width in enumerate(self.widths):
            ways = 3 if lowest < STEP * number + KEYS + 1 else 1
            flops += 4 * seen * width * rows[TOKENS] * ways
        return flops


@dataclass(frozen=True)
class Fixed:
    """Stand-in for a parameter that must not be held on to: its `requires_grad` is what the parameter's was when it was
    made."""

    requires_grad: bool


def flop_count(
    model: nn.Module, network: Network, rows: Sequence[Mapping[str, list[int]]], hold: bool = True
) -> FlopCount | None:
    """Returns a counter of the FLOPs of `model`, made of `network`, that is about to learn `rows` ({input_ids,
    labels}); None where its form is not known, or there are no rows.

    With `hold`, the counter keeps the model's parameters and looks again before each step which are trained; without,
    what is trained now counts for all steps.
    """
    if not network.is_counted() or not rows:
        return None
    config = getattr(model, "active_peft_config", None)
    kind = str(getattr(getattr(config, "peft_type", ""), "value", ""))
    prompt = int(getattr(config, "num_virtual_tokens", 0) or 0)
    prefix = prompt if kind == "PREFIX_TUNING" else 0
    parts: list[Part] = []
    for name, value in model.named_parameters():
        part = inside_layer(name, value) if LAYER.match(name) else outside(name, value, bool(prefix))
        if part is None:
            return None
        parts.append(part)
        if name.endswith("embed_tokens.weight") and "lm_head.weight" not in network.weights:  # the output layer, too
            parts.append(Part(value, size_of(value), OUTPUT, ANSWERS))
    if not hold:
        parts = [replace(part, flag=Fixed(part.flag.requires_grad)) for part in parts]
    widths = [
        next(network.weights[name][0] for short, name in layer.items() if short.endswith("q_proj.weight"))
        for layer in network.layers
    ]
    answers = sum(label != -100 for row in rows for label in row["labels"]) / len(rows)
    return FlopCount(tuple(parts), tuple(widths), answers, prompt - prefix, prefix)


def size_of(value: Parameter) -> int:
    """Returns how many numbers a parameter has; packed 4-bit weights count as the weights that they hold."""
    state = getattr(value, "quant_state", None)
    return int(state.shape.numel() if state is not None else value.numel())


def inside_layer(name: str, value: Parameter) -> Part | None:
    """Returns a parameter `value` of a layer as a `Part`: how many of its numbers each token is multiplied with (0 for
    a vector), and its place between input and output. None for a name of unknown kind."""
    number, rest = re.findall(LAYER, name)[0]
    stage = next((STAGES[part] for part in STAGES if f".{part}." in f".{rest}"), None)
    if stage is None:
        return None
    place = float(STEP * int(number) + stage)
    if VECTORS.search(rest):
        return Part(value, 0, place)
    if FIRST.search(rest):
        return Part(value, size_of(value), place)
    if LAST.search(rest):
        return Part(value, size_of(value), place + SECOND)
    own = re.search(r"(\w+)\.(?:base_layer\.)?weight$", rest)
    return Part(value, size_of(value), place) if own and own[1] in LINEARS else None


def outside(name: str, value: Parameter, is_prefix: bool) -> Part | None:
    """Returns a parameter `value` outside the layers as a `Part`; None for a name of unknown kind. Embeddings have size
    0: they are looked up, not multiplied with. `is_prefix` says that a prompt's are the keys and values of prefix
    tuning."""
    if "prompt_encoder." in name and is_prefix:
        # Keys and values themselves, of all layers: what runs through the first attention depends on them.
        return Part(value, 0, KEYS) if name.endswith("embedding.weight") else None
    if name.endswith(("embed_tokens.weight", "embedding.weight")):
        return Part(value, 0, PROMPT)
    if name.endswith("lm_head.weight"):
        return Part(value, size_of(value), OUTPUT, ANSWERS)
    return Part(value, 0, TOP_NORM) if name.endswith("norm.weight") else None


# --- the device ---

SIDES = {"cpu": 2048, "cuda": 8192}  # large enough that memory is no limit
REPEATS, PEAK_SECONDS = 10, 2.0


def matmul_peak(dtype: torch.dtype) -> float:
    """Returns the FLOP/s of a square matrix product in a torch dtype, on this process's device and threads: the best of
    several."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    side = SIDES[device]
    one, other = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))

    def multiply() -> None:
        torch.matmul(one, other)
        if device == "cuda":
            torch.cuda.synchronize()

    return 2 * side**3 / min(timings(multiply))


def timings(work: Callable[[], None], repeats: int = REPEATS, most: float = PEAK_SECONDS) -> list[float]:
    """Returns the seconds of each run of `work`: `repeats` runs, or fewer once they have taken `most` seconds together.
    The first run, which warms up, is among them: it does not change the best."""
    seconds: list[float] = []
    while len(seconds) < repeats and sum(seconds) < most:
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return seconds
