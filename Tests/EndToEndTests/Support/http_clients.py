"""Other projects' HTTP clients against the server whose URL is the argument: each gets every response completely and in time.
Prints a line for each and then "all well"; fails at the first that does not."""

import asyncio
import concurrent.futures
import http.client
import json
import re
import subprocess
import sys
import time
import urllib.parse

import aiohttp
import httpx

url = sys.argv[1]
place = urllib.parse.urlsplit(url)
PAYMENT = {"amount": 1, "currency": "GBP"}
JSON = {"Content-Type": "application/json"}
LIST = "/api/v1/payments?limit=100"


def run(*command, stdin=None, within=60):
    result = subprocess.run(command, input=stdin, capture_output=True, timeout=within)
    assert result.returncode == 0, (command, result.returncode, result.stdout[-2000:], result.stderr[-2000:])
    return result.stdout


def curl():
    def ask(*arguments, stdin=None):
        begin = time.monotonic()
        answer = run("curl", "-sS", "-m", "10", *arguments, stdin=stdin)
        assert time.monotonic() - begin < 5, arguments
        return answer

    assert ask(url + "/alive") == ask("-0", url + "/alive") == ask("--http1.0", "--keepalive", url + "/alive") == b"Healthy"
    # Several on one connection.
    assert ask(*[url + "/alive"] * 20) == b"Healthy" * 20
    assert ask("-0", *[url + "/alive"] * 5) == b"Healthy" * 5
    assert ask("--http2", *[url + "/alive"] * 3) == b"Healthy" * 3
    assert b"\r\nContent-Length: 7\r\n" in ask("-I", url + "/alive")
    assert b" 405 " in ask("-i", "-X", "OPTIONS", url + "/alive")
    assert b" 404 " in ask("-i", "-X", "OPTIONS", "--request-target", "*", url)
    create = ["-H", "Content-Type: application/json", url + "/api/payment/create"]
    body = json.dumps(PAYMENT).encode()
    expect = ["-H", "Expect: 100-continue", "--expect100-timeout", "60"]
    for arguments in [[], expect, ["-H", "Transfer-Encoding: chunked"], ["-0"], ["-H", "Connection: TE, close"],
                      expect + ["-H", "Transfer-Encoding: chunked"]]:
        assert b"paymentId" in ask(*arguments, "--data-binary", "@-", *create, stdin=body), arguments
    assert b" 413 " in ask("-i", "--data-binary", "@-", *create, stdin=b" " * 1_000_000)
    assert b" 413 " in ask("-i", *expect, "--data-binary", "@-", *create, stdin=b" " * 1_000_000)
    # The largest allowed body, sent slowly.
    large = b" " * (4_000 - len(body)) + body
    assert b"paymentId" in ask("--limit-rate", "2000", "--data-binary", "@-", *create, stdin=large)
    assert len(json.loads(ask("--limit-rate", "20k", url + LIST))["payments"]) == 100
    stream = subprocess.run(
        ["curl", "-sS0", "-N", "-m", "1", url + "/api/v1/events?from=0"], capture_output=True).stdout
    assert stream.startswith(b": from offset 0\n\nid: "), stream[:100]


def ab():
    for arguments in [["-n", "3"], ["-n", "200", "-c", "10"], ["-k", "-n", "500", "-c", "10"], ["-i", "-n", "20"],
                      ["-k", "-i", "-n", "20"]]:
        text = run("ab", "-q", *arguments, url + "/alive").decode()
        assert re.search(r"Failed requests: +0\n", text) and "Non-2xx" not in text, text
        if "-k" in arguments:
            assert re.search(r"Keep-Alive requests: +%s\n" % arguments[arguments.index("-n") + 1], text), text


def wrk():
    for path in ["/alive", LIST]:
        text = run("wrk", "-t1", "-c8", "-d1s", url + path).decode()
        assert "Socket errors" not in text and "Non-2xx" not in text and not re.search(r"^ +0 requests", text), text


def h2load():
    for pipelined in ["1", "8"]:
        text = run("h2load", "--h1", "-n400", "-c4", "-m" + pipelined, url + "/alive", url + LIST).decode()
        assert "400 succeeded, 0 failed" in text and "400 2xx" in text, text


def http_client():
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=10)
    for _ in range(20):
        connection.request("GET", "/alive")
        assert connection.getresponse().read() == b"Healthy"
    connection.request("HEAD", "/openapi.json")
    answer = connection.getresponse()
    length = int(answer.headers["Content-Length"])
    assert answer.read() == b"" and answer.status == 200
    connection.request("GET", "/openapi.json")
    assert len(connection.getresponse().read()) == length
    connection.request("OPTIONS", "/alive")
    answer = connection.getresponse()
    assert answer.status == 405 and "GET" in answer.headers["Allow"] and answer.read()
    body = json.dumps(PAYMENT).encode()
    pieces = (body[index:index + 3] for index in range(0, len(body), 3))
    connection.request("POST", "/api/payment/create", pieces, JSON, encode_chunked=True)
    answer = connection.getresponse()
    assert answer.status == 200 and answer.read()
    # All requests on one connection.
    assert connection.sock is not None
    connection._http_vsn, connection._http_vsn_str = 10, "HTTP/1.0"
    for _ in range(3):
        connection.request("GET", LIST)
        assert len(json.loads(connection.getresponse().read())["payments"]) == 100


def httpx_client():
    with httpx.Client(base_url=url, timeout=10) as client:
        def one(_):
            assert client.get("/alive").text == "Healthy"
            assert len(client.get(LIST).json()["payments"]) == 100
            assert client.post("/api/payment/create", json=PAYMENT).status_code == 200
            assert client.head("/openapi.json").headers["content-length"].isdigit()
            chunks = iter([b'{"amount":1,', b'"currency":"GBP"}'])
            assert client.post("/api/payment/create", content=chunks, headers=JSON).status_code == 200
            assert client.post("/api/payment/create", content=b" " * 100_000, headers=JSON).status_code == 413

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(one, range(40)))


async def aiohttp_client():
    async with aiohttp.ClientSession(url, timeout=aiohttp.ClientTimeout(total=20)) as session:
        async def one():
            async with session.get("/alive") as answer:
                assert await answer.text() == "Healthy"
            async with session.get(LIST) as answer:
                assert len((await answer.json())["payments"]) == 100
            async with session.post("/api/payment/create", json=PAYMENT, expect100=True) as answer:
                assert "paymentId" in await answer.json()

            async def pieces():
                yield b'{"amount":1,'
                yield b'"currency":"GBP"}'

            async with session.post("/api/payment/create", data=pieces(), headers=JSON) as answer:
                assert "paymentId" in await answer.json()
            async with session.options("/alive") as answer:
                assert answer.status == 405

        await asyncio.gather(*[one() for _ in range(40)])
    for version in [aiohttp.HttpVersion10, aiohttp.HttpVersion11]:
        async with aiohttp.ClientSession(url, version=version) as session:
            for _ in range(3):
                async with session.get("/alive") as answer:
                    assert await answer.text() == "Healthy"


for name, work in {
    "curl": curl, "ab": ab, "wrk": wrk, "h2load": h2load, "http.client": http_client, "httpx": httpx_client,
    "aiohttp": lambda: asyncio.run(aiohttp_client()),
}.items():
    work()
    print(name, flush=True)
print("all well")
