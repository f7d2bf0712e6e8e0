"""What the fork server imports once, so that a cell's process starts in a second instead of ten.

Importing must not start CUDA, and must not start threads: both do not survive a fork.
"""

import importlib
import logging

MODULES = (
    "torch", "transformers", "transformers.models.llama.modeling_llama", "peft", "lm_eval.evaluator",
    "pyarrow.parquet", "scipy.stats", "harness.corpora", "harness.diagnose", "harness.evaluate", "harness.generation",
    "harness.models", "harness.tasks", "harness.train", "harness.worker",
)  # fmt: skip

logging.disable(logging.WARNING)  # libraries' notices at import would fall into the live table
for module in MODULES:
    importlib.import_module(module)
logging.disable(logging.NOTSET)  # a worker's own go to its log
