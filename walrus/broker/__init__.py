"""What a node does with what arrives: requests of clients, messages of peers, ticks, finished syncs.

    controller    the switch: everything that arrives goes to the one that it concerns
    raft_host     Raft's `Ready`: persist, send, apply; checkpoints and restores
    imaging       a snapshot of the metadata, some topics a turn
    handshake     who is at the other end of a peers' connection, and may it go on
    membership    hello, join, announce, removal: the members, and their addresses
    placement     where segments go: the first leader, the next one, the replica set
    lifecycle     segments that this node opens, seals or recovers
    failovers     the last recoveries, and how far each has come: for METRICS
    supervisor    what the Raft leader starts: recoveries, repairs, departures
    retention     which sealed segments are dropped, by a topic's settings
    requests      requests of clients that are no PUT, GET or FETCH
    access        what a client may do: identities, roles, topics
    ordering      requests of one connection take effect in their order
    router        PUTs, on their way to the segment's leader, in order
    consumers     GET and FETCH at the node that has the client
    pending       requests that wait for another node: by number, topic and deadline
    waits         GETs and FETCHes that wait for an entry
    cursors       read positions, at the node that leads the topic
    queues        work queues (RECEIVE, ACK): joins the next four
    receivers     their requests at the node that has the client
    dispatch      their owner, the node that leads the topic: who gets what, what is acknowledged
    dead_letters  entries that were handed out too often
    groups        one group there: what is out, and what is noted
    tenure        whether an owner may serve at the moment
    gaps          entries that are on no replica any more, and where readers go on behind them
    times         the place of a time: the first entry that was appended then, or later
    read_index    metadata that is as fresh as the request (ReadIndex)
    stopping      what an orderly stop settles before the node goes
    status        STATE and METRICS
    lag           how far groups are behind, for METRICS
    spec_trace    what happened, in the words of the specification

All of it is logic: it is handed `now`, and returns effects (`wire/effects.py`).
"""
