"""In: a model's folder, or a loaded model. Out: what the model is made of: the names, shapes and kinds of its weights,
its layers, and within a layer attention, MLP and norms. Found by structure, whatever a family calls its parts."""

from __future__ import annotations

from harness.architecture.folder import (
    header,
    model_mistake,
    read_config,
    read_network,
)
from harness.architecture.network import (
    LAYER,
    LAYER_COUNTS,
    LINEARS,
    SAMPLE,
    Network,
    Shape,
    Structure,
    context_length,
    is_target,
    sample,
)
from harness.architecture.parts import (
    LayerParts,
    decoder_layers,
    describe,
    final_norm,
    is_norm,
    is_transposed,
    layer_parts,
    layers_name,
)

__all__ = [
    "LAYER",
    "LAYER_COUNTS",
    "LINEARS",
    "SAMPLE",
    "LayerParts",
    "Network",
    "Shape",
    "Structure",
    "context_length",
    "decoder_layers",
    "describe",
    "final_norm",
    "header",
    "is_norm",
    "is_target",
    "is_transposed",
    "layer_parts",
    "layers_name",
    "model_mistake",
    "read_config",
    "read_network",
    "sample",
]
