"""`oars verify` on proofs, checkpoints, consistency proofs and witnesses, from files."""

import base64
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from oars_grpc.cli import commands
from oars_grpc.core.checkpoint import log_origin
from oars_grpc.core.keys import KeyState, TrustedKey
from oars_grpc.core.note import Note
from tests.support.factories import NOW, TENANT
from tests.support.logs import PREFIX, MemoryLog, Witness, checkpoint_key, log_of
from tests.support.verify_command import CHAIN, TRUSTED, keys_json, receipt_json

ORIGIN = log_origin(PREFIX, TENANT)
LOG_KEY = checkpoint_key(origin=ORIGIN)
LOG = log_of([receipt.envelope for receipt in CHAIN], 4, 5)  # receipts at 4, 5 and 6 of 12
REVOKED = replace(TRUSTED, state=KeyState.REVOKED, revoked_at=NOW, trusted_log_size=6)


class Command:
    """The command on files that it writes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._count = 0

    def file(self, content: Any) -> str:
        self._count += 1
        path = self._directory / f"file-{self._count}"
        if isinstance(content, str):
            path.write_text(content)
        else:
            path.write_bytes(
                content if isinstance(content, bytes) else json.dumps(content).encode()
            )
        return str(path)

    def __call__(
        self, *receipts: Any, keys: Sequence[TrustedKey] = (TRUSTED, LOG_KEY), **options: Any
    ) -> Result:
        arguments = ["verify", "--keys", self.file(keys_json(*keys))]
        for name, values in options.items():
            for value in values if isinstance(values, list) else [values]:
                if name == "json":
                    arguments += ["--json"]
                elif name == "origin":
                    arguments += ["--origin", value]
                else:
                    arguments += [f"--{name}", self.file(value)]
        arguments += [self.file(receipt) for receipt in receipts]
        result = CliRunner().invoke(commands, arguments, env={"COLUMNS": "300"})
        assert result.exception is None or isinstance(result.exception, SystemExit), (
            result.exception
        )
        assert "Traceback" not in result.output
        return result

    def verdicts(self, *receipts: Any, **options: Any) -> tuple[int, list[dict[str, Any]]]:
        result = self(*receipts, json=True, **options)
        found = [json.loads(line) for line in result.stdout.splitlines()]
        assert result.exit_code == (0 if all(verdict["valid"] for verdict in found) else 1)
        return result.exit_code, found


@pytest.fixture
def run(tmp_path: Path) -> Command:
    return Command(tmp_path)


def proof_answer(index: int, size: int | None = None) -> dict[str, Any]:
    """As GET /v1/receipts/ID/proof answers."""
    return {
        "leafIndex": str(index),
        "leafHash": base64.b64encode(LOG.leaves[index]).decode(),
        "checkpoint": {"note": LOG.note(size).format()},
        "proof": LOG.proof(index, size),
    }


def consistency(old: int, new: int, log: MemoryLog = LOG) -> dict[str, Any]:
    """As GET /v1/log/TENANT/consistency answers."""
    return {
        "from": {"origin": log.origin, "note": log.note(old).format()},
        "to": {"origin": log.origin, "note": log.note(new).format()},
        "hashes": [base64.b64encode(hash_).decode() for hash_ in log.consistency(old, new)],
    }


FIRST = receipt_json(CHAIN[0])


def test_a_proof_shows_where_a_receipt_stands(run: Command) -> None:
    code, (verdict,) = run.verdicts(FIRST, proof=LOG.proof(4))
    assert (code, verdict["leafIndex"]) == (0, 4)
    assert verdict["checks"]["inclusion"] == {
        "result": "passed",
        "detail": f"leaf 4 of 12, by key {LOG_KEY.key_id}",
    }
    result = run(FIRST, proof=LOG.proof(4))
    assert result.exit_code == 0
    assert "NOT VALID" not in result.stdout


def test_an_answer_of_the_api_is_read_wherever_it_is_given(run: Command) -> None:
    for code, verdicts in (
        run.verdicts(FIRST, proof=proof_answer(4)),
        run.verdicts(FIRST, proof_answer(4)),
        run.verdicts([receipt_json(r) for r in CHAIN], [proof_answer(4), proof_answer(6)]),
    ):
        assert code == 0
        assert verdicts[0]["leafIndex"] == 4


def test_each_proof_finds_its_receipt(run: Command) -> None:
    proofs = [LOG.proof(index, size) for index, size in ((6, 12), (4, 7), (5, 9))]
    code, verdicts = run.verdicts([receipt_json(receipt) for receipt in CHAIN], proof=proofs)
    assert code == 0
    assert [verdict["leafIndex"] for verdict in verdicts] == [4, 5, 6]


def test_a_proof_of_none_of_the_receipts_is_told(run: Command) -> None:
    code, (receipt, proof) = run.verdicts(FIRST, proof=[LOG.proof(4), LOG.proof(0)])
    assert (code, receipt["valid"]) == (1, True)
    assert proof["errors"] == ["it shows none of the receipts given"]
    # The only proof is meant for the only receipt.
    code, (verdict,) = run.verdicts(FIRST, proof=LOG.proof(0))
    assert verdict["errors"] == ["inclusion: the proof does not show the receipt as leaf 0 of 12"]


def test_of_two_proofs_of_one_receipt_both_must_hold(run: Command) -> None:
    forged = MemoryLog(LOG.leaves, seed=bytes(32)).proof(4)
    assert run.verdicts(FIRST, proof=[LOG.proof(4), LOG.proof(4, 8)])[0] == 0
    for proofs in ([LOG.proof(4), forged], [forged, LOG.proof(4)]):
        assert run.verdicts(FIRST, proof=proofs)[0] == 1


def test_what_a_revoked_key_signed_verifies_with_a_proof_and_not_without(run: Command) -> None:
    keys = [REVOKED, LOG_KEY]
    code, (verdict,) = run.verdicts(FIRST, keys=keys)
    assert code == 1
    assert "below index 6 would show" in verdict["checks"]["key_trust"]["detail"]
    assert run.verdicts(FIRST, keys=keys, proof=LOG.proof(4))[0] == 0
    third = receipt_json(CHAIN[2])
    assert run.verdicts(third, keys=keys, proof=LOG.proof(6))[0] == 1  # not below 6
    proofs = [LOG.proof(4), LOG.proof(5)]
    code, verdicts = run.verdicts(FIRST, receipt_json(CHAIN[1]), keys=keys, proof=proofs)
    assert code == 0
    assert [verdict["checks"]["chain"]["result"] for verdict in verdicts] == ["passed"] * 2


def test_the_prefix_of_the_origin_can_be_pinned(run: Command) -> None:
    other = MemoryLog(LOG.leaves, log_origin("other.example", TENANT)).proof(4)
    nameless = [TRUSTED, replace(LOG_KEY, origin="")]
    assert run.verdicts(FIRST, proof=LOG.proof(4), origin=PREFIX)[0] == 0
    assert run.verdicts(FIRST, proof=LOG.proof(4), origin="other.example")[0] == 1
    assert run.verdicts(FIRST, proof=other, keys=nameless)[0] == 0
    assert run.verdicts(FIRST, proof=other, keys=nameless, origin=PREFIX)[0] == 1
    # The vkey in the list of keys names the log as well.
    assert run.verdicts(FIRST, proof=other)[0] == 1
    for bad in ("a b", "a+b", "a/", "\x1b"):
        assert run(FIRST, origin=bad).exit_code == 2


def test_a_checkpoint_is_verified_by_itself(run: Command) -> None:
    for content in (
        LOG.note().format(),
        {"checkpoint": {"origin": "whatever", "note": LOG.note().format()}},
    ):
        code, (finding,) = run.verdicts(checkpoint=content)
        assert (code, finding["kind"]) == (0, "checkpoint")
        assert finding["detail"] == f"{ORIGIN}, 12 leaves"
    forged = MemoryLog(LOG.leaves, seed=bytes(32)).note().format()
    assert run.verdicts(checkpoint=forged)[1][0]["errors"] == [
        "no trusted key signed the checkpoint"
    ]
    revoked = replace(LOG_KEY, state=KeyState.REVOKED, revoked_at=NOW)
    assert run.verdicts(checkpoint=LOG.note().format(), keys=[TRUSTED, revoked])[0] == 1
    assert run.verdicts(checkpoint=LOG.note().format(), keys=[TRUSTED])[0] == 1


def test_two_checkpoints_are_connected_by_a_consistency_proof(run: Command) -> None:
    notes = [LOG.note(12).format(), LOG.note(5).format()]
    code, findings = run.verdicts(checkpoint=notes, consistency=consistency(5, 12))
    assert (code, len(findings)) == (0, 3)
    assert findings[2]["detail"] == f"{ORIGIN}, from 5 to 12 leaves"
    assert run.verdicts(consistency=consistency(5, 12))[0] == 0
    # Without a proof nothing is said about them together; with one of others, something is.
    assert run.verdicts(checkpoint=notes)[0] == 0
    code, findings = run.verdicts(checkpoint=notes, consistency=consistency(5, 11))
    assert code == 1
    assert findings[-1]["errors"] == [
        "no proof given shows that the log of 12 leaves continues that of 5"
    ]
    three = [*notes, LOG.note(9).format()]
    steps = [consistency(5, 9), consistency(9, 12)]
    assert run.verdicts(checkpoint=three, consistency=steps)[0] == 0
    assert run.verdicts(checkpoint=three, consistency=steps[:1])[0] == 1


def test_a_log_that_was_rewritten_is_not_consistent(run: Command) -> None:
    rewritten = MemoryLog([bytes(32), *LOG.leaves[1:]])
    mixed = consistency(5, 12) | {"to": consistency(5, 12, rewritten)["to"]}
    code, findings = run.verdicts(consistency=mixed)
    assert code == 1
    assert "is not shown to continue" in str(findings)
    # Each step of the proof counts, and each end of it must be signed.
    good = consistency(5, 12)
    for position in range(len(good["hashes"])):
        hashes = [*good["hashes"]]
        hashes[position] = base64.b64encode(bytes(32)).decode()
        assert run.verdicts(consistency=good | {"hashes": hashes})[0] == 1
        del hashes[position]
        assert run.verdicts(consistency=good | {"hashes": hashes})[0] == 1
    forged = consistency(5, 12, MemoryLog(LOG.leaves, seed=bytes(32)))
    for end in ("from", "to"):
        assert run.verdicts(consistency=good | {end: forged[end]})[0] == 1


def test_two_histories_of_one_log_are_a_fork_wherever_they_are_found(run: Command) -> None:
    """Both signed by the log's own key; one in a proof, the other in a checkpoint."""
    other = MemoryLog([bytes(32), *LOG.leaves[1:]]).note().format()
    for options in (
        {"checkpoint": [LOG.note().format(), other]},
        {"checkpoint": other, "proof": LOG.proof(4)},
        {"checkpoint": other, "consistency": consistency(5, 12)},
    ):
        receipts = [FIRST] if "proof" in options else []
        code, findings = run.verdicts(*receipts, **options)
        assert code == 1
        assert "a fork" in str(findings)
    # One that is not believed convicts nobody.
    code, findings = run.verdicts(
        checkpoint=[
            LOG.note().format(),
            MemoryLog([bytes(32)] * 12, seed=bytes(32)).note().format(),
        ]
    )
    assert [finding["valid"] for finding in findings] == [True, False]
    assert "fork" not in str(findings)


W1, W2 = (Witness(f"w{n}.example", bytes([n]) * 32) for n in (1, 2))
POLICY = {"threshold": 2, "witnesses": [W1.verifier.vkey(), W2.verifier.vkey()]}


def test_witnesses_must_have_cosigned_every_checkpoint(run: Command) -> None:
    both, one = (LOG.proof(4, None, *w) for w in ((W1, W2), (W1,)))
    assert run.verdicts(FIRST, proof=both, witnesses=POLICY)[0] == 0
    code, (verdict,) = run.verdicts(FIRST, proof=one, witnesses=POLICY)
    assert code == 1
    assert "1 of the 2 trusted witnesses cosigned" in verdict["errors"][0]
    seen, unseen = LOG.note(None, W1, W2).format(), LOG.note().format()
    assert run.verdicts(checkpoint=seen, witnesses=POLICY)[0] == 0
    assert run.verdicts(checkpoint=unseen, witnesses=POLICY)[0] == 1
    assert run.verdicts(consistency=consistency(5, 12), witnesses=POLICY)[0] == 1


@pytest.mark.parametrize(
    "policy",
    [
        b"",
        b"{",
        {},
        {"threshold": 3, "witnesses": POLICY["witnesses"]},
        {"threshold": 0, "witnesses": POLICY["witnesses"]},
        {"threshold": 1, "witnesses": [W1.verifier.vkey()] * 2},
        {
            "threshold": 2,
            "witnesses": [
                W1.verifier.vkey(),
                Witness("x.example", bytes([1]) * 32).verifier.vkey(),
            ],
        },
        b'{"threshold": 1, "threshold": 2, "witnesses": []}',
    ],
)
def test_a_policy_that_cannot_be_read_ends_with_two(run: Command, policy: Any) -> None:
    assert run(checkpoint=LOG.note(None, W1, W2).format(), witnesses=policy).exit_code == 2


def test_a_policy_without_a_checkpoint_would_check_nothing(run: Command) -> None:
    assert run(FIRST, witnesses=POLICY).exit_code == 2


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"{", b"{}", b"[]", b"7", "x\n\ny\n", "\n\n"]
)
@pytest.mark.parametrize("option", ["proof", "checkpoint", "consistency"])
def test_a_file_that_holds_no_proof_ends_with_two(run: Command, option: str, content: Any) -> None:
    result = run(FIRST, **{option: content})
    assert result.exit_code == 2
    assert result.stderr.count("Error: ") == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"hashes": 7},
        {"hashes": [7]},
        {"hashes": ["!"]},
        {"from": None},
        {"to": {"note": 7}},
        {"to": "text"},
    ],
)
def test_a_consistency_proof_of_another_shape_ends_with_two(
    run: Command, changes: dict[str, Any]
) -> None:
    assert run(consistency=consistency(5, 12) | changes).exit_code == 2


KEY = keys_json(LOG_KEY)["keys"][0]


@pytest.mark.parametrize(
    "changes",
    [
        {"purpose": "KEY_PURPOSE_OTHER"},
        {"purpose": 7},
        {"purpose": "KEY_PURPOSE_RECEIPT"},
        {"vkey": "x"},
        {"vkey": 7},
        {"vkey": checkpoint_key(seed=bytes(32)).key_id},
        {"vkey": keys_json(checkpoint_key(seed=bytes(32), origin=ORIGIN))["keys"][0]["vkey"]},
        {"vkey": W1.verifier.vkey()},
        {"trustedLogSize": "-1"},
        {"trustedLogSize": "1e3"},
        {"trustedLogSize": 1.5},
        {"trustedLogSize": True},
    ],
)
def test_keys_of_the_log_that_cannot_be_read_end_with_two(
    run: Command, changes: dict[str, Any], tmp_path: Path
) -> None:
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"keys": [KEY | changes]}))
    arguments = ["verify", "--keys", str(keys), run.file(FIRST)]
    assert CliRunner().invoke(commands, arguments).exit_code == 2


def test_what_a_checkpoint_says_cannot_pose_as_the_verdict(run: Command) -> None:
    for hostile in ("[bold green]valid[/]", "\u202edilav", "[/]"):
        note = MemoryLog(LOG.leaves, f"{hostile}/{TENANT}").note()
        result = run(checkpoint=note.format(), keys=[TRUSTED, replace(LOG_KEY, origin="")])
        assert "\u202e" not in result.output
        assert not any(line.strip() == "valid" for line in result.stdout.splitlines())
    unsigned = Note("x\n1\n" + base64.b64encode(bytes(32)).decode() + "\n", LOG.note().signatures)
    result = run(checkpoint=unsigned.format())
    assert result.exit_code == 1
    assert "NOT VALID" in result.stdout
