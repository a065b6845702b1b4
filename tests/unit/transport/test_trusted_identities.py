import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oars_grpc.core.identity import Principal, Role
from oars_grpc.errors import ConfigurationError, Unauthenticated
from oars_grpc.transport.forwarded import PeerCertificate
from oars_grpc.transport.trusted_identities import TrustedIdentities, parse_identities

FINGERPRINT = "ab" * 32
AGENT = "spiffe://oars.dev/agent"
ENTRY = {"spiffeId": AGENT, "role": "agent", "tenantIds": ["acme"]}


def entry(**changes: Any) -> dict[str, Any]:
    return {name: value for name, value in {**ENTRY, **changes}.items() if value is not ...}


def parsed(**changes: Any) -> Principal:
    (principal,) = parse_identities(json.dumps([entry(**changes)])).values()
    return principal


def test_the_least_entry_may_act_for_nobody_else() -> None:
    assert parsed() == Principal(
        subject=AGENT,
        fingerprint_sha256="",
        role=Role.AGENT,
        tenant_ids=frozenset({"acme"}),
        agent_ids=None,
        scopes=None,
        may_act_for_users=frozenset(),
    )


def test_a_full_entry_says_everything() -> None:
    found = parsed(
        spiffeId=...,
        subject="CN=agent,O=Example",
        fingerprintSha256=":".join(["AB"] * 32),
        serviceAccountId="sa-1",
        agentIds=["a-1"],
        scopes=["actions"],
        mayActForUsers=["alice", "bob"],
        attributes={"team": "support"},
    )
    assert found == Principal(
        subject="CN=agent,O=Example",
        fingerprint_sha256=FINGERPRINT,
        role=Role.AGENT,
        tenant_ids=frozenset({"acme"}),
        service_account_id="sa-1",
        agent_ids=frozenset({"a-1"}),
        scopes=frozenset({"actions"}),
        may_act_for_users=frozenset({"alice", "bob"}),
        attributes={"team": "support"},
    )


@pytest.mark.parametrize(
    ("given", "users"),
    [
        (False, frozenset()),
        ([], frozenset()),
        (True, None),
        (["*"], None),
        (["*", "alice"], None),
        (["alice"], frozenset({"alice"})),
    ],
)
def test_whom_an_identity_may_act_for(given: Any, users: frozenset[str] | None) -> None:
    assert parsed(mayActForUsers=given).may_act_for_users == users


@pytest.mark.parametrize("role", list(Role))
def test_every_role_can_be_given_and_only_admins_all_tenants(role: Role) -> None:
    assert parsed(role=role.value).role is role
    text = json.dumps([entry(role=role.value, tenantIds=["*"])])
    if role is Role.ADMIN:
        assert parse_identities(text)[AGENT].tenant_ids == {"*"}
    else:
        with pytest.raises(ConfigurationError, match=r"'\*' is for admins"):
            parse_identities(text)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"spiffeId": ...}, "exactly one of spiffeId and subject"),
        ({"subject": "CN=x"}, "exactly one of spiffeId and subject"),
        ({"spiffeId": ""}, "spiffeId must be text"),
        ({"spiffeId": None}, "spiffeId must be text"),
        ({"spiffeId": ["x"]}, "spiffeId must be text"),
        ({"spiffeId": "https://oars.dev/agent"}, "must begin with spiffe://"),
        ({"spiffeId": ..., "subject": "oidc:https://i#alice"}, "must not begin with oidc:"),
        ({"role": ...}, "role must be text"),
        ({"role": "root"}, "role must be one of"),
        ({"role": "Admin"}, "role must be one of"),
        ({"role": {}}, "role must be text"),
        ({"tenantIds": ...}, "tenantIds must be a list of texts"),
        ({"tenantIds": "acme"}, "tenantIds must be a list of texts"),
        ({"tenantIds": [1]}, "tenantIds must be a list of texts"),
        ({"tenantIds": [""]}, "tenantIds must be a list of texts"),
        ({"tenantIds": ["Acme"]}, "'Acme' is no tenant id"),
        ({"tenantIds": ["acme\n"]}, "is no tenant id"),
        ({"tenantIds": ["a" * 65]}, "is no tenant id"),
        ({"fingerprintSha256": "ab"}, "64 hex digits"),
        ({"fingerprintSha256": "g" * 64}, "64 hex digits"),
        ({"fingerprintSha256": 7}, "fingerprintSha256 must be text"),
        ({"serviceAccountId": 7}, "serviceAccountId must be text"),
        ({"agentIds": None}, "agentIds must be a list of texts"),
        ({"agentIds": "a-1"}, "agentIds must be a list of texts"),
        ({"scopes": {}}, "scopes must be a list of texts"),
        ({"mayActForUsers": "alice"}, "mayActForUsers must be a list of texts"),
        ({"mayActForUsers": 1}, "mayActForUsers must be a list of texts"),
        ({"mayActForUsers": None}, "mayActForUsers must be a list of texts"),
        ({"attributes": []}, "attributes must be an object of texts"),
        ({"attributes": {"n": 1}}, "attributes must be an object of texts"),
        ({"agentIDs": ["a-1"]}, "unknown field agentIDs"),
        ({"tenant_ids": ["acme"]}, "unknown field tenant_ids"),
    ],
)
def test_a_wrong_entry_is_refused_by_its_place(changes: dict[str, Any], problem: str) -> None:
    good = entry(spiffeId="spiffe://oars.dev/other")
    with pytest.raises(ConfigurationError) as refused:
        parse_identities(json.dumps([good, entry(**changes)]))
    assert refused.value.message.startswith("entry 1: ")
    assert problem in refused.value.message


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "not JSON"),
        ("[", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("{}", "must be a JSON list"),
        ("null", "must be a JSON list"),
        ("[[]]", "entry 0: must be an object"),
        ("[null]", "entry 0: must be an object"),
        (json.dumps([ENTRY, ENTRY]), f"entry 1: {AGENT} is listed twice"),
        (json.dumps([ENTRY])[:-2] + ', "role": "admin"}]', "a member is given twice"),
    ],
)
def test_a_file_of_something_else_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        parse_identities(text)
    assert problem in refused.value.message


class File:
    """An identities file, a clock that stands still, and what reloading reported."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds = 100.0
        self.reloads: list[bool] = []
        self.write([entry()])
        self.identities = TrustedIdentities(
            path, monotonic=lambda: self.seconds, on_reload=self.reloads.append
        )

    def write(self, content: Any) -> None:
        text = content if isinstance(content, str) else json.dumps(content)
        # Renamed into place, as an operator's tools do: the inode differs, whatever the clock says.
        unfinished = self.path.with_suffix(".unfinished")
        unfinished.write_text(text)
        unfinished.replace(self.path)

    def role(self, subject: str = AGENT) -> str:
        try:
            return self.identities.principal(PeerCertificate(FINGERPRINT, "", subject)).role.value
        except Unauthenticated as refused:
            return refused.reason


@pytest.fixture
def file(tmp_path: Path) -> File:
    return File(tmp_path / "identities.json")


def test_a_certificate_is_known_by_its_spiffe_id_with_the_fingerprint_it_showed(
    file: File,
) -> None:
    found = file.identities.principal(PeerCertificate(FINGERPRINT, "CN=x", AGENT))
    assert (found.subject, found.fingerprint_sha256) == (AGENT, FINGERPRINT)


def test_a_valid_certificate_that_is_not_listed_is_nobody(file: File) -> None:
    for certificate in (
        PeerCertificate(FINGERPRINT, "", ""),
        PeerCertificate(FINGERPRINT, "CN=x", ""),
        PeerCertificate(FINGERPRINT, "", "spiffe://oars.dev/other"),
        PeerCertificate(FINGERPRINT, "", AGENT.upper()),
        PeerCertificate(FINGERPRINT, "", AGENT + "/"),
    ):
        with pytest.raises(Unauthenticated) as refused:
            file.identities.principal(certificate)
        assert refused.value.reason == "IDENTITY_NOT_TRUSTED"


def test_a_pinned_identity_is_that_certificate_alone(file: File) -> None:
    file.write([entry(fingerprintSha256=FINGERPRINT)])
    file.seconds += 2
    assert file.role() == "agent"
    with pytest.raises(Unauthenticated) as refused:
        file.identities.principal(PeerCertificate("cd" * 32, "", AGENT))
    assert refused.value.reason == "CERTIFICATE_NOT_PINNED"


def test_in_development_an_identity_is_named_without_a_certificate(file: File) -> None:
    assert file.identities.by_subject(AGENT).subject == AGENT
    with pytest.raises(Unauthenticated) as refused:
        file.identities.by_subject("spiffe://oars.dev/other")
    assert refused.value.reason == "IDENTITY_NOT_TRUSTED"


def test_a_changed_file_is_read_again_within_a_second(file: File) -> None:
    file.write([entry(role="auditor")])
    file.seconds += 0.5
    assert file.role() == "agent"
    file.seconds += 0.6
    assert file.role() == "auditor"
    assert file.reloads == [True]


def test_an_identity_taken_out_of_the_file_is_refused(file: File) -> None:
    file.write([])
    file.seconds += 2
    assert file.role() == "IDENTITY_NOT_TRUSTED"


@pytest.mark.parametrize("broken", ["", "[", "{}", [entry(role="root")], "\ufeff[]"])
def test_a_broken_change_keeps_the_old_identities_and_says_so_once(
    file: File, broken: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write(broken)
    for _ in range(3):
        file.seconds += 2
        assert file.role() == "agent"
    assert file.reloads == [False]
    assert "not reloaded" in capsys.readouterr().out
    file.write([entry(role="operator")])
    file.seconds += 2
    assert file.role() == "operator"
    assert file.reloads == [False, True]


def test_a_file_that_goes_away_keeps_the_old_identities(file: File) -> None:
    file.path.unlink()
    file.seconds += 2
    assert file.role() == "agent"
    assert file.reloads == [False]
    file.write([entry(role="auditor")])
    file.seconds += 2
    assert file.role() == "auditor"


def test_an_unchanged_file_is_not_read_again(file: File) -> None:
    for _ in range(5):
        file.seconds += 2
        file.role()
    assert file.reloads == []


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.write_text("["),
        lambda path: path.write_bytes(b"\xff"),
        lambda path: path.mkdir(),
        lambda _: None,
    ],
    ids=["broken", "not UTF-8", "a folder", "missing"],
)
def test_the_server_does_not_start_on_a_broken_file(
    tmp_path: Path, make: Callable[[Path], object]
) -> None:
    path = tmp_path / "identities.json"
    make(path)
    with pytest.raises(ConfigurationError) as refused:
        TrustedIdentities(path)
    assert refused.value.message.startswith(str(path))
