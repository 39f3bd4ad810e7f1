"""Attacks on a real coordinator over real sockets. After each one: the right refusal, no leak, honest sites unhurt."""
