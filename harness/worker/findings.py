"""Collects the scores, facts, flags and checkpoints of a cell while it runs: the parts of its result that no instrument
keeps."""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.records import Checkpoint, Fact, Flag, Job, RungScore, Score


@dataclass
class Findings:
    """Scores, facts, flags, checkpoints and rung scores (of a trial) of one cell, each in the order in which they
    came."""

    scores: list[Score] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)
    flags: list[Flag] = field(default_factory=list)
    checkpoints: list[Checkpoint] = field(default_factory=list)
    rungs: list[RungScore] = field(default_factory=list)

    @classmethod
    def of_job(cls, job: Job) -> Findings:
        """Returns the findings that a cell begins with: flags for failed self-checks and for leaks of its data, and
        facts of its predicted memory in bytes, as a whole and by part."""
        findings = cls()
        if job.bad_instruments:
            findings.flags.append(Flag("bad_instruments", {"failed": list(job.bad_instruments)}))
        if job.leaks:
            findings.flags.append(Flag("leak", job.leaks))
        if job.predicted_bytes:
            findings.facts.append(Fact("predicted_bytes", job.predicted_bytes, "B", False))
        for part, size in job.predicted_parts.items():
            findings.facts.append(Fact(f"predicted_{part}_bytes", size, "B", False))
        return findings

    def fact(self, name: str) -> float | None:
        """Returns the value of the fact with this name, or None."""
        return next((fact.value for fact in self.facts if fact.name == name), None)
