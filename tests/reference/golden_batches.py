"""The inputs of the loss goldens: small batches with every awkward pattern of labels.

Needs numpy alone, so that it runs in every environment.
"""

import numpy as np


def unit(x):
    """Rows scaled to length 1."""
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def labelled():
    """Return {case: (labels int64 (B,), embeddings float32 (B, D))}."""
    random = np.random.default_rng(20)

    def around(labels, spread=0.6, dim=8):
        centres = random.normal(size=(50, dim))
        return (centres[labels] + spread * random.normal(size=(len(labels), dim))).astype("f4")

    balanced = np.arange(16) // 4
    unbalanced = np.array([0] * 11 + [1, 1] + [2] * 3)
    singletons = np.array([7, 7, 7, 3, 3, 9, 8, 7, 1, 3])
    pairs = np.arange(24) // 2
    two = np.arange(20) % 2
    # Multiples of 1/64: inner products are exact, so that equal rows are at equal distances.
    twins = np.round(around(np.arange(12) // 3) * 64) / 64
    twins[[4, 7]] = twins[1]  # an item of another class, twice
    twins[[2, 11]] = twins[[0, 9]]  # items of the same class
    return {
        "balanced": (balanced, unit(around(balanced))),
        "unbalanced": (unbalanced, around(unbalanced)),
        "singletons": (singletons, unit(around(singletons))),
        "pairs": (pairs, unit(around(pairs, spread=1.5, dim=12))),
        "two classes": (two, around(two, spread=2.0)),
        "twins": (np.arange(12) // 3, twins.astype("f4")),
        "one class": (np.zeros(5, np.int64), unit(around(np.zeros(5, int)))),
        "all different": (np.arange(6), unit(around(np.arange(6)))),
    }


def proxies(labels, dim, per_class=1):
    """Return (classes int64 (C,), proxies float32 (C * per_class, dim)), rows in order of class.

    Two classes are not in the batch.
    """
    classes = np.unique(np.concatenate([labels, [4, 60]]))
    random = np.random.default_rng(22)
    return classes, random.normal(size=(len(classes) * per_class, dim)).astype("f4")


def triplets():
    """Return {case: embeddings float32 (T, 3, D)}."""
    random = np.random.default_rng(21)
    raw = random.normal(size=(10, 3, 8)).astype("f4")
    return {"raw": raw, "unit": raw / np.linalg.norm(raw, axis=2, keepdims=True)}


def pairs():
    """Return {case: (labels int64 (P,), embeddings float32 (P, 2, D))}."""
    random = np.random.default_rng(23)

    def around(labels, spread):
        centres = random.normal(size=(50, 1, 8))
        return centres[labels] + spread * random.normal(size=(len(labels), 2, 8))

    def unit_pairs(x):
        return unit(x.reshape(-1, 8)).reshape(x.shape)

    different, shared = np.arange(12), np.array([4, 1, 4, 0, 7, 7, 7, 2])
    # Three items at angles of 120 degrees: every negative is below 0.
    corners = np.repeat([0.0, 2 * np.pi / 3, 4 * np.pi / 3], 2) + [0.0, 0.1, 0.0, 0.9, 0.0, 1.0]
    apart = np.zeros((3, 2, 8))
    apart[..., :2] = np.stack([np.cos(corners), np.sin(corners)], axis=1).reshape(3, 2, 2)
    return {
        "different": (different, unit_pairs(around(different, 1.0))),
        "shared": (shared, around(shared, 1.5).astype("f4")),
        "apart": (np.arange(3), apart.astype("f4")),
        "one item": (np.zeros(4, np.int64), unit_pairs(around(np.zeros(4, int), 1.0))),
    }


#: Embeddings that the memory of the goldens holds: less than the batches of `remembered` have.
MEMORY = 28


def remembered():
    """Return batches [(labels int64 (B,), embeddings float32 (B, D))] to come one after another.

    Every item has another of its class in its batch: where it has none, a memory that looks for
    the hardest positive before it leaves the item itself out finds that.
    """
    random = np.random.default_rng(24)
    centres = random.normal(size=(9, 6))
    batches = []
    for _ in range(5):
        labels = np.repeat(random.permutation(9)[:4], [3, 2, 2, 3])
        x = centres[labels] + 0.8 * random.normal(size=(len(labels), 6))
        batches.append((labels, unit(x)))
    return batches


def pack(measured, inputs):
    """Put {case: (value, gradient)} into one flat array, NaN for cases without."""
    parts = []
    for case, x in inputs.items():
        value, gradient = measured.get(case, (np.nan, np.full(x.shape, np.nan)))
        parts += [np.reshape(value, 1), np.ravel(gradient)]
    return np.concatenate(parts).astype(np.float32)


def unpack(packed, inputs):
    """Undo `pack`: {case: (value, gradient)}, without the cases that have none."""
    measured, start = {}, 0
    for case, x in inputs.items():
        value, gradient = packed[start], packed[start + 1 : start + 1 + x.size].reshape(x.shape)
        start += 1 + x.size
        if not np.isnan(value):
            measured[case] = (value, gradient)
    assert start == len(packed)
    return measured
