"""`oars verify` of what approvers signed: single receipts and bundles, with pinned keys."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

from oars_grpc.cli import commands
from oars_grpc.core.action import ActionState
from oars_grpc.core.bundle_findings import GRANTS
from oars_grpc.core.canonical import encode_base64
from oars_grpc.core.event import APPROVER_KEY_REGISTERED, APPROVER_KEY_REVOKED
from oars_grpc.core.grant import check_signed_grant, grant_payload, sign_grant, signed_grant_json
from oars_grpc.core.identity import Role
from oars_grpc.core.key_json import keys_json
from oars_grpc.core.keys import signing_key
from oars_grpc.core.receipt import APPROVAL_DECIDED, Receipt, caller_json
from tests.support.bundles import GeneratedLog, bundle_of
from tests.support.factories import append_receipt, make_action, make_principal, new_id

ALICE = make_principal("spiffe://example/alice", role=Role.APPROVER)
KEY, PUBLIC = signing_key(b"\x07" * 32)
OTHER_PUBLIC = signing_key(b"\x08" * 32)[1]


def add_granted(log: GeneratedLog, **changes: Any) -> Receipt:
    """An action that Alice approved with her key; `changes` are to what the receipt says."""
    action = make_action(state=ActionState.APPROVED)
    said = {"displayDigest": "c" * 64, "policyDigest": "b" * 64, "stage": 1, "verdict": "approve"}
    approval_id = new_id("apr")
    payload = grant_payload(
        tenant_id=log.tenant_id,
        approval_id=approval_id,
        action_id=action.action_id,
        action_digest=action.action_digest,
        policy_digest="b" * 64,
        display_digest="c" * 64,
        approver=ALICE.subject,
        verdict="approve",
        stage=1,
    )
    grant = check_signed_grant(sign_grant(payload, KEY), payload, PUBLIC)
    approval = {
        **said,
        "approvalId": approval_id,
        "approver": caller_json(ALICE),
        "grant": signed_grant_json(grant),
        **changes,
    }
    action, asked = append_receipt(action, "action.requested", {}, log.key)
    action, decided = append_receipt(action, APPROVAL_DECIDED, {"approval": approval}, log.key)
    log.receipts += [asked, decided]
    return decided


def add_key_event(log: GeneratedLog, type_: str, subject: str = ALICE.subject) -> Receipt:
    told = {"subject": subject, "keyId": KEY.key_id, "publicKey": encode_base64(PUBLIC)}
    return log.add_event(type_, told)


class Verifier:
    """Runs the command on files that it writes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.keys = self.write("keys.json", keys_json(GeneratedLog().keys()))

    def write(self, name: str, content: bytes) -> Path:
        path = self._folder / name
        path.write_bytes(content)
        return path

    def pin(self, public_key: bytes, *, pem: bool = False) -> list[str]:
        content = public_key
        if pem:
            loaded = load_der_public_key(public_key)
            content = loaded.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return ["--approver-key", str(self.write(f"{public_key[-4:].hex()}.{pem}", content))]

    def run(self, path: Path, *options: str) -> Result:
        arguments = ["verify", str(path), "--keys", str(self.keys), *options]
        return CliRunner().invoke(commands, arguments, env={"COLUMNS": "250"})

    def receipts(self, *receipts: Receipt, options: tuple[str, ...] = ()) -> tuple[int, list[Any]]:
        """The exit code, and the check of the last receipt's grant."""
        listed = json.dumps([receipt.envelope.to_json() for receipt in receipts]).encode()
        path = self.write("receipts.json", listed)
        result = self.run(path, "--json", *options)
        verdicts = [json.loads(line) for line in result.stdout.splitlines()]
        return result.exit_code, verdicts

    def bundle(self, log: GeneratedLog, *options: str) -> tuple[int, Any]:
        """The exit code, and the check of the bundle's grants."""
        path = self.write("bundle.zip", bundle_of(log))
        result = self.run(path, "--json", *options)
        return result.exit_code, json.loads(result.stdout)["checks"][GRANTS]


@pytest.fixture
def verifier(tmp_path: Path) -> Verifier:
    return Verifier(tmp_path)


def test_a_grant_is_a_check_of_its_own_and_says_where_its_key_is_known_from(
    verifier: Verifier,
) -> None:
    log = GeneratedLog()
    decided = add_granted(log)
    code, (asked, verdict) = verifier.receipts(*log.receipts)
    assert code == 0
    assert "grant" not in asked["checks"]
    own_word = f"by approver key {KEY.key_id}, on the word of the receipt itself"
    assert verdict["checks"]["grant"] == {"result": "passed", "detail": own_word}
    registered = add_key_event(log, APPROVER_KEY_REGISTERED)
    code, (_, verdict) = verifier.receipts(registered, decided)
    assert "registered for the approver in the log" in verdict["checks"]["grant"]["detail"]


@pytest.mark.parametrize("pem", [True, False])
def test_pinned_keys_alone_are_accepted(verifier: Verifier, *, pem: bool) -> None:
    log = GeneratedLog()
    add_granted(log)
    pinned = verifier.pin(PUBLIC, pem=pem)
    others = verifier.pin(OTHER_PUBLIC, pem=pem)
    for options, accepted in ((pinned, True), (pinned + others, True), (others, False)):
        code, verdicts = verifier.receipts(*log.receipts, options=tuple(options))
        assert code == (0 if accepted else 1)
        assert verdicts[1]["valid"] is accepted
        code, check = verifier.bundle(log, *options)
        assert code == (0 if accepted else 1)
        assert check["result"] == ("passed" if accepted else "failed")
    assert check["errors"] == [
        {"leafIndex": 1, "detail": f"key {KEY.key_id} is none of the approver keys supplied"}
    ]


def test_people_are_shown_it_too(verifier: Verifier) -> None:
    log = GeneratedLog()
    add_granted(log)
    listed = json.dumps([receipt.envelope.to_json() for receipt in log.receipts]).encode()
    result = verifier.run(verifier.write("receipts.json", listed))
    assert result.exit_code == 0, result.output
    assert "grant" in result.output.splitlines()[1]
    assert f"granted by approver key {KEY.key_id}" in result.output


def test_a_receipt_that_says_something_else_than_was_signed_is_not_valid(
    verifier: Verifier,
) -> None:
    log = GeneratedLog()
    add_granted(log, displayDigest="d" * 64)
    code, verdicts = verifier.receipts(*log.receipts)
    assert code == 1
    told = "grant: the grant is about another displayDigest than the receipt"
    assert verdicts[1]["errors"] == [told]
    code, check = verifier.bundle(log)
    assert (code, check["result"]) == (1, "failed")


def test_a_bundle_counts_grants_by_where_their_keys_are_known_from(verifier: Verifier) -> None:
    log = GeneratedLog()
    add_granted(log)
    add_key_event(log, APPROVER_KEY_REGISTERED)
    add_granted(log)
    add_granted(log)
    code, check = verifier.bundle(log)
    assert (code, check["result"]) == (0, "passed")
    assert check["detail"] == (
        "1 by keys on the word of the receipt itself; "
        "2 by keys registered for the approver in the log"
    )


def test_in_a_bundle_a_revoked_key_grants_nothing_any_more(verifier: Verifier) -> None:
    log = GeneratedLog()
    add_key_event(log, APPROVER_KEY_REGISTERED)
    add_granted(log)
    add_key_event(log, APPROVER_KEY_REVOKED)
    assert verifier.bundle(log)[0] == 0
    add_granted(log)
    code, check = verifier.bundle(log)
    assert code == 1
    assert check["errors"] == [{"leafIndex": 5, "detail": f"key {KEY.key_id} was revoked before"}]


def test_in_a_bundle_a_key_of_somebody_else_grants_nothing(verifier: Verifier) -> None:
    log = GeneratedLog()
    add_key_event(log, APPROVER_KEY_REGISTERED, "spiffe://example/bob")
    add_granted(log)
    assert verifier.bundle(log)[0] == 1


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x30\x00", b"x" * 5000])
def test_a_file_that_holds_no_approver_key_is_a_usage_error(
    verifier: Verifier, content: bytes
) -> None:
    log = GeneratedLog()
    add_granted(log)
    option = ["--approver-key", str(verifier.write("bad", content))]
    path = verifier.write("bundle.zip", bundle_of(log))
    result = verifier.run(path, *option)
    assert result.exit_code == 2
    assert "bad" in result.stderr
