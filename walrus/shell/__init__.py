"""Sockets, clocks and files: the thin I/O around the logic."""
