"""Lets an assistant use tunebench through the Model Context Protocol: the commands of the command line, with its
limits.

Each tool runs a command in a process of its own, with `--json`, and gives what it prints: so an assistant can do what a
user of the shell can, and nothing more. It can neither trust a task's code nor remove anything; a run that it starts
goes on by itself, and is stopped as any other."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UserError

if TYPE_CHECKING:
    from mcp.server import MCPServer

CALL_SECONDS = 300.0
REMEDY = "Run: pip install 'tunebench[mcp]'"
INSTRUCTIONS = (
    "tunebench compares ways of adapting language models. List suites, plan one to see what it takes, start a run, "
    "follow it by status, then read the recommendation and verdicts. Say with every score its interval, and which "
    "differences are not established."
)


def words(command: str, *arguments: str, **options: str | int | float | None) -> list[str]:
    """Returns the words of a command line. Raises UserError for an argument or a value that would be read as an
    option."""
    given = [*arguments, *(str(value) for value in options.values() if value not in (None, ""))]
    for text in given:
        if text.startswith("-"):
            raise UserError(f"{text!r} begins with '-', and no name does.")
    found = [command, *arguments]
    for name, value in options.items():
        if value not in (None, ""):
            found += [f"--{name.replace('_', '-')}", str(value)]
    return found


async def called(line: list[str]) -> Any:
    """Returns what a command prints as JSON. Raises UserError with its message where it ends with an error, or takes
    longer than `CALL_SECONDS`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "harness.cli", *line, "--json",
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        out, err = await asyncio.wait_for(process.communicate(), CALL_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise UserError(f"tunebench {line[0]} took longer than {CALL_SECONDS:.0f} seconds") from None
    if process.returncode not in (0, 3, 4):  # 3 and 4 are verdicts
        raise UserError(err.decode("utf-8", "replace").strip() or out.decode("utf-8", "replace").strip())
    return json.loads(out)


def started(line: list[str], log: Path) -> int:
    """Starts a command that goes on by itself, its output in the file `log`; returns its process's number."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "harness.cli", *line], stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            start_new_session=True, env=dict(os.environ),
        )  # fmt: skip
    return process.pid


def make_server(results: Path) -> MCPServer[Any]:
    """Returns the server with its tools; `results` is the results folder, where the output of runs goes. Raises
    UserError where the package mcp is not installed."""
    try:
        from mcp.server import MCPServer
        from mcp.server.mcpserver.exceptions import ToolError
    except ImportError:
        raise UserError(f"mcp needs the package mcp. {REMEDY}") from None
    server: MCPServer[Any] = MCPServer("tunebench", instructions=INSTRUCTIONS, log_level="ERROR")

    async def told(command: str, *arguments: str, **options: str) -> str:
        try:
            return json.dumps(await called(words(command, *arguments, **options)))
        except UserError as error:  # the only kind of error whose message a client is given
            raise ToolError(str(error)) from None

    @server.tool(structured_output=False)
    async def list_suites() -> str:
        """List the suites that can be run, with the question of each."""
        return await told("suites")

    @server.tool(structured_output=False)
    async def plan(suite: str) -> str:
        """Say what a suite would run: each cell with its state, seconds and memory, and which differences its test
        items can show."""
        return await told("plan", suite)

    @server.tool(structured_output=False)
    async def run(suite: str) -> str:
        """Start what a suite still lacks; it goes on by itself, and may take hours (see plan). Follow it by status."""
        log = results / "runs" / "assistant.log"
        try:
            pid = started([*words("run", suite), "--no-answer"], log)
        except UserError as error:
            raise ToolError(str(error)) from None
        return json.dumps({"pid": pid, "log": str(log), "next": "status"})

    @server.tool(structured_output=False)
    async def status(suite: str = "") -> str:
        """Say how the newest run stands: cells by state, those that run and how far they are, what ended otherwise."""
        return await told("status", *([suite] if suite else []))

    @server.tool(structured_output=False)
    async def verdict(a: str, b: str, suite: str = "") -> str:
        """Say whether label a is better than label b, item by item and over seeds, with intervals, or what it would
        take to know."""
        return await told("compare", a, b, suite=suite)

    @server.tool(structured_output=False)
    async def recommend(suite: str, memory: str = "", latency: str = "", budget: str = "") -> str:
        """Say which method of a suite to use within limits (memory 16GiB, latency 50ms, budget 5USD), and how sure."""
        return await told("recommend", suite, memory=memory, latency=latency, budget=budget)

    return server
