"""Seeing a run: a recorded run as data, and as a page for a browser, a picture, or lines for a terminal.

    film      the format of a recorded run, its causal past, its states, a window of it
    html      one page that needs nothing else (`page/`: its markup, style and script)
    svg       a standing picture, for the documentation
    lanes     the same in a terminal
    recorded  films of what real nodes recorded with `--trace`
    transcripts  films of the transcripts that tests play
    links     where to read more of an event: the spec's action and the function

Simulated runs are filmed by `walrus/sim/filming.py`, counterexamples of TLC by `walrus/tlc/filming.py`.
"""
