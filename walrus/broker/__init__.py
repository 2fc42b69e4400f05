"""A node's logic: how it handles requests of clients, messages of peers, ticks and finished syncs.

    controller    the switch: hands each input to the components that it concerns
    raft_host     Raft's `Ready`: persist, send, apply; checkpoints and restores
    imaging       a snapshot of the metadata, some topics per turn
    takeover      the snapshot of another node in place of the metadata, some topics per turn
    handshake     authenticates the two ends of a connection between nodes
    membership    hello, join, announce, removal: the members, and their addresses
    placement     where segments go: the first leader, the next one, the replica set
    lifecycle     segments that this node opens, seals or recovers
    failovers     the latest recoveries, and the phase that each has reached: for METRICS
    supervisor    what the Raft leader starts: recoveries, repairs, departures
    retention     which sealed segments are dropped, by a topic's settings
    requests      all other requests of clients than PUT, GET and FETCH
    access        what a client may do: identities, roles, topics
    ordering      requests of one connection take effect in their order
    router        PUTs, on their way to the segment's leader, in order
    consumers     GET and FETCH at the node that has the client
    pending       requests that wait for another node: by number, topic and deadline
    waits         GETs and FETCHes that wait for an entry
    cursors       read positions, at the node that leads the topic
    queues        work queues (RECEIVE, ACK): joins the next four
    receivers     requests to work queues at the node that has the client
    dispatch      their owner, the node that leads the topic: deliveries and acknowledgements
    groups        one group at its owner: entries out, and entries noted as acknowledged
    tenure        whether an owner may serve at the moment
    dead_letters  entries that were handed out too often
    gaps          entries that no replica has any more, and where readers continue after them
    times         the position of a time: the first entry appended then, or later
    read_index    metadata that is as fresh as the request (ReadIndex)
    stopping      what a node settles before an orderly stop
    status        STATE and METRICS
    lag           how far groups are behind, for METRICS
    spec_trace    recorded runs, in the terms of the specification

All of it is logic: it is handed `now`, and returns effects (`wire/effects.py`).
"""
