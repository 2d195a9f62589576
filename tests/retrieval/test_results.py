"""Results: checked once, exact ids, JSON and rows."""

import json

import numpy as np
import pytest

from trainer.config import UserError
from trainer.retrieval.results import RetrievalResults, take

BIG = 2**62 + 1  # float64 cannot hold it


def results(queries=(1, 2), neighbours=((3, 4), (4, BIG)), scores=((0.5, 0.25), (1, 1)), **more):
    return RetrievalResults(
        np.array(queries), np.array(neighbours), np.array(scores, np.float32), **more
    )


def test_rows_and_json_keep_every_id():
    found = results()
    assert found.to_rows() == [
        {"query": 1, "rank": 1, "id": 3, "score": 0.5},
        {"query": 1, "rank": 2, "id": 4, "score": 0.25},
        {"query": 2, "rank": 1, "id": 4, "score": 1.0},
        {"query": 2, "rank": 2, "id": BIG, "score": 1.0},
    ]
    again = RetrievalResults.from_dict(json.loads(json.dumps(found.to_dict())))
    assert again.to_dict() == found.to_dict()
    assert again.neighbours.dtype == np.int64


def test_string_ids_stay_strings():
    found = results(["q ü", "q"], [["007", "7"], ["7", "a/b.jpg"]])
    again = RetrievalResults.from_dict(json.loads(json.dumps(found.to_dict())))
    assert again.to_dict() == found.to_dict()
    assert again.row(0)[0].tolist() == ["007", "7"]


def test_padding_is_ignored_and_left_out():
    found = results(neighbours=[[3, 3], [5, 6]], scores=[[0.5, np.nan], [1, 0]], counts=[1, 2])
    assert found.row(0)[0].tolist() == [3]
    assert [row["id"] for row in found.to_rows()] == [3, 5, 6]
    again = RetrievalResults.from_dict(found.to_dict())
    assert again.to_dict() == found.to_dict()


def test_take_drops_what_was_not_found():
    ids = np.array(["a", "b", "c"])
    found = take(
        [10, 11, 12],
        ids,
        np.array([[2, -1, 0], [-1, -1, -1], [1, -1, -1]]),
        np.array([[0.9, -9, 0.8], [-9, -9, -9], [0.1, -9, -9]]),
    )
    assert found.neighbours.shape == (3, 2)
    assert [found.row(n)[0].tolist() for n in range(3)] == [["c", "a"], [], ["b"]]
    assert found.row(0)[1].tolist() == pytest.approx([0.9, 0.8])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": [1]}, r"\(Q,\) and \(Q, K\)"),
        ({"scores": [[1.0], [1.0]]}, "scores"),
        ({"scores": [[0.1, 0.2], [1, 0]]}, "descending"),
        ({"scores": [[0.1, np.nan], [1, 0]]}, "NaN"),
        ({"neighbours": [[3, 3], [4, 5]]}, "twice"),
        ({"neighbours": [[3, 3], [4, 5]], "counts": [2, 1]}, "twice"),
        ({"neighbours": [[3.0, 4.0], [4.0, 5.0]]}, "neighbour ids are float64"),
        ({"counts": [3, 0]}, "counts"),
    ],
)
def test_invalid_results_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        results(**change)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"queries": [], "neighbours": []}, "lack scores"),
        ({"queries": [1], "neighbours": [[1, 2]], "scores": [[1.0]]}, "unequal"),
    ],
)
def test_incomplete_json_is_refused(data, message):
    with pytest.raises(UserError, match=message):
        RetrievalResults.from_dict(data)
