"""A page for people about a run, in one file that needs no network."""
