"""A probe: one quick reading of what the installed libraries compute, by which two environments are told apart."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypedDict

from harness.records.reading import Moment, Name

LIBRARIES = "libraries"  # the subject of probes that concern no method
MOST_MEMORY = "most memory of all probes"  # a reading that depends on how many probes were made


@dataclass(frozen=True)
class Probe:
    """One reading. `subject` is the label whose method was probed, or LIBRARIES; `name` says what was read, in words.

    A reading is numbers (`values`, in `unit`), or settings (`fields`: name -> value as text). `reason` says why it
    could not be made; it is then empty.
    """

    subject: Name
    name: Name
    values: tuple[float, ...] = ()
    unit: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    reason: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """What was read, of what."""
        return self.subject, self.name


class ProbeRecord(TypedDict):
    """The probes of an environment for a suite's methods, as a file of `probes/` holds them. `suite_digest` covers what
    was asked for (labels with their settings); `created` is in ISO 8601."""

    env_digest: Name
    suite: Name
    suite_digest: Name
    created: Moment
    seconds: float
    probes: list[Probe]
