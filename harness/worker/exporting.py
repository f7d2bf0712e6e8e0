"""Writes a finished cell's result in the form that transformers, peft and setfit load by themselves, with what answers
need besides weights: the text before a question, and how answers are read."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.errors import UserError

if TYPE_CHECKING:
    from harness.records import Job
    from harness.worker.context import CellContext

Form = Literal["plain_weights", "adapter_weights", "sentence_classifier"]
QUESTION = "\x00question\x00"  # stands for a question in a prompt
ADAPTER = "adapter_config.json"


@dataclass(frozen=True)
class Exported:
    """What was written, and how it answers: `form` is a model of transformers, an adapter of peft on a `base` model, or
    a classifier of setfit. A prompt is `before` + question + `after`; a choice's log-likelihood, of `delimiter` and its
    text, loses its entry in `priors`. `special_tokens`: the tokenizer's own are put around a prompt. Written answers
    end at one of `until`, after `tokens` tokens at the most; with 0 tokens and no choices nothing is asked, as the task
    is running text. `quantize` is how the base's weights are packed, `library` the package that loads the result."""

    form: Form
    base: str = ""
    before: str = ""
    after: str = ""
    delimiter: str = " "
    priors: dict[str, float] = field(default_factory=dict)
    special_tokens: bool = True
    until: tuple[str, ...] = ()
    tokens: int = 0
    quantize: str = ""
    library: str = ""


def export(
    attempt: Path, job: Job, target: Path, folded: bool, choices: Sequence[str], question: str, base: str = ""
) -> Exported:
    """Writes the result in an attempt's folder to the folder `target`. `folded`: as plain weights, where an adapter
    could be folded into them. `choices` are the answers that the task offers (none: they are written), and `question`
    is one of its questions, by which what stands before every question is found. `base` names the base model where it
    can be loaded by a name, as from the Hub; else it is loaded from its folder.

    Raises UserError where no other library could load the result, or where it cannot be folded.
    """
    from harness.worker.context import CellContext

    with tempfile.TemporaryDirectory() as scratch:
        context = CellContext(job, Path(scratch))
        method, weights = context.method, attempt / "weights"
        model = restored(context, attempt)
        target.mkdir(parents=True)
        if hasattr(model, "model_body"):  # setfit's
            model.save_pretrained(str(target))  # type: ignore[operator, unused-ignore]
            return Exported("sentence_classifier", library=library_of(model))
        answering = method.predictor(model, context)
        about = asked_by(answering, context, choices, question)
        form, library = write_model(context, model, weights, target, folded, base)
        context.tokenizer.save_pretrained(target)
        packed = method.quantize or ""
        return Exported(form, base or str(context.base), quantize=packed, library=library, **about)


def restored(context: CellContext, attempt: Path) -> Any:
    """Returns the model of a finished cell from the weights in its attempt's folder; the base model for a method that
    changes no weight. Raises UserError where the weights, or the base model, were deleted."""
    method, weights, key = context.method, attempt / "weights", context.job.cell.key
    if not weights.exists() and method.trains:
        raise UserError(f"{key}: its weights were deleted. Run the cell again: `tunebench show` says how.")
    if not Path(context.base).exists():
        raise UserError(
            f"{key}: its base model is no longer at {context.base}. `tunebench fetch` of its suite brings it back."
        )
    if not weights.exists():
        return method.load(context)
    model = method.restore(context, weights)
    method.recall(context, weights)
    return model


def write_model(
    context: CellContext, model: Any, weights: Path, target: Path, folded: bool, base: str
) -> tuple[Form, str]:
    """Writes a language model: its adapter as peft has it, or plain weights. Returns the form, and the package that
    loads it. Raises UserError where it cannot be folded."""
    method = context.method
    adapter = weights.exists() and (weights / ADAPTER).exists()
    if adapter and not folded:
        shutil.copytree(weights, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("README.md"))
        config = json.loads((target / ADAPTER).read_text())
        config["base_model_name_or_path"] = base or context.cell.model  # no folder of this machine
        (target / ADAPTER).write_text(json.dumps(config, indent=2))
        return "adapter_weights", library_of(model)
    if method.quantize:
        raise UserError(
            f"{context.cell.key}: its base model is packed ({method.quantize}), and folding into packed weights would "
            "round what was learned. Without --folded its adapter is written."
        )
    if adapter and not method.foldable:
        raise UserError(f"{method.name} cannot be folded into plain weights. Without --folded its adapter is written.")
    plain: Any = method.fold(model) if method.foldable or not method.trains else None
    if not hasattr(plain, "save_pretrained") or not hasattr(plain, "get_output_embeddings"):
        raise UserError(f"{context.cell.key}: no other library loads what {method.name} makes.")
    plain.save_pretrained(target)
    return "plain_weights", "transformers"  # a family of its own may lie elsewhere; Auto classes load it


def library_of(model: Any) -> str:
    """Returns the package that a model's class comes from."""
    return type(model).__module__.partition(".")[0]


def asked_by(answering: Any, context: CellContext, choices: Sequence[str], question: str) -> dict[str, Any]:
    """Returns the fields of `Exported` that say how a cell's model is asked. Raises UserError where more than a fixed
    text and the model decides (a search in documents, a classifier of its own)."""
    from lm_eval.api.instance import Instance

    from harness.data import answer_tokens, load_task
    from harness.worker.evaluate import TunedLM

    task = load_task(context.job.tasks[context.task])
    config = task.config
    delimiter, kwargs = str(config.target_delimiter), config.generation_kwargs or {}
    found: dict[str, Any] = {"delimiter": delimiter}
    if not choices and task.OUTPUT_TYPE == "generate_until":
        until = kwargs.get("until") or ()
        found |= {
            "until": (until,) if isinstance(until, str) else tuple(until),
            "tokens": answer_tokens(kwargs),
        }
    inner = answering
    if getattr(answering, "constant", False):  # the same text stands before every question
        inner = answering.inner
        (shown,) = answering.parts([question])
        prompt = answering.write(shown, QUESTION, list(choices))
        found["before"], _, found["after"] = prompt.partition(QUESTION)
        if choices:
            offered = {question: [f"{delimiter}{choice}" for choice in choices]}
            answering.loglikelihood(
                [Instance("loglikelihood", {}, (question, one), 0, (answering.task, 0, 1)) for one in offered[question]]
            )
            priors = answering.prior(offered)
            found["priors"] = {one.removeprefix(delimiter): value for one, value in priors.items()}
        found["delimiter"] = answering.answer(f"{delimiter}.").removesuffix(".")
    if type(inner) is not TunedLM:
        raise UserError(
            f"{context.cell.key}: the answers of {context.method.name} are not those of weights and a fixed prompt "
            "alone, and no other library gives them."
        )
    with_special = list(context.tokenizer(question)["input_ids"])
    found["special_tokens"] = inner.tok_encode(question) == with_special
    return found
