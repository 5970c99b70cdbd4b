"""A PSP and a notification service with a ledger, written independently of the server and its simulator; standard library only.

Usage: other_psp.py CASES
CASES is a JSON file: {"AMOUNT": {"step", "fault", "first", "status", "restart", "forget"}}. Amounts are in minor units and name a
payment. The first call of the case's step meets the fault:

  late     carried out; the response comes after the caller has stopped waiting
  before   the connection closes, nothing is carried out
  after    carried out, and the connection closes
  forgets  carried out, and the connection closes; every repeat is dropped for "forget" seconds, and then the
           idempotency key is forgotten: a call with it is a new call
  done     carried out; the response has the status "first"
  undone   not carried out; the response has the status "first"

Repeats get the status "status": 409, 423, 425 and 500 twice, and then the call's outcome; a 402 means that the call was
processed and declined. With "restart" no repeat gets a response before POST /open. GET /ledger shows what was charged,
settled, cancelled and refunded, and how often each step of the cases was called.
"""

import json
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BUSY = (409, 423, 425, 500)
LATE_SECONDS = 1.6

with open(sys.argv[1]) as file:
    cases = {int(amount): case for amount, case in json.load(file).items()}

lock = threading.Lock()
opened = threading.Event()
charges = {}  # reference -> {"amount", "state", "refunds": [minor units]}
responses = {}  # idempotency key -> (status, body)
calls = {}  # idempotency key -> calls so far
repeats = {}  # idempotency key -> repeats that got the case's status
first = {}  # idempotency key -> time of the first call
forgotten = set()  # idempotency keys
notified = {}  # amount -> messages
stepCalls = {}  # amount -> calls of the case's step
firstCall = {}  # amount -> time of the first of these


def minor(number):
    return round(float(number) * 100)


def execute(step, amount, reference, refund):
    """Carries a call out once. The caller holds the lock."""
    if step == "create":
        reference = f"ref-{amount}-{sum(charge['amount'] == amount for charge in charges.values())}"
        charges[reference] = {"amount": amount, "state": "held", "refunds": []}
        return 202, {"paymentId": reference}
    if step == "notify":
        notified[amount] = notified.get(amount, 0) + 1
        return 202, {}
    charge = charges[reference]
    if step == "settle":
        if charge["state"] != "held":
            return 422, {"error": "the payment is " + charge["state"]}
        charge["state"] = "settled"
        return 200, {}
    if step == "cancel":
        if charge["state"] != "held":
            return 422, {"error": "the payment is " + charge["state"]}
        charge["state"] = "cancelled"
        return 200, {}
    # Without a limit: the caller must not refund more than the amount.
    charge["refunds"].append(refund)
    return 202, {}


def decline(step, reference):
    """Declines explicitly, and releases a hold that is not settled. The caller holds the lock."""
    if step == "settle" and charges[reference]["state"] == "held":
        charges[reference]["state"] = "declined"
    return 402, {"error": "declined"}


def process(key, step, amount, reference, refund, status):
    """The outcome of the call with this key, which is carried out if it was not before. The caller holds the lock."""
    if key not in responses:
        if status == 402:
            responses[key] = decline(step, reference)
        else:
            responses[key] = execute(step, amount, reference, refund)
    return responses[key]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *arguments):
        pass

    def drop(self):
        self.close_connection = True
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # The caller has closed it.

    def answer(self, status, body):
        data = json.dumps(body).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except OSError:
            self.close_connection = True  # The caller no longer waits.

    def do_GET(self):
        with lock:
            found = {"charges": [dict(charge, reference=name) for name, charge in charges.items()],
                     "notified": {str(amount): count for amount, count in notified.items()},
                     "calls": {str(amount): count for amount, count in stepCalls.items()}}
        self.answer(200, found)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/open":
            opened.set()
            return self.answer(200, {})
        data = json.loads(body) if body else {}
        parts = self.path.split("/")
        reference, refund = None, None
        if self.path.endswith("/api/payments/create"):
            step, amount = "create", minor(data["amount"])
        elif self.path.endswith("/api/send"):
            step, amount = "notify", minor(json.loads(data["jsonPayload"])["amount"])
        else:
            reference, step = parts[-2], {"refunds": "refund"}.get(parts[-1], parts[-1])
            with lock:
                amount = charges[reference]["amount"]
            if step == "refund":
                refund = minor(data["amount"])
        key = self.headers["Idempotency-Key"]
        if not key:
            return self.answer(400, {"error": "no key"})
        case = cases.get(amount)
        # A second refund does not belong to the case and shows whether the first was counted.
        if not case or case["step"] != step or (step == "refund" and not key.endswith(":refund:1")):
            return self.other(key, step, amount, reference, refund, case)
        self.meet(case, key, step, amount, reference, refund)

    def other(self, key, step, amount, reference, refund, case):
        """A step of a payment without a case."""
        with lock:
            # So that there is something to cancel: the payment is not settled before the cancellation was requested,
            # nor by a call that was in flight then.
            cancelled = firstCall.get(amount)
            isEarly = (step == "settle" and case and case["step"] == "cancel"
                       and (cancelled is None or time.monotonic() < cancelled + 1))
            if not isEarly:
                status, answer = process(key, step, amount, reference, refund, None)
        if isEarly:
            return self.drop()
        self.answer(status, answer)

    def meet(self, case, key, step, amount, reference, refund):
        call = (key, step, amount, reference, refund, case["status"])
        now = time.monotonic()
        with lock:
            number = calls.get(key, 0)
            calls[key] = number + 1
            stepCalls[amount] = stepCalls.get(amount, 0) + 1
            firstCall.setdefault(amount, now)
            first.setdefault(key, now)
            if number == 0 and case["fault"] == "forgets":
                execute(step, amount, reference, refund)  # Whatever the response says later.
            elif number == 0 and case["fault"] not in ("before", "undone"):
                process(*call)
        if number == 0:
            if case["fault"] == "late":
                time.sleep(LATE_SECONDS)
                with lock:
                    status, answer = responses[key]
                return self.answer(status, answer)
            if case["fault"] in ("done", "undone"):
                return self.answer(case["first"], {"error": "as the case says"})
            return self.drop()
        if case["restart"] and not opened.is_set():
            return self.drop()
        with lock:
            if case["fault"] == "forgets":
                if now < first[key] + case["forget"]:
                    return self.drop()
                if key not in forgotten:
                    forgotten.add(key)
                    responses.pop(key, None)
            earlier = repeats.get(key, 0)
            repeats[key] = earlier + 1
            if case["status"] in (200, 402) or (case["status"] in BUSY and earlier >= 2):
                status, answer = process(*call)
            else:
                status, answer = case["status"], {"error": "as the case says"}
        self.answer(status, answer)


class Server(ThreadingHTTPServer):
    request_queue_size = 1024
    daemon_threads = True


server = Server(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
