"""The command lines of `walrus-cli` and `python -m walrus.wal`, and what all of them share.

main           `python -m walrus.cli`: arguments, exit statuses
commands       each command, for the shell and for the REPL
queues         work queues: take, acknowledge, consume
producing      lines into a topic, each once; a topic, followed; what topics and groups there are
repl           the REPL: completion, pasted blocks
backup         topics into a directory while the cluster runs, and back into another one
status         how the cluster is, with exit statuses for scripts
view           STATE and METRICS as tables
wal            `python -m walrus.wal`: look into an engine's directory
command_line   one argument parser, one console, one way to end
interrupts     Ctrl-C before the rest has loaded
"""
