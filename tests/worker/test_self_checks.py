"""The instruments pass on a sound house, and each planted fault is caught by the check that is meant for it."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.records import Check, TrainSettings
from harness.worker.evaluate import TunedLM
from harness.worker.profiling import meter as measure
from harness.worker.profiling import self_checks as instruments
from harness.worker.profiling.self_checks import INSTRUMENTS, Bench, check_all


@pytest.fixture
def bench(tiny_model: Path, tmp_path: Path) -> Bench:
    return Bench(tiny_model, TrainSettings(steps=3), tmp_path)


def test_a_sound_house_passes(bench: Bench) -> None:
    found = list(check_all(bench))
    assert [check.name for check in found] == [instrument.__name__ for instrument in INSTRUMENTS]
    assert [(check.name, check.about, check.measured) for check in found if not check.passed] == []
    assert all(check.about and check.unit and check.seconds >= 0 for check in found)


def padding_that_leaks(patch: pytest.MonkeyPatch) -> None:
    from harness.worker import predictions

    sound = predictions.logits_at
    patch.setattr(
        predictions, "logits_at", lambda model, ids, places: sound(model, ids, places) * (1 + 0.01 * ids.shape[1])
    )


def trees_that_leak(patch: pytest.MonkeyPatch) -> None:
    from harness.models import forest

    sound = forest.laid_out

    def leaking(trees: Any) -> Any:
        planted = sound(trees)
        planted.sees[:] = True
        return planted

    patch.setattr(forest, "laid_out", leaking)
    patch.setattr(forest, "agrees", lambda *asked: True)
    patch.setattr(forest, "WORTH", 9.0)  # the tiny model's layers are so narrow that trees hardly pay


def an_adapter_that_is_not_zero(patch: pytest.MonkeyPatch) -> None:
    from harness.methods.lora import LoRA

    sound = LoRA.attach

    def attach(self: Any, model: Any) -> Any:
        model = sound(self, model)
        with torch.no_grad():
            for name, value in model.named_parameters():
                if "lora_B" in name:
                    value.add_(0.01)
        return model

    patch.setattr(LoRA, "attach", attach)


def a_meter_that_sees_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(measure, "resident_peak", lambda: 10**9)


def a_peak_that_is_not_reset(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(measure, "reset_peaks", lambda: None)


def a_slow_recorder(patch: pytest.MonkeyPatch) -> None:
    import time

    patch.setattr(measure.StepRecorder, "announce", lambda self, **event: time.sleep(0.01))


def a_slow_meter(patch: pytest.MonkeyPatch) -> None:
    import time

    patch.setattr(measure, "synchronise", lambda: time.sleep(0.02))


def weights_that_differ(patch: pytest.MonkeyPatch) -> None:
    sound = Bench.load_model

    def load(self: Any, folder: Path | None = None, quantize: str | None = None) -> Any:
        model = sound(self, folder, quantize)
        if folder:
            next(iter(model.parameters())).data[0, 0] += float(torch.rand((), generator=GENERATOR))
        return model

    patch.setattr(Bench, "load_model", load)


def a_merge_that_shrinks(patch: pytest.MonkeyPatch) -> None:
    from harness.methods.merge import Merge

    sound = Merge.fit

    def fit(self: Any, model: Any, job: Any) -> Any:
        merged = sound(self, model, job)
        for value in merged.parameters():
            value.data *= 0.999
        return merged

    patch.setattr(Merge, "fit", fit)


def scores_that_drift(patch: pytest.MonkeyPatch) -> None:
    sound, count = TunedLM._loglikelihood_tokens, iter(range(1000))

    def score(self: Any, *args: Any, **options: Any) -> Any:
        drift = 1e-6 * next(count)
        return [(value + drift, greedy) for value, greedy in sound(self, *args, **options)]

    patch.setattr(TunedLM, "_loglikelihood_tokens", score)


GENERATOR = torch.Generator().manual_seed(0)
PLANTED: list[tuple[Callable[[pytest.MonkeyPatch], None], str]] = [
    (padding_that_leaks, "batch_size"),
    (padding_that_leaks, "padding_side"),
    (trees_that_leak, "batch_size"),
    (an_adapter_that_is_not_zero, "null_adapter"),
    (a_meter_that_sees_nothing, "memory_meter"),
    (a_peak_that_is_not_reset, "memory_meter"),
    (a_slow_recorder, "timer_cost"),
    (a_slow_meter, "phase_cost"),
    (weights_that_differ, "same_seed"),
    (a_merge_that_shrinks, "merge_of_one"),
    (scores_that_drift, "repeated_scores"),
]


@pytest.mark.parametrize(("plant", "caught_by"), PLANTED, ids=lambda value: getattr(value, "__name__", value))
def test_a_planted_fault_is_caught(
    plant: Callable[[pytest.MonkeyPatch], None], caught_by: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    assert not getattr(instruments, caught_by)(bench).passed


def test_a_check_that_cannot_run_has_failed(bench: Bench) -> None:
    def broken(bench: Bench) -> Check:
        raise RuntimeError("no scale")

    (check,) = check_all(bench, (broken,))
    assert not check.passed
    assert math.isnan(check.measured)
    assert check.about == "it could not run: RuntimeError: no scale"
