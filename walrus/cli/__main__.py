"""`python -m walrus.cli`."""

from walrus.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
