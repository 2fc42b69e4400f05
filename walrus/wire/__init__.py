"""Bytes and values: frames, requests, replies, the messages between nodes, and the effects of the logic."""
