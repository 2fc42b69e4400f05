"""Running TLC over `spec/`: configurations, planted bugs, and recorded traces held against the specs.

    main          `python -m walrus.tlc`
    configs       the configurations in spec/, and variations of them
    run           TLC as a subprocess, and what it says; java: that ends with us; startup: its classes in
                  a file, for the next JVM
    values        TLA+ values as TLC prints them; filming: a counterexample as a film
    mutants       changed specs, which TLC must refuse: bugs planted by hand, and probes
    planted       what a planted bug and a probe are; planted_walrus, planted_raft,
                  planted_delivery, planted_publish, planted_retention, planted_order: those of each spec
    variants      many variants of a spec, judged in one search
    patches       changing a spec's text, by hand or by rule: a mutant for each guard of each action
    differences   which of those make a difference at all, asked in one search
    verdicts      what becomes of each mutant that was made by rule
    traces        recorded runs held against the specs
    trace_spec    what a recorded run and a spec need of each other
    trace_walrus  runs of the data plane; trace_raft: runs of Raft; trace_delivery: of work queues;
                  trace_retention: of topics that were trimmed or deleted; trace_publish: of
                  numbered entries
    corrupting    recorded runs are searched and changed
    referee       a second judge of recorded runs, and corruptions: what both must refuse;
                  corruptions_raft, corruptions_delivery, corruptions_retention, corruptions_publish: what
                  RaftTrace.tla, DeliveryTrace.tla, RetentionTrace.tla and PublishTrace.tla must refuse
    replay        the other way: behaviours of Raft.tla and Walrus.tla, performed on the code
    replay_raft   how those of Raft.tla are, with replay_steps; replay_film: a difference as a page
    replay_segments   those of Walrus.tla, with replay_segment_steps; replay_segment_nodes: on what;
                  replay_segment_checks: what is compared, and what is tried

docs/model-checking.md says how to use it.
"""
