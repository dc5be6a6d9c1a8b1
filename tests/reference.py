"""The specification: every kernel, layer and model as slow, obvious float64 NumPy.

Nothing here is fast and nothing here streams; whole arrays go in and whole arrays come out. The
engine is tested against this file, and this file against outputs recorded from the published code
(`tests/golden`).

Shape letters: N samples, F bins, T frames, K blocks of frames, B units (mel bands, bins or groups
of bins that share one network), C context (the features of one unit), H hidden, O outputs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

FLOAT32_EPS = float(np.finfo(np.float32).eps)

# The mask is trained in a compressed range (-10, 10) and clipped before it is expanded.
MASK_RANGE = 10.0
MASK_LIMIT = 9.9

Params = dict[str, np.ndarray]
Args = dict[str, Any]


# ---------------------------------------------------------------------------------------------
# Spectrum
# ---------------------------------------------------------------------------------------------


def periodic_hann(n: int) -> np.ndarray:
    """Return the Hann window of period `n`: its last sample is not zero, unlike `np.hanning`."""
    return 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(n) / n)


def stft(x: np.ndarray, n_fft: int, hop: int) -> np.ndarray:
    """Compute the one-sided spectrum of frames centred on the multiples of `hop`.

    Parameters
    ----------
    x : array, shape (N,)
        Samples. The published code needs N > n_fft // 2; shorter signals are reflected repeatedly.
    n_fft, hop : int
        Frame and window length, and step between frames.

    Returns
    -------
    complex128 array, shape (F, T)
        F = n_fft // 2 + 1, T = 1 + N // hop.
    """
    window = periodic_hann(n_fft)
    n_frame = 1 + len(x) // hop
    padded = np.pad(x.astype(np.float64), n_fft // 2, mode="reflect")
    frames = [padded[t * hop : t * hop + n_fft] for t in range(n_frame)]
    return np.stack([np.fft.rfft(window * frame) for frame in frames], axis=-1)


def istft(spec: np.ndarray, n_fft: int, hop: int, n_sample: int) -> np.ndarray:
    """Overlap-add windowed inverse frames and divide by the overlap-added squared window.

    Parameters
    ----------
    spec : complex array, shape (F, T)
        As `stft` returns it.
    n_fft, hop : int
        As given to `stft`.
    n_sample : int
        Length of the result.

    Returns
    -------
    float64 array, shape (n_sample,)
    """
    window = periodic_hann(n_fft)
    n_frame = spec.shape[-1]
    length = n_fft + hop * (n_frame - 1)
    total = np.zeros(length)
    weight = np.zeros(length)
    for t in range(n_frame):
        span = slice(t * hop, t * hop + n_fft)
        total[span] += window * np.fft.irfft(spec[:, t], n_fft)
        weight[span] += window**2
    kept = slice(n_fft // 2, n_fft // 2 + n_sample)
    return total[kept] / weight[kept]


def pool_mel(mag: np.ndarray, fb: np.ndarray) -> np.ndarray:
    """Sum the bins [F, T] of each mel band with the weights `fb` [F, B]; returns [B, T]."""
    return fb.T @ mag


# ---------------------------------------------------------------------------------------------
# Norms
#
# Each takes [C, T] or [B, C, T]. The cumulative ones keep one statistic per unit, over its context
# and the frames so far; the others keep a single one over all units.
# ---------------------------------------------------------------------------------------------


def cumulative_laplace_norm(x: np.ndarray, eps: float = FLOAT32_EPS) -> np.ndarray:
    """Divide by the mean of each unit's context over frames 0..t."""
    n_ctx, n_frame = x.shape[-2:]
    count = n_ctx * np.arange(1, n_frame + 1)  # [T]
    mean = np.cumsum(x.sum(axis=-2), axis=-1) / count  # [..., T]
    return x / (mean[..., None, :] + eps)


def cumulative_layer_norm(x: np.ndarray, eps: float = FLOAT32_EPS) -> np.ndarray:
    """Subtract the mean of frames 0..t and divide by their standard deviation, per unit."""
    n_ctx, n_frame = x.shape[-2:]
    count = n_ctx * np.arange(1, n_frame + 1)  # [T]
    total = np.cumsum(x.sum(axis=-2), axis=-1)  # [..., T]
    total_square = np.cumsum((x**2).sum(axis=-2), axis=-1)  # [..., T]
    mean = total / count
    var = (total_square - 2.0 * mean * total) / count + mean**2
    return (x - mean[..., None, :]) / np.sqrt(var[..., None, :] + eps)


def forgetting_norm(x: np.ndarray, eps: float = 1e-10, n_memory: int = 192) -> np.ndarray:
    """Divide by a running mean that forgets: one mean for all units.

    The weight of the past is -1 at frame 0, so the first mean is twice that of the frame. The
    published networks were trained with it.
    """
    longest = (n_memory - 1) / (n_memory + 1)
    mean = 0.0
    out = np.empty_like(x)
    for t in range(x.shape[-1]):
        past = min((t - 1) / (t + 1), longest) if t < n_memory else longest
        mean = past * mean + (1.0 - past) * x[..., t].mean()
        out[..., t] = x[..., t] / (mean + eps)
    return out


def offline_laplace_norm(x: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """Divide by the mean of everything, the zero frames of the look-ahead included."""
    return x / (x.mean() + eps)


def offline_gaussian_norm(x: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """Subtract the mean of everything and divide by its (unbiased) standard deviation."""
    return (x - x.mean()) / (x.std(ddof=1) + eps)


NORMS = {
    "cumulative_laplace_norm": cumulative_laplace_norm,
    "cumulative_layer_norm": cumulative_layer_norm,
    "forgetting_norm": forgetting_norm,
    "offline_laplace_norm": offline_laplace_norm,
    "offline_gaussian_norm": offline_gaussian_norm,
}


def section_norm(x: np.ndarray) -> np.ndarray:
    """Divide a section [B, C, T] by its mean over all units, their context and frames 0..t.

    The causal counterpart of the published `offline_laplace_norm` of a section: the same mean, of
    what has been heard so far.
    """
    n_unit, n_ctx, n_frame = x.shape
    as_one_unit = x.reshape(n_unit * n_ctx, n_frame)
    return cumulative_laplace_norm(as_one_unit).reshape(x.shape)


# ---------------------------------------------------------------------------------------------
# Frequency neighbours and time shrink
# ---------------------------------------------------------------------------------------------


def reflect(index: int, n: int) -> int:
    """Mirror an index at the edges of 0..n-1 without repeating the edge: -1 is 1, n is n - 2."""
    if index < 0:
        return -index
    if index >= n:
        return 2 * (n - 1) - index
    return index


def unfold(x: np.ndarray, first: int, last: int, n_center: int, n_neighbor: int) -> np.ndarray:
    """Cut bins [first, last) into units of `n_center` bins with `n_neighbor` more on each side.

    Parameters
    ----------
    x : array, shape (F, T)
        Neighbours outside [first, last) are taken from x; only beyond its own edges are they
        reflected.
    first, last : int
        The bins to cut; their number is a multiple of `n_center`.
    n_center, n_neighbor : int
        Bins of a unit, and on each side of it.

    Returns
    -------
    array, shape (B, C, T)
        B = (last - first) // n_center, C = n_neighbor + n_center + n_neighbor, lowest bin first.
    """
    n_freq = x.shape[0]
    units = []
    for start in range(first, last, n_center):
        wanted = range(start - n_neighbor, start + n_center + n_neighbor)
        units.append(x[[reflect(f, n_freq) for f in wanted]])
    return np.stack(units)


def neighbors(x: np.ndarray, n_neighbor: int) -> np.ndarray:
    """Give every bin of [F, T] its `n_neighbor` bins on each side; returns [F, C, T]."""
    return unfold(x, 0, x.shape[0], 1, n_neighbor)


def shrink_time(x: np.ndarray, n_shrink: int) -> np.ndarray:
    """Average blocks of frames [..., T] -> [..., K]: frame 0 alone, then `n_shrink` at a time.

    The last block may be short; then it is the mean of what there is.
    """
    blocks = [x[..., :1]]
    for t in range(1, x.shape[-1], n_shrink):
        blocks.append(x[..., t : t + n_shrink])
    return np.stack([block.mean(axis=-1) for block in blocks], axis=-1)


def stretch_time(x: np.ndarray, n_shrink: int, n_frame: int) -> np.ndarray:
    """Let each block [..., K] serve `n_shrink` frames, from its own last frame on: [..., T]."""
    return np.repeat(x, n_shrink, axis=-1)[..., :n_frame]


# ---------------------------------------------------------------------------------------------
# Layers
# ---------------------------------------------------------------------------------------------


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-x)), written with tanh because that cannot overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Return x [B, C] times weight [O, C] plus bias [O]: [B, O]."""
    # NumPy multiplies by BLAS only what is contiguous along an axis; a frame of [B, C, T] is not.
    return np.ascontiguousarray(x) @ weight.T + bias


def lstm_step(
    x: np.ndarray,
    h: np.ndarray,
    c: np.ndarray,
    weight_ih: np.ndarray,
    weight_hh: np.ndarray,
    bias_ih: np.ndarray,
    bias_hh: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Advance an LSTM cell by one frame.

    Parameters
    ----------
    x : array, shape (B, C)
        Input.
    h, c : array, shape (B, H)
        Hidden and cell state before the frame.
    weight_ih, weight_hh : array, shapes (4 H, C) and (4 H, H)
        Gates in the order input, forget, cell, output.
    bias_ih, bias_hh : array, shape (4 H,)
        Both are added.

    Returns
    -------
    h, c : array, shape (B, H)
        States after the frame. The output is h.
    """
    gates = linear(x, weight_ih, bias_ih) + linear(h, weight_hh, bias_hh)  # [B, 4 H]
    i, f, g, o = np.split(gates, 4, axis=-1)  # [B, H] each
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(c)
    return h, c


def gru_step(
    x: np.ndarray,
    h: np.ndarray,
    weight_ih: np.ndarray,
    weight_hh: np.ndarray,
    bias_ih: np.ndarray,
    bias_hh: np.ndarray,
) -> np.ndarray:
    """Advance a GRU cell by one frame.

    Parameters
    ----------
    x : array, shape (B, C)
        Input.
    h : array, shape (B, H)
        Hidden state before the frame.
    weight_ih, weight_hh : array, shapes (3 H, C) and (3 H, H)
        Gates in the order reset, update, new.
    bias_ih, bias_hh : array, shape (3 H,)
        The reset gate multiplies the hidden part of the new gate with its bias.

    Returns
    -------
    array, shape (B, H)
        State after the frame, which is also the output.
    """
    x_r, x_z, x_n = np.split(linear(x, weight_ih, bias_ih), 3, axis=-1)  # [B, H] each
    h_r, h_z, h_n = np.split(linear(h, weight_hh, bias_hh), 3, axis=-1)  # [B, H] each
    r = sigmoid(x_r + h_r)
    z = sigmoid(x_z + h_z)
    n = np.tanh(x_n + r * h_n)
    return (1.0 - z) * n + z * h


def lstm_layer(x: np.ndarray, *weights: np.ndarray) -> np.ndarray:
    """Run an LSTM cell from zero state over [B, C, T]; returns [B, H, T]."""
    n_unit, _, n_frame = x.shape
    n_hid = weights[1].shape[1]
    h = np.zeros((n_unit, n_hid))
    c = np.zeros((n_unit, n_hid))
    out = np.empty((n_unit, n_hid, n_frame))
    for t in range(n_frame):
        h, c = lstm_step(x[:, :, t], h, c, *weights)
        out[:, :, t] = h
    return out


def gru_layer(x: np.ndarray, *weights: np.ndarray) -> np.ndarray:
    """Run a GRU cell from zero state over [B, C, T]; returns [B, H, T]."""
    n_unit, _, n_frame = x.shape
    n_hid = weights[1].shape[1]
    h = np.zeros((n_unit, n_hid))
    out = np.empty((n_unit, n_hid, n_frame))
    for t in range(n_frame):
        h = gru_step(x[:, :, t], h, *weights)
        out[:, :, t] = h
    return out


LAYERS = {"LSTM": lstm_layer, "GRU": gru_layer}


def activate(x: np.ndarray, name: str | bool | None, slope: np.ndarray | None = None) -> np.ndarray:
    """Apply an activation by its PyTorch name; `None` and `False` mean none.

    `slope` [1] is the learned weight of PReLU and belongs to no other.
    """
    if not name:
        return x
    if name == "Tanh":
        return np.tanh(x)
    if name == "ReLU":
        return np.maximum(x, 0.0)
    if name == "ReLU6":
        return np.clip(x, 0.0, 6.0)
    if name == "LeakyReLU":
        return np.where(x >= 0.0, x, 0.01 * x)
    if name == "PReLU":
        return np.where(x >= 0.0, x, slope * x)
    raise ValueError(f"unknown activation {name!r}")


def sequence_model(
    params: Params,
    prefix: str,
    x: np.ndarray,
    cell: str,
    activation: str | bool | None = None,
) -> np.ndarray:
    """Run the published building block: recurrent layers, then linear and activation, if any.

    Parameters
    ----------
    params : dict of str to array
        The tensors of the whole model.
    prefix : str
        The block's name, as in `prefix.sequence_model.weight_ih_l0`. How many layers there are and
        whether a linear one follows is read off the names present.
    x : array, shape (B, C, T)
        One row per unit; all units share the weights.
    cell : str
        "LSTM" or "GRU".
    activation : str, False or None
        As `activate` takes it.

    Returns
    -------
    float64 array, shape (B, O, T)
    """

    def tensor(name: str) -> np.ndarray:
        return params[f"{prefix}.{name}"].astype(np.float64)

    y = x  # [B, C, T]
    layer = 0
    while f"{prefix}.sequence_model.weight_ih_l{layer}" in params:
        kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        weights = [tensor(f"sequence_model.{kind}_l{layer}") for kind in kinds]
        y = LAYERS[cell](y, *weights)  # [B, H, T]
        layer += 1

    if f"{prefix}.fc_output_layer.weight" in params:
        weight, bias = tensor("fc_output_layer.weight"), tensor("fc_output_layer.bias")
        frames = [linear(y[:, :, t], weight, bias) for t in range(y.shape[-1])]  # [B, O] each
        y = np.stack(frames, axis=-1)  # [B, O, T]

    slope = tensor("activate_function.weight") if activation == "PReLU" else None
    return activate(y, activation, slope)


# ---------------------------------------------------------------------------------------------
# Models: magnitude in, mask before decompression out
# ---------------------------------------------------------------------------------------------


def look_ahead(mag: np.ndarray, n_look: int) -> np.ndarray:
    """Append `n_look` frames of zeros to [F, T], so that frame t + n_look can decide frame t."""
    return np.pad(mag, ((0, 0), (0, n_look)))


def norm_of(args: Args) -> str:
    """Return the norm a recipe names; one that names none means `offline_laplace_norm`."""
    return args.get("norm_type", "offline_laplace_norm")


def fast_fullsubnet(args: Args, params: Params, mag: np.ndarray) -> np.ndarray:
    """Compute the mask of Fast FullSubNet.

    Parameters
    ----------
    args : dict
        The recipe's `model_args`.
    params : dict of str to array
        The state dict.
    mag : array, shape (F, T)
        Noisy magnitude.

    Returns
    -------
    float64 array, shape (2, F, T)
    """
    norm = NORMS[norm_of(args)]
    cell = args["sequence_model"]
    n_shrink = args["shrink_size"]
    mag = look_ahead(mag, args["look_ahead"])
    n_freq, n_frame = mag.shape  # from here on T counts the look-ahead too

    mel = pool_mel(mag, params["mel_scale.fb"].astype(np.float64))  # [B, T]
    enc = norm(mel)[None]  # [1, B, T]
    enc = sequence_model(params, "encoder.0", enc, cell)  # [1, H, T]
    enc = sequence_model(params, "encoder.1", enc, cell, "ReLU")[0]  # [B, T]

    seen = enc
    if args.get("quiet_level"):  # not of the published code: see `npfsn.fast_fullsubnet.Config`
        level = mel.mean(axis=0).cumsum() / np.arange(1, n_frame + 1) + FLOAT32_EPS  # [T]
        for t in np.flatnonzero(mel.sum(axis=0) == 0):  # it stays as it was
            level[t] = level[t - 1] if t else 0.0
        seen = enc * np.minimum(level / args["quiet_level"], 1.0)
    noisy_units = neighbors(mel, args["noisy_input_num_neighbors"])  # [B, C, T]
    enc_units = neighbors(seen, args["encoder_output_num_neighbors"])  # [B, C, T]
    units = np.concatenate([noisy_units, enc_units], axis=1)  # [B, C, T]
    units = norm(shrink_time(units, n_shrink))  # [B, C, K]
    sub = sequence_model(params, "bottleneck", units, cell, "ReLU")[:, 0]  # [B, K]
    sub = stretch_time(sub, n_shrink, n_frame)  # [B, T]

    dec = np.concatenate([enc, sub])[None]  # [1, 2 B, T]
    dec = sequence_model(params, "decoder_lstm.0", dec, cell)  # [1, H, T]
    dec = sequence_model(params, "decoder_lstm.1", dec, cell)  # [1, 2 F, T]
    crm = dec.reshape(2, n_freq, n_frame)
    return crm[:, :, args["look_ahead"] :]


def fullsubnet(args: Args, params: Params, mag: np.ndarray) -> np.ndarray:
    """Compute the mask of FullSubNet; parameters and result as in `fast_fullsubnet`."""
    norm = NORMS[norm_of(args)]
    cell = args["sequence_model"]
    mag = look_ahead(mag, args["look_ahead"])

    full = norm(mag)[None]  # [1, F, T]
    full_activation = args["fb_output_activate_function"]
    full = sequence_model(params, "fb_model", full, cell, full_activation)[0]  # [F, T]

    noisy_units = neighbors(mag, args["sb_num_neighbors"])  # [F, C, T]
    full_units = neighbors(full, args["fb_num_neighbors"])  # [F, C, T]
    units = norm(np.concatenate([noisy_units, full_units], axis=1))  # [F, C, T]
    sub_activation = args["sb_output_activate_function"]
    sub = sequence_model(params, "sb_model", units, cell, sub_activation)  # [F, 2, T]
    crm = sub.transpose(1, 0, 2)  # [2, F, T]
    return crm[:, :, args["look_ahead"] :]


def fullband_baseline(args: Args, params: Params, mag: np.ndarray) -> np.ndarray:
    """Compute the mask of the full-band baseline; as in `fast_fullsubnet`."""
    norm = NORMS[norm_of(args)]
    mag = look_ahead(mag, args["look_ahead"])
    n_freq, n_frame = mag.shape

    full = norm(mag)[None]  # [1, F, T]
    activation = args["output_activate_function"]
    full = sequence_model(params, "fullband_model", full, args["sequence_model"], activation)
    crm = full.reshape(2, n_freq, n_frame)  # [1, 2 F, T] -> [2, F, T]
    return crm[:, :, args["look_ahead"] :]


def improved_fullsubnet(
    args: Args, params: Params, mag: np.ndarray, *, causal_sections: bool = False
) -> np.ndarray:
    """Compute the mask of Improved FullSubNet.

    Parameters
    ----------
    args, params, mag
        As in `fast_fullsubnet`.
    causal_sections : bool
        The published code norms every section by its mean over the whole utterance, whatever
        `norm_type` says. True takes the mean of the frames so far instead (`section_norm`), which
        is how this model streams; `norm_type` must then be causal too for the whole to be.

    Returns
    -------
    float64 array, shape (2, F, T)
        To be applied plane by plane (`apply_planes`) without decompression.
    """
    cell = args["sequence_model"]
    mag = mag ** args["fdrc"]
    mag = mag[:-1]  # [F - 1, T]: an even number of bins divides into units
    n_freq = mag.shape[0]

    # Every norm of this model uses float32 eps, the ones that have another elsewhere included.
    full = NORMS[norm_of(args)](mag, FLOAT32_EPS)[None]  # [1, F - 1, T]
    full_activation = args["fb_output_activate_function"]
    full = sequence_model(params, "fb_model", full, cell, full_activation)[0]  # [F - 1, T]

    edges = [0, *args["freq_cutoffs"], n_freq]
    sections = []
    for s in range(len(edges) - 1):
        noisy_width = args["sb_num_center_freqs"][s], args["sb_num_neighbor_freqs"][s]
        full_width = args["fb_num_center_freqs"][s], args["fb_num_neighbor_freqs"][s]
        noisy_units = unfold(mag, edges[s], edges[s + 1], *noisy_width)  # [B, C, T]
        full_units = unfold(full, edges[s], edges[s + 1], *full_width)  # [B, C, T]
        units = np.concatenate([noisy_units, full_units], axis=1)  # [B, C, T]
        if causal_sections:
            units = section_norm(units)
        else:
            units = offline_laplace_norm(units, FLOAT32_EPS)

        sub_activation = args["sb_output_activate_function"]
        sub = sequence_model(params, f"sb_model.sb_models.{s}", units, cell, sub_activation)
        n_unit, _, n_frame = sub.shape  # [B, 2 center, T]
        planes = sub.reshape(n_unit, 2, -1, n_frame).transpose(1, 0, 2, 3)  # [2, B, center, T]
        sections.append(planes.reshape(2, -1, n_frame))  # [2, last - first, T]

    crm = np.concatenate(sections, axis=1)  # [2, F - 1, T]
    return np.pad(crm, ((0, 0), (0, 1), (0, 0)))  # [2, F, T]: the last bin is muted


MODELS = {
    "fast": fast_fullsubnet,
    "full": fullsubnet,
    "base": fullband_baseline,
    "improved": improved_fullsubnet,
}


# ---------------------------------------------------------------------------------------------
# Masks, and the whole way from samples to samples
# ---------------------------------------------------------------------------------------------


def decompress_mask(crm: np.ndarray) -> np.ndarray:
    """Expand a mask of any shape from its trained range to about -53 .. 53."""
    m = np.clip(crm, -MASK_LIMIT, MASK_LIMIT)
    return -MASK_RANGE * np.log((MASK_RANGE - m) / (MASK_RANGE + m))


def apply_complex(spec: np.ndarray, planes: np.ndarray) -> np.ndarray:
    """Multiply a spectrum [F, T] by the complex number the two planes [2, F, T] form."""
    return spec * (planes[0] + 1j * planes[1])


def apply_planes(spec: np.ndarray, planes: np.ndarray) -> np.ndarray:
    """Multiply the real part of [F, T] by plane 0 of [2, F, T], the imaginary part by plane 1."""
    return spec.real * planes[0] + 1j * (spec.imag * planes[1])


def mask(
    config: dict[str, Any],
    params: Params,
    x: np.ndarray,
    *,
    norm: str | None = None,
    causal_sections: bool = False,
) -> np.ndarray:
    """Compute a model's mask for a signal, before decompression.

    Parameters
    ----------
    config : dict
        With `arch` (a key of `MODELS`), `model_args`, `n_fft` and `hop_length`.
    params : dict of str to array
        The state dict.
    x : array, shape (N,)
        Samples.
    norm : str, optional
        A key of `NORMS` to use instead of the recipe's.
    causal_sections : bool
        As in `improved_fullsubnet`; the other models have no sections.

    Returns
    -------
    float64 array, shape (2, F, T)
    """
    args = dict(config["model_args"])
    if norm is not None:
        args["norm_type"] = norm
    mag = np.abs(stft(x, config["n_fft"], config["hop_length"]))
    if config["arch"] == "improved":
        return improved_fullsubnet(args, params, mag, causal_sections=causal_sections)
    return MODELS[config["arch"]](args, params, mag)


def enhance(
    config: dict[str, Any],
    params: Params,
    x: np.ndarray,
    *,
    norm: str | None = None,
    causal_sections: bool = False,
) -> np.ndarray:
    """Enhance a whole signal; parameters as in `mask`.

    Returns
    -------
    float64 array, shape (N,)
    """
    n_fft, hop = config["n_fft"], config["hop_length"]
    spec = stft(x, n_fft, hop)
    crm = mask(config, params, x, norm=norm, causal_sections=causal_sections)
    if config["arch"] == "improved":
        enhanced = apply_planes(spec, crm)
    else:
        enhanced = apply_complex(spec, decompress_mask(crm))
    return istft(enhanced, n_fft, hop, len(x))
