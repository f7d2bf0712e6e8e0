"""The type of a JSON object, the one loose type of the records."""

from __future__ import annotations

from typing import Any

# Settings, and records on their way to or from a file: text keys, and values that JSON knows.
JsonObject = dict[str, Any]
