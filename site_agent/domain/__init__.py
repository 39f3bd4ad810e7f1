"""The agent's decisions as pure functions over values: no I/O, no clock, no concurrency, no logging."""
