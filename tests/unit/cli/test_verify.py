"""`oars verify` over real files, through the command itself."""

import base64
import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from google.protobuf.json_format import MessageToDict

from oars_grpc.cli import commands
from oars_grpc.core.action_evidence import ActionEvidence, EvidenceItem, listed_items
from oars_grpc.core.canonical import sha256_hex, statement_json
from oars_grpc.core.envelope import Signature, sign_payload
from oars_grpc.core.evidence_scoring import assess_inline
from oars_grpc.core.keys import KeyState, TrustedKey
from oars_grpc.core.receipt import Receipt
from oars_grpc.generated.oars.v1 import receipt_pb2
from oars_grpc.transport.key_messages import write_key
from oars_grpc.transport.receipt_messages import write_receipt
from tests.support.factories import (
    NOW,
    append_receipt,
    make_action,
    make_request,
    make_signing_key,
    make_stored_key,
)
from tests.support.verify_command import (
    CHAIN,
    TRUSTED,
    VerifyCommand,
    keys_json,
    receipt_json,
    results,
)


@pytest.fixture
def run(tmp_path: Path) -> VerifyCommand:
    return VerifyCommand(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        CHAIN[0].envelope.to_json(),
        [CHAIN[0].envelope.to_json()],
        receipt_json(CHAIN[0]),
        {"receipt": receipt_json(CHAIN[0])},
        {"receipts": [receipt_json(CHAIN[0])], "nextPageToken": "x"},
        [[{"envelope": CHAIN[0].envelope.to_json()}]],
    ],
    ids=["envelope", "list", "receipt", "answer", "page", "nested"],
)
def test_a_receipt_is_verified_in_whatever_form_it_came(run: VerifyCommand, content: Any) -> None:
    code, (verdict,) = run.verdicts(content)
    assert code == 0
    assert verdict["valid"] is True
    assert verdict["receiptId"] == CHAIN[0].receipt_id
    assert verdict["keyId"] == TRUSTED.key_id
    assert list(verdict["checks"]) == ["signature", "key_trust", "schema", "chain", "inclusion"]
    assert results(verdict) == [*["passed"] * 4, "not_checked"]
    assert verdict["errors"] == []


def test_the_snake_case_of_the_api_is_read_too(run: VerifyCommand) -> None:
    receipt = MessageToDict(write_receipt(CHAIN[0]), preserving_proto_field_name=True)
    message = receipt_pb2.ListTrustedKeysResponse(keys=[write_key(TRUSTED)])
    keys = MessageToDict(message, preserving_proto_field_name=True)
    assert run.verdicts(receipt, keys=keys)[0] == 0


def test_a_bare_list_of_keys_will_do(run: VerifyCommand) -> None:
    assert run.verdicts(receipt_json(CHAIN[0]), keys=keys_json(TRUSTED)["keys"])[0] == 0


def test_receipts_given_together_are_checked_as_a_chain_in_any_order(run: VerifyCommand) -> None:
    code, verdicts = run.verdicts(*(receipt_json(receipt) for receipt in reversed(CHAIN)))
    assert code == 0
    assert [results(verdict) for verdict in verdicts] == [[*["passed"] * 4, "not_checked"]] * 3


def test_a_receipt_without_its_predecessor_says_that_the_chain_is_unchecked(
    run: VerifyCommand,
) -> None:
    code, (verdict,) = run.verdicts(receipt_json(CHAIN[2]))
    assert code == 0
    assert verdict["checks"]["chain"] == {
        "result": "not_checked",
        "detail": "receipt 2 of the chain was not supplied",
    }


def test_a_person_reads_a_table(run: VerifyCommand) -> None:
    result = run(receipt_json(CHAIN[1]), receipt_json(CHAIN[2]))
    assert result.exit_code == 0
    for text in ("action.approved", "action.executed", CHAIN[1].receipt_id, "not checked"):
        assert text in result.stdout
    assert result.stdout.count("valid") == 2


def tampered(receipt: Receipt, **changes: Any) -> dict[str, Any]:
    return replace(receipt.envelope, **changes).to_json()


PAYLOAD = CHAIN[0].envelope.payload.replace(b"get_issue", b"del_issue")
SIG = CHAIN[0].envelope.signatures[0]


@pytest.mark.parametrize(
    ("content", "failed"),
    [
        (tampered(CHAIN[0], payload=PAYLOAD), ["signature"]),
        (tampered(CHAIN[0], payload=b"{}"), ["signature", "schema"]),
        (tampered(CHAIN[0], payload_type="text/plain"), ["signature", "schema"]),
        (tampered(CHAIN[0], signatures=()), ["signature"]),
        (tampered(CHAIN[0], signatures=(SIG, SIG)), ["signature"]),
        (tampered(CHAIN[0], signatures=(Signature(SIG.keyid, bytes(64)),)), ["signature"]),
        (tampered(CHAIN[0], signatures=(Signature("other", SIG.sig),)), ["signature"]),
    ],
)
def test_a_tampered_receipt_ends_with_one_and_names_the_check(
    run: VerifyCommand, content: Any, failed: list[str]
) -> None:
    code, (verdict,) = run.verdicts(content)
    assert (code, verdict["valid"]) == (1, False)
    found = [n for n, check in verdict["checks"].items() if check["result"] == "failed"]
    assert found == failed
    result = run(content)
    assert result.exit_code == 1
    assert "NOT VALID" in result.stdout
    for error in verdict["errors"]:
        assert error[:30] in result.stdout


def test_one_bad_receipt_among_good_ones_ends_with_one(run: VerifyCommand) -> None:
    code, verdicts = run.verdicts(
        [receipt_json(CHAIN[0]), tampered(CHAIN[1], payload=PAYLOAD), receipt_json(CHAIN[2])]
    )
    assert code == 1
    # The third has lost the one before it: what was given in its place is no receipt.
    assert [verdict["valid"] for verdict in verdicts] == [True, False, False]
    assert verdicts[2]["errors"] == ["chain: receipt 2 of the chain is missing"]


def test_a_receipt_missing_between_others_is_found(run: VerifyCommand) -> None:
    code, verdicts = run.verdicts(receipt_json(CHAIN[0]), receipt_json(CHAIN[2]))
    assert code == 1
    assert [verdict["valid"] for verdict in verdicts] == [True, False]
    assert verdicts[1]["errors"] == ["chain: receipt 2 of the chain is missing"]


def test_two_signed_receipts_at_one_place_are_a_fork(run: VerifyCommand) -> None:
    action = append_receipt(make_action(action_id=CHAIN[0].action_id), "action.requested")[0]
    other = append_receipt(action, "action.denied")[1]
    code, verdicts = run.verdicts([receipt_json(receipt) for receipt in (*CHAIN, other)])
    assert code == 1
    claims = ["another receipt claims place 2" in str(verdict["errors"]) for verdict in verdicts]
    assert claims == [False, True, False, True]


def test_a_forged_receipt_convicts_itself_alone(run: VerifyCommand) -> None:
    forged = tampered(CHAIN[1], payload=CHAIN[1].envelope.payload.replace(b"get_", b"del_"))
    code, verdicts = run.verdicts([receipt_json(receipt) for receipt in CHAIN], forged)
    assert code == 1
    assert [verdict["valid"] for verdict in verdicts] == [True, True, True, False]


def test_a_rewritten_receipt_breaks_the_chain_after_it(run: VerifyCommand) -> None:
    """Signed by the tenant's own key: only the receipt after it can tell."""
    action = make_action(action_id=CHAIN[0].action_id)
    rewritten = append_receipt(action, "action.requested", {"note": "other"})[1]
    code, verdicts = run.verdicts(receipt_json(rewritten), receipt_json(CHAIN[1]))
    assert code == 1
    assert [verdict["valid"] for verdict in verdicts] == [True, False]
    assert verdicts[1]["checks"]["chain"]["result"] == "failed"


def test_what_the_answer_says_beside_the_envelope_is_not_believed(run: VerifyCommand) -> None:
    posing = {**receipt_json(CHAIN[0]), "receiptId": "rcpt_other", "type": "action.denied"}
    _, (verdict,) = run.verdicts(posing)
    assert verdict["receiptId"] == CHAIN[0].receipt_id


@pytest.mark.parametrize(
    ("key", "check"),
    [
        (make_stored_key(seed=bytes(32)).trusted, "signature"),
        (replace(make_stored_key(seed=bytes(32)).trusted, key_id=TRUSTED.key_id), "signature"),
        (replace(TRUSTED, tenant_id="globex"), "key_trust"),
        (replace(TRUSTED, valid_from=NOW.replace(year=2027)), "key_trust"),
        (replace(TRUSTED, valid_until=NOW), "key_trust"),
        (replace(TRUSTED, state=KeyState.REVOKED, revoked_at=NOW), "key_trust"),
    ],
    ids=["another", "mislabelled", "other tenant", "not yet valid", "over", "revoked"],
)
def test_under_another_key_nothing_is_valid(
    run: VerifyCommand, key: TrustedKey, check: str
) -> None:
    code, (verdict,) = run.verdicts(receipt_json(CHAIN[0]), keys=keys_json(key))
    assert code == 1
    assert verdict["checks"][check]["result"] == "failed"


def test_without_keys_nothing_is_valid(run: VerifyCommand) -> None:
    assert run.verdicts(receipt_json(CHAIN[0]), keys={"keys": []})[0] == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not json",
        b"\xff\xfe\x00",
        b"{",
        b"[" * 100_000,
        b"[" * 980 + b"]" * 980,
        b'{"receipt":' * 900 + b"1" + b"}" * 900,
        b"9" * 10_000,
        b"7",
        b"null",
        b'"text"',
        b"[]",
        b"{}",
        b'{"receipts":[]}',
        b'{"receipts":7}',
        b'{"envelope":null}',
        b'{"payload":7}',
        b'{"payload":"!","payloadType":"x","signatures":[]}',
        b'{"payload":"\xc3\xa9","payloadType":"x","signatures":[]}',
        b'{"payload":"","payloadType":"x","signatures":[{"keyid":"k"}]}',
        b'[{"receipt":{}}]',
    ],
)
def test_a_file_that_holds_no_receipts_ends_with_two_and_one_message(
    run: VerifyCommand, content: bytes
) -> None:
    result = run(content)
    assert result.exit_code == 2
    assert result.stderr.count("Error: ") == 1
    assert "Traceback" not in result.stderr


def test_an_unreadable_file_among_good_ones_ends_with_two(run: VerifyCommand) -> None:
    assert run(receipt_json(CHAIN[0]), b"{").exit_code == 2


GOOD_KEY = keys_json(TRUSTED)["keys"][0]


@pytest.mark.parametrize(
    "keys",
    [
        b"",
        b"[",
        7,
        {},
        {"keys": {}},
        [7],
        [{}],
        [{**GOOD_KEY, "publicKey": "!"}],
        [{**GOOD_KEY, "publicKey": None}],
        [{**GOOD_KEY, "publicKey": "é==="}],
        [{**GOOD_KEY, "state": "KEY_STATE_UNSPECIFIED"}],
        [{**GOOD_KEY, "state": 1}],
        [{**GOOD_KEY, "algorithm": "rsa"}],
        [{**GOOD_KEY, "validFrom": None}],
        [{**GOOD_KEY, "validFrom": "yesterday"}],
        [{**GOOD_KEY, "validFrom": 7}],
        [{**GOOD_KEY, "validFrom": "2026-01-01T00:00:00"}],
        [{**GOOD_KEY, "validUntil": "never"}],
        [GOOD_KEY, {**GOOD_KEY, "tenantId": ""}],
    ],
)
def test_keys_that_cannot_be_read_end_with_two(run: VerifyCommand, keys: Any) -> None:
    result = run(receipt_json(CHAIN[0]), keys=keys)
    assert result.exit_code == 2
    assert "Traceback" not in result.stderr


def test_files_that_are_not_there_end_with_two(run: VerifyCommand, tmp_path: Path) -> None:
    keys = run.write("keys", keys_json(TRUSTED))
    for arguments in (
        ["--keys", str(keys), str(tmp_path / "missing")],
        ["--keys", str(keys), str(tmp_path)],
        ["--keys", str(tmp_path / "missing"), str(keys)],
        ["--keys", str(keys)],
        [str(keys)],
    ):
        assert CliRunner().invoke(commands, ["verify", *arguments]).exit_code == 2


@pytest.mark.parametrize(
    "hostile",
    ["[bold green]valid[/]", "[/]", "\x1b[2J\x1b[32mvalid\x1b[0m", "a\nvalid", "\u202edilav\u202c"],
)
def test_what_a_receipt_says_cannot_pose_as_the_verdict(run: VerifyCommand, hostile: str) -> None:
    """Neither as mark-up nor as a terminal's escape sequence, and it cannot break the table."""
    action = make_action(make_request(hostile))
    _, receipt = append_receipt(action, hostile, key=make_signing_key(bytes(32)))
    foreign = keys_json(make_stored_key(seed=bytes(32)).trusted)
    for keys in (keys_json(TRUSTED), foreign):
        result = run(receipt_json(receipt), keys=keys)
        assert result.exit_code == 1
        assert "NOT VALID" in result.stdout
        for character in "\x1b\u202e":
            assert character not in result.stdout
        assert not any(line.strip(" │") == "valid" for line in result.stdout.splitlines())


def test_a_payload_that_two_readers_would_read_differently_is_refused(run: VerifyCommand) -> None:
    """JSON with a member given twice: which one is judged depends on who reads."""
    twice = json.dumps(CHAIN[0].envelope.to_json())[:-1]
    other = base64.b64encode(b"{}").decode()
    assert run(f'{twice}, "payload": "{other}"}}'.encode()).exit_code == 2
    assert run(f'{{"payload": "{other}", {twice[1:]}}}'.encode()).exit_code == 2


def evidence_chain() -> list[Receipt]:
    item = EvidenceItem("a", "text", sha256_hex(b"text"), struct.pack("<2f", 1, 0))
    found = assess_inline(ActionEvidence(struct.pack("<2f", 1, 0.5), (item,)))
    assert found.detail is not None
    action = make_action(make_request(evidence=found))
    chain = []
    for type_, detail in (
        ("action.requested", listed_items(found.detail)),
        ("action.approved", {"decision": {"effect": "allow"}}),
    ):
        action, receipt = append_receipt(action, type_, detail)
        chain.append(receipt)
    return chain


def test_the_digests_of_evidence_are_checked_and_what_was_not_supplied_is_told(
    run: VerifyCommand,
) -> None:
    first, second = evidence_chain()
    code, (_, told) = run.verdicts(receipt_json(first), receipt_json(second))
    assert code == 0
    assert told["checks"]["evidence"]["result"] == "passed"
    assert told["checks"]["evidence_items"]["result"] == "passed"
    alone = run(receipt_json(second))
    assert alone.exit_code == 0
    assert "its items" in alone.stdout
    assert "items of the evidence not checked: the first receipt of the chain" in alone.stdout

    statement = json.loads(second.envelope.payload)
    statement["predicate"]["evidence"]["scores"]["support"] += 1
    lie = sign_payload(statement_json(statement), make_signing_key())
    code, (_, told) = run.verdicts(receipt_json(first), lie.to_json())
    assert code == 1
    assert [error.partition(":")[0] for error in told["errors"]] == ["evidence"]
