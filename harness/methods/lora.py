"""LoRA and its close kin: a low-rank update beside each linear layer.

LoRA: Hu et al. 2021, arXiv:2106.09685. rsLoRA: Kalajdzievski 2023, arXiv:2312.03732. LoRA+: Hayou et al. 2024,
arXiv:2402.12354. DoRA: Liu et al. 2024, arXiv:2402.09353. QLoRA: Dettmers et al. 2023, arXiv:2305.14314.
Where A and B start: PiSSA, Meng et al. 2024, arXiv:2404.02948; OLoRA, Büyükakyüz 2024, arXiv:2406.01775; EVA, Paischer
et al. 2024, arXiv:2410.07170; LoftQ, Li et al. 2023, arXiv:2310.08659.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal

from harness.methods.base import (
    Context,
    Footprint,
    Group,
    LogFloat,
    Method,
    Network,
    Options,
    is_transposed,
)

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import nn

ADAPTER = "default"  # peft's name for a model's only adapter
# peft's names; the whole SVD of every layer would take longer than training a small model.
CALLED = {"gaussian": "gaussian", "eva": "eva", "pissa": "pissa_niter_16", "olora": "olora"}
TRANSPOSED = ("gpt2", "openai-gpt")  # families that store their linear layers transposed
TAKEN = ("pissa", "olora")  # A and B start as a part of the weights, which is taken away from them
STARTS = {
    "pissa": "A and B start as the weights' main directions, and what is left of the weights is rounded",
    "olora": "A and B start as a part of the weights, and what is left of the weights is rounded",
    "loftq": "A and B start as what quantisation took from the weights",
}


class LoRA(Method):
    """LoRA: a trained low-rank update beside each linear layer; the base model stays frozen.

    A weight W (out × in) is used as W + s·B·A, with A (`rank` × in), B (out × `rank`) and s = `alpha` / `rank`
    (`rslora`: `alpha` / √`rank`). It trains `rank` · (in + out) numbers for each of the `targets`: all-linear (the
    linear layers of the decoder), a list of names, or a pattern. `dropout` applies to the update's input.

    `init` sets the initial A and B. default and gaussian: A random, B zero. eva: A from the main directions of the
    layer's inputs over the training examples. pissa and olora: A and B are taken from the weights (by randomised SVD,
    by QR), which lose that part; the result is a plain LoRA of twice the rank on the unchanged base model. They need a
    smaller learning rate, because A and B are as large as weights instead of near zero. loftq, for a quantised base
    model: A and B make up for the quantisation error. A and B learn at `learning_rate`; with LoRA+'s `loraplus_ratio`,
    B learns that many times as fast as A.
    """

    name = "lora"
    drafted_for = {"classification": "{}", "generation": "{}", "chat": "{}"}
    trains_quantized = True
    wraps = True
    packages = ("peft",)
    paper = "arXiv:2106.09685"
    family = "reparameterised"
    space = {"learning_rate": LogFloat(1e-5, 1e-2), "rank": Options((4, 8, 16, 32))}
    use_dora = False
    later = ("init", "loraplus_ratio")

    learning_rate: float = 1e-3
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: str | list[str] = "all-linear"
    rslora: bool = False
    init: Literal["default", "gaussian", "pissa", "olora", "eva", "loftq"] = "default"
    loraplus_ratio: float = 1.0

    def __init__(self, **settings: object):
        super().__init__(**settings)
        self.declare(
            starts_at_base=STARTS.get(self.init, ""),
            alone=f"init: {self.init} puts the weights back to the base's in the end" if self.init in TAKEN else "",
        )
        self._start: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def problems(self) -> Iterable[str]:
        if self.rank < 1:
            yield f"rank is {self.rank}; it must be at least 1."
        if not 0 <= self.dropout < 1:
            yield f"dropout is {self.dropout}; it must be at least 0 and below 1."
        if self.loraplus_ratio < 1:
            yield f"loraplus_ratio is {self.loraplus_ratio:g}; it must be at least 1 (16 in the paper)."
        if self.init == "loftq" and not self.quantize:
            yield "init: loftq makes up for quantisation, and nothing is quantised. Set quantize: nf4, or drop init."
        if self.init in TAKEN and self.quantize:
            yield (
                f"init: {self.init} takes a part of the weights away, and {self.quantize} weights could not be given "
                "it back. Use init: loftq, or drop quantize."
            )
        if self.init != "default" and self.use_dora:
            yield f"init: {self.init} does not go with {self.name}, whose magnitudes are those of the base. Drop it."

    def misfits(self, network: Network) -> Iterable[str]:
        yield from network.unmatched(self.targets)
        transposed = [name for name in network.linears(self.targets) if network.is_transposed(name)]
        if self.init == "olora" and transposed:
            yield (
                f"init: olora cannot read the transposed weights that {network.kind} has ({transposed[0]}). Use init: "
                "pissa."
            )
        special = f"init: {self.init}" if self.init not in ("default", "gaussian") else ""
        special = special or ("dropout" if self.dropout else "") or ("" if self.adds_up else self.name)
        if special and (experts := network.reached(self.targets)):
            yield (
                f"{special} is made for matrices, and the experts of {network.kind} are stacked into one tensor "
                f"({experts[0]}). Name the linear layers alone: targets: [{', '.join(network.linear_names())}]."
            )

    def footprint(self, network: Network) -> Footprint | None:
        if network.reached(self.targets):
            return None  # peft decides what stands beside stacked experts
        linears = network.linears(self.targets)
        trained: dict[str, tuple[int, ...]] = {}
        for name, (out, into) in linears.items():
            trained |= {f"{name}.lora_A": (self.rank, into), f"{name}.lora_B": (out, self.rank)}
            if self.use_dora:
                trained[f"{name}.magnitude"] = (out,)
        per_token = {
            # With dropout, each adapter has a masked input of its own, and keeps the mask. DoRA keeps both results.
            name: self.rank + (2 * into if self.dropout else 0) + (2 * out if self.use_dora else 0)
            for name, (out, into) in linears.items()
        }
        # DoRA multiplies A and B out by sending a unit matrix through them, and divides by the norms of the result.
        dora = {name: into * (into + self.rank) + 3 * out for name, (out, into) in linears.items()}
        return Footprint(
            trained,
            adapted=frozenset(linears),
            inputs_kept=not self.dropout,
            per_token=per_token,
            fixed=dora if self.use_dora else {},
        )

    @property
    def adds_up(self) -> bool:
        return not (self.use_dora or self.starts_at_base)

    def attach(self, model: nn.Module) -> nn.Module:
        from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

        if self.quantize:
            # Checkpointing is the suite's choice (`train: gradient_checkpointing`), not the quantiser's.
            model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
        start: dict[str, Any] = {}
        if self.init == "eva":
            from peft import EvaConfig

            # With rho 1 every layer keeps its rank, so that the size is that of any other start.
            start["eva_config"] = EvaConfig(rho=1.0)
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=self.targets,
            use_rslora=self.rslora,
            use_dora=self.use_dora,
            init_lora_weights=CALLED.get(self.init, True),
            fan_in_fan_out=is_transposed(model),
            task_type="CAUSAL_LM",
            **start,
        )
        model = get_peft_model(model, config)
        if self.init in TAKEN:
            self._start = {
                name: (part.lora_A[ADAPTER].weight.detach().clone(), part.lora_B[ADAPTER].weight.detach().clone())
                for name, part in adapted(model)
            }
        return model

    def parameter_groups(self, model: nn.Module) -> list[Group] | None:
        if self.loraplus_ratio == 1:
            return None
        trained = {name: value for name, value in model.named_parameters() if value.requires_grad and "lora_" in name}
        fast = [value for name, value in trained.items() if "lora_B" in name or value.ndim == 1]
        slow = [value for name, value in trained.items() if not ("lora_B" in name or value.ndim == 1)]
        return [
            {"params": slow, "lr": self.learning_rate},
            {"params": fast, "lr": self.learning_rate * self.loraplus_ratio},
        ]

    def prepare(self, model: nn.Module, context: Context) -> None:
        if self.init == "eva":
            start_from_inputs(model, context)
        elif self.init == "loftq":
            start_from_rounding(model, context.base)

    def finish(self, model: nn.Module, context: Context) -> nn.Module:
        """Return the trained model as a plain LoRA on the unchanged base weights.

        For inits that took a part s·B₀·A₀ out of the weights: W - s·B₀·A₀ + s·B·A = W + s·[B, -B₀]·[A; A₀], of twice
        the rank.
        """
        import torch

        if not self._start:
            return model
        weights = stored(context.base, {f"{name}.weight" for name, _ in adapted(model)})
        with torch.no_grad():
            for name, part in adapted(model):
                first_a, first_b = (value.to(part.lora_A[ADAPTER].weight) for value in self._start[name])
                a, b = part.lora_A[ADAPTER], part.lora_B[ADAPTER]
                a.weight.data = torch.cat([a.weight, first_a])
                b.weight.data = torch.cat([b.weight, -first_b], dim=1)
                a.out_features = b.in_features = part.r[ADAPTER] = 2 * self.rank
                part.base_layer.weight.copy_(weights[f"{name}.weight"])
        config: Any = model.peft_config[ADAPTER]  # type: ignore[index]
        config.init_lora_weights, config.r = True, 2 * self.rank
        config.lora_alpha = self.alpha * (2**0.5 if self.rslora else 2)  # the same s at twice the rank
        return model


class DoRA(LoRA):
    """DoRA: LoRA for the direction of each weight, with its magnitude (one number for each output) trained separately.

    It trains `rank` · (in + out) + out numbers for each of the `targets`.
    """

    name = "dora"
    paper = "arXiv:2402.09353"
    use_dora = True


class QLoRA(LoRA):
    """QLoRA: LoRA on a base model in 4 bits (NF4 with double quantisation), in FP4 or in 8 bits (`quantize`)."""

    name = "qlora"
    paper = "arXiv:2305.14314"

    quantize: Literal["nf4", "fp4", "int8"] | None = "nf4"

    def problems(self) -> Iterable[str]:
        if not self.quantize:
            yield "quantize is none: that is method lora. Use it, or quantize: nf4, fp4 or int8."
        yield from super().problems()


def adapted(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield (name in the base model, peft's layer) for each layer with a LoRA update."""
    for name, part in model.named_modules():
        if hasattr(part, "lora_A") and ADAPTER in part.lora_A:
            yield name.removeprefix("base_model.model."), part


def stored(folder: Path, names: set[str]) -> dict[str, torch.Tensor]:
    """Return {name: weight} for the named weights of a model's folder, read one by one from its safetensors files.
    A checkpoint may lack the first part of the names, as those of GPT-2 and BLOOM do ("h.0…" for "transformer.h.0…").
    Raises ValueError where one is missing."""
    from safetensors import safe_open

    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            keys = set(file.keys())
            for name in names:
                if (key := next((one for one in (name, name.partition(".")[2]) if one in keys), None)) is not None:
                    found[name] = file.get_tensor(key)
    if missing := names - found.keys():
        raise ValueError(
            f"{folder} has no weight {min(missing)}: this init needs the weights under the model's own names"
        )
    return found


def start_from_inputs(model: nn.Module, context: Context) -> None:
    """Set each A as EVA does: to the first right singular vectors of the layer's inputs over the training examples."""
    import torch
    from peft import get_eva_state_dict

    rows, size = context.rows(model, context.examples()), context.settings.batch_size
    batches = []
    for place in range(0, len(rows), size):
        ids = [torch.tensor(row["input_ids"]) for row in rows[place : place + size]]
        mask = [torch.ones_like(row) for row in ids]
        pad = torch.nn.utils.rnn.pad_sequence
        batches.append({"input_ids": pad(ids, batch_first=True), "attention_mask": pad(mask, batch_first=True)})
    device = next(model.parameters()).device
    found = get_eva_state_dict(
        model,
        [{key: value.to(device) for key, value in batch.items()} for batch in batches],
        prepare_layer_inputs_fn=inputs_of_tokens,
        gather_distributed_inputs=False,  # every process has read all examples
        show_progress_bar=False,
    )
    with torch.no_grad():
        for name, part in adapted(model):
            part.lora_A[ADAPTER].weight.copy_(found[f"base_model.model.{name}"])
    config: Any = model.peft_config[ADAPTER]  # type: ignore[index]
    config.init_lora_weights, config.eva_config = True, None  # a saved adapter is a plain one


def inputs_of_tokens(given: Any, places: torch.Tensor, layer: str) -> torch.Tensor:
    """Return what a layer was given for the tokens at `places` [tokens, 2] (row and position, without padding), as
    [tokens, width]. OPT gives its MLP all rows in one."""
    whole = given[0] if isinstance(given, tuple | list) else given
    if whole.dim() == 2:
        rows = int(places[:, 0].max()) + 1  # each row has a token
        whole = whole.view(rows, -1, whole.shape[-1])
    inputs: torch.Tensor = whole[tuple(places.T.unbind())]
    return inputs


def start_from_rounding(model: nn.Module, base: Path) -> None:
    """Set A and B as LoftQ does with one iteration: s·B·A becomes the best approximation, of the update's rank, of W -
    dequantised(W), by SVD.

    peft's own version needs a GPU and leaves out s, so that its B·A misses the quantisation error where s is not 1.
    """
    import torch

    inner: Any = model
    transposed = inner.config.model_type in TRANSPOSED
    for name, part in adapted(model):
        a, b, rank = part.lora_A[ADAPTER].weight, part.lora_B[ADAPTER].weight, part.r[ADAPTER]
        weight = stored(base, {f"{name}.weight"})[f"{name}.weight"].to(a)
        if transposed:
            weight = weight.T  # the packed layer is a plain one
        with torch.no_grad():
            left, values, right = torch.linalg.svd(weight - dequantised(part.base_layer).to(a), full_matrices=False)
            root = (values[:rank] / part.scaling[ADAPTER]).sqrt()
            a.copy_(root[:, None] * right[:rank])
            b.copy_(left[:, :rank] * root)


def dequantised(layer: Any) -> torch.Tensor:
    """Return the weight of a bitsandbytes layer as numbers. peft's helper would move an 8-bit weight, which a CPU
    cannot use afterwards."""
    from bitsandbytes.functional import dequantize_4bit

    weight = layer.weight
    if hasattr(weight, "quant_state"):
        return dequantize_4bit(weight.data, weight.quant_state)
    scale = layer.state.SCB if weight.SCB is None else weight.SCB
    return weight.data * scale[:, None] / 127
