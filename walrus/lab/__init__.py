"""Labs: a part of Walrus is taken out, a student builds it again, and the project's tools say how it went.

    units      the labs as data (`units/NN-name.toml`): what is taken out, text, hints, checks, known mistakes
    holes      functions of Python and definitions of TLA+: found, taken out, put back, compared
    workshop   a working copy: the repository with holes
    grading    the checks of a lab, one after the other, and what a failing one says
    origin     from inside a copy back to the repository that it was cut out of
    hunts      one wrong line of the registry of planted bugs, unnamed, and to be found

A lab is cut out of the sources, so it cannot fall behind them: a unit names functions, never lines. Its
checks are the commands that the project trusts itself: transcripts, unit tests, Hypothesis, the simulator,
the exploration, TLC. `python -m walrus.lab` is the way in, and `tests/lab` holds every unit to three
promises: an empty copy fails, typical wrong answers fail for the right reason, and the reference passes.
"""
