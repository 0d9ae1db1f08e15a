"""Files that are written whole or not at all, and the one sentence where they cannot be."""

import json
import os
import shutil
import stat

import numpy as np
import pytest

from spx.io import files
from spx.io.files import alone_in, check_file, check_folder, write_atomically, write_json, write_text, writing
from spx.io.pictures import write_images
from spx.io.reading import read_json
from spxcore import SpxError
from spxcore import files as own


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


# ---- nothing of the user's is touched ----------------------------------------------------------------------------------------


@pytest.mark.fault("lost", "a file named like the temporary one, or a link planted there, was overwritten or followed")
@pytest.mark.parametrize("planted", ["file", "link", "folder"])
def test_what_has_the_temporary_name_stays(planted, tmp_path, monkeypatch):
    """Nobody can guess the name; even so it must be new."""
    monkeypatch.setattr(own.secrets, "token_hex", lambda _: "0")
    name, precious = own.unused(tmp_path), tmp_path / "precious"
    precious.write_text("x")
    if planted == "file":
        name.write_text("x")
    elif planted == "link":
        name.symlink_to(precious)
    else:
        name.mkdir()
    before = sorted((p.name, p.lstat().st_mode, p.lstat().st_size) for p in tmp_path.iterdir())
    for refused in (
        lambda: check_file(tmp_path / "a"),
        lambda: check_folder(tmp_path / "b"),
        lambda: write_text(tmp_path / "a", "y"),
        lambda: files.write_folder_atomically(tmp_path / "c", lambda folder: (folder / "a").write_text("y")),
    ):
        with pytest.raises((SpxError, FileExistsError)):
            refused()
    assert sorted((p.name, p.lstat().st_mode, p.lstat().st_size) for p in tmp_path.iterdir()) == before


def test_two_temporary_names_differ(tmp_path):
    assert len({own.unused(tmp_path) for _ in range(100)}) == 100 and len(own.unused(tmp_path).name) < 30


def test_a_link_is_written_through(tmp_path):
    (tmp_path / "there").mkdir()
    for name in ("a", "b"):
        (tmp_path / f"{name}.npy").symlink_to(tmp_path / "there" / name)  # b dangles
    (tmp_path / "there" / "a").write_text("old")
    for name in ("a", "b"):
        path = tmp_path / f"{name}.npy"
        check_file(path)
        write_images(np.zeros((1, 2, 2, 1), np.uint8), path)
        assert path.is_symlink() and np.load(tmp_path / "there" / name).shape == (1, 2, 2, 1)
    assert sorted(os.listdir(tmp_path / "there")) == ["a", "b"]


@pytest.mark.fault("lost", "what passed the probe before the work failed when it was written")
def test_what_passes_the_check_can_be_written(tmp_path):
    """Names and paths of every length near the limits: written if they pass; and if they are refused, nothing is there."""
    deep = tmp_path
    while len(str(deep)) < 3400:
        deep = deep / ("d" * 200)
    lengths = {"file": [1, 200, 254, 255, 256, 300], "folder": [1, 200, 255, 256, 300]}
    passed = {}
    for parent in (tmp_path, deep):
        for what, check in (("file", check_file), ("folder", check_folder)):
            for length in lengths[what]:
                path = (parent if what == "folder" or parent == tmp_path else tmp_path) / ("x" * length)
                try:
                    check(path)
                except SpxError as error:
                    assert "cannot be written" in str(error) and not os.path.lexists(path)
                    passed[what, parent == deep, length] = False
                    continue
                write_text(path if what == "file" else path / "report.json", "x")
                assert path.is_file() if what == "file" else path.is_dir()
                path.unlink() if what == "file" else shutil.rmtree(path)
                passed[what, parent == deep, length] = True
    assert passed["file", False, 255] and not passed["file", False, 256] and passed["folder", False, 255]
    assert not passed["folder", True, 256] and passed["folder", True, 200]


def test_places_that_are_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").write_text("x")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "null").symlink_to("/dev/null")
    refused = {
        "fifo": "a device or a pipe",
        "null": "a device or a pipe",
        "loop": "cannot be written",
        "file/x": "cannot be written",
    }
    for name, message in refused.items():
        with pytest.raises(SpxError, match=message):
            check_file(tmp_path / name)
    for name in ("fifo", "file", "loop", "file/x", "null"):
        with pytest.raises(SpxError):
            check_folder(tmp_path / name)
    (tmp_path / "results" / "report.json").mkdir(parents=True)
    check_folder(tmp_path / "results")
    with pytest.raises(SpxError, match="a file's name, got the folder"):
        check_folder(tmp_path / "results", ["report.json"])
    assert sorted(os.listdir(tmp_path)) == ["fifo", "file", "loop", "null", "results"]


def test_a_check_makes_no_folder(tmp_path):
    check_folder(tmp_path / "a" / "b" / "c")
    assert os.listdir(tmp_path) == []
