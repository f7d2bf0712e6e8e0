"""(IA)³: learned vectors that scale what is inside a layer (Liu et al. 2022, arXiv:2205.05638)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from harness.methods.base import Footprint, LogFloat, Method, Network

if TYPE_CHECKING:
    from torch import nn


class IA3(Method):
    """(IA)³: a learned vector scales the output of some linear layers; it starts at ones, and the base stays frozen.

    `targets` are the linear layers; those also named in `feedforward` have their input scaled instead of their output.
    The default is the paper's: keys, values, and the input of the MLP's last layer. It trains the outputs of the
    targets + the inputs of the feedforward ones (for a Llama layer: 2 keys + inner). `learning_rate` is far above
    LoRA's, because the numbers are few and near 1.
    """

    name = "ia3"
    trains_quantized = True
    wraps = True
    packages = ("peft",)
    paper = "arXiv:2205.05638"
    family = "additive"
    space = {"learning_rate": LogFloat(1e-3, 1e-1)}

    learning_rate: float = 1e-2
    targets: list[str] = ["k_proj", "v_proj", "down_proj"]
    feedforward: list[str] = ["down_proj"]

    def __init__(self, **settings: object):
        super().__init__(**settings)
        vars(self)["foldable"] = self.quantize is None  # peft cannot scale packed weights

    def problems(self) -> Iterable[str]:
        if not self.targets:
            yield "targets is empty. Name linear layers, such as [k_proj, v_proj, down_proj]."
        for name in self.feedforward:
            if name not in self.targets:
                yield f"feedforward names {name}, which is none of targets ({', '.join(self.targets)})."

    def misfits(self, network: Network) -> Iterable[str]:
        yield from network.unmatched(self.targets)

    def footprint(self, network: Network) -> Footprint | None:
        linears = {name: shape for name, shape in network.linears().items() if short(name) in self.targets}
        scaled = {name: shape[short(name) in self.feedforward] for name, shape in linears.items()}
        return Footprint(
            {
                f"{name}.ia3_l": (1, size) if short(name) in self.feedforward else (size, 1)
                for name, size in scaled.items()
            },
            adapted=frozenset(linears),
            inputs_kept=False,
            per_token=scaled,  # what is scaled is kept for the vector's gradient
            fixed=scaled,  # and the vector, which peft multiplies by one first
        )

    def attach(self, model: nn.Module) -> nn.Module:
        from peft import IA3Config, get_peft_model, prepare_model_for_kbit_training

        if self.quantize:
            model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
        config = IA3Config(task_type="CAUSAL_LM", target_modules=self.targets, feedforward_modules=self.feedforward)
        return get_peft_model(model, config)


def short(name: str) -> str:
    """Return the name of a linear layer within its block, such as "k_proj", from the full name of its weight."""
    return name.removesuffix(".weight").split(".")[-1]
