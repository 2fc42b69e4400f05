"""Mirrors: copy a topic into NATS or Kafka, or a stream of theirs into a topic, each message once.

    outbound      what to publish next, and what the stream's answers mean
    inbound       which number of a producer a message of the stream gets
    jetstream     the few requests that the mirror makes of NATS; kafka: the same of Kafka
    main          `python -m walrus.mirror`: flags, the two loops

Both directions find their position in the data of the target, so a mirror that died can simply be started
again, on any machine. `jetstream` and `kafka` need libraries that no other package needs (extra `[mirror]`).
"""
