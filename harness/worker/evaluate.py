"""Scores an lm-eval LM, which a method hands back, on tasks: returns scores and per-item values.

lm-eval asks the questions and marks the answers. Its samples become items here, and every standard error is computed
from them (lm-eval gives none for perplexity).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs
from peft.helpers import DoraCaching

from harness.architecture import context_length
from harness.data import cluster_column, cluster_of, cut_left, example, first_metric, gold, independent_units
from harness.models import logits_at, prompt_run_once, text_run_once
from harness.records import FUSED, PACKING, Item, Role, Score
from harness.worker.fused import fused
from harness.worker.predictions import last_logits
from harness.worker.request_progress import RequestProgress

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM
    from lm_eval.api.task import ConfigurableTask
    from torch import nn
    from transformers import PreTrainedTokenizerBase

BY_LENGTH = ("acc_norm", "acc_bytes")  # lm-eval divides a choice's log-likelihood by the length of its text
SURE = -1e9  # the log-likelihood of a choice that is not taken, whatever it is divided by
ROLLING = "log_likelihood_per_word"
T = TypeVar("T")
Sample = dict[str, Any]  # lm-eval's record of one document: its answers, metrics and hash
# ((context, continuation) or None, token ids of the context, token ids of the continuation)
TokenRequest = tuple[tuple[str, str] | None, list[int], list[int]]
Documents = dict[tuple[str, str], str]  # (task, doc_id) -> scored text


class Evaluation(NamedTuple):
    """Scores, items and scored texts ((task, doc_id) -> text) of some tasks. The first of a task's scores is its
    headline."""

    scores: list[Score]
    items: list[Item]
    documents: Documents


class TunedLM(HFLM):
    """lm-eval's HFLM for a model in memory: the same log-likelihoods with less work.

    Equal (context, continuation[:-1]) pairs are run once, logits are computed only where a continuation token is
    predicted, and what is the same for every input (soft prompts, DoRA's weight norms) is computed once. With packing
    among the tricks `fast`, so is what inputs begin with alike (`predictions.py`).

    A model computes as its weights are: fp32, whatever precision it was trained in, and quantised weights in that
    precision. A change of a hundredth of a nat is measured, and bf16 has three digits.
    """

    def __init__(self, model: nn.Module, tokenizer: PreTrainedTokenizerBase, batch_size: int, fast: Sequence[str] = ()):
        super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, backend="causal")
        self.fast = fast  # the tricks that are used (`train: fast`)
        self.context = context_length(self.config.get_text_config().to_dict())  # tokens; None where it sets no bound
        self.scored_tokens = 0  # given to the model by log-likelihood requests, without padding
        self.quiet = False  # True: no progress bars
        self.opening: tuple[int, ...] = ()  # what many inputs begin with
        self._opened: nn.Module | None = None  # the model behind it
        self.truncated = 0  # sequences of which the model's length left only the end
        self.progress = RequestProgress()
        self.waiting: list[str] = []  # the task of each request whose answers are counted
        self.task_of_context: dict[str, str] = {}  # of contexts from which answers are generated
        self.generating: list[str] = []  # the tasks of the batch

    @property
    def max_length(self) -> int:
        """The most tokens of a sequence: the model's own context, less the virtual tokens that stand before every
        input. Where the model sets no bound, lm-eval's."""
        return max(2, (self.context or super().max_length) - virtual_tokens(self.model))

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        self.begin([task_of(request) for request in requests])
        return super().loglikelihood(requests, disable_tqdm or self.quiet)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        if self.progress.tell and not self.quiet:  # a long text is scored in several windows
            lengths = [len(self.tok_encode(str(request.args[0]))) for request in requests]
            parts = [max(1, math.ceil(length / self.max_length)) for length in lengths]
            pairs = zip(requests, parts, strict=True)
            self.begin([task_of(request) for request, count in pairs for _ in range(count)])
        return super().loglikelihood_rolling(requests, disable_tqdm or self.quiet)

    def begin(self, tasks: list[str]) -> None:
        """Begin to tell of requests, of which `tasks` has the task of each; of none while answers are timed."""
        self.waiting = [] if self.quiet else tasks
        self.progress.begin(self.waiting)

    def _loglikelihood_tokens(
        self, requests: Sequence[TokenRequest], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        inputs: dict[tuple[int, ...], list[int]] = {}  # model input -> the requests that share it
        for number, (text, context, continuation) in enumerate(requests):
            if len(continuation) > self.max_length:
                shown = shortened(text[1] if text else self.tok_decode(continuation))
                raise ValueError(
                    f"an answer to score has {len(continuation)} tokens, and the model's window holds "
                    f"{self.max_length}: {shown}. Leave such items out of the task, or take a model with a longer one."
                )
            kept = (context + continuation)[-(self.max_length + 1) :]
            self.truncated += tuple(kept[:-1]) not in inputs and len(kept) < len(context) + len(continuation)
            inputs.setdefault(tuple(kept[:-1]), []).append(number)
        answers: list[tuple[float, bool]] = [(math.nan, False)] * len(requests)
        self.scored_tokens += sum(map(len, inputs))
        longest = {tokens: max(len(requests[number][2]) for number in numbers) for tokens, numbers in inputs.items()}
        for tokens, logits in self.predictions(longest, override_bs or int(self.batch_size)):
            if len(self.waiting) == len(requests):
                self.progress.advance(self.waiting[number] for number in inputs[tokens])
            for number in inputs[tokens]:
                continuation = requests[number][2]
                answers[number] = likelihood(logits[len(logits) - len(continuation) :], continuation)
        if len(self.waiting) != len(requests):  # windows of running text, in their order
            self.progress.advance(self.waiting[: len(requests)])
            del self.waiting[: len(requests)]
        for (text, _, _), answer in zip(requests, answers, strict=True):
            if text is not None:
                self.cache_hook.add_partial("loglikelihood", text, answer)
        return answers

    def predictions(
        self, longest: Mapping[tuple[int, ...], int], size: int
    ) -> Iterator[tuple[tuple[int, ...], torch.Tensor]]:
        """Yields (input, logits [places, vocabulary] of its last places) for each input (token ids); `longest` has the
        number of places wanted of each. As many tokens are run at once as `size` of the longest inputs have.

        Inputs that begin with `opening` come first, on a model that has run the opening once; the others follow. A
        model with a prompt of its own ignores `opening`.
        """
        model = prompt_run_once(self.model)
        # A state cannot be repeated for several inputs as keys and values can.
        fixed = hasattr(model, "is_opened") or getattr(model, "_is_stateful", False)
        opening = () if fixed else self.opening
        begun = [
            tokens
            for tokens, places in longest.items()
            if opening and tokens[: len(opening)] == opening and len(tokens) - places >= len(opening)
        ]
        known = set(begun)
        self.scored_tokens -= len(opening) * len(begun)
        with torch.no_grad(), DoraCaching(), fused(self.model, FUSED in self.fast):
            if begun and self._opened is None:
                self._opened = text_run_once(model, opening)
            rest = [tokens for tokens in longest if tokens not in known]
            for run, skipped, some in ((self._opened, len(opening), begun), (model, 0, rest)):
                if some:
                    assert run is not None
                    wanted = {tokens[skipped:]: longest[tokens] for tokens in some}
                    for tokens, logits in last_logits(run, wanted, size, self.device, PACKING in self.fast):
                        yield (opening + tokens if skipped else tokens), logits

    def open_with(self, token_ids: Sequence[int]) -> None:
        """Set the tokens that a method puts before every question: they are run once for all inputs that begin with
        them."""
        if tuple(token_ids) != self.opening:
            self.opening, self._opened = tuple(token_ids), None

    def logits_of(self, texts: Iterable[Sequence[int]]) -> Iterator[torch.Tensor]:
        """Yields the logits [tokens, vocabulary] behind each token of a text (token ids), one text after the other,
        from the model as it is scored."""
        model = prompt_run_once(self.model)
        for tokens in texts:
            ids = torch.tensor([list(tokens)], device=self.device)
            places = torch.arange(-len(tokens), 0, device=self.device)
            with torch.no_grad(), DoraCaching():
                logits = logits_at(model, ids, places)[0]
            yield logits

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        for context, options in (request.args for request in requests):
            room = self.max_length - normalize_gen_kwargs(options, self.max_gen_toks)["max_gen_toks"]
            self.truncated += len(self.question_tokens(context)) > room
        self.begin([task_of(request) for request in requests])
        self.task_of_context = {} if self.quiet else {str(request.args[0]): task_of(request) for request in requests}
        whole = self.model
        self._model = prompt_run_once(whole)
        try:
            return super().generate_until(requests, disable_tqdm or self.quiet)
        finally:
            self._model = whole

    def _model_generate(self, *args: Any, **options: Any) -> torch.Tensor:
        answers: torch.Tensor = super()._model_generate(*args, **options)
        self.progress.advance(self.generating)
        return answers

    def openings(self) -> list[list[int]]:
        """Returns the token ids that may open every text: those that the tokenizer puts before it, and the
        beginning-of-text token of a chat template. Both may be empty."""
        begin = self.tokenizer.bos_token_id
        return [list(self.tok_encode("")), [] if begin is None else [begin]]

    def question_tokens(self, context: str) -> list[int]:
        """Returns the token ids of a context from which an answer is generated, in training as in scoring; the prefix
        token for an empty context."""
        return list(self.tok_encode(context)) or [self.prefix_token_id]

    def tok_batch_encode(
        self,
        strings: Sequence[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns (token ids, attention mask), each [texts, tokens], of contexts from which answers are generated,
        padded on one side.

        Texts longer than `left_truncate_len` lose their beginning, except for the tokens that open every text.
        lm-eval's own method encodes a batch differently from single texts.
        """
        self.generating = [self.task_of_context[text] for text in strings if text in self.task_of_context]
        rows = [self.question_tokens(text) for text in strings]
        if left_truncate_len:
            openings = self.openings()
            rows = [cut_left(row, left_truncate_len, openings) for row in rows]
        longest, pad = max(map(len, rows)), self.tokenizer.pad_token_id
        padding = [([pad] * (longest - len(row)), [0] * (longest - len(row)), row, [1] * len(row)) for row in rows]
        if padding_side == "left":
            ids, mask = [gap + row for gap, _, row, _ in padding], [none + real for _, none, _, real in padding]
        else:
            ids, mask = [row + gap for gap, _, row, _ in padding], [real + none for _, none, _, real in padding]
        return torch.tensor(ids), torch.tensor(mask)

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Compute what is the same for every input once, and show no progress bars, for the length of the block; for
        timing answers."""
        whole = self.model
        self._model, self.quiet = prompt_run_once(whole), True
        try:
            yield
        finally:
            self._model, self.quiet = whole, False


def task_of(request: Instance) -> str:
    """Return the name of the task that asks a request; "" for a request of no task."""
    return str(getattr(request, "task_name", None) or "")


def virtual_tokens(model: nn.Module) -> int:
    """Return how many virtual tokens a model puts before every input, such as those of a soft prompt."""
    return int(getattr(getattr(model, "active_peft_config", None), "num_virtual_tokens", 0) or 0)


def shortened(text: str, most: int = 80) -> str:
    """Returns the first `most` characters of a text in quotes, with `…` where it goes on."""
    return repr(text if len(text) <= most else f"{text[:most]}…")


def likelihood(logits: torch.Tensor, continuation: Sequence[int]) -> tuple[float, bool]:
    """Returns (log-likelihood of `continuation` in nats, whether greedy decoding gives it) from logits [tokens,
    vocabulary]."""
    wanted = torch.tensor(list(continuation), device=logits.device)
    logs = torch.log_softmax(logits.float(), dim=-1)
    value = logs.gather(1, wanted.unsqueeze(1)).sum()
    return float(value), bool((logs.argmax(dim=-1) == wanted).all())


def evaluate(
    lm: LM, tasks: Mapping[str, ConfigurableTask], roles: Mapping[str, Role], chat: Collection[str] = ()
) -> Evaluation:
    """Score the tasks (name -> lm-eval task) and return scores, items and texts. `roles` maps a task to "task" or
    "retain", as its scores are marked; tasks in `chat` are asked through the model's chat template."""
    from lm_eval import evaluator

    for task in tasks.values():
        if task.config.num_fewshot is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=1234)
    samples_by_task: dict[str, list[Sample]] = {}
    for templated in (False, True):
        some = {name: task for name, task in tasks.items() if (name in chat) is templated}
        if some:
            outcome = evaluator.evaluate(
                lm=lm, task_dict={"tasks": some}, bootstrap_iters=0, log_samples=True, apply_chat_template=templated
            )
            samples_by_task |= outcome["samples"]
    scores: list[Score] = []
    items: list[Item] = []
    documents: Documents = {}
    for name, task in tasks.items():
        samples = samples_by_task[name]
        samples = [sample for sample in samples if sample["filter"] == samples[0]["filter"]]
        if task.OUTPUT_TYPE == "multiple_choice" and getattr(lm, "gives_class_probabilities", no_classes)(name):
            samples = [without_lengths(task, sample) for sample in samples]
        task_scores, task_items = score_task(name, roles[name], task, samples)
        scores += task_scores
        items += task_items
        for doc_id, sample in zip(doc_ids(samples), samples, strict=True):
            # Texts are stored once a task, whatever the cell: so as they are asked without a chat template.
            documents[name, doc_id] = (
                example(task, sample["doc"], False).context if name in chat else question_of(sample)
            )
    return Evaluation(scores, items, documents)


def no_classes(task: str) -> bool:
    """Stand-in for `gives_class_probabilities` of an LM that has none: returns False for every task, as a plain
    language model gives the probability of a choice's text, not of the choice itself."""
    return False


def without_lengths(task: ConfigurableTask, sample: Sample) -> Sample:
    """Returns lm-eval's record of a document with metrics that divide by no length, for a scorer that gives the
    probabilities of the choices themselves.

    Such choices have no text to divide by the length of, so `acc_norm` and `acc_bytes` are computed from the likeliest
    choice, as `acc` is.
    """
    found = [metric for metric in BY_LENGTH if metric in sample["metrics"]]
    if not found:
        return sample
    answers = sample["filtered_resps"]
    logs = [value for value, _ in answers[: len(task.doc_to_choice(sample["doc"]))]]
    chosen = logs.index(max(logs))
    decided = [(0.0 if place == chosen else SURE, place == chosen) for place in range(len(logs))]
    values = task.process_results(sample["doc"], decided + list(answers[len(logs) :]))
    return {**sample, **{metric: values[metric] for metric in found}}


def question_of(sample: Sample) -> str:
    """Returns the text with which lm-eval asked the document of this record."""
    return str(sample["arguments"][0][0])


def doc_ids(samples: list[Sample]) -> list[str]:
    """Returns an id for each of lm-eval's records of documents: 16 digits of the document's hash, and which occurrence
    of that document it is. Ids are stable when other documents come or go."""
    seen: Counter[str] = Counter()
    names = []
    for sample in samples:
        short = sample["doc_hash"][:16]
        names.append(f"{short}-{seen[short]}")
        seen[short] += 1
    return names


def score_task(name: str, role: Role, task: ConfigurableTask, samples: list[Sample]) -> tuple[list[Score], list[Item]]:
    """Returns (scores, items) of the task `name` from lm-eval's samples, marked with its `role`. The headline's score
    comes first. A metric without an aggregation is left out where its values are no plain numbers."""
    ids = doc_ids(samples)
    scores: list[Score] = []
    items: list[Item] = []
    better = {**task.higher_is_better()}
    answers = [describe(task, sample) for sample in samples]
    of_items = [cluster_of(task, sample["doc"]) for sample in samples]
    # Only of a trial's validation items may some have none: they then count as independent.
    clusters = [] if None in of_items else [str(cluster) for cluster in of_items]
    clustering = (len(set(clusters)), cluster_column(task.config.metadata)) if clusters else ()

    def add(metric: str, value: float, stderr: float | None, higher: bool, values: Sequence[float] | None) -> None:
        scores.append(Score(name, role, metric, value, stderr, len(samples), higher, *clustering))
        for place, item in enumerate(values or ()):
            items.append(Item(name, ids[place], metric, float(item), *answers[place], of_items[place]))

    # lm-eval hands metrics over in an order of its own; a task's headline is the first that its YAML names.
    given = samples[0]["metrics"]
    head = first_metric(task, dict.fromkeys(given))
    for metric in [head, *(name for name in given if name != head)]:
        values = [sample[metric] for sample in samples]
        aggregate = task.aggregation().get(metric)
        plain = all(isinstance(value, int | float | bool) for value in values)
        if plain and (aggregate is None or aggregate.__name__ in ("mean", "nanmean")):
            add(metric, *mean_and_stderr(values, clusters), better.get(metric, True), values)
        elif aggregate is not None:
            if metric == "word_perplexity":
                per_word = [total / words for total, words in values]
                add(ROLLING, *jackknife(values, ratio, clusters), True, per_word)
                totals = [total for total, _ in values]
            elif metric == "perplexity":
                totals = values
            else:
                totals = []
            for place, total in enumerate(totals):
                items.append(Item(name, ids[place], "log_likelihood", float(total), *answers[place], of_items[place]))
            add(metric, *jackknife(values, aggregate, clusters), better.get(metric, False), None)
    if task.OUTPUT_TYPE == "multiple_choice":
        losses = []
        for place, sample in enumerate(samples):
            choices = task.doc_to_choice(sample["doc"])
            logs = [float(answer[0]) for answer in sample["filtered_resps"]][: len(choices)]
            right = gold(task, sample["doc"])
            losses.append(choice_cross_entropy(logs, right) if right is not None else math.nan)
            for choice, value in zip(choices, logs, strict=True):
                items.append(
                    Item(name, ids[place], "log_likelihood", value, choice, answers[place][1], of_items[place])
                )
        if not any(math.isnan(loss) for loss in losses):
            add("choice_cross_entropy", *mean_and_stderr(losses, clusters), False, losses)
    return scores, items


def describe(task: ConfigurableTask, sample: Sample) -> tuple[str, str]:
    """Returns (the model's answer, the right answer) to a sample's document as text; "" where there is none."""
    if task.OUTPUT_TYPE == "multiple_choice":
        choices = task.doc_to_choice(sample["doc"])
        logs = [answer[0] for answer in sample["filtered_resps"]][: len(choices)]
        right = gold(task, sample["doc"])
        return choices[max(range(len(logs)), key=logs.__getitem__)], choices[right] if right is not None else ""
    if task.OUTPUT_TYPE == "generate_until":
        return str(sample["filtered_resps"][0]), str(sample["target"])
    return "", "" if task.OUTPUT_TYPE == "loglikelihood_rolling" else str(sample["target"])


def choice_cross_entropy(logs: Sequence[float], right: int) -> float:
    """Returns -log of the right choice's probability among all choices, in nats. `logs` are the choices'
    log-likelihoods, `right` is the index of the right one."""
    top = max(logs)
    return top + math.log(sum(math.exp(value - top) for value in logs)) - logs[right]


def spread_evenly(values: Sequence[T], most: int) -> list[T]:
    """Returns at most `most` of the values, evenly spaced and beginning with the first."""
    count = min(most, len(values))
    return [values[number * len(values) // count] for number in range(count)]


def mean_and_stderr(values: Sequence[float], clusters: Sequence[str] = ()) -> tuple[float, float | None]:
    """Returns the mean and its standard error s/√n (None for a single value). With `clusters`, one for each value, the
    error is clustered (see `data.independent_units`), and None for a single cluster."""
    n = len(values)
    mean = sum(values) / n
    if clusters:
        return mean, mean_and_stderr([float(value) for value in independent_units([values], clusters)[0]])[1]
    if n < 2:
        return mean, None
    return mean, math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1) / n)


def ratio(pairs: Sequence[tuple[float, float]]) -> float:
    """Returns the sum of the first numbers over the sum of the second, such as log-likelihood per word over all
    texts."""
    return sum(top for top, _ in pairs) / sum(bottom for _, bottom in pairs)


def jackknife(
    values: Sequence[T], aggregate: Callable[[list[T]], float], clusters: Sequence[str] = ()
) -> tuple[float, float | None]:
    """Returns (an aggregate of the values, its delete-one jackknife standard error: Efron & Stein 1981; None for a
    single value). With `clusters`, one for each value, a whole cluster is left out at a time."""
    values = list(values)
    left_out = list(clusters) or list(map(str, range(len(values))))
    groups = list(dict.fromkeys(left_out))
    whole, n = float(aggregate(values)), len(groups)
    if n < 2:
        return whole, None
    parts = [
        float(aggregate([value for value, of in zip(values, left_out, strict=True) if of != group])) for group in groups
    ]
    mean = sum(parts) / n
    return whole, math.sqrt((n - 1) / n * sum((part - mean) ** 2 for part in parts))
