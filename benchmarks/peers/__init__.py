"""The same rounds on this project, Flower and NVIDIA FLARE, side by side: ``python -m benchmarks.peers``."""
