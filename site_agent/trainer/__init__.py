"""The agent's child process, with notes and the GPU: reads an order, writes results. No network, no keys."""
