"""What the engine stands on: batches, records, blocks, logs, cursors, recovery, and five kinds of disk.

    batch       entries are sent and stored in batches
    record      a batch on disk, whole or not there
    block       a range of a data file, and the life of one
    log         one topic: records in blocks, appended, read, cut, trimmed
    engine      all topics of a directory, and their notes
    journal     the notes: which topic owns which block, cursors, trims
    recovery    what a directory holds after a crash
    scan        one walk over the records of a block, one verdict
    reading     many records at once, verified
    cursors     how far a consumer of one process has read
    handout     what consumers have in hand: receive and acknowledge
    bell        wakes threads that wait for an entry
    syncing     syncs that many appends share (group commit)
    mutex       a mutex that is cheap when uncontended and fair when contended
    forking     a forked copy of an engine refuses every call
    interrupts  exceptions from outside: what continues, what fails, and how locks are released
    schedule    when an append is durable
    space       data files, and free ranges in them
    processes   which process holds a directory
    backend     what a disk must do; posix, mapped and uring do it, and the simulated one
    looking     a read-only view of a disk: writes stay in the process
    io_uring    the kernel's interface, from system calls up
    errors      what the engine raises
    port        what the logic needs from an engine

`walrus/wal.py` is the front door; docs/wal-format.md has the bytes.
"""
