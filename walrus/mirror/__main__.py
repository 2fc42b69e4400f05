"""`python -m walrus.mirror`."""

from walrus.cli.interrupts import end_quietly

if __name__ == "__main__":
    end_quietly()
    from walrus.mirror.main import main

    raise SystemExit(main())
