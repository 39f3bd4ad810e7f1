"""The consortium's central service: schedules rounds, combines LoRA updates, publishes adapters. Runs no model."""
