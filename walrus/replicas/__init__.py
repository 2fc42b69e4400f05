"""Copies of segments: written, replicated, fenced, recovered, repaired and read.

    durability    which writes are on the disk, as a number, and what waits for them
    copies        the copies on this node, and the few rules that keep all copies of a segment comparable
    replication   the writer and its replicas: append, report, acknowledge at a majority
    replica       the replica's half of it, and the fence
    failover      a segment whose leader is gone: fence a majority, copy the longest, seal
    puller        copying from another node, for a recovery or a repair
    repair        sealed segments get the replicas back that they lost
    reads         reading a copy, here or on another node

The rules come from `spec/Walrus.tla`; docs/spec-map.md says which action is which function.
"""
