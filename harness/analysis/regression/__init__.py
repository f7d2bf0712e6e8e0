"""Compares library versions. In: attempts at the same cells in two environments, or a series of environments. Out: what
moved (the axis, single labels, single cells), by how much, how sure that is, and since which version."""
