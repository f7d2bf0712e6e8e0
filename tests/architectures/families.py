"""Tiny random models of the families that people bring: two layers, 64 wide, 256 positions, a byte-level tokenizer of
384 words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

COMMON = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
GROUPED = COMMON | {"num_key_value_heads": 2}
# family -> (its configuration's class in transformers, its configuration)
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", GROUPED),
    "qwen2": ("Qwen2Config", GROUPED),
    "qwen3": ("Qwen3Config", GROUPED | {"head_dim": 16}),
    "gemma2": ("Gemma2Config", GROUPED | {"head_dim": 16, "sliding_window": 64}),
    "gemma3": ("Gemma3TextConfig", GROUPED | {"head_dim": 16, "sliding_window": 64}),
    "mistral": ("MistralConfig", GROUPED | {"sliding_window": None}),
    "mixtral": ("MixtralConfig", GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "phi": ("PhiConfig", COMMON),
    "phi3": ("Phi3Config", GROUPED | {"original_max_position_embeddings": 256}),
    "gpt2": ("GPT2Config", {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256}),
    "gpt_neox": ("GPTNeoXConfig", COMMON),
    "gptj": ("GPTJConfig", {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256, "rotary_dim": 8}),
    "gpt_neo": (
        "GPTNeoConfig",
        {
            "hidden_size": 64,
            "num_layers": 2,
            "num_heads": 4,
            "max_position_embeddings": 256,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 64,
        },
    ),
    "opt": ("OPTConfig", COMMON | {"ffn_dim": 128, "word_embed_proj_dim": 64}),
    "bloom": ("BloomConfig", {"hidden_size": 64, "n_layer": 2, "n_head": 4}),
    "falcon": ("FalconConfig", {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}),
    "olmo2": ("Olmo2Config", GROUPED),
    "starcoder2": ("Starcoder2Config", GROUPED | {"sliding_window": None}),
    "mamba": ("MambaConfig", {"hidden_size": 64, "num_hidden_layers": 2, "state_size": 8}),
}
SIZES = {"d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128}
HEADS = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_position_embeddings": 256}
T5 = {"d_model": 64, "d_ff": 128, "d_kv": 16, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
# models that are no causal language model -> (the configuration's class, the model's, the configuration)
STRANGERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "t5": ("T5Config", "T5ForConditionalGeneration", T5),
    "bart": ("BartConfig", "BartForConditionalGeneration", SIZES | HEADS),
    "bert": ("BertConfig", "BertForMaskedLM", COMMON),
    "encoder": ("BertConfig", "BertModel", COMMON),
    "classifier": ("LlamaConfig", "LlamaForSequenceClassification", GROUPED),
}


def config_of(family: str, vocabulary: int = 384) -> Any:
    """The configuration of a family's tiny model."""
    import transformers

    kind, settings = FAMILIES[family]
    words = {"vocab_size": vocabulary, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    return getattr(transformers, kind)(**settings, **words)


def make_family(family: str, tokenizer: Path, folder: Path) -> Path:
    """Write a family's tiny model with the tokenizer of another model's folder; return its folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    words = AutoTokenizer.from_pretrained(tokenizer)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config_of(family, len(words)), dtype=torch.float32).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def make_stranger(name: str, tokenizer: Path, folder: Path) -> Path:
    """Write a tiny model that is no causal language model."""
    import torch
    import transformers

    config, kind, settings = STRANGERS[name]
    words = transformers.AutoTokenizer.from_pretrained(tokenizer)
    torch.manual_seed(0)
    made = getattr(transformers, config)(**settings, vocab_size=len(words), pad_token_id=2, eos_token_id=2)
    getattr(transformers, kind)(made).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder
