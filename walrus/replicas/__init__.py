"""Copies of segments: written, replicated, fenced, recovered, repaired and read.

    durability    which writes are on the disk, as a number, and what waits for them
    copies        the copies on this node, and the few rules that keep all copies of a segment comparable
    producers     exactly-once appends: the sequence numbers that the writer has appended for each producer
    latency       how long appends take until they are durable, and until they are acknowledged
    replication   the writer and its replicas: append, report, acknowledge at a majority
    replica       the replica's half of replication, and the fence
    failover      a segment whose leader is gone: fence a majority, copy the longest, seal
    puller        copying from another node, for a recovery or a repair
    repair        new replicas for sealed segments that have lost some
    reads         reading a copy, here or on another node
    trimming      reclaiming the space of dropped segments

One PUT of two entries to a topic whose open segment 4 has replicas 1, 2 and 3, led by 1, with 40 entries:

    replication   node 1    Forward arrives, and is appended as entries 40 and 41       LeaderAppend
                            Append(start=40, end=42) to 2 and 3
    durability    node 1    synced: node 1 holds 42                                     Report
    replica       node 2    takes the frame, synced, AppendReply(length=42)             ReplicaAppend, Report
    replication   node 1    42 on two of three: commit_index=42, ForwardReply(acked=2)  Ack
    replica       node 3    the same, later; the acknowledgement did not wait for it

Node 1 dies, and node 2 is asked to recover the segment:

    failover      node 2    Fence to 1, 2 and 3                                         StartRecovery
    replica       2 and 3   note it, durably: FenceReply(length=42)                     Fence
    failover      node 2    42 is the longest, and a majority holds it: found           Recover, RecoverySeal
                            Raft applies Seal(segment=4, count=42): segment 5 is open elsewhere

Node 1 stays away, and after a while counts as dead:

    repair        leader    (of Raft) Copy(upto=42) to node 4, a spare one              ProposeReplicas
    puller        node 4    Read from 2, or from 3, until it has 42 entries             Repair, Prove
    repair        leader    node 4 and a majority have shown them: SetReplicas          SetReplicas

Everything rests on two rules. The entries of a segment originate in one process, its writer (SingleWriter),
so its copies are prefixes of one sequence and can be compared by length. And every acknowledgement, fence,
seal and repair is decided by a majority of the replicas, any two of which share a node.

The rules come from `spec/Walrus.tla`; docs/spec-map.md says which action is which function.
"""
