"""Computes parts of a model with fewer operations, for the length of a block; the weights stay where they are.

Low-rank adapters. peft adds s·B·A·x to a frozen layer's W·x by four operations, each of which reads and writes whole
activations, and autograd keeps and adds up as many in the backward pass. Here the product of rank r is added in place,
and the gradient of the input is one product with W and one of rank r. Where the rows have magnitudes of their own
(DoRA, Liu et al. 2024, arXiv:2402.09353), the norms of W + s·B·A come from ‖W‖² + 2s·B·(A·Wᵀ) + s²·B·(A·Aᵀ)·Bᵀ,
without making a matrix of W's size in every pass. Everything is what peft computes, up to the order in which numbers
are added.

A layer is left to peft where it does more than that: dropout, a bias in the adapter, several adapters, transposed
weights, another precision than the weights' (autocast).

Tied embeddings. Where the output layer has the weights of the input's embedding, the gradient has a row for every word,
and torch makes a second one as large, of zeros but for the batch's words, to add it. Here the words' rows are added to
the first one, past autograd's hooks: neither for several devices, whose gradients are shared by such hooks, nor for
`torch.autograd.grad`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import nn

Forward = Callable[..., torch.Tensor]


def narrow(matrix: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return x·matrixᵀ [rows, rank] for a `matrix` [rank, in] of few rows. On CPUs the product is up to three times as
    fast when its short side comes first."""
    return (matrix @ x.t()).t()


def gradients_of(
    gradient: torch.Tensor, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, inner: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return (the gradient of x·Aᵀ, those of A and B) of s·(x·Aᵀ)·Bᵀ, given the `gradient` [rows, out] of it; `inner`
    is x·Aᵀ."""
    above = narrow(b.t(), gradient).mul_(scale)
    return above, above.t() @ x, (inner.t() @ gradient).mul_(scale).t()


class LowRank(torch.autograd.Function):
    """x·Wᵀ + b + s·(x·Aᵀ)·Bᵀ for a frozen W [out, in] and b [out]; x is [rows, in], A [rank, in], B [out, rank]."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        inner = narrow(a, x)
        ctx.save_for_backward(x, weight, a, b, inner)
        ctx.scale = scale
        return nn.functional.linear(x, weight, bias).addmm_(inner, b.t(), alpha=scale)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = gradients
        x, weight, a, b, inner = ctx.saved_tensors
        above, of_a, of_b = gradients_of(gradient, x, a, b, inner, ctx.scale)
        of_x = (gradient @ weight).addmm_(above, a) if ctx.needs_input_grad[0] else None
        return of_x, None, None, of_a, of_b, None


class LowRankAdded(torch.autograd.Function):
    """result + s·(x·Aᵀ)·Bᵀ, written over `result` [rows, out]; x is [rows, in], A [rank, in], B [out, rank]."""

    @staticmethod
    def forward(
        ctx: Any, result: torch.Tensor, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float
    ) -> torch.Tensor:
        inner = narrow(a, x)
        ctx.save_for_backward(x, a, b, inner)
        ctx.scale = scale
        ctx.mark_dirty(result)
        return result.addmm_(inner, b.t(), alpha=scale)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = gradients
        x, a, b, inner = ctx.saved_tensors
        above, of_a, of_b = gradients_of(gradient, x, a, b, inner, ctx.scale)
        return gradient, above @ a if ctx.needs_input_grad[1] else None, of_a, of_b, None


class Magnitudes(torch.autograd.Function):
    """c ⊙ (x·Wᵀ + s·(x·Aᵀ)·Bᵀ) + b with c = m / norms, for a frozen W and b; m and `norms` are [out], and no gradient
    goes through the norms, as in DoRA (section 4.3)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        magnitudes: torch.Tensor,
        norms: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        inner = narrow(a, x)
        turned = nn.functional.linear(x, weight).addmm_(inner, b.t(), alpha=scale)
        ctx.save_for_backward(x, weight, a, b, inner, turned, magnitudes, norms)
        ctx.scale = scale
        factors = magnitudes / norms
        return turned * factors if bias is None else torch.addcmul(bias, turned, factors)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = gradients
        x, weight, a, b, inner, turned, magnitudes, norms = ctx.saved_tensors
        of_magnitudes = (gradient * turned).sum(dim=0) / norms
        gradient = gradient * (magnitudes / norms)
        above, of_a, of_b = gradients_of(gradient, x, a, b, inner, ctx.scale)
        of_x = (gradient @ weight).addmm_(above, a) if ctx.needs_input_grad[0] else None
        return of_x, None, None, of_a, of_b, of_magnitudes, None, None


@contextmanager
def fused(model: nn.Module, wanted: bool = True) -> Iterator[int]:
    """Compute the low-rank adapters and the tied embedding of a model with fewer operations for the length of the
    block, where `wanted`; yields in how many modules."""
    forwards: dict[nn.Module, Forward] = {}
    if wanted:
        forwards = {layer: forward_of(layer) for layer in model.modules() if is_plain(layer)}
        if (embedding := tied_embedding(model)) is not None:
            forwards[embedding] = looked_up(embedding)
    for module, forward in forwards.items():
        vars(module)["forward"] = forward
    try:
        yield len(forwards)
    finally:
        for module in forwards:
            vars(module).pop("forward", None)


def tied_embedding(model: nn.Module) -> nn.Embedding | None:
    """Return the input's embedding where it is trained and its weights are the output layer's too; else None."""
    text: Any = model
    if not (hasattr(text, "get_input_embeddings") and hasattr(text, "get_output_embeddings")):
        return None
    embedding, head = text.get_input_embeddings(), text.get_output_embeddings()
    if type(embedding) is not nn.Embedding or embedding.max_norm is not None or "forward" in vars(embedding):
        return None
    tied = embedding.weight.requires_grad and getattr(head, "weight", None) is embedding.weight
    return embedding if tied else None


def looked_up(embedding: nn.Embedding) -> Forward:
    """Return what replaces an embedding's forward pass: the words' gradients are added to those of its weights when the
    backward pass comes to them."""
    usual: Forward = embedding.forward
    weight = embedding.weight

    def forward(token_ids: torch.Tensor) -> torch.Tensor:
        if not (torch.is_grad_enabled() and weight.requires_grad):
            return usual(token_ids)
        vectors = nn.functional.embedding(token_ids, weight.detach(), embedding.padding_idx).requires_grad_(True)

        def add(leaf: torch.Tensor) -> None:
            assert leaf.grad is not None
            rows, words = leaf.grad.flatten(0, -2), token_ids.flatten()
            if embedding.padding_idx is not None:  # torch gives the padding's word no gradient
                rows = rows * (words != embedding.padding_idx).unsqueeze(1)
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
            weight.grad.index_add_(0, words, rows.to(weight.grad.dtype))
            leaf.grad = None

        vectors.register_post_accumulate_grad_hook(add)
        return vectors

    return forward


def is_plain(layer: nn.Module) -> bool:
    """Return whether a layer is one of peft's low-rank adapters beside a frozen matrix, with nothing else in it."""
    packed = type(layer).__module__.endswith("lora.bnb")
    if not (type(layer) is Linear or packed) or len(layer.active_adapters) != 1:  # type: ignore[arg-type]
        return False
    adapter: Any = layer
    name = adapter.active_adapters[0]
    if name not in adapter.lora_A or vars(adapter).get("fan_in_fan_out") or "forward" in vars(adapter):
        return False
    variant = adapter.lora_variant.get(name)
    with_magnitudes = variant is not None and type(variant).__name__ == "DoraLinearVariant"
    base = adapter.get_base_layer()
    return (
        (variant is None or (with_magnitudes and type(base) is nn.Linear))
        and isinstance(adapter.lora_dropout[name], nn.Identity)
        and adapter.lora_A[name].bias is None
        and adapter.lora_B[name].bias is None
        and (packed or type(base) is nn.Linear)
        and not any(value.requires_grad for value in base.parameters())
    )


def forward_of(layer: Any) -> Forward:
    """Return what replaces the forward pass of one of peft's layers; it leaves to peft what it does not compute."""
    usual: Forward = layer.forward
    name = layer.active_adapters[0]
    base, a, b = layer.get_base_layer(), layer.lora_A[name].weight, layer.lora_B[name].weight
    scale, dense = float(layer.scaling[name]), type(base) is nn.Linear
    magnitudes = layer.lora_magnitude_vector[name].weight if name in layer.lora_variant else None
    norms = Norms(base.weight, a, b, scale) if magnitudes is not None else None

    def forward(x: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        if args or options or layer.disable_adapters or layer.merged or x.dtype != a.dtype or autocast(x):
            return usual(x, *args, **options)
        if dense and base.weight.dtype != x.dtype:
            return usual(x)
        flat = x.reshape(-1, x.shape[-1])
        if norms is not None:
            made = Magnitudes.apply(flat, base.weight, base.bias, a, b, magnitudes, norms.now(layer.training), scale)
        elif dense:
            made = LowRank.apply(flat, base.weight, base.bias, a, b, scale)
        else:
            made = LowRankAdded.apply(base(flat), flat, a, b, scale)
        result: torch.Tensor = made.view(*x.shape[:-1], made.shape[-1])
        return result

    return forward


def autocast(x: torch.Tensor) -> bool:
    """Return whether operations on a tensor's device are cast to another precision."""
    return torch.is_autocast_enabled(x.device.type)


class Norms:
    """The norms [out] of the rows of W + s·B·A.

    In training they are computed in every pass: optimisers that write to many tensors at once do not count it in the
    tensors' versions. Between two trainings they are kept.
    """

    def __init__(self, weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float):
        self.weight, self.a, self.b, self.scale = weight, a, b, scale
        self.squares: torch.Tensor | None = None  # of the rows of W, which is frozen
        self.kept: torch.Tensor | None = None

    def now(self, training: bool) -> torch.Tensor:
        """Return the norms as they are now."""
        if training or torch.is_grad_enabled():  # objectives look at a layer in the middle of a step
            self.kept = None
            return self.computed()
        if self.kept is None:
            self.kept = self.computed()
        return self.kept

    @torch.no_grad()
    def computed(self) -> torch.Tensor:
        """Return the norms, by the products of A and B with W and themselves."""
        if self.squares is None:
            self.squares = self.weight.square().sum(dim=1)
        crossed = (self.weight @ self.a.t()).mul_(self.b).sum(dim=1)
        own = (self.b @ (self.a @ self.a.t())).mul_(self.b).sum(dim=1)
        return (self.squares + 2 * self.scale * crossed + self.scale**2 * own).clamp_(min=0).sqrt_()
