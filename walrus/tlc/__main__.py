"""`python -m walrus.tlc`."""

from walrus.cli.interrupts import end_quietly

if __name__ == "__main__":
    end_quietly()
    from walrus.tlc.main import main

    raise SystemExit(main())
