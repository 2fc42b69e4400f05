"""Seeing a run: a recorded run as data, and as a page for a browser, a picture, or lines for a terminal.

    film         the format of a recorded run, its causal past, its states, a window of it
    html         a self-contained page (`page/`: its markup, style and script)
    svg          a static picture, for the documentation
    lanes        the same in a terminal
    recorded     films of the steps that real nodes recorded with `--trace`
    transcripts  films of the transcripts that tests play
    links        references for an event: the spec's action, the function, the paper

`walrus/sim/filming.py` films simulated runs, `walrus/tlc/filming.py` counterexamples of TLC. docs/viewer.md
explains the page.
"""
