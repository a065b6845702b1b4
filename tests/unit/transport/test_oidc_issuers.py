import json
from pathlib import Path
from typing import Any

import pytest

from oars_grpc.errors import ConfigurationError, Unauthenticated
from oars_grpc.transport.key_sources import KeySource
from oars_grpc.transport.oidc_issuers import KeyLocation, OidcIssuers, parse_issuers
from tests.support.tokens import ISSUER, OidcFiles, SigningKey, issuer_entry

HTTPS = {"jwksFile": None, "jwksUrl": "https://idp.example.com/jwks"}


def parsed(tmp_path: Path, *entries: Any, development: bool = False) -> list[KeyLocation]:
    """Where the keys of issuers would be."""
    locations: list[KeyLocation] = []
    nothing: Any = None

    def open_keys(location: KeyLocation) -> KeySource:
        locations.append(location)
        return nothing  # type: ignore[no-any-return]  # stands in

    parse_issuers(json.dumps(list(entries)), tmp_path, open_keys, development=development)
    return locations


def problem(tmp_path: Path, *entries: Any, development: bool = False) -> str:
    with pytest.raises(ConfigurationError) as refused:
        parsed(tmp_path, *entries, development=development)
    return refused.value.message


def test_the_least_entry_gives_little(tmp_path: Path) -> None:
    files = OidcFiles(tmp_path)
    files.write()
    found = OidcIssuers(files.path).get(ISSUER)
    assert found is not None
    assert found.algorithms == {"RS256", "ES256"}
    assert found.tenant_ids == {"acme"}
    assert (found.clock_skew_seconds, found.maximum_age_seconds) == (30, 3600)
    assert (found.scope_claim, found.tenant_claim) == (None, None)
    assert found.role_precedence == ()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"issuer": None}, "issuer must be text"),
        ({"issuer": ""}, "issuer must be text"),
        ({"issuer": "idp.example.com"}, "issuer must begin with https://"),
        ({"issuer": "http://idp.example.com"}, "issuer must begin with https://"),
        ({"issuer": "https://"}, "issuer must have a host"),
        ({"issuer": "https://a@idp.example.com"}, "issuer must have a host, and no user"),
        ({"issuer": "https://idp.example.com#a"}, "issuer must have a host, and no user or fra"),
        ({"issuer": "https://idp.example.com?a"}, "issuer must have no query"),
        ({"issuer": "https://idp.example.com/\u0435"}, "issuer must be a URL"),
        ({"issuer": "https://idp.example.com/a b"}, "issuer must be a URL"),
        ({"issuer": "https://[::1"}, "issuer is not a URL"),
        ({"issuer": "https://i/" + "a" * 250}, "issuer must be a URL of at most 250"),
        ({"audiences": None}, "audiences must be a list of texts"),
        ({"audiences": []}, "audiences must not be empty"),
        ({"audiences": "oars"}, "audiences must be a list of texts"),
        ({"audiences": [""]}, "audiences must be a list of texts"),
        ({"jwksFile": None}, "exactly one of jwksFile and jwksUrl"),
        ({"jwksUrl": "https://idp.example.com/jwks"}, "exactly one of jwksFile and jwksUrl"),
        ({**HTTPS, "jwksUrl": "http://idp.example.com/jwks"}, "jwksUrl must begin with https://"),
        ({**HTTPS, "jwksUrl": "http://localhost/jwks"}, "jwksUrl must begin with https://"),
        ({**HTTPS, "jwksUrl": "file:///etc/passwd"}, "jwksUrl must begin with https://"),
        ({**HTTPS, "jwksUrl": "https://u:p@idp.example.com/"}, "no user"),
        ({**HTTPS, "jwksUrl": "https://idp.example.com:99999/"}, "jwksUrl is not a URL"),
        ({**HTTPS, "jwksCaFile": "missing.pem"}, "jwksCaFile: there is no file"),
        ({"jwksCaFile": "missing.pem"}, "jwksCaFile is for jwksUrl"),
        ({"algorithms": ["none"]}, "algorithms takes RS256, PS256, ES256, EdDSA, not 'none'"),
        ({"algorithms": ["HS256"]}, "algorithms takes"),
        ({"algorithms": ["ES256", "ES384"]}, "algorithms takes"),
        ({"algorithms": "ES256"}, "algorithms must be a list"),
        ({"roleMapping": None}, "roleMapping must be an object"),
        ({"roleMapping": {}}, "roleMapping must be an object"),
        ({"roleMapping": {"a": "agent"}}, "roleMapping: 'a' must be one of"),
        ({"roleMapping": {"a": "gateway"}}, "roleMapping: 'a' must be one of"),
        ({"roleMapping": {"a": "Approver"}}, "roleMapping: 'a' must be one of"),
        ({"roleMapping": {"a": "admin"}}, "admin is not among this issuer's roles"),
        ({"roles": ["auditor"]}, "approver is not among this issuer's roles"),
        ({"roles": ["agent", "approver", "auditor"]}, "roles takes admin, operator,"),
        ({"rolePrecedence": ["root"]}, "rolePrecedence takes"),
        ({"roleClaim": []}, "roleClaim must not be empty"),
        ({"roleClaim": 1}, "roleClaim must be a list of texts"),
        ({"roleClaim": ""}, "roleClaim must be a list of texts"),
        ({"subjectClaim": ""}, "subjectClaim must be text"),
        ({"tenantIds": None}, "tenantIds must be a list of texts"),
        ({"tenantIds": []}, "tenantIds must not be empty"),
        ({"tenantIds": ["*"]}, "'*' is no tenant id"),
        ({"tenantIds": ["Acme"]}, "'Acme' is no tenant id"),
        ({"clockSkewSeconds": 121}, "clockSkewSeconds must be from 0 to 120"),
        ({"clockSkewSeconds": -1}, "clockSkewSeconds must be from 0 to 120"),
        ({"clockSkewSeconds": True}, "clockSkewSeconds must be from 0 to 120"),
        ({"clockSkewSeconds": 1.5}, "clockSkewSeconds must be from 0 to 120"),
        ({"maxTokenAgeSeconds": 59}, "maxTokenAgeSeconds must be from 60 to 86400"),
        ({"maxTokenAgeSeconds": "600"}, "maxTokenAgeSeconds must be from 60 to 86400"),
        ({"carriers": "spiffe://x"}, "carriers must be a list of texts"),
        ({"audience": ["oars"]}, "unknown field audience"),
        ({"jwks_uri": "https://x/"}, "unknown field jwks_uri"),
    ],
    ids=str,
)
def test_a_wrong_entry_is_refused_by_its_place(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    good = issuer_entry(issuer="https://other.example.com")
    message = problem(tmp_path, good, issuer_entry(**changes))
    assert message.startswith("issuer 1: ")
    assert said in message


@pytest.mark.parametrize(
    "text", ["", "{}", "null", "[[]]", '[{"issuer": 1, "issuer": 2}]', "\ufeff[]"]
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "oidc.json"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as refused:
        OidcIssuers(path)
    assert refused.value.message.startswith(str(path))


def test_an_issuer_is_listed_once(tmp_path: Path) -> None:
    assert problem(tmp_path, issuer_entry(), issuer_entry()) == (
        f"issuer 1: {ISSUER} is listed twice"
    )
    assert parsed(tmp_path, issuer_entry(), issuer_entry(issuer=ISSUER + "/"))


def test_plain_http_is_for_this_machine_in_development(tmp_path: Path) -> None:
    for host in ("localhost:81", "127.0.0.1", "[::1]:8080"):
        local = issuer_entry(**HTTPS | {"issuer": f"http://{host}", "jwksUrl": f"http://{host}/k"})
        assert parsed(tmp_path, local, development=True)[0].url == f"http://{host}/k"
        assert "must begin with https://" in problem(tmp_path, local)
    for host in ("idp.example.com", "127.0.0.1.example.com", "127.0.0.1@evil.example", "127.1"):
        remote = issuer_entry(**HTTPS | {"jwksUrl": f"http://{host}/k"})
        assert "must begin with https://" in problem(tmp_path, remote, development=True)


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("")
    assert (
        parsed(tmp_path, issuer_entry(jwksFile="keys/a.json"))[0].file == tmp_path / "keys/a.json"
    )
    assert parsed(tmp_path, issuer_entry(jwksFile="/etc/a.json"))[0].file == Path("/etc/a.json")
    assert parsed(tmp_path, issuer_entry(**HTTPS, jwksCaFile="ca.pem"))[0].authorities == (
        tmp_path / "ca.pem"
    )


class File:
    """An OIDC file with a clock that stands still, and what reloading reported."""

    def __init__(self, directory: Path) -> None:
        self.files = OidcFiles(directory)
        self.files.write()
        self.seconds = 100.0
        self.reloads: list[bool] = []
        self.issuers = OidcIssuers(
            self.files.path, monotonic=lambda: self.seconds, on_reload=self.reloads.append
        )

    def known(self, issuer: str = ISSUER, key_id: str = "k1") -> bool:
        self.seconds += 2
        found = self.issuers.get(issuer)
        if found is None:
            return False
        try:
            found.keys.key(key_id)
        except Unauthenticated:
            return False
        return True


@pytest.fixture
def file(tmp_path: Path) -> File:
    return File(tmp_path)


def test_a_changed_file_is_read_again(file: File) -> None:
    assert file.known()
    file.files.write(issuer_entry(issuer="https://next.example.com"))
    assert file.known("https://next.example.com")
    assert not file.known()
    assert file.reloads == [True]


@pytest.mark.parametrize(
    "broken", ["", "[", "{}", json.dumps([issuer_entry(jwksFile="missing.json")])]
)
def test_a_broken_change_keeps_the_old_issuers_and_says_so_once(
    file: File, broken: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file.files.path.write_text(broken)
    assert all([file.known(), file.known(), file.known()])
    assert file.reloads == [False]
    assert "OIDC issuers not reloaded" in capsys.readouterr().out
    file.files.write(issuer_entry(issuer="https://next.example.com"))
    assert file.known("https://next.example.com")
    assert file.reloads == [False, True]


def test_changed_keys_are_read_again_and_broken_ones_keep_the_old(
    file: File, capsys: pytest.CaptureFixture[str]
) -> None:
    file.files.write_keys(SigningKey.new("ES256", "k2"))
    assert file.known(key_id="k2")
    assert not file.known(key_id="k1")
    (file.files.directory / "jwks.json").write_text("{")
    assert file.known(key_id="k2")
    assert file.reloads == [True, False]
    assert f"keys of {ISSUER} not reloaded" in capsys.readouterr().out
    file.files.write_keys(file.files.key)
    assert file.known()
    (file.files.directory / "jwks.json").unlink()
    assert file.known()
