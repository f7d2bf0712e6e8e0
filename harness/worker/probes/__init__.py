"""Quick readings of what the installed libraries compute, on a tiny model, for telling two environments apart.

In: a request that names the labels of a suite. Out: a `Probe` for each thing read. Only torch, transformers and peft
are needed, in old versions too: nothing here uses the training loop, the scorer or lm-eval."""
