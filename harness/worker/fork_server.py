"""Imported first by the fork server, and by nothing else: makes it end with the command that started it.

Python's own fork server ends when the last process that it forked has closed a pipe; one that is stopped never does.
"""

import sys

from harness.worker.process import die_with_parent

if any("multiprocessing.forkserver" in argument for argument in sys.orig_argv):
    die_with_parent()
