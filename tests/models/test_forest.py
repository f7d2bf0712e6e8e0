"""Sequences laid out as prefix trees: a model gives the logits of the sequences by themselves, or is not run so."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures.families import FAMILIES, make_family
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from harness.methods import all_methods
from harness.models import forest_logits, most_nodes, plant, plant_many, prompt_run_once, runs_forests
from harness.models.forest import Forest, Tree, laid_out, work_of

SEQUENCES = [[5, 6, 7, 8], [5, 6, 9, 10, 11, 12], [5, 6, 9, 13], [20, 21], [5, 6]]
PLACES = [[1, 3], [5], [2, 3], [0, 1], [1]]
MANY = 10_000
# Families whose code counts places by itself, or carries a state from token to token.
AS_THEY_ARE = {"bloom", "mamba", "gpt_neo"}


@pytest.fixture
def model(tiny_model: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()


def one_by_one(model: Any, sequences: Any, places: Any) -> torch.Tensor:
    """The logits of each place that is asked for, each sequence by itself."""
    found = []
    with torch.no_grad():
        for tokens, wanted in zip(sequences, places, strict=True):
            logits = model(input_ids=torch.tensor([tokens])).logits[0]
            found.append(logits[-len(tokens) :][wanted])
    return torch.cat(found)


def of_trees(model: Any, sequences: Any, places: Any, count: int = 1) -> torch.Tensor:
    """The same from a forest of `count` trees."""
    bounds = [len(sequences) * number // count for number in range(count + 1)]
    parts = [slice(start, end) for start, end in pairwise(bounds)]
    with torch.no_grad():
        return forest_logits(model, laid_out([Tree.of(sequences[part], places[part]) for part in parts]), "cpu")


@pytest.mark.parametrize("count", [1, 2, 5])
def test_logits_are_those_of_the_sequences_by_themselves(model: Any, count: int) -> None:
    found = of_trees(model, SEQUENCES, PLACES, count)
    assert torch.allclose(found, one_by_one(model, SEQUENCES, PLACES), atol=1e-5)


sequences = st.lists(st.lists(st.integers(3, 9), min_size=1, max_size=9), min_size=1, max_size=6)


@given(sequences, st.data())
@settings(max_examples=25)
def test_logits_of_any_sequences(model_once: Any, many: list[list[int]], data: Any) -> None:
    places = [sorted(data.draw(st.sets(st.integers(0, len(tokens) - 1), min_size=1))) for tokens in many]
    count = data.draw(st.integers(1, len(many)))
    found = of_trees(model_once, many, places, count)
    assert torch.allclose(found, one_by_one(model_once, many, places), atol=1e-5)


@pytest.fixture(scope="module")
def model_once(tiny_model: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()


def test_a_neighbour_changes_nothing(model: Any) -> None:
    before = of_trees(model, SEQUENCES, PLACES)[:2]
    after = of_trees(model, [SEQUENCES[0], [5, 6, 30, 31, 32]], [PLACES[0], [4]])[:2]
    assert torch.allclose(before, after, atol=1e-6)


@pytest.mark.parametrize("label", ["prompt_tuning", "p_tuning", "prefix_tuning"])
def test_virtual_tokens_stand_before_every_tree(model: Any, label: str) -> None:
    torch.manual_seed(0)
    options = {} if label == "p_tuning" else {"init": "random"}
    prompted = all_methods()[label](virtual_tokens=3, **options).attach(model).eval()
    assert runs_forests(prompted, SEQUENCES, "cpu")
    wanted = one_by_one(prompted, SEQUENCES, PLACES)
    for count in (1, 2):
        assert torch.allclose(of_trees(prompted, SEQUENCES, PLACES, count), wanted, atol=1e-5)
    once = prompt_run_once(prompted)
    assert torch.allclose(of_trees(once, SEQUENCES, PLACES), wanted, atol=1e-5)


def test_an_adapter_that_does_nothing_yet_shows_what_it_does(model: Any) -> None:
    class Leaks(torch.nn.Module):
        """Adds the mean over all tokens, by a weight that begins with zero."""

        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner, self.gate = inner, torch.nn.Parameter(torch.zeros(()))

        def forward(self, *args: Any, **options: Any) -> Any:
            made = self.inner(*args, **options)
            return made + self.gate * 50 * made.mean(dim=1, keepdim=True)

    model.requires_grad_(False)
    assert runs_forests(model, SEQUENCES, "cpu")
    model.model.layers[0].mlp = Leaks(model.model.layers[0].mlp)
    other = torch.nn.Module.__new__(type(model))
    other.__dict__.update(model.__dict__)  # a model that was not asked yet
    assert not runs_forests(other, SEQUENCES, "cpu")
    assert float(model.model.layers[0].mlp.gate) == 0.0


def test_gradients_are_those_of_the_padded_batch(model: Any) -> None:
    def gradient(logits: torch.Tensor) -> torch.Tensor:
        model.zero_grad()
        logits.square().mean().backward()
        return torch.cat([value.grad.flatten() for value in model.parameters() if value.grad is not None])

    trees = gradient(forest_logits(model, laid_out([Tree.of(SEQUENCES, PLACES)]), "cpu"))
    rows = [
        model(input_ids=torch.tensor([tokens])).logits[0][wanted]
        for tokens, wanted in zip(SEQUENCES, PLACES, strict=True)
    ]
    assert torch.allclose(trees, gradient(torch.cat(rows)), atol=1e-6)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_runs_them_or_is_run_as_it_is(family: str, tiny_model: Path, tmp_path: Path) -> None:
    folder = make_family(family, tiny_model, tmp_path / family)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    runs = runs_forests(model, SEQUENCES, "cpu")
    assert runs is (family not in AS_THEY_ARE)
    if runs:
        wanted = one_by_one(model, SEQUENCES, PLACES)
        for count in (1, 2):
            assert torch.allclose(of_trees(model, SEQUENCES, PLACES, count), wanted, atol=1e-4)


def test_a_model_that_drops_is_run_as_it_is(model: Any) -> None:
    model.train()
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.1
    assert not runs_forests(model, SEQUENCES, "cpu")


def test_anything_else_that_is_drawn_by_chance_is_seen(model: Any) -> None:
    layer = model.model.layers[0]
    usual = layer.mlp.forward
    layer.mlp.forward = lambda states: usual(states) if torch.rand(()) >= 0 else states  # never left out, yet drawn
    assert not runs_forests(model, SEQUENCES, "cpu")


def test_sequences_beyond_a_window_are_run_as_they_are(model: Any) -> None:
    model.config.sliding_window = 5
    assert not runs_forests(model, SEQUENCES, "cpu")
    assert most_nodes(model) == 5
    assert runs_forests(model, [tokens[:5] for tokens in SEQUENCES], "cpu")


def test_virtual_tokens_take_room_in_a_window(model: Any) -> None:
    model.config.sliding_window = 12
    prompted = all_methods()["prompt_tuning"](virtual_tokens=7, init="random").attach(model)
    assert most_nodes(prompted) == most_nodes(prompt_run_once(prompted)) == 5


def test_common_beginnings_stand_in_a_tree_once_and_ends_are_left_out() -> None:
    forest = plant([[1, 2, 3, 4], [1, 2, 5, 6]], [[2], [2]], 64, MANY)
    assert forest is not None
    assert forest.tokens.tolist() == [[1, 2, 3, 5]]
    assert forest.positions.tolist() == [[0, 1, 2, 2]]
    assert forest.answers == [0, 1]


def test_long_sequences_stay_apart() -> None:
    rows = [[number, *range(100, 1000)] for number in range(8)]
    places = [[len(row) - 1] for row in rows]
    assert plant(rows, places, 64, MANY) is None  # one tree of 7,208 tokens looks at each other's all
    few = plant([row[:40] for row in rows], [[39]] * 8, 64, MANY)
    assert few is None or few.tokens.shape[0] > 1


@given(
    st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=30), min_size=2, max_size=60, unique_by=tuple),
    st.sampled_from([7, MANY]),
)
def test_many_sequences_are_all_planted_within_bounds(many: list[list[int]], most: int) -> None:
    ranked = sorted(many)
    places = [[len(tokens) - 1] for tokens in ranked]
    planted = plant_many(ranked, places, 4, 64, most)
    forests: list[Forest] = list(planted or ())
    if not forests:
        return
    assert sum(len(forest.answers) for forest in forests) == len(ranked)
    padded = work_of(len(ranked), max(map(len, ranked)), 64)
    assert sum(work_of(*forest.tokens.shape, 64) for forest in forests) <= padded
    longest = max(map(len, ranked))
    assert all(forest.tokens.size <= 4 * longest for forest in forests)
    assert all(forest.tokens.shape[1] <= max(longest, most) for forest in forests)
