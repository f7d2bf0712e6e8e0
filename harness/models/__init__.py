"""In: a model's folder. Out: the model and its tokenizer, ready to train or to score."""

from __future__ import annotations

from harness.models import loading, token_lengths
from harness.models.forest import (
    Forest,
    forest_logits,
    layer_width,
    most_nodes,
    plant,
    plant_many,
    runs_forests,
    same_logits,
)
from harness.models.loading import (
    compute_dtype,
    keep_four_bits_unpacked,
    load_model,
    load_tokenizer,
    logits_at,
    prompt_run_once,
    resolve_precision,
    text_run_once,
)

__all__ = [
    "Forest",
    "compute_dtype",
    "forest_logits",
    "keep_four_bits_unpacked",
    "layer_width",
    "load_model",
    "load_tokenizer",
    "loading",
    "logits_at",
    "most_nodes",
    "plant",
    "plant_many",
    "prompt_run_once",
    "resolve_precision",
    "runs_forests",
    "same_logits",
    "text_run_once",
    "token_lengths",
]
