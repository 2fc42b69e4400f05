"""The command lines of `walrus-cli` and `python -m walrus.wal`, and what all command lines share."""
