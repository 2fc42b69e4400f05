"""The command lines of `walrus-cli` and `python -m walrus.wal`, and what all of them share.

The commands of `walrus-cli` are clients of a cluster; `python -m walrus.wal` reads the files of an engine.

    main           `python -m walrus.cli`: arguments, exit statuses
    commands       each command, for the shell and for the REPL
    queues         work queues: take, acknowledge, consume
    producing      lines into a topic, each once; following a topic; lists of topics and groups
    repl           the REPL: completion, pasted blocks
    backup         topics into a directory while the cluster runs, and back into another cluster
    status         the health of the cluster, with exit statuses for scripts
    view           STATE and METRICS as tables
    wal            `python -m walrus.wal`: examine an engine's directory
    command_line   what all commands share: errors, exit statuses, console, credentials
    interrupts     Ctrl-C before the rest has loaded
"""
