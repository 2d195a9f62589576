"""The options object: names, values, the order in which things are done, and what is refused."""

import numpy as np
import pytest

from tests.retrieval.rerank.test_neighbours import units
from trainer.config import UserError
from trainer.retrieval.rerank import expansion
from trainer.retrieval.rerank.k_reciprocal import k_reciprocal
from trainer.retrieval.rerank.neighbours import nearest
from trainer.retrieval.rerank.options import METHODS, PostProcessing, method, rank, read_changes
from trainer.retrieval.rerank.standardise import standardise


def test_the_challenge_is_its_steps_by_hand():
    queries, gallery = 3 * units(20, 12), 0.1 * units(60, 12, seed=1)
    asking, items = standardise(
        *(t / np.linalg.norm(t, axis=1)[:, None] for t in (queries, gallery))
    )
    asking, items = expansion.augment_queries(asking, items), expansion.augment_gallery(items)
    expected = nearest(asking, items, 30)
    found = rank(queries, gallery, 30, METHODS["challenge"])
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)
    post = method("challenge_k_reciprocal", {"k1": "7", "k2": "2", "weight": "0.5"})
    expected = k_reciprocal(asking, items, 30, k1=7, k2=2, weight=0.5)
    found = rank(queries, gallery, 30, post)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)


def test_expansion_searches_the_augmented_gallery():
    queries, gallery = units(20, 12), units(60, 12, seed=1)
    post = PostProcessing(augment_gallery=3, expand=4, alpha=2)
    items = expansion.augment_gallery(gallery, 3)
    expected = nearest(expansion.expand_queries(queries, items, 4, 2.0), items, 60)
    np.testing.assert_array_equal(rank(queries, gallery, 60, post).rows, expected.rows)


@pytest.mark.parametrize("name", METHODS)
def test_lengths_do_not_matter_and_inputs_stay(name):
    queries, gallery = units(30, 8), units(70, 8, seed=1)
    lengths = np.random.default_rng(0).uniform(0.5, 2, 70).astype(np.float32)
    stretched = gallery * lengths[:, None]
    before = queries.copy(), stretched.copy()
    expected = rank(queries, gallery, 9, METHODS[name], block_bytes=1, threads=1)
    found = rank(4 * queries, stretched, 9, METHODS[name], own=None)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    np.testing.assert_array_equal(queries, before[0])
    np.testing.assert_array_equal(stretched, before[1])


@pytest.mark.parametrize("name", METHODS)
def test_queries_of_the_gallery_never_find_themselves(name):
    gallery = units(50, 8)
    found = rank(gallery[5:15], gallery, 1000, METHODS[name], own=np.arange(5, 15))
    assert found.rows.shape == (10, 49)
    for row, own in enumerate(range(5, 15)):
        assert sorted([*found.rows[row].tolist(), own]) == list(range(50))
    assert (np.diff(found.scores, axis=1) <= 0).all()


def test_values_come_as_text():
    post = method("alpha_expansion", read_changes(["expand = 50", "alpha=1.5", "standardise=true"]))
    assert post == PostProcessing(expand=50, alpha=1.5, standardise=True)
    assert method("none") == PostProcessing()


@pytest.mark.parametrize(
    ("name", "settings", "error"),
    [
        ("chalenge", [], "unknown post-processing 'chalenge'; did you mean 'challenge'"),
        ("none", ["k3=1"], "post-processing has no option 'k3'; did you mean"),
        ("none", ["k1=0"], "k1: 0 is too small; it must be 1 or more"),
        ("none", ["weight=2"], "weight: .*1 or less"),
        ("none", ["expand=many"], "expand: "),
        ("none", ["expand"], "--set expand: OPTION=VALUE is needed"),
    ],
)
def test_mistakes_are_named(name, settings, error):
    with pytest.raises(UserError, match=error):
        method(name, read_changes(settings))


def test_tables_that_cannot_be_ranked_are_refused():
    queries, gallery = units(3, 4), units(5, 4)
    with pytest.raises(ValueError, match="alpha: -1"):
        PostProcessing(alpha=-1)
    with pytest.raises(UserError, match="queries have 4 dimensions, the gallery has 3"):
        rank(queries, gallery[:, :3])
    with pytest.raises(UserError, match="gallery row 2 holds NaN"):
        rank(queries, np.where(np.arange(5)[:, None] == 2, np.nan, gallery))
    for own in (np.array([0, 1]), np.array([0, 1, 5]), np.array([-2, 0, 0])):
        with pytest.raises(UserError, match=r"a row of the gallery \(0..4\), or -1, for each of 3"):
            rank(queries, gallery, own=own)
