"""The seeded world in which the real state machines run: clock, network, disk, faults."""
