"""`python -m walrus.tlc`."""

from walrus.tlc.main import main

if __name__ == "__main__":
    raise SystemExit(main())
