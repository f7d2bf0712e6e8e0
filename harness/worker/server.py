"""Starts cells in this Python for a command that runs in another one: imports the heavy libraries once, and forks for
each cell (`python -m harness.worker.server PID`, with the command's pid).

Python's own fork server starts the command's own Python alone. Requests and answers are lines of JSON over pipes, one
request at a time. The server dies with the command, and its cells with the server.
"""

from __future__ import annotations

import json
import os
import select
import sys
import traceback
from contextlib import suppress
from typing import IO, Any

from harness.worker.process import die_with_parent, main

TICK_SECONDS = 0.05


def serve(parent: int, requests: IO[str], answers: IO[str]) -> None:
    """Import what cells need, then fork a process for each request, and report how each one ends, until the pipe of
    requests is closed. `parent` is the pid of the command."""
    import harness.worker.preload  # noqa: F401

    def answer(**values: Any) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    numbers: dict[int, int] = {}
    answer(ready=True)
    while True:
        for pid in list(numbers):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                answer(number=numbers.pop(pid), code=os.waitstatus_to_exitcode(status))
        if not select.select([requests], [], [], TICK_SECONDS)[0]:
            continue
        line = requests.readline()
        if not line:
            return
        request = json.loads(line)
        pid = os.fork()
        if not pid:
            run_cell(request, parent)
        numbers[pid] = request["number"]
        answer(number=request["number"], pid=pid)


def run_cell(request: dict[str, Any], parent: int) -> None:
    """Run a request's cell in this forked process, and end it."""
    code = 1
    try:
        main(request["folder"], parent, request["variables"], request["device"])
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    die_with_parent()
    kept = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print must not be taken for an answer
    # Read unbuffered: a line that waits in a buffer would not be seen by select.
    serve(int(sys.argv[1]), os.fdopen(os.dup(0), "r", buffering=1), kept)
