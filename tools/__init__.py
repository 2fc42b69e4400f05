"""Programs for those who work on Walrus; nothing here is installed with it."""
