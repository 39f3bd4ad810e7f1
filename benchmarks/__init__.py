"""Measured claims: each module is one script that prints its figures and takes ``--json FILE``."""
