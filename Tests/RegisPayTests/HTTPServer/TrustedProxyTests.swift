import HTTPTypes
import NIOCore
import Testing

@testable import RegisPay

@Suite("Trusted proxies")
struct TrustedProxyTests {
  private static func client(
    _ proxies: [String], _ forwarded: [String], from address: String = "127.0.0.1"
  ) throws -> String {
    var fields = HTTPFields()
    let name = try #require(HTTPField.Name("X-Forwarded-For"))
    for value in forwarded { fields.append(HTTPField(name: name, value: value)) }
    let proxies = try #require(TrustedProxies(proxies))
    return proxies.client(fields, from: try SocketAddress(ipAddress: address, port: 4_711)).text
  }

  @Test("the client is the last address that no trusted proxy has, whatever the client wrote before it")
  func client() throws {
    let proxies = ["127.0.0.1", "10.0.0.0/8", "fd00::/8"]
    for (forwarded, expected) in [
      (["1.2.3.4"], "1.2.3.4"), (["9.9.9.9, 1.2.3.4"], "1.2.3.4"), (["9.9.9.9", "1.2.3.4"], "1.2.3.4"),
      (["1.2.3.4,10.1.2.3"], "1.2.3.4"), (["1.2.3.4:5678"], "1.2.3.4"), ([" 1.2.3.4 \t"], "1.2.3.4"),
      (["[2001:db8::1]:443"], "20010db800000000"), (["2001:db8::1"], "20010db800000000"),
      (["1.2.3.4, fd00::7"], "1.2.3.4"), (["::ffff:1.2.3.4"], "1.2.3.4"),
      // What no proxy writes: the last address that is known counts.
      ([], "127.0.0.1"), (["unknown"], "127.0.0.1"), (["1.2.3.4, what, 10.0.0.1"], "10.0.0.1"), ([","], "127.0.0.1"),
      (["10.0.0.1"], "10.0.0.1"), (["[::1"], "127.0.0.1"), (["1.2.3"], "127.0.0.1"), ([":80"], "127.0.0.1"),
    ] {
      #expect(try Self.client(proxies, forwarded) == expected, "\(forwarded)")
    }
  }

  @Test("from all others the field is ignored")
  func untrusted() throws {
    #expect(try Self.client([], ["1.2.3.4"]) == "127.0.0.1")
    #expect(try Self.client(["10.0.0.1"], ["1.2.3.4"]) == "127.0.0.1")
    #expect(try Self.client(["10.0.0.0/8"], ["1.2.3.4"], from: "11.0.0.1") == "11.0.0.1")
    #expect(try Self.client(["10.0.0.0/31"], ["1.2.3.4"], from: "10.0.0.1") == "1.2.3.4")
    #expect(try Self.client(["10.0.0.0/31"], ["1.2.3.4"], from: "10.0.0.2") == "10.0.0.2")
    #expect(try Self.client(["0.0.0.0/0"], ["::1"], from: "9.9.9.9") == "0000000000000000")
    #expect(try Self.client(["127.0.0.1"], ["1.2.3.4"], from: "::ffff:127.0.0.1") == "1.2.3.4")
  }

  @Test("what is no address and no network is refused")
  func mistakes() {
    for text in ["", "localhost", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/8/8", "fd00::/129", "1.2.3", "*"] {
      #expect(TrustedProxies([text]) == nil, "\(text)")
    }
    #expect(TrustedProxies(["10.0.0.0/8", "::1", "fd00::/8", "0.0.0.0/0"]) != nil)
  }

  @Test("limits for one address count the clients behind a proxy, and not its connections")
  func limits() async throws {
    for isTrusted in [true, false] {
      try await TestServer.run({ options in
        options.limits.requestsPerSecond = 1
        options.limits.connectionsPerAddress = 1
        if isTrusted { options.trustedProxies = TrustedProxies(["127.0.0.1"]) ?? .init() }
      }) { server in
        // More than a client may send at once.
        let count = HTTPLimits.burstSeconds + 5
        func statuses(_ client: @escaping @Sendable (Int) -> String) async throws -> [Int] {
          var statuses: [Int] = []
          for number in 0..<count {
            statuses.append(
              try await server.send("GET", "/api/v1/consumers", headers: [("X-Forwarded-For", client(number))]).status)
          }
          return statuses
        }
        // On a busy machine a client may be slower than its limit.
        if isTrusted {
          #expect(try await !statuses { "1.2.3.\($0)" }.contains(429))
        } else {
          try await eventually("all are limited together") { try await statuses { "1.2.3.\($0)" }.contains(429) }
        }
        try await eventually("one is limited") { try await statuses { _ in "9.9.9.9" }.contains(429) }
      }
    }
  }
}
