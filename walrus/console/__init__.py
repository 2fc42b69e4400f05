"""The console: one process beside a cluster that shows it, to a browser and to a monitoring system.

    main          `python -m walrus.console`: flags, the process
    history       what happened lately, derived from successive looks: rates, percentiles, events
    failovers     the last failovers, phase by phase, from what each node reports of them
    watch         asks all members every second
    exposition    the figures in the text format of Prometheus
    server        HTTP: the page, its events, metrics, health, actions
    actions       kill -9, pause, resume, start, leave, for nodes of a cluster on this machine
    topics        look into a topic, publish, seek, register, configure
    stream        messages that stream through a cluster in play mode, and what became of each
    recording     what the nodes did lately, from their traces
    play          actions, stream and recording together, and the last half minute as a film

The console is a client like any other: it speaks the client protocol, and no node depends on it. `server`
and `exposition` need libraries that no other package needs (extra `[console]`).
"""
