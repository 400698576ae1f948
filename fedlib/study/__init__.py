"""The vocabulary of a chapter's experiment, and what a notebook adds to it."""
