"""Predicted memory of a cell, counted before it runs from the model's shapes, the method and the batch.

Counted: weights; gradients (4 bytes a trained number); optimiser state (Adam's two moments, 8 bytes: Kingma & Ba 2015,
arXiv:1412.6980; 8-bit, Dettmers et al. 2022, arXiv:2110.02861; Adafactor's rows and columns, Shazeer & Stern 2018,
arXiv:1804.04235; GaLore's projected moments, Zhao et al. 2024, arXiv:2403.03507; paged state is outside torch's
memory); what a forward pass keeps for its backward pass; what scoring holds, and the base model that the tuned model is
compared with; and on a CPU the process itself. Not counted: documents in memory, a method's own trainer (SetFit,
merging), validation batches, several devices for one cell, and on a GPU its context (some 500 MiB a process, outside
torch's own figure).

What a Llama-like layer keeps for the backward pass is given below in numbers for each token (h: hidden width, q: width
of all query heads, k: of all key heads, i: of the MLP). It was read off transformers' `modeling_llama.py` and checked
against torch's saved-tensor hooks to the byte (`tests/plan/test_memory.py`):

- Each norm keeps its input (h), one scale, and its normalised input (h) where its own weight is trained. Norms of
  queries and keys, as in Gemma 3 and Qwen 3, are as wide as those.
- Each linear layer keeps its input, where its weight is trained or an adapter reads it. In fp32 q, k and v share one
  input (h), gate and up share one (h), and the input of o (q) is the output of attention. Under autocast every layer
  casts an input of its own.
- Attention keeps its queries and its output (q + q), one number a head, and keys and values at 2k, or 2q where they are
  repeated for grouped queries, as they are when a batch has padding; then it also keeps a row of the mask, as long as
  the sequence. Eager attention keeps a row of each head's weights in place of output, numbers a head and mask.
- The gated MLP keeps 3i: gate, its activation, up.

The output layer is run only where an answer token is predicted (`models.logits_at`): a batch has as many of these
places as its answers cover, and each costs four times the vocabulary: logits, log-probabilities, and gradients of both.

On a CPU two things are added that no count of tensors shows. A base model whose checkpoint is in fp32 stays mapped from
its file as long as any weight lies there, so a quantised base is in memory twice. And the C library's heap has holes:
what a step frees, the next cannot fill as tightly, least of all where the small tensors of many adapters lie in between
(HOLES, measured with glibc 2.36; docs/lab-notes.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal

from harness.architecture import Network, Shape
from harness.data import PLACES, TOKENS, Facts, LengthFacts
from harness.methods import Footprint, Method, make_method
from harness.records import Cell, TrainSettings

Device = Literal["cpu", "cuda"]
MIB = 2**20
FLOAT = 4
# A CPU process with torch, transformers, peft, lm-eval and a task's documents in it, at work; and its tokenizer, for
# each word of the vocabulary (docs/performance.md).
PROCESS, PROCESS_PER_WORD = 530 * MIB, 1250
# bitsandbytes' own bytes a weight: the packed number, a byte of scale for 64 of them, and four for 256 of those.
QUANTISED = {"nf4": 0.5 + 1 / 64 + 4 / (64 * 256), "fp4": 0.5 + 1 / 64 + 4 / (64 * 256), "int8": 1.0}
# What the heap of a CPU process grows beyond the activations kept, as a share of all that a step makes: in general, and
# with adapters.
HOLES, HOLES_BETWEEN_ADAPTERS = 0.2, 0.7
ROLLING = "loglikelihood_rolling"  # lm-eval's output type of running text
LOGITS = 4  # times the vocabulary, in fp32, for each place that predicts an answer token
EIGHT_BIT_FROM = 4096  # bitsandbytes keeps the moments of smaller tensors in fp32
PAGED_FROM = 100_000  # smaller tensors' moments are not paged: they stay in the GPU's own memory


@dataclass(frozen=True)
class Prediction:
    """Predicted memory of a cell, in bytes.

    `weights` and `process` are held throughout. The others are added at their own time: `gradients`, `optimizer` and
    `activations` at the worst moment of training (on a CPU the heap's holes are among the activations), `scoring` while
    tasks are scored, `loading` while the checkpoint is read, `comparing` while the base model is held beside the tuned
    one.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    scoring: int
    loading: int
    process: int
    comparing: int = 0

    @property
    def training(self) -> int:
        """The bytes that training adds to weights and process at its worst moment."""
        return self.gradients + self.optimizer + self.activations

    @property
    def peak(self) -> int:
        """The most bytes held at once: the highest of loading, training, scoring and comparing."""
        return max(self.needed, self.process + self.weights + self.comparing)

    @property
    def needed(self) -> int:
        """The peak without comparing with the base model: that step is left out where there is no room for it."""
        return self.process + self.weights + max(self.training, self.scoring, self.loading)


def predict_memory(cell: Cell, facts: Facts, device: Device = "cpu") -> Prediction | None:
    """Predict the memory that a cell will take: on a CPU the resident set of its process, on a GPU what torch
    allocates.

    None where it cannot be counted: a method that says nothing of its footprint, a network of another form than
    Llama's, a checkpoint without safetensors headers, an objective or a curriculum, or tasks whose lengths have not
    been counted (`fetch` does).
    """
    model = facts.models.get(cell.model)
    network = model.network if model else None
    if network is None or not network.is_counted() or cell.objectives or cell.curriculum:
        return None
    method = make_method(cell.method, cell.settings)
    footprint = method.footprint(network)
    tasks = [facts.lengths.get((cell.model, name)) for name in (*cell.learn, *cell.retain)]
    scored = [lengths for lengths in tasks if lengths]
    if footprint is None or len(scored) < len(tasks):
        return None
    count = Count(network, method, footprint, cell.train, device)
    training = count.training(scored[0], cell.n_train) if cell.n_train and method.trains else (0, 0, 0)
    generated = [facts.tasks[name].output_type == "generate_until" for name in (*cell.learn, *cell.retain)]
    # At a checkpoint the optimizer's state is held while tasks are scored, and gradients are not.
    held = training[1] if cell.train.checkpoints else 0
    return Prediction(
        count.weights,
        *training,
        scoring=held + max(count.scoring(lengths, made) for lengths, made in zip(scored, generated, strict=True)),
        comparing=count.comparing if compares(cell, facts) else 0,
        loading=count.loading,
        process=PROCESS + PROCESS_PER_WORD * network.vocabulary if device == "cpu" else 0,
    )


def compares(cell: Cell, facts: Facts) -> bool:
    """Return whether a cell loads the base model to compare itself with it, as cells that retain running text do. The
    base model's own cell does not."""
    return bool(cell.baseline) and any(facts.tasks[name].output_type == ROLLING for name in cell.retain)


def room_to_compare(parameters: float, vocabulary: int) -> int:
    """Return the bytes that comparing with the base model takes beside the tuned model: the base model in fp32, both
    models' logits of a text, and three tensors in double precision for some places of the text. `parameters` and
    `vocabulary` are the base model's numbers of weights and of tokens."""
    return int(FLOAT * parameters) + vocabulary * (2 * FLOAT * TOKENS + 3 * 2 * FLOAT * PLACES)


@dataclass(frozen=True)
class Count:
    """Counts the memory of a cell in bytes, for one network, method (with its `footprint` on this network), block of
    training settings and kind of device."""

    network: Network
    method: Method
    footprint: Footprint
    train: TrainSettings
    device: Device

    # --- weights ---

    @cached_property
    def linear_parameters(self) -> int:
        """The number of weights in the linear layers inside the decoder."""
        return sum(map(math.prod, self.network.linears().values()))

    @cached_property
    def added(self) -> int:
        """Trained numbers that are not part of the network itself, such as those of adapters and prompts."""
        names = self.network.weights
        return sum(math.prod(shape) for name, shape in self.footprint.trained.items() if name not in names)

    @cached_property
    def weights(self) -> int:
        """Bytes of the model's weights, in fp32 whatever the checkpoint says. A quantised base keeps embeddings, norms
        and output layer in fp32; on a CPU those are parts of the mapped file, which then stays in memory as a whole."""
        rest = self.network.parameters() - self.linear_parameters
        each = QUANTISED[self.method.quantize] if self.method.quantize else FLOAT
        mapped = self.linear_parameters * FLOAT if self.method.quantize and self.mapped else 0
        return int(self.linear_parameters * each) + mapped + FLOAT * (rest + self.added + self.footprint.frozen)

    @property
    def mapped(self) -> bool:
        """Whether the fp32 weights are the checkpoint file itself, mapped into memory."""
        return self.device == "cpu" and self.network.stored_bytes == FLOAT * self.network.parameters()

    @property
    def loading(self) -> int:
        """Bytes of the checkpoint that are in memory beside the weights made from it. A GPU gets the weights one by
        one."""
        if self.device == "cuda":
            return FLOAT * max(map(math.prod, self.network.weights.values()))
        return 0 if self.mapped else self.network.stored_bytes

    @property
    def comparing(self) -> int:
        """Bytes that the base model adds to the tuned one: while it is loaded, or while both are run, whichever is
        more."""
        parameters = self.network.parameters()
        return max(FLOAT * parameters + self.loading, room_to_compare(parameters, self.network.vocabulary))

    # --- training ---

    @property
    def kernel(self) -> str:
        """The attention kernel: that of the settings, or the one that transformers takes for this model by itself."""
        if self.train.attention != "auto":
            return self.train.attention
        structure = self.network.structure
        return "sdpa" if structure is None or "sdpa" in structure.attention else "eager"

    @property
    def autocast(self) -> bool:
        """Whether forward passes compute in 16 bits on copies of the fp32 weights."""
        precision = self.train.precision
        return precision in ("bf16", "fp16") or (precision == "auto" and self.device == "cuda")

    @property
    def each(self) -> int:
        """Bytes of one number in the output of a linear layer or of attention: 2 under autocast, else 4."""
        return 2 if self.autocast else FLOAT

    def training(self, lengths: LengthFacts, n_train: int) -> tuple[int, int, int]:
        """Return (gradients, optimiser state, activations) in bytes, at the worst moment of the largest batch.

        That batch holds the longest example that a cell will meet; every batch is padded to its longest. `lengths` are
        those of the learned task, `n_train` is its number of examples.
        """
        settings = self.train
        each_step = settings.batch_size * settings.gradient_accumulation
        seen = min(n_train, settings.steps * each_step) if settings.steps else n_train
        length = expected_longest(lengths.training, seen, settings.max_length)
        batch = min(settings.batch_size, n_train) * self.footprint.sequences
        places = answer_places(lengths.training, lengths.answer, batch, settings.max_length)
        rows = batch * (length + self.footprint.virtual_tokens)
        width = length + self.footprint.virtual_tokens + self.footprint.prefix_tokens
        per_token = [self.layer(place, rows, width) for place in range(self.footprint.lowest, len(self.network.layers))]
        fixed = [
            self.fixed(place) + self.prefix(place, batch)
            for place in range(self.footprint.lowest, len(self.network.layers))
        ]
        layers = [sum(pair) for pair in zip(per_token, fixed, strict=True)]
        passing = sum(layers)
        held = passing
        if settings.gradient_checkpointing:  # each layer's input, and one layer made again
            held = FLOAT * rows * self.network.hidden * len(layers) + max(layers, default=0)
        rest = FLOAT * rows * 2 * self.network.hidden + self.head(batch, places) + self.backward(rows)
        rest += self.casts + self.dequantised
        gradients = FLOAT * self.trained
        if settings.early_stopping:
            rest += gradients  # the best weights so far, beside those in training
        return gradients, self.optimizer, self.beside(gradients, held + rest, passing + rest)

    def beside(self, gradients: int, kept: int, passing: int) -> int:
        """Return the bytes of activations that are held together with all gradients, at the worst moment.

        `kept` are the bytes that a forward pass keeps, `passing` those that a whole step makes, kept or made again: all
        of them leave holes in a heap.
        """
        twice = self.shared_embedding
        if self.device == "cpu":
            # Freed activations are smaller than gradients, and scattered: the heap grows by both.
            holes = HOLES_BETWEEN_ADAPTERS if self.footprint.adapted else HOLES
            return kept + twice + max(0, round(holes * passing) - gradients)
        if self.train.gradient_accumulation > 1:
            return kept + twice  # gradients of the batches before are there from the start
        # Layer by layer activations are freed and gradients made: the peak is either all activations or all gradients.
        return max(kept + twice // 2 - gradients, twice)

    @cached_property
    def trained(self) -> int:
        """The number of trained weights."""
        return sum(map(math.prod, self.footprint.trained.values()))

    @property
    def optimizer(self) -> int:
        """Bytes of the optimiser's state and of the state that the method keeps for each trained number."""
        kind, rank = self.train.optimizer, self.train.galore_rank
        linears = self.network.linears()
        return FLOAT * self.footprint.state * self.trained + sum(
            projected_bytes(rank, shape) if kind == "galore" and name in linears else state_bytes(kind, shape)
            for name, shape in self.footprint.trained.items()
        )

    @property
    def shared_embedding(self) -> int:
        """Bytes of the two gradients that an embedding has for a moment, where it is also the output layer, before they
        are added up; 0 elsewhere."""
        network = self.network
        tied = network.embedding in self.footprint.trained and "lm_head.weight" not in network.weights
        return 2 * FLOAT * network.vocabulary * network.hidden if tied else 0

    @property
    def casts(self) -> int:
        """Bytes of the 16-bit copies of weights that autocast keeps for the backward pass; 0 without autocast."""
        if not self.autocast:
            return 0
        linear = 0 if self.method.quantize else self.linear_parameters
        return 2 * (linear + self.network.vocabulary * self.network.hidden)

    @property
    def dequantised(self) -> int:
        """Bytes of the largest quantised layer while it is unpacked to be multiplied; 0 without quantisation."""
        return 2 * self.each * max(map(math.prod, self.network.linears().values())) if self.method.quantize else 0

    def head(self, batch: int, places: int) -> int:
        """Return the bytes of logits, log-probabilities and their gradients, where each of `batch` sequences predicts
        at `places` places."""
        return LOGITS * FLOAT * batch * places * self.network.vocabulary

    def backward(self, rows: int) -> int:
        """Return the bytes of the gradients of activations in one layer, for a batch of `rows` tokens: those of the
        MLP's three parts, and two as wide as the hidden state."""
        return self.each * rows * (3 * self.width("gate_proj") + 2 * self.network.hidden)

    def width(self, linear: str, layer: int = -1) -> int:
        """Return the width of a linear layer's output (`linear`: "q_proj"), as numbers for each token; `layer` is the
        number of the decoder layer, by default the last."""
        return next(
            self.network.weights[name][0]
            for short, name in self.network.layers[layer].items()
            if short.endswith(f"{linear}.weight")
        )

    def fixed(self, place: int) -> int:
        """Return the bytes that the adapters in layer number `place` keep whatever the batch."""
        return FLOAT * sum(self.footprint.fixed.get(name, 0) for name in self.network.layers[place].values())

    def prefix(self, place: int, batch: int) -> int:
        """Return the bytes of the trained keys and values (prefix tokens) that a method puts before the input's, in
        layer number `place`, for `batch` sequences."""
        return self.each * 2 * self.seen(place) * batch * self.footprint.prefix_tokens

    def layer(self, place: int, rows: int, width: int) -> int:
        """Return the bytes that layer number `place` keeps for the backward pass, for `rows` tokens in sequences of
        `width` tokens, padding included."""
        return rows * (self.norms(place) + self.linear_inputs(place) + self.attention(place, width) + self.mlp(place))

    def norms(self, place: int) -> int:
        """Return the bytes for each token that the norms of layer number `place` keep. Norms work in fp32, also under
        autocast."""
        found = 0
        for short, name in self.network.layers[place].items():
            shape = self.network.weights[name]
            if "norm" not in short or len(shape) != 1:
                continue
            linear = next((f"{part}_proj" for part in ("q", "k") if f"{part}_norm" in short), "")
            wide = self.width(linear, place) if linear else shape[0]
            found += wide * (1 + (name in self.footprint.trained)) + wide // shape[0]
        return FLOAT * found

    def linear_inputs(self, place: int) -> int:
        """Return the bytes for each token that the linear layers of layer number `place` keep: inputs for the gradients
        of weights and adapters, and what adapters keep besides."""
        footprint, shared, found = self.footprint, set(), 0
        for short, name in self.network.layers[place].items():
            if not short.endswith("_proj.weight"):
                continue
            linear = short.split(".")[-2]
            into = self.network.weights[name][1]
            adapted = name in footprint.adapted
            found += self.each * footprint.per_token.get(name, 0)
            if not (name in footprint.trained or (adapted and footprint.inputs_kept)):
                continue
            # o's input is attention's output, counted there; an adapter under autocast casts its own.
            if linear == "o_proj" and self.kernel != "eager" and not (self.autocast and adapted):
                continue
            group = {"k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"}.get(linear, linear)
            if self.autocast or group not in shared:
                found += self.each * into
            shared.add(group)
        return found

    def attention(self, place: int, width: int) -> int:
        """Return the bytes for each token that attention in layer number `place` keeps, in sequences of `width`
        tokens."""
        queries, seen = self.width("q_proj", place), self.seen(place)
        heads, kind = self.network.heads, self.kernel
        if kind == "eager":
            weights = heads * width * (self.each + (FLOAT if self.autocast else 0))
            return self.each * (queries + 2 * seen) + weights
        mask = 0 if kind == "flash_attention_2" else self.each * width
        return self.each * (2 * queries + 2 * seen) + FLOAT * heads + mask

    def seen(self, place: int) -> int:
        """Return how many numbers a token's keys have as attention reads them in layer number `place` (repeated for
        grouped queries); its values have as many."""
        # One head of keys is repeated without a copy.
        repeated = self.network.key_heads > 1 and self.kernel != "flash_attention_2"
        return self.width("q_proj" if repeated else "k_proj", place)

    def mlp(self, place: int) -> int:
        """Return the bytes for each token that the gated MLP of layer number `place` keeps."""
        return self.each * 3 * self.width("gate_proj", place)

    # --- scoring ---

    def scoring(self, lengths: LengthFacts, generated: bool) -> int:
        """Return the bytes that scoring adds to weights and process at its largest batch; 0 where nothing is scored.
        Scoring computes in fp32, and keeps nothing of a layer.

        `lengths` are those of the scored task. `generated`: its answers are written, so that keys and values of every
        layer are cached.
        """
        if not lengths.scored:
            return 0
        network = self.network
        batch = min(self.train.eval_batch_size, max(1, lengths.sequences))
        longest = min(lengths.scored[-1], network.max_length)
        # Sorted by length, a batch is nearly level: places to predict spread over little more than one answer.
        share = 1 - batch / max(1, lengths.sequences)
        spread = longest - min(longest, quantile(lengths.scored, share))
        places = min(longest, lengths.continuation + spread)
        rows = batch * longest
        queries, inner = self.width("q_proj"), self.width("gate_proj")
        layer = rows * (3 * network.hidden + max(3 * inner, 6 * queries))
        if self.kernel == "eager":
            layer += 2 * rows * network.heads * longest
        cache = 0
        before = self.footprint.virtual_tokens + self.footprint.prefix_tokens
        if generated or before:  # keys and values of every layer
            cache = 2 * self.width("k_proj") * len(network.layers) * (rows + batch * before)
        logits = network.vocabulary * (batch * places + 2 * lengths.continuation)
        return int(FLOAT * (max(layer, logits) + cache) + self.dequantised)


def state_bytes(optimizer: str, shape: Shape) -> int:
    """Return the bytes of an optimiser's state for one tensor. `optimizer` is its name in `train:`, other than galore;
    state that is paged out of torch's memory counts 0."""
    size = math.prod(shape)
    if optimizer == "adafactor" and len(shape) > 1:
        return FLOAT * (size // shape[-1] + size // shape[-2])
    if optimizer == "adafactor":
        return FLOAT * size
    paged = optimizer.startswith("paged_") and size >= PAGED_FROM  # then torch does not hold it
    if optimizer in ("adamw8bit", "paged_adamw8bit") and size >= EIGHT_BIT_FROM:
        return 2 * size * (not paged) + 2 * FLOAT * math.ceil(size / 256)
    return 0 if paged else 2 * FLOAT * size


def projected_bytes(rank: int, shape: Shape) -> int:
    """Return the bytes of GaLore's state for one matrix: both moments of its gradient projected to `rank`, and the
    projection."""
    short, long = min(shape), max(shape)
    rank = min(rank, short)
    return FLOAT * (2 * rank * long + rank * short)


def quantile(values: Sequence[int], share: float) -> float:
    """Return the length below which a `share` (0 to 1) of the texts lie, interpolated linearly between `values`:
    quantiles at equal distances, from the shortest to the longest."""
    place = min(max(share, 0.0), 1.0) * (len(values) - 1)
    low = min(int(place), len(values) - 2)
    return values[low] + (values[low + 1] - values[low]) * (place - low)


def expected_longest(values: Sequence[int], seen: int, most: int) -> int:
    """Return the expected length, in tokens, of the longest of `seen` texts, none longer than `most`. `values` are
    quantiles of the lengths at equal distances, from the shortest to the longest.

    This is the mean of the quantile function at the largest of `seen` uniform numbers, whose density is n u^(n-1).
    """
    last = len(values) - 1
    weights = [((place + 1) / last) ** seen - (place / last) ** seen for place in range(last)]
    middles = [(min(low, most) + min(high, most)) / 2 for low, high in pairwise(values)]
    return round(sum(weight * middle for weight, middle in zip(weights, middles, strict=True)))


def answer_places(values: Sequence[int], answer: int, batch: int, most: int) -> int:
    """Return the expected number of token positions of a batch at which some example predicts an answer token.

    Right-padded examples end, and so answer, at different positions. `values` are quantiles of the examples' lengths in
    tokens, which are cut at `most`; `answer` is the number of answer tokens, `batch` that of sequences.
    """
    lengths = [min(value, most) for value in values]
    answer = min(answer, most - 1)
    ends: dict[int, int] = {}
    for value in lengths:
        ends[value] = ends.get(value, 0) + 1
    expected = 0.0
    for place in range(max(1, min(lengths) - answer), max(lengths)):
        # A text of `end` tokens predicts its answer at places end - answer - 1 … end - 2.
        hit = sum(count for end, count in ends.items() if end - answer - 1 < place <= end - 1) / len(lengths)
        expected += 1 - (1 - hit) ** batch
    return max(1, round(expected))
