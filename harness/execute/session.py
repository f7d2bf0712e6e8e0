"""One execution of a suite: what is to do, the run's own record, and how each cell ended."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable

from harness.environment import now
from harness.execute.local import LocalExecutor, Progress, Run, what_to_do
from harness.plan import Plan
from harness.records import Environment, Status
from harness.store.database import Store, write_atomically


class Session:
    """`states` maps each cell's spec digest to its status; "to do" before and "running" while it runs."""

    def __init__(
        self, plan: Plan, store: Store, environment: Environment, threads: int, jobs: int, retry: frozenset[str]
    ):
        self.plan, self.store, self.environment = plan, store, environment
        self.threads, self.jobs = threads, jobs
        self.states, self.done, self.complaints = what_to_do(plan, store, environment.env_digest, retry)

    @property
    def waiting(self) -> int:
        return sum(state == "to do" for state in self.states.values())

    def run(self, command: str, watch: Callable[[Progress], None]) -> bool:
        """Run what is to do and keep the run's record. True when it was stopped by hand."""
        started = now()
        run_id = started[:19].replace("-", "").replace(":", "") + "-" + uuid.uuid4().hex[:6]
        record = {
            "run_id": run_id,
            "suite": self.plan.suite.name,
            "question": self.plan.suite.question,
            "env_digest": self.environment.env_digest,
            "started": started,
            "finished": None,
            "status": "running",
            "command": command,
            "members": [cell.member() for cell in self.plan.cells],
        }
        path = self.store.folder / "runs" / f"{run_id}.json"
        write_atomically(path, json.dumps(record, indent=1))
        stopped = False
        if self.waiting:
            run = Run(run_id, self.environment, self.plan.facts, self.threads, self.jobs)
            stopped = LocalExecutor(self.store, run, watch).run(self.plan, self.states, self.done).stopping
        bad = any(state != Status.DONE for state in self.states.values())
        record |= {"finished": now(), "status": "interrupted" if stopped else "failed" if bad else "done"}
        write_atomically(path, json.dumps(record, indent=1))
        with self.store.open() as connection:
            self.store.ingest(connection)
        return stopped

    def unfinished(self) -> list[tuple[str, str, str]]:
        """(key, status, reason) of every cell that is not done."""
        bad = [cell for cell in self.plan.cells if self.states[cell.spec_digest] != Status.DONE]
        with self.store.open() as connection:
            reasons = self.store.reasons(connection, [cell.spec_digest for cell in bad])
        return [(c.key, str(self.states[c.spec_digest]), reasons.get(c.spec_digest, "")) for c in bad]
