"""Copies of segments: written, replicated, fenced, recovered, repaired and read."""
