"""The tasks: notes to examples, examples to prompts, answers to entities and relations to scores. Imports no torch."""
