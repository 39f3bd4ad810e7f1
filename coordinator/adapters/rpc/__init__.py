"""gRPC: thin servicers over the use cases, one table of who may call what, one module of translation."""
