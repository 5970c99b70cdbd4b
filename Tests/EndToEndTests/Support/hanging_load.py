#!/usr/bin/env python3
"""Payments at a constant rate while a share of them hangs at the PSP, and the effect on the others.

    hanging_load.py --program .build/release/regispay --rate 20 --hang 0.3 --seconds 300
    hanging_load.py --program .build/release/regispay --rate 100 --hang 0.05 --seconds 300 --errors 0.2
    hanging_load.py --program .build/release/regispay --rate 1000 --hang 0.01 --seconds 300 --kill

The PSP and the notification service are a process of this program, written independently of the simulator. It never responds to a
hanging payment, half of them at `create` and half at `settle`, at any try, until the load is over: then "the PSP is back".
With --errors that share of all calls gets a 500, with --deploy all of them get a 404 for so many seconds. With --kill
the server is killed (SIGKILL) in the middle of the load and restarted on the same directory.

A payment's time is from when its request was due, whatever happened before, to the timestamp of its PaymentCompleted.
99 in 100 of the payments that don't hang must complete within --limit.

With --kill the payments that the kill affects count separately: those whose request was due from --limit before it until
--kill-limit after the server was ready again. They have their own limits, because they wait for the start and for the
backlog: the server is ready within --start-limit, and 99 in 100 of them complete within --kill-limit from when it was
ready, or from when their request was due if that is later. The others have the same limit as without a kill. Standard library only; prints PASSED and ends with 0 if every expectation held.
"""
import argparse
import asyncio
import random
import sys
import tempfile
import time

from payment_load import (HANGS_AT_CREATE, HANGS_AT_SETTLE, NORMAL, PSP, Payments, Server, control, follow, load, percentile,
                          report, start_psp, unblock_signals)


class Watch:
    """Samples of the server's report and its memory, every few seconds."""

    def __init__(self):
        self.memory = []  # (second, MiB of its own, MiB resident)
        self.most = {}
        self.reasons = set()
        self.breakers = set()
        self.is_loading = True

    async def run(self, server, stop, interval):
        begin = time.time()
        while not stop.is_set():
            size = server.memory()
            if size:
                self.memory.append((time.time() - begin, *size))
            try:
                state = await asyncio.to_thread(server.get, "/api/v1/consumers")
            except OSError:
                state = {"consumers": []}
            for consumer in state["consumers"]:
                for name in ("inFlight", "slowCalls", "unfinished", "waiting", "delayed", "lag"):
                    self.most[name] = max(self.most.get(name, 0), consumer.get(name, 0))
                self.reasons.update(reason["reason"] for reason in consumer.get("reasons", []))
                breaker = consumer.get("breaker")
                if self.is_loading and breaker and breaker["state"] != "closed":
                    self.breakers.add(f"{breaker['of']}: {breaker.get('reason', '?')}")
            try:
                await asyncio.wait_for(stop.wait(), interval)
            except asyncio.TimeoutError:
                pass

    def around(self, share, end):
        """Mean private and resident memory around that share of the load's time."""
        sizes = [sizes for second, *sizes in self.memory if abs(second - share * end) <= max(end * 0.1, 2)]
        return [sum(column) / len(column) for column in zip(*sizes)] or [0, 0]


async def run(options, server, psp_port, seed):
    payments, watch, stop = Payments(), Watch(), asyncio.Event()
    follower = asyncio.create_task(follow(server, payments, stop))
    watcher = asyncio.create_task(watch.run(server, stop, max(0.5, options.seconds / 60)))

    async def kill():
        await asyncio.sleep(options.seconds / 2)
        killed = time.time()
        server.kill()
        await asyncio.to_thread(server.start)
        return killed, time.time()

    async def deploy():
        await asyncio.sleep(options.seconds / 4)
        await asyncio.to_thread(control, psp_port, {"hangs": True, "errors": options.errors, "status": 404})
        await asyncio.sleep(options.deploy)
        await asyncio.to_thread(control, psp_port, {"hangs": True, "errors": options.errors})

    begin = time.time()
    deploying = asyncio.create_task(deploy()) if options.deploy else None
    killer = asyncio.create_task(kill()) if options.kill else None
    await load(options, server, payments, seed)
    killed = await killer if killer else None
    if deploying:
        await deploying
    load_seconds = time.time() - begin
    # At once: if only hanging calls were left, the breaker would rightly open.
    watch.is_loading = False
    hanging = sum(1 for payment in payments.open.values() if payment[0] != NORMAL)
    memory = [watch.around(share, load_seconds) for share in (0.1, 0.5, 1)]
    await asyncio.to_thread(control, psp_port, {"hangs": False, "errors": 0})
    back = time.time()
    half = None
    while payments.open and time.time() - back < options.wait:
        await asyncio.sleep(0.1)
        if half is None and len(payments.open) <= hanging / 2:
            half = time.time() - back
    finished = time.time() - back
    stop.set()
    follower.cancel()
    await watcher
    payments.close()
    psp = await asyncio.to_thread(control, psp_port, {"hangs": False, "errors": 0})
    return judge(options, payments, watch, psp, memory, hanging, half, finished, killed)


def times(payments, options, killed):
    """Seconds of the other payments, sorted; and of those that the kill affects, from when they could complete."""
    others, concerned = [], []
    for due, seconds in payments.times[NORMAL]:
        if killed and killed[0] - options.limit <= due <= killed[1] + options.kill_limit:
            concerned.append(due + seconds - max(due, killed[1]))
        else:
            others.append(seconds)
    return sorted(others), sorted(concerned)


def judge(options, payments, watch, psp, memory, hanging, half, finished, killed):
    others, concerned = times(payments, options, killed)
    p50, p99, most = percentile(others, 0.5), percentile(others, 0.99), others[-1] if others else 0
    hung = payments.times[HANGS_AT_CREATE] + payments.times[HANGS_AT_SETTLE]
    completed = len(others) + len(concerned) + len(hung)
    print(f"accepted {payments.created}, not answered with 200: {payments.refused}; "
          f"completed {len(others) + len(concerned)} others and {len(hung)} hanging ones")
    print(f"others, request to completed: p50 {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms, max {most * 1000:.0f} ms")
    if killed:
        print(f"the kill: ready again after {killed[1] - killed[0]:.1f} s; {len(concerned)} payments concerned, from then on "
              f"p99 {percentile(concerned, 0.99):.2f} s, max {concerned[-1] if concerned else 0:.2f} s")
    print(f"hanging at the end of the load: {hanging}; once the PSP was back half of them completed within "
          f"{half if half is not None else -1:.1f} s, all within {finished:.1f} s; PaymentDelayed events: {payments.delays}")
    print("memory at the start, in the middle, at the end of the load, its own (and resident, with the log's mapped pages): "
          + ", ".join(f"{own:.0f} ({resident:.0f}) MiB" for own, resident in memory))
    print(f"the most that /api/v1/consumers told of one consumer: {watch.most}")
    print(f"reasons: {sorted(watch.reasons)}")
    print(f"breakers seen open: {sorted(watch.breakers)}")
    print(f"the PSP: {psp}; other ends: {payments.ends}")
    expectations = [
        ("the others' p99 is under the limit", p99 < options.limit),
        ("every payment completed", not payments.open and not payments.ends),
        ("each was charged once", psp["chargedTwice"] == 0 and psp["settled"] == completed),
        ("most requests were accepted", payments.created > options.rate * options.seconds * (0.7 if options.kill else 0.95)),
        ("memory of its own is flat", memory[2][0] <= max(memory[0][0], memory[1][0]) * 1.25 + 24),
    ]
    if killed:
        expectations += [
            ("after the kill the server is ready within the limit", killed[1] - killed[0] < options.start_limit),
            ("the p99 of those that the kill concerns is under its limit",
             percentile(concerned, 0.99) < options.kill_limit)]
    if options.deploy:
        expectations.append(("the breaker tells of the 404", any("404" in breaker for breaker in watch.breakers)))
    elif not options.kill:
        expectations.append(("no breaker opened", not watch.breakers))
    if options.hang:
        expectations.append(("the hanging ones are seen, with the reason",
                             watch.most.get("delayed", 0) + watch.most.get("waiting", 0) > 0
                             and any("no response" in reason for reason in watch.reasons)))
    return report(expectations)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True, help="regispay")
    parser.add_argument("--rate", type=float, required=True, help="payments a second")
    parser.add_argument("--hang", type=float, required=True, help="the share of payments that hangs")
    parser.add_argument("--errors", type=float, default=0, help="the share of calls that get a 500")
    parser.add_argument("--deploy", type=float, default=0, help="seconds for which every call gets a 404")
    parser.add_argument("--kill", action="store_true", help="kill the server in the middle and restart it")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--call-timeout", type=float, default=10)
    parser.add_argument("--retry-delay-limit", type=float, default=60)
    parser.add_argument("--wait", type=float, default=240, help="seconds for the hanging payments, once the PSP is back")
    parser.add_argument("--limit", type=float, default=1, help="upper limit in seconds for the others' p99")
    parser.add_argument("--start-limit", type=float, default=10, help="seconds from the kill until the server is ready again")
    parser.add_argument("--kill-limit", type=float, default=5,
                        help="seconds for payments that the kill affects, once the server is ready")
    parser.add_argument("--argument", action="append", default=[], help="a further argument of regispay serve")
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.randrange(1 << 32)
    unblock_signals()
    print(f"{options.rate:g} payments/s, {options.hang:.0%} hang, {options.errors:.0%} of calls fail, "
          f"{options.seconds:g} s{', killed in the middle' if options.kill else ''}; seed {seed}", flush=True)
    psp, psp_port = start_psp(PSP(options.errors))
    with tempfile.TemporaryDirectory(prefix="regispay-hanging-") as folder:
        server = Server(options, folder, psp_port)
        try:
            held = asyncio.run(run(options, server, psp_port, seed))
        finally:
            server.stop()
            psp.kill()
        if not held:
            server.print_errors()
    print("PASSED" if held else "FAILED")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
