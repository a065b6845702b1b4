"""`oars policy publish` and `diff --published` against a running server."""

import json
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from oars_grpc.cli import commands
from oars_grpc.local.stack import LocalStack
from tests.support.client import Client, client_for
from tests.support.identities import add_identity

EXAMPLES = Path(__file__).resolve().parents[2] / "deploy" / "policies"
TENANT = "tenant_policy_files"
ADMIN = "policy-files-admin"


@pytest.fixture(scope="module")
def owner(stack: LocalStack) -> Iterator[Client]:
    """The administrator of a tenant of its own: publishing changes what is decided."""
    add_identity(stack, ADMIN, role="admin", tenants=[TENANT])
    with client_for(stack, ADMIN) as client:
        created = client.rest.post("/v1/tenants", json={"tenantId": TENANT})
        assert created.status_code in {200, 409}, created.text
        yield client


@pytest.fixture
def connection(stack: LocalStack, owner: Client, tmp_path: Path) -> Path:
    found = json.loads((stack.certificates.parent / "connection.json").read_text())
    identity = {
        "certificate": str(stack.certificates / f"{ADMIN}.pem"),
        "private_key": str(stack.certificates / f"{ADMIN}.key"),
    }
    path = tmp_path / "connection.json"
    identities = {"admin": identity, "auditor": identity}
    path.write_text(json.dumps(found | {"tenant": TENANT, "identities": identities}))
    return path


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """A copy of the example, of a name of its own so that its digest is new."""
    for name in ("payments.yaml", "payments.cases.yaml"):
        shutil.copy(EXAMPLES / name, tmp_path / name)
    path = tmp_path / "payments.yaml"
    text = path.read_text()
    assert "name: payments\n" in text
    path.write_text(text.replace("name: payments\n", f"name: payments {uuid.uuid4()}\n"))
    return path


def oars(command: str, path: Path, connection: Path, *options: str) -> Result:
    arguments = ["policy", command, str(path), "--connection", str(connection), *options]
    return CliRunner().invoke(commands, arguments)


def published(owner: Client) -> dict[str, Any]:
    listed = owner.rest.get("/v1/policies").json()["policies"]
    (found,) = [policy for policy in listed if policy["state"] == "POLICY_STATE_PUBLISHED"]
    assert isinstance(found, dict)
    return found


def number_of_policies(owner: Client) -> int:
    return len(owner.rest.get("/v1/policies").json()["policies"])


def test_a_file_is_compared_published_and_found_published(
    owner: Client, connection: Path, example: Path
) -> None:
    before, count = published(owner), number_of_policies(owner)
    compared = oars("diff", example, connection, "--published", "--exit-code")
    assert compared.exit_code == 1, compared.output
    assert f"--- published policy {before['policyId']}, version" in compared.stdout
    assert "+ rule allow-refund (ALLOW)" in compared.stdout

    tried = oars("publish", example, connection, "--dry-run")
    assert tried.exit_code == 0, tried.output
    assert "would publish a new policy of digest" in tried.stdout
    assert published(owner) == before
    assert number_of_policies(owner) == count

    done = oars("publish", example, connection)
    assert done.exit_code == 0, done.output
    after = published(owner)
    assert after["policyId"] != before["policyId"]
    assert f"policy {after['policyId']}, version {after['version']}" in done.stdout
    assert f"digest {after['digest']} is published" in done.stdout

    again = oars("publish", example, connection)
    assert again.exit_code == 0
    assert "is published already" in again.stdout
    assert number_of_policies(owner) == count + 1
    same = oars("diff", example, connection, "--published", "--exit-code")
    assert same.exit_code == 0, same.output
    assert "say the same" in same.stdout


def test_what_was_published_before_is_published_again(
    owner: Client, connection: Path, example: Path, tmp_path: Path
) -> None:
    """The same keys within a day: each publication takes effect, and no draft is made twice."""
    other = tmp_path / "other.yaml"
    other.write_text(example.read_text().replace("name: payments", "name: payouts"))
    digests = []
    for path in (example, other, example, other):
        done = oars("publish", path, connection)
        assert done.exit_code == 0, done.output
        digests.append(published(owner)["digest"])
    assert digests == digests[:2] * 2
    assert digests[0] != digests[1]


def test_a_draft_that_was_put_away_is_made_anew(
    owner: Client, connection: Path, example: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(example.read_text().replace("name: payments", "name: payouts"))
    assert oars("publish", example, connection).exit_code == 0
    first = published(owner)
    assert oars("publish", other, connection).exit_code == 0
    archived = owner.rest.post(f"/v1/policies/{first['policyId']}/archive", json={})
    assert archived.status_code == 200, archived.text
    done = oars("publish", example, connection)
    assert done.exit_code == 0, done.output
    now = published(owner)
    assert now["digest"] == first["digest"]
    assert now["policyId"] != first["policyId"]


def test_nothing_is_published_that_fails_its_checks_or_cases(
    owner: Client, connection: Path, example: Path, tmp_path: Path
) -> None:
    before, count = published(owner), number_of_policies(owner)
    text = example.read_text()

    example.write_text(text.replace("input.amount > 5000", "input.amount > 50000"))
    failed = oars("publish", example, connection)
    assert failed.exit_code == 1
    assert "FAIL  a large refund is refused" in failed.stdout
    assert "1 cases failed; not published" in failed.stderr

    example.write_text(text.replace("input.amount > 5000", "inputs.amount > 5000"))
    refused = oars("publish", example, connection)
    assert refused.exit_code == 1
    assert "rule deny-large-refund: condition: undeclared reference" in refused.stderr

    example.write_text(text.replace("[get_balance, list_refunds]\n      r", "[x]\n      r"))
    assert oars("publish", example, connection, "--strict").exit_code == 1
    assert published(owner) == before
    assert number_of_policies(owner) == count


def test_what_the_server_refuses_is_told(
    owner: Client, connection: Path, example: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer server may know faults that this command does not."""
    text = example.read_text()
    example.write_text(
        text.replace(
            "    decision: APPROVE\n", "    decision: APPROVE\n    workflow_id: nobody\n", 1
        )
    )
    refused = oars("publish", example, connection)
    assert refused.exit_code == 1
    assert "the server refused" in refused.stderr
    assert "workflow nobody" in refused.stderr

    from oars_grpc.cli import policy_client
    from oars_grpc.transport.policy_messages import write_document

    def broken(document: Any) -> Any:
        message = write_document(document)
        message.rules[2].condition = "true &&\n  nonsense"
        return message

    monkeypatch.setattr(policy_client, "write_document", broken)
    example.write_text(text)
    refused = oars("publish", example, connection)
    assert refused.exit_code == 1
    line = 1 + text[: text.index("input.amount > 5000\n")].count("\n")
    assert f"{example}:{line}:" in refused.stderr
    assert "rule deny-large-refund: condition: undeclared reference" in refused.stderr


def test_another_tenants_administrator_publishes_nothing(connection: Path, example: Path) -> None:
    refused = oars("publish", example, connection, "--tenant", "tenant_alpha")
    assert refused.exit_code == 1
    assert "the server refused" in refused.stderr
