"""The console: one process beside a cluster that shows it, to a browser and to a monitoring system.

    main          `python -m walrus.console`: flags, the process
    history       what happened lately, out of one look after the other: rates, percentiles, events
    failovers     the last failovers, phase by phase, from what each node has seen of them
    watch         asks all members every second
    exposition    the figures in the text format of Prometheus
    server        HTTP: the page, its events, metrics, health, actions
    actions       kill -9, pause, continue, start, leave: of a cluster on this machine
    topics        look into a topic, publish, seek, register, configure
    stream        messages that stream through a cluster while it is played with, and what became of each
    recording     what its nodes did lately, from their traces
    play          the three above together, and the last half minute as a film

It is a client like any other: it speaks the client protocol, and no node knows of it. `server` and
`exposition` need libraries that nothing else here needs (extra `[console]`).
"""
