"""`npfsn enhance`: which files it takes, what it calls the outputs, and what it leaves alone."""

from __future__ import annotations

import errno
import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from needs import posix
from sounds import recording, tree

from npfsn import batch
from npfsn.errors import in_shell
from npfsn.terminal import torn_apart


def test_output_lies_beside_the_input(npfsn):
    recording("noisy.wav", 2000)
    out, err = npfsn("enhance", "noisy.wav")
    assert tree() == ["noisy.wav", "noisy_enhanced.wav"]
    assert np.array_equal(sf.read("noisy.wav")[0], sf.read("noisy_enhanced.wav")[0])
    assert out.startswith("1 file enhanced, 0.1 s of audio in ") and "real-time factor" in out
    assert out.count("\n") == 1
    assert err == ""


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ((), "a_enhanced.flac"),
        (("--suffix", "_clean"), "a_clean.flac"),
        (("--suffix=-clean",), "a-clean.flac"),
        (("--suffix=_so_clean",), "a_so_clean.flac"),
        (("--suffix", ""), "a.flac"),
        (("--no-suffix",), "a.flac"),
        (("--no_suffix",), "a.flac"),
        (("--format", "wav"), "a_enhanced.wav"),
        (("--format", ".WAV", "--no-suffix"), "a.wav"),
    ],
)
@pytest.mark.parametrize("folder", ["-o", "--output-dir", "--output_dir"])
def test_names_of_outputs(npfsn, options, name, folder):
    recording("in/a.flac")
    npfsn("enhance", "in/a.flac", folder, "out/new", *options)
    assert tree() == ["in/a.flac", f"out/new/{name}"]


def test_a_folder_keeps_its_structure(npfsn):
    for name in ("a.wav", "b.flac", "deep/a.wav", "deep/er/c.wav"):
        recording(f"in/{name}")
    Path("in/notes.txt").write_text("no audio")
    recording("in/.hidden.wav")
    recording("in/.hidden/a.wav")
    npfsn("enhance", "in", "-o", "out")
    assert tree("out") == ["a_enhanced.wav", "b_enhanced.flac"]
    out, _ = npfsn("enhance", "-r", "-i", "in", "-o", "out", "--no-suffix")
    assert "4 files enhanced" in out
    assert set(tree("out")) >= {"a.wav", "b.flac", "deep/a.wav", "deep/er/c.wav"}


@posix
def test_linked_folders_are_entered_once(npfsn):
    """They were left out, without a word. Links may lead in a circle, or to the outputs."""
    for name in ("in/a.wav", "in/deep/b.wav", "elsewhere/er/c.wav"):
        recording(name)
    os.symlink("../elsewhere", "in/link")
    os.symlink("deep", "in/also")
    os.symlink("..", "in/deep/up")
    os.symlink("../out", "in/outputs")
    for _ in range(2):
        out, _ = npfsn("enhance", "in", "-r", "-o", "out", "--force")
        assert "3 files enhanced" in out
    assert tree("out") == ["a_enhanced.wav", "deep/b_enhanced.wav", "link/er/c_enhanced.wav"]


@posix
def test_a_new_link_does_not_rename_outputs(npfsn):
    """A second run with --resume finds them, and enhances nothing again."""
    recording("in/2024/a.wav")
    recording("in/.kept/b.wav")
    os.symlink(".kept", "in/kept")
    for skipped in ("", "2 skipped"):
        out, _ = npfsn("enhance", "in", "-r", "-o", "out", "--resume")
        assert skipped in out
        os.symlink("2024", f"in/0-latest{skipped[:1]}")
    assert tree("out") == ["2024/a_enhanced.wav", "kept/b_enhanced.wav"]


def test_a_second_run_does_not_enhance_what_the_first_wrote(npfsn):
    recording("in/a.wav")
    recording("in/deep/b.wav")
    npfsn("enhance", "in", "-r")
    found = tree()
    out, _ = npfsn("enhance", "in", "-r", "--force")
    assert "2 files enhanced" in out and tree() == found
    # Nor when the outputs lie in a folder inside.
    npfsn("enhance", "in", "-r", "-o", "in/out", "--suffix", "_x")
    out, _ = npfsn("enhance", "in", "-r", "-o", "in/out", "--suffix", "_x", "--force")
    assert "4 files enhanced" in out


def test_names_that_end_in_the_suffix_are_left_out_only_where_outputs_go(npfsn):
    """Elsewhere they are recordings like others, and without a suffix nothing tells outputs."""
    recording("in/a.wav")
    recording("in/a_enhanced.wav")
    npfsn("enhance", "in", "-o", "out")
    assert tree("out") == ["a_enhanced.wav", "a_enhanced_enhanced.wav"]
    npfsn("enhance", "in", "--no-suffix", "--format", "flac")
    assert tree("in") == ["a.flac", "a.wav", "a_enhanced.flac", "a_enhanced.wav"]


def test_a_recording_that_is_called_like_an_output_is_none(npfsn):
    recording("in/a_enhanced.wav")
    for again in range(2):
        out, _ = npfsn("enhance", "in", "--resume")
        assert tree("in") == ["a_enhanced.wav", "a_enhanced_enhanced.wav"]
        assert ("1 left out" in out) == bool(again)


@pytest.mark.parametrize("option", ["--resume", "--force"])
def test_a_second_run_with_the_names_of_all_files_does_not_enhance_outputs(npfsn, option):
    """What a shell makes of *.wav the second time; --force protects every input, as ever."""
    for name in "ab":
        recording(f"{name}.wav")
        npfsn("enhance", f"{name}.wav")
    names = tree()
    out, _ = npfsn("enhance", *names, option, code=int(option == "--force"))
    assert "0 files enhanced" in out and "2 left out" in out
    assert tree() == names


def test_one_file_may_name_its_output(npfsn):
    recording("a.wav")
    recording("in/b.wav")
    npfsn("enhance", "a.wav", "-o", "new/clean.flac")
    assert tree("new") == ["clean.flac"] and sf.info("new/clean.flac").format == "FLAC"
    npfsn("enhance", "a.wav", "-o", "new/clean.flac", code=1)
    Path("folder.wav").mkdir()
    npfsn("enhance", "a.wav", "-o", "folder.wav")
    assert tree("folder.wav") == ["a_enhanced.wav"]
    for arguments, message in (
        (["a.wav", "in/b.wav"], "2 inputs"),
        (["in"], "a folder"),
        (["a.wav", "--format", "flac"], "two formats"),
    ):
        _, err = npfsn("enhance", *arguments, "-o", "x.wav", code=2)
        assert message in err and not Path("x.wav").exists()
    _, err = npfsn("enhance", "a.wav", "-o", "clean.wva", code=2)
    assert ".wva is no suffix of sound files" in err and not Path("clean.wva").exists()
    _, err = npfsn("enhance", "a.wav", "-o", "new/.wav", code=2)
    assert "nothing stands before .wav; expected a name such as clean.wav, or for a folder" in err
    npfsn("enhance", "a.wav", "-o", "wav")  # a folder, as is
    npfsn("enhance", "a.wav", "-o", "new/.wav/")
    assert tree("wav") == tree("new/.wav") == ["a_enhanced.wav"]
    npfsn("enhance", "a.wav", "-o", "clean.mat5")  # as --format would write it
    assert sf.info("clean.mat5").format == "MAT5"
    npfsn("enhance", "a.wav", "-o", "clean.wva/")
    npfsn("enhance", "a.wav", "-o", "out_v1.2")
    assert tree("clean.wva") == tree("out_v1.2") == ["a_enhanced.wav"]


def test_outputs_that_exist_are_told_once(npfsn):
    for name in "abcdefg":
        recording(f"in/{name}.wav")
    npfsn("enhance", "in/a.wav", "-o", "out")
    _, err = npfsn("enhance", "in/a.wav", "-o", "out", code=1)
    assert err == (
        "npfsn: error: out/a_enhanced.wav exists: choose another name or folder, overwrite with "
        "--force, or leave what is there with --resume\n"
    )
    npfsn("enhance", "in", "-o", "out", code=1)  # the other six
    out, err = npfsn("enhance", "in", "-o", "out", code=1)
    assert err.count("\n") == 1 and "and 2 more exist: choose" in err
    assert "0 files enhanced" in out and "7 failed" in out


def test_wildcards_that_no_shell_has_spelled_out(npfsn):
    for name in ("in/a.wav", "in/b.wav", "in/[c].wav", "in/c.wav"):
        recording(name)
    npfsn("enhance", "in/[ab]*", "-o", "one")
    assert tree("one") == ["a_enhanced.wav", "b_enhanced.wav"]
    npfsn("enhance", "in/[c].wav", "-o", "two")  # a file of that name is meant
    assert tree("two") == ["[c]_enhanced.wav"]
    _, err = npfsn("enhance", "in/*.mp3", code=1)
    reason = "Invalid" if os.name == "nt" else "No such file"  # a name that no file can have
    assert f"cannot read in/*.mp3: {reason}" in err


def test_sounds_that_cannot_be_read_are_named(npfsn):
    """Phones write M4A: in a folder it is no failure, but no secret, either."""
    recording("in/a.wav")
    Path("in/memo.m4a").write_bytes(b"\0\0\0\x18ftypM4A ")
    out, err = npfsn("enhance", "in", "-o", "out")
    assert "1 file enhanced" in out and "left out in/memo.m4a" in err and "ffmpeg" in err
    _, err = npfsn("enhance", "in/memo.m4a", code=1)
    assert "ffmpeg -i in/memo.m4a in/memo.wav" in err
    Path("my memo.m4a").write_bytes(b"\0\0\0\x18ftypM4A ")
    _, err = npfsn("enhance", "my memo.m4a", code=1)
    quote = '"' if os.name == "nt" else "'"
    assert "ffmpeg -i 'my memo.m4a' 'my memo.wav'".replace("'", quote) in err
    Path("in/a.wav").unlink()
    out, err = npfsn("enhance", "in", code=1)
    assert "left out in/memo.m4a" in err


def test_a_name_with_spaces_needs_quotes(npfsn):
    """A shell takes it for several; the second was taken for an output, to be named with -o."""
    quote = '"' if os.name == "nt" else "'"
    recording("a.wav")
    recording("my long talk.wav")
    for words in (["my", "long", "talk.wav"], ["a.wav", "my", "long", "talk.wav"]):
        _, err = npfsn("enhance", *words, code=2)
        assert f"a name with spaces needs quotes: {quote}my long talk.wav{quote}\n" in err
    assert tree() == ["a.wav", "my long talk.wav"]
    for name in ("my", "long", "talk.wav"):
        recording("a.wav").rename(name)
    npfsn("enhance", "my", "long", "talk.wav", "-o", "out/")


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["a", "c", "missing"], None),  # all words of "a c" name something
        (["missing", "a", "c"], None),
        (["c", "a", "b", "c"], "a b"),
        (["c", "a", "b", "b", "c"], "a b b c"),
    ],
)
def test_names_that_are_there_are_taken_as_they_are(tmp_path, monkeypatch, words, name):
    monkeypatch.chdir(tmp_path)
    for each in ("a", "c", "a c", name or "other"):
        Path(each).touch()
    found = torn_apart(words)
    assert found == (name and f"a name with spaces needs quotes: {in_shell([name])}")


def test_missing_names_are_not_joined_for_ever(monkeypatch):
    """The list may be meant for another folder, which a slow disk holds."""
    asked = []
    monkeypatch.setattr(os.path, "lexists", lambda path: asked.append(path))
    assert torn_apart([f"{i}.wav" for i in range(1000)]) is None
    assert 1000 < len(asked) < 5000


def test_suffixes_in_capitals_are_found(npfsn):
    recording("in/b.wav").rename("in/A.WAV")
    npfsn("enhance", "in", "-o", "out")
    assert tree("out") == ["A_enhanced.WAV"]


def test_a_list_from_standard_input(npfsn, monkeypatch):
    for name in "ab":
        recording(f"{name}.wav")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a.wav\nb.wav\n")))
    out, _ = npfsn("enhance", "--list", "-", "-o", "out")
    assert "2 files enhanced" in out


def test_lists_may_have_comments_and_binary_files_are_none(npfsn):
    for name in ("a.wav", "b b.wav", "ü.wav", "#odd.wav", "c.wav"):
        recording(name)
    Path("list.txt").write_bytes("\ufeffa.wav\r\n\n# comment\nb b.wav\nü.wav\n./#odd.wav".encode())
    npfsn("enhance", "@list.txt", "-o", "one")
    npfsn("enhance", "--list", "list.txt", "c.wav", "-o", "two", "--no-suffix")
    assert len(tree("one")) == 4
    assert tree("two") == ["#odd.wav", "a.wav", "b b.wav", "c.wav", "ü.wav"]
    with pytest.MonkeyPatch.context() as closed:
        closed.setattr(sys, "stdin", None)
        _, err = npfsn("enhance", "--list", "-", code=2)
    assert "no input" in err
    Path("binary").write_bytes(b"a.wav\n" + bytes(300_000))
    _, err = npfsn("enhance", "@binary", code=2)
    assert "line 2 of the list binary has 300000 characters" in err and len(err) < 600
    if os.path.exists("/dev/zero"):
        _, err = npfsn("enhance", "@/dev/zero", code=2)
        assert "larger than" in err
    for option, hint in ((["@missing.txt"], True), (["--list", "missing.txt"], False)):
        _, err = npfsn("enhance", *option, code=2)
        assert "cannot read the list missing.txt: No such file" in err
        assert ("./@missing.txt" in err) == hint


@pytest.mark.parametrize(
    "name",
    [
        "with space.wav",
        "ünïcödé 🎤.wav",
        pytest.param("a'\"b.wav", marks=posix),
        pytest.param("new\nline.wav", marks=posix),
    ],
)
def test_inputs_may_have_odd_names(npfsn, name):
    recording(name)
    npfsn("enhance", name, "-o", "out", "--no-suffix")
    assert tree("out") == [name]


@posix
def test_a_name_that_ends_in_a_dot(npfsn):
    """Until Python 3.14 this was no suffix: the output was trail.wav._enhanced, of no format."""
    recording("trail.wav").rename("trail.wav.")
    npfsn("enhance", "trail.wav.")
    assert tree() == ["trail.wav.", "trail.wav_enhanced."]
    assert sf.info("trail.wav_enhanced.").format == "WAV"
    recording("a.wav").rename("..wav")
    npfsn("enhance", "..wav")
    assert "._enhanced.wav" in tree()


def test_a_name_that_begins_with_a_dash(npfsn):
    recording("-odd.wav")
    npfsn("enhance", "--", "-odd.wav")
    npfsn("enhance", "./-odd.wav", "-o", "out")
    assert tree() == ["-odd.wav", "-odd_enhanced.wav", "out/-odd_enhanced.wav"]


def test_names_behind_two_dashes_keep_their_underscores(npfsn):
    recording("--so_odd.wav")
    npfsn("enhance", "--", "--so_odd.wav")
    assert tree() == ["--so_odd.wav", "--so_odd_enhanced.wav"]


def test_two_inputs_never_share_an_output(npfsn):
    recording("one/a.wav", 1000)
    recording("two/a.wav", 2000)
    out, err = npfsn("enhance", "one/a.wav", "two/a.wav", "one/../one/a.wav", "-o", "out", code=1)
    assert "would both become" in err
    assert "1 file enhanced" in out and "1 failed" in out
    assert sf.info("out/a_enhanced.wav").frames == 1000


@posix
def test_outputs_that_linked_folders_make_one_are_noticed(npfsn):
    """Both would be written, the second in the place of the first. A link itself is replaced."""
    for name in ("in/a/x.wav", "in/b/x.wav", "out/b/y.wav"):
        recording(name)
    os.symlink("b", "out/a")
    _, err = npfsn("enhance", "in", "-r", "-o", "out", "--force", code=1)
    assert "in/b/x.wav and in/a/x.wav would both become out/b/x_enhanced.wav" in err
    for name in "ab":
        Path(f"{name}.wav").symlink_to("in/a/x.wav")
        Path(f"{name}_enhanced.wav").symlink_to("out/b/y.wav")
    out, _ = npfsn("enhance", "a.wav", "b.wav", "--force")
    assert "2 files enhanced" in out and not Path("b_enhanced.wav").is_symlink()


@posix
@pytest.mark.parametrize("options", [[], ["-o", "out"]])
def test_a_file_named_through_a_link_to_its_folder_is_one_file(npfsn, options):
    recording("a/x.wav")
    os.symlink("a", "l")
    for argv, count in ((["a/x.wav", "l/x.wav"], 1), (["a", "l", "--force"], 1)):
        out, err = npfsn("enhance", *argv, *options)
        assert f"{count} file enhanced" in out and "become" not in err
    out, _ = npfsn("enhance", "a", "l", "--resume", *options)
    assert "0 files enhanced" in out and "skipped, already there" in out


def test_a_list_that_is_no_text(npfsn):
    recording("a.wav")
    for argv in (("@a.wav",), ("--list", "a.wav")):
        _, err = npfsn("enhance", *argv, "-o", "out", code=2)
        assert "the list a.wav is no text" in err
        assert len(err) < 1500
    Path("u.txt").write_text("a.wav\nb.wav\n", "utf-16")  # as Windows PowerShell writes
    _, err = npfsn("enhance", "@u.txt", "-o", "out", code=2)
    assert "the list u.txt is no text in UTF-8: expected one path a line" in err


def test_a_second_run_into_the_same_folders_does_nothing_twice(npfsn):
    recording("rec/a.wav")
    recording("rec/sub/b.wav")
    for _ in range(2):
        npfsn("enhance", "rec", "-r", "-o", "rec", "--resume")
    assert tree("rec") == ["a.wav", "a_enhanced.wav", "sub/b.wav", "sub/b_enhanced.wav"]


def test_an_input_is_nobody_elses_output(npfsn):
    """Not even with --force: it would be gone before its turn came."""
    recording("x/a.wav")
    recording("y/a.wav", n=3000)
    recording("b.wav")
    recording("b_enhanced.wav", n=3000)
    before = [Path(name).read_bytes() for name in ("y/a.wav", "b_enhanced.wav")]
    out, err = npfsn("enhance", "x/a.wav", "y/a.wav", "-o", "y", "--no-suffix", "--force", code=1)
    assert "x/a.wav would become y/a.wav, which is an input too" in err
    out, err = npfsn("enhance", "y/a.wav", "x/a.wav", "-o", "y", "--no-suffix", "--force", code=1)
    assert "y/a.wav is the input itself" in err
    out, err = npfsn("enhance", "b.wav", "b_enhanced.wav", "--force", code=1)
    assert "b.wav would become b_enhanced.wav, which is an input too" in err
    assert "0 files enhanced" in out and "1 left out" in out
    assert "leave it with --resume" in err
    npfsn("enhance", "b.wav", "b_enhanced.wav", "--resume")
    assert [Path(name).read_bytes() for name in ("y/a.wav", "b_enhanced.wav")] == before


def test_nothing_is_overwritten_without_force(npfsn):
    recording("a.wav")
    Path("a_enhanced.wav").write_text("precious")
    _, err = npfsn("enhance", "a.wav", code=1)
    assert "exists" in err and "--force" in err
    assert Path("a_enhanced.wav").read_text() == "precious"
    npfsn("enhance", "a.wav", "--force")
    assert sf.info("a_enhanced.wav").frames == 2000


def test_the_source_is_never_overwritten(npfsn):
    content = recording("a.wav").read_bytes()
    for option in ("--force", "--resume", "--quiet"):  # nor is one told that they would help
        _, err = npfsn("enhance", "a.wav", "--no-suffix", option, code=1)
        assert "is the input itself: name another output or folder with -o" in err
    assert Path("a.wav").read_bytes() == content


def test_resume_does_only_the_rest(npfsn):
    for name in "abc":
        recording(f"in/{name}.wav")
    npfsn("enhance", "in/b.wav", "-o", "out")
    before = Path("out/b_enhanced.wav").stat().st_mtime_ns
    out, _ = npfsn("enhance", "in", "-o", "out", "--resume")
    assert "2 files enhanced" in out and "1 skipped" in out
    assert Path("out/b_enhanced.wav").stat().st_mtime_ns == before
    out, _ = npfsn("enhance", "in", "-o", "out", "--resume")
    assert "0 files enhanced" in out and "3 skipped" in out


@pytest.mark.parametrize("workers", ["1", "2"])
def test_resume_counts_what_another_run_has_done_meanwhile(npfsn, monkeypatch, workers):
    for name in "abc":
        recording(f"in/{name}.wav")
    make_plan = batch.make_plan

    def late(args):
        plan = make_plan(args)
        Path("out").mkdir()
        Path("out/b_enhanced.wav").write_bytes(b"of another run")
        return plan

    monkeypatch.setattr(batch, "make_plan", late)
    out, err = npfsn("enhance", "in", "-o", "out", "--resume", "--workers", workers)
    assert "2 files enhanced" in out and "1 skipped, already there" in out and "exists" not in err
    assert Path("out/b_enhanced.wav").read_bytes() == b"of another run"


def test_a_folder_without_audio_fails(npfsn):
    recording("in/deep/a.wav")
    _, err = npfsn("enhance", "in", code=1)
    assert "holds no sound files" in err and "-r" in err


def test_a_folder_with_only_hidden_files_fails_and_says_why(npfsn):
    recording("in/.hidden.wav")
    recording("in/.trash/a.wav")
    _, err = npfsn("enhance", "in", "-r", code=1)
    assert "in holds no sound files (names that begin with a dot do not count)" in err


def test_a_folder_that_cannot_be_read_is_named(npfsn, monkeypatch):
    """It is a failure, not a folder without sound files."""
    recording("in/a.wav")
    recording("in/locked/b.wav")
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "locked":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    out, err = npfsn("enhance", "-r", "in", "-o", "out", code=1)
    assert "cannot read the folder in/locked: Permission denied" in err
    assert "1 file enhanced" in out


@posix
def test_names_that_no_file_can_have(npfsn):
    recording("a.wav")
    recording("x" * 248 + ".wav")
    Path("list.txt").write_bytes(b"a.wav\nnul\0l.wav\n")
    argv = ("enhance", "x" * 5000, "x" * 248 + ".wav", "a.wav/b.wav", "@list.txt")
    out, err = npfsn(*argv, code=1)
    assert err.count("error: ") == err.count("\n") == 4
    assert "1 file enhanced" in out


def test_an_output_folder_that_is_a_file(npfsn):
    recording("a.wav")
    Path("out").write_text("")
    _, err = npfsn("enhance", "a.wav", "-o", "out", code=1)
    assert "cannot write out/a_enhanced.wav: out is a file" in err and err.count("\n") == 1


def test_an_output_that_is_its_own_input_fails(npfsn):
    recording("a.wav")
    _, err = npfsn("enhance", "a.wav", "-o", "a.wav", "--force", code=1)
    assert "is the input itself" in err


@posix
def test_resume_leaves_a_link_to_nowhere_alone(npfsn):
    """But it is no output: it was taken for one, and the run for a success."""
    recording("a.wav")
    Path("a_enhanced.wav").symlink_to("nowhere.wav")
    out, err = npfsn("enhance", "a.wav", "--resume", code=1)
    assert "skipped" not in out and "a_enhanced.wav exists: choose" in err
    assert Path("a_enhanced.wav").is_symlink() and not Path("nowhere.wav").exists()


@pytest.mark.parametrize("option", ["--resume", "--force", "--no-suffix"])
def test_a_folder_in_the_place_of_an_output_is_none(npfsn, option):
    recording("a.wav")
    name = "a.wav" if option == "--no-suffix" else "a_enhanced.wav"
    Path("out", name).mkdir(parents=True)
    out, err = npfsn("enhance", "a.wav", "-o", "out", option, code=1)
    assert f"cannot write out/{name}: there is a folder of this name" in err
    assert "skipped" not in out


def test_a_suffix_in_capitals_is_the_format_of_that_name(npfsn):
    recording("a.wav")
    npfsn("enhance", "a.wav", "-o", "B.FLAC", "--format", "flac")
    assert tree() == ["B.FLAC", "a.wav"]


@pytest.mark.parametrize(("name", "form"), [("b.aiff", "aif"), ("b.OGA", "ogg"), ("b.wav", "wave")])
def test_two_names_of_one_format_are_no_contradiction(npfsn, name, form):
    recording("a.flac")
    npfsn("enhance", "a.flac", "-o", name, "--format", form)
    assert tree() == sorted([name, "a.flac"])


@pytest.mark.parametrize(("name", "form"), [("b.ogg", "opus"), ("b.opus", "ogg"), ("b.m4a", "wav")])
def test_two_formats_are_a_contradiction(npfsn, name, form):
    recording("a.flac")
    _, err = npfsn("enhance", "a.flac", "-o", name, "--format", form, code=2)
    assert f"-o {name} and --format {form} name two formats" in err


def test_outputs_in_folders_inside_are_left_out_in_any_format(npfsn):
    recording("rec/sub/b.flac")
    npfsn("enhance", "rec", "-r", "-o", "rec", "--format", "wav")
    out, _ = npfsn("enhance", "rec", "-r", "-o", "rec")
    assert "1 left out" in out
    assert tree("rec") == ["sub/b.flac", "sub/b_enhanced.flac", "sub/b_enhanced.wav"]


def test_of_several_folders_the_first_comes_first(npfsn):
    recording("one/a.wav", 1000)
    recording("two/a.wav", 2000)
    _, err = npfsn("enhance", "-i", "one", "-i", "two", "-o", "out", code=1)
    assert "two/a.wav and one/a.wav would both become" in err
    assert sf.info("out/a_enhanced.wav").frames == 1000
