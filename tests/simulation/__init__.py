"""A federation in one process over a simulated network, disk, clock and threads, all driven by one seed.

The domain, the use cases, the adapters of storage and of gRPC are the real ones, on both sides; simulated is what they
stand on: the event loop (`loop`), the file system (`disk`, `system_calls`), gRPC's transport (`network`), the machines
that die (`machines`). `plan` draws the faults from the seed; `federation` plays them and checks what comes of it.
"""
