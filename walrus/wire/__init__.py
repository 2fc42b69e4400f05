"""Bytes and values: frames, requests, replies, errors, messages between nodes, effects of the logic.

    framing    a stream of bytes cut into frames
    addresses  HOST:PORT, with names, IPv4 and IPv6
    requests   what a client may ask
    runs       many equal requests taken at once: why a producer is fast
    receipts   the name of one delivery to a consumer group
    replies    what a node answers
    errors     every line that begins with ERR: its text, its class, whether the entry was written
    peer       messages between nodes as frames
    messages   those messages
    effects    what the logic asks the shell to do

`walrus/protocol.py` is the front door of all that concerns clients.
"""
