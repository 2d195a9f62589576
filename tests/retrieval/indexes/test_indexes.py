"""Every registered index: same answers, ids, scores, folder and errors."""

import json
import shutil

import numpy as np
import pytest

from trainer.config import UserError, components
from trainer.retrieval.indexes import load_index

KINDS = sorted(components("index"))
SIMILARITIES = ["cosine", "dot", "euclidean"]


def make(kind, **parameters):
    if kind == "annoy":
        pytest.importorskip("annoy", reason="extra annoy is not installed")
    if kind == "milvus":
        pytest.importorskip("milvus_lite", reason="extra milvus is not installed")
    small = {
        "ivf_pq": {"bits": 4, "nlist": 4, "nprobe": 4, "m": 8},
        "milvus": {"index_type": "flat"},
    }
    return components("index")[kind].build(**{**small.get(kind, {}), **parameters})


def clusters(seed=0, groups=40, each=15, dim=16):
    """Rows in well separated groups, so that even a coarse index can tell them apart."""
    rng = np.random.default_rng(seed)
    centres = 4 * rng.standard_normal((groups, dim))
    rows = np.repeat(centres, each, axis=0) + 0.3 * rng.standard_normal((groups * each, dim))
    return rows.astype(np.float32), np.repeat(np.arange(groups), each)


def exact(items, queries, similarity):
    items, queries = items.astype(np.float64), queries.astype(np.float64)
    if similarity == "euclidean":
        return -np.square(queries[:, None] - items[None]).sum(-1)
    if similarity == "cosine":
        items = items / np.linalg.norm(items, axis=1, keepdims=True)
        queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    return queries @ items.T


def test_the_five_are_registered():
    assert {"flat", "hnsw", "ivf_pq", "annoy", "milvus"} <= set(KINDS)


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("kind", KINDS)
def test_finds_the_nearest_with_the_same_scores(kind, similarity):
    items, _ = clusters()
    queries = items[::7] + np.float32(0.01)
    index = make(kind, similarity=similarity).build(items, np.arange(len(items)) + 10**15)
    found = index.search(queries, 10)
    similarities = exact(items, queries, similarity)
    truth = np.argsort(-similarities, axis=1)[:, :10] + 10**15
    overlap = (
        np.mean([len(set(a) & set(b)) for a, b in zip(found.neighbours, truth, strict=True)]) / 10
    )
    assert overlap == 1 if kind == "flat" else overlap > {"ivf_pq": 0.5}.get(kind, 0.9)
    if kind != "ivf_pq":  # its scores are of the compressed items
        mine = np.take_along_axis(similarities, found.neighbours - 10**15, axis=1)
        np.testing.assert_allclose(found.scores, mine, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("ids", ["int64", "str"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_index_answers_as_the_saved_one(kind, ids, tmp_path):
    items, _ = clusters()
    names = np.arange(len(items)) + 2**62
    if ids == "str":
        names = np.array([f"köln/{name}.jpg" for name in names])
    index = make(kind).build(items, names)
    index.save(tmp_path / "index")
    loaded = load_index(tmp_path / "index")
    a, b = (i.search(items[:50], 5, query_ids=names[:50]) for i in (index, loaded))
    assert a.to_dict() == b.to_dict()
    assert loaded.ids.dtype.kind == names.dtype.kind
    assert (len(loaded), loaded.dim) == items.shape
    assert loaded.parameters == index.parameters
    if kind != "ivf_pq":
        np.testing.assert_array_equal(a.neighbours[:, 0], names[:50])


@pytest.mark.parametrize("kind", KINDS)
def test_asking_for_more_than_there_is(kind):
    items, _ = clusters(groups=2, each=10)
    found = make(kind).build(items).search(items[:3], 100)
    assert found.neighbours.shape[1] <= 20
    assert (found.counts >= 5).all()
    if kind == "flat":
        assert (found.counts == 20).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_callers_arrays_are_left_alone(kind):
    items, _ = clusters()
    before = items.copy()
    make(kind).build(items).search(items, 2)
    np.testing.assert_array_equal(items, before)


@pytest.mark.parametrize("kind", KINDS)
def test_saving_again_replaces_the_index(kind, tmp_path):
    items, _ = clusters()
    make(kind).build(items).save(tmp_path / "index")
    make(kind).build(items[:300]).save(tmp_path / "index")
    assert len(load_index(tmp_path / "index")) == 300
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", ["index", "ids", "meta"])
@pytest.mark.parametrize("damage", ["truncated", "altered", "missing", "foreign"])
def test_a_damaged_folder_is_one_clear_error(kind, part, damage, tmp_path):
    items, _ = clusters()
    make(kind).build(items).save(tmp_path / "a")
    make(kind).build(items[:300]).save(tmp_path / "b")
    path = next(path for path in (tmp_path / "a").iterdir() if path.stem == part)
    data = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "altered":
        path.write_bytes(data.replace(b"1", b"2") if part == "meta" else data[:-1] + b"\0\1")
    elif damage == "missing":
        path.unlink()
    else:
        shutil.copy(tmp_path / "b" / path.name, path)
    with pytest.raises(UserError, match=r"build") as caught:
        load_index(tmp_path / "a")
    assert "\n" not in str(caught.value)


def test_a_checksum_alone_does_not_make_an_index(tmp_path):
    # Everything is consistent but the file is no FAISS index, and the ids are a pickle.
    import hashlib

    items, _ = clusters()
    for name, data in (("index.faiss", b"nonsense"), ("ids.npy", None)):
        folder = tmp_path / name
        make("flat").build(items).save(folder)
        if data is None:
            np.save(folder / name, np.array([{}], object), allow_pickle=True)
        else:
            (folder / name).write_bytes(data)
        meta = json.loads((folder / "meta.json").read_text())
        meta["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        (folder / "meta.json").write_text(json.dumps(meta))
        with pytest.raises(UserError, match="not a complete index"):
            load_index(folder)


def test_a_failed_save_keeps_what_was_there(tmp_path, monkeypatch):
    items, _ = clusters()
    make("flat").build(items).save(tmp_path / "index")
    other = make("flat").build(items[:5])

    def full(path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(other, "_write", full)
    with pytest.raises(UserError, match="No space left"):
        other.save(tmp_path / "index")
    assert len(load_index(tmp_path / "index")) == len(items)
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_a_folder_of_other_things_is_not_replaced(tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(UserError, match="something else"):
        make("flat").build(np.eye(3)).save(tmp_path)
    assert (tmp_path / "precious.txt").read_text() == "mine"


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_use_is_one_clear_error(kind, tmp_path):
    items, _ = clusters()
    index = make(kind)
    for call, message in [
        (lambda: index.search(items, 1), "empty"),
        (lambda: index.save(tmp_path / "x"), "empty"),
        (lambda: index.build(items, [1, 2]), "ids for 600"),
        (lambda: index.build(items, [0] * 600), "given twice"),
        (lambda: index.build(items, np.zeros(600)), "integers or all strings"),
        (lambda: index.build(items * np.float32(np.nan)), "NaN"),
        (lambda: index.build(items).search(items[:, :8], 1), "8 dimensions but the index has 16"),
        (lambda: index.search(items, 0), "k=0"),
        (lambda: index.search(items[:2], 3, query_ids=[1]), "queries"),
        (lambda: load_index(tmp_path / "none"), "no index"),
    ]:
        with pytest.raises(UserError, match=message):
            call()


def test_more_search_effort_can_be_asked_for_on_loading(tmp_path):
    items, _ = clusters()
    make("hnsw", ef_search=16).build(items).save(tmp_path / "index")
    assert load_index(tmp_path / "index", ef_search=99).parameters["ef_search"] == 99
    with pytest.raises(UserError, match="only ef_search can be changed"):
        load_index(tmp_path / "index", m=8)
    with pytest.raises(UserError, match="did you mean 'ef_search'"):
        load_index(tmp_path / "index", ef_serch=8)


def test_ivf_pq_says_how_many_vectors_it_needs():
    items, _ = clusters()
    index = components("index")["ivf_pq"].build()
    with pytest.raises(UserError, match="at least 256 vectors to train on, there are 200"):
        index.build(items[:200])
    with pytest.raises(UserError, match="at least 500 vectors"):
        make("ivf_pq", nlist=500, training_size=300).build(items)
    with pytest.raises(UserError, match=r"m=7 does not divide the 16 dimensions; .* 8"):
        make("ivf_pq", m=7).build(items)


def test_ivf_pq_trains_on_a_sample_and_chooses_its_sizes():
    items, labels = clusters(groups=60, each=50)
    index = components("index")["ivf_pq"].build(training_size=2000).build(items)
    found = index.search(items[::11], 5)
    assert (labels[found.neighbours[:, 1]] == labels[::11]).mean() > 0.95


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        ("hnsw", {"m": 1}),
        ("hnsw", {"ef_search": 0}),
        ("ivf_pq", {"bits": 3}),
        ("ivf_pq", {"nlist": 0}),
        ("ivf_pq", {"nprobe": 0}),
        ("annoy", {"trees": 0}),
        ("milvus", {"m": 1}),
        ("milvus", {"ef_search": 0}),
        ("milvus", {"nlist": 0}),
        ("milvus", {"timeout": 0}),
        ("milvus", {"collection": "my shop"}),
        ("milvus", {"uri": "shop.db"}),
        ("milvus", {"uri": "http://host:x"}),
    ],
)
def test_parameters_out_of_range_are_named(kind, parameters):
    with pytest.raises(ValueError, match=next(iter(parameters))):
        components("index")[kind].build(**parameters)


def test_gpu_on_needs_one(monkeypatch):
    faiss = pytest.importorskip("faiss")
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    with pytest.raises(UserError, match="sees no GPU"):
        make("flat", gpu="on").build(np.eye(3))


@pytest.mark.parametrize(
    ("kind", "module", "extra"),
    [("annoy", "annoy", "annoy"), ("flat", "faiss", "cpu"), ("milvus", "pymilvus", "milvus")],
)
def test_a_missing_package_names_the_extra(kind, module, extra, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"mildnet\[{extra}\]"):
        components("index")[kind].build().build(np.eye(3))
