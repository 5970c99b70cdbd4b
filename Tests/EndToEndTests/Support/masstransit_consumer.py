#!/usr/bin/env python3
"""A receive endpoint of MassTransit 8 in small: it declares the same exchanges, queues and bindings, and takes messages as its
RabbitMQ transport and its System.Text.Json deserializer do.

    masstransit_consumer.py PORT QUEUE [--vhost V] [--user U] [--password P] [--consume TYPE … | --base]

It prints `ready` when it consumes, one JSON object a message, and a line for everything that MassTransit would have written differently:
`violation ID: …` if MassTransit refuses it, routes it elsewhere or understands it otherwise, `difference ID: …` if it reads it
all the same. What MassTransit cannot read moves to QUEUE_error, what has no consumer to QUEUE_skipped, as there. It goes on
until it is killed, also when the broker goes and comes back.
"""

import argparse
import contextlib
import json
import re
import sys
import time
from urllib.parse import unquote, urlsplit

import amqp

NAMESPACE = "Regis.Pay.Domain.IntegrationEvents"
URN = "urn:message:"
# A message of a derived type also has the URNs of its base class and its interfaces, in this order.
BASE_URNS = [f"{URN}{NAMESPACE}:IntegrationEventBase", f"{URN}Regis.Pay.Domain:IIntegrationEvent"]
CONTENT_TYPE = "application/vnd.masstransit+json"

IDS = ["messageId", "requestId", "correlationId", "conversationId", "initiatorId"]
ADDRESSES = ["sourceAddress", "destinationAddress", "responseAddress", "faultAddress"]
TIMES = ["expirationTime", "sentTime"]
# An envelope's members: MassTransit also writes those that are null. For an event it sets all but UNSET.
MEMBERS = IDS + ADDRESSES + TIMES + ["messageType", "message", "headers", "host"]
UNSET = {"requestId", "correlationId", "initiatorId", "responseAddress", "faultAddress", "expirationTime"}
HOST = ["machineName", "processName", "processId", "assembly", "assemblyVersion", "frameworkVersion", "massTransitVersion",
        "operatingSystemVersion"]
PROPERTIES = {"content_type", "delivery_mode", "message_id", "correlation_id", "application_headers"}
# Publisher confirms of the RabbitMQ clients that MassTransit 8 uses add a number; a traced client adds its context.
CLIENT_HEADERS = {"publishId", "x-dotnet-pub-seq-no", "traceparent", "tracestate"}

GUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
ISO_TIME = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d(\.\d{1,16})?)?(Z|[+-]\d\d:\d\d)?)?")
# In UTC, and with as many decimals as needed, at most seven.
WRITTEN_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{0,6}[1-9])?Z")
ENTITY_NAME = re.compile(r"[\w\-.:]+")
TRACE_PARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


class Unreadable(Exception):
    """MassTransit's deserializer, or a property of its ConsumeContext, would throw."""


def read_envelope(body):
    """The envelope as it was written, and as MassTransit sees it: without regard to the case of names, and each of its type."""
    try:
        written = json.loads(bytes(body).decode("utf-8"))
    except ValueError as error:
        raise Unreadable(f"the body is not JSON: {error}") from error
    if not isinstance(written, dict):
        raise Unreadable("the body is not an object")
    names = {name.lower(): name for name in MEMBERS}
    envelope = dict.fromkeys(MEMBERS)
    envelope.update((names[name.lower()], value) for name, value in written.items() if name.lower() in names)

    kinds = {**dict.fromkeys(IDS + ADDRESSES + TIMES, str), "messageType": list, "headers": dict, "host": dict}
    for name, kind in kinds.items():
        if not isinstance(envelope[name], (kind, type(None))):
            raise Unreadable(f"{name} is not a {kind.__name__}")
    if envelope["message"] is None:
        raise Unreadable("there is no message")
    for name in IDS:
        if envelope[name] and not GUID.fullmatch(envelope[name].lower()):
            raise Unreadable(f"{name} is no GUID")
    for name in ADDRESSES:
        if envelope[name] and not urlsplit(envelope[name]).scheme:
            raise Unreadable(f"{name} is no absolute URI")
    for name in TIMES:
        if envelope[name] and not ISO_TIME.fullmatch(envelope[name]):
            raise Unreadable(f"{name} is no ISO 8601 time")
    if not all(isinstance(urn, (str, type(None))) for urn in envelope["messageType"] or []):
        raise Unreadable("a message type is not a string")
    for name, value in (envelope["host"] or {}).items():
        if type(value) is not int if name == "processId" else not isinstance(value, (str, type(None))):
            raise Unreadable(f"host.{name} is {value!r}")
    return written, envelope


def parse_address(text):
    """Host, virtual host, entity and options of an address such as rabbitmq://host:port/vhost/name?temporary=true."""
    parts = urlsplit(text)
    if parts.scheme not in ("rabbitmq", "rabbitmqs") or not parts.hostname:
        raise ValueError("is not an address that MassTransit writes for RabbitMQ")
    if parts.port == {"rabbitmq": 5672, "rabbitmqs": 5671}[parts.scheme]:
        raise ValueError("has the default port; MassTransit leaves it out")
    path, _, name = parts.path[1:].rpartition("/")
    if not ENTITY_NAME.fullmatch(unquote(name)):
        raise ValueError("has an entity name that MassTransit refuses")
    return parts.netloc, unquote(path) or "/", unquote(name), parts.query


def violations(message, envelope, vhost):
    """What MassTransit understands otherwise than the sender means it."""
    properties, exchange = message.properties, message.delivery_info["exchange"]
    headers, outside = envelope["headers"] or {}, properties.get("application_headers") or {}
    yield from (f"{name} is null" for name in MEMBERS if envelope[name] is None and name not in UNSET)
    netlocs = set()
    for name in ADDRESSES:
        try:
            if envelope[name] is not None:
                netloc, virtual, entity, query = parse_address(envelope[name])
                netlocs.add(netloc)
                if virtual != vhost or (name == "destinationAddress" and (entity, query) != (exchange, "")):
                    yield f"{name} {envelope[name]!r} is not that of {exchange!r} in the virtual host {vhost!r}"
        except ValueError as error:
            yield f"{name} {envelope[name]!r} {error}"
    if len(netlocs) > 1:
        yield f"the addresses have different hosts: {netlocs}"
    expected = [URN + exchange] + BASE_URNS
    if envelope["messageType"] != expected:
        yield f"messageType is {envelope['messageType']} instead of {expected}"
    content = envelope["message"]
    if not isinstance(content, dict) or list(content) != ["aggregateId"] or not isinstance(content["aggregateId"], str):
        yield f"message is {content!r}"
    # MassTransit writes the headers into the envelope and into the message's properties.
    for name in (headers.keys() | outside.keys()) - CLIENT_HEADERS:
        if headers.get(name) != outside.get(name):
            yield f"header {name} is {headers.get(name)!r} in the envelope and {outside.get(name)!r} outside"
    if "MT-Activity-Id" in headers and not TRACE_PARENT.fullmatch(str(headers["MT-Activity-Id"])):
        yield f"MT-Activity-Id is {headers['MT-Activity-Id']!r}"
    for name, value in {"content_type": CONTENT_TYPE, "delivery_mode": 2, "message_id": envelope["messageId"],
                        "correlation_id": envelope["correlationId"]}.items():
        if properties.get(name) != value:
            yield f"property {name} is {properties.get(name)!r} instead of {value!r}"


def differences(message, written, envelope):
    """What MassTransit reads, and would have written differently."""
    for name in written.keys() ^ set(MEMBERS):
        yield f"{name} is missing" if name in MEMBERS else f"{name} is not a member of the envelope"
    for name in IDS + TIMES:
        if envelope[name] is not None and not (GUID if name in IDS else WRITTEN_TIME).fullmatch(envelope[name]):
            yield f"{name} is {envelope[name]!r}"
    if envelope["correlationId"] is not None:
        yield "correlationId is set, though the message has no property that MassTransit takes it from"
    if not str(envelope["sourceAddress"]).endswith("?temporary=true"):
        yield f"sourceAddress {envelope['sourceAddress']!r} is not the temporary queue of a bus"
    host = envelope["host"] or {}
    for name in host.keys() | set(HOST):
        if host.get(name) is None or name not in HOST:
            yield f"host.{name} is {host.get(name)!r}"
    if "application_headers" not in message.properties:
        yield "there is no table of headers"
    for name in message.properties.keys() - PROPERTIES:
        yield f"property {name} is {message.properties[name]!r}"
    if message.delivery_info["routing_key"]:
        yield f"the routing key is {message.delivery_info['routing_key']!r}"


class Endpoint:
    def __init__(self, options):
        self.options = options
        self.urns = {f"{URN}{NAMESPACE}:{name}".lower() for name in options.consume}
        self.exchanges = [f"{NAMESPACE}:{name}" for name in options.consume]
        if options.base:
            self.urns.add(BASE_URNS[1].lower())
            self.exchanges = ["Regis.Pay.Domain:IIntegrationEvent"]
        self.seen = set()

    def run(self):
        """One connection, until it breaks."""
        options = self.options
        with amqp.Connection(f"127.0.0.1:{options.port}", userid=options.user, password=options.password,
                             virtual_host=options.vhost, heartbeat=10, connect_timeout=5) as connection:
            channel = connection.channel()
            channel.auto_decode = False
            channel.basic_qos(0, 16, False)
            self.declare(channel, options.queue)
            for exchange in self.exchanges:
                channel.exchange_declare(exchange, "fanout", durable=True, auto_delete=False)
                channel.exchange_bind(options.queue, exchange)
            arrived = []
            channel.basic_consume(options.queue, callback=arrived.append)
            print("ready", flush=True)
            while True:
                with contextlib.suppress(TimeoutError):
                    connection.drain_events(timeout=2)
                # Not in the callback: a call to the broker there would let the next message in.
                while arrived:
                    self.take(channel, arrived.pop(0))
                connection.heartbeat_tick()

    @staticmethod
    def declare(channel, name):
        """A queue, and the exchange of the same name that alone is bound to it."""
        channel.queue_declare(name, durable=True, auto_delete=False)
        channel.exchange_declare(name, "fanout", durable=True, auto_delete=False)
        channel.queue_bind(name, name)

    def take(self, channel, message):
        suffix = None
        try:
            written, envelope = read_envelope(message.body)
            if not self.urns & {str(urn).lower() for urn in envelope["messageType"] or []}:
                suffix = "_skipped"
            self.report(message, written, envelope, suffix)
        except Unreadable as error:
            suffix = "_error"
            print(f"violation {message.properties.get('message_id')}: {error}; MassTransit can't read it")
        sys.stdout.flush()
        if suffix:
            self.declare(channel, self.options.queue + suffix)
            properties = dict(message.properties)
            reason = {"MT-Reason": "fault" if suffix == "_error" else "dead-letter"}
            properties["application_headers"] = properties.get("application_headers", {}) | reason
            channel.basic_publish(amqp.Message(message.body, **properties), self.options.queue + suffix, mandatory=True)
        channel.basic_ack(message.delivery_tag)

    def report(self, message, written, envelope, suffix):
        identifier = envelope["messageId"]
        print(json.dumps({
            "id": identifier, "type": message.delivery_info["exchange"].rpartition(":")[2], "message": envelope["message"],
            "conversation": envelope["conversationId"], "sent": envelope["sentTime"],
            "activity": (envelope["headers"] or {}).get("MT-Activity-Id"), "repeat": identifier in self.seen,
            "redelivered": message.delivery_info["redelivered"], "moved": suffix}))
        self.seen.add(identifier)
        found = {"violation": violations(message, envelope, self.options.vhost), "difference": differences(message, written, envelope)}
        for kind, text in ((kind, text) for kind, texts in found.items() for text in texts):
            print(f"{kind} {identifier}: {text}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("queue")
    for name, value in {"vhost": "/", "user": "guest", "password": "guest"}.items():
        parser.add_argument("--" + name, default=value)
    parser.add_argument("--consume", nargs="+", metavar="TYPE",
                        default=["PaymentInitiated", "PaymentCreated", "PaymentSettled", "PaymentCompleted"])
    parser.add_argument("--base", action="store_true", help="consume IIntegrationEvent instead")
    endpoint = Endpoint(parser.parse_args())
    while True:
        try:
            endpoint.run()
        except (OSError, amqp.AMQPError) as error:
            print(f"connecting again: {error!r}", file=sys.stderr, flush=True)
            time.sleep(0.5)


if __name__ == "__main__":
    main()
