"""Faults that training survives: each is provoked and the result measured."""
