"""In: a command line. Out: what is printed, and an exit code. The only room that prints or exits.

Exit codes: 0 all is well; 1 a cell did not end as done; 2 the input is wrong (one message, no traceback).
"""

from __future__ import annotations

import os
import sys

from harness.cli.options import app
from harness.errors import TunebenchError, UserError

__all__ = ["app", "complain", "main"]

# Each adds its commands to the application, in the order in which --help lists them.
# isort: off
from harness.cli import run  # noqa: F401
from harness.cli import tune  # noqa: F401
from harness.cli import listings  # noqa: F401
from harness.cli import results  # noqa: F401
from harness.cli import compare  # noqa: F401
from harness.cli import recommend  # noqa: F401
from harness.cli import doctor  # noqa: F401


def main() -> None:
    """The entry point: errors that the user can mend become one message and exit code 2."""
    try:
        app()
    except TunebenchError as error:
        sys.exit(complain(error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def complain(error: TunebenchError) -> int:
    print(f"error: {error}" if "\n" not in str(error) else f"errors:\n{error}", file=sys.stderr)
    return 2 if isinstance(error, UserError) else 1
