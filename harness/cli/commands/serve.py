"""`tunebench serve`: a run and its reports in the browser."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.cli.display import say
from harness.cli.options import Results, command, project, quiet_libraries, results, suite_name
from harness.errors import UserError


@command("Look", "a live run and the reports, in the browser")
def serve(
    suite: Annotated[str | None, typer.Argument(help="a suite; without one, whatever ran last")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="the port (0: any that is free)")] = 8765,
    folder: Results = None,
) -> None:
    """Show a run as it goes (cells, losses, scores, time left, the answer as it stands) and the reports in the browser.

    It serves this machine alone (127.0.0.1), under an address with a token, and only reads. Ctrl-C ends it; the run
    goes on.

    Example: tunebench serve
    """
    from harness.cli.serving import REMEDY, make_app, new_token

    try:
        import uvicorn
    except ImportError:
        raise UserError(f"serve needs the package uvicorn. {REMEDY}") from None
    quiet_libraries()
    catalog = project()
    store = results(folder, catalog)
    token = new_token()
    app = make_app(store, catalog.root / "reports", token, suite_name(suite) if suite else None)
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", access_log=False)
    socket = config.bind_socket()
    say(f"http://127.0.0.1:{socket.getsockname()[1]}/{token}/  (Ctrl-C ends it; a run goes on)")
    uvicorn.Server(config).run(sockets=[socket])
