"""In: a cell as it runs. Out: what it costs (seconds, tokens, bytes, joules, FLOPs), by instruments
that check themselves.
"""
