"""`walrus.tls` and `walrus.certs`: what is wrong with a file, in a line, and who is let in by what."""

from __future__ import annotations

import ssl
import stat
from pathlib import Path

import pytest

from walrus import certs
from walrus.tls import Files, NodeContexts, TlsError, client_context, from_environment, why


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates of two nodes and a client."""
    path = tmp_path_factory.mktemp("tls") / "certs"
    assert certs.main(["init", str(path), "--nodes", "1,2", "--hosts", "db-1.example,10.0.0.7"]) == 0
    return path


def node_files(path: Path, name: str = "node-1") -> Files:
    return Files(path / "ca.pem", path / f"{name}.pem", path / f"{name}.key")


def handshake(client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> ssl.SSLObject:
    """Both ends in memory; returns the server's. Raises SSLError."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = client.wrap_bio(back, there, server_hostname=name), server.wrap_bio(there, back, server_side=True)
    done: set[ssl.SSLObject] = set()
    while len(done) < 2:
        for end in ends:
            try:
                end.do_handshake()
                done.add(end)
            except ssl.SSLWantReadError:
                continue
    return ends[1]


def test_keys_are_readable_by_their_owner_alone(made):
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in made.glob("*.key")}
    assert set(modes) == {"ca.key", "node-1.key", "node-2.key", "client.key"}
    assert set(modes.values()) == {0o600}


def test_nothing_is_overwritten_and_a_node_can_be_added(made, capsys):
    before = (made / "ca.pem").read_bytes()
    assert certs.main(["init", str(made)]) == 1
    assert (
        capsys.readouterr().err
        == f"walrus.certs: {made / 'ca.key'}: exists already, and is not overwritten\n"
    )
    assert (made / "ca.pem").read_bytes() == before
    assert certs.main(["node", str(made), "3"]) == 0
    NodeContexts(node_files(made, "node-3"), 3, client_auth=True)


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1", "db-1.example", "10.0.0.7"])
def test_a_client_takes_a_node_at_each_of_its_names(made, name):
    node = NodeContexts(node_files(made), 1, client_auth=True)
    server = handshake(client_context(node_files(made, "client")), node.clients, name)
    assert server.version() in ("TLSv1.2", "TLSv1.3")


def test_a_client_refuses_another_name(made):
    node = NodeContexts(node_files(made), 1, client_auth=False)
    with pytest.raises(ssl.SSLCertVerificationError) as refused:
        handshake(client_context(Files(made / "ca.pem")), node.clients, "db-2.example")
    assert why(refused.value) == (
        "its certificate does not hold: Hostname mismatch, certificate is not valid for 'db-2.example'"
    )


def test_another_clusters_certificate_is_refused_on_both_sides(made, tmp_path):
    other = certs.Authority.found(tmp_path / "other")
    stranger, node = (
        NodeContexts(other.node(1), 1, client_auth=False),
        NodeContexts(node_files(made), 1, client_auth=False),
    )
    for dialling, listening in ((stranger.peers, node.callers), (node.peers, stranger.callers)):
        with pytest.raises(ssl.SSLCertVerificationError) as refused:
            handshake(dialling, listening, "localhost")
        assert why(refused.value) == "its certificate is of another CA than ours"


def test_nothing_older_than_tls_1_2_is_spoken(made):
    node = NodeContexts(node_files(made), 1, client_auth=False)
    for context in (node.clients, node.callers, node.peers, client_context(Files(made / "ca.pem"))):
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_what_is_wrong_with_a_file_is_said_in_a_line(made, tmp_path):
    def said(files: Files, node_id: int = 1) -> str:
        with pytest.raises(TlsError) as refused:
            NodeContexts(files, node_id, client_auth=False)
        return str(refused.value)

    ca, cert, key = made / "ca.pem", made / "node-1.pem", made / "node-1.key"
    absent, nonsense = tmp_path / "absent.pem", tmp_path / "nonsense.pem"
    nonsense.write_text("hello")
    old = certs.Authority.found(tmp_path / "old")
    expired = old.node(1, days=-1)
    assert said(Files(absent, cert, key)) == f"{absent}: No such file or directory"
    assert said(Files(ca, cert, absent)) == f"{absent}: No such file or directory"
    assert said(Files(nonsense, cert, key)) == f"{nonsense}: holds no certificate of a CA in PEM"
    assert said(Files(ca, nonsense, key)) == f"{nonsense}, {key}: are no certificate and key in PEM"
    wrong = made / "node-2.key"
    assert said(Files(ca, cert, wrong)) == f"{wrong}: is not the key of the certificate in {cert}"
    assert said(Files(expired.ca, cert, key)) == f"{cert}: its certificate is of another CA than ours"
    assert said(expired) == f"{expired.cert}: its certificate has expired"
    assert said(node_files(made), 2) == f"{cert}: its certificate is that of node 1, not of node 2"
    assert said(node_files(made, "client")) == f"{made / 'client.pem'}: its certificate is not that of a node"


def test_a_reread_that_fails_changes_nothing(tmp_path):
    authority = certs.Authority.found(tmp_path)
    files = authority.node(1)
    node = NodeContexts(files, 1, client_auth=False)
    assert files.cert is not None
    files.cert.write_text("half a file")
    with pytest.raises(TlsError):
        node.reread()
    handshake(client_context(Files(files.ca)), node.clients, "localhost")


def test_the_environment_of_a_client(made):
    ca, cert, key = (str(made / name) for name in ("ca.pem", "client.pem", "client.key"))
    assert from_environment({"WALRUS_TLS_CA": ca}) is not None
    assert from_environment({"WALRUS_TLS_CA": ca, "WALRUS_TLS_CERT": cert, "WALRUS_TLS_KEY": key}) is not None
    for environ, line in (
        ({"WALRUS_TLS_CERT": cert}, "WALRUS_TLS_CA: is needed beside WALRUS_TLS_CERT and WALRUS_TLS_KEY"),
        (
            {"WALRUS_TLS_CA": ca, "WALRUS_TLS_KEY": key},
            "WALRUS_TLS_CERT and WALRUS_TLS_KEY: give both, or neither",
        ),
    ):
        with pytest.raises(TlsError, match=f"^{line}$"):
            from_environment(environ)
