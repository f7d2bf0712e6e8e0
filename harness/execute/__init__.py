"""Stage 3 of 7. In: a Plan and the cells of it that are still to do. Out: a result folder for each.

An executor reaches the worker by a folder with a cell's JSON, and by nothing else.
"""
