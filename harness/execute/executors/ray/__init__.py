"""Runs cells on a Ray cluster: what is sent to a node, how it is made ready, and what comes back."""

from harness.execute.executors.ray.executor import RayExecutor

__all__ = ["RayExecutor"]
