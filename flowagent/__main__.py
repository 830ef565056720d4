"""`python -m flowagent`."""

from flowagent.cli import main

main()
