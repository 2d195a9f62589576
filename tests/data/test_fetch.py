import io
import pickle
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from urllib.parse import urlencode

import numpy as np
import pytest
from PIL import Image

from tests.data.http_server import MisbehavingServer, bomb, picture, self_signed
from trainer.data.fetch import FORMATS, REASONS, Entry, Failure, Fetched, Fetcher, FetchOptions
from trainer.data.fetch.pictures import check
from trainer.data.fetch.results import DETAIL, Fault, failure
from trainer.data.fetch.transport import is_allowed

HERE = ("127.0.0.0/8", "::1/128")


@pytest.fixture(scope="module")
def server():
    with MisbehavingServer() as server:
        yield server


def options(**values):
    """Options with which nothing takes long."""
    quick = {"timeout": 0.3, "deadline": 5.0, "attempts": 3, "back_off": 0.01}
    return FetchOptions(**{**quick, "allow_networks": HERE, **values})


def fetch(url, **values):
    with Fetcher(options(**values)) as fetcher:
        return fetcher.fetch(url)


@pytest.mark.parametrize("kind", ["jpeg", "png", "gif", "webp", "bmp"])
def test_a_picture_comes_byte_by_byte_with_its_kind_and_size(server, kind):
    url = server.url(f"/{kind}/3")
    found = fetch(url)
    assert found == Fetched(url, url, picture(kind, 3), kind.upper(), 48, 32, attempts=1)
    assert found.format in FORMATS
    assert len(found.sha256) == 64
    assert found.suffix == {"jpeg": ".jpg"}.get(kind, f".{kind}")


def test_the_content_says_what_it_is_not_the_header(server):
    assert fetch(server.url("/jpeg_as_html/3")).format == "JPEG"
    assert fetch(server.url("/gzip/3")).content == picture("jpeg", 3)


#: Of each path, why it fails, and how often it is asked for at most three attempts.
FAILURES = [
    ("/status/404", "not_found", 1),
    ("/status/410", "gone", 1),
    ("/status/401", "denied", 1),
    ("/status/403", "denied", 1),
    ("/status/451", "denied", 1),
    ("/status/418", "status", 1),
    ("/status/204", "status", 1),
    ("/status/408", "timeout", 3),
    ("/status/429", "busy", 3),
    ("/status/500", "server_error", 3),
    ("/status/503", "server_error", 3),
    ("/hang", "timeout", 3),
    ("/truncated/1", "truncated", 3),
    ("/cut/1", "truncated", 3),
    ("/broken_chunks/1", "truncated", 3),
    ("/short/1", "damaged", 1),
    ("/damaged/1", "damaged", 1),
    ("/reset", "connection", 3),
    ("/garbage", "connection", 3),
    ("/html", "wrong_type", 1),
    ("/html_as_jpeg", "wrong_type", 1),
    ("/empty", "wrong_type", 1),
    ("/large/1000000", "too_large", 1),
    ("/endless", "too_large", 1),
    ("/bomb", "too_many_pixels", 1),
    ("/tiny", "too_small", 1),
    ("/false_gzip/503", "server_error", 3),
    ("/false_gzip/404", "not_found", 1),
    ("/short_error/503", "server_error", 3),
    ("/redirect/6/1", "redirect", 1),
    ("/loop", "redirect", 1),
    ("/nowhere", "redirect", 1),
    ("/to?ftp://127.0.0.1/x", "redirect", 1),
    ("/to?http%3A//%5B::1", "redirect", 1),
    ("/to?/html", "wrong_type", 1),
    ("/to?/status/404", "not_found", 1),
]


@pytest.mark.parametrize(("path", "reason", "attempts"), FAILURES)
def test_a_failure_has_a_reason_and_only_what_may_pass_is_asked_for_again(
    server, path, reason, attempts
):
    url = server.url(f"{path}{'&' if '?' in path else '?'}failure")
    if path.startswith("/to?"):
        url = server.url(path)
    found = fetch(url, most_bytes=300_000, timeout=0.1)
    assert isinstance(found, Failure)
    assert (found.url, found.reason, found.attempts) == (url, reason, attempts), found.detail
    assert found.retry is REASONS[reason] is (attempts == 3)
    assert found.detail
    assert len(found.detail) <= DETAIL
    assert found.detail.isprintable()
    assert server.requests[url.removeprefix(server.url(""))] == attempts


def test_every_reason_is_met_by_a_test():
    elsewhere = {"deadline", "bad_url", "refused", "unknown_host", "certificate"}
    assert {reason for _, reason, _ in FAILURES} | elsewhere == set(REASONS)


@pytest.mark.parametrize("path", ["/flaky/2/5", "/flaky/2/5?status=429", "/resets/2/5"])
def test_what_has_passed_at_the_third_attempt_is_fetched(server, path):
    found = fetch(server.url(path))
    assert (found.content, found.attempts) == (picture("jpeg", 5), 3)


def test_pauses_between_attempts_are_doubled_and_drawn_up_to_a_limit(server):
    before = len(server.times)
    fetch(server.url("/status/502"), attempts=5, back_off=0.1, longest_wait=0.25)
    pauses = [later - sooner for sooner, later in pairwise(server.times[before:])]
    assert len(pauses) == 4
    for pause, (low, high) in zip(
        pauses, [(0.05, 0.15), (0.1, 0.25), (0.2, 0.25), (0.25, 0.25)], strict=True
    ):
        assert low <= pause < high + 0.25


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_asks_for_time_gets_it(server, status):
    begun = time.monotonic()
    found = fetch(server.url(f"/flaky/1/5?status={status}&after=1"), longest_wait=2)
    assert found.attempts == 2
    assert 1 <= time.monotonic() - begun < 2


@pytest.mark.parametrize(
    "after", ["9" * 5000, "Fri, 31 Dec 99999999999 23:59:59 GMT", "soon", "-5"]
)
def test_what_a_server_asks_for_in_nonsense_is_no_time(server, after):
    url = server.url(f"/flaky/1/5?{urlencode({'status': 429, 'after': after})}")
    assert fetch(url, attempts=1) == Failure(url, "busy", "status 429", 1, True)


@pytest.mark.parametrize("digits", [6, 12, 300])
def test_no_host_is_left_in_peace_for_longer_than_a_day(server, digits, monkeypatch):
    # urllib3 2.6.0 has no limit of its own.
    monkeypatch.setattr("urllib3.Retry.get_retry_after", lambda *arguments: 10**digits)
    # Of another number of redirects each, so that no other test shares its hosts.
    found = fetch(server.url("/status/429?long"), redirects=100 + digits)
    assert (found.reason, found.attempts, found.wait) == ("busy", 1, 86_400)


def test_errors_that_nobody_foresaw_are_failures_and_mistakes_are_not(server, monkeypatch):
    def fail(*arguments, **values):
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(Fetcher, "_status", fail)
    found = fetch(server.url("/status/500?unforeseen"))
    assert (found.reason, found.attempts) == ("connection", 3)
    assert found.detail == "broken: ZeroDivisionError"
    monkeypatch.setattr(Fetcher, "_host", fail)
    with pytest.raises(ZeroDivisionError):
        fetch(server.url("/jpeg/1"))


@pytest.mark.parametrize("limits", [{"longest_wait": 1}, {"deadline": 1}])
def test_nobody_waits_for_longer_than_the_limits_allow(server, limits):
    begun = time.monotonic()
    found = fetch(server.url("/busy/2"), **limits)
    assert (found.reason, found.attempts, found.wait) == ("busy", 1, 2)
    assert time.monotonic() - begun < 0.9


def test_a_server_that_asks_for_more_time_than_one_waits_is_left_alone_by_all(server):
    # Of another number of redirects, so that no other test shares its hosts.
    with Fetcher(options(redirects=9)) as fetcher:
        found = fetcher.fetch(server.url("/busy/3600"))
        assert (found.reason, found.attempts, found.wait) == ("busy", 1, 3600)
    # Another Fetcher of the process with these options knows of it.
    with Fetcher(options(redirects=9)) as fetcher:
        other = fetcher.fetch(server.url("/jpeg/11"))
        assert (other.reason, other.attempts, other.retry) == ("busy", 0, True)
        assert 3590 < other.wait <= 3600
        assert fetcher.fetch(server.url("/jpeg/12", "localhost")).format == "JPEG"
    assert server.requests["/jpeg/11"] == 0


def test_a_host_that_fails_many_times_in_a_row_gets_a_rest(server):
    rest = {"attempts": 1, "host_failures": 4, "host_rest": 100.0}
    with Fetcher(options(**rest)) as fetcher:
        paths = ["/status/500", "/reset", "/status/500", "/status/404", *["/status/500"] * 4]
        found = [fetcher.fetch(server.url(f"{path}?rest")) for path in paths]
        # An answer in between, even that there is nothing, shows that the host is in order.
        assert [one.attempts for one in found] == [1] * 8
        last = fetcher.fetch(server.url("/jpeg/13"))
    assert (last.reason, last.attempts) == ("busy", 0)
    assert 99 < last.wait <= 100


@pytest.mark.parametrize("path", ["/drip", "/drip_header", "/stall/0.6"])
def test_a_server_that_drips_is_not_waited_for(server, path):
    begun = time.monotonic()
    found = fetch(server.url(path), deadline=0.8, timeout=3)
    assert (found.reason, found.attempts, found.retry) == ("deadline", 1, True)
    assert 0.75 < time.monotonic() - begun < 1.3


def test_the_deadline_holds_for_all_attempts_and_pauses_together(server):
    begun = time.monotonic()
    found = fetch(server.url("/hang?all"), deadline=0.5, timeout=0.2, attempts=100)
    assert 2 <= found.attempts <= 3
    # A pause that would not end before the deadline is not begun.
    assert fetch(server.url("/status/500?long"), deadline=1, back_off=10).attempts == 1
    assert time.monotonic() - begun < 2


def at_once(server, paths, threads=8, **values):
    """Return the seconds that it takes several threads, each with a Fetcher of its own."""

    def one(path):
        with Fetcher(options(**values)) as fetcher:
            return fetcher.fetch(server.url(path))

    begun = time.monotonic()
    # One that is open throughout keeps the connections of the others, once they are closed.
    with Fetcher(options(**values)), ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(one, paths))
    assert all(isinstance(picture, Fetched) for picture in found), found
    return time.monotonic() - begun


def test_no_more_connections_to_a_host_at_once_than_allowed():
    paths = [f"/slow/0.05/{number}" for number in range(12)]
    with MisbehavingServer() as server:
        seconds = at_once(server, paths, per_host=3)
        assert server.most_connections == 3
        assert seconds >= 4 * 0.05
    with MisbehavingServer() as server:
        at_once(server, paths, per_host=8)
        assert server.most_connections > 3


def test_no_more_requests_to_a_host_a_second_than_allowed():
    with MisbehavingServer() as server:
        at_once(server, [f"/jpeg/{number}" for number in range(7)], rate=20.0)
        assert server.times[-1] - server.times[0] > 0.2


def test_connections_are_used_again_also_after_an_answer_without_picture():
    with MisbehavingServer() as server, Fetcher(options()) as fetcher:
        for path in ["/jpeg/1", "/status/404", "/redirect/1/2", "/html", "/png/3"]:
            fetcher.fetch(server.url(path))
        assert server.connections == 1


def test_requests_name_who_asks(server):
    fetch(server.url("/jpeg/1"), user_agent="pictures for a study, mail@shop.example")
    assert "pictures for a study, mail@shop.example" in server.user_agents


def test_redirects_are_followed_to_where_one_may_go(server):
    found = fetch(server.url("/redirect/3/4"))
    assert (found.url, found.final_url) == (server.url("/redirect/3/4"), server.url("/jpeg/4"))
    assert fetch(server.url("/false_gzip/302")).final_url == server.url("/jpeg/4")
    elsewhere = server.url("/jpeg/4", "localhost")
    there = server.url(f"/to?{elsewhere}")
    assert fetch(there).final_url == elsewhere
    found = fetch(there, allow_hosts=("127.0.0.1", "*.shop.example"))
    assert (found.reason, found.attempts) == ("redirect", 1)
    assert "localhost is not allowed" in found.detail
    assert fetch(there, allow_hosts=("127.0.0.1", "local*")).final_url == elsewhere


@pytest.mark.parametrize(
    "target",
    ["http://127.0.0.1:{port}/jpeg/9", "http://localhost:{port}/jpeg/9", "http://10.0.0.1/x",
     "http://169.254.169.254/latest/meta-data", "http://2130706433:{port}/jpeg/9",
     "http://[::ffff:127.0.0.1]:{port}/jpeg/9", "file:///etc/passwd"],
)  # fmt: skip
def test_a_redirect_never_leads_into_the_network_of_the_worker(server, target, monkeypatch):
    # The server stands for one that is public, under another name than that of its address.
    with MisbehavingServer() as outside:
        name = target.format(port=outside.port)
        asked = []
        real = socket.getaddrinfo

        def resolve(host, *arguments, **values):
            asked.append(host)
            return real("127.0.0.1" if host == "public.example" else host, *arguments, **values)

        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        monkeypatch.setattr(
            "trainer.data.fetch.transport.is_allowed",
            lambda address, networks: asked[-1] == "public.example" or is_allowed(address, ()),
        )
        found = fetch(server.url(f"/to?{name}", "public.example"), attempts=1)
        assert found.reason == "redirect", found
        assert not outside.requests


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.1.2.3", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("ff0e::1", False),
        ("::ffff:10.0.0.1", False),
        ("2002:7f00:1::", False),
        ("192.0.2.7", True),
        ("::ffff:192.0.2.7", True),
        ("192.0.3.7", True),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("64:ff9b::192.0.2.7", True),
        ("64:ff9b::5db8:d822", True),
        ("::ffff:0:127.0.0.1", False),
        ("::ffff:0:10.0.0.1", False),
        ("::ffff:0:93.184.216.34", True),
        ("::127.0.0.1", False),
        ("::169.254.169.254", False),
        ("::192.168.1.1", False),
        ("::93.184.216.34", True),
        ("64:ff9b:1::93.184.216.34", False),
        ("fec0::1", False),
        ("4000::1", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("192.0.0.8", False),
        ("192.0.0.9", False),
        ("2001::1", False),
    ],
)
def test_addresses_that_are_not_public_are_refused_unless_allowed(address, allowed):
    import ipaddress

    assert is_allowed(address, [ipaddress.ip_network("192.0.2.0/24")]) is allowed


def test_without_leave_this_machine_is_not_asked(server):
    before = sum(server.requests.values())
    for host in ["127.0.0.1", "localhost", "2130706433", "[::ffff:127.0.0.1]"]:
        found = fetch(server.url("/jpeg/1", host), allow_networks=())
        assert (found.reason, found.retry) == ("refused", False)
    assert sum(server.requests.values()) == before


@pytest.mark.parametrize(
    "url",
    ["", "pictures/1.jpg", "ftp://shop.example/1.jpg", "file:///etc/passwd", "http://", "http:///x",
     "http://shop.example:99999/", "http://a b/", "http://shop.example/\r\nHost: x", "http://[::1",
     "http://" + "a" * 80 + ".example/", "http://\udc80.example/"],
)  # fmt: skip
def test_what_is_no_url_of_a_picture_is_a_failure(url):
    found = fetch(url)
    assert (found.reason, found.retry) == ("bad_url", False)


def test_names_that_do_not_exist_are_final_and_resolvers_out_of_order_are_not(monkeypatch):
    def resolve(host, *arguments, **options):
        raise socket.gaierror(failing, "as the resolver says")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    failing = socket.EAI_NONAME
    found = fetch("http://shop.example/1.jpg")
    assert (found.reason, found.attempts) == ("unknown_host", 1)
    failing = socket.EAI_AGAIN
    found = fetch("http://shop.example/1.jpg")
    assert (found.reason, found.attempts) == ("connection", 3)


def test_no_password_is_sent_or_told(server):
    url = server.url("/jpeg/1").replace("http://", "http://me:secret@")
    found = fetch(url)
    assert (found.reason, found.url) == ("bad_url", server.url("/jpeg/1", "***@127.0.0.1"))
    assert "secret" not in repr(found)
    found = fetch(server.url(f"/to?{url}"))
    assert found.reason == "redirect"
    assert "secret" not in found.detail
    long = failure("http://a/", "status", "x" * 500 + "\n\x1b[2J", attempts=1)
    assert len(long.detail) == DETAIL


def test_a_server_has_to_prove_its_name(tmp_path, monkeypatch):
    certificate = self_signed(tmp_path)
    with MisbehavingServer(certificate) as server:
        found = fetch(server.url("/jpeg/1"))
        assert (found.reason, found.attempts, found.retry) == ("certificate", 1, False)
        assert not server.requests
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        # What is trusted is read when the first Fetcher with these options is made.
        assert fetch(server.url("/jpeg/1"), redirects=2).format == "JPEG"
        begun = time.monotonic()
        assert fetch(server.url("/drip"), redirects=2, deadline=0.4).reason == "deadline"
        assert time.monotonic() - begun < 2


def test_a_port_at_which_nobody_is_may_be_served_later():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        found = fetch(f"http://127.0.0.1:{free.getsockname()[1]}/")
    assert (found.reason, found.attempts, found.retry) == ("connection", 3, True)


def test_mistakes_of_the_caller_are_raised(server):
    with Fetcher(options()) as fetcher:
        with pytest.raises(TypeError, match="string"):
            fetcher.fetch(None)
        copy = pickle.loads(pickle.dumps(fetcher))  # noqa: S301 our own
    assert copy.options == fetcher.options
    assert copy.fetch(server.url("/jpeg/2")).format == "JPEG"
    copy.close()
    copy.close()
    with pytest.raises(RuntimeError, match="closed"):
        copy.fetch(server.url("/jpeg/2"))


def test_closing_wakes_those_that_wait(server):
    # Drawn from 1.5 to 4.5 s: a pause that would outlast the deadline is not begun.
    fetcher = Fetcher(options(back_off=3))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(fetcher.fetch, server.url("/status/500?wakes"))
        while not server.requests["/status/500?wakes"]:
            time.sleep(0.01)
        fetcher.close()
        with pytest.raises(RuntimeError, match="closed"):
            waiting.result(1)


@pytest.mark.parametrize(
    ("name", "value"),
    [("timeout", 0), ("deadline", -1), ("attempts", 0), ("back_off", -1), ("longest_wait", -1),
     ("per_host", 0), ("rate", 0), ("host_failures", 0), ("host_rest", -1), ("redirects", -1),
     ("most_bytes", 0), ("most_pixels", 0), ("most_pixels", 10**9), ("least_side", 0),
     ("allow_hosts", "a.example"), ("allow_hosts", ["a.example"]), ("allow_networks", ("x",)),
     ("timeout", float("nan")), ("user_agent", "a\nb")],
)  # fmt: skip
def test_options_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=name if value != ("x",) else "x"):
        FetchOptions(**{name: value})


def test_a_later_run_asks_again_for_what_may_pass_when_it_is_due():
    may_pass = failure("http://a/1", "timeout", "no byte in time", attempts=4)
    first = Entry.after(may_pass, now=1000.0)
    assert (first.url, first.reason, first.detail) == ("http://a/1", "timeout", "no byte in time")
    assert (first.attempts, first.runs, first.last_try, first.next_try) == (4, 1, 1000, 1600)
    assert [first.due(now) for now in (1599.0, 1600.0)] == [False, True]
    second = Entry.after(may_pass, first, now=2000.0)
    assert (second.attempts, second.runs, second.next_try) == (8, 2, 2000 + 1200)
    assert Entry.after(may_pass, second, now=0.0, longest=700.0).next_try == 700
    assert Entry.after(may_pass, second, now=0.0, most_runs=3).next_try is None


def test_no_run_asks_again_for_what_is_final():
    final = failure("http://a/1", "gone", "status 410", attempts=1)
    entry = Entry.after(final, now=1000.0)
    assert entry.next_try is None
    assert not entry.due(1e12)


def test_a_host_that_wants_peace_is_given_it_by_later_runs_at_no_cost_to_its_urls():
    unasked = failure("http://a/1", "busy", "left in peace", attempts=0, wait=7200.0)
    entry = Entry.after(unasked, now=1000.0)
    assert (entry.runs, entry.next_try) == (0, 8200)
    assert Entry.after(unasked, entry, now=9000.0, most_runs=1).next_try == 16_200
    assert time.time() < Entry.after(unasked).next_try
    assert not Entry.after(unasked).due()


def looked_at(content, **values):
    return check(content, "image/png", **{"most_pixels": 10**7, "least_side": 16, **values})


def noise(kind, **values):
    stream = io.BytesIO()
    pixels = np.random.default_rng(1).integers(0, 255, (200, 100, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, kind, **values)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP"])
def test_a_picture_is_damaged_wherever_it_is_cut(kind):
    whole = noise(kind)
    assert looked_at(whole) == (kind, 100, 200)
    # The last two bytes of a GIF only say that nothing follows.
    for size in (len(whole) // 5, len(whole) // 2, len(whole) - 50, len(whole) - 3):
        with pytest.raises(Fault) as raised:
            looked_at(whole[:size])
        assert raised.value.reason == "damaged"


def test_a_png_picture_with_one_wrong_byte_is_damaged():
    whole = bytearray(noise("PNG"))
    whole[len(whole) // 2] ^= 1
    with pytest.raises(Fault) as raised:
        looked_at(bytes(whole))
    assert raised.value.reason == "damaged"


def test_pictures_of_phones_and_progressive_ones_are_jpeg():
    second = Image.new("RGB", (50, 50))
    several = io.BytesIO()
    Image.new("RGB", (60, 40)).save(several, "MPO", save_all=True, append_images=[second])
    assert Image.open(several).format == "MPO"
    assert looked_at(several.getvalue()) == ("JPEG", 60, 40)
    assert looked_at(noise("JPEG", progressive=True)) == ("JPEG", 100, 200)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (bomb(3000, 4000), "too_many_pixels"),
        (bomb(30_000, 30_000), "too_many_pixels"),
        (noise("TIFF"), "wrong_type"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "wrong_type"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "wrong_type"),
        (picture("png", 0, 15, 100), "too_small"),
    ],
)
def test_other_kinds_bombs_and_placeholders_are_refused_before_they_are_decoded(content, reason):
    with pytest.raises(Fault) as raised:
        looked_at(content)
    assert raised.value.reason == reason
