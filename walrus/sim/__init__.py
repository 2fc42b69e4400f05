"""The seeded world in which the real state machines run: clock, network, disk, faults.

    world       one clock, one heap of events, and hosts on which the real controllers run
    host        a machine: drive, clock, process, identity
    strikes     what befalls single messages; coverage: what has happened, counted
    network     messages late, lost, repeated, out of order, cut off
    greeting    the handshake of two nodes, with a secret
    drives      what a host keeps its data on; memory: engines of lists; disk: one under the real engine
    faults      what goes wrong, when and for how long
    strays      processes on the peers' port that are none of the cluster's
    clients     producers, consumers, fetchers; pipeliner: one that sends without waiting
    repeaters   producers that number their entries, and send them more often than they must
    keepers     operators that set retention, delete topics and register them again
    retained    what must hold of what they drop
    workers     consumers of a work queue, which acknowledge, die and come back
    deliveries  what they were given and told, by the names of Delivery.tla
    calls       what clients ask for, and what they are told
    durable     what a power loss cannot take, counted from outside
    truth       what disks and nodes hold, seen all at once
    promises    what a node says must be true of its disk
    invariants  what must always hold, by the names of the specs
    judge       looks at the truth after every step; oracle: looks at the end, from outside
    violation   how a run ends that shows an error
    options     what a run is made of; shares: bounds of one turn, so small that a run reaches them
    run         one run; report: a failed one, told
    stage       what scenarios are written with; catalogue: their register
    scenarios   schedules that broke published systems, and rare moments: scenarios_clients, scenarios_copies,
                scenarios_disk, scenarios_failover, scenarios_raft
    trace       runs recorded for TLC; filming: for people; why: what a broken invariant is for
    search      breadth-first search, and the shortest way to what it finds
    explore     every short behaviour of the real Raft class, breadth-first; explore_cli: its command;
                explore_film: what it finds, as a film
    explore_segments  the same of the segment protocol; explore_node: one node of it
    mutants     bugs planted in the code, which the tools must notice

docs/simulator.md says how to use it.
"""
