"""What a client may do: identities, their roles, and the topics that each covers. Every decision is made
here.

A node with `--auth-file` requires a token of each client connection (AUTH), and decides every request by
the file's entry for the token's owner:

    # name    SHA-256 of the token    roles             topics (none: all)
    billing   9f86d081884c7d65...     read,write        orders.* invoices
    operator  60303ae22b998861...     read,admin

    role       may
    read       GET, FETCH, FIND, RECEIVE, ACK, NACK, EXTEND, SEEK, STATE, GROUPS, TOPICS, METRICS
    write      PUT, PUB, and STATE
    register   REGISTER
    admin      REGISTER, CONFIGURE, DELETE, RECOVER, and LEAVE

No role includes another: an operator's token need not be able to read the topics. A pattern is the name of
a topic, or a prefix of topic names followed by `*`. A request about the whole cluster (LEAVE) needs the
pattern `*`; TOPICS needs a prefix that a pattern covers; METRICS shows no entry, and needs only the role.

`python -m walrus.auth` writes the file, which has hashes of tokens and no token. The node rereads it on
SIGHUP. A connection whose token is no longer in it is closed; one whose roles have changed is held to the
new ones.

    connection     AUTH                         other requests
    unknown        known token: identified      refused (`unauthenticated`)
    identified     the same, with another one   decided by its roles
    failed         refused                      refused; the connection ends with the last reply

**Guessing.** A token has 256 bits, so guessing is hopeless at any rate; the limit is on what it costs the
node. One wrong token ends the connection, and the answer is delayed the longer the more wrong ones came from
that address lately. A right token is never delayed: clients behind one address do not shut each other out.

The hash of a token is compared with every hash in the file, each in constant time. No token is in a `repr`,
an error, or a log.

Left out: permissions per consumer group (an identity that may read a topic may move any group on it), and
expiry of tokens.

Invariants: without an identity only AUTH is carried out; a request is carried out only if a role of its
identity allows it for each topic that it names; the file is accepted whole or not at all.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Mapping
from typing import Final, assert_never

import msgspec

from walrus.credentials import CredentialError, digest_of, well_formed
from walrus.protocol import (
    Ack,
    Auth,
    Configure,
    Delete,
    Extend,
    Fetch,
    Find,
    Get,
    Greeting,
    Groups,
    Invalid,
    Leave,
    Metrics,
    Nack,
    Put,
    Receive,
    Recover,
    Register,
    Request,
    Seek,
    State,
    Topics,
)
from walrus.wire import errors

READ, WRITE, REGISTER, ADMIN = "read", "write", "register", "admin"
ROLES: Final = (READ, WRITE, REGISTER, ADMIN)
ALL: Final = "*"
MAX_IDENTITIES: Final = 1000
MAX_ADDRESSES: Final = 1024
"""Addresses whose failures are remembered."""
FIRST_DELAY, LONGEST_DELAY = 0.05, 3.0
"""Seconds until a wrong token is answered: the first one of an address, and at most."""
FORGIVEN_AFTER: Final = 60.0
"""Seconds without a failure after which an address has none."""
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class Principal(msgspec.Struct, frozen=True):
    """One identity of clients: a line of the file."""

    name: str
    digest: str
    """Of its token: SHA-256 in hex."""
    roles: tuple[str, ...]
    topics: tuple[str, ...] = (ALL,)

    def covers(self, topic: str) -> bool:
        """Return whether a pattern has the topic.

        >>> Principal("p", "", (), ("orders.*", "bills")).covers("orders.eu")
        True
        """
        return any(
            topic.startswith(pattern[:-1]) if pattern.endswith(ALL) else topic == pattern
            for pattern in self.topics
        )

    def line(self) -> str:
        """This identity as the file has it."""
        topics = () if self.topics == (ALL,) else self.topics
        return " ".join([self.name, self.digest, ",".join(self.roles), *topics])


def parse(text: str, source: str) -> dict[str, Principal]:
    """Return the identities of a file by name. Raises CredentialError, which names `source` and the line.

    >>> parse("billing " + "0" * 64 + " read orders.*", "auth")["billing"].topics
    ('orders.*',)
    """
    found: dict[str, Principal] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        flaw = _line_flaw(words, found)
        if flaw:
            raise CredentialError(f"{source}, line {number}: {flaw}")
        name, digest, roles, *topics = words
        found[name] = Principal(name, digest, tuple(roles.split(",")), tuple(topics) or (ALL,))
    if len(found) > MAX_IDENTITIES:
        raise CredentialError(f"{source}: has more than {MAX_IDENTITIES} identities")
    return found


def _line_flaw(words: list[str], found: Mapping[str, Principal]) -> str:
    if len(words) < 3:
        return "must be NAME SHA256 ROLES [TOPICS]: python -m walrus.auth writes such lines"
    name, digest, roles = words[:3]
    if not _NAME.fullmatch(name):
        return "a name is 1 to 64 letters, digits, '.', '_' and '-'"
    if name in found:
        return f"{name} stands there twice"
    if not _DIGEST.fullmatch(digest):
        return f"the second word of {name} is no SHA-256 in hexadecimal"
    if any(digest == other.digest for other in found.values()):
        return f"{name} has the token of another identity"
    unknown = [role for role in roles.split(",") if role not in ROLES]
    return f"{name} has a role that is none of {', '.join(ROLES)}" if unknown else ""


def owner_of(token: str, principals: Iterable[Principal]) -> Principal | None:
    """Return whose token this is; None if it is no one's."""
    return _with_digest(digest_of(token), principals)


def _with_digest(digest: str, principals: Iterable[Principal]) -> Principal | None:
    """Look at all of them, whichever it is."""
    owner = None
    for principal in principals:
        if hmac.compare_digest(principal.digest, digest):
            owner = principal
    return owner


def refusal(principal: Principal, request: Request) -> errors.Reason | None:
    """Return why an identity may not do this; None if it may. The one place where that is decided."""
    match request:
        case Put(topic=topic, batch=batch):
            return _needs(principal, "PUB" if batch.stamps else "PUT", (WRITE,), topic)
        case Get() | Fetch() | Find() | Receive() | Ack() | Nack() | Extend() | Seek() | Groups():
            return _needs(principal, type(request).__name__.upper(), (READ,), request.topic)
        case State(topic=topic):
            return _needs(principal, "STATE", (READ, WRITE), topic)
        case Topics(prefix=prefix):
            return _needs(principal, "TOPICS", (READ,), prefix) or _below(principal, prefix)
        case Metrics():
            return _needs(principal, "METRICS", (READ,))
        case Register(topic=topic):
            return _needs(principal, "REGISTER", (REGISTER, ADMIN), topic)
        case Configure() | Delete() | Recover():
            return _needs(principal, type(request).__name__.upper(), (ADMIN,), request.topic)
        case Leave():
            return _needs(principal, "LEAVE", (ADMIN,)) or _everything(principal, "LEAVE")
        case Greeting() | Invalid() | Auth():
            return None
        case _:
            assert_never(request)


def _needs(
    principal: Principal, command: str, roles: tuple[str, ...], topic: str | None = None
) -> errors.Reason | None:
    if not set(roles) & set(principal.roles):
        return errors.lacks_role(principal.name, command, " or ".join(roles))
    if topic is not None and not principal.covers(topic):
        return errors.lacks_topic(principal.name, command)
    return None


def _below(principal: Principal, prefix: str) -> errors.Reason | None:
    """Of TOPICS: a pattern has all topics with that prefix."""
    stems = [pattern[:-1] for pattern in principal.topics if pattern.endswith(ALL)]
    return None if any(map(prefix.startswith, stems)) else errors.lacks_topic(principal.name, "TOPICS")


def _everything(principal: Principal, command: str) -> errors.Reason | None:
    return None if ALL in principal.topics else errors.lacks_topic(principal.name, command)


class Access:
    """What a node knows of its clients: who there is, and which addresses sent wrong tokens lately."""

    def __init__(self, principals: Mapping[str, Principal]) -> None:
        self.principals = principals
        self.failures = 0
        """Wrong tokens since the start."""
        self._failed: dict[str, tuple[int, float]] = {}  # address -> how many, and when the last one came

    def failed(self, address: str, now: float) -> float:
        """A wrong token came from that address; return after how many seconds that is to be said."""
        self.failures += 1
        count, at = self._failed.pop(address, (0, now))
        count = 1 if now - at > FORGIVEN_AFTER else count + 1
        self._failed[address] = count, now
        if len(self._failed) > MAX_ADDRESSES:
            del self._failed[next(iter(self._failed))]
        return float(min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(count - 1, 16)))


class Guard:
    """One connection of a client."""

    __slots__ = ("_access", "failed", "principal")

    def __init__(self, access: Access) -> None:
        self._access = access
        self.principal: Principal | None = None
        self.failed = False
        """Whether it sent a wrong token: it has no second attempt."""

    def admit(self, token: str) -> bool:
        """AUTH: return whether the connection has an identity now."""
        owner = owner_of(token, self._access.principals.values()) if well_formed(token) else None
        if owner is None or self.failed:
            self.principal, self.failed = None, True
            return False
        self.principal = owner
        return True

    def refusal(self, request: Request) -> errors.Reason | None:
        """Return why a request is not carried out; None if it is."""
        if self.principal is None:
            return errors.UNKNOWN_TOKEN if self.failed else errors.UNAUTHENTICATED
        return refusal(self.principal, request)

    def reread(self) -> bool:
        """The file was read again: return whether the connection may stay."""
        if self.principal is None:
            return True
        self.principal = _with_digest(self.principal.digest, self._access.principals.values())
        return self.principal is not None
