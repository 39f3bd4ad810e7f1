"""The hospital's side: an agent that holds keys and network, and its child, the trainer, that holds notes and GPU."""
