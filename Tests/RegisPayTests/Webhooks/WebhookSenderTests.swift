import Synchronization
import Testing

@testable import RegisPay

/// Over real HTTP, with a resolver whose results the tests set.
@Suite("Sending a webhook")
struct WebhookSenderTests {
  private static func resolver(_ answers: [String]...) -> HostResolver {
    let left = Mutex(answers)
    return HostResolver { _, _ throws(HostResolver.Failure) in
      let answer = left.withLock { $0.count > 1 ? $0.removeFirst() : $0[0] }
      guard !answer.isEmpty else { throw HostResolver.Failure.unresolved(reason: "no such name") }
      return answer.compactMap { IPAddress(literal: $0) }
    }
  }

  private static func send(_ url: String, _ options: WebhookOptions) async throws -> WebhookResult {
    let sender = WebhookSender(options: options)
    let url = try WebhookURL(url)
    let signature = WebhookSignature(id: "msg_1", timestamp: 1, body: [], secrets: [.random()])
    let result = await sender.send(Array("{}".utf8), to: url, signature: signature)
    await sender.close()
    return result
  }

  private static func port(_ receiver: FakeReceiver) -> Substring {
    receiver.url.split(separator: "/")[1].split(separator: ":")[1]
  }

  @Test("goes to the address that was checked, under the name that was asked for")
  func pinned() async throws {
    try await FakeReceiver.run { receiver in
      var options = WebhookOptions()
      options.allowsPrivate = true
      // The name exists nowhere else: only the checked address can have been connected to.
      options.resolver = Self.resolver(["127.0.0.1"])
      let url = "http://Hooks.Example.TEST:\(Self.port(receiver))/a?b=c"
      let result = try await Self.send(url, options)
      #expect(result == .responded(status: 200, retryAfter: nil))
      let message = try #require(receiver.received.first)
      #expect(message.headers["host"] == "hooks.example.test:\(Self.port(receiver))")
      #expect(message.path == "/a?b=c")
      #expect(message.id == "msg_1")
      #expect(message.headers["content-type"] == "application/json")
    }
  }

  @Test(
    "is refused when any address of the name is one that may not be reached",
    arguments: [
      ["127.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["127.0.0.1", "8.8.8.8"], ["2606:4700::1111", "::1"], ["10.1.2.3"],
      ["169.254.169.254"], ["::ffff:127.0.0.1"], ["64:ff9b::7f00:1"],
    ])
  func refused(_ addresses: [String]) async throws {
    try await FakeReceiver.run { receiver in
      var options = WebhookOptions()
      options.resolver = Self.resolver(addresses)
      let result = try await Self.send("https://hooks.example.test:\(Self.port(receiver))/", options)
      guard case .failed(let reason) = result else { throw Unexpected(result: result) }
      #expect(reason.contains("the name leads to"))
      #expect(receiver.received.isEmpty)
    }
  }

  private struct Unexpected: Error { var result: WebhookResult }

  @Test("a name that leads elsewhere the next time is looked at again, and its open connection is not used")
  func rebinding() async throws {
    try await FakeReceiver.run { receiver in
      var options = WebhookOptions()
      options.allowsPrivate = true
      options.resolver = Self.resolver(["127.0.0.1"], ["169.254.169.254"], ["127.0.0.1"])
      let sender = WebhookSender(options: options)
      let url = try WebhookURL("http://hooks.example.test:\(Self.port(receiver))/")
      let signature = WebhookSignature(id: "msg_1", timestamp: 1, body: [], secrets: [.random()])
      #expect(await sender.send([], to: url, signature: signature) == .responded(status: 200, retryAfter: nil))
      guard case .failed = await sender.send([], to: url, signature: signature) else {
        Issue.record("a metadata address is reached")
        return
      }
      #expect(receiver.received.count == 1)
      #expect(await sender.send([], to: url, signature: signature) == .responded(status: 200, retryAfter: nil))
      await sender.close()
    }
  }

  @Test("an endpoint that was registered with leave is not reached when that is taken away")
  func leaveTakenAway() async throws {
    try await FakeReceiver.run { receiver in
      let result = try await Self.send(receiver.url, WebhookOptions())
      guard case .failed = result else { throw Unexpected(result: result) }
      #expect(receiver.received.isEmpty)
    }
  }

  @Test("without leave nothing is sent unencrypted, whatever was registered")
  func unencrypted() async throws {
    var options = WebhookOptions()
    options.resolver = Self.resolver([])
    let result = try await Self.send("http://hooks.example.test/", options)
    #expect(result == .failed(reason: "The URL must begin with https://"))
  }

  @Test("an address that can't be reached is followed by the next")
  func nextAddress() async throws {
    try await FakeReceiver.run { receiver in
      var options = WebhookOptions()
      options.allowsPrivate = true
      options.resolver = Self.resolver(["::1", "127.0.0.1"])
      let url = "http://hooks.example.test:\(Self.port(receiver))/"
      let result = try await Self.send(url, options)
      #expect(result == .responded(status: 200, retryAfter: nil))
    }
  }

  @Test("a redirect counts as a response and is not followed", arguments: [301, 302, 303, 307, 308])
  func redirect(_ status: Int) async throws {
    try await FakeReceiver.run { receiver in
      receiver.respond { [url = receiver.url] _ in .status(status, [("Location", url)]) }
      var options = WebhookOptions()
      options.allowsPrivate = true
      let result = try await Self.send(receiver.url, options)
      #expect(result == .responded(status: status, retryAfter: nil))
      #expect(receiver.received.count == 1)
    }
  }

  @Test("a missing response ends the try after the time limit, and a dead name server too")
  func timeLimit() async throws {
    try await FakeReceiver.run { receiver in
      receiver.respond { _ in
        try? await Task.sleep(for: .seconds(3_600))
        return .ok
      }
      var options = WebhookOptions()
      options.allowsPrivate = true
      options.timeLimit = .milliseconds(200)
      // On a busy machine the time may be over before there is a connection.
      var result = WebhookResult.failed(reason: "")
      try await eventually("the receiver is reached in time") {
        result = try await Self.send(receiver.url, options)
        return !receiver.received.isEmpty
      }
      guard case .failed(let reason) = result else { throw Unexpected(result: result) }
      #expect(reason.contains("no response within") || reason.contains("imeout") || reason.contains("eadline"))
      options.resolver = HostResolver { _, _ throws(HostResolver.Failure) in
        try? await Task.sleep(for: .seconds(3_600))
        throw HostResolver.Failure.unresolved(reason: "too late")
      }
      let unresolved = try await Self.send("https://hooks.example.test/", options)
      #expect(unresolved == .failed(reason: "no response within 0.2 seconds"))
    }
  }

  @Test("the receiver's Retry-After is returned if it is a number", arguments: [("120", 120), ("0", 0)])
  func retryAfter(_ field: String, _ seconds: Int) async throws {
    try await FakeReceiver.run { receiver in
      receiver.respond { _ in .status(503, [("Retry-After", field)]) }
      var options = WebhookOptions()
      options.allowsPrivate = true
      let result = try await Self.send(receiver.url, options)
      #expect(result == .responded(status: 503, retryAfter: .seconds(seconds)))
      receiver.respond { _ in .status(503, [("Retry-After", "-1")]) }
      let second = try await Self.send(receiver.url, options)
      #expect(second == .responded(status: 503, retryAfter: nil))
    }
  }

  @Test("the system's resolver finds this machine, and says when there is no such name")
  func system() async throws {
    let share = LookUpShare()
    let found = try await HostResolver.system.addresses("localhost", share)
    #expect(found.allSatisfy { $0.refusal(allowingPrivate: false) != nil } && !found.isEmpty)
    await #expect(throws: HostResolver.Failure.self) {
      try await HostResolver.system.addresses("nothing.invalid", share)
    }
  }
}
