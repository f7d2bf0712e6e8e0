import statistics
from types import SimpleNamespace

import numpy as np
import pytest

from harness.errors import Diverged
from harness.worker.profiling.meter import Meter, StepRecorder, heap_trim, resident_peak

MIB = 1 << 20


def test_a_phase_sees_its_own_peak() -> None:
    meter = Meter()
    with meter.phase("small"):
        pass
    with meter.phase("large"):
        block = np.ones(200 * MIB, dtype=np.uint8)
        del block
    with meter.phase("after"):
        meter.count(tokens=5, samples=1)
        meter.count(tokens=2)
    small, large, after = (phase.rss_bytes for phase in meter.phases)
    if resident_peak() is None:
        pytest.skip("this system does not tell resident peaks")
    assert small is not None
    assert large is not None
    assert after is not None
    assert 190 * MIB < large - small < 230 * MIB
    assert after < large - 150 * MIB
    assert (meter.phases[2].tokens, meter.phases[2].samples) == (7, 1)
    assert meter.phases[0].tokens is None


def test_a_phase_is_not_blamed_for_the_holes_of_the_one_before() -> None:
    if heap_trim() is None or resident_peak() is None:
        pytest.skip("this C library gives nothing back, or this system does not tell resident peaks")
    meter = Meter()
    with meter.phase("before"):
        pass
    with meter.phase("full of holes"):
        blocks = [np.ones(64 * 1024, dtype=np.uint8) for _ in range(2 * 200 * 16)]  # small enough for the heap
        kept = blocks[::4]  # what lasts lies between what is freed
        del blocks
    with meter.phase("after"):
        pass
    before, holes, after = (phase.rss_bytes or 0 for phase in meter.phases)
    assert holes - before > 350 * MIB
    assert after - before < sum(map(len, kept)) + 60 * MIB


def test_a_failing_phase_is_kept() -> None:
    meter = Meter()
    with pytest.raises(ValueError, match="x"), meter.phase("train"):
        raise ValueError("x")
    assert [phase.phase for phase in meter.phases] == ["train"]


def record(times: list[float]) -> StepRecorder:
    recorder = StepRecorder()
    for step, seconds in enumerate(times, start=1):
        recorder.seconds[step] = seconds
        recorder.tokens[step] = 10
        recorder.samples[step] = 2
    return recorder


def test_warm_up_is_left_out_of_throughput() -> None:
    facts = {fact.name: fact.value for fact in record([9.0, 9.0, 1.0, 2.0, 3.0]).facts()}
    assert facts["tokens_per_second"] == pytest.approx(30 / 6)
    assert facts["samples_per_second"] == pytest.approx(6 / 6)
    assert facts["step_seconds_p50"] == statistics.median([1.0, 2.0, 3.0])
    assert facts["optimizer_steps"] == 5


def test_few_steps_are_all_counted() -> None:
    assert {fact.name: fact.value for fact in record([2.0]).facts()}["tokens_per_second"] == pytest.approx(5.0)
    assert StepRecorder().facts() == []


@pytest.mark.parametrize("logs", [{"loss": float("nan")}, {"loss": float("inf")}, {"eval_loss": float("nan")}])
def test_no_number_is_divergence(logs: dict[str, float]) -> None:
    state = SimpleNamespace(global_step=3, max_steps=9)
    with pytest.raises(Diverged, match="at step 3"):
        StepRecorder().on_log(None, state, None, logs=logs)
