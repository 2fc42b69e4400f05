"""What a node does with what arrives: the switch, routing, reading, the life of segments, supervision."""
