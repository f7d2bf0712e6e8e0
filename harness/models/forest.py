"""Runs a causal language model on several token sequences without computing anything twice.

Sequences that begin alike are laid out as one tree, a prefix tree: a token that follows the same tokens is computed
once, whichever sequences it belongs to, there is no padding between sequences of different lengths, and logits are
computed at the places that are asked for and nowhere else. Each token sees its own sequence alone, by the attention
mask, and stands at its own place, by its position; so the logits are those of the sequences by themselves, up to the
order in which floating-point numbers are added.

Attention looks from every token of a tree at every other, so that long sequences are better laid out in several trees
(`plant`), and very long ones as they are.

Not covered: whether a model's code heeds such masks and positions. `runs_forests` asks the model itself.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import WeakKeyDictionary

import numpy

from harness.data import alike
from harness.models.loading import accepts_places, inside, logits_at

if TYPE_CHECKING:
    import torch
    from torch import nn

TOLERANCE = 1e-3  # of a logit, as a share of how far the logits of a place are spread
KERNELS = ("sdpa", "eager")  # attention that takes a mask of any form
# Settings of models in which a token does not see all before it. Some count the tokens between, whatever the mask says.
WINDOWS = ("sliding_window", "attention_chunk_size", "window_size")
SAMPLED = 32  # tokens of a sequence with which a model is asked
NODES = 384  # of a tree, where many sequences are laid out: enough to keep matrix products busy
SMALL, NOISE = 0.1, 0.02  # of a model's weights; the standard deviation of what is added to adapters
WORTH = 0.95  # share of the padded batch's work above which nothing is gained
# A layer's weights are about 12 · width² multiplications a token, attention 4 · width for each token looked at.
WEIGHTS_PER_WIDTH = 3


Nodes: TypeAlias = "numpy.ndarray[Any, numpy.dtype[numpy.int64]]"  # a whole number for each


@dataclass(frozen=True)
class Forest:
    """Token sequences laid out as trees of equal size.

    `tokens` and `positions`: [trees, nodes]; `sees`: [trees, nodes, nodes], whether a node (row) looks at another
    (column). The logits that are asked for are those of each tree's last `kept` nodes; `answers` has their numbers
    in trees × kept, in the order of the sequences, and of the places of each. `paths` has the nodes of each sequence,
    as numbers in trees × nodes.
    """

    tokens: Nodes
    positions: Nodes
    sees: numpy.ndarray[Any, numpy.dtype[numpy.bool_]]
    kept: int
    answers: list[int]
    paths: list[Nodes]


@dataclass
class Tree:
    """One prefix tree: for each node its token, its parent's number (-1: none) and its depth; and the node of each
    place that is asked for, and the nodes of each sequence."""

    tokens: list[int]
    parents: list[int]
    depths: list[int]
    asked: list[int]
    paths: list[list[int]]

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]], places: Sequence[Sequence[int]]) -> Tree:
        """Returns the tree of some sequences. Of each, only what stands before or at its last asked place is kept."""
        tree = cls([], [], [], [], [])
        numbers: dict[tuple[int, int], int] = {}
        for sequence, wanted in zip(sequences, places, strict=True):
            node, path = -1, []
            for depth, token in enumerate(sequence[: max(wanted, default=-1) + 1]):
                child = numbers.setdefault((node, token), len(tree.tokens))
                if child == len(tree.tokens):
                    tree.tokens.append(token)
                    tree.parents.append(node)
                    tree.depths.append(depth)
                node = child
                path.append(child)
            tree.asked += [path[place] for place in wanted]
            tree.paths.append(path)
        return tree


def work_of(rows: int, length: int, width: int) -> float:
    """Returns the work of a forward pass over `rows` sequences of `length` tokens, through layers of a `width`:
    multiplications by weights and in attention, in units of 4 · width a layer."""
    return rows * length * (WEIGHTS_PER_WIDTH * width + length)


def plant(
    sequences: Sequence[Sequence[int]], places: Sequence[Sequence[int]], width: int, most_nodes: int
) -> Forest | None:
    """Returns the forest of token sequences whose logits are asked for at `places` (numbers of tokens, for each
    sequence), with as many trees, of at most so many nodes, as make the least work for a model of this `width`; None
    where no number of trees makes less work than the sequences when they are padded to equal length."""
    most = work_of(len(sequences), max(map(len, sequences)), width) * WORTH
    best: list[Tree] | None = None
    count = 1
    while count <= len(sequences):
        bounds = [len(sequences) * number // count for number in range(count + 1)]
        trees = [Tree.of(sequences[start:end], places[start:end]) for start, end in pairwise(bounds)]
        nodes = max(len(tree.tokens) for tree in trees)
        work = work_of(count, nodes, width)
        if work < most and nodes <= most_nodes:
            best, most = trees, work
        count *= 2
    return laid_out(best) if best else None


def plant_many(
    sequences: Sequence[Sequence[int]], places: Sequence[Sequence[int]], size: int, width: int, most_nodes: int
) -> Iterator[Forest] | None:
    """Returns the forests of many token sequences, in their order, which are best sorted; None where these make no less
    work for a model of this `width` than the sequences, padded in batches of `size`. No forest has more nodes than a
    batch of the longest sequences has tokens, and no tree more than so many."""
    longest = max(map(len, sequences))
    # Larger trees save little more, and attention in them costs more.
    nodes = max(longest, min(size * longest, NODES, most_nodes))
    starts, count = [0], 0
    for number, sequence in enumerate(sequences):
        before = sequences[number - 1] if count else ()
        more = len(sequence) - alike(sequence, before)
        if count and count + more > nodes:
            starts.append(number)
            count, more = 0, len(sequence)
        count += more
    bounds = [*starts, len(sequences)]
    stretches = list(pairwise(bounds))
    trees = [Tree.of(sequences[start:end], places[start:end]) for start, end in stretches]
    ranked = sorted(map(len, sequences), reverse=True)
    padded = sum(
        work_of(len(ranked[start : start + size]), ranked[start], width) for start in range(0, len(ranked), size)
    )
    at_once = max(1, size * longest // nodes)
    groups = [trees[start : start + at_once] for start in range(0, len(trees), at_once)]
    if sum(work_of(len(group), max(len(tree.tokens) for tree in group), width) for group in groups) > WORTH * padded:
        return None
    return (laid_out(group) for group in groups)


def laid_out(trees: Sequence[Tree]) -> Forest:
    """Returns trees as one forest: filled up to equal size in front, and the nodes that are asked for at the end."""
    asked = [list(dict.fromkeys(tree.asked)) for tree in trees]
    size, kept = max(len(tree.tokens) for tree in trees), max(map(len, asked))
    # With fewer nodes than are kept, a tree has some in front that nobody asks for.
    tokens = numpy.zeros((len(trees), size), dtype=numpy.int64)
    positions = numpy.zeros((len(trees), size), dtype=numpy.int64)
    sees = numpy.zeros((len(trees), size, size), dtype=numpy.bool_)
    answers: list[int] = []
    paths: list[Nodes] = []
    for number, (tree, last) in enumerate(zip(trees, asked, strict=True)):
        count = len(tree.tokens)
        own = numpy.zeros((count, count), dtype=numpy.bool_)
        for node, parent in enumerate(tree.parents):
            if parent >= 0:
                own[node] = own[parent]
            own[node, node] = True
        wanted = set(last)
        order = numpy.array([*(node for node in range(count) if node not in wanted), *last], dtype=numpy.int64)
        start = size - count
        tokens[number, start:] = numpy.array(tree.tokens, dtype=numpy.int64)[order]
        positions[number, start:] = numpy.array(tree.depths, dtype=numpy.int64)[order]
        sees[number, start:, start:] = own[numpy.ix_(order, order)]
        sees[number, range(start), range(start)] = True  # a softmax over nothing is no number
        place = {node: number * kept + kept - len(last) + rank for rank, node in enumerate(last)}
        answers += [place[node] for node in tree.asked]
        numbers = numpy.empty(count, dtype=numpy.int64)
        numbers[order] = numpy.arange(number * size + start, (number + 1) * size)
        paths += [numbers[path] for path in tree.paths]
    return Forest(tokens, positions, sees, kept, answers, paths)


def forest_logits(model: nn.Module, forest: Forest, device: torch.device | str) -> torch.Tensor:
    """Return the logits [answers, vocabulary] that are asked for of a forest, in the order of the sequences."""
    import torch

    trees, _ = forest.tokens.shape
    tokens = torch.from_numpy(forest.tokens).to(device)
    positions = torch.from_numpy(forest.positions).to(device)
    sees = torch.from_numpy(forest.sees).to(device).unsqueeze(1)
    opened: Any = model if hasattr(model, "is_opened") else None
    kind = prompt_kind(model)
    inner: Any = opened.inner if opened else inside(model)
    options: dict[str, Any] = {"use_cache": False}
    before = 0
    if opened:
        past = opened.copies(trees)
        before = past.get_seq_length()
        options |= {"past_key_values": past, "use_cache": True}
    elif kind:
        prompted, before = inner, int(inner.active_peft_config.num_virtual_tokens)
        inner, prompt = prompted.get_base_model(), prompted.get_prompt(batch_size=trees)
        if kind == "PREFIX_TUNING":
            options["past_key_values"] = prompt
        else:
            words = prompted.word_embeddings(tokens)
            options["inputs_embeds"] = torch.cat([prompt.to(words.dtype), words], dim=1)
            own = torch.ones(before, before, dtype=torch.bool, device=device).tril()
            above = torch.cat([own, own.new_zeros(before, sees.shape[-1])], dim=1).expand(trees, 1, -1, -1)
            sees = torch.cat([above, torch.cat([sees.new_ones(*sees.shape[:3], before), sees], dim=3)], dim=2)
            first = torch.arange(before, device=device).expand(trees, -1)
            positions = torch.cat([first, positions + before], dim=1)
    if before and "inputs_embeds" not in options:
        sees = torch.cat([sees.new_ones(*sees.shape[:3], before), sees], dim=3)
        positions = positions + before
    if "inputs_embeds" not in options:
        options["input_ids"] = tokens
    if accepts_places(inner):
        options["logits_to_keep"] = torch.arange(-forest.kept, 0, device=device)
    logits: torch.Tensor = inner(attention_mask=as_mask(inner, sees), position_ids=positions, **options).logits
    flat = logits[:, -forest.kept :].flatten(0, 1)
    if forest.answers == list(range(len(flat))):
        return flat
    return flat[torch.tensor(forest.answers, device=device)]


def layer_width(model: nn.Module) -> int:
    """Return the width of a model's layers; that of a small one where its configuration does not say."""
    return int(getattr(configuration_of(getattr(model, "inner", model)), "hidden_size", None) or 512)


def as_mask(model: nn.Module, sees: torch.Tensor) -> torch.Tensor:
    """Return a mask of booleans in the form that a model's attention takes: sdpa takes it as it is, eager attention
    adds it to its scores."""
    import torch

    if kernel_of(model) == "sdpa":
        return sees
    dtype = next((value.dtype for value in model.parameters() if value.is_floating_point()), torch.float32)
    return torch.zeros(sees.shape, dtype=dtype, device=sees.device).masked_fill_(~sees, torch.finfo(dtype).min)


def prompt_kind(model: nn.Module) -> str:
    """Return what kind of virtual tokens peft puts before every input: PROMPT_TUNING, P_TUNING, PREFIX_TUNING, or the
    name of another kind; "" for a model without."""
    config: Any = getattr(model, "active_peft_config", None)
    return str(config.peft_type.value) if getattr(config, "is_prompt_learning", False) else ""


def configuration_of(model: nn.Module) -> Any:
    """Return the configuration of a model's text part."""
    config: Any = model.config
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def kernel_of(model: nn.Module) -> str:
    """Return the attention kernel that a transformers model uses."""
    return str(getattr(configuration_of(model), "_attn_implementation", ""))


_known: WeakKeyDictionary[Any, dict[bool, bool]] = WeakKeyDictionary()


def runs_forests(model: nn.Module, sequences: Sequence[Sequence[int]], device: torch.device | str) -> bool:
    """Return whether a model gives the logits of sequences laid out as a forest that it gives of the sequences by
    themselves.

    It is asked, once for each model (as it trains, and as it scores), with a few of the `sequences`' tokens. False
    where its code takes no positions, its tokens do not see all before them, or something in it is drawn by chance
    (dropout), as what is drawn would be another.
    """
    answers = _known.setdefault(model, {})
    if model.training not in answers:
        answers[model.training] = takes_forests(model) and agrees(model, sequences, device)
    longest = max(map(len, sequences))
    return answers[model.training] and longest <= most_nodes(model)


def takes_forests(model: nn.Module) -> bool:
    """Return whether a model's code has the inputs that a forest needs."""
    import torch

    if prompt_kind(model) not in ("", "PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING"):
        return False
    core: Any = getattr(model, "inner", model)
    core = core.get_base_model() if hasattr(core, "get_base_model") else core
    if not isinstance(core, torch.nn.Module) or not hasattr(core, "config"):
        return False
    if not {"position_ids", "attention_mask"} <= inspect.signature(core.forward).parameters.keys():
        return False
    return kernel_of(core) in KERNELS


def most_nodes(model: nn.Module) -> int:
    """Return the number of tokens beyond which some layer of a model does not look back: the most nodes of a tree."""
    config = configuration_of(getattr(model, "inner", model))
    bounds = [getattr(config, name, None) for name in WINDOWS]
    found = [bound for bound in bounds if isinstance(bound, int) and bound > 0]
    return min(found) - tokens_before(model) if found else sys.maxsize


def tokens_before(model: nn.Module) -> int:
    """Return how many tokens stand before every input: virtual ones, or those that were run once for all."""
    opened: Any = model
    if hasattr(model, "is_opened"):
        return int(opened.copies(1).get_seq_length())
    return int(opened.active_peft_config.num_virtual_tokens) if prompt_kind(model) else 0


def agrees(model: nn.Module, sequences: Sequence[Sequence[int]], device: torch.device | str) -> bool:
    """Return whether two short sequences, of tokens of these, have the same logits as a tree and padded on the right,
    and nothing is drawn by chance on the way.

    They begin alike, and places are asked for that others stand behind: their nodes are moved behind what looks at
    them, which shows code that goes by a token's number in place of the mask.
    """
    import torch

    pool = [token for sequence in sequences for token in sequence[:SAMPLED]][:SAMPLED]
    first = [pool[number % len(pool)] for number in range(6)]
    other = next((token for token in pool if token != first[2]), 0)
    pair, asked = [first, [*first[:2], other, *first[1:3]]], [[2, 5], [1, 4]]
    longest = max(map(len, pair))
    used = [device] if torch.device(device).type == "cuda" else []
    padded = torch.tensor([tokens + [0] * (longest - len(tokens)) for tokens in pair], device=device)
    mask = torch.tensor([[1] * len(tokens) + [0] * (longest - len(tokens)) for tokens in pair], device=device)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=used), disturbed(model):
            before = [torch.get_rng_state(), *map(torch.cuda.get_rng_state, used)]
            options = {} if hasattr(model, "is_opened") else {"attention_mask": mask}
            plain = logits_at(model, padded, torch.arange(-longest, 0, device=device), **options)
            after = [torch.get_rng_state(), *map(torch.cuda.get_rng_state, used)]
            if not all(map(torch.equal, before, after)):
                return False
            wanted = torch.stack([plain[number, place] for number, places in enumerate(asked) for place in places])
            found = forest_logits(model, laid_out([Tree.of(pair, asked)]), device)
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError):  # a family's own code
        return False
    return same_logits(found, wanted)


@contextmanager
def disturbed(model: nn.Module) -> Iterator[None]:
    """Add noise to what is trained of a model for the length of the block, where that is a small part of it: adapters
    that begin with zeros would show nothing of what they do to a tree."""
    import torch

    sizes = [value.numel() for value in model.parameters()]
    trained = [value for value in model.parameters() if value.requires_grad and value.is_floating_point()]
    if sum(value.numel() for value in trained) > SMALL * sum(sizes):
        trained = []
    before = [value.detach().clone() for value in trained]
    generator = torch.Generator().manual_seed(0)
    for value in trained:
        noise = torch.randn(value.shape, generator=generator)
        value.data.add_(noise.to(device=value.device, dtype=value.dtype), alpha=NOISE)
    try:
        yield
    finally:
        for value, kept in zip(trained, before, strict=True):
            value.data.copy_(kept)


def same_logits(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Return whether logits [places, vocabulary] are the same up to TOLERANCE, as a share of each place's spread."""
    spread = wanted.float().std(dim=-1, keepdim=True).clamp(min=1e-6)
    return bool(((found.float() - wanted.float()).abs() <= TOLERANCE * spread).all())
