"""The fuzz targets over their corpus, and seeded mutations of it: seconds, and no tool needed."""

from __future__ import annotations

import os
import random

import pytest

from tests.fuzz.targets import CORPUS, TARGETS

MUTATIONS = 20_000 if os.environ.get("HYPOTHESIS_PROFILE") == "deep" else 400
INTERESTING = (
    b"\0",
    b"\xff",
    b"\x7f",
    b"\x80",
    b" ",
    b"\n",
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\xff" * 8,
    b"{",
    b"\xc1",
)


def mutated(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """One to four small changes, as a broken disk or a hostile peer might make them."""
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(6):
            case 0 if data:
                at = min(at, len(data) - 1)
                data = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
            case 1:
                data = data[:at] + rng.choice(INTERESTING) + data[at:]
            case 2:
                data = data[:at] + rng.choice(INTERESTING) + data[at + 1 :]
            case 3:
                data = data[:at] + data[at + rng.randrange(9) :]
            case 4:
                other = rng.choice(others)
                data = data[:at] + other[rng.randrange(len(other) + 1) :]
            case _:
                data = data[:at]
    return data


@pytest.mark.parametrize("name", TARGETS)
def test_a_decoder_survives_its_corpus_and_mutations_of_it(name: str) -> None:
    inputs = [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]
    assert inputs, "every target has a corpus"
    rng = random.Random(name)
    for data in [b"", *inputs, *(mutated(rng.choice(inputs), inputs, rng) for _ in range(MUTATIONS))]:
        try:
            TARGETS[name](data)
        except Exception as error:
            error.add_note(f"{name} of {data!r}")
            raise


def test_every_corpus_has_a_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
