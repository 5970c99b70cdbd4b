"""Receives integration events with pika until its standard input ends, and prints one line for each:

    message-id exchange aggregateId correlation-id redelivered

Usage: receive_integration_events.py PORT QUEUE EXCHANGE...

The durable queue is bound to the exchanges, which are declared as MassTransit's consumers declare them. It connects again when the
broker is gone. Each message is checked against MassTransit's documentation of its envelope, and a failed check is printed as a
line that begins with "bad".
"""

import json
import sys
import threading
import time
import uuid

import pika

port, queue, exchanges = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
stopped = threading.Event()


def check(properties, exchange, envelope):
    """What the envelope has to be, by MassTransit's documentation (Serialization, Message envelope)."""
    assert properties.content_type == "application/vnd.masstransit+json", properties.content_type
    assert properties.delivery_mode == 2, "persistent"
    assert uuid.UUID(envelope["messageId"]) == uuid.UUID(properties.message_id)
    assert uuid.UUID(envelope["correlationId"]) == uuid.UUID(properties.correlation_id)
    uuid.UUID(envelope["conversationId"])
    assert envelope["messageType"][0] == "urn:message:" + exchange, envelope["messageType"]
    assert envelope["sourceAddress"].startswith("rabbitmq://"), envelope["sourceAddress"]
    assert envelope["destinationAddress"] == f"rabbitmq://127.0.0.1:{port}/{exchange}", envelope["destinationAddress"]
    assert envelope["message"]["aggregateId"] == "pay:" + envelope["correlationId"], envelope["message"]
    assert envelope["sentTime"].endswith("Z") and isinstance(envelope["headers"], dict)
    assert envelope["host"]["processName"] == "regispay" and envelope["host"]["processId"] > 0


def receive(channel, method, properties, body):
    try:
        envelope = json.loads(body)
        check(properties, method.exchange, envelope)
        aggregate = envelope["message"]["aggregateId"]
        print(properties.message_id, method.exchange, aggregate, properties.correlation_id, method.redelivered, flush=True)
    except Exception as error:
        print("bad", repr(error), body[:500], flush=True)
    channel.basic_ack(method.delivery_tag)


def connect():
    parameters = pika.ConnectionParameters("127.0.0.1", port, blocked_connection_timeout=None, socket_timeout=5)
    connection = pika.BlockingConnection(parameters)
    channel = connection.channel()
    for exchange in exchanges:
        channel.exchange_declare(exchange, "fanout", durable=True)
    channel.queue_declare(queue, durable=True)
    for exchange in exchanges:
        channel.queue_bind(queue, exchange)
    channel.basic_qos(prefetch_count=200)
    channel.basic_consume(queue, receive)
    print("ready", flush=True)
    while not stopped.is_set():
        connection.process_data_events(time_limit=0.2)
    connection.close()


def watch():
    sys.stdin.read()
    stopped.set()


if __name__ == "__main__":
    while not stopped.is_set():
        try:
            connect()
        except (pika.exceptions.AMQPError, OSError):
            time.sleep(0.2)
