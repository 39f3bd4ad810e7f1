"""Prints what the distribution and some of its extras depend on, so that an image gets a layer of these alone.

usage: python3 requirements.py EXTRA... < pyproject.toml
"""

import sys
import tomllib

project = tomllib.load(sys.stdin.buffer)["project"]
extras = (project["optional-dependencies"][extra] for extra in sys.argv[1:])
sys.stdout.writelines(f"{requirement}\n" for group in (project["dependencies"], *extras) for requirement in group)
