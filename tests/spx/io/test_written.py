"""Whatever is written: whole or not at all, on the disk before it has its name, with the rights that the umask gives; the old one stays."""

import os
import stat

import numpy as np
import pytest
import torch
from helpers import tiny_model

from spx.checkpoints import save_checkpoint
from spx.data import cache
from spx.evaluation.lenet import LeNet, save_lenet
from spx.io.files import write_json, write_text
from spx.io.pictures import write_images
from spx.training.run_folder import RunFolder


def pixels(version: int) -> np.ndarray:
    return np.full((2, 4, 4, 1), version, np.uint8)


def lenet(version: int) -> LeNet:
    torch.manual_seed(version)
    return LeNet(2)


def checkpoint(folder, version: int) -> None:
    model = tiny_model(seed=version)
    model.about = {"version": version}
    save_checkpoint(model, folder)


def kept(folder, version: int) -> None:
    RunFolder(folder).keep("codes", {"train": torch.full((3,), float(version))})


def state(folder, version: int) -> None:
    RunFolder(folder).save(0, version, {"w": torch.full((3,), float(version))}, {"step": version})


def cached(folder, version: int) -> None:
    found = cache.cached("place", [version], ("images",), lambda: {"images": pixels(version)})
    assert (found["images"] == version).all()


# Each writes version 1 or 2 of the same thing into a folder.
WRITERS = {
    "text": lambda folder, version: write_text(folder / "a.txt", f"{version}"),
    "json": lambda folder, version: write_json(folder / "a.json", version),
    "png": lambda folder, version: write_images(pixels(version), folder / "a.png"),
    "npy": lambda folder, version: write_images(pixels(version), folder / "a.npy"),
    "checkpoint": checkpoint,
    "lenet": lambda folder, version: save_lenet(lenet(version), folder, {"version": version}),
    "codes": kept, "state": state, "cache": cached,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "cache_folder", lambda: tmp_path / "f")
    (tmp_path / "f").mkdir()
    return tmp_path / "f"


def files(folder) -> dict:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.fault(
    "unseen", "an old file removed, or opened for writing, before the new one is whole; a file that is not flushed"
)
@pytest.mark.parametrize("name", WRITERS)
def test_a_file_is_whole_before_it_has_its_name(name, folder, monkeypatch):
    """Every rename is of something flushed to the disk, over what is still whole; and the new one has replaced the old one in the end."""
    write, flushed, renamed, fsync, rename = WRITERS[name], set(), [], os.fsync, os.replace
    write(folder, 1)
    first = files(folder)
    assert first

    def flush(descriptor):
        flushed.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def replace(old, new, **options):
        if renamed == []:
            now = files(folder)
            assert all(now.get(path) == content for path, content in first.items())
        renamed.append(new)
        inside = [old] if os.path.isfile(old) else [os.path.join(old, name) for name in os.listdir(old)]
        assert inside and {os.stat(path).st_ino for path in inside} <= flushed, "not flushed"
        rename(old, new, **options)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "replace", replace)
    write(folder, 2)
    second = files(folder)
    assert renamed and len(second) == len(first) and all(second.get(path) != content for path, content in first.items())
    assert not [path for path in second if ".tmp" in path or "/." in f"/{path}"]


@pytest.mark.fault("unseen", "files that only their owner can read, or a umask that is not put back")
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
@pytest.mark.parametrize("name", ["text", "npy", "png", "checkpoint", "codes", "cache"])
def test_the_umask_decides(name, mask, folder):
    before = os.umask(mask)
    try:
        WRITERS[name](folder, 1)
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    for path in folder.rglob("*"):
        if path.is_file():
            assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask, path
