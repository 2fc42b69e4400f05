"""TLS: authenticates both ends of a connection, and encrypts what it carries.

    port     which end proves what                                        checked against
    peers    both ends: "I am node N of this cluster" (always)            the CA, and the id in the Hello
    clients  the node: "I am the host that was dialled"                   the CA, and the name in the address
             the client: "I know this cluster" (`--tls-client-auth`)      the CA

Each cluster has its own certificate authority, so a certificate that the CA signed identifies the cluster. A
node's certificate contains the name `walrus:node:N` (a URI among its subject alternative names), which
identifies the node. Peers are identified by this name and not by their addresses. So a node that moves keeps
its certificate, and a client's certificate gives no access to the peer port. `python -m walrus.certs` makes
such certificates.

A node takes three files (`--tls-cert`, `--tls-key`, `--tls-ca`). Clients take them from the environment:
`WALRUS_TLS_CA`, and for nodes that require client certificates `WALRUS_TLS_CERT` and `WALRUS_TLS_KEY`. The
flags of client commands are stored there (`cli/command_line.py`). Without these files TLS is not used.

TLS 1.2 is the oldest version. There are no session tickets: a client recognises an idle connection that its
node has closed by its being readable, and a ticket would make it readable, too.

Left out: revocation lists. A stolen certificate is valid until it expires, or the CA is replaced.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

NODE_NAME: Final = "walrus:node:"
"""The name in a node's certificate is this, followed by the node's id."""
MOST_FLIGHTS: Final = 4
"""How often either end sends in a handshake at most, plus one."""
HANDSHAKE_SECONDS: Final = 5.0
"""The longest handshake: a stranger occupies a descriptor for no longer."""


class TlsError(ValueError):
    """A file, or a combination of variables, cannot be used; the message is one line that names it."""


class Files(NamedTuple):
    """The files of the CA, the certificate and its key, in PEM. A client may have only the first."""

    ca: Path
    cert: Path | None = None
    key: Path | None = None


class NodeContexts:
    """The contexts of a node: for its two ports, and for the peers that it dials."""

    def __init__(self, files: Files, node_id: int, *, client_auth: bool) -> None:
        """Read the files. Raises TlsError."""
        self._files = files
        self._node_id = node_id
        self.clients = _context(ssl.PROTOCOL_TLS_SERVER, files)
        self.clients.verify_mode = ssl.CERT_REQUIRED if client_auth else ssl.CERT_NONE
        self.callers = _context(ssl.PROTOCOL_TLS_SERVER, files)
        self.callers.verify_mode = ssl.CERT_REQUIRED
        self.peers = _context(ssl.PROTOCOL_TLS_CLIENT, files)
        self.peers.check_hostname = False  # a peer is identified by its id: see `claim_flaw`
        self._meet_itself()

    def _meet_itself(self) -> None:
        """Perform a handshake with itself, in memory. Raises TlsError for a certificate that peers would
        refuse."""
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        ends = (
            self.peers.wrap_bio(to_client, to_server),
            self.callers.wrap_bio(to_server, to_client, server_side=True),
        )
        try:
            for _ in range(MOST_FLIGHTS):
                for end in ends:
                    with contextlib.suppress(ssl.SSLWantReadError):
                        end.do_handshake()
        except ssl.SSLError as error:
            raise TlsError(f"{self._files.cert}: {why(error)}") from error
        if flaw := claim_flaw(ends[0].getpeercert(), self._node_id):
            raise TlsError(f"{self._files.cert}: {flaw}")

    def reread(self) -> None:
        """Use the current contents of the files from now on. If it raises TlsError, nothing is changed."""
        NodeContexts(self._files, self._node_id, client_auth=False)
        for context in (self.clients, self.callers, self.peers):
            _load(context, self._files)


def client_context(files: Files) -> ssl.SSLContext:
    """Return the context of a client. Raises TlsError."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, files)


def from_environment(environ: Mapping[str, str]) -> ssl.SSLContext | None:
    """Return the context for clients by the environment; None: no TLS. Raises TlsError.

    >>> from_environment({}) is None
    True
    >>> from_environment({"WALRUS_TLS_CA": "/absent/ca.pem"})
    Traceback (most recent call last):
    walrus.tls.TlsError: /absent/ca.pem: No such file or directory
    """
    ca, cert, key = (environ.get(f"WALRUS_TLS_{name}", "") for name in ("CA", "CERT", "KEY"))
    if not ca:
        if cert or key:
            raise TlsError("WALRUS_TLS_CA: is needed beside WALRUS_TLS_CERT and WALRUS_TLS_KEY")
        return None
    if bool(cert) != bool(key):
        raise TlsError("WALRUS_TLS_CERT and WALRUS_TLS_KEY: give both, or neither")
    return client_context(Files(Path(ca), Path(cert), Path(key)) if cert else Files(Path(ca)))


def _context(protocol: int, files: Files) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_TICKET
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0
    _load(context, files)
    return context


def _load(context: ssl.SSLContext, files: Files) -> None:
    """Read the files into a context. Raises TlsError, which names the first unusable file."""
    for path in files:
        if path is not None:
            try:
                path.read_bytes()
            except OSError as error:
                raise TlsError(f"{path}: {error.strerror}") from error
    try:
        context.load_verify_locations(files.ca)
    except ssl.SSLError as error:
        raise TlsError(f"{files.ca}: holds no certificate of a CA in PEM") from error
    if files.cert is None:
        return
    try:
        context.load_cert_chain(files.cert, files.key, password=_no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise TlsError(f"{files.key}: is not the key of the certificate in {files.cert}") from error
        raise TlsError(f"{files.cert}, {files.key}: are no certificate and key in PEM") from error
    except ValueError as error:
        raise TlsError(f"{files.key}: is locked by a password, and a node cannot ask for one") from error


def _no_password() -> str:
    raise ValueError("no password is known")


def node_named(certificate: Mapping[str, Any] | None) -> int | None:
    """Return the node that a verified certificate (as returned by `getpeercert`) names; None if none.

    >>> node_named({"subjectAltName": (("DNS", "localhost"), ("URI", "walrus:node:2"))})
    2
    >>> node_named({"subjectAltName": (("DNS", "walrus:node:2"), ("URI", "walrus:node:two"))})
    """
    for kind, name in (certificate or {}).get("subjectAltName", ()):
        number = name.removeprefix(NODE_NAME)
        if kind == "URI" and number != name and number.isascii() and number.isdecimal():
            return int(number)
    return None


def claim_flaw(certificate: Mapping[str, Any] | None, claimed: int | None) -> str:
    """Return why a verified certificate contradicts the claim to be node `claimed`; "" if it does not.

    If `claimed` is None, any node is accepted.

    >>> claim_flaw({"subjectAltName": (("URI", "walrus:node:2"),)}, 3)
    'its certificate is that of node 2, not of node 3'
    >>> claim_flaw({"subjectAltName": (("URI", "walrus:client:orders"),)}, 3)
    'its certificate is not that of a node'
    """
    named = node_named(certificate)
    if named is None:
        return "its certificate is not that of a node"
    if claimed is not None and named != claimed:
        return f"its certificate is that of node {named}, not of node {claimed}"
    return ""


_REASONS: Final = {
    "WRONG_VERSION_NUMBER": "the other end speaks no TLS",
    "HTTP_REQUEST": "the other end speaks no TLS, but HTTP",
    "RECORD_LAYER_FAILURE": "the other end speaks no TLS",
    "UNSUPPORTED_PROTOCOL": "the other end speaks no TLS newer than 1.1",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the other end shows no certificate",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the other end asks for a certificate, and none was given",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "the other end asks for a certificate, and none was given",
    "TLSV1_ALERT_UNKNOWN_CA": "the other end does not know the CA of our certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the other end says that our certificate has expired",
}
_VERDICTS: Final = {
    10: "its certificate has expired",
    18: "its certificate is of another CA than ours",
    19: "its certificate is of another CA than ours",
    20: "its certificate is of another CA than ours",
}
"""By OpenSSL's error number: X509_V_ERR_CERT_HAS_EXPIRED, and those for an unknown issuer."""


def closed_early(connected: object) -> str:
    """Return the error text for a connection that the node closed before any reply.

    This is how a failed handshake at the node appears to a client: a client without TLS does not understand
    the node's alert, and in TLS 1.3 the client completes its handshake before the node has checked the
    client's certificate.
    """
    closed = "the node closed the connection before any reply"
    if isinstance(connected, ssl.SSLSocket | ssl.SSLObject):
        return (
            f"{closed}; if it asks for certificates, WALRUS_TLS_CERT and WALRUS_TLS_KEY must name a good one"
        )
    return f"{closed}; if it speaks TLS, set WALRUS_TLS_CA"


def why(error: BaseException) -> str:
    """Return in one line, without OpenSSL's file names, why a connection failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        said = error.verify_message.rstrip(".")
        return _VERDICTS.get(error.verify_code, f"its certificate does not hold: {said}")
    if isinstance(error, ssl.SSLError) and error.reason:
        return _REASONS.get(error.reason, f"TLS failed: {error.reason.lower().replace('_', ' ')}")
    return str(error) or type(error).__name__
