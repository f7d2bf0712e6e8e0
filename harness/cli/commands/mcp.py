"""`tunebench mcp`: tunebench as tools of an assistant."""

from __future__ import annotations

from harness.cli.options import Results, command, project, quiet_libraries, results


@command("Run", "let an assistant plan, run and read results (MCP)")
def mcp(folder: Results = None) -> None:
    """Serve tunebench to an assistant over stdin and stdout by the Model Context Protocol: it can list suites, plan,
    start a run, follow it, and read verdicts and recommendations, as a user of the command line can, and nothing more.

    Example: tunebench mcp
    """
    from harness.cli.assistant import make_server

    quiet_libraries()
    make_server(results(folder, project()).folder).run("stdio")
