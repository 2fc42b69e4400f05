"""Programs for working on Walrus; none of them is installed with it."""
