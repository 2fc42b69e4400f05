"""`python -m walrus.console`."""

from walrus.cli.interrupts import end_quietly

if __name__ == "__main__":
    end_quietly()
    from walrus.console.main import main

    raise SystemExit(main())
