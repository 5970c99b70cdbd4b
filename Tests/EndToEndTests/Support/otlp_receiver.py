#!/usr/bin/env python3
"""A collector of traces and logs: takes OTLP over HTTP in its JSON encoding, reads it by OpenTelemetry's own schema
(the package opentelemetry-proto), and prints each span as a line.

    otlp_receiver.py --port 4318

Prints `listening on PORT` first. A span's line is JSON: trace, span, parent, state, name, kind, start and end in
nanoseconds, error, and the service's name. A log record's line is `log ` and JSON: trace, span, text, severity, and attributes. A request that the schema does not know gets 400 and a line that begins with
`bad:`.
"""

import argparse
import base64
import gzip
import http.server
import json

from google.protobuf import json_format
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

REQUESTS = {"/v1/traces": trace_service_pb2.ExportTraceServiceRequest, "/v1/logs": logs_service_pb2.ExportLogsServiceRequest}


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
            request = REQUESTS[self.path]()
            assert self.headers["Content-Type"] == "application/json"
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            json_format.ParseDict(with_base64(json.loads(body)), request)
        except Exception as error:
            print("bad:", repr(error), flush=True)
            return self.answer(400)
        if self.path == "/v1/logs":
            self.print_logs(request)
            return self.answer(200)
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

    def print_logs(self, request):
        for resource in request.resource_logs:
            for scope in resource.scope_logs:
                for record in scope.log_records:
                    assert record.time_unix_nano > 1_700_000_000_000_000_000
                    print("log", json.dumps({
                        "trace": record.trace_id.hex(), "span": record.span_id.hex(), "text": record.body.string_value,
                        "severity": record.severity_number,
                        "attributes": {a.key: a.value.string_value for a in record.attributes}}), flush=True)

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
