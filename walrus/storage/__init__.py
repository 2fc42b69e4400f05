"""What the engine stands on: batches, records, blocks, write backends, cursors."""
