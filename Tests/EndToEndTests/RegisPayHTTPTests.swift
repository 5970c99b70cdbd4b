import Foundation
import Testing

/// What RFC 9110 and RFC 9112 ask of an origin server, over raw sockets.
@Suite("RegisPay's HTTP/1")
struct RegisPayHTTPTests {
  private struct Claim {
    /// Of RFC 9112, or of RFC 9110 where that is said.
    var section: String
    var request: String
    /// The responses' versions and statuses, in order, to this request and to a following one on the same connection.
    var responses: [String]

    init(_ section: String, _ request: String, _ responses: String...) {
      self.section = section
      self.request = request
      self.responses = responses
    }
  }

  private static let host = "Host: 127.0.0.1\r\n"
  private static let alive = "GET /alive HTTP/1.1\r\n" + host
  private static let post = "POST /api/payment/create HTTP/1.1\r\n\(host)Content-Type: application/json\r\n"
  private static let next = "GET /alive HTTP/1.1\r\n\(host)Connection: close\r\n\r\n"
  private static let json = #"{"amount":1,"currency":"GBP"}"#
  private static let (kept, good, bad) = ("1.1 200", "1.1 200", "1.1 400")

  private static let claims: [Claim] = [
    Claim("2.2, an empty line before a request", "\r\n\(alive)\r\n", good, kept),
    Claim("2.2, a bare CR", "GET /alive HTTP/1.1\r\(host)\r\n", bad),
    Claim("2.2, space before the first field", "GET /alive HTTP/1.1\r\n X: y\r\n\(host)\r\n", bad),
    Claim("2.3, HTTP/1.0 closes", "GET /alive HTTP/1.0\r\n\(host)\r\n", "1.0 200"),
    Claim("2.3, HTTP/1.9 is HTTP/1", "GET /alive HTTP/1.9\r\n\(host)\r\n", "1.1 505"),
    Claim("2.3, HTTP/2.0", "GET /alive HTTP/2.0\r\n\(host)\r\n", "1.1 505"),
    Claim("3, a method is case-sensitive", "get /alive HTTP/1.1\r\n\(host)\r\n", "1.1 501"),
    Claim("3, no version", "GET /alive\r\n\r\n", "1.1 505"),
    Claim("9110 9.1, an unknown method", "FROB /alive HTTP/1.1\r\n\(host)\r\n", "1.1 501"),
    Claim("9110 15.5.6, a method that is not for this", "DELETE /alive HTTP/1.1\r\n\(host)\r\n", "1.1 405", kept),
    Claim("3.2, no Host", "GET /alive HTTP/1.1\r\n\r\n", bad),
    Claim("3.2, no Host in HTTP/1.0", "GET /alive HTTP/1.0\r\n\r\n", "1.0 200"),
    Claim("3.2, two Hosts", "\(alive)Host: evil.example\r\n\r\n", bad),
    Claim("3.2, twice the same Host", "\(alive)\(host)\r\n", bad),
    Claim("3.2, two Hosts in HTTP/1.0", "GET /alive HTTP/1.0\r\n\(host)\(host)\r\n", bad),
    Claim("3.2, a Host that is none", "GET /alive HTTP/1.1\r\nHost: a b\r\n\r\n", bad),
    Claim("3.2, a user in Host", "GET /alive HTTP/1.1\r\nHost: a@127.0.0.1\r\n\r\n", bad),
    Claim("3.2, two names in Host", "GET /alive HTTP/1.1\r\nHost: 127.0.0.1, a\r\n\r\n", bad),
    Claim("3.2.2, an absolute target", "GET http://127.0.0.1/alive HTTP/1.1\r\n\(host)\r\n", good, kept),
    Claim(
      "3.2.2, its scheme in capitals, its port", "GET HTTP://127.0.0.1:80/alive HTTP/1.1\r\n\(host)\r\n", good, kept),
    Claim("3.2.2, of another host", "GET http://a/alive HTTP/1.1\r\n\(host)\r\n", "1.1 421", kept),
    Claim("3.2.2, beside another Host", "GET http://127.0.0.1/alive HTTP/1.1\r\nHost: a:1\r\n\r\n", good, kept),
    Claim("3.2.2, beside a Host that is none", "GET http://127.0.0.1/alive HTTP/1.1\r\nHost: a b\r\n\r\n", bad),
    Claim("3.2.2, of another scheme", "GET ftp://127.0.0.1/alive HTTP/1.1\r\n\(host)\r\n", bad),
    Claim("3.2.2, with a user", "GET http://a@127.0.0.1/alive HTTP/1.1\r\n\(host)\r\n", bad),
    Claim("3.2.4, GET *", "GET * HTTP/1.1\r\n\(host)\r\n", bad),
    Claim("5.1, space before a colon", "\(alive)X : y\r\n\r\n", bad),
    Claim("5.1, space before the colon of Host", "GET /alive HTTP/1.1\r\nHost : 127.0.0.1\r\n\r\n", bad),
    Claim("5.1, space before the colon of a length", post + "Content-Length : 0\r\n\r\n", bad),
    Claim("5.1, space around Host", "GET /alive HTTP/1.1\r\nHost: \t 127.0.0.1 \t \r\n\r\n", good, kept),
    Claim("5.1, Host of space alone", "GET /alive HTTP/1.1\r\nHost: \t \r\n\r\n", "1.1 421", kept),
    Claim("5.1, no space around Host", "GET /alive HTTP/1.1\r\nHost:127.0.0.1\r\n\r\n", good, kept),
    Claim("5.1, space around a length", post + "Content-Length: \t29 \r\n\r\n\(json)", good, kept),
    // The decoder knows only spaces there. Refused is safe: no other reader can take it for a different length.
    Claim("5.1, a tab behind a length", post + "Content-Length: 29\t\r\n\r\n\(json)", bad),
    Claim("5.1, space in a length", post + "Content-Length: 2 9\r\n\r\n\(json)", bad),
    Claim(
      "5.1, space around a coding",
      post + "Transfer-Encoding: \tchunked \r\n\r\n1d\r\n\(json)\r\n0\r\n\r\n", good, kept),
    Claim("5.1, space around close", "\(alive)Connection: \tclose \t\r\n\r\n", good),
    Claim(
      "5.1, space around an expectation",
      post + "Expect: \t100-continue \t\r\nContent-Length: \(json.count)\r\n\r\n\(json)", "1.1 100", good, kept),
    Claim(
      "5.1, space around a media type",
      "POST /api/payment/create HTTP/1.1\r\n\(host)Content-Type: \tapplication/json \t\r\nContent-Length: 29\r\n\r\n"
        + json, good, kept),
    Claim("5.2, a folded field", "\(alive)X: y\r\n z\r\n\r\n", bad),
    Claim("6.1, an unknown coding", post + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "1.1 501"),
    Claim(
      "6.1, in two fields", post + "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "1.1 501"),
    Claim("6.1, chunked twice", post + "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", bad),
    Claim("6.1, identity", post + "Transfer-Encoding: identity\r\nContent-Length: 0\r\n\r\n", bad),
    Claim("6.1, with a length", post + "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", bad),
    Claim(
      "6.1, in HTTP/1.0", "POST /alive HTTP/1.0\r\n\(host)Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", bad),
    Claim("6.3, two lengths", post + "Content-Length: 0\r\nContent-Length: 0\r\n\r\n", bad),
    Claim("6.3, a list of lengths", post + "Content-Length: 0, 0\r\n\r\n", bad),
    Claim("6.3, a length with a sign", post + "Content-Length: +0\r\n\r\n", bad),
    Claim("6.3, no length is no body", post + "\r\n", bad, kept),
    Claim(
      "7.1, chunks, with extensions, zeros and trailers",
      post
        + "Transfer-Encoding: Chunked\r\n\r\n00A;a=\"b\"\r\n\(json.prefix(10))\r\n13\r\n\(json.dropFirst(10))\r\n0\r\n"
        + "X: y\r\n\r\n", good, kept),
    Claim("6.2, a length of 2^63", post + "Content-Length: 9223372036854775808\r\n\r\n", "1.1 413"),
    // Decoding them would hold up the other connections of the event loop.
    Claim(
      "7.1, 60,000 chunks of one byte",
      post + "Transfer-Encoding: chunked\r\n\r\n" + String(repeating: "1\r\n \r\n", count: 60_000) + "0\r\n\r\n",
      "1.1 413"),
    Claim("7.1, a chunk of 2^64", post + "Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n", bad),
    Claim("9.3, kept alive", "\(alive)\r\n", good, kept),
    Claim("9.3, close", "\(alive)Connection: close\r\n\r\n", good),
    Claim("9.3, close in a list", "\(alive)Connection: TE, Close\r\nTE: trailers\r\n\r\n", good),
    Claim("9.3, close in a second field", "\(alive)Connection: keep-alive\r\nConnection: close\r\n\r\n", good),
    // Of no specification, but the decoder obeys it: both sides must think the same of the connection.
    Claim("9.3, close for a proxy", "\(alive)Proxy-Connection: close\r\n\r\n", good),
    Claim("9.3, an upgrade for a proxy", "\(alive)Proxy-Connection: upgrade\r\nUpgrade: x\r\n\r\n", good),
    Claim(
      "9.3, HTTP/1.0 kept alive", "GET /alive HTTP/1.0\r\n\(host)Connection: Keep-Alive\r\n\r\n", "1.0 200", kept),
    Claim("9110 9.3.2, HEAD has no body", "HEAD /alive HTTP/1.1\r\n\(host)\r\n", good, kept),
    Claim("9110 7.8, an upgrade is ignored", "\(alive)Connection: upgrade\r\nUpgrade: h2c\r\n\r\n", good),
    Claim("9110 7.8, HTTP/2 from the start", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", bad),
    Claim("9110 10.1.1, another expectation", post + "Expect: 200-ok\r\nContent-Length: 0\r\n\r\n", "1.1 417"),
    Claim(
      "9110 10.1.1, none of HTTP/1.0",
      "POST /api/payment/create HTTP/1.0\r\n\(host)Content-Type: application/json\r\nExpect: 100-continue\r\n"
        + "Content-Length: \(json.count)\r\n\r\n\(json)", "1.0 200"),
  ]

  @Test("responds as RFC 9110 and RFC 9112 say, and then closes the connection or reads the next request")
  func claims() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder)
      for claim in Self.claims {
        let response = try await RawConnection.response(to: claim.request + Self.next, from: server.url)
        let responses = response?.matches(of: #/HTTP\/(1\.[01] [0-9]{3}) /#).map { String($0.1) }
        #expect(responses == claim.responses, "\(claim.section): \(response ?? "still open")")
        // RFC 9110, 6.6.1 and 10.2.1.
        let heads = response?.components(separatedBy: "\r\n\r\n") ?? []
        if claim.responses.first?.hasSuffix("405") == true { #expect(heads.first?.contains("\r\nAllow: ") == true) }
        if claim.responses.first?.hasSuffix("200") == true { #expect(heads.first?.contains("\r\nDate: ") == true) }
      }
      #expect(server.process.errorText.isEmpty, "nothing that a client sends fills the log")
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false))
    }
  }

  @Test("100 Continue is sent at once for a body that is held back, unless the response is known without it")
  func expectations() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder)
      let url = server.url
      let (first, last) = try await onThread {
        // Behind another request it is asked for once it is its turn.
        let head = Self.post + "Expect: 100-Continue\r\nContent-Length: \(Self.json.count)\r\n\r\n"
        let connection = try RawConnection(url, sending: Self.alive + "\r\n" + head)
        let first = connection.read { $0.hasSuffix("HTTP/1.1 100 Continue\r\n\r\n") }
        connection.send(Self.json + Self.next)
        return (first, connection.readToEnd())
      }
      #expect(first.hasPrefix("HTTP/1.1 200 OK\r\n") && first.hasSuffix("HTTP/1.1 100 Continue\r\n\r\n"), "\(first)")
      #expect(last?.components(separatedBy: "HTTP/1.1 200 OK\r\n").count == 3, "\(last ?? "still open")")
      let refused = try await RawConnection.response(
        to: Self.post + "Expect: 100-continue\r\nContent-Length: 1000000\r\n\r\n", from: url)
      #expect(refused?.hasPrefix("HTTP/1.1 413 ") == true, "\(refused ?? "still open")")
    }
  }

  @Test("HEAD says what GET would, without the body")
  func head() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder)
      var responses: [String] = []
      for method in ["GET", "HEAD"] {
        let request = "\(method) /openapi.json HTTP/1.1\r\n\(Self.host)Connection: close\r\n\r\n"
        responses.append(try await RawConnection.response(to: request, from: server.url) ?? "")
      }
      let lengths = responses.map { $0.components(separatedBy: "\r\n").first { $0.hasPrefix("Content-Length: ") } }
      #expect(lengths[0] != nil && lengths[0] == lengths[1])
      #expect(responses[1].hasSuffix("\r\n\r\n") && !responses[0].hasSuffix("\r\n\r\n"))
    }
  }

  @Test(
    "a response to HEAD has no body, whichever handler refuses it",
    arguments: [
      "HEAD /nothing HTTP/1.1\r\n\(host)Connection: close\r\n\r\n", "HEAD / HTTP/1.1\r\n\r\n",
      "HEAD /\(String(repeating: "x", count: 10_000)) HTTP/1.1\r\n\(host)\r\n",
      "HEAD / HTTP/1.1\r\n\(host)Content-Length: 1000000\r\n\r\n",
    ])
  func refusedHead(_ request: String) async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder)
      let response = try await RawConnection.response(to: request, from: server.url)
      #expect(
        response?.hasPrefix("HTTP/1.1 4") == true && response?.hasSuffix("\r\n\r\n") == true, "\(response ?? "open")")
    }
  }

  @Test("other projects' clients get every response completely: curl, ab, wrk, h2load, http.client, httpx, aiohttp")
  func clients() async throws {
    try await withTemporaryFolder { folder in
      let server = try await RunningServer.start(directory: folder)
      for _ in 0..<100 { _ = try await server.createPayment("1") }
      let python = try await PythonEnvironment.make(in: folder, installing: "httpx", "aiohttp")
      let clients = try RegisPayProcess(
        program: python.programs + "/python3", ["-B", StoreUnderTest.support + "/http_clients.py", server.url],
        folder: folder)
      var lines: [String] = []
      while let line = try await clients.nextLine(within: .seconds(120)) { lines.append(line) }
      #expect(try await clients.waitForExit() == .init(code: 0, isSignal: false), "\(lines) \(clients.errorText)")
      #expect(lines.last == "all well", "\(lines)")
      #expect(try await server.stopGracefully() == .init(code: 0, isSignal: false), "\(server.process.errorText)")
    }
  }
}
