"""An assistant can do what a user of the command line can, and nothing more."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from harness.cli import assistant
from harness.cli.assistant import make_server, words
from harness.errors import UserError


def ask(results: Path, tool: str, **arguments: str) -> Any:
    """What a client is answered by a tool of the server, in this process."""
    from mcp import Client

    async def asked() -> Any:
        async with Client(make_server(results)) as client:
            return await client.call_tool(tool, arguments)

    return asyncio.run(asked())


def test_the_tools_are_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mcp import Client

    lines: list[list[str]] = []

    async def called(line: list[str]) -> Any:
        lines.append(line)
        return {"ok": True}

    monkeypatch.setattr(assistant, "called", called)

    async def names() -> set[str]:
        async with Client(make_server(tmp_path)) as client:
            return {tool.name for tool in (await client.list_tools()).tools}

    assert asyncio.run(names()) == {"list_suites", "plan", "run", "status", "verdict", "recommend"}
    answer = ask(tmp_path, "recommend", suite="quickstart", memory="16GiB")
    assert json.loads(answer.content[0].text) == {"ok": True}
    ask(tmp_path, "verdict", a="lora", b="full")
    ask(tmp_path, "status")
    assert lines == [["recommend", "quickstart", "--memory", "16GiB"], ["compare", "lora", "full"], ["status"]]


def test_no_option_can_be_slipped_in(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="begins with '-'"):
        words("run", "--trust=evil.yaml")
    with pytest.raises(UserError, match="begins with '-'"):
        words("recommend", "quickstart", memory="-x")
    assert ask(tmp_path, "plan", suite="--results=/etc").is_error


def test_a_run_goes_on_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[list[str]] = []
    monkeypatch.setattr(assistant, "started", lambda line, log: lines.append(line) or 42)
    told = json.loads(ask(tmp_path, "run", suite="quickstart").content[0].text)
    assert lines == [["run", "quickstart", "--no-answer"]]
    assert (told["pid"], told["log"]) == (42, str(tmp_path / "runs" / "assistant.log"))


@pytest.mark.process
def test_what_a_command_prints_and_how_it_fails_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    suites = json.loads(ask(tmp_path, "list_suites").content[0].text)
    assert "quickstart" in {row["name"] for row in suites}
    failed = ask(tmp_path, "plan", suite="quickstrat")
    assert failed.is_error
    assert "quickstart" in failed.content[0].text
