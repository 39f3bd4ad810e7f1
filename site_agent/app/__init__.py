"""The agent's use cases over the ports of `ports.py`: no gRPC, no torch, no text of a note."""
