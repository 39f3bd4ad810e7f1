"""``python -m site_agent``: the same as the command ``fedmed-site``."""

from site_agent.cli import main

main()
