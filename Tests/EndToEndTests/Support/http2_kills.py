"""Kills a server again and again while another project's HTTP/2 client has requests in the air, and repeats those without an answer
with their keys: one payment for each key, and one charge for each payment.

usage: http2_kills.py PROGRAM DIRECTORY CERTIFICATE KEY KILLS
"""

import asyncio
import ctypes
import random
import signal
import ssl
import subprocess
import sys
import time
import uuid

import anyio
import httpx

PROGRAM, DIRECTORY, CERTIFICATE, KEY, KILLS = *sys.argv[1:5], int(sys.argv[5])
CLIENTS, REQUESTS_EACH = 3, 20


class Server:
    port = "0"

    def start(self):
        def die_with_parent():
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)

        self.process = subprocess.Popen(
            [PROGRAM, "serve", "--dir", DIRECTORY, "--port", self.port, "--log-level", "error", "--tls-certificate", CERTIFICATE,
             "--tls-key", KEY, "--segment-bytes", "1048576"], stdout=subprocess.PIPE, text=True, preexec_fn=die_with_parent)
        line = self.process.stdout.readline()
        assert "https://" in line, line
        self.port = line.strip().rsplit(":", 1)[1].rstrip("/")

    def kill(self):
        self.process.kill()
        self.process.wait()


server = Server()


def client():
    return httpx.AsyncClient(
        http1=False, http2=True, verify=ssl.create_default_context(cafile=CERTIFICATE), base_url=f"https://localhost:{server.port}",
        timeout=10, limits=httpx.Limits(max_connections=1, max_keepalive_connections=1))


async def main():
    server.start()
    answers, unanswered, is_over = {}, 0, False

    async def create(c, key):
        """Whether the client can be used again."""
        nonlocal unanswered
        try:
            answer = await c.post("/api/v1/payments", json={"amount": 2, "currency": "EUR"}, headers={"Idempotency-Key": key})
        except (httpx.HTTPError, anyio.EndOfStream, OSError):
            # httpx passes on what its transport raises for a connection that ended during a write: EndOfStream.
            unanswered += 1
            return False
        assert answer.status_code in (200, 201), answer.text
        assert answer.http_version == "HTTP/2"
        answers.setdefault(key, set()).add(answer.json()["paymentId"])
        return True

    async def work():
        """Payments on one connection, until the end; a new connection after each that broke."""
        left = []
        while not is_over or left:
            async with client() as c:
                while not is_over or left:
                    keys = left or [str(uuid.uuid4()) for _ in range(REQUESTS_EACH)]
                    went = await asyncio.gather(*[create(c, key) for key in keys])
                    left = [key for key, well in zip(keys, went) if not well]
                    if left:
                        await asyncio.sleep(0.1)
                        break

    workers = [asyncio.create_task(work()) for _ in range(CLIENTS)]
    for _ in range(KILLS):
        await asyncio.sleep(random.uniform(0.3, 1.2))
        server.kill()
        server.start()
    await asyncio.sleep(0.5)
    is_over = True
    await asyncio.wait_for(asyncio.gather(*workers), 60)
    assert unanswered >= KILLS, f"only {unanswered} requests were in the air"
    assert all(len(ids) == 1 for ids in answers.values()), "a key has two payments"
    payments = {next(iter(ids)) for ids in answers.values()}
    assert len(payments) == len(answers), "two keys have one payment"
    async with client() as c:
        end = time.monotonic() + 120
        while (await c.get("/api/v1/payments/count?status=Completed")).json()["count"] != len(payments):
            assert time.monotonic() < end, "all complete, and there is no other"
            await asyncio.sleep(0.2)
        assert (await c.get("/api/v1/payments/count")).json()["count"] == len(payments)
        ledger = (await c.get("/psp/api/ledger")).json()
        assert ledger["count"] == len(payments), "each is charged once"
    server.process.terminate()
    assert server.process.wait() == 0
    print(f"all well: {len(payments)} payments, {unanswered} requests without an answer")


asyncio.run(main())
