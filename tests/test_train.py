"""The training recipe: data, network, loss, resuming, and a short run whose loss falls."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from golden_cases import load_case

# The recipe needs it, npfsn does not, and it is large: `.[test]` leaves it out, CI installs it.
torch = pytest.importorskip("torch")

from tools.train import instruments, noise, speech, travel, validation
from tools.train.__main__ import main
from tools.train.loss import envelope_difference, loss, loudness_difference, total
from tools.train.mix import (
    MixConfig,
    Voice,
    _contents,
    build_pools,
    load_mixer,
    without_infrasound,
)
from tools.train.model import (
    FastFullSubNet,
    ModelArgs,
    compress_mask,
    decompress_mask,
    enhance,
    mel_filterbank,
    stft,
)
from tools.train.pool import SAMPLE_RATE, Clip, Pool, in_processes, read_array
from tools.train.rooms import make_rooms
from tools.train.speech import (
    audio_files,
    held_out,
    noise_floor,
    read_audio,
    recordings,
    trim,
    without_floor,
)
from tools.train.train import Run, TrainConfig, batch, batches, swapped, train

torch.set_num_threads(1)
SMALL = ModelArgs(encoder_hidden_size=24, decoder_hidden_size=32, bottleneck_hidden_size=8)


def voice(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Something like speech: a wandering pitch, formants and syllables with pauses."""
    samples = int(seconds * SAMPLE_RATE)
    t = np.arange(samples) / SAMPLE_RATE
    pitch = rng.uniform(90, 220) * (1 + 0.1 * np.sin(2 * np.pi * rng.uniform(0.3, 0.8) * t))
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    out = np.zeros(samples)
    for k in range(1, 25):
        formants = sum(np.exp(-(((k * 150 - f) / 250) ** 2)) for f in rng.uniform(300, 3000, 3))
        out += (0.05 + formants) * np.sin(k * phase)
    syllables = np.clip(np.sin(2 * np.pi * rng.uniform(1.5, 3) * t + rng.uniform(0, 6)), 0, 1)
    return (0.2 * out * syllables / np.abs(out).max()).astype(np.float32)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pools of a recipe of tiny sizes: twenty talkers, a minute of noise, a few rooms."""
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "speech").mkdir()
    (folder / "kitchen").mkdir()
    for index in range(40):
        rng = np.random.default_rng(index)
        name = folder / f"speech/{100 + index}-1-{index:04d}.flac"
        soundfile.write(name, voice(rng, rng.uniform(1.0, 6.0)), SAMPLE_RATE)
    hiss = np.random.default_rng(0).normal(size=(SAMPLE_RATE * 4, 2)) * 0.05
    soundfile.write(folder / "kitchen/tap.wav", hiss, SAMPLE_RATE)
    build_pools(folder / "pools", [folder / "speech"], [folder / "kitchen"], 3, 0, 60, 4)
    return folder


def options_of(work: Path) -> list[str]:
    """Options of the command line that go with those pools."""
    folders = ["--speech", str(work / "speech"), "--noise", str(work / "kitchen")]
    return [*folders, *"--seed 3 --synthetic-seconds 0 --noise-seconds 60 --rooms 4".split()]


def test_network_matches_the_recorded_case() -> None:
    case = load_case("fast_lstm_cum")
    model = FastFullSubNet(ModelArgs(**case.config["model_args"])).eval()
    model.load_state_dict({name: torch.from_numpy(value) for name, value in case.params.items()})
    audio = torch.from_numpy(case.x)[None]
    with torch.no_grad():
        mask = model(stft(audio).abs())[0]
    np.testing.assert_allclose(mask.numpy(), case.crm, atol=1e-5)
    np.testing.assert_allclose(enhance(model, audio)[0].numpy(), case.y, atol=1e-5)


def test_mel_bands_are_triangles_that_overlap_by_half() -> None:
    bands = mel_filterbank(257, 64, SAMPLE_RATE)
    assert bands.shape == (257, 64)
    assert ((bands > 0).sum(1) <= 2).all()
    # Above the last centre the last band fades alone.
    inside = bands[8:230].sum(1)
    np.testing.assert_allclose(inside.numpy(), 1.0, atol=1e-4)


def test_the_network_starts_at_the_mask_of_one() -> None:
    torch.manual_seed(0)
    model = FastFullSubNet(SMALL).eval()
    audio = torch.randn(2, SAMPLE_RATE) * 0.1
    out = enhance(model, audio)
    assert (out - audio).square().mean() < 0.1 * audio.square().mean()


def test_masks_survive_compression() -> None:
    mask = torch.linspace(-20, 20, 81)
    np.testing.assert_allclose(decompress_mask(compress_mask(mask)), mask, atol=1e-3)


@pytest.mark.parametrize("family", sorted(noise.FAMILIES))
def test_noise_is_seeded_finite_and_of_unit_power(family: str) -> None:
    make = noise.FAMILIES[family][1]
    first, again, other = (make(np.random.default_rng(seed), 32_000) for seed in (5, 5, 6))
    assert first.dtype == np.float32 and first.shape == (32_000,)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.mean(first.astype(np.float64) ** 2) == pytest.approx(1.0, abs=1e-3)


def test_rooms_have_unit_energy_and_start_with_the_direct_sound() -> None:
    responses = make_rooms(3, 1)
    np.testing.assert_allclose(np.sum(responses**2, -1), 1.0, rtol=1e-4)
    assert np.abs(responses[..., :8]).max() == 0
    assert (np.abs(responses[..., 8]) > 0).all()


def test_a_voice_changes_length_with_its_speed() -> None:
    x = voice(np.random.default_rng(1), 2.0)
    slow = Voice(0.8, np.zeros(8)).apply(x)
    assert len(slow) == int(len(x) / 0.8)
    same = Voice(1.0, np.zeros(8)).apply(x)
    np.testing.assert_allclose(same, x, atol=1e-5)


def test_noise_floor_tells_noisy_takes_from_quiet_ones() -> None:
    rng = np.random.default_rng(0)
    clean = voice(rng, 4.0)
    scores = [noise_floor(clean + rng.normal(size=len(clean)) * level) for level in (1e-4, 1e-2)]
    assert scores[0] < -40 < -30 < scores[1]


def test_a_steady_floor_goes_and_the_voice_stays() -> None:
    rng = np.random.default_rng(4)
    hiss = (1e-3 * rng.normal(size=4 * SAMPLE_RATE)).astype(np.float32)
    quieter = without_floor(hiss)
    assert quieter.dtype == np.float32 and quieter.shape == hiss.shape
    assert level_db(quieter) < level_db(hiss) - 10
    clean = voice(rng, 4.0)
    taken = clean + hiss - without_floor(clean + hiss)
    assert level_db(taken) < level_db(clean) - 25
    hum = np.sin(2 * np.pi * 60 * np.arange(len(hiss)) / SAMPLE_RATE).astype(np.float32)
    assert level_db(hum - without_floor(hum)) < -30  # what rumbles is left alone
    short = hiss[:2000]
    assert without_floor(short) is short


def test_recordings_held_out_are_left_as_they_are(work: Path) -> None:
    rows = list(recordings(work / "speech"))
    paths = audio_files(work / "speech")
    assert {held_out(clip) for _, clip in rows} == {True, False}
    for path, (audio, clip) in zip(paths, rows, strict=True):
        as_recorded = np.array_equal(audio, trim(read_audio(path)))
        assert as_recorded == held_out(clip)


def test_damaged_recordings_are_named_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of them must not stop hours of work."""
    audio = voice(np.random.default_rng(1), 3.0)
    soundfile.write(tmp_path / "whole.flac", audio, SAMPLE_RATE)
    whole = (tmp_path / "whole.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.wav").touch()
    (tmp_path / "garbage.flac").write_bytes(b"no audio")
    soundfile.write(tmp_path / "nan.wav", np.full_like(audio, np.nan), SAMPLE_RATE, "FLOAT")
    assert [clip.talker for _, clip in recordings(tmp_path)] == ["whole"]
    *lines, last = capsys.readouterr().err.splitlines()
    for line, name in zip(lines, ("cut.flac", "empty.wav", "garbage.flac", "nan.wav"), strict=True):
        assert line.startswith(f"left out: {tmp_path / name}: ")
    assert last == f"left out under {tmp_path}: 4 recordings"
    assert {clip.source for _, clip in noise.recorded(tmp_path)} == {f"folder-{tmp_path.name}"}


def test_folders_of_damaged_recordings_are_refused_before_any_work(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sound").mkdir()
    (tmp_path / "sound/garbage.flac").write_bytes(b"no audio")
    for option in ("--speech", "--noise"):
        with pytest.raises(SystemExit):
            main(["--work", str(tmp_path / "work"), option, str(tmp_path / "sound")])
        assert "there are no recordings under" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()
    # A header alone may be whole.
    soundfile.write(tmp_path / "sound/nan.wav", np.full(9, np.nan), SAMPLE_RATE, "FLOAT")
    pools, sound = tmp_path / "pools", [tmp_path / "sound"]
    with pytest.raises(ValueError, match="no clips for .*real.npy: nothing .* can be used"):
        build_pools(pools, sound, [], 3, 0, 30, 2)
    with pytest.raises(ValueError, match="no recording of --noise can be used"):
        build_pools(pools, [work / "speech"], sound, 3, 0, 30, 2)
    with pytest.raises(ValueError, match="no recording of --noise can be used"):
        validation.build(work / "pools", tmp_path / "pairs", sound)


def test_nothing_below_speech_is_in_a_target() -> None:
    t = np.arange(3 * SAMPLE_RATE) / SAMPLE_RATE
    low, high = (np.sin(2 * np.pi * f * t).astype(np.float32) for f in (10, 80))
    assert level_db(without_infrasound(low)) < level_db(low) - 20
    assert level_db(without_infrasound(high) - high) < level_db(high) - 25


def level_db(x: np.ndarray) -> float:
    """Return the power of a signal, dB."""
    return float(10 * np.log10(np.mean(np.square(x, dtype=np.float64)) + 1e-20))


def test_talkers_held_out_are_never_trained_on(work: Path) -> None:
    def talkers(validation: bool) -> set[str]:
        mixer = load_mixer(work / "pools", 1, validation=validation)
        return {clip.talker for _, _, clips in mixer.groups for clip in clips}

    training, validation = talkers(False), talkers(True)
    assert training and validation and not training & validation
    mixer = load_mixer(work / "pools", 1)
    assert not any(held_out(clip) for _, _, clips in mixer.groups for clip in clips)


def test_items_are_the_same_for_a_seed(work: Path) -> None:
    mixer, twin = (load_mixer(work / "pools", 4) for _ in range(2))
    for number in range(12):
        item, same = mixer.item(number, 24_000), twin.item(number, 24_000)
        np.testing.assert_array_equal(item.noisy, same.noisy)
        np.testing.assert_array_equal(item.target, same.target)
    other = load_mixer(work / "pools", 5).item(3, 24_000)
    assert not np.array_equal(mixer.item(3, 24_000).noisy, other.noisy)


def test_silent_noise_only_and_clean_items_have_their_targets(work: Path) -> None:
    plain = MixConfig(silent=0, noise_only=0, clean=0)
    silent = load_mixer(work / "pools", 1, dataclasses.replace(plain, silent=1)).item(0, 16_000)
    assert not silent.noisy.any() and not silent.target.any()
    hiss = load_mixer(work / "pools", 1, dataclasses.replace(plain, noise_only=1)).item(0, 16_000)
    assert hiss.noisy.any() and not hiss.target.any()
    clean = load_mixer(work / "pools", 1, dataclasses.replace(plain, clean=1)).item(0, 32_000)
    left = np.mean((clean.noisy - clean.target) ** 2) / np.mean(clean.target**2)
    assert clean.target.any() and 10 * np.log10(left) < -25
    for number in range(20):
        item = load_mixer(work / "pools", 1, plain).item(number, 48_000)
        assert item.target.any() and np.abs(item.noisy).max() <= 1.0


def test_a_rank_that_fails_ends_the_others(work: Path, tmp_path: Path) -> None:
    """They heed no signal, and would wait for it."""
    (tmp_path / "pools").symlink_to(work / "pools")
    (tmp_path / "checkpoints").write_text("no folder: the rank that saves fails")
    command = "-m tools.train --ranks 2 --validate-every 1 --validation-items 3 --steps 2"
    done = subprocess.run(
        [sys.executable, *command.split(), "--bottleneck", "4", "--batch-seconds", "4",
         "--work", tmp_path, *options_of(work)],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("tools.train: ")
    assert "best_model.tar cannot be written: File exists" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_talker_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no talker for training"):
        load_mixer(tmp_path, 0)


def test_ranks_share_the_items_of_a_step(work: Path) -> None:
    mixer = load_mixer(work / "pools", 1)
    parts = [batch(mixer, 7, 12.0, rank, 2) for rank in range(2)]
    assert sum(share for _, _, share in parts) == pytest.approx(1.0)
    assert parts[0][0].shape[1] == parts[1][0].shape[1]
    assert not np.array_equal(parts[0][0][0], parts[1][0][0])


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more processes than cores
def test_batches_are_the_same_whoever_mixes(work: Path) -> None:
    mixer, config = load_mixer(work / "pools", 9), TrainConfig(steps=12, batch_seconds=8, reuse=2)
    alone, helped = (list(itertools.islice(batches(mixer, config, 3, 0, 1, w), 3)) for w in (0, 2))
    for (noisy, target, _), (noisy_too, target_too, _) in zip(alone, helped, strict=True):
        assert torch.equal(noisy, noisy_too) and torch.equal(target, target_too)


def test_a_batch_used_again_has_each_others_noise() -> None:
    rng = np.random.default_rng(3)
    draw = [0.1 * torch.from_numpy(rng.normal(size=(4, 8_000)).astype("f")) for _ in range(2)]
    target, noise = draw[0], 0.1 * draw[1]
    target[3] = 0.0
    mixed = swapped(target + noise, target, [1, 2])
    added = mixed - target
    partner = (added[:, None] * noise).sum(-1).abs().argmax(1)
    shift = int(partner[0])
    assert shift and partner.tolist() == [(i - (4 - shift)) % 4 for i in range(4)]
    ratio_db = 10 * torch.log10(target.square().mean(-1) / added.square().mean(-1))[:3]
    assert (ratio_db > -5.1).all() and (ratio_db < 20.1).all() and len(set(ratio_db.tolist())) == 3
    torch.testing.assert_close(added[3], noise[partner[3]])
    assert torch.equal(mixed, swapped(target + noise, target, [1, 2]))


def test_a_larger_network_begins_as_the_smaller_one(tmp_path: Path) -> None:
    small = Run(SMALL, TrainConfig())
    small.save(tmp_path / "small.tar", average=False)
    larger = Run(dataclasses.replace(SMALL, bottleneck_hidden_size=20), TrainConfig(seed=5))
    larger.begin_from(tmp_path / "small.tar")
    x = stft(torch.randn(2, SAMPLE_RATE)).abs()
    with torch.no_grad():
        masks = [run.model.eval()(x) for run in (small, larger)]
    torch.testing.assert_close(masks[1], masks[0], rtol=0.0, atol=1e-5)
    larger.model.train()(x).square().sum().backward()
    grads = {name: p.grad.abs().sum() for name, p in larger.model.named_parameters()}
    assert all(grad > 0 for grad in grads.values())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a run of a network of the usual sizes but for its bottleneck of 8."""
    path = tmp_path_factory.mktemp("run") / "latest_model.tar"
    Run(ModelArgs(bottleneck_hidden_size=8), TrainConfig()).save(path, average=False)
    return path


@pytest.mark.parametrize("resumed", [True, False], ids=["resumed", "started from"])
@pytest.mark.parametrize(
    ("damage", "resuming", "starting"),
    [
        ("larger", "goes on with --bottleneck 8, not 4", "--bottleneck 4 is too small"),
        ("cut", "is damaged, or no checkpoint", "is damaged, or no checkpoint"),
        ("garbage", "is damaged, or no checkpoint", "is damaged, or no checkpoint"),
        ("other", "holds no Fast FullSubNet", "holds no Fast FullSubNet"),
        ("encoder", "is of another network", "is of another network"),
    ],
)
def test_checkpoints_that_cannot_be_used_are_told_in_one_line_before_any_work(
    damage: str, resuming: str, starting: str, resumed: bool, checkpoint: Path, tmp_path: Path
) -> None:
    path = tmp_path / ("checkpoints/latest_model.tar" if resumed else "weights.tar")
    path.parent.mkdir(exist_ok=True)
    whole = checkpoint.read_bytes()
    content = torch.load(checkpoint, weights_only=True)
    if damage == "other":
        torch.save({"model": {"fb_model.weight": torch.zeros(3)}}, path)
    elif damage == "encoder":
        fewer = {name: x[:-1] if "encoder" in name else x for name, x in content["model"].items()}
        torch.save(content | {"model": fewer, "average": fewer}, path)
    else:
        path.write_bytes({"cut": whole[:-99], "garbage": b"garbage"}.get(damage, whole))
    command = ["--work", str(tmp_path), "--bottleneck", "4" if damage == "larger" else "8"]
    with pytest.raises(SystemExit) as stopped:
        main(command + ([] if resumed else ["--start-from", str(path)]))
    message = str(stopped.value)
    assert message.startswith(f"tools.train: {path} ") and len(message.splitlines()) == 1
    assert (resuming if resumed else starting) in message
    assert "best_model.tar" not in message
    if resumed:
        assert "move it away to start anew" in message
        best = path.with_name("best_model.tar")
        best.write_bytes(whole)
        with pytest.raises(SystemExit, match=re.escape(f"for example with --start-from {best}")):
            main(command)
    assert not (tmp_path / "pools").exists()


def test_a_full_disk_leaves_the_checkpoint_as_it_was(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    latest = tmp_path / "latest_model.tar"
    latest.write_bytes(checkpoint.read_bytes())

    def full_disk(path: Path, content: bytes) -> None:
        with path.open("wb") as file:
            file.write(content[:99])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match=r"latest_model\.tar cannot be written: No space left"):
        Run(SMALL, TrainConfig()).save(latest, average=False)
    assert [*tmp_path.iterdir()] == [latest]
    assert latest.read_bytes() == checkpoint.read_bytes()


def test_jobs_keep_their_order_in_processes() -> None:
    assert [*in_processes(math.sqrt, [4.0, 9.0, 1.0], few=1)] == [2.0, 3.0, 1.0]


def test_pools_survive_their_journey_as_ogg(work: Path, tmp_path: Path) -> None:
    travel.pack(work / "pools/real.npy", tmp_path / "ogg", 0.9)
    travel.pack(work / "pools/noise.npy", tmp_path / "ogg", 0.9, 4.0, ("folder",), "carried")
    travel.unpack(tmp_path / "ogg", tmp_path / "pools")
    before, after = (
        Pool.load(place / "real.npy") for place in (work / "pools", tmp_path / "pools")
    )
    assert after.clips == before.clips
    clip = before.clips[0]
    x, y = before.read(clip), after.read(clip)
    assert np.corrcoef(x, y)[0, 1] > 0.99
    build_pools(tmp_path / "pools", [], [], 3, 0, 30, 2)
    sources = {clip.source for clip in Pool.load(tmp_path / "pools/noise.npy").clips}
    assert {"folder-kitchen", "white"} <= sources


def test_parts_of_older_and_of_other_pools_are_left_out(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(travel, "PART_SECONDS", 2)
    pool, ogg = work / "pools/real.npy", tmp_path / "ogg"
    travel.pack(pool, ogg, 0.9)
    travel.pack(pool, ogg, 0.9, 4.0)
    travel.pack(pool, ogg, 0.9, name="real-too")
    travel.unpack(ogg, tmp_path / "pools")
    whole, few = (Pool.load(tmp_path / f"pools/{name}.npy") for name in ("real-too", "real"))
    assert whole.clips == Pool.load(pool).clips and 0 < few.seconds < whole.seconds


@pytest.mark.parametrize(
    "options", ["--source nowhere", "--source nowhere --seconds 9", "--seconds 0.001"]
)
def test_nothing_to_pack_is_told(work: Path, tmp_path: Path, options: str) -> None:
    pool, folder = work / "pools/real.npy", tmp_path / "ogg"
    with pytest.raises(SystemExit, match=r"tools.train.travel: no clip of .*real\.npy is of these"):
        travel.main(["pack", str(pool), str(folder), *options.split()])
    assert not folder.exists()


def test_an_instrument_is_chosen_before_its_first_note(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = []

    def keep(command: list[str], **_: object) -> None:
        scores.append(Path(command[-1]).read_bytes())

    monkeypatch.setattr(subprocess, "run", keep)
    monkeypatch.setattr(instruments, "read_audio", lambda path: np.zeros(16 * SAMPLE_RATE))
    monkeypatch.setattr(instruments, "available", lambda: True)
    assert len([*instruments.played(32, 1, (instruments.NYLON_GUITAR,))]) == 2
    for score in scores:
        assert score[22:25] == bytes([0, 0xC0, instruments.NYLON_GUITAR])  # after both headers


def test_a_list_of_clips_is_complete_or_absent(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its list a pool counts as complete."""
    rows = [(np.zeros(9, np.float32), Clip(0, 0, "tap"))]

    def full_disk(path: Path, text: str) -> None:
        path.write_bytes(text[:9].encode())
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full_disk)
        with pytest.raises(OSError, match=r"noise\.npy cannot be written: .*No space left"):
            Pool.write(tmp_path / "noise.npy", rows)
    assert [path.name for path in tmp_path.iterdir()] == ["noise.npy"]
    Pool.write(tmp_path / "noise.npy", rows)
    for damage in ("", "[null]", '[{"start": 0}]'):
        (tmp_path / "noise.json").write_text(damage)
        with pytest.raises(ValueError, match=r"noise\.json is no list of clips: delete it"):
            build_pools(tmp_path, [work / "speech"], [], 3, 0, 30, 2)
    assert not (tmp_path / "real.npy").exists()


@pytest.mark.parametrize("name", ["noise", "rooms"])
@pytest.mark.parametrize("damage", [0, 200])
def test_a_damaged_pool_is_named(work: Path, tmp_path: Path, name: str, damage: int) -> None:
    """A loss of power can leave the samples incomplete and their list whole."""
    shutil.copytree(work / "pools", tmp_path / "pools")
    path = tmp_path / f"pools/{name}.npy"
    path.write_bytes(path.read_bytes()[:damage])
    load = {"noise": Pool.load, "rooms": read_array}[name]
    with pytest.raises(ValueError, match=rf"{name}\.npy is damaged: delete it with its \.json"):
        load(path)


def test_a_link_that_leads_nowhere_is_left_out(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(SAMPLE_RATE), SAMPLE_RATE)
    (tmp_path / "b.wav").symlink_to("nowhere")
    assert "2 files, " in _contents(tmp_path)
    assert [path.name for path, _ in speech.read_folder(tmp_path)] == ["a.wav"]


@pytest.mark.parametrize(
    ("option", "value", "changed"),
    [
        ("--seed", "4", ["noise", "rooms"]),
        ("--speech", "more", ["real", "noise"]),
        ("--noise", "more", ["noise"]),
        ("--noise-seconds", "61", ["noise"]),
        ("--rooms", "5", ["rooms"]),
    ],
)
def test_pools_made_with_other_options_are_refused(
    option: str, value: str, changed: list[str], work: Path, tmp_path: Path
) -> None:
    (tmp_path / "pools").symlink_to(work / "pools")
    (tmp_path / "more").mkdir()
    soundfile.write(tmp_path / "more/1.wav", voice(np.random.default_rng(1), 1.0), SAMPLE_RATE)
    value = value.replace("more", str(tmp_path / "more"))
    with pytest.raises(SystemExit) as stopped:
        main(["--work", str(tmp_path), *options_of(work), option, value])
    pools = " and ".join(str(tmp_path / f"pools/{name}.npy") for name in changed)
    assert str(stopped.value) == (
        f"tools.train: pools are not of these options: {pools}: other {option}; "
        "delete them with their .json, to have them made anew, or give another --work"
    )


def test_pools_are_refused_if_recordings_were_added_or_nothing_tells_what_they_are_made_of(
    work: Path, tmp_path: Path
) -> None:
    shutil.copytree(work, tmp_path, dirs_exist_ok=True)
    (tmp_path / "pools/real.made-of.json").unlink()
    arguments = [tmp_path / "pools", [tmp_path / "speech"], [tmp_path / "kitchen"], 3, 0, 60, 4]
    with pytest.raises(ValueError, match=r"real\.npy: nothing tells the options \(an older"):
        build_pools(*arguments)
    for pool in (tmp_path / "pools").iterdir():
        pool.unlink()
    build_pools(*arguments)
    build_pools(*arguments)
    (tmp_path / "speech/0.flac").write_bytes((work / "speech/100-1-0000.flac").read_bytes())
    with pytest.raises(ValueError, match=r"real\.npy and .*noise\.npy: other --speech"):
        build_pools(*arguments)


def test_too_few_talkers_are_told_before_noise_is_made(tmp_path: Path) -> None:
    held, trained = (next(i for i in range(99) if held_out(Clip(0, 0, "", str(i))) == out)
                     for out in (True, False))  # fmt: skip
    rng = np.random.default_rng(1)
    hissing = 0.1 * rng.normal(size=2 * SAMPLE_RATE)
    for name, talker, audio, use in (
        ("one", trained, voice(rng, 2.0), "validation"),
        ("other", held, voice(rng, 2.0), "training"),
        ("noisy", held, hissing, "validation"),
    ):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / f"{name}/{talker}.wav", audio, SAMPLE_RATE)
        command = ["--work", str(tmp_path / name), "--speech", str(tmp_path / name)]
        with pytest.raises(SystemExit, match=f"tools.train: no talker for {use} under"):
            main([*command, *"--synthetic-seconds 0 --noise-seconds 20 --rooms 2".split()])
        assert not (tmp_path / name / "pools/noise.made-of.json").exists()


def test_a_perfect_mask_costs_less_than_a_mask_of_one() -> None:
    rng = np.random.default_rng(3)
    target = torch.from_numpy(voice(rng, 2.0))[None]
    noisy = target + 0.02 * torch.randn(target.shape)
    y, s = stft(noisy), stft(target)
    ideal = s * y.conj() / (y.abs().square() + 1e-6)
    perfect = compress_mask(torch.stack([ideal.real, ideal.imag], 1).clamp(-50, 50))
    one = compress_mask(torch.stack([torch.ones_like(s.real), torch.zeros_like(s.real)], 1))
    best, plain = (loss(mask, noisy, target, 3.0) for mask in (perfect, one))
    for name in best:
        assert best[name] < plain[name], name
    assert torch.isfinite(total(loss(one * 0, noisy * 0, target * 0, 3.0)))


def test_drift_lies_below_speech() -> None:
    below = np.fft.rfftfreq(48_000, 1 / SAMPLE_RATE) < 60
    offsets = 0
    for seed in range(40):
        x = noise.drift(np.random.default_rng(seed), 48_000)
        power = np.abs(np.fft.rfft(x)) ** 2
        assert x.dtype == np.float32 and np.mean(x**2) == pytest.approx(1.0, rel=1e-3)
        assert power[below].sum() > 0.999 * power.sum()
        offsets += power[0] > 0.3 * power.sum()
    assert 2 < offsets < 20


def test_loudness_counts_what_was_added_more_than_what_is_missing() -> None:
    speech = torch.from_numpy(voice(np.random.default_rng(4), 2.0))[None]
    speech = speech / speech.square().mean().sqrt()
    clean = stft(speech).abs().square()
    added, missing, same = (
        float(loudness_difference(gain * clean, clean)) for gain in (10.0, 0.1, 1.0)
    )
    assert same < 0.05 < missing < added
    # What no ear hears costs nothing: 20 dB below the threshold where it is lowest.
    inaudible = torch.full_like(clean, 49_152 / 257 * 10 ** -(7.9 + 2.5))
    assert float(loudness_difference(clean + inaudible, clean)) < same + 0.01


def test_loudness_counts_the_loudest_moments_most() -> None:
    silence, spread = torch.zeros(1, 257, 60), torch.full((1, 257, 60), 1e-3)
    burst = torch.where(torch.arange(60) % 20 < 4, spread, silence)  # a fifth of the time
    always, at_times = (float(loudness_difference(x, silence)) for x in (spread, burst))
    assert 0.5 * always < at_times < always


def test_envelopes_are_compared_as_stoi_does() -> None:
    clean = torch.from_numpy(voice(np.random.default_rng(4), 2.0))[None]
    clean = clean / clean.square().mean().sqrt()
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    target = stft(clean).abs().square()
    costs = [
        float(envelope_difference(stft(clean + gain * noise).abs().square(), target))
        for gain in (0.0, 0.3, 1.0, 3.0)
    ]
    assert costs == sorted(costs) and costs[0] < 1e-4 and 0.2 < costs[-1] < 1.0
    # No level, and nothing where nobody speaks.
    assert float(envelope_difference(0.01 * target, target)) < 0.02
    assert float(envelope_difference(target, torch.zeros_like(target))) == 0.0


@pytest.mark.slow
def test_the_loss_falls_and_a_stopped_run_resumes_exactly(work: Path, tmp_path: Path) -> None:
    config = TrainConfig(
        steps=24, decay_steps=8, warmup_steps=4, batch_seconds=8.0, reuse=2, validation_items=6
    )

    def mean_loss(model: FastFullSubNet) -> float:
        mixer = load_mixer(work / "pools", 9)
        values = []
        for step in range(4):
            noisy, target, _ = batch(mixer, step, 8.0)
            x, s = torch.from_numpy(noisy), torch.from_numpy(target)
            with torch.no_grad():
                values.append(float(total(loss(model(stft(x).abs()), x, s, 3.0))))
        return float(np.mean(values))

    for name in ("whole", "slices"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "pools").symlink_to(work / "pools")
    whole = train(tmp_path / "whole", SMALL, config, validate_every=100)
    begun = Run(SMALL, config)
    assert mean_loss(whole.model.eval()) < mean_loss(begun.model.eval())

    # A slice of no minutes does one step; the next slice does the rest.
    train(tmp_path / "slices", SMALL, config, minutes=0.0, validate_every=100)
    latest = torch.load(tmp_path / "slices/checkpoints/latest_model.tar", weights_only=True)
    assert latest["epoch"] == 1
    resumed = train(tmp_path / "slices", SMALL, config, validate_every=100)
    for name, tensor in whole.model.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), resumed.model.state_dict()[name].numpy())
    best = torch.load(tmp_path / "whole/checkpoints/best_model.tar", weights_only=True)
    assert set(best) == {"epoch", "best_score", "optimizer", "scaler", "model"}


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--warmup-steps", "0", "a whole number from 1 up"),
        ("--decay-steps", "-1", "a whole number from 0 up"),
        ("--ranks", "two", "a whole number from 1 up"),
        ("--minutes", "nan", "a number from 0 up"),
        ("--learning-rate", "0", "a number above 0"),
        ("--device", "toaster", "cannot be used here"),
        ("--start-from", "nowhere.npz", "there is no file nowhere.npz"),
        ("--speech", "nowhere", "there are no recordings under nowhere"),
    ],
)
def test_odd_options_are_told_before_any_work(
    option: str, value: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--work", str(tmp_path / "work"), option, value])
    assert stopped.value.code == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert expected in message
    assert not (tmp_path / "work").exists()


def test_without_speech_there_is_nothing_to_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tools.train.speech.programs", dict)
    with pytest.raises(SystemExit, match="tools.train: no speech: none of festival"):
        main(["--work", str(tmp_path)])


def test_a_validation_needs_talkers(work: Path, tmp_path: Path) -> None:
    """One in sixteen is held out by name: of few, perhaps none."""
    pool = Pool.load(work / "pools" / "real.npy")
    kept = [(pool.read(clip), clip) for clip in pool.clips if not held_out(clip)][:2]
    Pool.write(tmp_path / "real.npy", kept)
    with pytest.raises(SystemExit, match="no talker is held out"):
        validation.main(["--pools", str(tmp_path), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_the_silent_end_of_a_recording_is_no_noise(work: Path) -> None:
    pool = Pool.load(work / "pools/real.npy")
    part = validation._noise(np.random.default_rng(1), "dishes", 400, pool, [np.zeros(900, "f4")])
    assert part.shape == (400,) and part.any()


@pytest.mark.slow
def test_one_command_runs_the_recipe(work: Path, tmp_path: Path) -> None:
    main(
        ["--work", str(tmp_path), "--speech", str(work / "speech")]
        + (
            "--synthetic-seconds 0 --noise-seconds 30 --rooms 2 --bottleneck 4 --ranks 2 "
            "--validation-items 3 --steps 2 --decay-steps 1 --batch-seconds 4"
        ).split()
    )
    best = torch.load(tmp_path / "checkpoints/best_model.tar", weights_only=True)
    assert best["epoch"] == 2
    assert best["model"]["bottleneck.sequence_model.weight_hh_l1"].shape == (16, 4)
