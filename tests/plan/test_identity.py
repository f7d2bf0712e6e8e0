"""What a cell is does not depend on where the code lies."""

import json
from pathlib import Path
from typing import Any

import pytest
from samples import plan

from harness.plan.identity import identifying_fields
from harness.plan.plan import Plan

# Where one of these changes, no stored result is found again: change them only with RESULT_VERSION.
DIGESTS = {
    "base/m1/a": "a562eb93bd5c7b89",
    "adapter_merge.lora/m1/a/n8/s0/labels0.25": "3517cbf462dbced2",
    "adapter_merge.lora/m1/b/n8/s0/labels0.25": "b89743b1a7bfb3b3",
    "full/m1/a/n8/labels0.25/study": "f454f16d428ccf1d",
    "lora/m1/a/n8/labels0.25/study": "fb7cc9c380251450",
    "adapter_merge/m1/a/n8/labels0.25/study": "5f66b09a51e4fcf1",
    "full/m1/a/n8/s0/labels0.25": "55c891fb046e6f70",
    "lora/m1/a/n8/s0/labels0.25": "1da892a0f7bc5b12",
    "adapter_merge/m1/a/n8/s0/labels0.25": "e7dacf6eae2b75c7",
}


@pytest.fixture
def made(tmp_path: Path) -> Plan:
    """A plan with an base model, experts, a curriculum, studies and spoilt labels."""
    methods: dict[str, Any] = {
        "lora": {},
        "full": {"curriculum": "instruction"},
        "adapter_merge": {"experts": {"method": "lora", "learn": ["a", "b"]}},
    }
    sizes = [{"learn": "a", "sizes": [8]}]
    return plan(tmp_path, methods=methods, tasks=sizes, seeds=[0], tune={"trials": 4}, corrupt=[{"labels": 0.25}])


def test_cells_keep_their_digests(made: Plan) -> None:
    assert {cell.key: cell.spec_digest[:16] for cell in made.cells} == DIGESTS


def test_no_module_path_is_part_of_a_cell(made: Plan) -> None:
    for cell in made.cells:
        assert "harness" not in json.dumps(identifying_fields(cell))
