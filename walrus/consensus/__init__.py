"""What Raft stands on: the log, elections, leading, following, and the journal on disk.

    messages     the vocabulary: entries, the paper's RPCs, `Ready`
    log          entries behind a snapshot
    conflicts    where a follower's log departs from the leader's: the hint, and how the leader uses it
    election     timers, votes and pre-votes
    follower     the follower's half of replication
    leader       what exists only while a server leads: rounds, the commit index
    progress     one follower as the leader sees it: probing, pipelining, snapshots
    outbox       which message waits for which sync
    snapshot     a snapshot assembled from its chunks
    validation   messages that no honest server can have sent
    journal      term, vote, log and snapshot on disk

`walrus/raft.py` is the front door, with the protocol; docs/raft.md has the glossary.
"""
