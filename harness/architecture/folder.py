"""Reads a model's folder: its configuration, the headers of its weights, and what is wrong with it.

Only `config.json` and the headers of the safetensors files are read, by json and struct alone; no weight is loaded. Not
covered: checkpoints of another form (`.bin`, GGUF), which have no such header.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.architecture.network import Network, Shape, Structure

BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
HEADER_MOST = 100_000_000  # bytes: the format's own limit for a header


# Architectures (in config.json) that write text from left to right.
WRITES = re.compile(r"(ForCausalLM|LMHeadModel|ForConditionalGeneration|ForImageTextToText|ForMultimodalLM)$")
# Ends of architectures' names, and what such a model does instead.
OTHERWISE = {
    "ForSequenceClassification": "it classifies texts and writes none",
    "ForTokenClassification": "it classifies tokens and writes none",
    "ForQuestionAnswering": "it marks answers in a text and writes none",
    "ForMultipleChoice": "it chooses between answers and writes none",
    "ForMaskedLM": "it fills gaps in a text that it sees from both sides",
    "ForPreTraining": "it fills gaps in a text that it sees from both sides",
    "ForRewardModel": "it gives marks to texts and writes none",
}
# Families of encoders, whose bare models ("BertModel") are no language models either.
ENCODERS = {
    "albert", "bert", "camembert", "deberta", "deberta-v2", "distilbert", "electra", "ernie", "eurobert", "longformer",
    "modernbert", "mpnet", "nomic_bert", "roberta", "xlm-roberta",
}  # fmt: skip
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "tekken.json")
POINTER = b"version https://git-lfs"  # how a file begins that was never downloaded from Git's large-file storage
IN_USE = ("bos_token", "eos_token", "pad_token", "unk_token")


def read_config(folder: Path) -> dict[str, Any]:
    """Return the configuration of a model folder; of a model that also sees or hears, with that of its text part on
    top. Raises ValueError with a sentence where there is none, or it cannot be read."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if (folder / "adapter_config.json").exists():
            raise ValueError(
                f"{folder} holds an adapter{of_base(folder)}, not a model. Name the base model, or fold the adapter "
                "into it first (peft: merge_and_unload, then save_pretrained)."
            ) from None
        raise ValueError(f"{folder} is no model folder: it has no config.json.") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}.") from None
    except ValueError as error:
        raise ValueError(f"{path} is no valid JSON: {error}. Download or write it again.") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds {type(config).__name__}, wanted a mapping. Download or write it again.")
    if isinstance(config.get("text_config"), dict):  # of a model that also sees or hears
        config = {**config, **config["text_config"], "architectures": config.get("architectures")}
    return config


def of_base(folder: Path) -> str:
    """Return " of NAME", the base model that an adapter's configuration names; "" where it names none."""
    try:
        name = json.loads((folder / "adapter_config.json").read_text()).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError):
        return ""
    return f" of {name}" if name else ""


def model_mistake(folder: Path, trusted: bool = False) -> str:
    """Return why a folder holds no causal language model that can be used, in one sentence or two; "" where it seems to
    hold one. Only its configuration, its tokenizer and the headers of its weights are read. `trusted`: the model's own
    code may run."""
    try:
        config = read_config(folder)
    except ValueError as error:
        return str(error)
    code = "" if trusted else code_mistake(folder, config)
    return code or kind_mistake(folder, config) or weights_mistake(folder) or tokenizer_mistake(folder, config)


def code_mistake(folder: Path, config: Mapping[str, Any]) -> str:
    """Return why a model needs code of its own to run, which comes with its files; "" where transformers knows it."""
    if not isinstance(config.get("auto_map"), dict):
        return ""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if config.get("model_type") in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return ""
    files = sorted({str(value).split(".")[0].split("--")[-1] + ".py" for value in config["auto_map"].values() if value})
    return (
        f"{folder.name} is a {config.get('model_type')!r}, which transformers knows only by the code that comes with "
        f"it ({', '.join(files)}). Read that code; if it may run here, write models: "
        "[{source: …, trust_remote_code: true}]."
    )


def kind_mistake(folder: Path, config: Mapping[str, Any]) -> str:
    """Return why a model of this configuration is no causal language model; "" where it seems to be one."""
    kind, named = config.get("model_type"), config.get("architectures")
    names = [str(name) for name in named] if isinstance(named, list) else []
    shown = f"{folder.name} is a {names[0] if names else kind}"
    if not kind and not config.get("auto_map"):
        return f"{folder / 'config.json'} names no model_type, so transformers cannot tell what the model is."
    if config.get("is_encoder_decoder"):
        return (
            f"{shown}, an encoder-decoder: it reads the question with one network and writes the answer with another. "
            "tunebench adapts models that write from left to right alone (docs/models.md says why); take such a model."
        )
    for name in names:
        ending = next((end for end in OTHERWISE if name.endswith(end)), "")
        if ending and not any(WRITES.search(other) for other in names):
            return f"{shown}: {OTHERWISE[ending]}. Take a causal language model (…ForCausalLM)."
    if kind in ENCODERS and not any(WRITES.search(name) for name in names):
        return (
            f"{shown}, an encoder: it reads a text from both sides and writes none. Take a causal language model; "
            "setfit and rag have encoders of their own."
        )
    return ""


def weights_mistake(folder: Path) -> str:
    """Return what is wrong with the files of a model's weights: none, a part missing, cut off, or never downloaded."""
    for index in sorted(folder.glob("*.index.json")):
        try:
            parts = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            return f"{index} is no valid list of the weights' files. Download it again."
        missing = [name for name in parts if not (folder / str(name)).exists()]
        if (missing and len(missing) < len(parts)) or (missing and not list(folder.glob("*.safetensors"))):
            return (
                f"{folder} lacks {len(missing)} of the {len(parts)} files of its weights, such as {missing[0]}. "
                "Download it again."
            )
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    if not files:
        return f"{folder} has no weights: no .safetensors file (nor .bin)."
    for path in files:
        try:
            with path.open("rb") as file:
                start = file.read(len(POINTER))
            if start == POINTER:
                return f"{path} is only a pointer of Git's large-file storage. Download the file itself (git lfs pull)."
            if path.suffix == ".safetensors" and (wanted := whole_size(path)) > (size := path.stat().st_size):
                return f"{path} is cut off: it has {size} of {wanted} bytes. Download it again."
        except OSError as error:
            return f"{path} cannot be read: {error.strerror or error}."
        except (ValueError, KeyError, TypeError, AttributeError, struct.error):
            return f"{path} is damaged: its header cannot be read. Download it again."
    return ""


def tokenizer_mistake(folder: Path, config: Mapping[str, Any]) -> str:
    """Return what is wrong with a model's tokenizer: there is none, or it has tokens that the embedding has no row
    for. Special tokens beyond the embedding are allowed, where no text begins, ends or is padded with them."""
    if not any((folder / name).exists() for name in TOKENIZERS):
        return (
            f"{folder} has no tokenizer ({', '.join(TOKENIZERS[:4])}, …). Copy the one that the model was trained with."
        )
    rows, path = config.get("vocab_size"), folder / "tokenizer.json"
    if not isinstance(rows, int) or not path.exists():
        return ""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        vocabulary = stored["model"]["vocab"]
        numbers = [len(vocabulary) - 1] if isinstance(vocabulary, list) else list(vocabulary.values())
        added = {str(token["content"]): token for token in stored.get("added_tokens") or ()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{path} cannot be read as a tokenizer ({type(error).__name__}). Download it again."
    used = special_tokens(folder)
    numbers += [int(token["id"]) for text, token in added.items() if not token.get("special") or text in used]
    highest = max(map(int, numbers), default=0)
    if highest >= rows:
        return (
            f"the tokenizer of {folder.name} has tokens up to number {highest}, and the model's embedding has {rows} "
            "rows: they do not belong together. Take the tokenizer that the model was trained with, or resize the "
            "embedding (transformers: resize_token_embeddings)."
        )
    return ""


def special_tokens(folder: Path) -> set[str]:
    """Return the tokens that begin, end, pad or stand for text, as the tokenizer's own files name them."""
    found: set[str] = set()
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        try:
            stored = json.loads((folder / name).read_text(encoding="utf-8"))
            for key in IN_USE:
                value = stored.get(key)
                found.add(str(value["content"] if isinstance(value, dict) else value))
        except (OSError, ValueError, KeyError, AttributeError):
            continue
    return found


def read_network(folder: Path, structure: Structure | None = None) -> Network | None:
    """Return the network of a model folder, of a model that also sees or hears only with its text configuration; None
    where it has no readable config.json and safetensors headers. With `structure`, which was read off the loaded model,
    names and shapes are the model's own; without, those of the files."""
    try:
        config = read_config(folder)
        weights: dict[str, Shape] = {}
        stored = 0
        for file in sorted(folder.glob("*.safetensors")):
            for name, kind, shape in header(file):
                weights[name] = shape
                stored += math.prod(shape) * BYTES.get(kind, 1)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        return None
    if structure:
        return Network(config, structure.weights, stored, structure)
    if not weights:
        return None
    if config.get("tie_word_embeddings"):
        weights = {name: shape for name, shape in weights.items() if not name.endswith("lm_head.weight")}
    return Network(config, weights, stored)


def whole_size(path: Path) -> int:
    """Return how many bytes a safetensors file has when it is whole, as its header says."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > HEADER_MOST:
            raise ValueError(f"{path}: a header of {length} bytes is too long for a safetensors file.")
        entries = json.loads(file.read(length))
    ends = [int(entry["data_offsets"][1]) for name, entry in entries.items() if name != "__metadata__"]
    return 8 + int(length) + max(ends, default=0)


def header(path: Path) -> Iterator[tuple[str, str, Shape]]:
    """Yield (name, dtype, shape) of each tensor of a safetensors file, from its header.

    The header is eight bytes of length (little-endian), then that much JSON
    (https://github.com/huggingface/safetensors#format). Raises ValueError for anything else.
    """
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > HEADER_MOST:
            raise ValueError(f"{path}: a header of {length} bytes is too long for a safetensors file.")
        entries = json.loads(file.read(length))
    for name, entry in entries.items():
        if name != "__metadata__":
            yield name, str(entry["dtype"]), tuple(int(size) for size in entry["shape"])
