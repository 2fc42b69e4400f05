"""`python -m walrus.cli`."""

from walrus.cli.interrupts import end_quietly

if __name__ == "__main__":
    end_quietly()
    from walrus.cli.main import main

    raise SystemExit(main())
