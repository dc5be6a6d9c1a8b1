"""`npfsn live`, on a sound system made of arrays: what is heard is the input, just later."""

from __future__ import annotations

import os
import sys
import threading
import time
import types
from _thread import interrupt_main

import numpy as np
import pytest
from pure_delay import Delay
from sounds import hiss

import npfsn
from npfsn import cli, live_stream
from npfsn.live import FLOOR_DB, _Callback, _standing, _tell

LATENCY = Delay.latency_samples


class Status:
    """What the sound system says of a block."""

    def __init__(self, input_overflow=False, output_underflow=False):
        self.input_overflow, self.output_underflow = input_overflow, output_underflow


def sound_system(sound, *, rates=(16000, 48000), outputs=2, statuses=None, pause=0.0, gone=False):
    """Return a stand-in for the package sounddevice whose microphone hears `sound`.

    Parameters
    ----------
    rates : tuple of int
        What the devices take.
    statuses : dict of int to Status, optional
        Of blocks by their number.
    pause : float
        Seconds between blocks. Without, all of the sound is heard whenever the stream is ended.
    gone : bool
        Whether the devices are taken away when the sound is over.
    """
    sd = types.ModuleType("sounddevice")
    sd.heard, sd.opened = [], {}

    class PortAudioError(Exception):
        pass

    class CallbackAbort(Exception):
        pass

    class Stream:
        device, latency = (0, 1), (0.010, 0.020)

        def __init__(self, **options):
            sd.opened.update(options)
            self._ending = threading.Event()
            self._thread = threading.Thread(target=self._play)

        def __enter__(self):
            self._thread.start()
            return self

        def __exit__(self, *_):
            self._ending.set()
            self._thread.join()

        def _play(self):
            size, channels = sd.opened["blocksize"], sd.opened["channels"]
            assert channels[0] == 1  # the fake microphone, and real ones, have no more
            try:
                for number, at in enumerate(range(0, len(sound) - size + 1, size)):
                    out = np.full((size, channels[1]), np.nan, np.float32)
                    status = (statuses or {}).get(number, Status())
                    sd.opened["callback"](sound[at : at + size, None], out, size, None, status)
                    sd.heard.append(out)
                    if pause and self._ending.wait(pause):
                        return
                if not gone:
                    self._ending.wait(30.0)
            except CallbackAbort:
                pass
            finally:
                sd.opened["finished_callback"]()

    def query_devices(device=None, kind=None):
        if kind is None:
            return "  0 mic, fake (1 in, 0 out)\n  1 ears, fake (0 in, 2 out)"
        if isinstance(device, str):
            raise ValueError(f"No {kind} device matching {device!r}")
        return {
            "name": {"input": "mic", "output": "ears"}[kind],
            "max_output_channels": outputs,
            "default_samplerate": float((*rates, 44100)[0]),
        }

    def check(device=None, *, samplerate, **options):
        if samplerate not in rates:
            raise PortAudioError(f"Invalid sample rate {samplerate}")

    sd.PortAudioError, sd.CallbackAbort, sd.Stream = PortAudioError, CallbackAbort, Stream
    sd.query_devices = query_devices
    sd.check_input_settings = sd.check_output_settings = check
    return sd


@pytest.fixture
def live(delay, monkeypatch, capsys):
    """Run `npfsn live` in this process, on a sound system, with an engine that delays."""
    monkeypatch.setattr(live_stream, "Enhancer", Delay)

    def run(sd, *argv, code=0):
        monkeypatch.setitem(sys.modules, "sounddevice", sd)
        ends = () if "--seconds" in argv else ("--seconds", 0.05)
        found = cli.main(["live", *map(str, (*ends, *argv))])
        out, err = capsys.readouterr()
        assert found == code, err
        assert "Traceback" not in err
        return out, err

    return run


def test_both_ears_hear_the_input_later(live):
    sound = hiss(1.0)
    sd = sound_system(sound, outputs=8)
    out, err = live(sd)
    heard = np.concatenate(sd.heard)
    assert heard.shape[1] == 2
    np.testing.assert_array_equal(heard[:, 0], heard[:, 1])
    np.testing.assert_array_equal(heard[:LATENCY, 0], 0.0)
    np.testing.assert_array_equal(heard[LATENCY:, 0], sound[: len(heard) - LATENCY])
    assert sd.opened["samplerate"] == 16000
    assert sd.opened["blocksize"] == 256
    assert sd.opened["latency"] == "low"
    introduction, summary = out.splitlines()
    assert introduction.startswith("mic -> ears, 16000 Hz; latency 64 ms (model 48, hop 16)")
    assert "adds: 30 ms" in introduction
    assert "1.0 s, load " in summary
    assert "0 dropouts" in summary
    assert err == ""


@pytest.mark.parametrize("horizon", [None, 1.0])
def test_it_is_the_stream_that_a_program_has(monkeypatch, horizon):
    sound = hiss(1.5)
    sd = sound_system(sound, outputs=1)
    monkeypatch.setitem(sys.modules, "sounddevice", sd)
    forgets = ["--norm-horizon", "1"] if horizon else []
    assert cli.main(["live", "-q", "--seconds", "0.05", *forgets]) == 0
    heard = np.concatenate(sd.heard)
    assert heard.shape[1] == 1
    expected = npfsn.Enhancer(norm_horizon=horizon).process(sound)
    np.testing.assert_array_equal(heard[:, 0], expected)


def test_a_device_with_another_rate_is_heard_at_its_own(live):
    sound = np.sin(2 * np.pi * 440 / 48000 * np.arange(48000)).astype(np.float32)
    sd = sound_system(sound, rates=(48000,))
    out, _ = live(sd, "--latency", 100)
    assert sd.opened["samplerate"] == 48000
    assert sd.opened["blocksize"] == 768
    assert sd.opened["latency"] == 0.1
    assert "48000 Hz; latency 65 ms" in out
    heard, late = np.concatenate(sd.heard)[:, 0], 3 * LATENCY + 60
    np.testing.assert_allclose(heard[late + 500 :], sound[500 : len(heard) - late], atol=2e-3)


def test_a_rate_that_is_none_of_the_common_ones(live):
    """The devices' own: a headset's, say."""
    sd = sound_system(hiss(0.2, 32000), rates=(32000,))
    live(sd)
    assert sd.opened["samplerate"] == 32000


def test_rates_that_nobody_takes(live):
    _, err = live(sound_system(hiss(0.1), rates=()), code=1)
    assert "npfsn: error: Invalid sample rate 16000" in err
    assert "--list-devices" in err


@pytest.mark.parametrize(("option", "kind"), [("-i", "input"), ("-o", "output")])
def test_a_device_that_is_not_there(live, monkeypatch, option, kind):
    sd = sound_system(hiss(0.1))
    sd.check_input_settings = lambda device, **_: sd.query_devices(device, "input")
    _, err = live(sd, option, "nosuch", code=1)
    assert f"No {kind} device matching 'nosuch'" in err
    assert "--list-devices" in err


def test_a_name_of_several_devices_is_told_in_one_line(live):
    sd = sound_system(hiss(0.1))

    def query(device=None, kind=None):
        raise ValueError("Multiple output devices found for 'mic':\n[0] mic 1\n[1] mic 2")

    sd.query_devices = query
    _, err = live(sd, "-o", "mic", code=1)
    assert "found for 'mic': [0] mic 1 [1] mic 2 (npfsn live --list-devices" in err


def test_devices_are_listed(live):
    out, _ = live(sound_system(hiss(0.1)), "-l")
    assert out.splitlines() == ["  0 mic, fake (1 in, 0 out)", "  1 ears, fake (0 in, 2 out)"]


def test_devices_are_passed_on(live):
    sd = sound_system(hiss(0.1))
    live(sd, "--input", 3, "--output", 4)
    assert sd.opened["device"] == (3, 4)


def test_each_device_is_asked_what_it_takes(live):
    """Not the default ones: these headphones have two channels, the default ones have one."""
    sd, asked = sound_system(hiss(0.1), outputs=1), {}
    query_any = sd.query_devices

    def query(device=None, kind=None):
        return query_any(device, kind) | ({"max_output_channels": 2} if device == 4 else {})

    sd.query_devices = query
    sd.check_input_settings = lambda device, **options: asked.update({device: options})
    sd.check_output_settings = sd.check_input_settings
    live(sd, "--input", 3, "--output", 4)
    assert {device: options["channels"] for device, options in asked.items()} == {3: 1, 4: 2}
    assert sd.heard[0].shape[1] == 2


def test_dropouts_are_counted(live):
    statuses = {1: Status(input_overflow=True), 4: Status(output_underflow=True)}
    out, err = live(sound_system(hiss(0.5), statuses=statuses))
    assert "2 dropouts" in out
    assert "--latency 40 may help" in err  # twice what it holds back


def test_more_latency_is_advised_than_was_asked_for(live):
    """Whatever the sound system says that it holds back, which may be nothing."""
    sd = sound_system(hiss(0.5), statuses={1: Status(output_underflow=True)})
    _, err = live(sd, "--latency", 100)
    assert "--latency 200 may help" in err
    sd.Stream.latency = (0.0, 0.0)
    _, err = live(sd)
    assert "--latency 20 may help" in err


def test_not_a_number_is_silence(live):
    sound = hiss(0.5)
    sound[1000:1010] = np.nan
    given = sound.copy()
    sd = sound_system(sound)
    _, err = live(sd)
    np.testing.assert_array_equal(sound, given)  # the sound system's own
    heard = np.concatenate(sd.heard)[:, 0]
    assert np.isfinite(heard).all()
    np.testing.assert_array_equal(heard[LATENCY + 1000 : LATENCY + 1010], 0.0)
    assert "10 NaN or infinite samples" in err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "not enough memory"),
        (ValueError("two shapes"), "unexpected ValueError: two shapes (-v shows where)"),
    ],
)
def test_an_error_ends_it(live, monkeypatch, error, said):
    def fail(self, chunk):
        if chunk.size:
            raise error
        return chunk

    monkeypatch.setattr(Delay, "process", fail)
    sd = sound_system(hiss(0.5))
    _, err = live(sd, code=1)
    assert err == f"npfsn: error: {said}\n"  # and nothing about devices
    assert sd.heard == []  # the sound system has been told


def test_a_stream_that_never_runs(live):
    out, err = live(sound_system(hiss(0.0), gone=True), "--seconds", 100, code=1)
    assert out.splitlines()[1].startswith("0.0 s")
    assert "the sound system ended the stream" in err


def test_a_device_that_is_taken_away(live):
    out, err = live(sound_system(hiss(0.5), gone=True), "--seconds", 100, code=1)
    assert "0.5 s, load" in out
    assert "the sound system ended the stream" in err


def test_a_stream_that_ends_before_it_was_heard(live):
    """It was told to: that is no error."""
    out, err = live(sound_system(hiss(0.0)))
    assert out.splitlines()[1].startswith("0.0 s")
    assert err == ""


def test_it_ends_by_itself(live):
    sd = sound_system(hiss(60.0), pause=0.01)
    out, _ = live(sd, "--seconds", 0.3)
    assert 3 < len(sd.heard) < 200
    assert "dropouts" in out


def test_ctrl_c_is_the_way_to_end_it(live):
    sd = sound_system(hiss(0.5))

    def press():
        while not sd.heard:
            time.sleep(0.01)
        interrupt_main()

    threading.Thread(target=press).start()
    out, err = live(sd, "--seconds", 100)
    assert "dropouts" in out
    assert err == ""


def test_the_slowest_block_and_the_peaks_since():
    loop = types.SimpleNamespace(process=lambda x: time.sleep(float(x[1])) or 0.5 * x)
    callback, y = _Callback(loop, Exception), np.zeros((2, 1), np.float32)
    for level, pause in ((-1.0, 0.03), (0.1, 0.0)):
        callback(np.array([[level], [pause]], np.float32), y, 2, None, Status())
    assert callback.worst > 0.025 and callback.busy > callback.worst
    np.testing.assert_allclose(callback.take_peaks(), (0.0, -6.02), atol=0.01)
    np.testing.assert_allclose(callback.take_peaks(), FLOOR_DB, atol=0.01)


def test_a_terminal_sees_levels(live, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    sound = np.full(16000, 0.5, np.float32)
    sound[::256] = np.nan
    sd = sound_system(sound, pause=0.02)
    _, err = live(sd, "--seconds", 0.6)
    shown = [line for line in err.split("\r") if "dB" in line]
    assert len(shown) > 1
    assert "in   -6 dB" in shown[-1]
    assert "out   -6 dB" in shown[-1]
    warning = err.rpartition("\r")[2]  # the line has been wiped
    assert warning.startswith("npfsn: warning:") and "NaN" in warning


def test_without_the_package(live, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/my env/bin/python")
    _, err = live(None, code=1)
    quote = '"' if os.name == "nt" else "'"
    assert f"{quote}/my env/bin/python{quote} -m pip install sounddevice" in err


def test_without_the_library(monkeypatch, tmp_path, capsys):
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    assert cli.main(["live", "-q"]) == 1
    assert "needs PortAudio (PortAudio library not found): install it" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv", [["--latency", "0"], ["--latency", "low"], ["--seconds", "-1"], ["--seconds", "inf"]]
)
def test_arguments_are_checked(live, argv):
    _, err = live(sound_system(hiss(0.1)), *argv, code=2)
    assert "is not a number above 0" in err


def test_infinity_is_no_level():
    callback = _Callback(types.SimpleNamespace(process=np.zeros_like), Exception)
    x = np.array([[0.1], [np.inf], [-np.inf]], np.float32)
    callback(x, np.zeros((3, 1), np.float32), 3, None, Status())
    np.testing.assert_allclose(callback.take_peaks(), (-20.0, FLOOR_DB), atol=0.01)


def test_the_load_is_the_share_of_the_time():
    callback = _Callback(None, Exception)
    callback.busy, callback.samples = 0.5, 32000
    assert "load 25%" in _standing(callback, 16000, 2.0)


def test_before_the_first_block_there_is_no_load():
    assert _standing(_Callback(None, Exception), 16000, 0.3) == (
        "0.3 s  in  -99 dB  out  -99 dB  load 0%  0 dropouts"
    )


def test_the_summary_in_numbers(capsys):
    stream = types.SimpleNamespace(sample_rate=48000, block_length=768, n_nonfinite=1)
    callback = _Callback(stream, Exception)
    callback.busy, callback.samples, callback.worst, callback.dropouts = 0.5, 96000, 0.0123, 1
    _tell(callback, stream, 30.0)
    out, err = capsys.readouterr()
    assert out == "2.0 s, load 25.0%, slowest block 12.3 of 16 ms, 1 dropout\n"
    assert "1 NaN or infinite samples were replaced" in err


def test_the_rate_of_a_device_comes_before_common_ones(live):
    sd = sound_system(hiss(0.5), rates=(44100, 48000))
    live(sd)
    assert sd.opened["samplerate"] == 44100


@pytest.mark.parametrize(("rates", "taken"), [((96000,), 96000), ((44100, 48000), 48000)])
def test_common_rates_come_last(live, rates, taken):
    """For devices that do not take what they name as their own."""
    sd = sound_system(hiss(0.5), rates=rates)
    query_any = sd.query_devices
    sd.query_devices = lambda *which: query_any(*which) | {"default_samplerate": 11025.0}
    live(sd)
    assert sd.opened["samplerate"] == taken


def test_a_rate_that_only_the_microphone_takes(live):
    sd = sound_system(hiss(0.5))

    def check(device=None, *, samplerate, **options):
        if samplerate != 44100:
            raise sd.PortAudioError(f"Invalid sample rate {samplerate}")

    sd.check_input_settings = lambda device=None, **options: None
    sd.check_output_settings = check
    live(sd)
    assert sd.opened["samplerate"] == 44100


def test_a_quiet_one_prints_nothing(live, monkeypatch):
    monkeypatch.setattr("npfsn.machine_code.announce", True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert live(sound_system(hiss(0.5)), "-q", "--seconds", 0.3) == ("", "")
    assert not npfsn.machine_code.announce


def test_without_a_time_it_does_not_end(live, monkeypatch):
    sd = sound_system(hiss(0.5))
    monkeypatch.setitem(sys.modules, "sounddevice", sd)
    timer, started = threading.Timer(0.5, interrupt_main), time.monotonic()
    timer.start()
    assert cli.main(["live", "-q"]) == 0
    timer.cancel()
    assert time.monotonic() - started > 0.4


def test_a_machine_without_sound(live):
    sd = sound_system(hiss(0.1))
    sd.query_devices = lambda: ""
    assert live(sd, "-l")[0] == "no sound devices\n"
