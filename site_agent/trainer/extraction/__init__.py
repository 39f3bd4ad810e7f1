"""The task: notes to examples, examples to prompts, answers to entities, entities to scores. Imports no torch."""
