"""Judging: mixtures at the SNR they name, SI-SDR, and the table."""

from __future__ import annotations

import argparse
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
from drawn_models import small_model

import npfsn
from tools import evaluate
from tools.evaluate import Score, find_pairs, main, mix, si_sdr, table, typical
from tools.results import picture_file, result_file

RATE = 16_000


def write_pair(
    folder: Path, clean: np.ndarray | None, noisy: np.ndarray, speech: str = "a", rate: int = RATE
) -> None:
    """Write a pair, at a tenth of the level; without its clean recording if that is None."""
    for name, samples in (("clean", clean), ("noisy", noisy)):
        (folder / name).mkdir(exist_ok=True)
        if samples is not None:
            soundfile.write(folder / name / f"{speech}_tap_snr0.wav", samples * 0.1, rate, "FLOAT")


def test_si_sdr_ignores_level_and_measures_noise() -> None:
    rng = np.random.default_rng(0)
    clean, noise = rng.normal(size=(2, RATE * 4))
    assert si_sdr(0.3 * clean + 0.03 * noise, clean) == pytest.approx(20.0, abs=0.2)
    assert si_sdr(2 * clean, clean) > 100


def test_mixtures_have_the_snr_of_their_name(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    audio, out = tmp_path / "audio", tmp_path / "pairs"
    audio.mkdir()
    for name, samples in (("speech_one", RATE * 2), ("speech_two", RATE), ("noise_tap", RATE)):
        soundfile.write(audio / f"{name}.wav", 0.3 * rng.normal(size=samples).clip(-1, 1), RATE)
    assert mix(audio, out, (0, 10)) == 4
    pairs = find_pairs(out)
    assert [(pair.speech, pair.noise, pair.snr) for pair in pairs] == [
        ("one", "tap", 0),
        ("one", "tap", 10),
        ("two", "tap", 0),
        ("two", "tap", 10),
    ]
    for pair in pairs:
        clean, noisy = (soundfile.read(path)[0] for path in (pair.clean, pair.noisy))
        snr = 10 * np.log10(np.mean(clean**2) / np.mean((noisy - clean) ** 2))
        assert snr == pytest.approx(pair.snr, abs=0.01)
        assert np.abs(noisy).max() <= 1.0


@pytest.mark.parametrize("name", ["speech_one", "noise_tap"])
def test_another_rate_is_refused(tmp_path: Path, name: str) -> None:
    for each in ("speech_one", "noise_tap"):
        rate = 48_000 if each == name else RATE
        soundfile.write(tmp_path / f"{each}.wav", np.full(RATE, 0.1), rate)
    with pytest.raises(ValueError, match=f"{name}.wav is at 48000 Hz"):
        mix(tmp_path, tmp_path / "pairs")


@pytest.mark.parametrize(
    ("clean", "noisy", "rate", "message"),
    [
        (None, np.ones(100), RATE, "has no clean recording"),
        (np.zeros(100), np.ones(100), RATE, "is silent"),
        (np.ones(99), np.ones(100), RATE, "equally long"),
        (np.ones((100, 2)), np.ones((100, 2)), RATE, "mono"),
        (np.ones(100), np.ones(100), 48_000, "is at 48000 Hz"),
        (np.ones(RATE), np.zeros(RATE), RATE, "noisy/a_tap_snr0.wav is silent"),
        (np.full(RATE, np.nan), np.ones(RATE), RATE, "clean/a_tap_snr0.wav contains NaN"),
        (np.ones(RATE), np.full(RATE, np.inf), RATE, "noisy/a_tap_snr0.wav contains NaN"),
        (np.ones(100), np.ones(100), RATE, "a_tap_snr0.wav is shorter than 0.5 s"),
    ],
)
def test_what_cannot_be_judged_is_named(
    tmp_path: Path, clean: np.ndarray | None, noisy: np.ndarray, rate: int, message: str
) -> None:
    write_pair(tmp_path, clean, noisy, rate=rate)
    with pytest.raises(SystemExit, match=f"tools.evaluate: .*{message}"):
        main(["judge", str(tmp_path)])


def test_every_pair_is_looked_at_before_any_is_enhanced(tmp_path: Path, monkeypatch) -> None:
    write_pair(tmp_path, np.ones(RATE), np.ones(RATE))
    write_pair(tmp_path, np.ones(RATE), np.zeros(RATE), "b")
    monkeypatch.setattr(evaluate, "_judge", None)
    with pytest.raises(ValueError, match="noisy/b_tap_snr0.wav is silent"):
        evaluate.judge(find_pairs(tmp_path), None)


@pytest.mark.parametrize("seconds", [0.5, 2.0])
def test_too_little_sound_is_no_score(tmp_path: Path, seconds: float) -> None:
    """STOI counts it as 1e-5, which would lower a mean."""
    pytest.importorskip("pesq")
    pytest.importorskip("pystoi")
    rng = np.random.default_rng(0)
    clean = rng.normal(0, 0.1, int(seconds * RATE))
    noisy = clean + rng.normal(0, 0.01, clean.size)
    assert evaluate.measure(noisy, clean)["stoi"] > 0.5
    clean[RATE // 4 :] = 0.0
    write_pair(tmp_path, clean, noisy)
    for command in ("judge", "compare"):
        with pytest.raises(SystemExit, match="clean/a_tap_snr0.wav has less than half a second of"):
            main([command, str(tmp_path)])


def test_a_score_that_stoi_warns_of_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same where neither package is installed."""

    def stoi(*_: object) -> float:
        warnings.warn("Not enough STFT frames to compute ...", RuntimeWarning, stacklevel=2)
        return 1e-5

    packages = {
        "pesq": {"pesq": lambda *_, **__: 1.0, "PesqError": types.SimpleNamespace(RETURN_VALUES=0)},
        "pystoi": {"stoi": stoi},
    }
    for name, content in packages.items():
        monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(**content))
    with pytest.raises(ValueError, match="less than half a second of sound"):
        evaluate.measure(np.ones(RATE), np.ones(RATE))


@pytest.mark.parametrize("workers", ["1", "2"])
def test_checkpoints_that_cannot_be_judged_are_named(tmp_path: Path, workers: str) -> None:
    torch = pytest.importorskip("torch")
    write_pair(tmp_path, np.ones(RATE), np.ones(RATE))
    (tmp_path / "garbage.tar").write_bytes(b"garbage")
    torch.save({"model": {"fb_model.weight": torch.zeros(3)}}, tmp_path / "other.tar")
    size = {"bottleneck.sequence_model.weight_hh_l0": torch.zeros(16, 4)}
    torch.save({"model": size}, tmp_path / "part.tar")
    for name, message in (
        ("garbage", "is damaged, or no checkpoint of tools.train (npfsn-convert reads others)"),
        ("other", "holds no Fast FullSubNet"),
        ("part", "is of another network"),
    ):
        path = tmp_path / f"{name}.tar"
        with pytest.raises(SystemExit, match="tools.evaluate: ") as stopped:
            main(["judge", str(tmp_path), "-m", str(path), "--workers", workers])
        text = str(stopped.value)
        assert text.startswith(f"tools.evaluate: {path} {message}") and "\n" not in text


def test_other_pairs_are_not_mixed_with_new_ones(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    audio, out = tmp_path / "audio", tmp_path / "pairs"
    audio.mkdir()
    for name in ("speech_one", "noise_tap"):
        soundfile.write(audio / f"{name}.wav", 0.1 * rng.normal(size=RATE), RATE)
    assert mix(audio, out, (0,)) == mix(audio, out, (0,)) == 1
    with pytest.raises(ValueError, match="pairs holds other pairs, which would be judged too"):
        mix(audio, out, (5,))
    assert len(find_pairs(out)) == 1


def test_what_is_no_audio_is_named(tmp_path: Path) -> None:
    for name in ("clean", "noisy"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a_tap_snr0.wav").write_bytes(b"no audio")
    with pytest.raises(SystemExit, match="tools.evaluate: .*a_tap_snr0.wav"):
        main(["judge", str(tmp_path)])


def test_a_noise_that_is_silent_beside_a_sentence_is_refused(tmp_path: Path) -> None:
    """No gain would give it the SNR."""
    soundfile.write(tmp_path / "speech_a.wav", np.full(RATE, 0.1), RATE)
    soundfile.write(tmp_path / "noise_b.wav", np.repeat([0.0, 0.1], RATE), RATE)
    with pytest.raises(SystemExit, match="noise b is silent in the part for speech_a.wav"):
        main(["mix", str(tmp_path), str(tmp_path / "out")])


def test_noises_whose_mixtures_would_share_names_are_refused(tmp_path: Path) -> None:
    for name in ("speech_a", "noise_b_c", "noise_b-c"):
        soundfile.write(tmp_path / f"{name}.wav", np.full(RATE, 0.1), RATE)
    with pytest.raises(SystemExit, match="tools.evaluate: two noise_"):
        main(["mix", str(tmp_path), str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_name_without_noise_and_snr_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no pairs"):
        find_pairs(tmp_path)
    (tmp_path / "noisy").mkdir()
    soundfile.write(tmp_path / "noisy/plain.wav", np.zeros(10), RATE)
    with pytest.raises(ValueError, match="plain.wav"):
        find_pairs(tmp_path)


def score(noise: str, snr: int, gain: float) -> Score:
    before = {"pesq": 1.0, "stoi": 0.5, "si_sdr": float(snr)}
    after = {"pesq": 1.0 + gain, "stoi": 0.5 + gain / 10, "si_sdr": snr + 10 * gain}
    return Score("someone", noise, snr, before, after, -0.5)


def test_the_typical_pair_has_the_median_gain() -> None:
    assert typical([score("tap", 5, gain) for gain in (0.3, -0.1, 0.9, 0.2, 0.8)]) == 0


def test_the_table_averages_by_snr_and_noise() -> None:
    rows = table([score("tap", 0, 0.2), score("tap", 5, 0.4), score("car", 5, 0.6)]).splitlines()
    assert rows[2] == "| all | 3 | 1.40 | +0.40 | 0.540 | +0.040 | 7.3 | +4.0 |"
    assert any(row.startswith("| SNR 5 dB | 2 | 1.50 | +0.50 |") for row in rows)
    assert any(row.startswith("| noise tap | 2 | 1.30 | +0.30 |") for row in rows)
    assert "Level of speech: -0.50 dB" in rows[-1]


def test_ratios_of_hops_are_compared_with_the_clean_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An enhancer that is right about every hop, three hops late, is found right."""

    class Oracle:
        frame_length, latency_samples = 256, 768

        def __init__(self, model: str | None) -> None:
            self.told = [-np.inf] * 3

        def step(self, frame: np.ndarray) -> None:
            loud = np.sum(frame**2) > 256 * 0.05**2
            self.told.append(10 * np.log10(100.0) if loud else -np.inf)

        @property
        def last_snr_db(self) -> float:
            return self.told[-4]

    rng = np.random.default_rng(2)
    speaks = np.repeat(np.arange(125) % 3 == 0, 256)
    clean = speaks * rng.choice([-1.0, 1.0], speaks.size)
    write_pair(tmp_path, clean, clean + 0.1 * rng.choice([-1.0, 1.0], speaks.size))
    monkeypatch.setattr(evaluate.npfsn, "Enhancer", Oracle)
    main(["hops", str(tmp_path)])
    said = capsys.readouterr().out
    assert said.startswith("1 mixtures, 125 hops. In 34% of them somebody speaks")
    assert "off by 0.0 dB on average, +0.0 dB in the mean" in said
    assert "| 0 dB | 100% | 0% |" in said


def test_where_results_go_is_looked_at_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for wrong, expected in ((tmp_path, "is a folder"), (tmp_path / "no/x.json", "is its folder")):
        with pytest.raises(SystemExit) as stopped:
            main(["judge", str(tmp_path), "--json", str(wrong)])
        assert stopped.value.code == 2
        assert expected in capsys.readouterr().err
    assert result_file(str(tmp_path / "x.json")) == tmp_path / "x.json"


def test_pictures_are_refused_before_the_work_where_nothing_draws_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = str(tmp_path / "x.png")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stopped:
        main(["judge", str(tmp_path), "--picture", name])
    assert stopped.value.code == 2
    assert "need matplotlib" in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert picture_file(name) == tmp_path / "x.png"
    for wrong in ("x", "x.md", "x.xyz"):
        with pytest.raises(argparse.ArgumentTypeError, match="ends in .png"):
            picture_file(str(tmp_path / wrong))


def test_the_picture_is_of_the_typical_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs, drawn = ["a", "b", "c"], []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr(evaluate, "find_pairs", lambda *_: pairs)
    monkeypatch.setattr(evaluate, "judge", lambda *_: [score("tap", 0, g) for g in (0.2, 0.1, 0.3)])
    monkeypatch.setattr(evaluate, "fidelity", lambda *_: "")
    monkeypatch.setattr(evaluate, "picture", lambda pair, *_: drawn.append(pair))
    main(["judge", str(tmp_path), "--picture", str(tmp_path / "x.png")])
    assert drawn == ["a"]


def test_si_sdr_ignores_an_offset() -> None:
    clean, noise = np.random.default_rng(4).normal(size=(2, RATE))
    expected = si_sdr(clean + 0.1 * noise, clean)
    assert si_sdr(clean + 0.1 * noise + 0.5, clean - 0.2) == pytest.approx(expected)


def test_no_speech_found_is_the_worst_score(monkeypatch: pytest.MonkeyPatch) -> None:
    """PESQ then returns -1, which is no score at all."""
    packages = {
        "pesq": {"pesq": lambda *_, **__: -1, "PesqError": types.SimpleNamespace(RETURN_VALUES=0)},
        "pystoi": {"stoi": lambda *_: 0.5},
    }
    for name, content in packages.items():
        monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(**content))
    clean, noise, _ = tones()
    found = evaluate.measure(clean + 0.1 * noise, clean)
    assert (found["pesq"], found["stoi"]) == (1.0, 0.5)


def tones(seconds: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return three signals of one level that have nothing in common."""
    t = np.arange(int(seconds * RATE)) / RATE
    a, b, c = (np.sin(2 * np.pi * hertz * t) for hertz in (200.0, 500.0, 1100.0))
    return a, b, c


def test_a_score_tells_before_from_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The level is that of speech, whatever becomes of its pauses."""
    clean, noise, _ = tones()
    clean[RATE // 2 :] = 0.0
    write_pair(tmp_path, clean, clean + 0.1 * noise)
    monkeypatch.setattr(evaluate, "measure", lambda x, clean: {"si_sdr": si_sdr(x, clean)})

    def half_as_loud(noisy: np.ndarray) -> np.ndarray:
        assert noisy.dtype == np.float32
        return np.where(np.arange(noisy.size) < RATE // 2, 0.05 * clean, 0.02 * noise)

    monkeypatch.setattr(evaluate, "load_enhancer", lambda model: half_as_loud)
    (found,) = evaluate.judge(find_pairs(tmp_path), None)
    assert found.before["si_sdr"] == pytest.approx(17.0, abs=0.1)
    assert found.after["si_sdr"] == pytest.approx(8.0, abs=0.1)
    assert found.gain("si_sdr") == pytest.approx(-9.0, abs=0.2)
    assert found.level_db == pytest.approx(-6.02, abs=0.01)


def test_the_least_gains_are_named() -> None:
    scores = [score(f"n{i}", 0, i / 10) for i in (3, 1, 2, 9, 5, 4, 8)]
    last = table(scores).splitlines()[-1]
    expected = ", ".join(f"someone n{i} 0 dB +{i}.0" for i in (1, 2, 3, 4, 5))
    assert last.endswith(f"Least SI-SDR gain: {expected}.")


def test_every_other_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(evaluate, "find_pairs", lambda _: list(range(5)))
    monkeypatch.setattr(evaluate, "hops", lambda pairs, _: seen.append(pairs))
    main(["hops", str(tmp_path), "--every", "2"])
    assert seen == [[0, 2, 4]]


def test_loud_mixtures_are_turned_down_together_with_the_speech(tmp_path: Path) -> None:
    """And each sentence has another part of the noise."""
    rng = np.random.default_rng(3)
    audio, out = tmp_path / "audio", tmp_path / "pairs"
    audio.mkdir()
    speech, noise = 0.9 * np.sign(tones()[0]), 0.1 * rng.normal(size=10 * RATE)
    for name, samples in (("speech_a", speech), ("speech_b", speech), ("noise_n", noise)):
        soundfile.write(audio / f"{name}.wav", samples, RATE, "FLOAT")
    assert mix(audio, out, (10,)) == 2
    parts = []
    for pair in find_pairs(out):
        clean, noisy = (soundfile.read(path)[0] for path in (pair.clean, pair.noisy))
        assert np.abs(noisy).max() == pytest.approx(0.99, abs=1e-6)
        assert np.abs(clean).max() < 0.8
        gain = np.abs(clean).max() / 0.9
        parts.append((noisy - clean) / gain)
    assert abs(np.corrcoef(parts)[0, 1]) < 0.1


def test_clean_speech_and_silence_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each recording once, however many mixtures there are of it."""
    clean, noise, _ = tones()
    write_pair(tmp_path, clean, clean + noise)
    pairs = find_pairs(tmp_path) * 2
    given = []

    def half(noisy: np.ndarray) -> np.ndarray:
        given.append(noisy.size)
        return 0.5 * noisy + 1e-3

    monkeypatch.setattr(evaluate, "load_enhancer", lambda model: half)
    said = evaluate.fidelity(pairs, None)
    assert given == [RATE, 5 * RATE]
    assert said.startswith("Clean speech (1 recordings, 40 dB): SI-SDR mean 40.0, least 40.0 dB")
    assert "level mean -6.02, furthest -6.02 dB. Silence: peak 1.0e-03" in said


@pytest.fixture
def oracle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Write a pair; enhance it perfectly with an option on, not at all without; tell what came."""
    clean, noise, _ = tones(0.5)
    write_pair(tmp_path, clean, clean + 0.1 * noise)
    heard = []

    def enhance(audio: np.ndarray, rate: int, model: npfsn.Model) -> np.ndarray:
        heard.append(audio)
        out = audio.copy()
        if model.config.start_at_sound or model.config.quiet_level:
            out[-clean.size :] = clean
        return out

    monkeypatch.setattr(evaluate.npfsn, "enhance", enhance)
    return heard


def test_what_silence_costs_is_told(
    tmp_path: Path, oracle: list[np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    npfsn.save_model(small_model("fast_fullsubnet"), tmp_path / "m.npz")
    main(["starts", str(tmp_path), "-m", str(tmp_path / "m.npz")])
    rows = capsys.readouterr().out.splitlines()
    assert rows[0] == "| ahead | without | `start_at_sound` |" and len(rows) == 11
    for row in rows[2:]:
        without, having = (float(cell.split()[0]) for cell in row.split("|")[2:4])
        assert without == 0.0 and having > 60.0
    n = RATE // 2
    before = [0, 256, n, n, 5 * RATE, 5 * RATE, *(n + s * RATE for s in (2, 10, 60))]
    assert [x.size - n for x in oracle] == [size for size in before for _ in range(2)]
    np.testing.assert_array_equal(oracle[-1][:n], oracle[-1][-n:])


def test_what_a_low_level_costs_is_told(
    tmp_path: Path, oracle: list[np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    npfsn.save_model(small_model("fast_fullsubnet", quiet_level=100.0), tmp_path / "m.npz")
    main(["levels", str(tmp_path), "-m", str(tmp_path / "m.npz")])
    rows = capsys.readouterr().out.splitlines()
    assert rows[0] == "| peak | without | `quiet_level` |"
    peaks = [float(row.split()[1]) for row in rows[2:]]
    told = [20 * np.log10(np.abs(x).max()) for x in oracle]
    np.testing.assert_allclose(told, np.repeat(peaks, 2), atol=0.01)
    assert [*peaks] == [-10, -30, -40, -45, -50, -55, -60, -65, -70]


def test_eight_bits_are_compared_with_floats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clean, noise, other = tones()
    write_pair(tmp_path, clean, clean + noise)

    def enhance(noisy: np.ndarray, rate: int, model: object, *, precision: str) -> np.ndarray:
        return clean + 0.01 * noise + {"float32": 0.0, "int8": 0.1}[precision] * other

    def measured(audio: np.ndarray, clean: np.ndarray) -> dict[str, float]:
        found = si_sdr(audio, clean)
        return {"pesq": found / 10, "stoi": found / 100, "si_sdr": found}

    monkeypatch.setattr(evaluate.npfsn, "load_model", lambda model: model)
    monkeypatch.setattr(evaluate.npfsn, "enhance", enhance)
    monkeypatch.setattr(evaluate, "measure", measured)
    main(["compare", str(tmp_path)])
    assert capsys.readouterr().out == (
        "int8 against float32, 1 mixtures: WB-PESQ -2.004, STOI -0.2004, SI-SDR -20.04 dB; "
        "SI-SDR between the two outputs mean 20.0, least 20.0 dB.\n"
    )
