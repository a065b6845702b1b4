import contextlib
import json
import ssl
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from types import ModuleType

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID

from oars_grpc.errors import ConfigurationError
from oars_grpc.local import bundle
from oars_grpc.local.bundle import bundled, load_script

ROLES = ["admin", "operator", "approver", "auditor", "agent", "gateway"]
CLIENTS = ["sidecar", *ROLES]
LEAVES = ["server", *CLIENTS]
EVERYTHING = {f"{name}.{kind}" for name in ["ca", *LEAVES] for kind in ("pem", "key")} | {
    "trusted-identities.json"
}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("certs-dev/generate.py")


@pytest.fixture
def out(script: ModuleType, tmp_path: Path) -> Path:
    made = script.generate(tmp_path / "certs", tenants=["tenant_beta", "tenant_alpha"])
    assert isinstance(made, Path)
    return made


def certificate(out: Path, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((out / f"{name}.pem").read_bytes())


def verifier(authority: x509.Certificate) -> verification.PolicyBuilder:
    return verification.PolicyBuilder().store(verification.Store([authority]))


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_a_set_is_complete_and_leaves_no_temporary_file(out: Path) -> None:
    assert {path.name for path in out.iterdir()} == EVERYTHING


def test_only_their_owner_reads_the_keys(out: Path) -> None:
    for path in out.iterdir():
        assert path.stat().st_mode & 0o777 == (0o600 if path.suffix == ".key" else 0o644), path


@pytest.mark.parametrize(
    "subject",
    [
        x509.DNSName("localhost"),
        x509.IPAddress(ip_address("127.0.0.1")),
        x509.IPAddress(ip_address("::1")),
    ],
)
def test_the_server_is_verified_under_each_of_its_names(
    out: Path, subject: x509.verification.Subject
) -> None:
    authority = certificate(out, "ca")
    chain = (
        verifier(authority).build_server_verifier(subject).verify(certificate(out, "server"), [])
    )
    assert chain[-1] == authority


@pytest.mark.parametrize("name", CLIENTS)
def test_each_client_is_verified_as_a_client_with_one_spiffe_id(out: Path, name: str) -> None:
    verified = (
        verifier(certificate(out, "ca")).build_client_verifier().verify(certificate(out, name), [])
    )
    assert verified.subjects == [x509.UniformResourceIdentifier(f"spiffe://oars.dev/{name}")]


def test_a_client_is_no_server_and_the_server_no_client(out: Path) -> None:
    policy = verifier(certificate(out, "ca"))
    with pytest.raises(verification.VerificationError, match="EKU"):
        policy.build_client_verifier().verify(certificate(out, "server"), [])
    for name in CLIENTS:
        usage = certificate(out, name).extensions.get_extension_for_class(x509.ExtendedKeyUsage)
        assert list(usage.value) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_openssl_accepts_the_profile_in_strict_mode(out: Path) -> None:
    """A handshake in memory by Python's own OpenSSL, each side verifying the other strictly."""

    def context(protocol: int, name: str) -> ssl.SSLContext:
        made = ssl.SSLContext(protocol)
        made.check_hostname = protocol == ssl.PROTOCOL_TLS_CLIENT
        made.verify_mode = ssl.CERT_REQUIRED
        made.verify_flags |= ssl.VERIFY_X509_STRICT
        made.load_verify_locations(out / "ca.pem")
        made.load_cert_chain(out / f"{name}.pem", out / f"{name}.key")
        return made

    for name in CLIENTS:
        up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = context(ssl.PROTOCOL_TLS_CLIENT, name).wrap_bio(
            down, up, server_hostname="localhost"
        )
        server = context(ssl.PROTOCOL_TLS_SERVER, "server").wrap_bio(up, down, server_side=True)
        for _ in range(3):
            for side in (client, server):
                with contextlib.suppress(ssl.SSLWantReadError):
                    side.do_handshake()
        seen = server.getpeercert()
        assert seen is not None
        assert ("URI", f"spiffe://oars.dev/{name}") in seen["subjectAltName"]


def test_extensions_say_what_each_certificate_may_sign(out: Path) -> None:
    authority = certificate(out, "ca")
    for name in ["ca", *LEAVES]:
        extensions = certificate(out, name).extensions
        constraints = extensions.get_extension_for_class(x509.BasicConstraints)
        usage = extensions.get_extension_for_class(x509.KeyUsage)
        assert constraints.critical
        assert usage.critical
        assert constraints.value.ca == (name == "ca")
        assert usage.value.key_cert_sign == (name == "ca")
        assert usage.value.digital_signature == (name != "ca")
        issuer = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
        subject = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        assert issuer.key_identifier == subject.digest


def test_serial_numbers_differ_and_validity_began_already(out: Path) -> None:
    all_certificates = [certificate(out, name) for name in ["ca", *LEAVES]]
    assert len({each.serial_number for each in all_certificates}) == len(all_certificates)
    now = datetime.now(UTC)
    for each in all_certificates:
        assert now - timedelta(minutes=10) < each.not_valid_before_utc < now
        assert now + timedelta(days=6, hours=23) < each.not_valid_after_utc
        assert each.not_valid_after_utc < now + timedelta(days=7, minutes=1)


def test_keys_are_plain_pkcs8_and_belong_to_their_certificates(out: Path) -> None:
    for name in ["ca", *LEAVES]:
        pem = (out / f"{name}.key").read_bytes()
        assert pem.splitlines()[0].strip(b"-") == b"BEGIN PRIVATE KEY"
        key = serialization.load_pem_private_key(pem, None)
        assert key.public_key() == certificate(out, name).public_key()


def test_server_and_client_shake_hands_with_mutual_tls(out: Path) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(out / "server.pem", out / "server.key")
    server.load_verify_locations(out / "ca.pem")
    server.verify_mode = ssl.CERT_REQUIRED
    client = ssl.create_default_context(cafile=str(out / "ca.pem"))
    client.load_cert_chain(out / "agent.pem", out / "agent.key")
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    at_server = server.wrap_bio(to_server, to_client, server_side=True)
    at_client = client.wrap_bio(to_client, to_server, server_hostname="localhost")
    waiting = [at_client, at_server]
    for _ in range(10):
        for side in list(waiting):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(side)
    assert not waiting
    peer = at_server.getpeercert()
    assert peer is not None
    assert ("URI", "spiffe://oars.dev/agent") in peer["subjectAltName"]


def test_trusted_identities_name_each_role_once_with_its_certificate(out: Path) -> None:
    identities = json.loads((out / "trusted-identities.json").read_bytes())
    assert [identity["role"] for identity in identities] == ROLES
    for identity in identities:
        role = identity.pop("role")
        der = certificate(out, role).public_bytes(serialization.Encoding.DER)
        digest = subprocess.run(["sha256sum"], input=der, capture_output=True, check=True).stdout
        expected = {
            "spiffeId": f"spiffe://oars.dev/{role}",
            "fingerprintSha256": digest.decode().split()[0],
            "serviceAccountId": f"sa_{role}",
            "tenantIds": ["tenant_alpha", "tenant_beta"],
        }
        if role not in {"approver", "auditor"}:
            expected["mayActForUsers"] = ["*"]
        assert identity == expected


def test_a_valid_set_for_the_same_tenants_is_kept(script: ModuleType, out: Path) -> None:
    before = contents(out)
    script.generate(out, tenants=["tenant_alpha", "tenant_beta"])
    assert contents(out) == before


def test_force_makes_a_new_set(script: ModuleType, out: Path) -> None:
    before = contents(out)
    script.generate(out, tenants=["tenant_alpha", "tenant_beta"], force=True)
    after = contents(out)
    assert {name for name in EVERYTHING if after[name] != before[name]} == EVERYTHING


def test_other_tenants_make_a_new_set(script: ModuleType, out: Path) -> None:
    before = contents(out)
    script.generate(out, tenants=["tenant_gamma"])
    assert contents(out)["ca.pem"] != before["ca.pem"]


def test_a_set_with_less_than_a_day_left_is_made_anew(script: ModuleType, tmp_path: Path) -> None:
    script.generate(tmp_path, days=1)
    before = contents(tmp_path)
    script.generate(tmp_path, days=2)
    kept = contents(tmp_path)
    assert kept["ca.pem"] != before["ca.pem"]
    script.generate(tmp_path, days=2)
    assert contents(tmp_path) == kept


@pytest.mark.parametrize("name", sorted(EVERYTHING))
@pytest.mark.parametrize("harm", ["missing", "damaged", "of another set"])
def test_a_set_with_a_wrong_file_is_made_anew(
    script: ModuleType, out: Path, tmp_path: Path, name: str, harm: str
) -> None:
    """Crashes between two writes leave such sets."""
    tenants = ["tenant_alpha", "tenant_beta"]
    if harm == "missing":
        (out / name).unlink()
    elif harm == "damaged":
        (out / name).write_bytes((out / name).read_bytes()[:100])
    else:
        other = script.generate(tmp_path / "other", tenants=tenants)
        (out / name).write_bytes((other / name).read_bytes())
    untouched = "server.pem" if name != "server.pem" else "agent.pem"
    before = (out / untouched).read_bytes()
    script.generate(out, tenants=tenants)
    assert (out / untouched).read_bytes() != before
    assert {path.name for path in out.iterdir()} == EVERYTHING


def test_issue_makes_expired_and_foreign_certificates_that_do_not_verify(
    script: ModuleType, out: Path
) -> None:
    """What the refusal tests of the transport are made from."""
    authority = script.CertificateAuthority.load(out)
    now = datetime.now(UTC)
    uri = "spiffe://oars.dev/agent"
    policy = verifier(certificate(out, "ca"))

    def verify(issued: object) -> None:
        pem = issued.pem  # type: ignore[attr-defined] # the script is loaded by path, untyped
        policy.build_client_verifier().verify(x509.load_pem_x509_certificate(pem), [])

    verify(authority.issue("agent", uri=uri, client=True))
    expired = authority.issue(
        "agent",
        uri=uri,
        client=True,
        not_before=now - timedelta(days=2),
        not_after=now - timedelta(days=1),
    )
    with pytest.raises(verification.VerificationError, match="not valid at validation time"):
        verify(expired)
    # The same name as the real authority: only the key tells them apart.
    impostor = script.CertificateAuthority.create("OARS development CA", 7)
    with pytest.raises(verification.VerificationError):
        verify(impostor.issue("agent", uri=uri, client=True))


def test_the_command_makes_keeps_and_forces(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(bundled("certs-dev/generate.py")), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    common = ["--out", str(tmp_path / "c"), "--tenant", "tenant_one", "--tenant", "tenant_two"]
    assert run(*common).stdout.startswith("wrote ")
    assert run(*common).stdout.startswith("kept ")
    assert run(*common, "--force").stdout.startswith("wrote ")
    identities = json.loads((tmp_path / "c" / "trusted-identities.json").read_bytes())
    assert identities[0]["tenantIds"] == ["tenant_one", "tenant_two"]
    assert run().returncode == 2
    assert run(*common, "--days", "0").returncode == 2
    assert "--days" in run("--help").stdout


def test_bundled_finds_the_checkout_then_the_copy_in_the_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "oars_grpc"
    copy = package / "_bundle" / "deploy" / "file.yaml"
    beside = tmp_path / "deploy" / "file.yaml"
    for path in (copy, beside):
        path.parent.mkdir(parents=True)
        path.touch()
    monkeypatch.setattr(bundle, "_PACKAGE", package)
    assert bundled("deploy/file.yaml") == copy  # what lies beside an installed package is not ours
    (tmp_path / "pyproject.toml").touch()
    assert bundled("deploy/file.yaml") == beside
    with pytest.raises(ConfigurationError, match="no-such-file"):
        bundled("deploy/no-such-file")


def test_load_script_loads_a_script_once(script: ModuleType) -> None:
    assert load_script("certs-dev/generate.py") is script
    assert sys.modules[script.__name__] is script
