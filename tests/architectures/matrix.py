"""Runs every method on every family, as cells from a suite, and prints a table of how each ended.

    python tests/architectures/matrix.py [FAMILY …] [--labels a,b] [--json FILE]

"ok": attached, trained, scored and saved; "-": refused before it runs, with a reason; anything else is a fault.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from families import FAMILIES, make_family
from tiny import make_model, make_project, rows, write_csv

EXPERTS = {"method": "lora", "learn": ["colours", "names"]}
LABELS: dict[str, dict[str, Any]] = {
    "base": {},
    "zero-shot": {"method": "prompting", "examples": 0},
    "few-shot": {"method": "prompting", "examples": 2},
    "linear_probe": {},
    "full": {"learning_rate": 1e-3},
    "layerwise": {},
    "layerwise-gradual": {"method": "layerwise", "fraction": 0.66, "gradual": 0.5, "layer_decay": 0.9},
    "bitfit": {},
    "layernorm": {},
    "hft": {},
    "lisa": {},
    "adapter": {},
    "adapter-pfeiffer": {"method": "adapter", "placement": "pfeiffer"},
    "prefix_tuning": {},
    "prefix-random": {"method": "prefix_tuning", "init": "random"},
    "p_tuning": {},
    "prompt_tuning": {},
    "ia3": {},
    "lora": {},
    "lora-pissa": {"method": "lora", "init": "pissa"},
    "lora-olora": {"method": "lora", "init": "olora"},
    "lora-eva": {"method": "lora", "init": "eva"},
    "loftq": {"method": "qlora", "init": "loftq"},
    "dora": {},
    "adalora": {},
    "vera": {"rank": 16},
    "oft": {"method": "peft", "type": "oft", "config": {"target_modules": "all-linear"}, "learning_rate": 5e-4},
    "qlora": {},
    "galore": {"method": "full", "learning_rate": 1e-3, "train": {"optimizer": "galore", "galore_rank": 8}},
    "checkpointing": {"method": "lora", "train": {"gradient_checkpointing": True}},
    "eager": {"method": "lora", "train": {"attention": "eager"}},
    "distil": {"method": "lora", "objectives": {"distil": {"teacher": {"method": "full"}}}},
    "ewc": {"method": "full", "objectives": {"ewc": {"text": "prose2"}}},
    "linear": {"method": "merge", "how": "linear", "experts": EXPERTS},
    "ties": {"method": "merge", "how": "ties", "experts": EXPERTS},
    "stacked": {"method": "merge", "how": "passthrough", "slices": [["colours", 0, 2], ["names", 1, 2]],
                "experts": EXPERTS},
    "adapters-cat": {"method": "adapter_merge", "how": "cat", "experts": EXPERTS},
    "dpo": {},
    "grpo": {},
}  # fmt: skip
PROSE2 = """\
task: prose2
dataset_path: csv
dataset_kwargs: {data_files: {train: prose2.csv, test: prose.csv}}
training_split: train
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: text
metric_list:
  - {metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}
"""


def suite_text(model: Path, labels: dict[str, dict[str, Any]]) -> str:
    return json.dumps({
        "version": 1,
        "models": [f"file:{model}"],
        "tasks": [{"learn": "colours", "sizes": [16]}],
        "retain": ["prose"],
        "methods": {"base": {}, **labels},
        "train": {"steps": 2, "batch_size": 4},
    })  # fmt: skip


def project_of(root: Path, tokenizer: Path) -> Path:
    make_project(root, tokenizer)
    tasks = root / "suites" / "tasks"
    (tasks / "prose2.yaml").write_text(PROSE2)
    texts = [{"text": f"now {row['text']}, he said to {n}"} for n, row in enumerate(rows()[9:59])]
    write_csv(tasks / "prose2.csv", texts)
    return root


def in_order(plan: Any, wanted: list[Any]) -> list[Any]:
    """These cells and those that they need, each after what it needs."""
    by_digest, order = plan.by_digest(), []

    def add(cell: Any) -> None:
        for need in cell.needs.values():
            add(by_digest[need])
        if cell not in order:
            order.append(cell)

    for cell in wanted:
        add(cell)
    return order


def outcomes(root: Path, model: Path, labels: dict[str, dict[str, Any]], work: Path) -> dict[str, str]:
    """How each label ended on a model: ok, "- reason" where it is refused, or "FAULT reason"."""
    from tools import plan_of, run_here

    from harness.errors import UserError

    found: dict[str, str] = {}
    for label, settings in labels.items():
        made = {} if label == "base" else {label: settings}
        try:
            plan = plan_of(root, suite_text(model, made))
        except UserError as error:
            found[label] = f"- {error}".replace("\n", " | ")
            continue
        except Exception as error:
            traceback.print_exc()
            found[label] = f"FAULT planning: {type(error).__name__}: {error}"
            continue
        done: dict[str, Path] = {}
        order = in_order(plan, [cell for cell in plan.cells if cell.label == label])
        said = "ok"
        for cell in order:
            folder = work / f"{model.name}-{label}-{len(done)}"
            needs = {role: done[need] / "weights" for role, need in cell.needs.items()}
            result = run_here(plan, cell, folder, needs)
            done[cell.spec_digest] = folder
            if str(result.status) != "done":
                said = f"FAULT {cell.method}: {result.status}: {result.reason}"
                break
        found[label] = said
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("families", nargs="*", default=list(FAMILIES))
    parser.add_argument("--labels", default="")
    parser.add_argument("--json", default="")
    args = parser.parse_args()
    names = args.labels.split(",") if args.labels else list(LABELS)
    labels = {name: LABELS[name] for name in names}
    import harness.worker.preload  # noqa: F401

    table: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        os.environ["TUNEBENCH_CACHE"] = str(root / "cache")
        os.environ["HF_DATASETS_CACHE"] = str(root / "hf-datasets")
        os.environ["TUNEBENCH_TRUST"] = str(root / "trust.yaml")
        make_model(root / "tokenizer")
        project_of(root / "project", root / "tokenizer")
        os.chdir(root / "project")
        for family in args.families or list(FAMILIES):
            model = make_family(family, root / "tokenizer", root / "models" / family)
            table[family] = outcomes(root / "project", model, labels, root / "work")
            for label, said in table[family].items():
                if said != "ok":
                    print(f"{family:11} {label:18} {said[:400]}", flush=True)
            if args.json:
                Path(args.json).write_text(json.dumps(table, indent=1))
    for label in labels:
        print(f"{label:18}", *(table[family][label][:1].replace("o", ".") for family in table))


if __name__ == "__main__":
    main()
