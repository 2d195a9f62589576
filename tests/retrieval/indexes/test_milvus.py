"""Milvus beyond what all indexes are tested for: a server by its address, files, and what fails.

The server is Milvus Lite's own behind a TCP port of 127.0.0.1: a real one for all that is asked of
it here, but for tokens, which a server of ours checks before it passes calls on.
"""

import base64
import builtins
import gc
import json
import logging.config
import os
import socket
import subprocess
import sys
import tempfile
import time
from concurrent import futures
from pathlib import Path

import numpy as np
import pytest

from tests.retrieval.indexes.test_indexes import SIMILARITIES, clusters, make
from trainer.config import UserError, components
from trainer.data.files import sha256
from trainer.retrieval.indexes import load_index
from trainer.retrieval.indexes.milvus_server import client_package

grpc = pytest.importorskip("grpc")
pytest.importorskip("milvus_lite", reason="extra milvus is not installed")
client_package()  # before anything else imports pymilvus

ITEMS, LABELS = clusters(groups=20, each=10)
NAMES = [f"köln/{number}.jpg" for number in range(len(ITEMS))]


def milvus(**parameters):
    if "uri" in parameters:
        parameters.setdefault("collection", "mildnet")
    return components("index")["milvus"].build(**{"index_type": "flat", **parameters})


@pytest.fixture(scope="module", autouse=True)
def only_new_objects():
    """Collecting garbage looks at what these tests have made, not at all that is imported."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of a server, and what it holds."""
    from milvus_lite.adapter.grpc.server import start_server_in_thread

    running, database, port = start_server_in_thread(str(tmp_path_factory.mktemp("server") / "db"))
    yield f"http://127.0.0.1:{port}", database
    running.stop(0)
    database.close()


@pytest.fixture
def uri(server):
    address, database = server
    yield address
    gc.collect()
    for name in database.list_collections():
        database.drop_collection(name)


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """The folder in which temporary files are made."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def same(index, items=ITEMS, names=NAMES, similarity="cosine"):
    """Whether an index finds what an exact one of these items finds."""
    truth = make("flat", similarity=similarity).build(items, names).search(ITEMS, 5)
    found = index.search(ITEMS, 5)
    np.testing.assert_allclose(found.scores, truth.scores, rtol=1e-4, atol=1e-4)
    return (found.neighbours == truth.neighbours).mean() > 0.99


def rewrite(folder, **changed):
    """Change what an index folder says of its rows, as one who knows how would."""
    address, meta = folder / "index.milvus", folder / "meta.json"
    address.write_text(json.dumps(json.loads(address.read_text()) | changed))
    told = json.loads(meta.read_text())
    told["files"]["index.milvus"] = sha256(address)
    meta.write_text(json.dumps(told))


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_the_same_by_address(similarity, uri, server, tmp_path):
    index = milvus(uri=uri, similarity=similarity, collection="shop").build(ITEMS, NAMES)
    assert same(index, similarity=similarity)
    index.save(tmp_path / "index")
    assert {path.name for path in (tmp_path / "index").iterdir()} == {
        "ids.json",
        "index.milvus",
        "meta.json",
    }
    loaded = load_index(tmp_path / "index", mapped=True)
    assert same(loaded, similarity=similarity)
    prepared = make("flat", similarity=similarity).build(ITEMS, NAMES)
    np.testing.assert_array_equal(loaded.vectors(NAMES[7:3:-1]), prepared.vectors(NAMES[7:3:-1]))
    among = LABELS == 3
    found = loaded.search(ITEMS[:4], 20, among=among)
    assert found.neighbours.shape == (4, 10)
    assert set(found.neighbours.ravel()) == {NAMES[row] for row in np.flatnonzero(among)}
    assert server[1].list_collections() == [loaded._name]


def test_a_new_build_is_seen_when_it_is_saved_and_the_old_one_goes_on(uri, server, tmp_path):
    database = server[1]
    target = tmp_path / "index"
    generations = [ITEMS, ITEMS[::-1], ITEMS[50:]]
    loaded = []
    for number, items in enumerate(generations):
        names = [f"{number}/{row}" for row in range(len(items))]
        index = milvus(uri=uri, collection="shop").build(items, names)
        if loaded:  # built, but not saved: nobody sees it
            assert database._aliases("default")["shop"] == loaded[-1]._name
            assert load_index(target).ids.tolist() == loaded[-1].ids.tolist()
        index.save(target)
        loaded.append(load_index(target))
        before = {"shop_before": loaded[-2]._name} if number else {}
        assert database._aliases("default") == {"shop": index._name, **before}
        for earlier, held in zip(loaded[-2:], generations[max(0, number - 1) :], strict=False):
            assert same(earlier, held, earlier.ids)
    assert database.list_collections() == sorted(one._name for one in loaded[1:])
    with pytest.raises(UserError, match="not the collection of this index any more: build") as told:
        loaded[0].search(ITEMS, 1)
    assert "\n" not in str(told.value)


def test_changes_by_address_are_seen_when_they_are_saved(uri, server, tmp_path):
    target = tmp_path / "index"
    milvus(uri=uri).build(ITEMS[:150], NAMES[:150]).save(target)
    writer, reader = load_index(target), load_index(target)
    writer.update(NAMES[:10], ITEMS[150:], NAMES[150:])
    assert same(writer, ITEMS[10:], NAMES[10:])
    assert same(reader, ITEMS[:150], NAMES[:150])
    assert same(load_index(target), ITEMS[:150], NAMES[:150])
    # A writer that never saved leaves rows behind, which nobody finds.
    load_index(target).add(ITEMS[150:] + np.float32(0.001), NAMES[150:])
    writer.save(target)
    changed = load_index(target)
    assert changed.ids.tolist() == NAMES[10:]
    assert same(changed, ITEMS[10:], NAMES[10:])
    assert same(reader, ITEMS[:150], NAMES[:150])  # till it is loaded again
    changed.remove(NAMES[10:20])
    assert same(changed, ITEMS[20:], NAMES[20:])
    assert len(server[1].list_collections()) == 1
    rows = server[1].get_collection(changed._name)
    assert rows.num_entities == 250  # with the 50 that were never saved
    changed.save(target)
    assert rows.num_entities == 240  # nobody needs those that were removed before the last time
    assert same(load_index(target), ITEMS[20:], NAMES[20:])


@pytest.mark.parametrize("removed", [15, 90])
def test_neighbours_are_found_behind_removed_rows(removed, uri, monkeypatch):
    """Few are left, or more went from where a query is than Milvus gives neighbours."""
    order = np.argsort(-ITEMS[:100] @ ITEMS[0])
    index = milvus(uri=uri).build(ITEMS[:100])
    index.remove(order[:removed])
    monkeypatch.setattr("trainer.retrieval.indexes.milvus.MOST", 8)
    left = np.sort(order[removed:])
    assert same(index, ITEMS[left], left)


def test_neighbours_are_found_behind_rows_of_others(uri, tmp_path, monkeypatch):
    milvus(uri=uri).build(ITEMS, NAMES).save(tmp_path / "index")
    index = load_index(tmp_path / "index")
    # Of a writer that does not save.
    load_index(tmp_path / "index").add(np.repeat(ITEMS[:1], 20, axis=0), list(map(str, range(20))))
    monkeypatch.setattr("trainer.retrieval.indexes.milvus.MOST", 8)
    assert same(index)


def test_what_was_never_saved_goes(uri, server):
    index = milvus(uri=uri).build(ITEMS)
    index.build(ITEMS[:50])
    assert server[1].list_collections() == [index._name]
    index.close()
    assert server[1].list_collections() == []
    index = milvus(uri=uri).build(ITEMS)
    del index
    gc.collect()
    assert server[1].list_collections() == []


def test_discarding_leaves_nothing_on_the_server(uri, server, tmp_path):
    milvus(uri=uri).build(ITEMS).save(tmp_path / "index")
    load_index(tmp_path / "index").discard()
    assert server[1].list_collections() == []
    assert server[1]._aliases("default") == {}
    with pytest.raises(UserError, match=r"has not the collection mildnet_\w+ .*: build"):
        load_index(tmp_path / "index")


def test_a_name_is_needed_by_address():
    with pytest.raises(ValueError, match="uri needs collection=NAME"):
        milvus(uri="http://127.0.0.1:19530", collection="")


@pytest.fixture
def precious(uri, server):
    """A collection of somebody else on the server."""
    from milvus_lite import CollectionSchema, DataType, FieldSchema

    fields = [
        FieldSchema(name="id", dtype=DataType.INT64, is_primary=True),
        FieldSchema(name="vec", dtype=DataType.FLOAT_VECTOR, dim=4),
    ]
    server[1].create_collection("precious", CollectionSchema(fields=fields))
    return "precious"


def test_a_collection_of_somebody_else_is_left_alone(uri, server, precious):
    with pytest.raises(UserError, match="a collection 'precious' of its own: choose another name"):
        milvus(uri=uri, collection=precious).build(ITEMS)
    assert server[1].list_collections() == [precious]


@pytest.mark.parametrize("alias", ["shop", "shop_before"])
def test_an_alias_of_somebody_else_is_left_alone(alias, uri, server, precious, tmp_path):
    names = server[1].list_collections
    index = milvus(uri=uri, collection="shop").build(ITEMS)
    server[1].create_alias(precious, alias)
    message = rf"an alias '{alias}' of another collection, 'precious': choose another name .*"
    with pytest.raises(UserError, match=message):
        index.save(tmp_path / "index")
    assert not (tmp_path / "index").exists()
    with pytest.raises(UserError, match=message):
        milvus(uri=uri, collection="shop").build(ITEMS)
    assert server[1]._aliases("default") == {alias: precious}
    assert set(names()) == {precious, index._name}
    index.discard()
    assert server[1]._aliases("default") == {alias: precious}
    assert names() == [precious]


def test_a_file_that_names_a_collection_of_somebody_else_is_refused(uri, precious, tmp_path):
    milvus(uri=uri).build(ITEMS).save(tmp_path / "index")
    rewrite(tmp_path / "index", collection=precious)
    with pytest.raises(UserError, match="precious is not a collection of this index"):
        load_index(tmp_path / "index")


def test_a_failed_change_or_build_leaves_the_index_as_it_was(uri, server, monkeypatch):
    from trainer.retrieval.indexes.milvus_server import Server

    for parameters in ({}, {"uri": uri}):
        index = milvus(**parameters).build(ITEMS[:150], NAMES[:150])
        call = Server.call

        def refusing(self, method, *arguments, call=call, **options):
            if method in ("delete", "flush"):
                raise UserError("the disk is full")
            return call(self, method, *arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(Server, "call", refusing)
            with pytest.raises(UserError, match="full"):
                index.build(ITEMS[:20])
            if not parameters:  # by address nothing is deleted before the index is saved
                with pytest.raises(UserError, match="full"):
                    index.update(NAMES[:5], ITEMS[150:], NAMES[150:])
        assert same(index, ITEMS[:150], NAMES[:150])
        assert len(index) == 150
    assert len(server[1].list_collections()) == 1


def test_databases_and_other_names_of_the_server(uri, server, tmp_path):
    server[1].create_database("shops") if not server[1].has_database("shops") else None
    index = milvus(uri=uri, database="shops").build(ITEMS, NAMES)
    assert same(index)
    index.save(tmp_path / "index")
    assert server[1].list_collections("default") == []
    moved = load_index(tmp_path / "index", uri=uri.replace("127.0.0.1", "localhost"))
    assert same(moved)
    moved.discard()
    with pytest.raises(UserError, match="no such database: create it"):
        milvus(uri=uri, database="nowhere").build(ITEMS)


class Guard(grpc.ServerInterceptor):
    """Passes on what comes with the right token."""

    def __init__(self, token):
        self.expected = base64.b64encode(token.encode()).decode()

        def refuse(request, context):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "auth check failure, please check token")

        self.refusal = grpc.unary_unary_rpc_method_handler(refuse)

    def intercept_service(self, proceed, details):
        given = dict(details.invocation_metadata).get("authorization")
        return proceed(details) if given == self.expected else self.refusal


def test_a_token_is_sent_and_written_nowhere(server, tmp_path, monkeypatch):
    from milvus_lite.adapter.grpc.servicer import MilvusServicer
    from pymilvus.grpc_gen import milvus_pb2_grpc

    guarded = grpc.server(futures.ThreadPoolExecutor(4), interceptors=[Guard("root:Sesame77")])
    milvus_pb2_grpc.add_MilvusServiceServicer_to_server(MilvusServicer(server[1]), guarded)
    uri = f"http://127.0.0.1:{guarded.add_insecure_port('127.0.0.1:0')}"
    guarded.start()
    try:
        for token in ("root:wrong", ""):
            monkeypatch.setenv("MILVUS_TOKEN", token)
            start = time.monotonic()
            with pytest.raises(UserError, match=r"refuses the token: put .* into MILVUS_TOKEN"):
                milvus(uri=uri, timeout=5).build(ITEMS)
            assert time.monotonic() - start < 15
        monkeypatch.setenv("MILVUS_TOKEN", "root:Sesame77")
        index = milvus(uri=uri).build(ITEMS, NAMES)
        index.save(tmp_path / "index")
        assert same(load_index(tmp_path / "index"))
        for path in (tmp_path / "index").iterdir():
            assert b"Sesame77" not in path.read_bytes()
        index.discard()
    finally:
        guarded.stop(0)


@pytest.mark.parametrize("address", ["http://root:Sesame77@host:19530", "https://host?token=x"])
def test_a_secret_in_the_address_is_refused(address):
    with pytest.raises(ValueError, match=r"uri: .* written to disk: .* MILVUS_TOKEN") as told:
        milvus(uri=address)
    assert "Sesame77" not in str(told.value)


@pytest.mark.parametrize("silent", [False, True])
def test_a_server_that_does_not_answer_is_one_line_in_time(silent):
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        if silent:
            listening.listen()
        uri = f"http://127.0.0.1:{listening.getsockname()[1]}"
        start = time.monotonic()
        with pytest.raises(UserError, match=r"not answer within 0\.3 seconds: is it") as told:
            milvus(uri=uri, timeout=0.3).build(ITEMS)
        assert time.monotonic() - start < 10
        assert "\n" not in str(told.value)


def test_a_server_that_stops_between_searches_is_one_line(tmp_path):
    from milvus_lite.adapter.grpc.server import start_server_in_thread

    running, database, port = start_server_in_thread(str(tmp_path / "db"))
    index = milvus(uri=f"http://127.0.0.1:{port}", timeout=1).build(ITEMS)
    index.save(tmp_path / "index")
    running.stop(0).wait()
    database.close()
    start = time.monotonic()
    with pytest.raises(UserError, match="does not answer"):
        index.search(ITEMS, 3)
    with pytest.raises(UserError, match="does not answer"):
        load_index(tmp_path / "index")
    assert time.monotonic() - start < 20


def test_other_dimensions_on_the_server_are_found_on_loading(uri, server, tmp_path):
    index, other = (milvus(uri=uri).build(items) for items in (ITEMS, ITEMS[:, :8]))
    index.save(tmp_path / "index")
    mine = index._name
    index._server.call("drop_collection", mine)
    other._keep()
    other._server.call("rename_collection", other._name, mine)
    with pytest.raises(UserError, match="parts of different indexes: build it again"):
        load_index(tmp_path / "index")


def test_fewer_rows_on_the_server_are_found_on_loading(uri, tmp_path):
    index = milvus(uri=uri).build(ITEMS)
    index.save(tmp_path / "index")
    index._server.call("delete", index._name, ids=[3, 4])
    with pytest.raises(UserError, match="parts of different indexes: build it again"):
        load_index(tmp_path / "index")
    with pytest.raises(UserError, match="has lost items of this index"):
        index.vectors([3])


@pytest.mark.parametrize("kind", ["hnsw", "flat", "ivf_flat", "ivf_sq8"])
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_each_type_finds_nearly_all(kind, similarity, tmp_path):
    index = milvus(index_type=kind, similarity=similarity, m=9, nprobe=3).build(ITEMS, NAMES)
    truth = make("flat", similarity=similarity).build(ITEMS, NAMES).search(ITEMS, 5)
    found = index.search(ITEMS, 5)
    hits = [len(set(a) & set(b)) for a, b in zip(found.neighbours, truth.neighbours, strict=True)]
    assert np.mean(hits) / 5 > (0.8 if kind == "ivf_sq8" else 0.95)
    (held,) = index._server._held["database"].get_collection(index._name)._segment_cache.values()
    inner = getattr(held.index, "_index", None)  # the parameters have reached it
    if kind == "hnsw":
        assert inner.hnsw.nb_neighbors(1) == 9
    elif kind != "flat":
        assert inner.nlist == 5
    if kind == "hnsw":
        np.testing.assert_allclose(found.scores, truth.scores, rtol=1e-4, atol=1e-4)
    index.save(tmp_path / "index")
    assert any((tmp_path / "index").glob("milvus.*.idx"))
    loaded = load_index(tmp_path / "index", nprobe=2, ef_search=9)
    assert loaded.parameters["nprobe"] == 2
    assert loaded.search(ITEMS[:3], 1).neighbours.shape == (3, 1)
    with pytest.raises(UserError, match="only ef_search, nprobe, uri, timeout can be changed"):
        load_index(tmp_path / "index", m=8)


def test_more_neighbours_than_milvus_gives_is_one_line():
    index = milvus().build(np.random.default_rng(0).standard_normal((16_500, 2)))
    assert index.search(np.ones((1, 2)), 16_384).neighbours.shape == (1, 16_384)
    with pytest.raises(UserError, match="k=16400: Milvus finds at most 16,384 neighbours"):
        index.search(np.ones((1, 2)), 16_400)


def test_each_part_of_the_database_is_checked(tmp_path):
    milvus().build(ITEMS).save(tmp_path / "index")
    meta = json.loads((tmp_path / "index" / "meta.json").read_text())
    kept = [name for name in meta["files"] if name.startswith("milvus.")]
    assert len(kept) == 4  # vectors, their index, the manifest and the schema
    for name in kept:
        path = tmp_path / "index" / name
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(UserError, match=f"{name} is truncated or altered: build the index"):
            load_index(tmp_path / "index")
        path.write_bytes(data)
    rewrite(tmp_path / "index", files={"../../precious": kept[0]})
    with pytest.raises(UserError, match="not a file of Milvus Lite"):
        load_index(tmp_path / "index")


def test_searches_and_changes_leave_the_saved_files_alone(scratch, tmp_path):
    milvus().build(ITEMS[:150], NAMES[:150]).save(tmp_path / "index")
    before = {path: path.read_bytes() for path in (tmp_path / "index").iterdir()}
    one, other = load_index(tmp_path / "index"), load_index(tmp_path / "index")
    one.update(NAMES[:10], ITEMS[150:], NAMES[150:])
    one.save(tmp_path / "second")  # ends its database, with what that compacts
    assert same(one, ITEMS[10:], NAMES[10:])
    assert same(other, ITEMS[:150], NAMES[:150])
    assert {path: path.read_bytes() for path in (tmp_path / "index").iterdir()} == before
    assert same(load_index(tmp_path / "second"), ITEMS[10:], NAMES[10:])
    one.save(tmp_path / "index")  # beneath the other, which goes on
    assert same(other, ITEMS[:150], NAMES[:150])


def test_nothing_is_left_behind(scratch):
    import psutil

    def listening():
        return [one for one in psutil.Process().net_connections("tcp") if one.status == "LISTEN"]

    before = len(listening())
    index = milvus().build(ITEMS, NAMES)
    assert len(listening()) == before + 1
    assert {one.laddr.ip for one in listening()} <= {"127.0.0.1", "::ffff:127.0.0.1"}
    index.close()
    assert len(listening()) == before
    assert same(index)
    assert len(list(scratch.iterdir())) == 1
    del index
    gc.collect()
    assert list(scratch.iterdir()) == []
    assert len(listening()) == before


def test_threads_leave_the_configuration_of_logs_as_it_was(monkeypatch):
    begin = builtins.__import__

    def slow(name, *arguments, **options):
        if name == "milvus_lite":
            time.sleep(0.05)
        return begin(name, *arguments, **options)

    configure = logging.config.dictConfig
    monkeypatch.setattr(logging.config, "dictConfig", configure)  # as it was, whatever comes
    monkeypatch.setattr(builtins, "__import__", slow)
    with futures.ThreadPoolExecutor(2) as pool:
        for _ in range(2):
            pool.submit(client_package)
            time.sleep(0.02)
    assert logging.config.dictConfig is configure


def test_two_processes_search_one_folder_and_leave_nothing_but_handlers(scratch, tmp_path):
    milvus().build(ITEMS, NAMES).save(tmp_path / "index")
    mine = load_index(tmp_path / "index")
    program = (
        "import io, logging, sys, numpy as np\n"
        "class Closing(logging.StreamHandler):\n"
        "    def close(self):\n"
        "        self.stream.close()\n"
        "handler = Closing(io.StringIO())\n"
        "logging.getLogger().addHandler(handler)\n"
        "from trainer.retrieval.indexes import load_index\n"
        "index = load_index(sys.argv[1])\n"
        "print(index.search(np.load(sys.argv[2]), 1).neighbours[0, 0])\n"
        "print(handler.stream.closed)\n"
        "logging.getLogger().removeHandler(handler)\n"
    )
    np.save(tmp_path / "query.npy", ITEMS[7:8])
    temporary = tmp_path / "other"
    temporary.mkdir()
    told = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "index", tmp_path / "query.npy"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=Path(__file__).parents[3],
        env=os.environ | {"TMPDIR": str(temporary), "PYTHONIOENCODING": "utf-8"},
    )
    assert (told.stdout, told.stderr, told.returncode) == ("köln/7.jpg\nFalse\n", "", 0)
    assert list(temporary.iterdir()) == []
    assert same(mine)


def test_a_long_call_is_not_disturbed_by_pings(monkeypatch):
    # A server that is pinged during a call hangs up after two to four minutes, as it did when a
    # million items were indexed: too long to wait for here.
    seen = []
    real = grpc.insecure_channel
    monkeypatch.setattr(
        grpc,
        "insecure_channel",
        lambda *a, **o: (seen.append(dict(o["options"])), real(*a, **o))[1],
    )
    milvus().build(ITEMS, NAMES).close()
    assert min(options["grpc.keepalive_time_ms"] for options in seen) > 24 * 3600 * 1000
