"""From the formats in which annotated texts are published or exported to passages of the project's schema."""
