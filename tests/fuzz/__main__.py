"""`python -m tests.fuzz --minutes 10`: search for bytes that a decoder does not survive, guided by coverage.

The minutes are shared by the targets (or go to those that `--target` names), each in a process of its own.
The search begins with `corpus/`, prints its seed, and stops at the first failure of a target with the file
that shows it, and how to run it again. It takes the extra `[fuzz]` (atheris, on Linux).
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
NAMES = sorted(path.name for path in CORPUS.iterdir())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--minutes", type=float, default=10.0, help="for all targets together (default 10)")
    parser.add_argument("--target", action="append", choices=NAMES, help="one of them; may be repeated")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 31), help="of the search")
    parser.add_argument("--run", type=Path, metavar="FILE", help="give this input to the one --target")
    parser.add_argument("--seeds", action="store_true", help="write the corpus that everything begins with")
    parser.add_argument("--worker", metavar="DIR", help=argparse.SUPPRESS)
    return parser


def main() -> int:
    options = _parser().parse_args()
    if options.seeds:
        from tests.fuzz import seeds

        seeds.write()
        return 0
    names = options.target or NAMES
    if options.run:
        from tests.fuzz.targets import TARGETS

        TARGETS[names[0]](options.run.read_bytes())
        return 0
    if options.worker:
        return _work(names[0], options.worker, options.minutes * 60, options.seed)
    try:
        import atheris  # noqa: F401 - to say so at once
    except ImportError:
        sys.stderr.write("fuzzing takes atheris: pip install -e '.[fuzz]' (Linux)\n")
        return 2
    print(f"seed {options.seed}, {options.minutes:g} minutes, {len(names)} targets", flush=True)
    failed = [name for name in names if not _search(name, options.minutes / len(names), options.seed)]
    print(
        f"{len(names) - len(failed)} of {len(names)} targets held"
        + "".join(f"; {name} fell" for name in failed)
    )
    return int(bool(failed))


def _search(name: str, minutes: float, seed: int) -> bool:
    """One target in a process of its own: libFuzzer ends the process that it runs in."""
    with tempfile.TemporaryDirectory(prefix="walrus-fuzz-") as place:
        command = [sys.executable, "-m", "tests.fuzz", "--worker", place, "--target", name]
        command += ["--minutes", str(minutes), "--seed", str(seed)]
        ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        said = ended.stdout.decode(errors="replace").splitlines()
        inputs = next((line.split()[1] for line in reversed(said) if line.startswith("Done ")), "?")
        if ended.returncode == 0:
            print(f"{name}: held, {inputs} inputs", flush=True)
            return True
        print("\n".join(said[-40:]))
        for found in Path(place).glob("crash-*"):
            kept = Path(f"fuzz-{name}-{found.name[6:14]}")
            kept.write_bytes(found.read_bytes())
            print(f"again: python -m tests.fuzz --target {name} --run {kept}", flush=True)
    return False


def _work(name: str, place: str, seconds: float, seed: int) -> int:
    import atheris

    os.chdir(place)
    Path("found").mkdir()
    flags = [f"-max_total_time={max(1, round(seconds))}", f"-seed={seed}", "-max_len=4096", "-timeout=20"]
    flags += ["-artifact_prefix=./", "-rss_limit_mb=2048", "found"]
    flags += [str(CORPUS / name)]
    with atheris.instrument_imports(include=["walrus"]):  # more than that takes minutes
        from tests.fuzz.targets import TARGETS
    atheris.Setup([sys.argv[0], *flags], TARGETS[name])
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
