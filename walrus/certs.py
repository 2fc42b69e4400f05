"""`python -m walrus.certs`: makes the certificates of a cluster: CA, nodes and clients.

    python -m walrus.certs init certs --nodes 1,2,3 --hosts db-1.example,10.0.0.7
    python -m walrus.certs node certs 4
    python -m walrus.certs client certs orders

`init` writes `ca.pem` and `ca.key`, `node-N.pem` and `node-N.key` for each node, and `client.pem` and
`client.key`. Only its owner can read a key, and no file is ever overwritten. `ca.key` signs certificates of
new members: do not store it on the nodes, which need `ca.pem` and their own two files.

A node's certificate is valid for 127.0.0.1, ::1, localhost and the given hosts, and also names the node
(`walrus/tls.py` says what is checked). Keys use the curve P-256, which every TLS library supports.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from walrus.tls import NODE_NAME, Files, TlsError

try:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
except ImportError as missing:  # pragma: no cover - the tests have it
    raise SystemExit(
        "walrus.certs needs the package cryptography: pip install 'walrus-log[tls]'"
    ) from missing

DAYS: Final = 825
HOSTS: Final = ("localhost", "127.0.0.1", "::1")
CLIENT_NAME: Final = "walrus:client:"
SKEW: Final = timedelta(hours=1)
"""Certificates are valid from this long ago, since the clock of another machine may be slow."""


class Authority:
    """The CA of a cluster, in a directory."""

    def __init__(self, directory: Path) -> None:
        """Read the CA. Raises TlsError."""
        self.directory = directory
        try:
            self._certificate = x509.load_pem_x509_certificate((directory / "ca.pem").read_bytes())
            key = serialization.load_pem_private_key((directory / "ca.key").read_bytes(), None)
        except OSError as error:
            raise TlsError(f"{error.filename}: {error.strerror}") from error
        except (ValueError, TypeError) as error:
            raise TlsError(f"{directory}: ca.pem or ca.key is damaged") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TlsError(f"{directory / 'ca.key'}: was not made by walrus.certs")
        self._key = key

    @classmethod
    def found(cls, directory: Path, days: float = DAYS) -> Authority:
        """Make a CA. Raises TlsError, also if it exists."""
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TlsError(f"{directory}: {error.strerror}") from error
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name("walrus cluster CA")
        builder = _builder(name, name, key.public_key(), days)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_usage(signs=True), critical=True)
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        builder = builder.add_extension(identifier, critical=False)
        _write(directory, "ca", builder.sign(key, hashes.SHA256()), key)
        return cls(directory)

    @classmethod
    def ensure(cls, directory: Path, nodes: Sequence[int]) -> None:
        """Make those that do not exist: CA, certificates of these nodes and of a client. Raises TlsError."""
        authority = cls(directory) if (directory / "ca.pem").exists() else cls.found(directory)
        for node_id in nodes:
            if not (directory / f"node-{node_id}.pem").exists():
                authority.node(node_id)
        if not (directory / "client.pem").exists():
            authority.client()

    def node(self, node_id: int, hosts: Sequence[str] = (), days: float = DAYS) -> Files:
        """Make a node's certificate. Raises TlsError."""
        return self._issue(f"node-{node_id}", f"{NODE_NAME}{node_id}", [*HOSTS, *hosts], days)

    def client(self, name: str = "", days: float = DAYS) -> Files:
        """Make a client's certificate. Raises TlsError."""
        return self._issue(f"client-{name}" if name else "client", f"{CLIENT_NAME}{name}", (), days)

    def _issue(self, stem: str, uri: str, hosts: Sequence[str], days: float) -> Files:
        key = ec.generate_private_key(ec.SECP256R1())
        public = key.public_key()
        builder = _builder(_name(stem), self._certificate.subject, public, days)
        names = [x509.UniformResourceIdentifier(uri), *map(_host, hosts)]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(signs=False), critical=True)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = builder.add_extension(issuer, critical=False)
        cert, private = _write(self.directory, stem, builder.sign(self._key, hashes.SHA256()), key)
        return Files(self.directory / "ca.pem", cert, private)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, days: float
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    end = now + timedelta(days=days)
    return x509.CertificateBuilder(
        issuer, subject, public, x509.random_serial_number(), min(now, end) - SKEW, end
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _host(text: str) -> x509.GeneralName:
    """A host as a name in a certificate."""
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _write(
    directory: Path, stem: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> tuple[Path, Path]:
    """Write both files, the key first. Raises TlsError, also if one exists."""
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = certificate.public_bytes(serialization.Encoding.PEM)
    paths = directory / f"{stem}.pem", directory / f"{stem}.key"
    for path, mode, data in ((paths[1], 0o600, private), (paths[0], 0o644, public)):
        try:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(data)
        except FileExistsError as error:
            raise TlsError(f"{path}: exists already, and is not overwritten") from error
        except OSError as error:
            raise TlsError(f"{path}: {error.strerror}") from error
    return paths


def _node_id(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"must be the id of a node, not {text!r}")
    return int(text)


def _node_ids(text: str) -> list[int]:
    return [_node_id(part) for part in text.split(",")]


def _hosts(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def _client(text: str) -> str:
    if not (text.isascii() and text.replace("-", "").replace("_", "").isalnum()):
        raise argparse.ArgumentTypeError(f"must be of letters, digits, - and _, not {text!r}")
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m walrus.certs", description="Make a cluster's certificates."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    init = commands.add_parser("init", help="a CA, nodes and a client")
    node = commands.add_parser("node", help="one more node")
    client = commands.add_parser("client", help="one more client")
    for command in (init, node, client):
        command.add_argument("directory", type=Path, metavar="DIR")
        command.add_argument(
            "--days", type=int, default=DAYS, help="until they expire (default: %(default)s)"
        )
    init.add_argument("--nodes", type=_node_ids, default=[1, 2, 3], metavar="ID,...", help="default: 1,2,3")
    node.add_argument("node", type=_node_id, metavar="ID")
    client.add_argument("name", type=_client, metavar="NAME")
    for command in (init, node):
        command.add_argument("--hosts", type=_hosts, default=[], metavar="HOST,...",
            help="names and addresses at which nodes are dialled, besides localhost")  # fmt: skip
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0 on success, 1 on a TlsError, 2 for a wrong command line."""
    told = _parser().parse_args(arguments)
    try:
        if told.command == "init":
            authority = Authority.found(told.directory, told.days)
            for node_id in told.nodes:
                authority.node(node_id, told.hosts, told.days)
            authority.client(days=told.days)
        elif told.command == "node":
            Authority(told.directory).node(told.node, told.hosts, told.days)
        else:
            Authority(told.directory).client(told.name, told.days)
    except TlsError as error:
        sys.stderr.write(f"walrus.certs: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
