"""Runs probes in this Python: `python -m harness.worker.probes REQUEST.json ANSWER.json`.

The request is {labels: [{label, method, settings}], packages: [names], threads, only: [labels]}; the answer is a list
of probes as JSON, written whole when all are done."""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.records import Probe


def main(request: Path, answer: Path) -> None:
    """Answers the request in one JSON file by another."""
    wanted: dict[str, Any] = json.loads(request.read_text())
    import torch

    torch.set_num_threads(wanted["threads"])
    with tempfile.TemporaryDirectory(dir=request.parent) as scratch:
        probes = run(wanted, Path(scratch))
    answer.write_text(json.dumps([asdict(probe) for probe in probes]))


def run(wanted: dict[str, Any], scratch: Path) -> list[Probe]:
    """Returns all probes that a request asks for."""
    from harness.worker.probes.bench import tiny_llama, tokenizer
    from harness.worker.probes.of_libraries import probe_libraries, resident
    from harness.worker.probes.of_methods import Subject, probe_label
    from harness.worker.probes.old_peft import drop_unknown_settings
    from harness.worker.probes.settings import probe_defaults

    drop_unknown_settings()
    base = scratch / "base"
    tiny_llama().save_pretrained(base)  # type: ignore[operator]
    tokenizer().save_pretrained(base)
    probes: list[Probe] = []
    if wanted.get("libraries", True):
        probes += probe_libraries(scratch)
        probes += probe_defaults(("transformers", *wanted["packages"]))
    for entry in wanted["labels"]:
        probes += probe_label(Subject(**entry), base, scratch)
    return [*probes, resident()]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
