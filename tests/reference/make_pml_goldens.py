"""Losses by pytorch-metric-learning and torch -> pml_goldens.npz.

Run in an environment of its own (the README beside this file): `python make_pml_goldens.py`.
Keys are `loss|parameters as JSON`, both being those of this library.
"""

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from golden_batches import labelled, pack, pairs, proxies, triplets
from pytorch_metric_learning import distances, losses, miners, reducers, regularizers
from pytorch_metric_learning.utils import loss_and_miner_utils

# Whether equal rows have a similarity below 1, and so count in the mean, is up to rounding.
SKIP = [("twins", "contrastive", {"distance": "cosine"})]


def distance(name):
    if name == "cosine":
        return distances.CosineSimilarity()
    return distances.LpDistance(
        normalize_embeddings=False, power=2 if name == "squared_euclidean" else 1
    )


def rivals():
    """Yield (loss, parameters, loss function of theirs, miner or None)."""
    for name in ("euclidean", "squared_euclidean", "cosine"):
        for margin in (0.2, 1.0):
            parameters = {"margin": margin, "distance": name}
            theirs = losses.TripletMarginLoss(margin=margin, distance=distance(name))
            yield "batch_all", parameters, theirs, None
            theirs = losses.TripletMarginLoss(
                margin=margin, distance=distance(name), reducer=reducers.MeanReducer()
            )
            yield "triplet_hard", parameters, theirs, miners.BatchHardMiner(distance=distance(name))
        similar = name == "cosine"
        theirs = losses.ContrastiveLoss(float(similar), float(not similar), distance=distance(name))
        yield "contrastive", {"distance": name}, theirs, None
        near, far = (0.8, 0.3) if similar else (0.3, 0.9)
        yield (
            "contrastive",
            {"distance": name, "pos_margin": near, "neg_margin": far},
            losses.ContrastiveLoss(near, far, distance=distance(name)),
            None,
        )
    for parameters in ({"margin": 0.5}, {"margin": 0.2}, {"fidelity": "released"}):
        theirs = contrastive_similarity(**parameters)
        yield "contrastive_similarity", parameters, theirs, all_pairs
    for temperature in (0.07, 0.5):
        yield "ntxent", {"temperature": temperature}, losses.NTXentLoss(temperature), None
    for parameters in (
        {"alpha": 2.0, "beta": 50.0, "base": 0.5},
        {"alpha": 1.0, "beta": 10.0, "base": 0.2},
    ):
        theirs = losses.MultiSimilarityLoss(**parameters)
        yield "multi_similarity", {**parameters, "epsilon": None}, theirs, None
        for epsilon in (0.1, 0.4):
            miner = miners.MultiSimilarityMiner(epsilon)
            yield "multi_similarity", {**parameters, "epsilon": epsilon}, theirs, miner
    for parameters in ({"margin": 0.4, "gamma": 80.0}, {"margin": 0.25, "gamma": 5.0}):
        yield (
            "circle",
            parameters,
            losses.CircleLoss(parameters["margin"], parameters["gamma"]),
            None,
        )
    for temperature in (0.1, 0.5):
        yield "supcon", {"temperature": temperature}, losses.SupConLoss(temperature), None
    for name in ("euclidean", "squared_euclidean", "cosine"):
        for margin in (1.0, 0.3):
            theirs = losses.LiftedStructureLoss(
                # Of a similarity, the margin is on the other side.
                neg_margin=-margin if name == "cosine" else margin,
                distance=distance(name),
                reducer=reducers.MeanReducer(),
            )
            yield "lifted_structure", {"margin": margin, "distance": name}, theirs, None
    for temperature in (1.0, 0.2):
        yield "npairs", {"temperature": temperature}, npairs(temperature), pairs_of_classes


def pairs_of_classes(_, labels):
    """Anchors and positives, by twos in each class; of each, the positives of other classes."""
    anchors, positives = [], []
    for label in labels.unique():
        rows = torch.where(labels == label)[0].tolist()
        anchors += rows[: len(rows) // 2 * 2 : 2]
        positives += rows[1::2]
    far = [(a, n) for a in anchors for n in positives if labels[a] != labels[n]]
    a, p = torch.tensor(anchors, dtype=torch.long), torch.tensor(positives, dtype=torch.long)
    return a, p, *torch.tensor(far, dtype=torch.long).reshape(-1, 2).unbind(1)


def all_pairs(_, labels):
    return loss_and_miner_utils.get_all_pairs_indices(labels)


def contrastive_similarity(margin=0.5, fidelity="corrected"):
    """The loss of the code of cross-batch memories, of their similarities and pairs."""

    def function(embeddings, labels, pairs):
        similarity = distances.CosineSimilarity()(embeddings)
        anchor, positive, other, negative = pairs
        near, far = similarity[anchor, positive], similarity[other, negative]
        if fidelity == "released":
            near = near[near < 1 - 1e-5]
        return ((1 - near).sum() + far[far > margin].sum()) / len(labels)

    return function


def npairs(temperature):
    """`NPairsLoss` where no class has two pairs, else what its formula is of chosen pairs."""
    plain = distances.DotProductSimilarity(normalize_embeddings=False)
    of_one_pair = losses.NPairsLoss(distance=plain)
    of_all = losses.NTXentLoss(temperature, distance=plain)

    def function(embeddings, labels, pairs):
        a = pairs[0]
        if len(labels[a].unique()) == len(a) and temperature == 1:
            return of_one_pair(embeddings, labels)
        return of_all(embeddings, labels, pairs)

    return function


def of_pairs():
    """Yield (loss, parameters, function of embeddings (P, 2, D) and their labels)."""
    for negatives in ("both", "positives"):
        for margin in (0.1, 0.8):
            parameters = {"margin": margin, "negatives": negatives}
            yield "ranker", parameters, lambda x, y, p=parameters: ranker(x, y, **p)
    yield "ranker", {"fidelity": "released"}, released_ranker


def ranker(x, y, margin, negatives):
    """Their triplet margin loss, of each pair and the negative that their miner finds hardest."""
    query, positive = x.unbind(1)
    both = negatives == "both"
    reference = torch.cat([positive, query]) if both else positive
    # A copy: the very labels would mean that both sides are the same embeddings.
    labels = torch.cat([y, y]) if both else y.clone()
    plain = distances.DotProductSimilarity(normalize_embeddings=False)
    anchor, _, negative = miners.BatchHardMiner(distance=plain)(query, y, reference, labels)
    theirs = losses.TripletMarginLoss(margin, distance=plain, reducer=reducers.MeanReducer())
    # The positive of an anchor is the one beside it: the first of the reference are these.
    return theirs(query, y, (anchor, anchor, negative), ref_emb=reference, ref_labels=labels)


def released_ranker(x, y):
    """As released: similarities times 0 where the items agree, and the largest of all of them."""
    query, positive = x.unbind(1)
    other = (y[:, None] != y[None, :]).to(x.dtype)
    similarity = torch.cat([query @ positive.T * other, query @ query.T * other], dim=1)
    near = (query * positive).sum(dim=1)
    return F.relu(similarity.max(dim=1).values - near + 0.1).mean()


def with_proxies():
    """Yield (loss, parameters, function from (classes, dim) to a loss of theirs, its weights)."""
    for parameters in ({"margin": 0.1, "alpha": 32.0}, {"margin": 0.3, "alpha": 4.0}):
        yield (
            "proxy_anchor",
            parameters,
            lambda classes, dim, p=parameters: losses.ProxyAnchorLoss(classes, dim, **p),
            "proxies",
        )
    for temperature in (0.11, 1.0):
        yield (
            "proxy_nca",
            {"temperature": temperature},
            lambda classes, dim, t=temperature: losses.ProxyNCALoss(
                classes, dim, softmax_scale=1 / t
            ),
            "proxies",
        )
    for parameters in (
        {"centers_per_class": 10, "la": 20.0, "gamma": 0.1, "margin": 0.01, "tau": 0.2},
        {"centers_per_class": 3, "la": 5.0, "gamma": 0.5, "margin": 0.3, "tau": 0.0},
    ):
        yield "soft_triple", parameters, lambda c, d, p=parameters: soft_triple(c, d, **p), "fc"
    for name, theirs, several in softmaxes():
        for parameters in several:
            yield name, parameters, lambda c, d, f=theirs, p=parameters: f(c, d, **p), "W"


def softmaxes():
    """Yield (loss, function from (classes, dim, parameters) to a loss of theirs, parameters).

    Margins that are angles are in degrees there, and in radians here.
    """
    angles = ({"scale": 64.0, "margin": 0.5}, {"scale": 5.0, "margin": 2.0})

    def arcface(classes, dim, scale, margin):
        return losses.ArcFaceLoss(classes, dim, margin=np.degrees(margin), scale=scale)

    def subcenter(classes, dim, scale, margin, centers):
        return losses.SubCenterArcFaceLoss(
            num_classes=classes,
            embedding_size=dim,
            margin=np.degrees(margin),
            scale=scale,
            sub_centers=centers,
        )

    def normalized(classes, dim, scale):
        return losses.NormalizedSoftmaxLoss(classes, dim, temperature=1 / scale)

    yield "arcface", arcface, angles
    yield "subcenter_arcface", subcenter, [p | {"centers": 3} for p in angles]
    yield (
        "cosface",
        losses.CosFaceLoss,
        ({"scale": 64.0, "margin": 0.35}, {"scale": 5.0, "margin": 0.1}),
    )
    yield "normalized_softmax", normalized, ({"scale": 20.0}, {"scale": 4.0})


def soft_triple(classes, dim, centers_per_class, tau, **parameters):
    together = regularizers.SparseCentersRegularizer(classes, centers_per_class)
    return losses.SoftTripleLoss(
        classes,
        dim,
        centers_per_class,
        weight_regularizer=together if tau else None,
        weight_reg_weight=tau,
        **parameters,
    )


def measured_with_proxies(make, name, labels, x, per_class):
    """Return the value with its gradient by the embeddings, and with that by the proxies."""
    classes, start = proxies(labels, x.shape[1], per_class)
    theirs = make(len(classes), x.shape[1])
    weights = torch.tensor(start, dtype=torch.float64)
    # They keep all but proxies as columns.
    columns = name != "proxies"
    weights = torch.nn.Parameter(weights.T.contiguous() if columns else weights)
    setattr(theirs, name, weights)
    codes = torch.tensor(np.searchsorted(classes, labels))
    value, gradient = measured(lambda e: theirs(e, codes), x)
    slope = weights.grad.T if columns else weights.grad
    return (value, gradient), (value, slope.numpy())


def of_triplets():
    """Yield (loss, parameters, function of embeddings (T, 3, D), cases that it is for)."""
    for parameters in ({"margin": 1.0}, {"margin": 0.3}, {"margin": 1.0, "swap": True}):
        theirs = torch.nn.TripletMarginLoss(eps=1e-12, **parameters)
        yield "triplet_margin", parameters, lambda x, f=theirs: f(*x.unbind(1)), triplets()
        if "swap" not in parameters:
            yield "hinge_loss", parameters, lambda x, f=theirs: f(*x.unbind(1)), triplets()
            twice = {"margin": parameters["margin"]}
            yield "hinge_twice_loss", twice, lambda x, f=theirs: 2 * f(*x.unbind(1)), triplets()
    for margin in (1.0, 3.0):
        yield "hinge_new_loss", {"margin": margin}, lambda x, m=margin: hinge_new(x, m), triplets()
    # Squared distances over their largest, as probabilities: those of unit length have one.
    unit = {"unit": triplets()["unit"]}
    for largest in (4.0, 8.0):
        parameters = {"n": largest} if largest == 4 else {}
        yield "lossless_loss", parameters, lambda x, n=largest: cross_entropy(x, n), unit
    for alpha in (45.0, 30.0):
        yield "angular_loss_1", {"alpha": alpha}, lambda x, d=alpha: angular_hinge(x, d), triplets()
        for weight, negatives in ((0.0, "batch"), (2.0, "batch"), (2.0, "own")):
            parameters = {"alpha": alpha, "npair_weight": weight, "negatives": negatives}
            theirs = angular_npair(**parameters)
            yield "angular_loss_2", parameters, theirs, triplets()


def between(left, right):
    return F.pairwise_distance(left, right, eps=1e-12)


def hinge_new(x, margin):
    anchor, positive, negative = x.unbind(1)
    far = between(anchor, negative) + between(positive, negative)
    near = 2 * between(anchor, positive)
    return 2 * F.margin_ranking_loss(far, near, torch.ones(len(x)), margin=margin)


def cross_entropy(x, largest):
    """Two binary predictions a triplet, of which `lossless_loss` is the cross-entropy."""
    anchor, positive, negative = x.unbind(1)
    share = torch.stack([between(anchor, positive), between(anchor, negative)]) ** 2 / largest
    target = torch.tensor([[0.0], [1.0]], dtype=x.dtype).expand_as(share)
    return 2 * F.binary_cross_entropy(share, target)


def angular_hinge(x, alpha):
    anchor, positive, negative = x.unbind(1)
    along = between(negative, torch.lerp(anchor, positive, 0.5)) ** 2
    allowed = 4 * torch.tan(torch.deg2rad(torch.tensor(alpha, dtype=x.dtype))) ** 2 * along
    return F.margin_ranking_loss(allowed, between(anchor, positive) ** 2, torch.ones(len(x)))


def angular_npair(alpha, npair_weight, negatives):
    """The angular loss of each anchor in turn, against its own reference set of negatives."""
    angular = losses.AngularLoss(alpha)
    # It scales embeddings to length 1; ours takes them as they are.
    angular.distance.normalize = lambda embeddings: embeddings
    npair = losses.NTXentLoss(
        1.0, distance=distances.DotProductSimilarity(normalize_embeddings=False)
    )

    def function(x):
        anchors, reference = x[:, 0], torch.cat([x[:, 1], x[:, 2]])
        count = len(x)
        pairs = []
        total = 0.0
        for row in range(count):
            others = [place for place in range(count) if place != row]
            far = [count + row, *(others if negatives == "batch" else [])]
            pairs += [(row, place) for place in far]
            labels = torch.tensor([0] + [1] * len(far))
            total = total + angular(
                anchors[row : row + 1],
                labels[:1],
                ref_emb=reference[[row, *far]],
                ref_labels=labels,
            )
        rows = torch.arange(count)
        chosen = (rows, rows, *torch.tensor(pairs).unbind(1))
        labels = torch.arange(2 * count)
        theirs = npair(anchors, rows, chosen, ref_emb=reference, ref_labels=labels)
        return total / count + npair_weight * theirs

    return function


def measured(function, x):
    x = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    value = function(x)
    value.backward()
    return value.item(), x.grad.numpy()


def main():
    goldens = {}
    batches = labelled()
    inputs = {case: x for case, (_, x) in batches.items()}
    for loss, parameters, function, miner in rivals():
        found = {}
        for case, (labels, x) in batches.items():
            if (case, loss, parameters) in SKIP:
                continue
            y = torch.tensor(labels)
            found[case] = measured(
                lambda e, f=function, m=miner, y=y: f(e, y, m(e, y) if m else None), x
            )
        goldens[f"{loss}|{json.dumps(parameters)}"] = pack(found, inputs)
    for loss, parameters, function, cases in of_triplets():
        found = {case: measured(function, x) for case, x in cases.items()}
        goldens[f"{loss}|{json.dumps(parameters)}"] = pack(found, triplets())
    inputs = {case: x for case, (_, x) in pairs().items()}
    for loss, parameters, function in of_pairs():
        found = {}
        for case, (labels, x) in pairs().items():
            y = torch.tensor(labels)
            found[case] = measured(lambda e, f=function, y=y: f(e, y), x)
        goldens[f"{loss}|{json.dumps(parameters)}"] = pack(found, inputs)
    for loss, parameters, make, name in with_proxies():
        found, shapes = {}, {}
        for case, (labels, x) in batches.items():
            per_class = parameters.get("centers_per_class", parameters.get("centers", 1))
            shapes |= {case: x, f"{case}, proxies": proxies(labels, x.shape[1], per_class)[1]}
            both = measured_with_proxies(make, name, labels, x, per_class)
            found[case], found[f"{case}, proxies"] = both
        goldens[f"{loss}|{json.dumps(parameters)}"] = pack(found, shapes)
    np.savez_compressed(Path(__file__).with_name("pml_goldens.npz"), **goldens)
    print(f"{len(goldens)} losses by pytorch-metric-learning and torch")


if __name__ == "__main__":
    main()
