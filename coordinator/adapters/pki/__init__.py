"""The consortium's certificates: a CA in a folder, and what it issues. Talks to nobody."""
