"""`python -m server` is `orch8-cloud`."""

from server.cli import main

main()
