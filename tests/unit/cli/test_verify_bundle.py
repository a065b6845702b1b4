"""`oars verify BUNDLE.zip`: verdicts, exit codes, pins, and ZIPs that were made to deceive."""

import io
import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from oars_grpc.cli import commands
from oars_grpc.core.bundle_findings import CHECKS
from oars_grpc.core.key_json import keys_json
from tests.support.bundles import (
    OTHER_SEED,
    GeneratedLog,
    bundle_of,
    files_of,
    make_log,
    resealed,
    zip_of,
)
from tests.support.factories import make_signing_key

LINES = "receipts/00000000.jsonl"
LOG = make_log()
BUNDLE = bundle_of(LOG, 2, 11)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys.json"
    path.write_bytes(keys_json(LOG.keys()))
    return path


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "bundle.zip"
    path.write_bytes(BUNDLE)
    return path


def verify(*arguments: object) -> Result:
    return CliRunner().invoke(commands, ["verify", *map(str, arguments)])


def test_a_good_bundle_is_valid(bundle: Path, keys: Path) -> None:
    result = verify(bundle, "--keys", keys)
    assert result.exit_code == 0, result.output
    assert "valid" in result.output
    assert "the bundle's own" not in result.output
    told = json.loads(verify(bundle, "--keys", keys, "--json").stdout)
    assert told["valid"] is True
    assert told["trustSource"] == "supplied"
    assert (told["fromSize"], told["toSize"], told["receipts"]) == (2, 11, 9)
    assert list(told["checks"]) == list(CHECKS)


def test_without_keys_the_verdict_says_where_trust_comes_from(bundle: Path) -> None:
    result = verify(bundle)
    assert result.exit_code == 0
    assert "the keys are the bundle's own" in result.output
    assert json.loads(verify(bundle, "--json").stdout)["trustSource"] == "bundle"


def test_keys_of_another_tenant_do_not_do(bundle: Path, tmp_path: Path) -> None:
    others = tmp_path / "others.json"
    others.write_bytes(keys_json(GeneratedLog("umbrella").keys()))
    result = verify(bundle, "--keys", others)
    assert result.exit_code == 1
    assert "NOT VALID" in result.output


def test_the_first_bad_leaf_is_named(bundle: Path, keys: Path) -> None:
    files = files_of(BUNDLE)
    kept = files[LINES].splitlines(keepends=True)
    del kept[3]
    bundle.write_bytes(zip_of(resealed(files | {LINES: b"".join(kept)})))
    result = verify(bundle, "--keys", keys)
    assert result.exit_code == 1
    assert "the first bad leaf is 5" in result.output
    told = json.loads(verify(bundle, "--keys", keys, "--json").stdout)
    assert told["firstBadLeaf"] == 5
    assert told["checks"]["completeness"]["result"] == "failed"
    assert told["checks"]["leaves"]["errors"][0]["leafIndex"] == 5


def test_pinned_checkpoints_are_held_against_the_bundle(
    bundle: Path, keys: Path, tmp_path: Path
) -> None:
    first, last, other = tmp_path / "first", tmp_path / "last", tmp_path / "other"
    first.write_text(LOG.note(2))
    last.write_text(LOG.note(11))
    other.write_text(LOG.note(3))
    pinned = ("--keys", keys, "--from-checkpoint", first, "--to-checkpoint", last)
    assert verify(bundle, *pinned).exit_code == 0
    assert verify(bundle, "--keys", keys, "--from-checkpoint", other).exit_code == 1
    assert verify(bundle, "--keys", keys, "--origin", "log.example").exit_code == 0
    assert verify(bundle, "--keys", keys, "--origin", "other.example").exit_code == 1


def test_files_that_cannot_be_read_end_with_2(bundle: Path, keys: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.write_text("{}")
    for option in ("--keys", "--from-checkpoint", "--witnesses"):
        assert verify(bundle, option, bad).exit_code == 2
    bundle.write_bytes(BUNDLE[: len(BUNDLE) // 2])
    assert verify(bundle, "--keys", keys).exit_code == 2


def test_text_of_a_bundle_does_not_pose_as_a_verdict(bundle: Path, keys: Path) -> None:
    forger = GeneratedLog(key=make_signing_key(OTHER_SEED))
    forger.add_action(agent_id="x")
    files = files_of(bundle_of(forger, key=make_signing_key()))
    files["\x1b[2Jvalid"] = b""
    bundle.write_bytes(zip_of(files))
    assert verify(bundle, "--keys", keys).exit_code == 2
    assert "\x1b" not in verify(bundle, "--keys", keys).output


def written(write: Callable[[zipfile.ZipFile, dict[str, bytes]], None]) -> bytes:
    """A ZIP that a test writes by its own means."""
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that are there twice
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            write(archive, files_of(BUNDLE))
    return out.getvalue()


def _all(archive: zipfile.ZipFile, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        archive.writestr(name, content)


def _twice(archive: zipfile.ZipFile, files: dict[str, bytes]) -> None:
    _all(archive, files)
    archive.writestr(LINES, files[LINES])


def _outside(archive: zipfile.ZipFile, files: dict[str, bytes]) -> None:
    _all(archive, files)
    archive.writestr("../../etc/passwd", b"x")


def _absolute(archive: zipfile.ZipFile, files: dict[str, bytes]) -> None:
    _all(archive, files)
    archive.writestr("/etc/passwd", b"x")


def _bomb(archive: zipfile.ZipFile, files: dict[str, bytes]) -> None:
    _all(archive, files | {LINES: bytes(64 * 1024 * 1024)})


def _link(archive: zipfile.ZipFile, files: dict[str, bytes]) -> None:
    _all(archive, files)
    info = zipfile.ZipInfo("link")
    info.create_system, info.external_attr = 3, 0o120777 << 16
    archive.writestr(info, b"/etc/passwd")


def _comment(archive: zipfile.ZipFile, files: dict[str, bytes]) -> None:
    _all(archive, files)
    archive.comment = b"PK\x05\x06"


@pytest.mark.parametrize("write", [_twice, _outside, _absolute, _bomb, _link, _comment])
def test_deceiving_zips_are_not_valid(write: Any, bundle: Path, keys: Path) -> None:
    bundle.write_bytes(written(write))
    assert verify(bundle, "--keys", keys).exit_code in (1, 2)
    bundle.write_bytes(written(_all))  # the same by the same means, without the trick
    assert verify(bundle, "--keys", keys).exit_code == 0


def test_a_directory_that_gives_a_file_another_name_than_its_header_is_found(
    bundle: Path, keys: Path
) -> None:
    data = bytearray(BUNDLE)
    at = data.index(b"report.html")  # the header before the file; the directory comes last
    data[at : at + 11] = b"repork.html"
    bundle.write_bytes(bytes(data))
    assert verify(bundle, "--keys", keys).exit_code == 1


def test_data_before_the_first_file_is_found(bundle: Path, keys: Path) -> None:
    bundle.write_bytes(zip_of({}) + BUNDLE)
    assert verify(bundle, "--keys", keys).exit_code != 0
    bundle.write_bytes(b"PK\x03\x04" + b"#!/bin/sh\n" + BUNDLE)
    assert verify(bundle, "--keys", keys).exit_code == 2


def test_a_changed_byte_in_the_middle_of_the_zip_is_found(bundle: Path, keys: Path) -> None:
    at = BUNDLE.index(b"receipts/00000000.jsonl") + 200
    data = bytearray(BUNDLE)
    data[at] ^= 0xFF
    bundle.write_bytes(bytes(data))
    assert verify(bundle, "--keys", keys).exit_code == 1


def test_receipts_are_verified_as_ever_beside_bundles(tmp_path: Path, keys: Path) -> None:
    receipts = tmp_path / "receipts.json"
    receipts.write_text(json.dumps([LOG.receipts[0].envelope.to_json()]))
    assert verify(receipts, "--keys", keys).exit_code == 0
    assert "--from-checkpoint" not in verify("--help").output
    assert "BUNDLE.zip --help" in " ".join(verify("--help").output.split())
