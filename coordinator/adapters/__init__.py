"""The coordinator's adapters: gRPC, storage, PKI, metrics, health. Each implements a port, or calls a use case."""
