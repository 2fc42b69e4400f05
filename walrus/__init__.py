"""Walrus: a distributed message log in pure Python, written to be read."""

__version__ = "0.1.0"
