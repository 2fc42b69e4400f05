"""The way out, and in: a topic copied into NATS JetStream, or a stream into a topic, each message once.

    outbound      what to publish next, and what the stream's answers mean
    inbound       which number of a producer a message of the stream gets
    jetstream     the few things that are asked of NATS
    main          `python -m walrus.mirror`: flags, the two loops

Both directions find their place in what the target itself holds, so a mirror that dies is simply started
again, anywhere. `jetstream` needs a library that nothing else here needs (extra `[mirror]`).
"""
