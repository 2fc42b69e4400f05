"""The way out, and in: a topic copied into NATS or Kafka, or a stream of theirs into a topic, each once.

    outbound      what to publish next, and what the stream's answers mean
    inbound       which number of a producer a message of the stream gets
    jetstream     the few things that are asked of NATS; kafka: the same of Kafka
    main          `python -m walrus.mirror`: flags, the two loops

Both directions find their place in what the target itself holds, so a mirror that dies is simply started
again, anywhere. `jetstream` and `kafka` need libraries that nothing else here needs (extra `[mirror]`).
"""
