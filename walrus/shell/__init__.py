"""Sockets, clocks and files: the thin I/O around the logic.

`walrus/node.py` is the front door; its chapter lists the modules of this package.
"""
