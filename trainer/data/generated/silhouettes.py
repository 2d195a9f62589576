"""Outlines of products, one function a category, in a unit square with y pointing down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Paint = Literal["pattern", "main", "second", "accent", "dark"]


@dataclass(frozen=True)
class Part:
    """One filled outline: corners (n, 2) in 0..1, and what it is painted with."""

    outline: np.ndarray
    paint: Paint


@dataclass(frozen=True)
class Silhouette:
    """The parts of a product from back to front.

    Args:
        parts: at least one.
        logo: middle (x, y) and largest radius of a print on it, in 0..1.
        roundness: 0 for flat cloth to 1 for a round body; how much its sides turn from the light.
    """

    parts: tuple[Part, ...]
    logo: tuple[float, float, float]
    roundness: float


def mirrored(*right: tuple[float, float]) -> np.ndarray:
    """Close an outline given by its right half, from the top to the bottom; x counts from 0.5."""
    half = np.array(right)
    left = half[::-1] * [-1, 1]
    return np.concatenate([half, left]) + [0.5, 0]


def rounded(outline: np.ndarray, times: int = 2) -> np.ndarray:
    """Cut the corners of a closed outline, again and again (Chaikin's curve)."""
    for _ in range(times):
        after = np.roll(outline, -1, axis=0)
        cut = np.stack([0.75 * outline + 0.25 * after, 0.25 * outline + 0.75 * after], axis=1)
        outline = cut.reshape(-1, 2)
    return outline


def band(middle: Sequence[tuple[float, float]] | np.ndarray, width: float) -> np.ndarray:
    """Return the outline of a line (n, 2) of some width."""
    line = np.asarray(middle, float)
    along = np.gradient(line, axis=0)
    across = np.stack([-along[:, 1], along[:, 0]], axis=1)
    across *= width / 2 / np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-9)
    return np.concatenate([line + across, (line - across)[::-1]])


def arc(x: float, y: float, rx: float, ry: float, start: float, end: float) -> np.ndarray:
    """Points of an arc of an ellipse; angles in degrees, clockwise from the right."""
    angle = np.radians(np.linspace(start, end, 32))
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], axis=1)


def shirt(rng: np.random.Generator) -> Silhouette:
    """A shirt with sleeves of any length and a round or pointed neck."""
    neck, depth = rng.uniform(0.07, 0.15), rng.uniform(0.03, 0.15)
    shoulder, sleeve = rng.uniform(0.2, 0.26), rng.uniform(0.1, 0.55)
    waist, length = rng.uniform(0.17, 0.26), rng.uniform(0.72, 0.93)
    wide = rng.uniform(0.09, 0.14)
    reach = 0.46 - max(0, sleeve - 0.3) * 0.35
    body = mirrored(
        (0, 0.1 + depth), (neck * 0.8, 0.1 + depth * 0.4), (neck, 0.08), (shoulder, 0.12),
        (reach, 0.14 + sleeve), (reach - wide, 0.17 + sleeve), (waist, 0.36), (waist, length),
        (0, length + 0.01),
    )  # fmt: skip
    parts = [Part(body, "pattern")]
    if rng.random() < 0.5:
        for side in (1, -1):
            cuff = [(reach, 0.14 + sleeve), (reach - wide, 0.17 + sleeve)]
            line = [(0.5 + side * x, y - 0.01) for x, y in cuff]
            parts.append(Part(band(line, 0.035), "second"))
    if rng.random() < 0.5:
        collar = mirrored(
            (0, 0.15 + depth), (neck, 0.12), (neck, 0.08), (neck * 0.75, 0.08 + depth * 0.3),
            (0, 0.1 + depth),
        )  # fmt: skip
        parts.append(Part(collar, "accent"))
    return Silhouette(tuple(parts), (0.5 + rng.choice([0, 0.09]), 0.42, 0.11), 0.25)


def dress(rng: np.random.Generator) -> Silhouette:
    """A dress: straps, waist, and a skirt that may be wide."""
    waist, at = rng.uniform(0.09, 0.14), rng.uniform(0.33, 0.45)
    hem, length = rng.uniform(0.16, 0.4), rng.uniform(0.75, 0.96)
    chest = rng.uniform(0.14, 0.18)
    body = mirrored(
        (0, rng.uniform(0.15, 0.24)), (0.08, 0.14), (0.09, 0.04), (0.13, 0.04), (chest, 0.2),
        (waist, at), (hem, length), (0, length + 0.03),
    )  # fmt: skip
    belt = mirrored((0, at - 0.02), (waist, at - 0.02), (waist + 0.005, at + 0.02), (0, at + 0.02))
    parts = [Part(body, "pattern")]
    if rng.random() < 0.6:
        parts.append(Part(belt, "accent"))
    return Silhouette(tuple(parts), (0.5, (at + length) / 2, 0.1), 0.35)


def trousers(rng: np.random.Generator) -> Silhouette:
    """Trousers or shorts with straight, narrow or flared legs."""
    hip, length = rng.uniform(0.17, 0.24), rng.uniform(0.45, 0.95)
    outer = hip + rng.uniform(-0.03, 0.1) * (length - 0.2)
    leg = rng.uniform(0.55, 0.95) * outer
    crotch = rng.uniform(0.3, 0.38)
    body = mirrored(
        (0, 0.06), (hip * 0.85, 0.05), (hip, 0.25), (outer, length), (outer - leg, length),
        (0.012, crotch), (0, crotch),
    )  # fmt: skip
    top = mirrored((0, 0.04), (hip * 0.87, 0.04), (hip * 0.9, 0.1), (0, 0.1))
    parts = [Part(body, "pattern"), Part(top, "second" if rng.random() < 0.5 else "main")]
    if rng.random() < 0.5:
        side = [(0.5 + hip * 0.9, 0.12), (0.5 + hip * 0.97, 0.25), (0.5 + outer - 0.02, length)]
        parts.append(Part(band(side, 0.025), "accent"))
    return Silhouette(tuple(parts), (0.5 + hip * 0.55, 0.22, 0.06), 0.3)


def bag(rng: np.random.Generator) -> Silhouette:
    """A bag with one handle, with or without a flap."""
    top, bottom = rng.uniform(0.22, 0.36), rng.uniform(0.28, 0.42)
    start, end = rng.uniform(0.36, 0.5), rng.uniform(0.82, 0.92)
    body = mirrored((0, start), (top, start), (bottom, end - 0.03), (bottom - 0.04, end), (0, end))
    grip, height = rng.uniform(0.1, top - 0.04), rng.uniform(0.12, 0.3)
    handle = arc(0.5, start + 0.02, grip, height, 180, 360)
    parts = [Part(band(handle, rng.uniform(0.025, 0.05)), "second"), Part(body, "pattern")]
    low = start + rng.uniform(0.12, 0.3)
    if rng.random() < 0.6:
        flap = mirrored((0, start), (top, start), (top + 0.01, low - 0.08), (0, low))
        parts.append(Part(rounded(flap, 1), "second"))
        parts.append(Part(arc(0.5, low - 0.03, 0.025, 0.025, 0, 360), "accent"))
    return Silhouette(tuple(parts), (0.5, max(low + 0.1, 0.66), 0.09), 0.2)


def mug(rng: np.random.Generator) -> Silhouette:
    """A mug with its handle on the right."""
    top, bottom = rng.uniform(0.24, 0.3), rng.uniform(0.18, 0.3)
    start, end = rng.uniform(0.12, 0.26), rng.uniform(0.78, 0.88)
    body = mirrored((0, start), (top, start), (bottom, end - 0.04), (bottom - 0.05, end), (0, end))
    middle, height = (start + end) / 2, (end - start) * rng.uniform(0.22, 0.36)
    ear = arc(0.7, middle, rng.uniform(0.16, 0.22), height, -100, 100)
    shift = [-0.07, 0]
    parts = [
        Part(band(ear, rng.uniform(0.04, 0.07)) + shift, "second"),
        Part(body + shift, "pattern"),
        Part(arc(0.43, start, top, 0.045, 0, 360), "main"),
        Part(arc(0.43, start, top - 0.02, 0.032, 0, 360), "dark"),
    ]
    return Silhouette(tuple(parts), (0.43, middle + 0.04, 0.14), 0.9)


def bottle(rng: np.random.Generator) -> Silhouette:
    """A bottle with a cap and a band for its label."""
    neck, body = rng.uniform(0.045, 0.08), rng.uniform(0.13, 0.2)
    shoulder = rng.uniform(0.22, 0.45)
    glass = mirrored(
        (0, 0.1), (neck, 0.1), (neck, shoulder - 0.08), (body, shoulder + 0.06), (body, 0.92),
        (body - 0.03, 0.95), (0, 0.95),
    )  # fmt: skip
    cap = rng.uniform(0.06, 0.12)
    lid = mirrored((0, 0.04), (neck + 0.015, 0.04), (neck + 0.015, 0.04 + cap), (0, 0.04 + cap))
    start = shoulder + rng.uniform(0.1, 0.15)
    end = min(start + rng.uniform(0.18, 0.35), 0.88)
    label = mirrored((0, start), (body, start), (body, end), (0, end))
    parts = (Part(glass, "main"), Part(label, "pattern"), Part(lid, "accent"))
    return Silhouette(parts, (0.5, (start + end) / 2, 0.08), 1.0)


def lamp(rng: np.random.Generator) -> Silhouette:
    """A table lamp: shade, stem and foot."""
    top, bottom = rng.uniform(0.1, 0.28), rng.uniform(0.26, 0.4)
    end = rng.uniform(0.38, 0.55)
    shade = mirrored((0, 0.07), (top, 0.07), (bottom, end), (0, end))
    stem, foot = rng.uniform(0.015, 0.05), rng.uniform(0.12, 0.24)
    bulge = rng.uniform(0.0, 0.1)
    stand = mirrored(
        (0, end), (stem, end), (stem + bulge, (end + 0.9) / 2), (stem, 0.87), (foot, 0.9),
        (foot, 0.94), (0, 0.94),
    )  # fmt: skip
    rim = mirrored((0, end - 0.03), (bottom - 0.01, end - 0.03), (bottom, end), (0, end))
    parts = [Part(stand, "second"), Part(shade, "pattern")]
    if rng.random() < 0.6:
        parts.append(Part(rim, "accent"))
    return Silhouette(tuple(parts), (0.5, 0.07 + (end - 0.07) * 0.55, 0.09), 0.7)


def shoe(rng: np.random.Generator) -> Silhouette:
    """A shoe from the side, low or high, with a sole and laces."""
    high, toe = rng.uniform(0.22, 0.48), rng.uniform(0.56, 0.64)
    sole = rng.uniform(0.04, 0.1)
    ground = 0.78
    upper = rounded(
        np.array(
            [
                (0.08, ground), (0.07, high + 0.1), (0.1, high), (0.34, high), (0.42, high + 0.1),
                (0.62, toe - 0.03), (0.86, toe + 0.05), (0.94, ground - 0.04), (0.94, ground),
            ]
        )
    )  # fmt: skip
    bottom = np.array(
        [(0.06, ground), (0.95, ground), (0.93, ground + sole), (0.07, ground + sole)]
    )
    cap = rounded(
        np.array([(0.76, toe + 0.04), (0.86, toe + 0.05), (0.95, ground), (0.74, ground)]), 1
    )
    parts = [Part(upper, "pattern"), Part(bottom, "second")]
    if rng.random() < 0.6:
        parts.append(Part(cap, "accent"))
    for at in np.linspace(0.42, 0.6, int(rng.integers(2, 6))):
        y = np.interp(at, [0.42, 0.62], [high + 0.1, toe - 0.02])
        parts.append(Part(band([(at - 0.05, y + 0.07), (at + 0.03, y + 0.02)], 0.016), "second"))
    return Silhouette(tuple(parts), (0.24, (high + ground) / 2 + 0.04, 0.1), 0.35)


def hat(rng: np.random.Generator) -> Silhouette:
    """A hat with a brim and a ribbon."""
    crown, top = rng.uniform(0.17, 0.26), rng.uniform(0.22, 0.42)
    brim, thick = rng.uniform(0.32, 0.46), rng.uniform(0.05, 0.1)
    tip = crown * rng.uniform(0.5, 1.0)
    body = rounded(mirrored((0, top), (tip, top), (crown, 0.66), (0, 0.68)))
    edge = arc(0.5, 0.68, brim, thick, 0, 360)
    wide = rng.uniform(0.04, 0.1)
    ribbon = mirrored((0, 0.64 - wide), (crown - 0.01, 0.63 - wide), (crown, 0.63), (0, 0.65))
    parts = (Part(edge, "main"), Part(body, "pattern"), Part(ribbon, "accent"))
    return Silhouette(parts, (0.5, (top + 0.62 - wide) / 2, 0.07), 0.6)


def vase(rng: np.random.Generator) -> Silhouette:
    """A vase with a curved belly."""
    lip, neck, belly, foot = rng.uniform([0.08, 0.05, 0.18, 0.08], [0.18, 0.12, 0.34, 0.16])
    at = rng.uniform(0.45, 0.7)
    body = rounded(
        mirrored(
            (0, 0.06), (lip, 0.06), (neck, 0.22), (belly, at - 0.1), (belly, at + 0.1),
            (foot, 0.93), (0, 0.94),
        ),
        3,
    )  # fmt: skip
    parts = [Part(body, "pattern")]
    if rng.random() < 0.5:
        parts.append(Part(arc(0.5, 0.085, lip * 0.7, 0.025, 0, 360), "dark"))
    return Silhouette(tuple(parts), (0.5, at, 0.13), 1.0)


def cushion(rng: np.random.Generator) -> Silhouette:
    """A cushion with or without a border."""
    wide, high = rng.uniform(0.32, 0.44, 2)
    dent = rng.uniform(0.0, 0.05)
    body = mirrored(
        (0, 0.5 - high + dent), (wide, 0.5 - high), (wide - dent, 0.5), (wide, 0.5 + high),
        (0, 0.5 + high - dent),
    )  # fmt: skip
    inner = (body - 0.5) * rng.uniform(0.75, 0.88) + 0.5
    if rng.random() < 0.5:
        parts: tuple[Part, ...] = (Part(body, "second"), Part(inner, "pattern"))
    else:
        parts = (Part(body, "pattern"),)
    return Silhouette(parts, (0.5, 0.5, 0.17), 0.4)


def chair(rng: np.random.Generator) -> Silhouette:
    """A chair from the front: back, seat, legs."""
    wide, top = rng.uniform(0.2, 0.3), rng.uniform(0.06, 0.2)
    seat = rng.uniform(0.5, 0.6)
    back = mirrored((0, top), (wide * rng.uniform(0.6, 1.0), top), (wide, seat), (0, seat))
    pad = mirrored((0, seat), (wide + 0.02, seat), (wide + 0.07, seat + 0.1), (0, seat + 0.11))
    spread, thick = rng.uniform(0.0, 0.09), rng.uniform(0.025, 0.05)
    parts = []
    for side in (1, -1):
        leg = [(0.5 + side * wide, seat + 0.05), (0.5 + side * (wide + spread), 0.95)]
        parts.append(Part(band(leg, thick), "second"))
    parts.append(Part(rounded(back, int(rng.integers(0, 3))), "pattern"))
    parts.append(Part(pad, "main" if rng.random() < 0.5 else "accent"))
    return Silhouette(tuple(parts), (0.5, (top + seat) / 2, 0.1), 0.2)


#: Category -> its outline. The order is part of what a seed means.
CATEGORIES: dict[str, Callable[[np.random.Generator], Silhouette]] = {
    "shirt": shirt,
    "mug": mug,
    "shoe": shoe,
    "bag": bag,
    "lamp": lamp,
    "dress": dress,
    "bottle": bottle,
    "cushion": cushion,
    "trousers": trousers,
    "vase": vase,
    "hat": hat,
    "chair": chair,
}
