"""What runs in a peer's own environment: each module is copied there, and imports nothing of this project."""
