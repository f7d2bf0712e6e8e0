"""`python -m harness.cli` is `tunebench`."""

from harness.cli import main

main()
