"""A baseline of the lab: a small BERT that labels words, all of its parameters trained, at one site or federated."""
