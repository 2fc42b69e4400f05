"""The seeded world in which the real state machines run: clock, network, disk, faults.

    world       one clock, one heap of events, and hosts on which the real controllers run
    host        a machine: drive, clock, process, identity
    strikes     faults aimed at single messages; coverage: counts of what has happened
    network     links that delay, lose, duplicate, reorder and cut off messages
    greeting    the handshake of two nodes that share a secret
    drives      a host's storage; memory: engines of lists; disk: a simulated disk under the real engine
    faults      what goes wrong, when and for how long
    strays      processes that are not members of the cluster and call the peers' port
    clients     producers, consumers, fetchers; pipeliner: a client that sends without waiting
    repeaters   producers that number their entries, and send them more often than necessary
    keepers     operators that set retention, delete topics and register them again
    retained    what must hold of the entries that they drop
    workers     consumers of a work queue, which acknowledge, die and come back
    deliveries  what workers were given and told, by the names of Delivery.tla
    calls       what clients ask for, and what they are told
    durable     what a power loss cannot take, counted from outside the node
    truth       what disks and nodes hold, seen all at once
    promises    statements of a node that must be true of its disk
    invariants  what must always hold, by the names of the specs
    judge       checks the truth after every step; oracle: judges the end of a run from outside
    violation   the exception that ends a run which shows an error
    options     the options of a run; shares: bounds of one turn, small enough for a run to reach them
    run         one run; report: how a failed run is shown
    stage       the helpers that scenarios are written with; catalogue: their register
    scenarios   schedules that broke published systems, and rare moments: scenarios_clients, scenarios_copies,
                scenarios_disk, scenarios_failover, scenarios_raft
    trace       runs recorded for TLC; filming: for people; why: what a broken invariant protects
    search      breadth-first search, and a shortest path to what it finds
    explore     every short behaviour of the real Raft class, breadth-first; explore_cli: its command;
                explore_film: what it finds, as a film
    explore_segments  the same for the segment protocol; explore_node: one node of it
    mutants     bugs planted in the code, which the tools must notice

docs/simulator.md says how to use it.
"""
