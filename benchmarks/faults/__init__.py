"""Faults that training survives, provoked and measured."""
