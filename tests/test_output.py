"""Output files are complete or absent, whatever happens meanwhile."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile as sf
from needs import posix
from sounds import noise, read, refuse, write

from npfsn import audio, output, sink, source
from npfsn.audio import enhance_file
from npfsn.errors import AudioError


def test_nothing_is_overwritten_unasked(delay, tmp_path):
    src = write(tmp_path / "a.wav", noise(1000))
    (tmp_path / "b.wav").write_text("precious")
    refuse(src, tmp_path / "b.wav", "exists")
    assert (tmp_path / "b.wav").read_text() == "precious"
    enhance_file(src, tmp_path / "b.wav", overwrite=True)
    assert read(tmp_path / "b.wav")[0].shape == (1000, 1)
    (tmp_path / "dir.wav").mkdir()
    with pytest.raises(AudioError, match="folder of this name"):
        enhance_file(src, tmp_path / "dir.wav", overwrite=True)


def test_an_output_that_appears_meanwhile_is_kept(delay, tmp_path):
    src = write(tmp_path / "a.wav", noise(1000))
    with pytest.raises(AudioError, match="exists: choose another name"):
        enhance_file(
            src, tmp_path / "b.wav", progress=lambda *_: (tmp_path / "b.wav").write_text("mine")
        )
    assert (tmp_path / "b.wav").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["a.wav", "b.wav"]


@posix
def test_what_is_there_is_kept_where_there_are_no_hard_links(delay, tmp_path, monkeypatch):
    """As on FAT and many network drives: files can be written, and none is replaced."""

    def refused(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    src = write(tmp_path / "a.wav", noise(1000))
    enhance_file(src, tmp_path / "b.wav")
    with pytest.raises(AudioError, match="exists"):
        enhance_file(
            src, tmp_path / "c.wav", progress=lambda *_: (tmp_path / "c.wav").write_text("mine")
        )
    assert (tmp_path / "c.wav").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["a.wav", "b.wav", "c.wav"]


@posix
def test_the_disk_holds_the_content_before_the_name_and_then_the_name(delay, tmp_path, monkeypatch):
    """After a power cut the output is complete or absent, and after a report it is there."""
    src, dst, synced = write(tmp_path / "a.wav", noise(1000)), tmp_path / "b.wav", []

    def fsync(handle):
        synced.append((stat.S_ISDIR(os.fstat(handle).st_mode), dst.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    enhance_file(src, dst)
    assert synced == [(False, False), (True, True)]


@posix
def test_the_source_is_never_the_output(delay, tmp_path):
    src = write(tmp_path / "a.wav", noise(1000))
    content = src.read_bytes()
    os.link(src, tmp_path / "hard.wav")
    os.symlink(src, tmp_path / "soft.wav")
    for name in ("a.wav", "hard.wav", "soft.wav"):
        with pytest.raises(AudioError, match="is the input itself"):
            enhance_file(src, tmp_path / name, overwrite=True)
    assert src.read_bytes() == content
    assert sorted(os.listdir(tmp_path)) == ["a.wav", "hard.wav", "soft.wav"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, MemoryError])
def test_a_half_written_output_goes(delay, tmp_path, error):
    src = write(tmp_path / "a.wav", noise(200_000))

    def stop(done, total):
        assert [name for name in os.listdir(tmp_path) if name.endswith(".part")]
        raise error

    with pytest.raises(error):
        enhance_file(src, tmp_path / "b.wav", progress=stop)
    assert os.listdir(tmp_path) == ["a.wav"]


def test_folders_are_made_and_forbidden_ones_named(delay, tmp_path, monkeypatch):
    src = write(tmp_path / "a.wav", noise(1000))
    enhance_file(src, tmp_path / "new" / "deep" / "b.wav")
    assert (tmp_path / "new" / "deep" / "b.wav").exists()
    (tmp_path / "file").write_text("no folder")
    # /proc and /sys have no space either, but that is not what is wrong there.
    monkeypatch.setattr(sink.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 0))
    with pytest.raises(AudioError, match="cannot write .*: .* is a file, not a folder"):
        enhance_file(src, tmp_path / "file" / "b.wav")
    if hasattr(os, "geteuid") and os.geteuid() != 0:
        (tmp_path / "locked").mkdir(mode=0o555)
        with pytest.raises(AudioError, match="Permission denied"):
            enhance_file(src, tmp_path / "locked" / "b.wav")


@posix
def test_an_input_deleted_meanwhile_does_no_harm(delay, tmp_path):
    src = write(tmp_path / "a.wav", noise(200_000))
    enhance_file(src, tmp_path / "b.wav", progress=lambda *_: src.unlink(missing_ok=True))
    assert os.listdir(tmp_path) == ["b.wav"]


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("change", ["overwritten", "continued"])
def test_an_input_that_is_written_to_meanwhile_is_refused(
    delay, tmp_path, monkeypatch, change, whole
):
    """A part would be of another file, in the wrong format perhaps, or the rest be left out."""
    src = write(tmp_path / "a.wav", noise(200_000), subtype="PCM_16")
    other = write(tmp_path / "other.wav", noise(200_000), subtype="PCM_24").read_bytes()

    def write_to(*_):
        if change == "overwritten":
            src.write_bytes(other)
        else:
            with sf.SoundFile(src, "r+") as file:
                file.seek(0, sf.SEEK_END)
                file.write(noise(1000))

    given = source.silence_nonfinite  # called for every block that has been read
    if whole:  # this does not tell progress while it reads
        monkeypatch.setattr(source, "silence_nonfinite", lambda x: write_to() or given(x))
    options = {"norm": "offline_laplace_norm"} if whole else {"progress": write_to}
    with pytest.raises(AudioError, match="was changed while it was read"):
        enhance_file(src, tmp_path / "b.wav", **options)
    assert sorted(os.listdir(tmp_path)) == ["a.wav", "other.wav"]


@posix
def test_an_input_replaced_meanwhile_is_read_to_its_end(delay, tmp_path):
    src = write(tmp_path / "a.wav", noise(200_000))
    write(tmp_path / "same.wav", noise(200_000))
    enhance_file(tmp_path / "same.wav", tmp_path / "expected.wav")

    def replace(*_):
        os.replace(write(tmp_path / "new.wav", noise(100)), src)

    enhance_file(src, tmp_path / "b.wav", progress=replace)
    assert (read(tmp_path / "b.wav")[0] == read(tmp_path / "expected.wav")[0]).all()


def test_permissions_follow_the_umask(delay, tmp_path):
    src = write(tmp_path / "a.wav", noise(1000))
    enhance_file(src, tmp_path / "b.wav")
    assert (tmp_path / "b.wav").stat().st_mode == src.stat().st_mode


@posix
@pytest.mark.parametrize(
    ("old", "new"),
    [(0o600, 0o600), (0o640, 0o640), (0o444, 0o644), (0o666, 0o666), (0o6755, 0o755)],
)
def test_a_replaced_file_is_as_open_as_before(delay, tmp_path, old, new):
    """A private recording stays private, also while it is written."""
    src = write(tmp_path / "a.wav", noise(200_000))
    path, seen = tmp_path / "b.wav", set()
    path.write_text("old")
    path.chmod(old)

    def look(*_):
        seen.update(stat.S_IMODE(each.stat().st_mode) for each in tmp_path.glob(".npfsn-*.part"))

    enhance_file(src, path, overwrite=True, progress=look)
    assert seen == {new} and stat.S_IMODE(path.stat().st_mode) == new
    assert read(path)[0].shape == (200_000, 1)


@posix
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may do it")
@pytest.mark.parametrize(("old", "new"), [(0o660, 0o600), (0o664, 0o644), (0o604, 0o600)])
def test_another_group_gets_no_access_that_it_had_not(delay, tmp_path, old, new):
    src = write(tmp_path / "a.wav", noise(1000))
    path = write(tmp_path / "b.wav", noise(1000))
    os.chown(path, 1234, 1235)
    path.chmod(old)
    enhance_file(src, path, overwrite=True)
    assert stat.S_IMODE(path.stat().st_mode) == new and path.stat().st_uid == 0


def test_an_error_names_the_output_and_not_the_unfinished_file(tmp_path):
    path = tmp_path / "gone" / "a.wav"
    with pytest.raises(FileNotFoundError) as caught, output.complete_or_absent(path, True):
        pass
    assert caught.value.filename == str(path)


@posix
def test_a_file_is_replaced_where_there_are_no_permissions(delay, tmp_path, monkeypatch):
    def refuse_all(*_):
        raise PermissionError(errno.EPERM, "no")

    src, dst = write(tmp_path / "a.wav", noise(1000)), write(tmp_path / "b.wav", noise(500))
    monkeypatch.setattr(os, "fchmod", refuse_all)
    enhance_file(src, dst, overwrite=True)
    assert read(dst)[0].shape == (1000, 1)


@posix
def test_a_replaced_file_is_as_open_from_the_first(tmp_path, monkeypatch):
    """Else whoever opened the new file in between could read all that is written to it."""
    path, modes = tmp_path / "a.wav", []
    path.touch(0o600)

    def look(handle, replaced):
        modes.append(stat.S_IMODE(os.fstat(handle).st_mode))

    monkeypatch.setattr(output, "_limit_access", look)
    umask = os.umask(0)
    try:
        with output.complete_or_absent(path, True):
            pass
    finally:
        os.umask(umask)
    assert modes == [0o600]


@posix
def test_an_unfinished_file_is_new(tmp_path, monkeypatch):
    """Else a link with its name would lead what is written elsewhere."""
    monkeypatch.setattr(output.secrets, "token_hex", lambda _: "0")
    (tmp_path / "precious").write_text("old")
    (tmp_path / f".npfsn-{output._mark[0]}-0.part").symlink_to("precious")
    path = tmp_path / "a.wav"
    with pytest.raises(FileExistsError), output.complete_or_absent(path, False) as partial:
        partial.write_text("new")
    assert (tmp_path / "precious").read_text() == "old"


def test_an_interrupt_while_it_cleans_up_leaves_nothing(tmp_path, monkeypatch):
    unlink = os.unlink

    def interrupt(path):
        monkeypatch.setattr(os, "unlink", unlink)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), output.complete_or_absent(tmp_path / "a.wav", True):
        monkeypatch.setattr(os, "unlink", interrupt)
        raise ValueError
    assert os.listdir(tmp_path) == []


def test_unfinished_files_of_others_stay(tmp_path):
    for mark in ("one", "other"):
        (tmp_path / f".npfsn-{mark}-00.part").touch()
    output.remove_unfinished(tmp_path, "one")
    assert os.listdir(tmp_path) == [".npfsn-other-00.part"]


@posix
def test_a_link_to_nothing_is_kept_too(tmp_path):
    path = tmp_path / "a.wav"
    path.symlink_to("nothing.wav")
    with pytest.raises(FileExistsError), output.complete_or_absent(path, False):
        pass
    assert path.is_symlink() and os.listdir(tmp_path) == ["a.wav"]


@posix
def test_a_link_to_nothing_is_told_before_the_work(delay, tmp_path, monkeypatch):
    monkeypatch.setattr(audio, "_run", None)
    (tmp_path / "b.wav").symlink_to("nothing.wav")
    refuse(write(tmp_path / "a.wav", noise(1000)), tmp_path / "b.wav", "exists: choose another")


@posix
def test_a_link_is_replaced_and_what_it_leads_to_is_kept(delay, tmp_path):
    src = write(tmp_path / "a.wav", noise(1000))
    (tmp_path / "far.wav").write_text("precious")
    (tmp_path / "b.wav").symlink_to("far.wav")
    enhance_file(src, tmp_path / "b.wav", overwrite=True)
    assert (
        not (tmp_path / "b.wav").is_symlink() and (tmp_path / "far.wav").read_text() == "precious"
    )


@posix
@pytest.mark.parametrize(
    "name", ["with space.wav", "ünïcödé 🎤.wav", "-dash.wav", "a'\"b.wav", "new\nline.wav"]
)
def test_files_may_have_odd_names(delay, tmp_path, name):
    src = write(tmp_path / "a.wav", noise(1000))
    odd = tmp_path / name
    src.rename(odd)
    enhance_file(odd, tmp_path / f"out{name}")
    enhance_file(tmp_path / f"out{name}", tmp_path / ("x" * 251 + ".wav"))
    assert len(os.listdir(tmp_path)) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="names that are no Unicode exist on Linux")
def test_names_that_are_no_unicode(delay, tmp_path):
    src = write(tmp_path / "a.wav", noise(1000))
    odd = tmp_path / os.fsdecode(b"caf\xe9.wav")
    src.rename(odd)
    enhance_file(odd, tmp_path / os.fsdecode(b"\xff\xfe.wav"))
    assert len(os.listdir(tmp_path)) == 2


@pytest.mark.parametrize("suffix", ["wav", "mp3"])
@pytest.mark.parametrize("error", [BrokenPipeError(), FileExistsError(), OSError(errno.EIO, "x")])
def test_errors_of_the_progress_are_not_those_of_the_files(delay, tmp_path, error, suffix):
    def progress(done, total):
        raise error

    src = tmp_path / f"a.{suffix}"
    sf.write(src, noise(1000), 16000)
    open_before = open_files()
    with pytest.raises(OSError) as caught:
        enhance_file(src, tmp_path / "b.wav", progress=progress)
    assert caught.value is error
    assert open_files() == open_before  # though the traceback keeps everything alive
    assert [path.name for path in tmp_path.iterdir()] == [src.name]


def open_files():
    folder = "/proc/self/fd"
    return len(os.listdir(folder)) if os.path.isdir(folder) else 0


@posix
def test_a_folder_that_cannot_be_synced_holds_its_files(delay, tmp_path, monkeypatch):
    """It need not be readable, and some file systems sync none."""
    really = {name: getattr(os, name) for name in ("open", "fsync")}
    refused = []

    def refuse_to(name, is_folder):
        def refuse_folders(what, *rest):
            if is_folder(what):
                refused.append(name)
                raise PermissionError(errno.EACCES, "no")
            return really[name](what, *rest)

        return refuse_folders

    src = write(tmp_path / "a.wav", noise(1000))
    for name, is_folder in {
        "open": os.path.isdir,
        "fsync": lambda handle: stat.S_ISDIR(os.fstat(handle).st_mode),
    }.items():
        with monkeypatch.context() as patch:
            patch.setattr(f"npfsn.output.os.{name}", refuse_to(name, is_folder))
            enhance_file(src, tmp_path / f"{name}.wav")
        assert refused.pop() == name and (tmp_path / f"{name}.wav").exists()


@pytest.fixture
def tiny_disk(tmp_path):
    """Mount a file system of 128 KiB, where that is allowed."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize(
    ("container", "subtype"),
    [
        ("WAV", "PCM_16"),
        ("FLAC", "PCM_16"),
        ("AIFF", "FLOAT"),
        ("OGG", "VORBIS"),
        ("MP3", "MPEG_LAYER_III"),
        ("CAF", "ALAC_16"),
    ],
)
def test_a_full_disk_leaves_nothing(delay, tmp_path, tiny_disk, container, subtype):
    if container not in sf.available_formats():
        pytest.skip(f"this libsndfile has no {container}")
    x = noise(1_000_000)
    src = write(tmp_path / "a.x", x, subtype=subtype, container=container)
    with pytest.raises(AudioError, match="no space left"):
        enhance_file(src, tiny_disk / "b.x")
    assert os.listdir(tiny_disk) == []


@pytest.mark.parametrize(
    ("suffix", "missing"),
    [("wav", 100_000), ("ogg", 300), ("flac", 1), ("flac", 300), ("mp3", 1), ("mp3", 300)],
)
def test_a_limit_of_file_sizes_is_named(delay, tmp_path, suffix, missing):
    """Of which soundfile says "System error" or, of the end of Ogg, FLAC and MP3 files, nothing."""
    resource = pytest.importorskip("resource", reason="not a Unix")
    if suffix == "mp3" and "MP3" not in sf.available_formats():
        pytest.skip("this libsndfile has no MP3")
    src, dst = write(tmp_path / "a.wav", noise(100_000)), tmp_path / f"b.{suffix}"
    enhance_file(src, dst)
    limit = dst.stat().st_size - missing
    dst.unlink()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(AudioError, match=rf"larger than {limit} bytes \(ulimit -f\)"):
            enhance_file(src, dst)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(tmp_path) == ["a.wav"]


@posix
def test_a_folder_that_vanishes_is_told(delay, tmp_path):
    """Of which soundfile says "System error", too."""
    src, folder = write(tmp_path / "a.wav", noise(100_000)), tmp_path / "out"
    with pytest.raises(AudioError, match="cannot write .*: its folder is gone"):
        enhance_file(src, folder / "b.wav", progress=lambda *_: shutil.rmtree(folder, True))
    assert os.listdir(tmp_path) == ["a.wav"]


@pytest.mark.parametrize("failing", ["open", "write", "close", "sync"])
def test_a_failing_disk_leaves_nothing(delay, tmp_path, monkeypatch, failing):
    """The same without a disk to fill: whatever step fails, one sentence and no output."""
    src = write(tmp_path / "a.wav", noise(1000))

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    if failing == "open":  # libsndfile says "System error" alone
        real = sf.SoundFile

        def cannot_open(file, mode="r", *args, **kwargs):
            if mode == "w":
                raise sf.LibsndfileError(2)
            return real(file, mode, *args, **kwargs)

        monkeypatch.setattr(sf, "SoundFile", cannot_open)
        monkeypatch.setattr(Path, "write_bytes", fail)
    elif failing == "write":
        monkeypatch.setattr(sf.SoundFile, "write", fail)
    elif failing == "close":
        monkeypatch.setattr(sink.Sink, "finish", fail)
    else:
        monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises((AudioError, OSError), match="[Nn]o space left on"):
        enhance_file(src, tmp_path / "b.wav")
    assert os.listdir(tmp_path) == ["a.wav"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), AssertionError()])
def test_the_first_error_of_a_disk_is_told(delay, tmp_path, monkeypatch, error):
    """Not that of closing the file; soundfile says of a short write only that it asserts none."""
    close_it = sf.SoundFile.close

    def write_nothing(file, data):
        raise error

    def close(file):
        fails = file.mode == "w" and not file.closed
        close_it(file)
        if fails:
            raise sf.LibsndfileError(2)

    src = write(tmp_path / "a.wav", noise(1000))
    monkeypatch.setattr(sf.SoundFile, "write", write_nothing)
    monkeypatch.setattr(sf.SoundFile, "close", close)
    with pytest.raises(AudioError, match=r"cannot write .*b\.wav") as caught:
        enhance_file(src, tmp_path / "b.wav")
    assert caught.value.__cause__ is error
    assert os.listdir(tmp_path) == ["a.wav"]


def test_a_disk_that_fails_to_close_a_file(delay, tmp_path, monkeypatch):
    """As one of a network may, when its quota is spent. libsndfile has no words for that."""
    close_it = sf.SoundFile.close

    def close(file):
        fails = file.mode == "w" and not file.closed
        close_it(file)
        if fails:
            raise sf.LibsndfileError(-1)

    src = write(tmp_path / "a.wav", noise(1000))
    monkeypatch.setattr(sf.SoundFile, "close", close)
    refuse(src, tmp_path / "b.wav", r"cannot write .*b\.wav: the system failed to close it$")


def test_frames_that_an_encoder_lost_are_missed(delay, tmp_path, monkeypatch):
    """Some do not tell of a full disk."""
    write_all = sf.SoundFile.write
    src = write(tmp_path / "a.wav", noise(1000))
    monkeypatch.setattr(sf.SoundFile, "write", lambda file, data: write_all(file, data[:-1]))
    refuse(src, tmp_path / "b.wav", "only 999 of 1000 frames arrived$")
    src = tmp_path / "a.caf"
    sf.write(src, noise(1000), 16000, "ALAC_16")
    refuse(src, tmp_path / "b.caf", "only 998 of 999 frames arrived$")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
@pytest.mark.parametrize("suffix", ["wav", "aiff"])
def test_what_the_system_says_is_told(delay, tmp_path, monkeypatch, suffix):
    """Of a quota, a bad disk or too many open files soundfile says "System error" alone."""
    src = write(tmp_path / "a.wav", noise(1000))
    make = sf.SoundFile

    def full(file, mode="r", *args, **kwargs):
        return make("/dev/full" if mode == "w" else file, mode, *args, **kwargs)

    monkeypatch.setattr(sf, "SoundFile", full)
    refuse(src, tmp_path / f"b.{suffix}", "cannot write .*: No space left on device$")


@posix
def test_too_many_open_files_are_told_of(delay, tmp_path, monkeypatch):
    src = write(tmp_path / "a.wav", noise(1000))
    make = sf.SoundFile

    def none_left(file, mode="r", *args, **kwargs):
        resource = pytest.importorskip("resource", reason="not a Unix")
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        if mode == "w":
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
        try:
            return make(file, mode, *args, **kwargs)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)

    monkeypatch.setattr(sf, "SoundFile", none_left)
    refuse(src, tmp_path / "b.wav", "cannot write .*b.wav: Too many open files$")
