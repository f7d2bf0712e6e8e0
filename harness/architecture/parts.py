"""Finds the parts of a loaded model by its structure: the decoder's layers, and in each attention, MLP and norms.

The layers are the longest list of modules in the decoder. Within a layer, norms are known by their class, attention by
the class of a module, and what else has weights is the MLP (or the experts). The linear layer that gives a part's
output is the one that is run last in the part, which only a forward pass can tell; it is tried once, with two tokens.
Torch is imported inside functions: planning reads what `describe` stored.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.architecture.network import Structure

if TYPE_CHECKING:
    from torch import nn

ATTENTION = re.compile(r"attention|attn", re.I)  # in the name of a class
MIXER = re.compile(r"mixer|mamba|ssm|rwkv|conv|recurrent|deltanet|lstm", re.I)  # what mixes tokens without attention
STACKED = 3  # dimensions of the weights of experts that are stacked into one tensor


@dataclass
class LayerParts:
    """The parts of one decoder layer, as modules.

    `mixing` is what mixes tokens: attention, or a state space (None where there is none); `attends` says which.
    `feeding` are the modules of the MLP, or of the experts; empty for a layer without one. `norms` are the layer's
    norms. `last` maps "mixing" and "feeding" to the module whose output is that part's contribution to the residual
    sum.
    """

    mixing: nn.Module | None = None
    attends: bool = False
    feeding: list[nn.Module] = field(default_factory=list)
    norms: list[nn.Module] = field(default_factory=list)
    last: dict[str, nn.Module] = field(default_factory=dict)


def decoder(model: Any) -> Any:
    """Return the module that holds a language model's layers: of a model that also sees or hears, its text part."""
    inner = getattr(model, "get_base_model", lambda: model)()
    found = getattr(inner, "get_decoder", lambda: inner)()
    return found if found is not None else inner


def named_layers(model: Any) -> tuple[str, list[nn.Module]]:
    """Return (name in the model, modules from the bottom up) of the decoder's layers: its longest list of modules, of
    equal ones the outermost. ("", []) where it has none."""
    from torch import nn

    root = decoder(model)
    best: tuple[str, list[nn.Module]] = ("", [])
    for name, module in root.named_modules():
        inside = best[0] and name.startswith(f"{best[0]}.")
        if isinstance(module, nn.ModuleList) and len(module) > len(best[1]) and not inside:
            best = (name, list(module))
    inner = getattr(model, "get_base_model", lambda: model)()
    prefix = next((name for name, module in inner.named_modules() if module is root), "")
    return (f"{prefix}.{best[0]}" if prefix and best[0] else best[0]), best[1]


def layers_name(model: Any) -> str:
    """Return the name, in the base model, of the list of the decoder's layers, such as "model.layers"."""
    return named_layers(model)[0]


def decoder_layers(model: Any) -> list[nn.Module]:
    """Return the decoder's layers, from the bottom up. Raises ValueError for a model in which none are found."""
    layers = named_layers(model)[1]
    if not layers:
        raise ValueError(f"no list of layers is found in {type(model).__name__}: this method needs layers.")
    return layers


def is_norm(module: nn.Module) -> bool:
    """Return whether a module is a norm with weights, such as LayerNorm or an RMSNorm of a family's own."""
    own = list(module.parameters(recurse=False))
    return bool(own) and "norm" in type(module).__name__.lower() and all(value.dim() == 1 for value in own)


def is_linear(module: nn.Module) -> bool:
    """Return whether a module multiplies by one matrix: torch's Linear (also packed by bitsandbytes), or transformers'
    Conv1D, which stores the matrix transposed."""
    from torch import nn

    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def final_norm(model: Any) -> nn.Module | None:
    """Return the norm above the last layer, or None."""
    _, found = named_final_norm(model)
    return found


def named_final_norm(model: Any) -> tuple[str, nn.Module | None]:
    """Return (name, module) of the norm above the last layer: of the norms outside the layers, the last; ("", None)
    where there is none."""
    inner = getattr(model, "get_base_model", lambda: model)()
    root, (layers, modules) = decoder(model), named_layers(model)
    prefix = next((name for name, module in inner.named_modules() if module is root), "")
    inside = {id(part) for layer in modules for part in layer.modules()}
    found: tuple[str, nn.Module | None] = ("", None)
    after = False
    for name, module in root.named_modules():
        full = f"{prefix}.{name}" if prefix and name else prefix or name
        after = after or full == layers
        if is_norm(module) and id(module) not in inside and (after or found[1] is None):
            found = (full, module)
    return found if after and found[1] is not None else ("", None)


def layer_parts(model: Any) -> list[LayerParts]:
    """Return the parts of each decoder layer, from the bottom up."""
    layers = decoder_layers(model)
    order = run_order(model, layers)
    return [parts_of(layer, order) for layer in layers]


def parts_of(layer: nn.Module, order: dict[int, int]) -> LayerParts:
    """Return the parts of one layer. `order` is the place of each module (by its id) in a forward pass."""
    parts = LayerParts()
    for child in layer.children():
        if is_norm(child):
            parts.norms.append(child)
        elif not any(True for _ in child.parameters()):
            continue
        elif parts.mixing is None and holds(child, ATTENTION):
            parts.mixing, parts.attends = child, True
            parts.norms += [inner for inner in child.modules() if is_norm(inner)]
        elif parts.mixing is None and holds(child, MIXER):
            parts.mixing = child
        else:
            parts.feeding.append(child)
            parts.norms += [inner for inner in child.modules() if is_norm(inner)]
    if parts.mixing is not None:
        parts.last["mixing"] = last_of([parts.mixing], order)
    if parts.feeding:
        parts.last["feeding"] = last_of(parts.feeding, order)
    return parts


def holds(module: nn.Module, kind: re.Pattern[str]) -> bool:
    """Return whether a module, or the only thing in it, has a class of this kind."""
    inner = [child for child in module.children() if any(True for _ in child.parameters())]
    return bool(kind.search(type(module).__name__)) or (len(inner) == 1 and bool(kind.search(type(inner[0]).__name__)))


def last_of(part: list[nn.Module], order: dict[int, int]) -> nn.Module:
    """Return the module of a part whose output is the part's: the linear layer that is run last, or the whole of a part
    that ends otherwise, such as one of experts."""
    from torch import nn

    inside = [module for one in part for module in one.modules()]
    several = any(isinstance(module, nn.ModuleList) for module in inside) or any(
        value.dim() >= STACKED for one in part for name, value in one.named_parameters() if "conv" not in name
    )
    linears = [module for module in inside if is_linear(module)]
    if several or not linears:
        return part[-1]
    place = {id(module): number for number, module in enumerate(inside)}
    return max(linears, key=lambda module: (order.get(id(module), -1), place[id(module)]))


def is_transposed(model: Any) -> bool:
    """Return whether a model stores linear layers as (in, out), as GPT-2 does; peft wants to know."""
    return any(type(module).__name__ == "Conv1D" for module in model.modules())


def run_order(model: Any, layers: list[nn.Module]) -> dict[int, int]:
    """Return {id of a linear layer in the decoder's layers: its place in a forward pass}, of two tokens; empty where
    the pass fails, as it does for some models without real weights."""
    import torch

    order: dict[int, int] = {}

    def note(module: nn.Module, given: Any) -> None:
        order[id(module)] = len(order)

    handles = [part.register_forward_pre_hook(note) for layer in layers for part in layer.modules() if is_linear(part)]
    was_training = model.training
    device = next(model.parameters()).device
    ids = torch.zeros((1, 2), dtype=torch.long, device=device)
    # Without weights nothing may be looked up in a tensor, as families do in making a mask: they are given one.
    whole, flat = torch.ones((1, 1, 2, 2), dtype=torch.bool, device=device), torch.ones_like(ids)
    model.eval()
    try:
        for given in ({}, {"attention_mask": whole}, {"attention_mask": flat}):
            order.clear()
            with suppress(Exception), torch.no_grad(), torch.random.fork_rng(devices=[]):
                model(input_ids=ids, use_cache=False, **given)
                return order
        return {}
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()


# --- what planning keeps of a model ---


def describe(model: Any) -> Structure:
    """Return what planning needs to know of a model (one without real weights will do)."""
    found_name, layers = named_layers(model)
    names = {id(module): name for name, module in model.named_modules()}
    kinds = dict(module_kinds(model))
    attention, mlp, last = [], [], []
    attends = []
    order = run_order(model, layers)
    for parts in [parts_of(layer, order) for layer in layers]:
        mixing = [parts.mixing] if parts.mixing is not None else []
        attention.append(tuple(linear_names(mixing, names)))
        mlp.append(tuple(linear_names(parts.feeding, names)))
        last.append({key: names[id(module)] for key, module in parts.last.items()})
        attends.append(parts.attends)
    return Structure(
        weights={name: tuple(value.shape) for name, value in model.named_parameters()},
        kinds=kinds,
        layers=found_name,
        final_norm=named_final_norm(model)[0],
        embedding=names.get(id(model.get_input_embeddings()), ""),
        head=names.get(id(model.get_output_embeddings()), ""),
        attends=tuple(attends),
        mixing=tuple(attention),
        feeding=tuple(mlp),
        last=tuple(last),
        attention=supported_attention(model),
        checkpointing=bool(getattr(model, "supports_gradient_checkpointing", False)),
        stateful=bool(getattr(model, "_is_stateful", False)),
        bypassed=tuple(bypassed(layers, order, names)),
    )


def bypassed(layers: list[nn.Module], order: dict[int, int], names: dict[int, str]) -> Iterator[str]:
    """Yield the names of linear layers of attention, or of what stands for it, that a forward pass did not run: the
    model multiplies with their weight itself. None where the pass failed."""
    for layer in layers if order else []:
        mixing = parts_of(layer, order).mixing
        for module in mixing.modules() if mixing is not None else ():
            if is_linear(module) and id(module) not in order:
                yield names[id(module)]


def module_kinds(model: Any) -> Iterator[tuple[str, str]]:
    """Yield (name, kind) of every module with weights of its own: linear, conv1d (a transposed linear layer), norm,
    embedding, experts (stacked into one tensor), or other."""
    from torch import nn

    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        if not own:
            continue
        if is_linear(module):
            kind = "conv1d" if type(module).__name__ == "Conv1D" else "linear"
        elif isinstance(module, nn.Embedding):
            kind = "embedding"
        elif is_norm(module):
            kind = "norm"
        elif any(value.dim() >= STACKED for value in own) and not isinstance(module, nn.Conv1d):
            kind = "experts"
        else:
            kind = "other"
        yield name, kind


def linear_names(part: list[nn.Module], names: dict[int, str]) -> Iterator[str]:
    """Yield the names of the linear layers in a part of a layer. `names` has the name of each module by its id."""
    for one in part:
        for module in one.modules():
            if is_linear(module):
                yield names[id(module)]


def supported_attention(model: Any) -> tuple[str, ...]:
    """Return which attention kernels transformers has for a model, by their names in `train: attention`."""
    found = ["eager"]
    if getattr(model, "_supports_sdpa", False):
        found.append("sdpa")
    if getattr(model, "_supports_flash_attn", False) or getattr(model, "_supports_flash_attn_2", False):
        found.append("flash_attention_2")
    return tuple(found)
