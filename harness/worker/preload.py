"""Imports the heavy libraries once, in the fork server, so that a cell's process starts in a second instead of ten.

Importing must not start CUDA, and must not start threads: both do not survive a fork.
"""

import gc
import importlib
import logging

MODULES = (
    "torch",
    "transformers",
    "transformers.models.llama.modeling_llama",
    "peft",
    "lm_eval.evaluator",
    "pyarrow.parquet",
    "scipy.stats",
    "harness.worker.base_kl",
    "harness.data.splits",
    "harness.worker.flags",
    "harness.data.sampling",
    "harness.worker.evaluate",
    "harness.data.generation",
    "harness.worker.latency",
    "harness.models.loading",
    "harness.data.tasks",
    "harness.worker.train",
    "harness.worker.cell",
)

logging.disable(logging.WARNING)  # libraries' notices at import would fall into the live table
gc.disable()  # imports make millions of lasting objects: looking through them again and again takes a fifth of the time
for module in MODULES:
    importlib.import_module(module)
gc.freeze()  # nor need the cells' processes look through them, which would copy their pages
gc.enable()
logging.disable(logging.NOTSET)  # a worker's own go to its log
