"""What touches the world for the agent: gRPC, files, the child process, metrics. It decides nothing."""
