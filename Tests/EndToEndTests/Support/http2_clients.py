"""Another project's HTTP/2 client against the server at the URL, whose certificate is in the file: payments at once, event streams,
and a stop of the server under load, when its process is given.

usage: http2_clients.py URL ROOTS [PID]
"""

import asyncio
import json
import os
import signal
import ssl
import sys
import time

import httpx

URL, ROOTS = sys.argv[1], sys.argv[2]
PAYMENT = {"amount": 1, "currency": "GBP"}


def client(connections=1):
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    return httpx.AsyncClient(
        http1=False, http2=True, verify=ssl.create_default_context(cafile=ROOTS), base_url=URL, timeout=20, limits=limits)


async def create(c):
    answer = await c.post("/api/payment/create", json=PAYMENT)
    assert answer.status_code == 200 and answer.http_version == "HTTP/2", answer
    return answer.json()["paymentId"]


async def payments():
    async with client() as c:
        ids = await asyncio.gather(*[create(c) for _ in range(300)])
        assert len(set(ids)) == 300
        end = time.monotonic() + 60
        for id in ids:
            while (await c.get(f"/api/v1/payments/{id}")).json()["status"] != "Completed":
                assert time.monotonic() < end, id
                await asyncio.sleep(0.05)


async def first_event(c, **arguments):
    async with c.stream("GET", "/api/v1/events", **arguments) as answer:
        assert answer.status_code == 200, answer
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                return json.loads(line[6:])


async def streams():
    async with client() as c:
        assert "type" in await first_event(c, params={"from": 0})
        # One that waits gets what happens later, beside other requests on its connection.
        waiting = asyncio.create_task(first_event(c))
        await asyncio.sleep(0.3)
        await create(c)
        await asyncio.wait_for(waiting, 10)


async def stop(pid):
    """No request that the server has taken stays without its response."""
    answered, lost, stopped = 0, [], asyncio.Event()

    async def work():
        nonlocal answered
        async with client() as c:
            while not stopped.is_set():
                try:
                    await create(c)
                    answered += 1
                # The server listens no more.
                except httpx.ConnectError:
                    return
                except httpx.HTTPError as error:
                    lost.append(repr(error))
                    return

    async def stay():
        async with client() as c:
            async with c.stream("GET", "/api/v1/events") as answer:
                async for _ in answer.aiter_raw():
                    pass

    streams = [asyncio.create_task(stay()) for _ in range(5)]
    workers = [asyncio.create_task(work()) for _ in range(20)]
    await asyncio.sleep(1)
    begin = time.monotonic()
    os.kill(pid, signal.SIGTERM)
    await asyncio.wait_for(asyncio.gather(*workers), 20)
    for result in await asyncio.wait_for(asyncio.gather(*streams, return_exceptions=True), 20):
        assert result is None, result
    assert time.monotonic() - begin < 10
    assert answered > 20 and not lost, (answered, lost[:3])


asyncio.run(payments())
asyncio.run(streams())
if len(sys.argv) > 3:
    asyncio.run(stop(int(sys.argv[3])))
print("all well")
