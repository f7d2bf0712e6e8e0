"""What the fork server imports once, so that a cell's process starts in a second instead of ten.

Importing must not start CUDA, and must not start threads: both do not survive a fork.
"""

from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM  # noqa: F401

import harness.corpora
import harness.diagnose
import harness.evaluate
import harness.generation
import harness.models
import harness.tasks
import harness.train
import harness.worker  # noqa: F401
