"""The coordinator's use cases, over ports: what moves runs, takes updates in and publishes adapters."""
