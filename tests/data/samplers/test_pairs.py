import logging
from collections import Counter

import numpy as np
import pytest

from trainer.config import UserError
from trainer.data import ItemTable
from trainer.data.samplers.pairs import Pairs


def table(*items: str) -> ItemTable:
    """Items given by the domains of their images, a letter each: u for user, s for shop."""
    label = np.repeat(np.arange(len(items)), [len(images) for images in items])
    domain = np.array(list("".join(items)))
    order = np.random.default_rng(0).permutation(len(label))
    paths = [f"{i}.jpg" for i in order]
    return ItemTable.from_columns(paths, label[order], domain=domain[order])


def pairs(sampler, epochs: int = 1) -> np.ndarray:
    """All pairs (M, 2) of the first epochs."""
    steps = range(epochs * sampler.steps_per_epoch)
    return np.concatenate([sampler.batch(step).reshape(-1, 2) for step in steps])


DOMAINS = {"query_domain": "u", "positive_domain": "s"}


@pytest.mark.parametrize(
    ("items", "usable", "batch_size", "options"),
    [
        (("uuu", "uu", "ssss", "us"), (0, 1, 2, 3), 2, {}),
        (("uuu", "u", "ssss", "us"), (0, 2, 3), 3, {}),
        (("us", "uuss", "uuuuus", "usss", "uuss"), (0, 1, 2, 3, 4), 2, DOMAINS),
        (("us", "uuss", "uuu", "usss", "uuss"), (0, 1, 3, 4), 3, DOMAINS | {"intra_domain": 0.5}),
        (("us", "uus", "uu", "ss", "s", "uuus"), (0, 1, 3, 5), 3, {"positive_domain": "s"}),
        (("us", "uus", "uu", "ss", "s", "uuus"), (0, 1, 3, 5), 3, {"query_domain": "s"}),
        (("uuu", "us", "uuss"), (0, 2), 2, {"query_domain": "u", "positive_domain": "u"}),
    ],
)
def test_every_batch_has_one_pair_of_each_of_p_items(items, usable, batch_size, options):
    data = table(*items)
    sampler = Pairs(data, batch_size, seed=3, **options)
    assert sampler.rows_per_batch == 2 * batch_size
    for epoch in range(60):
        uses = Counter()
        for position in range(sampler.steps_per_epoch):
            batch = sampler.batch(epoch * sampler.steps_per_epoch + position)
            assert batch.shape == (2 * batch_size,)
            assert batch.dtype == np.int64
            query, positive = batch.reshape(-1, 2).T
            assert (query != positive).all()
            shown = data.label[query].tolist()
            assert shown == data.label[positive].tolist()
            assert len(set(shown)) == batch_size
            uses.update(shown)
            across = data.domain[query] != data.domain[positive]
            if options.get("intra_domain"):
                assert (data.domain[query[across]] == "u").all()
                continue
            for rows, key in ((query, "query_domain"), (positive, "positive_domain")):
                assert set(data.domain[rows]) <= set(options.get(key, "us"))
        times = [uses[code] for code in usable]
        assert max(times) - min(times) <= 2
        assert len(uses) <= len(usable)


def test_an_epoch_sees_as_many_images_as_there_are_of_items_with_a_pair():
    assert Pairs(table(*["uuuuu"] * 40), 10, 0).steps_per_epoch == 10
    assert Pairs(table("us", "us", "us"), 3, 0).steps_per_epoch == 1
    # Of 3 items with a pair 18 images; a hundred of one without are not counted.
    data = table("us" * 3, "us" * 3, "us" * 3, "u" * 100)
    assert Pairs(data, 3, 0, **DOMAINS).steps_per_epoch == 3


@pytest.mark.parametrize("options", [{}, DOMAINS])
def test_all_pairs_of_an_item_come_equally_often(options):
    data = table("uuuss", "uss", "us")
    found = pairs(Pairs(data, 3, seed=1, **options), 2500)
    assert len(found) == 3 * 2500
    for code, possible in ((0, 6 if options else 20), (1, 2 if options else 6)):
        counts = np.array(
            list(Counter(map(tuple, found[data.label[found[:, 0]] == code])).values())
        )
        assert len(counts) == possible
        excess = np.sum((counts - counts.mean()) ** 2) / counts.mean()
        assert excess < possible + 4.5 * np.sqrt(2 * possible), counts


def test_queries_of_an_item_are_dealt_before_any_comes_again():
    data = table("uuuusss", "uuuusss")
    found = pairs(Pairs(data, 2, 0, **DOMAINS))
    assert len(found) == 6
    assert len(set(found[:, 0].tolist())) == 6
    longer = pairs(Pairs(table("uuuussss", "uuuussss"), 2, 0, **DOMAINS))
    assert Counter(longer[:, 0].tolist()) == Counter(set(longer[:, 0].tolist()))


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_pairs_inside_a_domain_come_as_often_as_asked_where_the_item_allows_it(share):
    data = table("us", "uus", "uuss", "ussss")
    found = pairs(Pairs(data, 4, seed=2, intra_domain=share, **DOMAINS), 1500)
    kinds = ["".join(kind) for kind in data.domain[found]]
    for code, allowed in enumerate([(), ("uu",), ("uu", "ss"), ("ss",)]):
        counts = Counter(kind for kind, row in zip(kinds, found[:, 0], strict=True)
                         if data.label[row] == code)  # fmt: skip
        total = counts.total()
        inside = total - counts["us"]
        expected = share if allowed else 0.0
        assert abs(inside - expected * total) <= 4.5 * np.sqrt(total * expected * (1 - expected))
        assert set(counts) <= {"us", *allowed}
        if len(allowed) == 2 and share:
            assert abs(counts["uu"] - inside / 2) < 4.5 * np.sqrt(inside) / 2


def test_a_shop_image_that_is_the_only_one_is_no_query():
    data = table("us", "uus", "us", "s")
    found = pairs(Pairs(data, 3, 0, positive_domain="s"), 50)
    assert set(data.domain[found[:, 0]]) == {"u"}


def test_items_without_a_pair_are_left_out_and_named(caplog):
    data = table("u", "us", "uu", "uss")
    with caplog.at_level(logging.WARNING):
        sampler = Pairs(data, 2, 0, **DOMAINS)
    assert "2 of 4 items do not have an image of u and another of s" in caplog.text
    assert "'0', '2'" in caplog.text
    assert set(data.label[pairs(sampler)].ravel().tolist()) == {1, 3}
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        Pairs(data, 2, 0)
    assert "1 of 4 items do not have two images and are left out: '0'" in caplog.text


@pytest.mark.parametrize(
    ("items", "batch_size", "options", "message"),
    [
        (("uu", "us"), 1, {}, "batch_size=1 pairs: .*choose 2 or more"),
        (("uu", "us", "u"), 3, {}, "with two images; this split has 2, and 1 without: '2'"),
        (("uu", "us"), 2, DOMAINS, "an image of u and another of s; this split has 1, and 1 .*'0'"),
        (("uu", "us"), 2, {"query_domain": "x"}, "query_domain='x': no image .*domains: s, u"),
        ((), 2, {}, "this split has 0;"),
    ],
)
def test_what_cannot_work_is_said_in_one_line(items, batch_size, options, message):
    with pytest.raises(UserError, match=message) as error:
        Pairs(table(*items), batch_size, 0, **options)
    assert "\n" not in str(error.value)


def test_values_out_of_range_are_refused():
    data = table("us", "us")
    for options, message in (
        (DOMAINS | {"intra_domain": 1.5}, "intra_domain=1.5: a probability"),
        ({"intra_domain": 0.5}, "intra_domain=0.5: needs query_domain and positive_domain"),
        ({"intra_domain": 0.5, "query_domain": "u"}, "two different ones"),
        ({"intra_domain": 0.5, "query_domain": "u", "positive_domain": "u"}, "two different ones"),
        ({"category_share": -1.0}, "category_share=-1.0: a probability"),
    ):
        with pytest.raises(ValueError, match=message):
            Pairs(data, 2, 0, **options)
