"""What `walrus.raft` stands on: vocabulary, log, elections, leadership, and the journal on the disk."""
