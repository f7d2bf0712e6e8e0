"""Writes the descriptions of models and tasks of the Hub that come with tunebench (`suites/described/`).

    python benchmarks/describe.py

A model's configuration is what its authors publish (config.json on the Hub; the numbers are also in the papers named
below). Names and shapes of weights follow from it: the model is made without weights, and its parameters must be as
many as are published. Nothing is downloaded. Rows of data sets are those of their cards.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from harness.architecture import describe
from harness.data.descriptions import FOLDER, folded

ROOT = Path(__file__).parents[1]
SMOLLM2 = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 49152, "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": True, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
QWEN3 = {
    "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "vocab_size": 151936,
    "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "hidden_act": "silu", "tie_word_embeddings": True,
    "head_dim": 128, "num_attention_heads": 16, "num_key_value_heads": 8, "num_hidden_layers": 28,
    "bos_token_id": 151643, "eos_token_id": 151643,
}  # fmt: skip
PAPERS = {"smollm2": "arXiv:2502.02737", "qwen3": "arXiv:2505.09388"}


def sizes(hidden: int, inner: int, layers: int, heads: int, key_heads: int) -> dict[str, int]:
    """Return the keys of a configuration that set a Llama's size."""
    return {
        "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
    }  # fmt: skip


# name -> (source, what is published: configuration, parameters)
MODELS: dict[str, tuple[str, dict[str, Any], int]] = {
    "smollm2-135m-base": ("HuggingFaceTB/SmolLM2-135M", SMOLLM2 | sizes(576, 1536, 30, 9, 3), 134_515_008),
    "smollm2-360m-base": ("HuggingFaceTB/SmolLM2-360M", SMOLLM2 | sizes(960, 2560, 32, 15, 5), 361_821_120),
    "smollm2-1.7b-base": ("HuggingFaceTB/SmolLM2-1.7B", SMOLLM2 | sizes(2048, 8192, 24, 32, 32), 1_711_376_384),
    "qwen3-0.6b-base": ("Qwen/Qwen3-0.6B-Base", QWEN3 | {"hidden_size": 1024, "intermediate_size": 3072}, 596_049_920),
    "qwen3-1.7b-base": (
        "Qwen/Qwen3-1.7B-Base",
        QWEN3 | {"hidden_size": 2048, "intermediate_size": 6144},
        1_720_574_976,
    ),
}
INDEX = (
    "its text is an index into several contexts (winogrande's form), so there is no one question whose answer could be "
    "learned."
)
NO_TRAIN = "it has no training split (training_split in its YAML)."
RUNNING = "it is running text without questions and answers; it can be listed under retain."
CHOICE, WRITTEN, TEXT = "multiple_choice", "generate_until", "loglikelihood_rolling"
# task -> (data set, licence, rows of train, validation, test; form, headline, why it cannot be learned)
Rows = tuple[int, int, int]
TASKS: dict[str, tuple[str, str, Rows, str, str, str]] = {
    "arc_challenge": ("allenai/ai2_arc", "CC-BY-SA-4.0", (1119, 299, 1172), CHOICE, "acc", ""),
    "arc_easy": ("allenai/ai2_arc", "CC-BY-SA-4.0", (2251, 570, 2376), CHOICE, "acc", ""),
    "commonsense_qa": ("tau/commonsense_qa", "MIT", (9741, 1221, 1140), CHOICE, "acc", ""),
    "dolly": ("databricks/databricks-dolly-15k", "CC-BY-SA-3.0", (15011, 0, 0), WRITTEN, "rouge_l", ""),
    "gsm8k": ("openai/gsm8k", "MIT", (7473, 0, 1319), WRITTEN, "exact_match", ""),
    "hellaswag": ("Rowan/hellaswag", "MIT", (39905, 10042, 10003), CHOICE, "acc", ""),
    "ifeval": ("google/IFEval", "Apache-2.0", (541, 0, 0), WRITTEN, "prompt_level_strict_acc", NO_TRAIN),
    "medmcqa": ("openlifescienceai/medmcqa", "Apache-2.0", (182822, 4183, 6150), CHOICE, "acc", ""),
    "sciq": ("allenai/sciq", "CC-BY-NC-3.0", (11679, 1000, 1000), CHOICE, "acc", ""),
    "wikitext": ("EleutherAI/wikitext_document_level", "CC-BY-SA-3.0", (629, 60, 62), TEXT, "word_perplexity", RUNNING),
    "winogrande": ("allenai/winogrande", "CC-BY-4.0", (40398, 1267, 1767), CHOICE, "acc", INDEX),
}


def describe_model(source: str, config: dict[str, Any], published: int) -> dict[str, Any]:
    """Return a model's description. Raises ValueError where the configuration makes another number of parameters than
    is published."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    options = {key: value for key, value in config.items() if key not in ("model_type", "architectures")}
    made = AutoConfig.for_model(config["model_type"], **options)
    with torch.device("meta"):
        structure = describe(AutoModelForCausalLM.from_config(made, dtype=torch.float32))
    parameters = sum(map(math.prod, structure.weights.values()))
    if parameters != published:
        raise ValueError(f"{source}: the configuration makes {parameters} parameters, {published} are published.")
    family = "qwen3" if config["model_type"] == "qwen3" else "smollm2"
    return {
        "source": f"hf:{source}",
        "licence": "Apache-2.0",
        "described_from": f"the published configuration ({PAPERS[family]}); no file of the model is here",
        "parameters": parameters,
        "stored_bytes": 2 * parameters,  # bf16, as published
        "config": config,
        "structure": folded(structure),
    }


def describe_task(name: str) -> dict[str, Any]:
    """Return a task's description: the rows of its splits as the task's YAML uses them, before repeats are left out."""
    from lm_eval.tasks._yaml_loader import load_yaml

    from harness.data import load_catalog
    from harness.data.tasks import VALIDATION_MOST, VALIDATION_SHARE

    data, licence, rows, form, metric, unlearnable = TASKS[name]
    config = load_yaml(load_catalog(ROOT).task_path(name), resolve_func=False)
    counts = dict(zip(("train", "validation", "test"), rows, strict=True))
    options = config.get("dataset_kwargs") or {}
    if options.get("source"):  # the harness's own division of one published split
        test, validation = int(options["test"]), int(options["validation"])
        train = counts["train"] - test - validation
    else:
        scored = config.get("test_split") or config["validation_split"]
        test = counts[scored]
        train = counts[config["training_split"]] if config.get("training_split") else 0
        validation = (
            0 if config.get("validation_split") == scored else counts.get(config.get("validation_split") or "", 0)
        )
        if train and not (config.get("test_split") and config.get("validation_split")):
            validation = min(VALIDATION_MOST, int(train * VALIDATION_SHARE))
            train -= validation
    return {
        "data": data, "licence": licence, "described_from": "the rows of its splits on the data set's card",
        "output_type": form, "metric": metric, "n_train": train, "n_validation": validation, "n_test": test,
        "unlearnable": unlearnable,
    }  # fmt: skip


def main() -> None:
    """Write every description."""
    for name, about in MODELS.items():
        write(ROOT / FOLDER / "models" / f"{name}.json", describe_model(*about))
    for name in TASKS:
        write(ROOT / FOLDER / "tasks" / f"{name}.json", describe_task(name))


def write(path: Path, content: dict[str, Any]) -> None:
    """Write a description, sorted as it was made, so that a change shows as one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
