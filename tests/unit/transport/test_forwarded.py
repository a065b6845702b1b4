import pytest

from oars_grpc.errors import Unauthenticated
from oars_grpc.transport.forwarded import MAXIMUM_BYTES, PeerCertificate, parse_forwarded

HASH = "ab" * 32
SPIFFE = "spiffe://oars.dev/agent"


def test_what_envoy_writes_is_read() -> None:
    element = f'Hash={HASH};Subject="CN=agent,O=Example";URI={SPIFFE};DNS=a.example;DNS=b.example'
    assert parse_forwarded([element]) == PeerCertificate(HASH, "CN=agent,O=Example", SPIFFE)


def test_a_certificate_without_a_name_has_none() -> None:
    assert parse_forwarded([f"Hash={HASH}"]) == PeerCertificate(HASH, "", "")
    assert parse_forwarded([f'Hash={HASH};Subject="";URI=']) == PeerCertificate(HASH, "", "")


def test_a_uri_of_another_scheme_is_no_spiffe_id() -> None:
    element = f"Hash={HASH};URI=https://agent.example;URI={SPIFFE}"
    assert parse_forwarded([element]).spiffe_id == SPIFFE
    assert parse_forwarded([f"Hash={HASH};URI=https://agent.example"]).spiffe_id == ""


def test_quotes_separators_and_escapes_stay_inside_a_quoted_subject() -> None:
    element = f'Hash={HASH};Subject="CN=\\"x\\",URI=spiffe://fake;Hash=0\\\\";URI={SPIFFE}'
    found = parse_forwarded([element])
    assert found == PeerCertificate(HASH, 'CN="x",URI=spiffe://fake;Hash=0\\', SPIFFE)


def test_names_of_pairs_are_read_in_any_case_and_the_hash_in_lower_case() -> None:
    assert parse_forwarded([f"hash={HASH.upper()};uri={SPIFFE}"]).fingerprint_sha256 == HASH


def test_no_element_means_no_certificate() -> None:
    with pytest.raises(Unauthenticated) as refused:
        parse_forwarded([])
    assert refused.value.reason == "NO_CLIENT_CERTIFICATE"


GOOD = f"Hash={HASH};URI={SPIFFE}"


@pytest.mark.parametrize(
    "values",
    [
        [GOOD, GOOD],
        [f"{GOOD},{GOOD}"],  # two elements in one value: the sidecar did not replace the client's
        [f"{GOOD},"],
        [f"{GOOD},DNS=a.example"],
        [f",{GOOD}"],
        [f'Hash={HASH};Subject="CN=a",Hash={HASH}'],
        [""],
        [" "],
        [f"{GOOD};"],
        [f";{GOOD}"],
        [f" {GOOD}"],
        [f"{GOOD} , x"],
        ["URI=" + SPIFFE],  # no hash
        [f"Hash={HASH};Hash={HASH}"],
        [f"Hash={HASH};hash={'cd' * 32}"],
        [f"Hash={HASH[:-1]}"],
        [f"Hash={HASH}0"],
        [f"Hash={'g' * 64}"],
        [f'Hash="{HASH}'],  # the quote never ends
        [f'Hash={HASH};Subject="CN=a\\"'],
        [f'Hash={HASH};Subject="CN=a"x;URI={SPIFFE}'],
        [f"Hash={HASH};URI={SPIFFE};URI=spiffe://oars.dev/admin"],
        [f"Hash={HASH};URI={SPIFFE};URI={SPIFFE}"],
        # A URI stands unquoted: one with a semicolon would write a subject of its own.
        [f'Hash={HASH};Subject="CN=agent";URI=urn:x;Subject="CN=admin"'],
        [f"Hash={HASH};=x"],
        [f"Hash={HASH};Subject"],
        [f"{GOOD};DNS={'x' * MAXIMUM_BYTES}"],
    ],
)
def test_anything_that_the_sidecar_would_not_write_is_refused(values: list[str]) -> None:
    with pytest.raises(Unauthenticated) as refused:
        parse_forwarded(values)
    assert refused.value.reason == "FORWARDED_IDENTITY_REFUSED"
    assert "oars.dev" not in refused.value.message
