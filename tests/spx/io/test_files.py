"""Files that are written whole or not at all, and the one sentence where they cannot be."""

import json
import os
import stat

import pytest

from spx.io import files
from spx.io.files import alone_in, write_atomically, write_json, write_text, writing
from spx.io.reading import read_json
from spxcore import SpxError


def test_json_and_text(tmp_path):
    path = tmp_path / "new" / "folder" / "a.json"
    write_json(path, {"a": [1, 2.5, None, "ä"]})
    assert read_json(path) == {"a": [1, 2.5, None, "ä"]} and path.read_bytes().endswith(b"}\n")
    write_text(path, "ö")
    assert path.read_text(encoding="utf-8") == "ö" and [p.name for p in path.parent.iterdir()] == ["a.json"]
    with pytest.raises(SpxError, match=r"a\.json: cannot be read .*remove it to have it made again"):
        read_json(path)


def test_what_was_there_stays_if_writing_fails(tmp_path, monkeypatch):
    """A full disk, or values that are no JSON: the old file is whole, and no temporary one is left."""
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(SpxError, match=r"a\.json: cannot be written \(No space left on device\); free some"):
            write_json(path, {"new": 2}, "free some")
    with pytest.raises(TypeError):
        write_json(path, {"new": object()})
    assert json.loads(path.read_text()) == {"old": 1} and [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_the_temporary_name_is_never_the_users(tmp_path):
    """Until it is whole a file has another name; then it has the rights that the user's umask gives."""
    path, seen = tmp_path / "a.txt", []

    def write(temporary):
        seen.append((temporary.name, path.exists()))
        temporary.write_text("x")
        temporary.chmod(0o600)

    before = os.umask(0o027)
    try:
        write_atomically(path, write)
    finally:
        os.umask(before)
    assert seen[0][0] != "a.txt" and not seen[0][1]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_the_sentence_names_the_option(tmp_path):
    with (
        pytest.raises(SpxError, match=r"^out: /x cannot be written \(no\); choose another --out$"),
        writing("/x", name="out"),
    ):
        raise OSError(1, "no")
    with pytest.raises(SpxError, match=r"^/x: cannot be written"), writing("/x"):
        raise OSError("no")


def test_one_process_a_folder(tmp_path):
    folder = tmp_path / "new"
    with alone_in(folder), pytest.raises(SpxError, match="that no other process is at work on"), alone_in(folder):
        pass
    with alone_in(folder):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(SpxError, match=r"cannot be written .*choose another --out"), files.alone_in(tmp_path / "file"):
        pass
