"""A whole federation on one machine, for anyone who wants to see it run: what ``make demo`` does."""
