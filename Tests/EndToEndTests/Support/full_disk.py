#!/usr/bin/env python3
"""A disk fills up while calls to the PSP are in flight: no other call goes out, and none is repeated, until space is free again.

    full_disk.py --program .build/release/regispay

Mounts a small tmpfs for the server's data, which needs root. The PSP counts the calls of each idempotency key. Ends
with 0 if every expectation held.
"""
import argparse
import asyncio
import os
import random
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import payment_load


class CountingPSP(payment_load.PSP):
    """Slow enough that some calls are always in flight."""

    def __init__(self):
        super().__init__(latency=0.3)
        self.by_key = {}

    def answer(self, path, key, body):
        if path == "/control":
            return 200, {"calls": self.calls, "keys": len(self.by_key),
                         "mostForOneKey": max(self.by_key.values(), default=0),
                         "chargedTwice": sum(1 for count in self.settled.values() if count > 1)}
        self.by_key[key] = self.by_key.get(key, 0) + 1
        return super().answer(path, key, body)


def health(server):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/health", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def until(what, seconds, condition):
    end = time.time() + seconds
    while time.time() < end:
        if condition():
            return True
        time.sleep(0.1)
    print(f"waited {seconds} s for: {what}")
    return False


async def run(options, server, psp_port, disk):
    payments, stop = payment_load.Payments(), asyncio.Event()
    follower = asyncio.create_task(payment_load.follow(server, payments, stop))
    loading = asyncio.create_task(payment_load.load(options, server, payments, options.seed))

    def psp():
        return payment_load.control(psp_port, {})

    def held():
        state = server.get("/api/v1/consumers")["calls"]
        return state["state"] == "held" and state["outcomesKept"] > 0

    def fill():
        """The free space, without what the log has already reserved."""
        with open(disk + "/filler", "wb") as filler:
            try:
                while True:
                    os.write(filler.fileno(), bytes(4096))
            except OSError:
                pass

    expectations = []
    await asyncio.sleep(2)
    await asyncio.to_thread(fill)
    expectations.append(("calls are held, and outcomes kept", await asyncio.to_thread(until, "held", 60, held)))
    # The calls in flight end.
    await asyncio.sleep(2)
    state = await asyncio.to_thread(server.get, "/api/v1/consumers")
    before, well = await asyncio.to_thread(psp), await asyncio.to_thread(health, server)
    print(f"full: {state['calls']}; health: {well[0]} {well[1].splitlines()}")
    print(f"the PSP then: {before}")
    await asyncio.sleep(options.full_seconds)
    after = await asyncio.to_thread(psp)
    print(f"the PSP {options.full_seconds:g} s later: {after}")
    expectations += [
        ("health says so", well[0] == 503 and "no calls go out" in well[1]),
        ("no call went out while the disk was full", after["calls"] == before["calls"]),
    ]
    os.unlink(disk + "/filler")
    await loading
    open_again = await asyncio.to_thread(
        until, "open", 60, lambda: server.get("/api/v1/consumers")["calls"] == {"state": "open", "outcomesKept": 0})
    expectations.append(("calls go out again when there is room, without a restart", open_again))
    end = time.time() + 60
    while payments.open and time.time() < end:
        await asyncio.sleep(0.1)
    await asyncio.sleep(1)
    last = await asyncio.to_thread(psp)
    print(f"accepted {payments.created}, refused {payments.refused}; the PSP at the end: {last}")
    expectations += [
        ("every payment completed", not payments.open and not payments.ends),
        ("no call was made twice", last["mostForOneKey"] == 1 and last["chargedTwice"] == 0),
        ("some requests were refused", payments.refused > 0),
        ("health is well again", (await asyncio.to_thread(health, server))[0] == 200),
    ]
    stop.set()
    follower.cancel()
    return payment_load.report(expectations)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True, help="regispay")
    parser.add_argument("--rate", type=float, default=50, help="payments a second")
    parser.add_argument("--full-seconds", type=float, default=10)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    options.seed = options.seed if options.seed is not None else random.randrange(1 << 32)
    options.seconds, options.hang = options.full_seconds + 12, 0
    options.call_timeout, options.retry_delay_limit = 10, 60
    options.argument = ["--segment-bytes", "65536", "--scrub-rate", "0"]
    payment_load.unblock_signals()
    print(f"seed {options.seed}", flush=True)
    psp, psp_port = payment_load.start_psp(CountingPSP())
    with tempfile.TemporaryDirectory(prefix="regispay-full-") as folder:
        disk = folder + "/data"
        os.mkdir(disk)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk], check=True)
        try:
            server = payment_load.Server(options, folder, psp_port)
            try:
                held = asyncio.run(run(options, server, psp_port, disk))
            finally:
                server.stop()
                psp.kill()
        finally:
            subprocess.run(["umount", "-l", disk], check=False)
        if not held:
            server.print_errors()
    print("PASSED" if held else "FAILED")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
