"""Checks of the measuring instruments, once for each environment and base model, before anything is measured.

Each check is one function that returns what it measured and the limit for it. They run in a process of their own
(`python -m harness.worker.profiling.self_checks REQUEST.json ANSWER.json`), so that planning stays light.
Checks of scoring use the base model itself; those of training and merging a random model of the same configuration
with two layers, so that they cost seconds at any size.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from harness.architecture import LAYER_COUNTS, Network, describe
from harness.errors import Unavailable
from harness.records import OPTIONAL_CHECKS, TRICKS, Check, TrainSettings

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from harness.worker.evaluate import TunedLM

PLANTED_BYTES = 500_000_000
PAIRS = (
    ("The capital of France is", " Paris"),
    ("Water freezes at zero degrees", " Celsius, and boils at a hundred of them"),
    ("She opened the old wooden box, and inside there lay", " a letter"),
    ("Headline: Markets fall as oil prices rise again\nTopic:", " business"),
    ("Headline: Striker signs for three more years\nTopic:", " sport"),
    ("One, two, three, four, five, six,", " seven, eight"),
    ("It was a bright cold day in April, and the clocks", " were striking"),
    ("A", " cat sat on the mat and looked at the rain"),
)
TEXT = " ".join(context + continuation + "." for context, continuation in PAIRS)


@dataclass
class Bench:
    """The base model (its folder), settings and scratch folder of the self-checks; a method under test gets it as its
    context. `needs` maps a role to the folder of an expert."""

    base: Path
    settings: TrainSettings
    scratch: Path
    needs: dict[str, Path] = field(default_factory=dict)
    seed: int = 0

    def load_model(self, folder: Path | None = None, quantize: str | None = None) -> nn.Module:
        """Returns the base model, or that of another folder, with `quantize` packed."""
        from harness.models import load_model

        return load_model(folder or self.base, self.settings, quantize)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        from harness.models import load_tokenizer

        return load_tokenizer(self.base)

    @cached_property
    def model(self) -> nn.Module:
        """The base model."""
        return self.load_model()

    @cached_property
    def small(self) -> Path:
        """Folder of a random model with the base's configuration but two layers, and its tokenizer."""
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        config = AutoConfig.from_pretrained(self.base, trust_remote_code=False)
        text = config.get_text_config()
        shortened_to(text, 2)
        torch.manual_seed(0)
        folder = self.scratch / "small"
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        return folder

    def scores(self, model: nn.Module, batch_size: int = 4, fast: Sequence[str] = ()) -> Tensor:
        """Returns log-likelihoods [pairs + 1], in nats, of PAIRS and, last, of TEXT, computed as cells are scored with
        these tricks."""
        import torch

        lm = self.language_model(model, batch_size, fast)
        values = [answer for answer, _ in lm.loglikelihood([SimpleNamespace(args=pair) for pair in PAIRS])]
        values += lm.loglikelihood_rolling([SimpleNamespace(args=(TEXT,))], disable_tqdm=True)
        return torch.tensor(values, dtype=torch.float64)

    def language_model(self, model: nn.Module, batch_size: int = 4, fast: Sequence[str] = ()) -> TunedLM:
        """Returns an lm-eval model that scores `model` as cells are scored, `batch_size` sequences at a time."""
        from harness.worker.evaluate import TunedLM

        return TunedLM(model, self.tokenizer, batch_size, fast)

    def rows(self) -> list[dict[str, list[int]]]:
        """Returns PAIRS as training rows {input_ids, labels}."""
        lm = self.language_model(self.model)
        pairs = [lm._encode_pair(*pair) for pair in PAIRS]
        return [{"input_ids": one + two, "labels": [-100] * len(one) + two} for one, two in pairs]

    def train_small(self, steps: int = 3) -> nn.Module:
        """Returns the model of `small` after full fine-tuning on PAIRS, by the training loop of cells."""
        from transformers import set_seed

        from harness.curricula import Stage
        from harness.methods import make_method
        from harness.worker.profiling.meter import StepRecorder
        from harness.worker.train import TrainRun, train

        set_seed(self.seed)
        model = self.load_model(self.small)
        settings = self.settings.changed({"steps": steps, "batch_size": 4, "devices": 1})
        run = TrainRun(self.seed, StepRecorder(), self.scratch / "train")
        return train(model, make_method("full", {}), Stage("pairs", self.rows()), settings, run)


def shortened_to(config: Any, layers: int) -> None:
    """Let a configuration have at most this many layers, with lists that have an entry for each layer cut alike."""
    key = next(name for name in LAYER_COUNTS if getattr(config, name, None))
    available = getattr(config, key)
    if available <= layers:
        return
    setattr(config, key, layers)
    for name, value in vars(config).items():
        if isinstance(value, list) and len(value) == available and name != "architectures":
            setattr(config, name, value[:layers])
    if kinds := getattr(config, "attention_layers", None):  # GPT-Neo gives them twice
        config.attention_types = [[[kind], 1] for kind in kinds]


Instrument = Callable[[Bench], Check]


def repeated_scores(bench: Bench) -> Check:
    """Score the base model twice, and compare the log-likelihoods, which must be equal."""
    first, second = bench.scores(bench.model), bench.scores(bench.model)
    about = "the base model scored twice: largest change of a log-likelihood"
    return Check("repeated_scores", about, largest(first - second), 0.0, "nats")


def batch_size(bench: Bench) -> Check:
    """Score the base model on texts one by one, in one padded batch and as a prefix tree, and compare the
    log-likelihoods."""
    alone = bench.scores(bench.model, 1)
    changes = [largest((alone - bench.scores(bench.model, len(PAIRS), fast)) / alone) for fast in ((), (*TRICKS,))]
    about = "scored one by one, in one padded batch and as a tree: largest relative change of a log-likelihood"
    return Check("batch_size", about, max(changes), tolerance(bench), "ratio")


def padding_side(bench: Bench) -> Check:
    """Compare log-likelihoods of pairs padded on the left, by the model alone, with those of our scorer, which pads on
    the right."""
    import torch

    model, device = bench.model, next(bench.model.parameters()).device
    lm = bench.language_model(model)
    pairs = [lm._encode_pair(*pair) for pair in PAIRS]
    length = max(len(one) + len(two) for one, two in pairs)
    ids = torch.tensor([[0] * (length - len(one) - len(two)) + one + two for one, two in pairs], device=device)
    mask = torch.tensor(
        [[0] * (length - len(one) - len(two)) + [1] * (len(one) + len(two)) for one, two in pairs], device=device
    )
    places = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        logs = model(input_ids=ids, attention_mask=mask, position_ids=places, use_cache=False).logits.float()
    logs = logs.log_softmax(-1)[:, :-1].gather(2, ids[:, 1:, None]).squeeze(2)
    left = torch.stack([logs[place, -len(two) :].sum() for place, (_, two) in enumerate(pairs)]).double().cpu()
    right = bench.scores(model)[: len(PAIRS)]
    about = "padded on the left instead of the right: largest relative change of a log-likelihood"
    return Check("padding_side", about, largest((left - right) / right), tolerance(bench), "ratio")


def null_adapter(bench: Bench) -> Check:
    """Score the base model without and with an untrained LoRA adapter, and compare the log-likelihoods, which must be
    equal."""
    from harness.methods import make_method

    before = bench.scores(bench.model)
    structure = describe(bench.model)
    linears = Network({}, structure.weights, 0, structure).linear_names()
    adapted = make_method("lora", {"targets": linears}).attach(bench.load_model())
    after = bench.scores(adapted.eval())
    about = "an untrained LoRA adapter: largest change of a log-likelihood"
    return Check("null_adapter", about, largest(before - after), 0.0, "nats")


def merge_of_one(bench: Bench) -> Check:
    """Merge a single expert at weight 1, and compare the weights with its own, which must be equal."""
    from harness.methods import make_method

    expert = bench.load_model(bench.small)
    method = make_method("merge", {"how": "linear", "experts": {"method": "full", "learn": ["one", "other"]}})
    context: Any = Bench(bench.small, bench.settings, bench.scratch / "merge", {"expert:one": bench.small})
    context.scratch.mkdir()
    merged = dict(method.fit(expert, context).named_parameters())
    gap = max(float((value - merged[name]).detach().abs().max()) for name, value in expert.named_parameters())
    return Check("merge_of_one", "one expert merged at weight 1: largest change of a weight", gap, 0.0, "weight")


def same_seed(bench: Bench) -> Check:
    """Train twice from one seed and compare the weights. On a GPU the order of sums may differ: a small spread is then
    the noise floor, and not a fault."""
    import torch

    first, second = (dict(bench.train_small().named_parameters()) for _ in range(2))
    gap = max(float((value - second[name]).detach().abs().max()) for name, value in first.items())
    limit = 1e-3 if torch.cuda.is_available() else 0.0
    return Check("same_seed", "trained twice from one seed: largest difference of a weight", gap, limit, "weight")


def timer_cost(bench: Bench) -> Check:
    """Time what the step recorder adds to a training step, in ms."""
    from transformers import TrainerControl, TrainerState

    from harness.worker.profiling.meter import StepRecorder

    recorder, count = StepRecorder(bench.scratch / "events.jsonl"), 200
    state, control = TrainerState(max_steps=count), TrainerControl()
    started = time.perf_counter()
    for number in range(count):
        state.global_step = number + 1
        recorder.on_step_begin(None, state, control)
        recorder.count(1, 1)
        recorder.on_step_end(None, state, control)
        recorder.on_log(None, state, control, {"loss": 1.0, "learning_rate": 1e-3})
    cost = (time.perf_counter() - started) / count
    return Check("timer_cost", "time that measuring adds to a training step", cost * 1000, 5.0, "ms")


def phase_cost(bench: Bench) -> Check:
    """Measure a phase in which nothing is done: its time, in ms, is what measuring costs."""
    from harness.worker.profiling.meter import Meter

    meter, count = Meter(), 5
    for _ in range(count):
        with meter.phase("empty"):
            pass
    cost = meter.phases[0].seconds / count
    return Check("phase_cost", "time measured of a phase in which nothing is done", cost * 1000, 5.0, "ms")


def memory_meter(bench: Bench) -> Check:
    """Hold 500 MB in the second of three phases, and compare the memory peaks that were measured with what was held.
    Torch is used as cells use it."""
    import torch

    from harness.worker.profiling.meter import Meter

    device = next(bench.model.parameters()).device
    meter = Meter()
    for name in ("before", "planted", "after"):
        with meter.phase(name):
            if name == "planted":
                held = torch.ones(PLANTED_BYTES, dtype=torch.uint8, device=device)
                del held
    kind = "allocated_bytes" if device.type == "cuda" else "rss_bytes"
    before, planted, after = (float(getattr(phase, kind) or "nan") for phase in meter.phases)
    error = max(abs(planted - before - PLANTED_BYTES), abs(after - before)) / PLANTED_BYTES
    about = "500 MB planted in one of three phases: largest error of a phase's peak"
    return Check("memory_meter", about, error, 0.03, "ratio")


# Memory first: freed blocks of what the others did could be filled by what is planted.
INSTRUMENTS: tuple[Instrument, ...] = (
    memory_meter, phase_cost, timer_cost, repeated_scores, batch_size, padding_side, null_adapter, same_seed,
    merge_of_one,
)  # fmt: skip


def chosen(wanted: dict[str, Any]) -> tuple[Instrument, ...]:
    """Returns the checks that a request asks for: those that every cell needs (unless `only_optional`), and of the
    others those that it names under `optional`; without that, all."""
    if "optional" not in wanted:
        return INSTRUMENTS
    return tuple(
        one
        for one in INSTRUMENTS
        if (one.__name__ in wanted["optional"] if one.__name__ in OPTIONAL_CHECKS else not wanted["only_optional"])
    )


def check_all(bench: Bench, instruments: tuple[Instrument, ...] = INSTRUMENTS) -> Iterator[Check]:
    """Run every check and yield its result. A check that fails to run has measured NaN, which passes no limit, and says
    why in `about`."""
    for instrument in instruments:
        started = time.perf_counter()
        try:
            check = instrument(bench)
        except Exception as error:
            reason = f"it could not run: {type(error).__name__}: {error}".splitlines()[0]
            check = Check(instrument.__name__, reason, float("nan"), 0.0, "")
        yield Check(**{**asdict(check), "seconds": time.perf_counter() - started})


def largest(difference: Tensor) -> float:
    """Returns the largest absolute value of a tensor of differences."""
    return float(difference.abs().max())


def tolerance(bench: Bench) -> float:
    """Returns how far a log-likelihood may move, relative to itself, with the shape of its batch: by the rounding of
    the bench's precision alone."""
    from harness.models import resolve_precision

    return {"fp32": 1e-4, "bf16": 5e-2, "fp16": 1e-2}[resolve_precision(bench.settings.precision)]


def peaks(precisions: list[str]) -> dict[str, float | None]:
    """Returns precision -> FLOP/s of a matrix product in it; None where this device cannot do it."""
    from harness.models import compute_dtype, resolve_precision
    from harness.worker.profiling.flops import matmul_peak

    rates: dict[str, float | None] = {}
    for precision in precisions:
        try:
            rates[precision] = matmul_peak(compute_dtype(resolve_precision(precision)))
        except Unavailable:
            rates[precision] = None
    return rates


def main(request: Path, answer: Path) -> None:
    """Answer the request in one JSON file by another: {base, settings, threads} by a list of checks, {precisions,
    threads} by {precision: FLOP/s} (see `peaks`)."""
    import tempfile

    import torch

    wanted = json.loads(request.read_text())
    torch.set_num_threads(wanted["threads"])
    if "precisions" in wanted:
        answer.write_text(json.dumps(peaks(wanted["precisions"])))
        return
    with tempfile.TemporaryDirectory(dir=request.parent) as scratch:
        bench = Bench(Path(wanted["base"]), TrainSettings.model_validate(wanted["settings"]), Path(scratch))
        checks = [asdict(check) for check in check_all(bench, chosen(wanted))]
    answer.write_text(json.dumps(checks, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
