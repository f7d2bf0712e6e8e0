"""One cell as a plain script has it: transformers' Trainer or TRL's SFTTrainer, peft, and lm-eval, without tunebench.

    python benchmarks/plain_cell.py JOB.json

The job (written by `perf.py`): method, examples [{context, target}], steps, batch_size, learning_rate, seed, trainer
(trainer or sft), model (a folder), tasks (a folder of lm-eval YAMLs), task (null: do not score), save (a folder or
null). Prints one line of JSON: seconds of its parts, of each step, peak memory in bytes, and the accuracy.
"""

# ruff: noqa: E402 (what the imports take is measured)
from __future__ import annotations

import time

STARTED = time.perf_counter()

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

WARM_UP = 0.1


class Clock(TrainerCallback):
    """Notes the seconds of every step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.began = 0.0

    def on_step_begin(self, *args: Any, **options: Any) -> None:
        self.began = time.perf_counter()

    def on_step_end(self, *args: Any, **options: Any) -> None:
        self.seconds.append(time.perf_counter() - self.began)


def load(folder: str, method: str) -> Any:
    """Returns the model with what the method trains."""
    options: dict[str, Any] = {"dtype": torch.float32}
    if method == "qlora":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(folder, **options)
    if method in ("lora", "qlora", "dora"):
        config = LoraConfig(
            r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM", use_dora=method == "dora"
        )
        return get_peft_model(model, config)
    if method == "prompt_tuning":
        return get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=20))
    if method == "layerwise":
        model.requires_grad_(False)
        for layer in model.model.layers[-10:]:
            layer.requires_grad_(True)
    return model


def encoded(tokenizer: Any, examples: list[dict[str, str]]) -> list[dict[str, list[int]]]:
    """Returns rows {input_ids, labels}, the loss on the answer alone."""
    rows = []
    for example in examples:
        context = tokenizer(example["context"])["input_ids"]
        whole = tokenizer(example["context"] + example["target"])["input_ids"]
        rows.append({"input_ids": whole, "labels": [-100] * len(context) + whole[len(context) :]})
    return rows


def padded(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Returns a batch padded on the right."""
    length = max(len(row["input_ids"]) for row in rows)
    gaps = [length - len(row["input_ids"]) for row in rows]
    return {
        "input_ids": torch.tensor([row["input_ids"] + [0] * gap for row, gap in zip(rows, gaps, strict=True)]),
        "labels": torch.tensor([row["labels"] + [-100] * gap for row, gap in zip(rows, gaps, strict=True)]),
        "attention_mask": torch.tensor(
            [[1] * len(row["input_ids"]) + [0] * gap for row, gap in zip(rows, gaps, strict=True)]
        ),
    }


def train(model: Any, tokenizer: Any, job: dict[str, Any], clock: Clock) -> Any:
    """Trains the model; returns it."""
    shared: dict[str, Any] = {
        "output_dir": job["scratch"], "max_steps": job["steps"], "per_device_train_batch_size": job["batch_size"],
        "learning_rate": job["learning_rate"], "warmup_steps": WARM_UP, "report_to": "none", "save_strategy": "no",
        "use_cpu": not torch.cuda.is_available(), "logging_steps": 1, "disable_tqdm": True, "seed": job["seed"],
        "data_seed": job["seed"], "bf16": torch.cuda.is_available(),
    }  # fmt: skip
    if job["trainer"] == "sft":
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer

        rows = [{"prompt": one["context"], "completion": one["target"]} for one in job["examples"]]
        config = SFTConfig(**shared, completion_only_loss=True, gradient_checkpointing=False, max_length=512)
        trainer: Any = SFTTrainer(
            model=model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer,
            callbacks=[clock],
        )  # fmt: skip
    else:
        trainer = Trainer(
            model=model, args=TrainingArguments(**shared, remove_unused_columns=False),
            train_dataset=encoded(tokenizer, job["examples"]), data_collator=padded, callbacks=[clock],
        )  # fmt: skip
    trainer.train()
    return trainer.model


def peak_bytes() -> int:
    """Returns the most memory that the process has held."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(job["threads"])
    torch.manual_seed(job["seed"])
    seconds = {"import": time.perf_counter() - STARTED}

    def lap(name: str) -> None:
        seconds[name] = time.perf_counter() - STARTED - sum(seconds.values())

    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    model = load(job["model"], job["method"])
    lap("load")
    clock = Clock()
    model = train(model, tokenizer, job, clock)
    lap("train")
    accuracy, trained_peak = None, peak_bytes()
    if job["task"]:
        import lm_eval
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        scorer = HFLM(pretrained=model.eval(), tokenizer=tokenizer, batch_size=16)
        manager = TaskManager(include_path=job["tasks"], include_defaults=False)
        found = lm_eval.simple_evaluate(model=scorer, tasks=[job["task"]], task_manager=manager, bootstrap_iters=0)
        accuracy = found["results"][job["task"]]["acc,none"]
        lap("score")
    if job["save"]:
        model.save_pretrained(job["save"])
        lap("save")
    print(
        json.dumps(
            {
                "seconds": seconds,
                "steps": clock.seconds,
                "peak": trained_peak,
                "peak_all": peak_bytes(),
                "acc": accuracy,
            }
        )
    )
    sys.stdout.flush()
    os._exit(0)  # nothing is left to be waited for


if __name__ == "__main__":
    main()
