"""Collects the commands, one file each, by walking this folder: adding a file adds a command.

In: options and arguments. Out: what is printed.
"""

from __future__ import annotations

import importlib
import pkgutil

from harness.cli.options import Command

__all__ = ["all_commands"]


def all_commands() -> dict[str, Command]:
    """Returns every command by name, in the order of listings. Raises RuntimeError when two have the same name."""
    commands: dict[str, Command] = {}
    for info in pkgutil.iter_modules(__path__):
        for value in vars(importlib.import_module(f"{__name__}.{info.name}")).values():
            found = vars(value).get("command") if callable(value) and hasattr(value, "__dict__") else None
            if isinstance(found, Command):
                if found.name in commands:
                    raise RuntimeError(f"two commands are named {found.name!r}")
                commands[found.name] = found
    return dict(sorted(commands.items(), key=lambda entry: (entry[1].place, entry[0])))
