"""`npfsn live`, on a sound system made of arrays: what is heard is the input, just later."""

from __future__ import annotations

import copy
import pickle
import sys
import threading
import time
import types
from _thread import interrupt_main

import numpy as np
import pytest
from drawn_models import small_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pure_delay import Delay, load_model, modules

import npfsn
from npfsn import cli, duplex, weights
from npfsn.duplex import LiveStream
from npfsn.errors import AudioError, FrameError
from npfsn.live import FLOOR_DB, _Duplex

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
        return {"name": {"input": "mic", "output": "ears"}[kind], "max_output_channels": outputs}

    def check(device=None, *, samplerate, **options):
        if samplerate not in rates:
            raise PortAudioError(f"Invalid sample rate {samplerate}")

    sd.PortAudioError, sd.CallbackAbort, sd.Stream = PortAudioError, CallbackAbort, Stream
    sd.query_devices = query_devices
    sd.check_input_settings = sd.check_output_settings = check
    return sd


@pytest.fixture
def live(monkeypatch, capsys):
    """Run `npfsn live` in this process, on a sound system, with an engine that delays."""
    for name, module in modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(weights, "load_model", load_model)
    monkeypatch.setattr(duplex, "Enhancer", Delay)

    def run(sd, *argv, code=0):
        monkeypatch.setitem(sys.modules, "sounddevice", sd)
        ends = () if "--seconds" in argv else ("--seconds", 0.05)
        found = cli.main(["live", *map(str, (*ends, *argv))])
        out, err = capsys.readouterr()
        assert found == code, err
        assert "Traceback" not in err
        return out, err

    return run


def noise(seconds, rate=16000, level=0.1):
    rng = np.random.default_rng(1)
    return rng.normal(0.0, level, int(seconds * rate)).astype(np.float32)


def test_both_ears_hear_the_input_later(live):
    sound = noise(1.0)
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
    sound = noise(1.5)
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


def test_rates_that_nobody_takes(live):
    _, err = live(sound_system(noise(0.1), rates=()), code=1)
    assert "npfsn: error: Invalid sample rate 16000" in err
    assert "--list-devices" in err


@pytest.mark.parametrize(("option", "kind"), [("-i", "input"), ("-o", "output")])
def test_a_device_that_is_not_there(live, monkeypatch, option, kind):
    sd = sound_system(noise(0.1))
    sd.check_input_settings = lambda device, **_: sd.query_devices(device, "input")
    _, err = live(sd, option, "nosuch", code=1)
    assert f"No {kind} device matching 'nosuch'" in err
    assert "--list-devices" in err


def test_devices_are_listed(live):
    out, _ = live(sound_system(noise(0.1)), "-l")
    assert out.splitlines() == ["  0 mic, fake (1 in, 0 out)", "  1 ears, fake (0 in, 2 out)"]


def test_devices_are_passed_on(live):
    sd = sound_system(noise(0.1))
    live(sd, "--input", 3, "--output", 4)
    assert sd.opened["device"] == (3, 4)


def test_dropouts_are_counted(live):
    statuses = {1: Status(input_overflow=True), 4: Status(output_underflow=True)}
    out, err = live(sound_system(noise(0.5), statuses=statuses))
    assert "2 dropouts" in out
    assert "--latency 40 may help" in err  # twice what it holds back


def test_not_a_number_is_silence(live):
    sound = noise(0.5)
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
    sd = sound_system(noise(0.5))
    _, err = live(sd, code=1)
    assert err == f"npfsn: error: {said}\n"  # and nothing about devices
    assert sd.heard == []  # the sound system has been told


def test_a_stream_that_never_runs(live):
    out, err = live(sound_system(noise(0.0), gone=True), "--seconds", 100, code=1)
    assert out.splitlines()[1].startswith("0.0 s")
    assert "the sound system ended the stream" in err


def test_a_device_that_is_taken_away(live):
    out, err = live(sound_system(noise(0.5), gone=True), "--seconds", 100, code=1)
    assert "0.5 s, load" in out
    assert "the sound system ended the stream" in err


def test_a_stream_that_ends_before_it_was_heard(live):
    """It was told to: that is no error."""
    out, err = live(sound_system(noise(0.0)))
    assert out.splitlines()[1].startswith("0.0 s")
    assert err == ""


def test_it_ends_by_itself(live):
    sd = sound_system(noise(60.0), pause=0.01)
    out, _ = live(sd, "--seconds", 0.3)
    assert 3 < len(sd.heard) < 200
    assert "dropouts" in out


def test_ctrl_c_is_the_way_to_end_it(live):
    sd = sound_system(noise(0.5))

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
    duplex, y = _Duplex(loop, Exception), np.zeros((2, 1), np.float32)
    for level, pause in ((1.0, 0.03), (0.1, 0.0)):
        duplex(np.array([[level], [pause]], np.float32), y, 2, None, Status())
    assert duplex.worst > 0.025 and duplex.busy > duplex.worst
    np.testing.assert_allclose(duplex.take_peaks(), (0.0, -6.02), atol=0.01)
    np.testing.assert_allclose(duplex.take_peaks(), FLOOR_DB, atol=0.01)


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


def test_without_the_package(live):
    _, err = live(None, code=1)
    assert "pip install sounddevice" in err


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
    _, err = live(sound_system(noise(0.1)), *argv, code=2)
    assert "is not a number above 0" in err


# --- LiveStream --------------------------------------------------------------------------------


@pytest.fixture
def delay(monkeypatch):
    monkeypatch.setattr(duplex, "Enhancer", Delay)


@given(
    st.sampled_from([8000, 11025, 16000, 22050, 32000, 44100, 48000, 96000, 192000])
    | st.integers(8000, 100_000),
    st.sampled_from([None, 1, 128, 160, 441, 480, 512, 1024]) | st.integers(1, 3000),
    st.lists(st.integers(1, 3), min_size=40, max_size=40),
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_as_much_comes_out_as_goes_in_as_late_as_it_says(delay, rate, block, counts):
    """The latency never grows: what waits is what was there at the start."""
    live = LiveStream(rate, block)
    assert live.block_length == (block or -(-256 * rate // 16000))
    if block == 1:
        counts = [50 * n + 7 for n in counts]
    sizes = [live.block_length * n for n in counts]
    t = np.arange(sum(sizes))
    sound = np.sin(2 * np.pi * 300.0 / rate * t).astype(np.float32)
    heard = []
    for samples in np.split(sound, np.cumsum(sizes)[:-1]):
        heard.append(live.process(samples))
        assert heard[-1].shape == samples.shape
    heard = np.concatenate(heard)
    settled = live.latency_samples + rate // 100
    expected = np.sin(2 * np.pi * 300.0 / rate * (t[settled:] - live.latency_samples))
    np.testing.assert_allclose(heard[settled:], expected, atol=5e-3)
    assert live.latency_samples <= (LATENCY + 256 + 50) * rate / 16000 + 50
    assert live.latency_ms == 1000 * live.latency_samples / rate


@pytest.mark.parametrize(
    ("rate", "block", "late"),
    [
        (None, None, LATENCY),  # what an Enhancer has
        (16000, 512, LATENCY),
        (16000, 160, LATENCY + 256 - 32),
        (16000, 1, LATENCY + 255),
        (48000, None, 3 * LATENCY + 60),
        (48000, 480, 3 * (LATENCY + 256 - 32) + 60),
    ],
)
def test_no_more_zeros_than_needed(delay, rate, block, late):
    live = LiveStream(rate, block)
    assert live.latency_samples == late
    left = []
    for _ in range(8 * 256):
        live.process(np.zeros(live.block_length, np.float32))
        left.append(live._ready.size)
    assert min(left) <= (2 if rate == 48000 else 0)  # once, no more was at hand than was given


def test_a_live_stream_is_the_enhancers_later():
    x = noise(1.0)
    live, enhancer = LiveStream(), npfsn.Enhancer()
    np.testing.assert_array_equal(live.process(x[:15872]), enhancer.process(x[:15872]))
    live.reset()
    np.testing.assert_array_equal(
        np.concatenate([live.process(x[at : at + 256]) for at in range(0, 15872, 256)]),
        npfsn.Enhancer().process(x[:15872]),
    )
    others = [LiveStream(48000, 480, model, atten_lim_db=6.0) for model in (None, enhancer.model)]
    first, second = (other.process(np.repeat(x, 3)) for other in others)
    np.testing.assert_array_equal(first, second)


def test_a_live_stream_tells_what_it_runs_with():
    options = {"precision": "int8", "norm": "forgetting_norm", "on_nonfinite": "zero"}
    live = LiveStream(48000, 480, **options, norm_horizon=3.0, atten_lim_db=12.0)
    assert {name: getattr(live, name) for name in options} == options
    assert (live.norm_horizon, live.atten_lim_db, live.sample_rate) == (3.0, 12.0, 48000)
    assert LiveStream(model=live.model).model is live.model


@pytest.mark.parametrize("rate", [11025, 12345, 16000, 22050, 44100, 48000])
def test_a_limit_keeps_what_lies_beyond_the_band_of_the_model(delay, rate):
    """0 dB: all of the input, at its own rate, as late as it says."""
    sound, live = noise(0.5, rate), LiveStream(rate, 1, atten_lim_db=0.0)
    heard = live.process(sound)
    late = live.latency_samples
    np.testing.assert_array_equal(heard[:late], 0.0)
    np.testing.assert_array_equal(heard[late:], sound[:-late])


@pytest.mark.parametrize("rate", [8000, 11025, 12345, 22050, 44100, 48000])
def test_what_is_mixed_in_comes_when_the_enhanced_does(delay, rate):
    """Else some of the band is lost where both meet: at 11025 Hz 0.4 samples were 6 dB."""
    t, edge = np.arange(rate // 2), 0.7 * min(rate, 16000) / 2
    sound = np.sin(2 * np.pi * edge / rate * t).astype(np.float32)
    live = LiveStream(rate, 1, atten_lim_db=6.0)  # the delay passes all of it, so all is left
    heard = live.process(sound)[live.latency_samples + rate // 100 :]
    expected = sound[rate // 100 : rate // 100 + heard.size]
    np.testing.assert_allclose(heard, expected, atol=5e-3)


def test_the_limit_of_a_live_stream_may_change():
    """From one block to the next, to none and back."""
    quiet = small_model("fast_fullsubnet")
    limits = (None, 6.0, 0.0)
    live, *others = (LiveStream(model=quiet, atten_lim_db=limit) for limit in (None, *limits))
    for i, block in enumerate(noise(0.5, 16000)[:7680].reshape(-1, 256)):
        live.atten_lim_db = limits[i % 3]
        assert live.atten_lim_db == limits[i % 3]
        expected = [other.process(block) for other in others][i % 3]
        np.testing.assert_array_equal(live.process(block), expected)
    with pytest.raises(ValueError, match="atten_lim_db"):
        live.atten_lim_db = -1
    assert live.atten_lim_db == limits[i % 3]


@pytest.mark.parametrize(
    "rate, block",
    [(44100, 441), (48000, None), (48000, 480), (48000, 960), (24000, None), (8000, None),
     (32000, 320), (192000, 1920), (44099, 441), (16000, 1), (48000, 1)],
)  # fmt: skip
@pytest.mark.parametrize("blocks", [0, 1, 20, 21, 22, 23, 24, 25, 26, 27])
def test_a_live_stream_ends(delay, rate, block, blocks):
    """All that went in comes out, as late as it says; then nothing may follow but a reset."""
    live, other = LiveStream(rate, block), LiveStream(rate, block)
    late, length = other.latency_samples, other.block_length
    sound = np.resize(noise(0.3, rate), blocks * length)
    heard = np.concatenate([live.process(sound), live.flush()])
    rest = -(-late // length) * length
    longer = other.process(np.concatenate([sound, np.zeros(rest, np.float32)]))
    assert heard.size == sound.size + late
    np.testing.assert_array_equal(heard, longer[: heard.size])
    assert live.flush().size == 0
    with pytest.raises(npfsn.StreamEndedError, match="flushed"):
        live.process(sound)
    live.reset()
    np.testing.assert_array_equal(live.process(sound), heard[: sound.size])


@pytest.mark.parametrize("duplicate", [LiveStream.copy, copy.copy, copy.deepcopy])
def test_copies_of_a_live_stream_are_independent(duplicate):
    sound = noise(0.5, 48000)
    live, alone = (LiveStream(48000, 480, atten_lim_db=6.0) for _ in range(2))
    for each in (live, alone):
        each.process(sound[:9600])
    other = duplicate(live)
    other.process(-sound[:4800])
    again = duplicate(live)
    # The filter is the one large thing that a stream at another rate has.
    assert again._stream._there._filter is live._stream._there._filter is not None
    expected = alone.process(sound[9600:])
    np.testing.assert_array_equal(live.process(sound[9600:]), expected)
    np.testing.assert_array_equal(again.process(sound[9600:]), expected)
    assert repr(again).startswith("<npfsn.LiveStream 48000 Hz, 480 samples")
    with pytest.raises(TypeError, match="LiveStream is not pickled"):
        pickle.dumps(live)


def test_a_live_stream_has_one_user(monkeypatch):
    """Whoever comes second is told, and disturbs nothing, not even what is outside the Enhancer."""
    sound = noise(0.3, 48000)
    live, alone = (LiveStream(48000, 480, atten_lim_db=6.0) for _ in range(2))
    calls = (lambda: live.process(sound[:480]), live.flush, live.reset, live.copy)
    enhance, given = npfsn.Enhancer.process, []

    def disturbed(self, x):
        for call in calls if self is live._enhancer else ():
            with pytest.raises(npfsn.ConcurrentUseError, match="another LiveStream"):
                call()
            given.append(call)
        return enhance(self, x)

    monkeypatch.setattr(npfsn.Enhancer, "process", disturbed)
    for at in range(0, 9600, 480):
        block = sound[at : at + 480]
        np.testing.assert_array_equal(live.process(block), alone.process(block))
    assert len(given) == 20 * len(calls)


def test_an_interrupted_live_stream_says_so(monkeypatch):
    """Wherever it was cut: the blocks that follow would be too short."""
    sound = noise(0.3, 48000)
    live = LiveStream(48000, 480)
    expected = live.process(sound)
    live.reset()
    with monkeypatch.context() as patch:

        def interrupt(*_):
            raise KeyboardInterrupt

        patch.setattr(npfsn.Enhancer, "process", interrupt)
        with pytest.raises(KeyboardInterrupt):
            live.process(sound[:480])
    for call in (lambda: live.process(sound[:480]), live.flush, live.copy):
        with pytest.raises(npfsn.StreamEndedError, match="call reset"):
            call()
    live.reset()
    np.testing.assert_array_equal(live.process(sound), expected)


def test_blocks_that_a_live_stream_refuses(delay):
    live = LiveStream(48000, 480)
    for block, error, message in (
        (np.zeros(481, np.float32), FrameError, "has 481 samples: expected 480 or"),
        (np.zeros((480, 1), np.float32), FrameError, r"one dimension; give block\[:, 0\]"),
        (np.zeros((480, 2), np.float32), FrameError, "one dimension; give every channel"),
        (np.zeros(480, np.int16), TypeError, "int16"),
        (np.full(480, np.nan), FrameError, "480 of 480 samples are NaN"),
    ):
        with pytest.raises(error, match=message):
            live.process(block)
    sound = noise(0.2, 48000)
    np.testing.assert_array_equal(live.process(sound), LiveStream(48000, 480).process(sound))
    silent = LiveStream(48000, 480, on_nonfinite="zero")
    sound[100] = np.inf
    assert np.isfinite(silent.process(sound)).all() and silent.n_nonfinite == 1
    assert np.isinf(sound[100])  # not modified
    silent.reset()
    assert silent.n_nonfinite == 0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((48000, 0), ValueError, "block_length is 0"),
        ((48000, 480.0), ValueError, "block_length is 480.0"),
        ((48000.5,), TypeError, "sample_rate is 48000.5"),
        ((100,), AudioError, "100 Hz"),
    ],
)
def test_what_no_live_stream_can_have(delay, arguments, error, message):
    with pytest.raises(error, match=message):
        LiveStream(*arguments)
