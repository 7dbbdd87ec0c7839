"""Weights and test frames *by rule*, so that parity fixtures can stay tiny.

No weight is stored anywhere.  Both sides of a comparison generate the same
state dict from ``(seed, entry name, shape)`` and the same frames from ``seed``.

Needs torch and numpy only.  Everything up to the final rounding to float32 is
integer arithmetic or single IEEE-754 double operations (no libm call, no
order-dependent sum), and the only random source is the raw 64-bit stream of
PCG64 (seeded through SeedSequence); numpy keeps both of these fixed between
releases.  Results are therefore bit-exact on every machine; ``digest`` gives
the sha256 to check that with.

Rule
----
stream    raw = PCG64(int(sha256(f"{seed}:{canonical(name)}"))).random_raw(n)
normal    sum of the four 16-bit lanes of one raw word, centred and scaled to
          unit variance (Irwin-Hall with 4 terms, so |x| < 3.47)
uniform   (raw >> 11) / 2**53

entry                                   value
--------------------------------------  -----------------------------------------
kept (see KEPT) or not floating point   left as the model defines it
weight with 2 or more dimensions        normal * gain * sqrt(2 / fan_in), after
                                        removing the mean of each output row
                                        (a transposed conv: of each output
                                        channel, fan_in = in * kh * kw / 4)
query_embed / level_embed               normal
1-d weight, any ".scale"                uniform(0.8, 1.2)
bias                                    shift + uniform(-0.05, 0.05)
running_mean                            normal * 0.05
running_var                             uniform(0.8, 1.2)

``gain`` (default 1) and ``shift`` (default 0) come from the tables below; they
keep activations in range and boxes sane.  Names are those of the reference's
state dict.  ``canonical`` maps the second name of a shared tensor to its
first, so that both get the same values.

Calibration: random features give every proposal almost the same score, so the
last classification layer gets ``value * mul + add`` (float32, multiply first,
then add), with the few numbers listed per fixture under "calibration".  They
were chosen so that the median score is about 0.5 and the scores spread.
"""

import hashlib
import re

import numpy as np
import torch

# Left exactly as the model creates them: constants computed from the config.
KEPT = re.compile(
    r"(^|\.)(pixel_mean|pixel_std|relative_pos|div_mat|num_batches_tracked)$"
    r"|cell_anchors|anchor_generator"
)
# (pattern, replacement): the same tensor under a second name.
ALIASES = (
    (re.compile(r"^transformer\.decoder\.(bbox_embed|class_embed)\."), r"\1."),
    (re.compile(r"^transformer\.class_embed\."), r"class_embed.3."),
)
TRANSPOSED = re.compile(r"\.(deconv\d|upsample_flow\dto\d)\.weight$")
EMBEDDING = re.compile(r"(^|\.)(query_embed\.weight|level_embed)$")

GAINS = tuple(
    (re.compile(p), g)
    for p, g in (
        (r"(^|\.)res\d\.\d+\.conv2\.weight$", 0.5),
        (r"flownet\.flow_conv1\.weight$", 500.0),
        (r"flownet\.Convolution[1-4]\.weight$", 0.5),
        (r"flownet\.Convolution5\.weight$", 1.0),
        (r"flownet\.Convolution5_scale\.weight$", 0.5),
        (r"rpn_head\.anchor_deltas\.weight$", 0.2),
        (r"temporal_attn\.(in_proj_weight|out_proj\.weight)$", 1.2),
        (r"(in_proj_weight|out_proj\.weight|value_proj\.weight|output_proj\.weight)$", 0.6),
        (r"(sampling_offsets|attention_weights)\.weight$", 0.4),
        (r"\.linear2\.weight$", 0.7),
        (r"reference_points1?\.weight$", 0.5),
        (r"bbox_embed\.(\d\.)?layers\.2\.weight$", 0.4),
    )
)
# value: one number, or one per element for vectors of 4
SHIFTS = tuple(
    (re.compile(p), s)
    for p, s in (
        (r"(fcos_head|proposal_generator\.head)\.bbox_pred\.bias$", 3.0),
        (r"reg_preds\.\d\.bias$", (0.0, 0.0, 1.4, 1.4)),
        (r"^bbox_embed\.0\.layers\.2\.bias$", (0.0, 0.0, -0.6, -0.6)),
        (r"\.geo_trans\.bias$", 1.5),  # log(relu(geo) + 1e-6) is ill-conditioned around 0
    )
)


def canonical(name):
    """The name whose stream is used for ``name`` (itself unless shared)."""
    for pat, rep in ALIASES:
        name = pat.sub(rep, name)
    return name


def is_kept(name, dtype):
    """True for entries that the rule leaves as the model defines them."""
    return not dtype.is_floating_point or KEPT.search(name) is not None


def _raw(name, seed, n):
    key = int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest(), "big")
    return np.random.PCG64(key).random_raw(n)


def _normal_ints(raw):
    """Centred integers of variance (2**32 - 1) / 3."""
    lanes = np.ascontiguousarray(raw).view(np.uint16)
    s = lanes[0::4].astype(np.int32)  # a tenth of the time of shifting words
    for k in (1, 2, 3):
        s += lanes[k::4]
    return s.astype(np.int64) - 131070


_STD = float(np.sqrt((2.0**32 - 1.0) / 3.0))


def _uniform(raw, lo, hi):
    return lo + (hi - lo) * ((raw >> np.uint64(11)).astype(np.float64) / 9007199254740992.0)


def _lookup(table, name, default):
    for pat, val in table:
        if pat.search(name):
            return val
    return default


def fill(name, shape, dtype, seed):
    """Value of one state-dict entry; None where it is kept as in the model."""
    if is_kept(name, dtype):
        return None
    name = canonical(name)
    shape = tuple(int(s) for s in shape)
    n = 1
    for s in shape:
        n *= s
    raw = _raw(name, seed, n)
    leaf = name.rsplit(".", 1)[-1]
    if EMBEDDING.search(name):
        v = _normal_ints(raw) / _STD
    elif len(shape) >= 2:
        x = _normal_ints(raw).reshape(shape)
        if TRANSPOSED.search(name):
            axes, rest = (0, *range(2, len(shape))), shape[1]
        else:
            axes, rest = tuple(range(1, len(shape))), shape[0]
        m = n // rest  # entries per output row
        fan_in = m / 4.0 if TRANSPOSED.search(name) else float(m)
        x = x * m - x.sum(axis=axes, keepdims=True)  # exact: integers
        v = x / (m * _STD) * (_lookup(GAINS, name, 1.0) * np.sqrt(2.0 / fan_in))
    elif leaf == "running_mean":
        v = _normal_ints(raw) / _STD * 0.05
    elif leaf in ("running_var", "weight", "scale"):
        v = _uniform(raw, 0.8, 1.2)
    else:  # bias, in_proj_bias
        v = _uniform(raw, -0.05, 0.05) + np.asarray(_lookup(SHIFTS, name, 0.0))
    return torch.from_numpy(np.ascontiguousarray(v.reshape(shape).astype(np.float32))).to(dtype)


def calibrate(value, mul=1.0, add=0.0):
    """value * mul + add, each step rounded to float32; add: number or vector."""
    v = value.numpy() * np.float32(mul)
    return torch.from_numpy(np.ascontiguousarray(v + np.asarray(add, dtype=np.float32)))


def fill_state_dict(state_dict, seed, calibration=None):
    """A new state dict of the same names: filled by rule, or copied if kept.

    ``calibration`` maps canonical names to ``{"mul": m, "add": a}``.
    """
    out = {}
    for k, v in state_dict.items():
        f = fill(k, v.shape, v.dtype, seed)
        c = (calibration or {}).get(canonical(k))
        if f is not None and c:
            f = calibrate(f, **c)
        out[k] = v.clone() if f is None else f
    return out


def digest(items):
    """sha256 over (name, array) pairs, in the order given."""
    h = hashlib.sha256()
    for k, v in items:
        a = np.ascontiguousarray(v.numpy() if isinstance(v, torch.Tensor) else v)
        h.update(f"{k}|{a.dtype.str}|{a.shape}|".encode())
        h.update(a.tobytes())
    return h.hexdigest()


def _box_sum(a, r):
    """Sum over a (2r+1)^2 window with edge replication; integers, so exact."""
    for ax in (0, 1):
        p = np.concatenate([np.repeat(np.take(a, [0], ax), r + 1, ax), a, np.repeat(np.take(a, [-1], ax), r, ax)], ax)
        c = np.cumsum(p, axis=ax)
        n = a.shape[ax]
        a = np.take(c, range(2 * r + 1, 2 * r + 1 + n), ax) - np.take(c, range(n), ax)
    return a


def _texture(raw, h, w, r):
    """Integer noise field, smoothed; about zero mean, about unit scale."""
    f = (raw.reshape(h, w) >> np.uint64(48)).astype(np.int64) - 32768
    f = _box_sum(f, r)
    return f / (18918.0 * (2 * r + 1))


def _bounce(x, lo, hi):
    """Triangle wave: reflect x into [lo, hi]."""
    t = (x - lo) % (2.0 * (hi - lo))
    return lo + (t if t <= hi - lo else 2.0 * (hi - lo) - t)


def frames(seed, n, h, w):
    """``n`` test frames, uint8 array of shape (n, 3, h, w), three equal channels.

    A still speckle of two grain sizes that drifts by whole pixels, a little
    fresh noise per frame, a depth ramp, and 2 to 4 dark ellipses with a bright
    lower rim that move along straight lines and bounce.
    """
    bit = np.random.PCG64(int.from_bytes(hashlib.sha256(f"frames:{seed}".encode()).digest(), "big"))

    def par(lo, hi):
        return float(_uniform(bit.random_raw(1), lo, hi)[0])

    fine = _texture(bit.random_raw(2 * h * 2 * w), 2 * h, 2 * w, 1)
    coarse = _texture(bit.random_raw(2 * h * 2 * w), 2 * h, 2 * w, 5)
    base, amp, ramp = par(90, 130), par(18, 30), par(-30, 30)
    dx, dy = int(par(-3, 4)), int(par(-2, 3))
    ell = [
        dict(
            cx=par(0.15, 0.85) * w,
            cy=par(0.15, 0.85) * h,
            vx=par(-9, 9),
            vy=par(-7, 7),
            a=par(0.05, 0.16) * w,
            b=par(0.05, 0.16) * h,
            dark=par(35, 80),
            rim=par(10, 40),
        )
        for _ in range(2 + int(par(0, 3)))
    ]
    yy = np.arange(h, dtype=np.float64)[:, None]
    xx = np.arange(w, dtype=np.float64)[None, :]
    out = np.empty((n, 3, h, w), dtype=np.uint8)
    for t in range(n):
        oy, ox = (h // 2 + dy * t) % h, (w // 2 + dx * t) % w
        img = base + ramp * (yy / h - 0.5) + np.zeros((h, w))
        img = img + amp * fine[oy : oy + h, ox : ox + w] + 0.7 * amp * coarse[oy : oy + h, ox : ox + w]
        for e in ell:
            cx = _bounce(e["cx"] + e["vx"] * t, 0.1 * w, 0.9 * w)
            cy = _bounce(e["cy"] + e["vy"] * t, 0.1 * h, 0.9 * h)
            q = (xx - cx) * (xx - cx) / (e["a"] * e["a"]) + (yy - cy) * (yy - cy) / (e["b"] * e["b"])
            img = img - e["dark"] * np.clip(1.3 - q, 0.0, 1.0)
            img = img + e["rim"] * np.clip(1.0 - np.abs(q - 1.6) * 2.0, 0.0, 1.0) * (yy > cy)
        img = img + 4.0 * _texture(bit.random_raw(h * w), h, w, 0)
        out[t] = np.clip(np.floor(img + 0.5), 0, 255).astype(np.uint8)[None]
    return out
