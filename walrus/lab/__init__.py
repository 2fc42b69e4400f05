"""Labs: a part of Walrus is taken out, a student builds it again, and the project's tools say how it went.

    units      the labs as data (`units/NN-name.toml`): what is taken out, text, hints, checks, mistakes
    holes      functions of Python and definitions of TLA+: found, taken out, put back, compared
    workshop   a working copy: the repository with holes
    grading    runs the checks of a lab in order, and explains a failing one
    origin     leads from inside a copy back to the repository that it was made from
    hunts      one wrong line from the registry of planted bugs, unnamed, and to be found

A lab is cut out of the sources, so it cannot fall behind them: a unit names functions, never lines. Its
checks are the tools that the project itself relies on: transcripts, unit tests, Hypothesis, the simulator,
the exploration, TLC. `python -m walrus.lab` is the command, and `tests/lab` holds every unit to three
promises: an empty copy fails, typical wrong answers fail for the right reason, and the reference passes.
"""
