"""What the README says is done, word for word."""

import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny import write_csv

from harness.methods import all_methods
from harness.records import TrainSettings

README = (Path(__file__).parent.parent / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def test_a_suite_from_the_readme_alone_with_ones_own_csv(project: Path) -> None:
    """The README's own task and suite, on a CSV with those columns; the model and the prose are the tiny ones."""
    task = next(block for block in blocks("yaml") if "task: tickets" in block)
    suite = next(block for block in blocks("yaml") if "suites/tickets.yaml" in block)
    rng = random.Random(0)
    words = {"billing": "invoice", "delivery": "parcel", "returns": "refund"}
    tickets = [
        {"text": f"ticket {number} about my {words[queue]} please", "queue": queue}
        for number, queue in enumerate(rng.choice(list(words)) for _ in range(600))
    ]
    write_csv(project / "suites" / "tasks" / "tickets.csv", tickets)
    (project / "suites" / "tasks" / "tickets.yaml").write_text(task)
    suite = suite.replace("smollm2-135m", "tiny").replace("tales-perplexity", "prose").replace(", setfit: {}", "")
    (project / "suites" / "tickets.yaml").write_text(suite.replace("steps: 48", "steps: 2"))
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli", "run", "tickets"], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert "5 cells, 0 finished before, 5 to run" in done.stdout


def test_the_readmes_method_is_a_method(tiny_model: Path) -> None:
    from transformers import AutoModelForCausalLM

    from harness.architecture import read_network

    (source,) = blocks("python")
    names: dict[str, Any] = {"__name__": "attention_only"}
    exec(source, names)
    method = names["AttentionOnly"]()
    assert method.name not in all_methods()
    model = method.attach(AutoModelForCausalLM.from_pretrained(tiny_model))
    trained = {name: tuple(value.shape) for name, value in model.named_parameters() if value.requires_grad}
    assert {name.split(".")[3] for name in trained} == {"self_attn"}
    assert method.footprint(read_network(tiny_model)).trained == trained
    assert method.settings["learning_rate"] == 3e-4


def test_every_key_of_train_is_named() -> None:
    paragraph = README.split("The keys of `train:` are")[1].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", paragraph)) - {"time_limit", "memory_limit"} == set(TrainSettings.model_fields)


def test_every_hook_is_named() -> None:
    paragraph = README.split("Hooks with defaults cover the rest:")[1].split("\n\n")[0]
    hooks = set(re.findall(r"`(\w+)`", paragraph))
    assert all(hasattr(all_methods()["base"], hook) for hook in hooks)


@pytest.mark.parametrize("name", ["quickstart", "peft-vs-full"])
def test_suites_named_are_shipped(name: str) -> None:
    assert name in README
    assert (Path(__file__).parent.parent / "suites" / f"{name}.yaml").exists()


def test_the_cluster_pages_scripts_are_sound() -> None:
    import yaml

    root = Path(__file__).parent.parent
    page = (root / "docs" / "cluster.md").read_text()
    (script,) = re.findall(r"```bash\n(.*?)```", page, re.S)
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    (manifest,) = re.findall(r"```yaml\n(.*?)```", page, re.S)
    cluster = yaml.safe_load(manifest)["spec"]["rayClusterSpec"]
    assert f"ray=={cluster['rayVersion']}\n" in (root / "constraints.txt").read_text()
