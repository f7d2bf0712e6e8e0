"""Pure mathematics of results: no store, no plots, no torch. A file a question.

`intervals` is one method, and two on one seed each; `contrast` two across seeds and items; `leads` many at once;
`power` what seeds and items can find; `rankings` what holds over tasks; `crossover` what changes with the examples.
"""
