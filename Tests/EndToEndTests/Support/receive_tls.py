"""A receiver over TLS with the certificate and key from its arguments, and with no version after `TLSv1.1` if that is the third. Prints its port, and for each request the server
name in the client's SNI and the one in its Host field."""

import http.server
import ssl
import sys

names = {}


class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        print(names.get(id(self.connection)), self.headers["host"], flush=True)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *arguments):
        pass


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
if sys.argv[3:] == ["TLSv1.1"]:
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    # OpenSSL offers it at this level only.
    context.set_ciphers("DEFAULT@SECLEVEL=0")
context.load_cert_chain(sys.argv[1], sys.argv[2])
context.sni_callback = lambda socket, name, _: names.update({id(socket): name})
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_address[1], flush=True)
server.serve_forever()
