"""Writes the model card of an exported result: what it is, how it scores, and how to load it in a few lines."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.records import visible
from harness.worker import Exported


@dataclass(frozen=True)
class CardFacts:
    """What a card says of a cell: its names, scores as (task, metric, value, interval, items, value of the base model),
    settings, package versions, and figures (name -> text)."""

    key: str
    label: str
    method: str
    model: str
    source: str  # where the base model is from
    task: str
    fingerprint: str
    n_train: int
    seed: int | None
    scores: Sequence[tuple[str, str, str, str, int, str]]
    settings: Mapping[str, str]
    packages: Mapping[str, str]
    figures: Mapping[str, str]
    choices: Sequence[str]  # that every question offers
    own_choices: bool = False  # each question offers its own
    metric: str = ""  # by which choices are told apart: acc_norm and acc_bytes divide by a choice's length
    revision: str = ""  # the commit of a base model of the Hub

    @property
    def asks(self) -> bool:
        """Whether a question offers choices."""
        return bool(self.choices) or self.own_choices


LIMITS = (
    "The scores hold for the items that were scored; text of another kind may be answered worse. What the base model "
    "does wrongly (made-up facts, prejudice) it may do still. Nothing here was tested for safety."
)


def model_card(facts: CardFacts, exported: Exported) -> str:
    """Returns the card as Markdown, with the metadata that model hubs read."""
    seed = "" if facts.seed is None else f", seed {facts.seed}"
    code = snippet(facts, exported).rstrip()
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", code)), default=0))
    lines = [
        "---", *metadata(facts, exported), "---", "",
        f"# {visible(facts.label)} on {visible(facts.task)}", "",
        f"{visible(facts.model)} adapted by {visible(facts.method)} with {facts.n_train} training examples{seed}. "
        f"Exported by tunebench from the cell `{visible(facts.key)}`.", "",
        "## Scores", "",
        "| task | metric | score | 95% interval | items | base model |", "|---|---|---|---|---|---|",
        *("| " + " | ".join(visible(str(entry)) for entry in row) + " |" for row in facts.scores), "",
        "## Use", "", f"{fence}python", *code.split("\n"), fence, "",
        "`use.py` holds these lines."
        + (" `expected.json` holds test items with the answers that were given when this was scored."
           if facts.asks or exported.tokens else ""), "",
        "## How it was made", "", "| | |", "|---|---|",
        f"| base model | {visible(facts.model)} ({visible(facts.source)}) |",
        f"| task | {visible(facts.task)}, fingerprint `{facts.fingerprint[:16]}` |",
        *(f"| {visible(name)} | {visible(text)} |" for name, text in {**facts.settings, **facts.figures}.items()),
        f"| packages | {', '.join(f'{name} {visible(version)}' for name, version in facts.packages.items())} |", "",
        "## Limits", "", LIMITS,
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def metadata(facts: CardFacts, exported: Exported) -> list[str]:
    """Returns the lines of YAML at the top of a card."""
    base = [f"base_model: {exported.base}"] if facts.source.startswith("hf:") and exported.base else []
    return [f"library_name: {exported.library}", *base, f"tags: [tunebench, {json.dumps(facts.method)}]"]


def snippet(facts: CardFacts, exported: Exported) -> str:
    """Returns Python that loads the result with other libraries alone, and defines `answer(question)`."""
    if exported.form == "sentence_classifier":
        return SETFIT
    loading = ["import torch"]
    if exported.form == "adapter_weights":
        packed = PACKED[exported.quantize] if exported.quantize else ""
        commit = f", revision={facts.revision!r}" if facts.revision else ""
        names = "AutoModelForCausalLM, AutoTokenizer" + (", BitsAndBytesConfig" if packed else "")
        loading += [
            "from peft import PeftModel", f"from transformers import {names}", "",
            'folder = "."  # this folder', f"base = {exported.base!r}  # {visible(facts.model)}",
            "tokenizer = AutoTokenizer.from_pretrained(folder)",
            f"model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32{commit}{packed})",
            "model = PeftModel.from_pretrained(model, folder).eval()",
        ]  # fmt: skip
    else:
        loading += [
            "from transformers import AutoModelForCausalLM, AutoTokenizer", "", 'folder = "."  # this folder',
            "tokenizer = AutoTokenizer.from_pretrained(folder)",
            "model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()",
        ]  # fmt: skip
    if not (facts.asks or exported.tokens):
        return "\n".join(loading) + "\n"
    prompt = "question"
    if exported.before or exported.after:
        loading += [f"before, after = {exported.before!r}, {exported.after!r}"]
        prompt = "before + question + after"
    if not facts.asks:
        return "\n".join(loading) + WRITING.format(
            prompt=prompt, special=exported.special_tokens, until=list(exported.until), tokens=exported.tokens
        )
    choices = {choice: exported.priors.get(choice, 0.0) for choice in facts.choices}
    priors = any(choices.values())
    remark = "  # with what each gets whatever the question" if priors else ""
    offered = f"\nchoices = {choices if priors else list(facts.choices)!r}{remark}\n" if facts.choices else "\n"
    return "\n".join(loading) + offered + CHOOSING.format(
        delimiter=exported.delimiter, prompt=prompt, special=exported.special_tokens,
        given="" if facts.choices else ", choices", less=" - choices[choice]" if priors else "",
        divided=DIVIDED.get(facts.metric, ""),
    )  # fmt: skip


PACKED = {
    "nf4": ", quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type='nf4', "
    "bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.float32)",
    "fp4": ", quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type='fp4', "
    "bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.float32)",
    "int8": ", quantization_config=BitsAndBytesConfig(load_in_8bit=True)",
}
SETFIT = """\
from setfit import SetFitModel

folder = "."  # this folder
model = SetFitModel.from_pretrained(folder)


def answer(question):
    return model.labels[int(model.predict_proba([question], as_numpy=True)[0].argmax())]
"""
DIVIDED = {"acc_norm": " / len(choice)", "acc_bytes": " / len(choice.encode())"}
CHOOSING = """

@torch.no_grad()
def answer(question{given}):
    prompt, scores = {prompt}, {{}}
    start = len(tokenizer(prompt.rstrip(), add_special_tokens={special})["input_ids"])
    for choice in choices:
        ids = tokenizer(prompt + {delimiter!r} + choice, return_tensors="pt", add_special_tokens={special})["input_ids"]
        count = ids.shape[1] - start
        logs = model(input_ids=ids).logits.log_softmax(-1)[0, -count - 1 : -1]
        scores[choice] = logs.gather(1, ids[0, -count:, None]).sum().item(){divided}{less}
    return max(scores, key=scores.get)
"""
WRITING = """


@torch.no_grad()
def answer(question):
    ids = tokenizer({prompt}, return_tensors="pt", add_special_tokens={special})["input_ids"]
    written = model.generate(input_ids=ids, max_new_tokens={tokens}, do_sample=False, num_beams=1)
    text = tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)
    for stop in {until!r}:
        text = text.split(stop)[0] if stop else text
    return text.strip()
"""
