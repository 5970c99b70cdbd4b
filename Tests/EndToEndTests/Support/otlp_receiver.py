#!/usr/bin/env python3
"""A collector of traces: takes OTLP over HTTP in its JSON encoding, reads it by OpenTelemetry's own schema
(the package opentelemetry-proto), and prints each span as a line.

    otlp_receiver.py --port 4318

Prints `listening on PORT` first. A span's line is JSON: trace, span, parent, state, name, kind, start and end in
nanoseconds, error, and the service's name. A request that the schema does not know gets 400 and a line that begins with
`bad:`.
"""

import argparse
import base64
import gzip
import http.server
import json

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2


def with_base64(value):
    """Ids are hexadecimal in OTLP's JSON, and base64 in JSON as protobuf has it."""
    if isinstance(value, list):
        return [with_base64(element) for element in value]
    if not isinstance(value, dict):
        return value
    return {key: base64.b64encode(bytes.fromhex(element)).decode() if key in ("traceId", "spanId", "parentSpanId")
            else with_base64(element) for key, element in value.items()}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            assert self.path == "/v1/traces", self.path
            assert self.headers["Content-Type"] == "application/json"
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            request = trace_service_pb2.ExportTraceServiceRequest()
            json_format.ParseDict(with_base64(json.loads(body)), request)
        except Exception as error:
            print("bad:", repr(error), flush=True)
            return self.answer(400)
        for resource in request.resource_spans:
            service = {a.key: a.value.string_value for a in resource.resource.attributes}["service.name"]
            for scope in resource.scope_spans:
                for span in scope.spans:
                    print(json.dumps({
                        "trace": span.trace_id.hex(), "span": span.span_id.hex(), "parent": span.parent_span_id.hex(),
                        "state": span.trace_state, "name": span.name, "kind": span.kind,
                        "start": span.start_time_unix_nano, "end": span.end_time_unix_nano,
                        "error": span.status.message, "service": service}), flush=True)
        self.answer(200)

    def answer(self, status):
        body = b"{}"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
arguments.add_argument("--port", type=int, default=0)
server = http.server.ThreadingHTTPServer(("127.0.0.1", arguments.parse_args().port), Handler)
print("listening on", server.server_address[1], flush=True)
server.serve_forever()
