"""What the engine stands on: batches, records, blocks, logs, cursors, recovery, and five kinds of disk.

    batch       entries travel and rest in batches
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
    bell        what threads that wait for an entry are woken by
    syncing     syncs that many appends share (group commit)
    mutex       a mutex that is cheap when uncontended and fair when contended
    forking     a handle that outlives its process refuses
    interrupts  exceptions from outside: what goes on, what fails, and that locks are given back
    schedule    when an append is durable
    space       data files, and free ranges in them
    processes   which process holds a directory
    backend     what a disk must do; posix, mapped and uring do it, and the simulated one
    looking     a disk that is only looked at: what is written stays in the process
    io_uring    the kernel's interface, from system calls up
    errors      what the engine raises
    port        what the logic needs of an engine

`walrus/wal.py` is the front door; docs/wal-format.md has the bytes.
"""
