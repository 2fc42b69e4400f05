"""Running TLC over `spec/`: configurations, planted bugs, and recorded traces held against the specs.

    main          `python -m walrus.tlc`
    configs       the configurations in spec/, and variations of them
    run           TLC as a subprocess, and its output; java: a subprocess that ends with its parent;
                  startup: TLC's classes in a file, for the next JVM
    values        TLA+ values as TLC prints them; filming: a counterexample as a film
    mutants       changed specs, which TLC must refuse: bugs planted by hand, and probes
    planted       what a planted bug and a probe are; planted_walrus, planted_readers (of Walrus.tla,
                  too), planted_raft, planted_delivery, planted_publish, planted_retention,
                  planted_order: those of each spec
    variants      many variants of a spec, judged in one search
    patches       changes of a spec's text, by hand or by rule: a mutant for each guard of each action
    differences   which of those make a difference at all, decided in one search
    verdicts      the verdict on each mutant made by rule
    traces        recorded runs checked against the specs
    trace_spec    how a recorded run becomes input for a spec
    trace_walrus  runs of the data plane; trace_raft: runs of Raft; trace_delivery: of work queues;
                  trace_retention: of topics that were trimmed or deleted; trace_publish: of
                  numbered entries
    corrupting    how recorded runs are searched and changed
    corruptions   changes of recorded runs that WalrusTrace.tla must refuse; referee: a second judge of
                  them; corruptions_raft, corruptions_delivery, corruptions_retention,
                  corruptions_publish: changes that the other trace specs must refuse
    replay        the other direction: behaviours of Raft.tla and Walrus.tla, performed on the code
    replay_raft   performs those of Raft.tla, with replay_steps; replay_film: a difference as a page
    replay_segments   performs those of Walrus.tla, with replay_segment_steps; replay_segment_nodes: the
                  nodes; replay_segment_checks: what is compared, and what is tried

docs/model-checking.md says how to use it; docs/traces.md has the format of recorded runs.
"""
