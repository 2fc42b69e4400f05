"""Bytes and values: frames, requests, replies, errors, messages between nodes, effects of the logic.

    framing    a stream of bytes cut into frames
    addresses  HOST:PORT, with names, IPv4 and IPv6
    requests   requests of clients, bytes <-> values
    runs       many requests of one kind parsed at once: why a producer is fast
    receipts   the name of one delivery to a consumer group
    replies    answers to clients, values <-> bytes
    errors     every line that begins with ERR: its text, its class, whether the entry was written
    peer       messages between nodes <-> frames
    messages   the messages between nodes, as values
    effects    what the logic asks the shell to do

`walrus/protocol.py` is the front door of the client protocol, and docs/protocol.md its reference.
"""
