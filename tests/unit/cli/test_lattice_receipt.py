"""`oars lattice receipt`: what it makes, and that nothing false passes its check."""

import copy
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from oars_grpc.cli import commands
from oars_grpc.cli.approver_key_file import make_approver_key
from oars_grpc.core import ids
from oars_grpc.core.canonical import canonical_json, decode_base64, encode_base64, sha256_hex
from oars_grpc.core.event import write_event
from oars_grpc.core.keys import key_id_of, signing_key
from oars_grpc.core.lattice.arrays import Chain, checked_chain
from oars_grpc.core.lattice.chain_verdict import chain_verdict
from oars_grpc.core.lattice.settled import read
from oars_grpc.core.lattice.statement import verdict_json
from oars_grpc.core.lattice_verification import chain_json
from oars_grpc.system import SystemChance
from tests.support.lattice_files import (
    refused,
    run_lattice,
    sample_arrays,
    sample_npz,
    torn_arrays,
    write_npz,
)
from tests.support.settled_lattices import built, stated

LATTICE = "urn:oars:receipt:lattice:v1"


def made(file: Path, *options: object) -> Any:
    result = run_lattice("receipt", file, *options)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def checked(file: Path, receipt: Any, *options: object) -> Any:
    """What the check says of a receipt."""
    path = file.with_name("receipt.json")
    path.write_text(json.dumps(receipt))
    result = run_lattice("receipt", file, "--check", path, "--json", *options)
    assert result.exit_code in (0, 1), result.output
    told = json.loads(result.stdout)
    assert result.exit_code == (0 if told["valid"] else 1)
    return told


def resealed(receipt: Any) -> Any:
    """With the subject's digest made anew: only what it says can be false."""
    body = canonical_json(receipt["predicate"]["lattice"])
    receipt["subject"][0]["digest"]["sha256"] = sha256_hex(body)
    return receipt


def sample_chain() -> Chain:
    arrays = sample_arrays()
    return checked_chain(arrays["chain"], 60, arrays["chain_weights"])


def failed(told: Any) -> set[str]:
    return {name for name, check in told["checks"].items() if check["result"] == "failed"}


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """A private key and its public half."""
    private, public = tmp_path / "key.pem", tmp_path / "key.pub"
    make_approver_key(private)
    key = load_pem_private_key(private.read_bytes(), None).public_key()
    public.write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.mark.parametrize("detail", ["light", "full"])
def test_an_unsigned_receipt_is_an_in_toto_statement(detail: str, tmp_path: Path) -> None:
    receipt = made(sample_npz(tmp_path / "in.npz"), "--detail", detail)
    assert receipt["_type"] == "https://in-toto.io/Statement/v1"
    assert receipt["predicateType"] == LATTICE
    body = receipt["predicate"]["lattice"]
    assert body["detail"] == detail
    assert ("nodes" in body) == ("verdict" in body) == (detail == "full")
    assert receipt["subject"][0]["digest"]["sha256"] == sha256_hex(canonical_json(body))


def test_it_says_of_the_lattice_what_a_server_would(tmp_path: Path) -> None:
    arrays = sample_arrays()
    own = built(arrays["anchors"], arrays["query"], None, arrays["gates"], sample_chain())
    expected = stated(own).statement
    found = made(sample_npz(tmp_path / "in.npz"))["predicate"]["lattice"]
    for receipt in (expected, found):
        del receipt["software"], receipt["inputs"]["lattice"]
    assert found == expected


def test_the_subject_is_what_is_said(tmp_path: Path) -> None:
    file = sample_npz(tmp_path / "in.npz")
    receipt = made(file)
    for digest in ({"sha256": "0" * 64}, {}, "0" * 64):
        receipt["subject"][0]["digest"] = digest
        assert failed(checked(file, receipt)) == {"subject"}


def test_the_same_inputs_give_the_same_statement(tmp_path: Path) -> None:
    file = sample_npz(tmp_path / "in.npz")
    assert made(file)["subject"] == made(file)["subject"]
    assert made(file)["predicate"]["receiptId"] != made(file)["predicate"]["receiptId"]


def test_a_signed_receipt_verifies_as_any_other(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    private, public = keys
    file, receipt = sample_npz(tmp_path / "in.npz"), tmp_path / "signed.json"
    result = run_lattice("receipt", file, "--signing-key", private, "--out", receipt)
    assert result.exit_code == 0, result.output
    told = checked(file, json.loads(receipt.read_text()), "--public-key", public)
    assert told["valid"]
    assert told["checks"]["signature"]["result"] == "passed"

    der = load_pem_private_key(private.read_bytes(), None).public_key()
    public_key = der.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    trusted = {
        "keyId": key_id_of(public_key),
        "tenantId": "local",
        "publicKey": encode_base64(public_key),
        "state": "KEY_STATE_ACTIVE",
        "validFrom": "2020-01-01T00:00:00Z",
    }
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [trusted]}))
    verify = ["verify", str(receipt), "--keys", str(tmp_path / "keys.json")]
    assert CliRunner().invoke(commands, verify).exit_code == 0
    by_list = checked(file, json.loads(receipt.read_text()), "--keys", tmp_path / "keys.json")
    assert by_list["valid"]


def test_a_signature_counts_only_with_its_key(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    private, public = keys
    file = sample_npz(tmp_path / "in.npz")
    signed = made(file, "--signing-key", private)
    unasked = checked(file, signed)
    assert not unasked["valid"], "nobody asked whose it is"
    assert not failed(unasked)
    make_approver_key(tmp_path / "other.pem")
    other = load_pem_private_key((tmp_path / "other.pem").read_bytes(), None).public_key()
    stranger = tmp_path / "other.pub"
    stranger.write_bytes(other.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    assert failed(checked(file, signed, "--public-key", stranger)) == {"signature"}
    payload = json.loads(decode_base64(signed["payload"]))
    payload["predicate"]["tenantId"] = payload["subject"][0]["name"] = "other"
    forged = signed | {"payload": encode_base64(canonical_json(payload))}
    assert failed(checked(file, forged, "--public-key", public)) == {"signature"}
    assert failed(checked(file, payload, "--public-key", public)) == {"signature"}, "unsigned"


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every number, text and truth in a value."""
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(part, (*path, key))
    else:
        yield path


def test_no_member_of_a_statement_can_be_changed(tmp_path: Path) -> None:
    arrays = torn_arrays()
    file = write_npz(tmp_path / "in.npz", **arrays)
    receipt = made(file, "--top", 3)
    assert receipt["predicate"]["lattice"]["conflicts"]["total"] > 0
    # Other software may say the same, and at other thresholds the same may be true.
    spared = {("software",), ("verdict", "threshold")}
    spared |= {("conflicts", "likeness"), ("conflicts", "tension")}
    for path in leaves(receipt["predicate"]["lattice"]):
        changed = copy.deepcopy(receipt)
        place = changed["predicate"]["lattice"]
        for key in path[:-1]:
            place = place[key]
        old = place[path[-1]]
        if isinstance(old, bool):
            place[path[-1]] = not old
        elif isinstance(old, int):
            # Beyond the slack that the rounding of single precision is given.
            slack = 5000 if path[-1] == "margin" else 1
            place[path[-1]] = old + max(slack, abs(old) // 50)
        elif old is None:
            place[path[-1]] = "1.0"
        else:
            place[path[-1]] = "0.25" if old != "0.25" else "0.5"
        if path in spared:
            continue
        path_text = f"{'.'.join(map(str, path))} {old}"
        file.with_name("receipt.json").write_text(json.dumps(resealed(changed)))
        result = run_lattice("receipt", file, "--check", file.with_name("receipt.json"))
        assert result.exit_code in (1, 2), f"{path_text} may be changed"
        assert isinstance(result.exception, SystemExit), path_text


@pytest.mark.parametrize(
    ("instead", "named"),
    [
        ("anchors", "inputs.anchors"),
        ("gates", "inputs.gates"),
        ("query", "inputs.query"),
        ("chain", "inputs.chain"),
        ("chain_weights", "inputs.chain"),
    ],
)
def test_another_input_is_named(instead: str, named: str, tmp_path: Path) -> None:
    receipt = made(sample_npz(tmp_path / "in.npz"))
    array = sample_arrays()[instead].copy()
    array.flat[-1] += 1
    other = sample_npz(tmp_path / "other.npz", **{instead: array})
    told = checked(other, receipt)
    assert not told["valid"]
    assert named in failed(told)


def test_the_parameters_are_those_of_the_receipt(tmp_path: Path) -> None:
    file = sample_npz(tmp_path / "in.npz")
    options = ("--neighbors", 4, "--row-cap", 1.25, "--laplacian", "normalized")
    receipt = made(file, *options, "--query-weight", 0.3, "--detail", "light")
    assert checked(file, receipt)["valid"]
    receipt["predicate"]["lattice"]["parameters"]["neighbors"] = 5
    assert {"inputs.edges", "inputs.parameters"} <= failed(checked(file, resealed(receipt)))
    receipt["predicate"]["lattice"]["parameters"]["neighbors"] = 500
    file.with_name("receipt.json").write_text(json.dumps(resealed(receipt)))
    assert "neighbors" in refused("receipt", file, "--check", file.with_name("receipt.json"))


def test_the_numbers_of_all_nodes_can_be_kept_and_checked(tmp_path: Path) -> None:
    file, nodes = sample_npz(tmp_path / "in.npz"), tmp_path / "nodes.npy"
    receipt = made(file, "--nodes", nodes)
    assert np.load(nodes).shape == (60, 4)
    assert checked(file, receipt, "--nodes", nodes)["checks"]["nodes"]["result"] == "passed"
    numbers = np.load(nodes)
    numbers[7, 1] += 1
    np.save(nodes, numbers)
    assert failed(checked(file, receipt, "--nodes", nodes)) == {"nodes"}
    np.save(nodes, numbers.astype(float))
    (tmp_path / "receipt.json").write_text(json.dumps(receipt))
    check = ("receipt", file, "--check", tmp_path / "receipt.json", "--nodes", nodes)
    assert "must be a table of int32" in refused(*check)


def test_of_many_queries_the_receipts_own_is_taken(tmp_path: Path) -> None:
    file = sample_npz(tmp_path / "in.npz")
    receipt = made(file)
    many = np.stack([np.ones(16, dtype=np.float32), sample_arrays()["query"]])
    np.save(tmp_path / "many.npy", many)
    assert checked(file, receipt, "--query", tmp_path / "many.npy")["valid"]
    np.save(tmp_path / "many.npy", many[[0, 0]])
    told = checked(file, receipt, "--query", tmp_path / "many.npy")
    assert failed(told) == {"inputs.query", "nodes"}


def served(type_: str, body: Any) -> Any:
    """The receipt that a server has written of a lattice of its own, as its API answers it."""
    receipt = write_event(
        receipt_id=SystemChance().new_id(ids.RECEIPT),
        tenant_id="tenant_alpha",
        type_=type_,
        caller=None,
        event={**body, "latticeId": "lattice-1", "version": 4},
        sequence=3,
        previous_receipt_digest="0" * 64,
        now=datetime(2026, 3, 1, tzinfo=UTC),
        key=signing_key(bytes(32))[0],
        predicate_type=LATTICE,
    )
    return {"result": 1, "receipt": {"envelope": receipt.envelope.to_json()}}


def test_receipts_of_a_server_are_checked_too(tmp_path: Path) -> None:
    file, public = sample_npz(tmp_path / "in.npz"), tmp_path / "key.pub"
    public.write_bytes(signing_key(bytes(32))[1])
    key = ("--public-key", public)
    queried = made(file)["predicate"]["lattice"]
    assert checked(file, served("lattice.queried", queried), *key)["valid"]
    queried["certificate"]["residual"]["number"] //= 2
    told = checked(file, served("lattice.queried", queried), *key)
    assert failed(told) == {"statement"}

    arrays = sample_arrays()
    own = built(arrays["anchors"], arrays["query"], None, arrays["gates"], sample_chain())
    judged = checked_chain([1, 2, 3], 60)
    verdict = chain_verdict(read(own.lattice, own.query), judged)
    scored = made(file, "--detail", "light")["predicate"]["lattice"]
    del scored["ranking"]
    scored |= {"judged": chain_json(judged), "verdict": verdict_json(verdict)}
    assert checked(file, served("lattice.chain_scored", scored), *key)["valid"]
    scored["verdict"]["coherent"] = not scored["verdict"]["coherent"]
    told = checked(file, served("lattice.chain_scored", scored), *key)
    assert failed(told) == {"judged"}


@pytest.mark.parametrize(
    "content",
    ["", "1", "[]", "{}", '{"payload": 1}', '{"predicateType": 1}', "[" * 9999, '{"a": 1, "a": 2}'],
)
def test_what_is_no_receipt_is_refused(content: str, tmp_path: Path) -> None:
    file, receipt = sample_npz(tmp_path / "in.npz"), tmp_path / "receipt.json"
    receipt.write_text(content)
    refused("receipt", file, "--check", receipt)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--keys", "in.npz"), "go with --check"),
        (("--json",), "go with --check"),
        (("--nodes", "n.npy", "--detail", "light"), "--nodes goes with --detail full"),
        (("--tenant", "No Tenant"), "--tenant"),
        (("--top", 257), "--top"),
        (("--signing-key", "in.npz"), "in.npz"),
        (("--check", "in.npz", "--out", "o.json"), "--check takes neither"),
        (("--out", "a", "--nodes", "a"), "are one file"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    options: tuple[str, ...], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = sample_npz(tmp_path / "in.npz")
    file.chmod(0o600)
    monkeypatch.chdir(tmp_path)
    assert told in refused("receipt", file, *options)
    assert sorted(tmp_path.iterdir()) == [file]


def test_a_key_that_others_may_read_signs_nothing(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    private, _ = keys
    private.chmod(0o644)
    file = sample_npz(tmp_path / "in.npz")
    assert "others may read the key" in refused("receipt", file, "--signing-key", private)
