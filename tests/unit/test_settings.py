import base64
from collections.abc import Mapping
from pathlib import Path

import pytest

from oars_grpc.errors import ConfigurationError
from oars_grpc.settings import SETTINGS, Settings, read_key_file, read_settings

KEY = bytes(range(32))


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The least that a server in mode `tls` needs."""
    (tmp_path / "kek").write_text(base64.b64encode(KEY).decode() + "\n")
    (tmp_path / "password").write_text("p@ss/w:rd é\n")
    for name in ("cert.pem", "key.pem", "ca.pem", "identities.json"):
        (tmp_path / name).write_text("[]")
    return {
        "PATH": "/usr/bin",
        "HOARS_X": "not ours",
        "OARS_TLS_CERTIFICATE_FILE": str(tmp_path / "cert.pem"),
        "OARS_TLS_PRIVATE_KEY_FILE": str(tmp_path / "key.pem"),
        "OARS_TLS_CLIENT_CA_FILE": str(tmp_path / "ca.pem"),
        "OARS_TRUSTED_IDENTITIES_FILE": str(tmp_path / "identities.json"),
        "OARS_KEY_ENCRYPTION_KEY_FILE": str(tmp_path / "kek"),
    }


def refusal(environment: Mapping[str, str], **changes: str) -> str:
    with pytest.raises(ConfigurationError) as refused:
        read_settings({**environment, **changes})
    return refused.value.message


def without(environment: Mapping[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name not in names}


def test_the_defaults_are_production_and_mutual_tls(environment: dict[str, str]) -> None:
    found = read_settings(environment)
    assert (found.development, found.mtls_mode, found.listen) == (False, "tls", "127.0.0.1:7443")
    assert found.key_encryption_key == KEY
    assert found.oidc_file is None
    assert found.metrics_listen == ("127.0.0.1", 9464)
    assert (found.database_url, found.migration_database_url) == ("", "")
    assert found.migrate_on_start is True


def test_every_documented_default_is_one_that_is_accepted(environment: dict[str, str]) -> None:
    written = {name: default for name, (default, _) in SETTINGS.items() if default}
    assert read_settings({**written, **environment}) == read_settings(environment)


def test_a_variable_set_to_nothing_is_not_set(environment: dict[str, str]) -> None:
    empty = dict.fromkeys(SETTINGS.keys() - environment.keys(), "")
    assert read_settings({**environment, **empty}) == read_settings(environment)


@pytest.mark.parametrize("name", ["OARS_LISTN", "OARS_", "OARS_listen", "OARS_KEY_ENCRYPTION_KEY"])
@pytest.mark.parametrize("value", ["", "x"])
def test_an_unknown_name_is_an_error(environment: dict[str, str], name: str, value: str) -> None:
    assert refusal(environment, **{name: value}) == f"{name} is not a setting"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OARS_ENV", "Development"),
        ("OARS_ENV", "staging"),
        ("OARS_MTLS_MODE", "none"),
        ("OARS_MIGRATE_ON_START", "yes"),
        ("OARS_LOG_LEVEL", "trace"),
        ("OARS_DATABASE_POOL_SIZE", "1"),
        ("OARS_DATABASE_POOL_SIZE", "501"),
        ("OARS_DATABASE_POOL_SIZE", "-5"),
        ("OARS_DATABASE_POOL_SIZE", "16.0"),
        ("OARS_DATABASE_POOL_SIZE", " 16"),
        ("OARS_DATABASE_POOL_SIZE", "1_6"),
        ("OARS_DATABASE_POOL_SIZE", "\uff11\uff16"),
        ("OARS_STATEMENT_TIMEOUT_MS", "0"),
        ("OARS_WORKER_THREADS", "0"),
        ("OARS_WORKER_THREADS", "9" * 5000),  # int() itself refuses so many digits
        ("OARS_PROCESSOR", "-1"),
        ("OARS_PROCESSOR", "all"),
        ("OARS_QUEUED_RPCS", "0"),
        ("OARS_STREAMS", "0"),
        ("OARS_WATCH_SECONDS", "86401"),
        ("OARS_DRAIN_SECONDS", "3601"),
        ("OARS_UPKEEP_SECONDS", "0"),
        ("OARS_LOG_ORIGIN", "oars/"),
        ("OARS_LOG_ORIGIN", "my oars"),
        ("OARS_LOG_ORIGIN", "my+oars"),
        ("OARS_LOG_ORIGIN", "oars\n"),
        ("OARS_LOG_ORIGIN", "o" * 256),
        ("OARS_RATE_LIMIT", "fast"),
        ("OARS_RATE_LIMIT", "10/fortnight"),
        ("OARS_METRICS_LISTEN", "9464"),
        ("OARS_METRICS_LISTEN", ":9464"),
        ("OARS_METRICS_LISTEN", "localhost:"),
        ("OARS_METRICS_LISTEN", "localhost:65536"),
        ("OARS_METRICS_LISTEN", "localhost:" + "9" * 5000),
        ("OARS_METRICS_LISTEN", "localhost:http"),
        ("OARS_DATABASE_URL", "mysql://localhost/oars"),
        ("OARS_DATABASE_URL", "localhost/oars"),
        ("OARS_DATABASE_URL", "postgresql://[::1/oars"),
        ("OARS_MIGRATION_DATABASE_URL", "sqlite:///oars"),
        ("OARS_TRUSTED_IDENTITIES_FILE", "missing.json"),
        ("OARS_TRUSTED_IDENTITIES_FILE", "."),
        ("OARS_OIDC_FILE", "missing.json"),
        ("OARS_OIDC_FILE", "."),
        ("OARS_TLS_CERTIFICATE_FILE", "missing.pem"),
        ("OARS_KEY_ENCRYPTION_KEY_FILE", "missing"),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_name(
    environment: dict[str, str], name: str, value: str
) -> None:
    assert refusal(environment, **{name: value}).startswith(name)


@pytest.mark.parametrize(
    "name",
    [
        "OARS_TRUSTED_IDENTITIES_FILE",
        "OARS_KEY_ENCRYPTION_KEY_FILE",
        "OARS_TLS_CERTIFICATE_FILE",
        "OARS_TLS_PRIVATE_KEY_FILE",
        "OARS_TLS_CLIENT_CA_FILE",
    ],
)
def test_what_tls_needs_is_required(environment: dict[str, str], name: str) -> None:
    assert refusal(without(environment, name)).startswith(f"{name} is required")


def test_mode_off_is_for_development_on_loopback_alone(environment: dict[str, str]) -> None:
    off = {**environment, "OARS_MTLS_MODE": "off", "OARS_DEVELOPMENT_IDENTITY": "cn"}
    assert "OARS_ENV=development" in refusal(off)
    development = {**off, "OARS_ENV": "development"}
    for listen in ("0.0.0.0:7443", "[::]:7443", ":7443", "10.0.0.1:1", "localhost.evil:1"):
        assert "loopback" in refusal(development, OARS_LISTEN=listen)
    for listen in ("127.0.0.1:7443", "localhost:7443", "[::1]:7443", "unix:/run/oars.sock"):
        assert read_settings({**development, "OARS_LISTEN": listen}).listen == listen
    assert refusal(without(development, "OARS_DEVELOPMENT_IDENTITY")).startswith(
        "OARS_DEVELOPMENT_IDENTITY is required"
    )


def test_a_socket_is_for_the_sidecar_and_needs_no_tls(environment: dict[str, str]) -> None:
    assert "sidecar" in refusal(environment, OARS_LISTEN="unix:/run/oars.sock")
    tls = ("OARS_TLS_CERTIFICATE_FILE", "OARS_TLS_PRIVATE_KEY_FILE", "OARS_TLS_CLIENT_CA_FILE")
    sidecar = {**without(environment, *tls), "OARS_MTLS_MODE": "sidecar"}
    found = read_settings({**sidecar, "OARS_LISTEN": "unix:/run/oars.sock"})
    assert found.certificate_file is None


def test_a_sidecar_over_tcp_is_known_by_its_certificate(environment: dict[str, str]) -> None:
    sidecar = {**environment, "OARS_MTLS_MODE": "sidecar"}
    assert refusal(sidecar).startswith("OARS_SIDECAR_SPIFFE_ID is required")
    sidecar["OARS_SIDECAR_SPIFFE_ID"] = "spiffe://example/envoy"
    assert read_settings(sidecar).sidecar_spiffe_id == "spiffe://example/envoy"
    for name in ("OARS_TLS_CERTIFICATE_FILE", "OARS_TLS_CLIENT_CA_FILE"):
        assert refusal(without(sidecar, name)).startswith(f"{name} is required")


def test_metrics_can_be_off_and_elsewhere(environment: dict[str, str]) -> None:
    assert read_settings({**environment, "OARS_METRICS_LISTEN": "off"}).metrics_listen is None
    elsewhere = {**environment, "OARS_METRICS_LISTEN": "[::1]:0"}
    assert read_settings(elsewhere).metrics_listen == ("::1", 0)


def with_database(environment: dict[str, str], tmp_path: Path) -> Settings:
    return read_settings(
        {
            **environment,
            "OARS_DATABASE_URL": "postgres://app@db:5432/oars?sslmode=verify-full",
            "OARS_MIGRATION_DATABASE_URL": "postgresql+psycopg://owner@db/oars",
            "OARS_DATABASE_PASSWORD_FILE": str(tmp_path / "password"),
        }
    )


def test_the_database_password_comes_from_a_file(
    environment: dict[str, str], tmp_path: Path
) -> None:
    found = with_database(environment, tmp_path)
    quoted = "p%40ss%2Fw%3Ard%20%C3%A9"
    assert found.database_url == f"postgresql://app:{quoted}@db:5432/oars?sslmode=verify-full"
    assert found.migration_database_url == f"postgresql://owner:{quoted}@db/oars"


@pytest.mark.parametrize("url", ["postgresql://app:secret@db/oars", "postgresql://db/oars"])
def test_a_password_file_asks_for_a_user_and_no_other_password(
    environment: dict[str, str], tmp_path: Path, url: str
) -> None:
    message = refusal(
        environment,
        OARS_DATABASE_URL=url,
        OARS_DATABASE_PASSWORD_FILE=str(tmp_path / "password"),
    )
    assert message.startswith("OARS_DATABASE_URL must name a user")
    assert "secret" not in message


def test_a_password_file_of_something_else_is_refused(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "password").write_bytes(b"\xff\xfe")
    url = "postgresql://app@db/oars"
    password = str(tmp_path / "password")
    message = refusal(environment, OARS_DATABASE_URL=url, OARS_DATABASE_PASSWORD_FILE=password)
    assert "is not a file of text" in message


def test_secrets_are_not_in_the_text_of_the_settings(
    environment: dict[str, str], tmp_path: Path
) -> None:
    text = f"{with_database(environment, tmp_path)!r}"
    for secret in ("p@ss", "p%40ss", repr(KEY), "\\x01", "app", "owner"):
        assert secret not in text


def test_a_wrong_url_is_refused_without_showing_it(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError) as refused:
        read_settings({**environment, "OARS_DATABASE_URL": "postgresql://a:secret@[x/oars"})
    assert "secret" not in refused.value.message
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "holds 0 bytes"),
        (base64.b64encode(KEY[:31]), "holds 31 bytes"),
        (base64.b64encode(KEY + b"x"), "holds 33 bytes"),
        (KEY.hex().encode(), "holds 48 bytes"),
        (base64.b64encode(KEY)[:-1], "is not a file of base64"),
        (b"\xff" * 32, "is not a file of base64"),
        (
            base64.b64encode(KEY)[:20] + b"\n" + base64.b64encode(KEY)[20:],
            "is not a file of base64",
        ),
    ],
)
def test_a_file_that_holds_no_key_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "kek"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=problem):
        read_key_file(path)


def test_white_space_around_a_key_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "kek"
    path.write_bytes(b" \n" + base64.b64encode(KEY) + b"\r\n")
    assert read_key_file(path) == KEY
