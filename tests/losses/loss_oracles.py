"""The losses written as slow, obvious float64 loops, to compare the real ones with."""

from __future__ import annotations

import math

import numpy as np


def distance(kind: str, x, y) -> float:
    """Distance by name; for the similarity `cosine`, the similarity."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if kind == "squared_euclidean":
        return float(np.sum((x - y) ** 2))
    if kind == "euclidean":
        return math.sqrt(np.sum((x - y) ** 2))
    cosine = float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))
    return cosine if kind == "cosine" else 1.0 - cosine


def away(kind: str, x, y) -> float:
    return -distance(kind, x, y) if kind == "cosine" else distance(kind, x, y)


class Against(list):
    """Labels of anchors, to be held against references with labels of their own.

    Reference number `own[a]` is anchor a itself. The embeddings that go with it are two: of the
    anchors, and of the references.
    """

    def __init__(self, labels, references, own):
        super().__init__(labels)
        self.references, self.own = references, own


def positives(labels, a):
    among, itself = labels, a
    if isinstance(labels, Against):
        among, itself = labels.references, labels.own[a]
    return [p for p in range(len(among)) if p != itself and among[p] == labels[a]]


def negatives(labels, a):
    among = labels.references if isinstance(labels, Against) else labels
    return [n for n in range(len(among)) if among[n] != labels[a]]


def average(values) -> float:
    return sum(values) / len(values) if values else 0.0


def table(kind, x, similarity=False):
    """All pairs, each on its own."""
    measure = distance if similarity else away
    anchors, references = x if isinstance(x, tuple) else (x, x)
    return [[measure(kind, left, right) for right in references] for left in anchors]


def triplet_semihard(labels, x, margin=1.0, distance="euclidean"):
    d = table(distance, x)
    losses = []
    for a in range(len(labels)):
        others = [d[a][n] for n in negatives(labels, a)]
        for p in positives(labels, a) if others else []:
            near = d[a][p]
            beyond = [far for far in others if far > near]
            far = min(beyond) if beyond else max(others)
            losses.append(max(0.0, near - far + margin))
    return average(losses)


def triplet_hard(labels, x, margin=1.0, soft=False, distance="euclidean"):
    d = table(distance, x)
    losses = []
    for a in range(len(labels)):
        if positives(labels, a) and negatives(labels, a):
            near = max(d[a][p] for p in positives(labels, a))
            far = min(d[a][n] for n in negatives(labels, a))
            excess = near - far
            losses.append(math.log1p(math.exp(excess)) if soft else max(0.0, excess + margin))
    return average(losses)


def batch_all(labels, x, margin=0.2, distance="euclidean"):
    d = table(distance, x)
    losses = []
    for a in range(len(labels)):
        for p in positives(labels, a):
            for n in negatives(labels, a):
                excess = d[a][p] - d[a][n] + margin
                if excess > 0:
                    losses.append(excess)
    return average(losses)


def multi_similarity(labels, x, alpha=2.0, beta=50.0, base=0.5, epsilon=0.1):
    s = table("cosine", x, similarity=True)
    losses = []
    for a in range(len(labels)):
        near = [s[a][p] for p in positives(labels, a)]
        far = [s[a][n] for n in negatives(labels, a)]
        if epsilon is not None:
            near, far = (
                [v for v in near if far and v - epsilon < max(far)],
                [v for v in far if near and v + epsilon > min(near)],
            )
        losses.append(
            math.log1p(sum(math.exp(-alpha * (v - base)) for v in near)) / alpha
            + math.log1p(sum(math.exp(beta * (v - base)) for v in far)) / beta
        )
    return average(losses)


def contrastive(labels, x, pos_margin=None, neg_margin=None, distance="euclidean"):
    d = table(distance, x)
    similar = distance == "cosine"
    pos_margin = float(similar) if pos_margin is None else pos_margin
    neg_margin = float(not similar) if neg_margin is None else neg_margin
    sign = -1.0 if similar else 1.0
    near, far = [], []
    for a in range(len(labels)):
        for p in positives(labels, a):
            near.append(d[a][p] - sign * pos_margin)
        for n in negatives(labels, a):
            far.append(sign * neg_margin - d[a][n])
    return average([v for v in near if v > 0]) + average([v for v in far if v > 0])


def contrastive_similarity(labels, x, margin=0.5, fidelity="corrected"):
    s = table("cosine", x, similarity=True)
    total = 0.0
    for a in range(len(labels)):
        near = [s[a][p] for p in positives(labels, a)]
        total += sum(1 - v for v in near if fidelity == "corrected" or v < 1 - 1e-5)
        total += sum(s[a][n] for n in negatives(labels, a) if s[a][n] > margin)
    return total / len(labels)


def ntxent(labels, x, temperature=0.07):
    s = table("cosine", x, similarity=True)
    losses = []
    for a in range(len(labels)):
        far = sum(math.exp(s[a][n] / temperature) for n in negatives(labels, a))
        for p in positives(labels, a) if far else []:
            near = math.exp(s[a][p] / temperature)
            losses.append(-math.log(near / (near + far)))
    return average(losses)


def circle(labels, x, margin=0.4, gamma=80.0, held=None):
    """The weights are those of the embeddings `held`, as they have no gradient."""
    s = table("cosine", x, similarity=True)
    fixed = s if held is None else table("cosine", held, similarity=True)
    losses = []
    for a in range(len(labels)):
        near = [
            math.exp(-gamma * max(0.0, 1 + margin - fixed[a][p]) * (s[a][p] - (1 - margin)))
            for p in positives(labels, a)
        ]
        far = [
            math.exp(gamma * max(0.0, fixed[a][n] + margin) * (s[a][n] - margin))
            for n in negatives(labels, a)
        ]
        if near and far:
            losses.append(math.log1p(sum(near) * sum(far)))
    return average(losses)


def supcon(labels, x, temperature=0.1):
    s = table("cosine", x, similarity=True)
    losses = []
    for a in range(len(labels)):
        near, far = positives(labels, a), negatives(labels, a)
        if near and far:
            everything = sum(math.exp(s[a][i] / temperature) for i in near + far)
            shares = [math.exp(s[a][p] / temperature) / everything for p in near]
            losses.append(-average([math.log(share) for share in shares]))
    return average(losses)


def lifted_structure(labels, x, margin=1.0, distance="euclidean"):
    d = table(distance, x)
    losses = []
    for i in range(len(labels)):
        for j in positives(labels, i) if negatives(labels, i) else []:
            if i < j:
                far = [d[i][k] for k in negatives(labels, i)]
                far += [d[j][k] for k in negatives(labels, j)]
                total = math.log(sum(math.exp(margin - value) for value in far)) + d[i][j]
                losses.append(max(0.0, total) ** 2 / 2)
    return average(losses)


def npairs(labels, x, temperature=1.0, l2=0.0):
    pairs = []
    for label in set(np.asarray(labels).tolist()):
        rows = [row for row in range(len(labels)) if labels[row] == label]
        pairs += list(zip(rows[::2], rows[1::2], strict=False))
    losses, lengths = [], []
    for a, p in pairs:
        far = [x[a] @ x[other] - x[a] @ x[p] for _, other in pairs if labels[other] != labels[a]]
        losses.append(math.log1p(sum(math.exp(value / temperature) for value in far)))
        lengths += [float(x[a] @ x[a]), float(x[p] @ x[p])]
    return average(losses) + l2 * average(lengths)


def proxy_anchor(labels, x, classes, proxies, margin=0.1, alpha=32.0):
    pulls, pushes = [], []
    items = [row for row in range(len(labels)) if labels[row] in classes]
    for label, proxy in zip(classes, proxies, strict=True):
        s = {row: distance("cosine", x[row], proxy) for row in items}
        near = [math.exp(-alpha * (s[row] - margin)) for row in items if labels[row] == label]
        far = [math.exp(alpha * (s[row] + margin)) for row in items if labels[row] != label]
        if near:
            pulls.append(math.log1p(sum(near)))
        pushes.append(math.log1p(sum(far)))
    return average(pulls) + average(pushes)


def softmax_loss(labels, classes, logits_of):
    losses = []
    for row, label in enumerate(labels):
        if label in classes:
            logits = logits_of(row)
            total = sum(math.exp(value) for value in logits)
            losses.append(-math.log(math.exp(logits[list(classes).index(label)]) / total))
    return losses


def proxy_nca(labels, x, classes, proxies, temperature=0.11):
    proxies = np.asarray(proxies, np.float64)
    directions = proxies / np.linalg.norm(proxies, axis=1, keepdims=True)

    def logits(row):
        at = x[row] / np.linalg.norm(x[row])
        return [-distance("squared_euclidean", at, proxy) / temperature for proxy in directions]

    return average(softmax_loss(labels, classes, logits))


def soft_triple(
    labels, x, classes, proxies, centers_per_class=10, la=20.0, gamma=0.1, margin=0.01, tau=0.2
):
    groups = np.reshape(proxies, (len(classes), centers_per_class, -1))

    def logits(row):
        found = []
        for label, centers in zip(classes, groups, strict=True):
            s = [distance("cosine", x[row], center) for center in centers]
            weights = [math.exp(value / gamma) for value in s]
            mixed = sum(w * v for w, v in zip(weights, s, strict=True)) / sum(weights)
            found.append(la * (mixed - margin * (label == labels[row])))
        return found

    losses = softmax_loss(labels, classes, logits)
    apart = [
        math.sqrt(2 + 1e-5 - 2 * distance("cosine", centers[s], centers[t]))
        for centers in groups
        for s in range(centers_per_class)
        for t in range(s)
    ]
    # There are K (K - 1) / 2 pairs a class, and the divisor is C K (K - 1).
    return average(losses) + (tau * average(apart) / 2 if losses else 0.0)


def class_softmax(labels, x, classes, proxies, scale, lowered, centers=1):
    """A softmax over classes; `lowered` is what becomes of the cosine of the own one."""
    groups = np.reshape(proxies, (len(classes), centers, -1))

    def logits(row):
        found = []
        for label, own in zip(classes, groups, strict=True):
            cosine = max(distance("cosine", x[row], center) for center in own)
            found.append(scale * (lowered(cosine, label) if label == labels[row] else cosine))
        return found

    return average(softmax_loss(labels, classes, logits))


def turned(margin_of):
    """The cosine of an angle to which the margin of the class is added."""

    def lowered(cosine, label):
        angle, margin = math.acos(cosine), margin_of(label)
        if angle + margin > math.pi:
            return cosine - math.sin(math.pi - margin) * margin
        return math.cos(angle + margin)

    return lowered


def arcface(labels, x, classes, proxies, scale=64.0, margin=0.5, centers=1):
    lowered = turned(lambda label: margin)
    return class_softmax(labels, x, classes, proxies, scale, lowered, centers)


def subcenter_arcface(
    labels, x, classes, proxies, counts, centers=3, scale=30.0, margin=None, low=0.05, span=0.45
):
    roots = {label: math.sqrt(1 / math.sqrt(n)) for label, n in zip(classes, counts, strict=True)}
    least, most = min(roots.values()), max(roots.values())

    def margin_of(label):
        if margin is not None:
            return margin
        return (roots[label] - least) / (most - least) * span + low

    return class_softmax(labels, x, classes, proxies, scale, turned(margin_of), centers)


def cosface(labels, x, classes, proxies, scale=64.0, margin=0.35):
    return class_softmax(labels, x, classes, proxies, scale, lambda c, label: c - margin)


def normalized_softmax(labels, x, classes, proxies, scale=20.0):
    return class_softmax(labels, x, classes, proxies, scale, lambda c, label: c)


def ranker(labels, pairs, margin=0.1, negatives="both", fidelity="corrected"):
    each = []
    for i, (query, positive) in enumerate(pairs):
        far = []
        for j, (other_query, other_positive) in enumerate(pairs):
            candidates = [other_positive] + ([other_query] if negatives == "both" else [])
            if labels[j] != labels[i]:
                far += [float(query @ candidate) for candidate in candidates]
            elif fidelity == "released":
                far += [0.0 for _ in candidates]
        if far:
            each.append(max(0.0, max(far) - float(query @ positive) + margin))
    return average(each)


def _released(triplets):
    return np.clip(triplets, 1e-7, 1 - 1e-7)


def hinge(triplets, fidelity, violation):
    if fidelity == "released":
        return max(0.0, average([violation(a, p, n) for a, p, n in _released(triplets)]))
    return average([max(0.0, violation(a, p, n)) for a, p, n in triplets])


def hinge_loss(_, triplets, margin=1.0, fidelity="corrected"):
    def violation(a, p, n):
        return margin + distance("euclidean", a, p) - distance("euclidean", a, n)

    return hinge(triplets, fidelity, violation)


def hinge_twice_loss(_, triplets, margin=1.0, fidelity="corrected"):
    return 2 * hinge_loss(_, triplets, margin, fidelity)


def hinge_new_loss(_, triplets, margin=1.0, fidelity="corrected"):
    def violation(a, p, n):
        far = distance("euclidean", a, n) + distance("euclidean", p, n)
        return 2 * (margin + 2 * distance("euclidean", a, p) - far)

    return hinge(triplets, fidelity, violation)


def contrastive_loss(_, triplets, margin=1.0, fidelity="corrected"):
    if fidelity == "released":
        triplets = _released(triplets)
    pairs = []
    for a, p, n in triplets:
        pairs.append(distance("squared_euclidean", a, p))
        pairs.append(max(0.0, margin - distance("euclidean", a, n)) ** 2)
    return average(pairs)


def triplet_margin(_, triplets, margin=1.0, distance="euclidean", swap=False):
    each = []
    for a, p, n in triplets:
        far = away(distance, a, n)
        if swap:
            far = min(far, away(distance, p, n))
        each.append(max(0.0, away(distance, a, p) - far + margin))
    return average(each)


def lossless_loss(_, triplets, n=None, beta=None):
    largest = float(np.shape(triplets)[-1] if n is None else n)
    beta = largest if beta is None else beta
    each = []
    for anchor, positive, negative in triplets:
        near = min(distance("squared_euclidean", anchor, positive), beta)
        far = min(distance("squared_euclidean", anchor, negative), largest)
        each.append(
            -math.log(-near / beta + 1 + 1e-8) - math.log(-(largest - far) / beta + 1 + 1e-8)
        )
    return average(each)


def angular_loss_1(_, triplets, alpha=45.0):
    tangent = math.tan(alpha * math.pi / 180)
    each = []
    for a, p, n in triplets:
        across = distance("euclidean", a, p)
        along = distance("euclidean", n, (np.asarray(a) + p) / 2)
        each.append(max(0.0, across**2 - 4 * tangent**2 * along**2))
    return average(each)


def angular_loss_2(_, triplets, alpha=45.0, npair_weight=2.0, negatives="batch"):
    squared = math.tan(alpha * math.pi / 180) ** 2
    each = []
    for i, (a, p, own) in enumerate(triplets):
        others = [triplets[j][1] for j in range(len(triplets)) if j != i]
        far = [own] + (others if negatives == "batch" else [])
        angular = [4 * squared * float((a + p) @ n) - 2 * (1 + squared) * float(a @ p) for n in far]
        npair = [float(a @ n) - float(a @ p) for n in far]
        each.append(
            math.log1p(sum(map(math.exp, angular)))
            + npair_weight * math.log1p(sum(map(math.exp, npair)))
        )
    return average(each)


def slope(function, x, direction, step=3e-8) -> float:
    """Derivative of `function` at `x` along `direction`, by central differences."""
    return (function(x + step * direction) - function(x - step * direction)) / (2 * step)
