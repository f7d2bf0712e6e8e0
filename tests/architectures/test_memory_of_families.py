"""Memory is predicted for families whose shapes are counted, within 15% of what layers keep; for others planning says
why it is absent."""

from __future__ import annotations

from pathlib import Path

import pytest

from architectures.families import FAMILIES, make_family
from harness.architecture import decoder_layers, read_network
from harness.methods import all_methods
from harness.models.loading import load_model, structure_of
from harness.plan.memory import Count
from harness.records import TrainSettings

COUNTED = ("llama", "qwen2", "qwen3", "gemma3", "mistral", "olmo2")


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_counted_is_right_and_the_rest_says_why_not(family: str, tiny_model: Path, tmp_path: Path) -> None:
    from plan.test_memory import kept_by  # it loads torch

    folder = make_family(family, tiny_model, tmp_path / family)
    network = read_network(folder, structure_of(family, folder))
    assert network is not None
    assert network.is_counted() is (family in COUNTED), network.uncounted()
    assert bool(network.uncounted()) is not network.is_counted()
    if not network.is_counted():
        return
    for name in ("full", "lora"):
        method, train = all_methods()[name](), TrainSettings(steps=1)
        footprint = method.footprint(network)
        assert footprint is not None
        model = method.attach(load_model(folder, train))
        found = kept_by(model, decoder_layers(model)[1], 3, 24)
        predicted = Count(network, method, footprint, train, "cpu").layer(1, 3 * 24, 24)
        assert predicted == pytest.approx(found, rel=0.15), (family, name)
