"""Summaries of a training batch: how alike positives and negatives are, and the hardest triplets.

After the summaries of the online sampling of product search (arXiv 1810.04652): mean similarity of
anchors with positives and with negatives, the share of pairs that violate the margin, the share
whose hardest negative is ahead of the positive, and pictures of the worst.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.data.table import ItemTable
from trainer.retrieval.pictures import Picture, SheetRow, contact_sheet
from trainer.retrieval.vectors import normalise
from trainer.training.step import to_numpy
from trainer.training.trackers import Trackers

#: Triplets in the picture, each with an anchor of its own.
SHOWN = 4

#: The picture, in the run folder and by name in the trackers.
PICTURE = "hardest_triplets.png"


@dataclass(frozen=True)
class BatchSummary:
    """Numbers of a batch, and its hardest triplets.

    `numbers` holds, by name: `positive_similarity` and `negative_similarity`, mean cosines of all
    positive pairs and of all pairs of anchor and negative; `violations`, the share of positive
    pairs whose hardest negative comes within the margin of the positive; `hard`, the share whose
    hardest negative is ahead of the positive. Empty where a batch has no positive pair, or a pair
    no negative. `triplets` holds rows of the batch (T, 3): anchor, positive, negative, and
    `similarities` (T, 2) of the anchor with the other two, the worst first.
    """

    numbers: dict[str, float]
    triplets: np.ndarray
    similarities: np.ndarray


def summarize(
    labels: np.ndarray, embeddings: np.ndarray, example_rows: int = 1, margin: float = 0.1
) -> BatchSummary:
    """Summarize a batch.

    Args:
        labels: (B,) integers.
        embeddings: (B, D), of any length.
        example_rows: 1: every image is an anchor, those of its label its positives. 2: the first
            image of every two is an anchor, the second its positive, and all images of other labels
            are negatives. 3: every three are an anchor, its positive and its negative.
        margin: of cosine similarity, for `violations`.
    """
    vectors = np.array(embeddings, np.float32)
    normalise(vectors)
    similarity = vectors @ vectors.T
    place = np.arange(len(labels))
    anchors = place[::example_rows]
    if example_rows == 1:
        positives = (labels[:, None] == labels[None, :]) & (place[:, None] != place[None, :])
    else:
        positives = place[None, :] == anchors[:, None] + 1
    if example_rows == 3:
        negatives = place[None, :] == anchors[:, None] + 2
    else:
        negatives = labels[anchors][:, None] != labels[None, :]
    usable = positives.any(axis=1) & negatives.any(axis=1)
    if not usable.any():
        return BatchSummary({}, np.zeros((0, 3), np.int64), np.zeros((0, 2), np.float32))
    anchors, positives, negatives = anchors[usable], positives[usable], negatives[usable]
    similarity = similarity[anchors]
    # The hardest negative is that of an anchor, and the same for each of its positives.
    to_negatives = np.where(negatives, similarity, -np.inf)
    pair, positive = np.nonzero(positives)
    anchor, negative = anchors[pair], to_negatives.argmax(axis=1)[pair]
    near, far = similarity[pair, positive], to_negatives.max(axis=1)[pair]
    numbers = {
        "positive_similarity": float(near.mean()),
        "negative_similarity": float(similarity[negatives].mean()),
        "violations": float((far - near + margin > 0).mean()),
        "hard": float((far > near).mean()),
    }
    order = np.argsort(near - far, kind="stable")
    _, first = np.unique(anchor[order], return_index=True)
    worst = order[np.sort(first)][:SHOWN]
    return BatchSummary(
        numbers,
        np.stack([anchor, positive, negative], axis=1)[worst],
        np.stack([near, far], axis=1)[worst],
    )


class Summaries:
    """Summarizes batches of a job, and draws the hardest triplets of each into the run folder.

    Args:
        table: what the rows of a batch are rows of.
        run_dir: run folder, local or remote.
        example_rows: as in :func:`summarize`.
        margin: as in :func:`summarize`.
    """

    def __init__(
        self, table: ItemTable, run_dir: str, *, example_rows: int = 1, margin: float = 0.1
    ) -> None:
        self._table = table
        self._path = f"{run_dir}/{PICTURE}"
        self._example_rows = example_rows
        self._margin = margin

    def __call__(self, step: int, batch: Mapping[str, Any], trackers: Trackers) -> dict[str, float]:
        """Return the numbers of a batch after `step`, and hand the picture to the trackers.

        Args:
            step: optimizer steps done.
            batch: `label` (B,), `row` (B,) and `embedding` (B, D) of the global batch.
            trackers: get the picture.
        """
        labels, rows, embeddings = (to_numpy(batch[key]) for key in ("label", "row", "embedding"))
        summary = summarize(labels, embeddings, self._example_rows, self._margin)
        if len(summary.triplets):
            sheet = [
                SheetRow(self._picture(anchor), list(map(self._picture, others)), scores)
                for (anchor, *others), scores in zip(
                    rows[summary.triplets].tolist(), summary.similarities.tolist(), strict=True
                )
            ]
            title = f"hardest triplets of the batch of step {step}"
            contact_sheet(
                sheet, self._path, title=title, columns=("anchor", "positive", "hardest negative")
            )
            trackers.picture(step, "summaries/hardest_triplets", self._path)
        return summary.numbers

    def _picture(self, row: int) -> Picture:
        table = self._table
        return Picture(table.path[row], table.label_names[table.label[row]], table.box[row])
