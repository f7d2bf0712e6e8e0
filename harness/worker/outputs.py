"""Writes a cell's items, scored texts and weights, each file or folder whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from harness.methods import Method
from harness.records import Fact, Item
from harness.store import settle
from harness.worker.evaluate import Documents

if TYPE_CHECKING:
    from torch import nn


def write_items(path: Path, items: Sequence[Item]) -> None:
    """Write per-item values (`items`) to the Parquet file `path`, with a column for each field of `Item`."""
    columns = {field.name: [getattr(item, field.name) for item in items] for field in fields(Item)}
    write_parquet(path, columns)


def write_documents(folder: Path, documents: Documents, fingerprints: Mapping[str, str]) -> None:
    """Write the scored texts into `folder`, one Parquet file per task, named by the task's fingerprint (`fingerprints`:
    task -> fingerprint). Files that are there already are left alone."""
    for task in {task for task, _ in documents}:
        path = folder / f"{fingerprints[task][:32]}.parquet"
        if path.exists():
            continue
        text_by_id = {doc_id: text for (name, doc_id), text in documents.items() if name == task}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_parquet(
            path,
            {
                "task": [task] * len(text_by_id),
                "fingerprint": [fingerprints[task]] * len(text_by_id),
                "doc_id": list(text_by_id),
                "text": list(text_by_id.values()),
            },
        )


def write_parquet(path: Path, columns: Mapping[str, list[object]]) -> None:
    """Write columns (name -> values) to a Parquet file by rename, so that several processes may write the same file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    pq.write_table(pa.table(columns), temporary)
    settle(temporary, path)


def save_weights(method: Method, model: nn.Module, folder: Path) -> Fact:
    """Save what was trained or merged under `weights/` in the cell's `folder`. Returns its size on the disk in bytes as
    the fact `artifact_bytes`."""
    temporary = folder / ".weights"
    method.save(model, temporary)
    size = sum(path.stat().st_size for path in temporary.rglob("*") if path.is_file())
    settle(temporary, folder / "weights")
    return Fact("artifact_bytes", size, "B", False)
