"""Trains one model on several devices: divides each batch, chooses how weights are shared, and gathers the whole model
afterwards.

The data loader is the one-process run's own, and each device takes its share of every batch, so the order of the
examples, the batches at the end of an epoch and the losses are those of one device. Not covered: how the processes come
to be (`multi_device.py`), and the training loop itself (`train.py`).
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.data_loader import prepare_data_loader
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from torch.utils.data import DataLoader, Dataset, Sampler

Row = dict[str, list[int]]
Collate = Callable[[list[Row]], dict[str, torch.Tensor]]
BLANK: Row = {"input_ids": [0], "labels": [-100]}  # for a device that has no row of a last, short batch: no answer
COUNTS = "counts"  # the key of a batch under which its true size is found


@dataclass(frozen=True)
class Rank:
    """One of the `count` processes that train a cell together: its `number`, from 0, and the CPU `threads` that it
    uses."""

    number: int
    count: int
    threads: int

    @property
    def is_first(self) -> bool:
        return self.number == 0


@dataclass(frozen=True)
class Share:
    """Collator of one device: makes a batch of every `devices`-th row, from row `rank` on, and adds (tokens, rows) of
    the whole batch, over all devices, under the key `COUNTS`. A device without a row gets one without an answer."""

    collate: Collate
    rank: int
    devices: int

    def __call__(self, rows: list[Row]) -> dict[str, torch.Tensor | tuple[int, int]]:
        batch = self.collate(rows[self.rank :: self.devices] or [BLANK])
        return {**batch, COUNTS: (sum(len(row["input_ids"]) for row in rows), len(rows))}


def shared_loader(
    rows: Dataset[Row], batch_size: int, sampler: Sampler[int] | None, collate: Collate, accelerator: Accelerator
) -> DataLoader[Row]:
    """Returns a data loader whose batches have `batch_size` rows over all devices, of which this device is given its
    share. `sampler` decides the order of rows (None: as they stand), `collate` makes a batch of some."""
    share = Share(collate, accelerator.process_index, accelerator.num_processes)
    return prepare_data_loader(
        DataLoader(rows, batch_size=batch_size, sampler=sampler, collate_fn=share),
        accelerator.device,
        num_processes=1,  # every process goes through all batches; dividing them is the collator's
        process_index=0,
        put_on_device=True,
        use_seedable_sampler=True,
        data_seed=accelerator.dataloader_config.data_seed,
    )


def strategy_arguments(strategy: str, devices: int) -> dict[str, Any]:
    """Returns the TrainingArguments, by name, that choose a strategy (`ddp`, `fsdp` or `deepspeed`); none for a single
    device. With `ddp` and `deepspeed` the weights are whole on every device."""
    if devices == 1:
        return {}
    if strategy == "fsdp":
        return {"fsdp": True, "fsdp_config": {"version": 2, "reshard_after_forward": True}}
    if strategy == "deepspeed":
        names = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
        return {
            "deepspeed": {
                "zero_optimization": {"stage": 2},
                "zero_allow_untested_optimizer": True,  # the suite's optimizer, not DeepSpeed's
                "bf16": {"enabled": "auto"},
                "fp16": {"enabled": "auto"},
                **dict.fromkeys(names, "auto"),
            }
        }
    # A method may leave a trained weight out of a forward pass (an expert that no token chose).
    return {"ddp_find_unused_parameters": True}


def shard_on_cpu(accelerator: Accelerator, plugin: dict[str, Any]) -> None:
    """Make accelerate use FSDP among CPU processes, as tests do: by itself it would use DDP there, since it knows FSDP
    for GPUs only. `plugin` holds the arguments of its FSDP plug-in."""
    state = accelerator.state
    if state.distributed_type is DistributedType.MULTI_CPU:
        # In both places, as accelerate itself keeps it: the second would be copied over the first.
        state.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        state.fsdp_plugin = FullyShardedDataParallelPlugin(**plugin)


def outline(model: torch.nn.Module) -> torch.nn.Module:
    """Returns a copy of the model without memory for its weights (meta device), to be filled after training: FSDP takes
    the original apart in place."""
    empty = {
        id(value): torch.nn.Parameter(torch.empty_like(value, device="meta"), requires_grad=value.requires_grad)
        for value in model.parameters()
    }
    return copy.deepcopy(model, empty)


def filled(model: torch.nn.Module, accelerator: Accelerator, empty: torch.nn.Module) -> torch.nn.Module:
    """Returns the model `empty` (from `outline`) with the weights of a sharded model, gathered into the first process's
    memory. In the other processes it stays without weights."""
    weights = accelerator.get_state_dict(model)
    if accelerator.is_main_process:
        empty.load_state_dict(weights, assign=True)
        for module in empty.modules():
            tie: Any = getattr(module, "tie_weights", lambda: None)
            tie()
    return empty


def leave_group(model: torch.nn.Module) -> torch.nn.Module:
    """End the group of processes, as scoring and saving are the first rank's alone. Returns the model, which the first
    rank moves to its GPU if there is one."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    # What asks later must not find a group that is gone, nor wait for one.
    AcceleratorState._reset_state(reset_partial_state=True)
    rank = int(os.environ.get("RANK", "0"))
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        os.environ.pop(name, None)
    if rank == 0 and torch.cuda.is_available():
        model.to(torch.cuda.current_device())
    return model
