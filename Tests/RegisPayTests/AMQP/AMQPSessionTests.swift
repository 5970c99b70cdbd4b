import NIOCore
import SeededRandom
import Testing

@testable import RegisPay

@Suite("An AMQP client's side of a connection")
struct AMQPSessionTests {
  private typealias Bytes = AMQPBytes

  /// What a client has sent, in frames.
  private func frames(_ output: ByteBuffer?) throws -> [AMQPFrameDecoder.Frame] {
    var decoder = AMQPFrameDecoder(frameLimit: 1 << 20)
    decoder.append(output ?? ByteBuffer())
    var frames: [AMQPFrameDecoder.Frame] = []
    while let frame = try decoder.next() { frames.append(frame) }
    #expect(decoder.waitingBytes == 0)
    return frames
  }

  @Test("logs in with a name, a password and what it can, byte by byte as the specification has it")
  func login() throws {
    var session = AMQPSession(AMQPSession.login)
    #expect(session.takeOutput() == ByteBuffer(bytes: Array("AMQP".utf8) + [0, 0, 9, 1]))
    #expect(try session.all(Bytes.start(properties: Bytes.short("product") + [0x53] + Bytes.long([0x52]))).isEmpty)
    let capabilities = [
      "authentication_failure_close", "basic.nack", "connection.blocked", "consumer_cancel_notify",
      "exchange_exchange_bindings", "publisher_confirms",
    ].flatMap { name -> [UInt8] in Bytes.short(name) + [0x74, 1] }
    func text(_ name: String, _ value: String) -> [UInt8] {
      Bytes.short(name) + [0x53] + Bytes.long(Array(value.utf8))
    }
    let properties =
      Bytes.short("capabilities") + [0x46] + Bytes.long(capabilities) + text("connection_name", "regispay")
      + text("product", "regispay") + text("version", "1")
    let startOK = Bytes.method(
      0, 10, 11,
      Bytes.long(properties) + Bytes.short("PLAIN") + Bytes.long(Array("\0shop\0sesame".utf8)) + Bytes.short("en_US"))
    #expect(session.takeOutput() == ByteBuffer(bytes: startOK))
    #expect(try session.all(Bytes.tune(0, 0, 60)).isEmpty)
    let open = Bytes.method(0, 10, 40, Bytes.short("orders") + Bytes.short("") + [0])
    #expect(session.takeOutput() == ByteBuffer(bytes: Bytes.method(0, 10, 31, [0, 3, 0, 0, 0x40, 0, 0, 10]) + open))
    #expect(session.heartbeatSeconds == 10)
    #expect(try session.all(Bytes.openOK).isEmpty)
    #expect(session.takeOutput() == ByteBuffer(bytes: Bytes.method(1, 20, 10, [0])))
    #expect(try session.all(Bytes.channelOpenOK(1)).isEmpty)
    #expect(session.takeOutput() == ByteBuffer(bytes: Bytes.method(1, 85, 10, [0])))
    #expect(try session.all(Bytes.confirmOK) == [.opened])
    #expect(session.takeOutput() == nil)
  }

  @Test(
    "agrees on the lower of two limits, where 0 is none",
    arguments: [(60, 10), (10, 10), (3, 3), (0, 10)] as [(UInt16, UInt16)])
  func heartbeats(_ theirs: UInt16, _ agreed: UInt16) throws {
    var session = AMQPSession(AMQPSession.login)
    _ = try session.all(Bytes.start() + Bytes.tune(3, 4_096, theirs))
    #expect(session.heartbeatSeconds == agreed)
  }

  @Test("publishes in frames no larger than agreed, with a mandatory flag and persistently")
  func publish() throws {
    var session = AMQPSession(AMQPSession.login)
    _ = try session.all(
      Bytes.start() + Bytes.tune(3, 4_096, 0) + Bytes.openOK + Bytes.channelOpenOK(1) + Bytes.confirmOK)
    _ = session.takeOutput()
    let body = (0..<10_000).map { UInt8(truncatingIfNeeded: $0) }
    let message = AMQPMessage(
      exchange: "shop", contentType: "text/plain", id: "id", correlationID: "pay",
      headers: [.init(name: "a", value: "b")],
      body: body)
    #expect(session.publish(message) == 1)
    let sent = try frames(session.takeOutput())
    #expect(sent.map(\.channel) == [1, 1, 1, 1, 1])
    #expect(sent[0].payload == ByteBuffer(bytes: [0, 60, 0, 40, 0, 0] + Bytes.short("shop") + [0, 1]))
    let headers = Bytes.long(Bytes.short("a") + [0x53] + Bytes.long([0x62]))
    let properties = [0xB4, 0x80] + Bytes.short("text/plain") + headers + [2] + Bytes.short("pay") + Bytes.short("id")
    #expect(sent[1].payload == ByteBuffer(bytes: [0, 60, 0, 0] + Bytes.big(UInt64(10_000)) + properties))
    #expect(sent[2...].map(\.payload.readableBytes) == [4_088, 4_088, 1_824])
    #expect(sent[2...].flatMap { Array($0.payload.readableBytesView) } == body)
    #expect(session.publish(message) == 2 && session.lastTag == 2)
  }

  @Test("makes each request as the specification has it")
  func requests() throws {
    var session = try AMQPSession.ready()
    func sent(_ write: (inout AMQPSession) -> Void) -> ByteBuffer? {
      write(&session)
      return session.takeOutput()
    }
    func bytes(_ bytes: [UInt8]) -> ByteBuffer? { ByteBuffer(bytes: bytes) }
    let (none, empty): ([UInt8], [UInt8]) = ([0, 0], [0, 0, 0, 0])
    #expect(sent { $0.openChannel(2) } == bytes(Bytes.method(2, 20, 10, [0])))
    #expect(
      sent { $0.declareExchange("e", type: "fanout") }
        == bytes(Bytes.method(2, 40, 10, none + Bytes.short("e") + Bytes.short("fanout") + [2] + empty)))
    #expect(
      sent { $0.bindExchange("to", to: "from") }
        == bytes(Bytes.method(2, 40, 30, none + Bytes.short("to") + Bytes.short("from") + [0, 0] + empty)))
    let limit = Bytes.long(Bytes.short("x-delivery-limit") + [0x49, 0, 0, 0, 100])
    #expect(
      sent { $0.declareQueue("q", [("x-delivery-limit", .integer(100))]) }
        == bytes(Bytes.method(2, 50, 10, none + Bytes.short("q") + [2] + limit)))
    #expect(sent { $0.countQueue("q") } == bytes(Bytes.method(2, 50, 10, none + Bytes.short("q") + [1] + empty)))
    #expect(
      sent { $0.bindQueue("q", to: "e") }
        == bytes(Bytes.method(2, 50, 20, none + Bytes.short("q") + Bytes.short("e") + [0, 0] + empty)))
    #expect(sent { $0.setPrefetch(32) } == bytes(Bytes.method(3, 60, 10, empty + [0, 32, 0])))
    #expect(
      sent { $0.consume("q", as: "c") }
        == bytes(Bytes.method(3, 60, 20, none + Bytes.short("q") + Bytes.short("c") + [8] + empty)))
    #expect(sent { $0.settle(7, requeues: nil) } == bytes(Bytes.method(3, 60, 80, Bytes.big(UInt64(7)) + [0])))
    #expect(sent { $0.settle(7, requeues: true) } == bytes(Bytes.method(3, 60, 120, Bytes.big(UInt64(7)) + [2])))
    #expect(sent { $0.settle(7, requeues: false) } == bytes(Bytes.method(3, 60, 120, Bytes.big(UInt64(7)) + [0])))
    #expect(sent { $0.close() } == bytes(Bytes.method(0, 10, 50, [0, 200, 0, 0, 0, 0, 0])))
  }

  /// Everything that may arrive, to a session that has sent what it belongs to.
  private static func everything() throws -> (session: AMQPSession, bytes: [UInt8], events: [AMQPSession.Event]) {
    var session = try AMQPSession.ready()
    session.openChannel(3)
    _ = try session.all(Bytes.channelOpenOK(3))
    session.openChannel(2)
    _ = try session.all(Bytes.channelOpenOK(2))
    for _ in 0..<3 {
      _ = session.publish(AMQPMessage(exchange: "e", contentType: "c", id: "i", correlationID: "p", body: [1]))
    }
    session.countQueue("q")
    let id: [UInt8] = [0xA0, 0x80] + Bytes.short("json") + Bytes.long([1, 2, 3]) + Bytes.short("m1")
    let bytes =
      Bytes.frame(8, 0, []) + Bytes.method(0, 10, 60, Bytes.short("low on\u{1b}memory")) + Bytes.method(0, 10, 61)
      + Bytes.returned + Bytes.deliver(9) + Bytes.header(3, 5) + Bytes.header(1, 3, id) + Bytes.body(3, [1, 2])
      + Bytes.body(1, [7]) + Bytes.body(1, [7, 7]) + Bytes.body(3, [3, 4, 5]) + Bytes.ack(2, multiple: true)
      + Bytes.method(1, 60, 120, Bytes.big(UInt64(3)) + [0]) + Bytes.deliver(10) + Bytes.header(3, 0)
      + Bytes.method(2, 50, 11, Bytes.short("q") + [0, 0, 0, 5, 0, 0, 0, 6])
    let events: [AMQPSession.Event] = [
      .blocked(reason: "low on memory"), .unblocked, .returned(id: "m1", reason: "NO_ROUTE"),
      .delivered(.init(tag: 9, consumer: "create", body: [1, 2, 3, 4, 5])), .acknowledged(tag: 2, multiple: true),
      .rejected(tag: 3, multiple: false), .delivered(.init(tag: 10, consumer: "create", body: [])),
      .answered(.queueDeclareOK(messages: 5, consumers: 6)),
    ]
    return (session, bytes, events)
  }

  @Test("reads the same however the bytes are cut")
  func splits() throws {
    let (start, bytes, events) = try Self.everything()
    for cut in 0...bytes.count {
      var session = start
      let first = try session.all(Array(bytes[..<cut]))
      #expect(try first + session.all(Array(bytes[cut...])) == events, "cut at \(cut)")
    }
    var session = start
    #expect(try bytes.flatMap { try session.all([$0]) } == events)
    #expect(session.waitingBytes == 0)
  }

  @Test("a refused request closes its channel, which can be opened again; another channel's end is the connection's")
  func refusals() throws {
    var session = try AMQPSession.ready()
    session.openChannel(2)
    _ = try session.all(Bytes.channelOpenOK(2))
    session.declareExchange("e", type: "fanout")
    _ = session.takeOutput()
    let refusal = AMQPFailure(code: 406, reason: "PRECONDITION_FAILED")
    #expect(try session.all(Bytes.close(2, 406, "PRECONDITION_FAILED")) == [.refused(refusal)])
    #expect(session.takeOutput() == ByteBuffer(bytes: Bytes.method(2, 20, 41)))
    #expect(!session.isOpen(2))
    session.openChannel(2)
    #expect(try session.all(Bytes.channelOpenOK(2)) == [.answered(.plain(AMQPMethodID.channelOpenOK))])
    session.declareExchange("e", type: "fanout")
    #expect(session.end(Bytes.close(1, 404, "no exchange")) == AMQPFailure(code: 404, reason: "no exchange"))
  }

  @Test("what still comes on a channel that it closes is left out")
  func closing() throws {
    var session = try AMQPSession.ready()
    session.openChannel(3)
    _ = try session.all(Bytes.channelOpenOK(3) + Bytes.deliver(1) + Bytes.header(3, 2))
    session.closeChannel(3)
    let late = Bytes.body(3, [1, 2]) + Bytes.deliver(2) + Bytes.header(3, 1) + Bytes.body(3, [1])
    #expect(try session.all(late).isEmpty)
    #expect(try session.all(Bytes.method(3, 20, 41)) == [.answered(.plain(AMQPMethodID.channelCloseOK))])
    #expect(session.end(Bytes.deliver(3))?.reason.contains("channel 3, which is not open") == true)
  }

  @Test("a broker's goodbye is the reason, and gets its response")
  func goodbye() throws {
    var session = try AMQPSession.ready()
    #expect(
      session.end(Bytes.close(0, 320, "CONNECTION_FORCED\r\nx"))
        == AMQPFailure(code: 320, reason: "CONNECTION_FORCED  x"))
    #expect(session.takeOutput() == ByteBuffer(bytes: Bytes.method(0, 10, 51)))
  }

  struct Broken: Sendable, CustomTestStringConvertible {
    var name: String
    var bytes: [UInt8]
    /// That the reason contains.
    var reason: String
    var isEarly = false
    var testDescription: String { name }

    init(_ name: String, _ reason: String, early parts: [UInt8]...) {
      (self.name, self.reason, bytes, isEarly) = (name, reason, parts.flatMap { $0 }, true)
    }

    init(_ name: String, _ reason: String, _ parts: [UInt8]...) {
      (self.name, self.reason, bytes) = (name, reason, parts.flatMap { $0 })
    }
  }

  private typealias Cases = AMQPBytes

  private static let early: [Broken] = [
    Broken("text", "unknown type 72", early: Array("HTTP/1.1 400".utf8)),
    Broken("another version", "another version", early: Array("AMQP".utf8), [0, 1, 0, 0]),
    Broken("no AMQP", "unknown type 65", early: Array("ABCD".utf8)),
    Broken("another start", "AMQP 1-0", early: Cases.start(version: [1, 0])),
    Broken("no password", "PLAIN", early: Cases.start("EXTERNAL")),
    Broken(
      "a table longer than its frame", "class 10, method 10",
      early: Cases.method(0, 10, 10, [0, 9, 0xFF, 0xFF, 0xFF, 0xFF])),
    Broken("a length over the limit", "16384 are the limit", early: [1, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF]),
    Broken("a length one over the limit", "a frame of 16385 bytes", early: [1, 0, 0, 0, 0, 0x3F, 0xF9]),
    Broken("no end", "does not end", early: Array(Cases.start().dropLast()), [0]),
    Broken("no number", "without a number", early: Cases.frame(1, 0, [0, 10, 0])),
    Broken("tune first", "not due", early: Cases.tune()),
    Broken("start twice", "not due", early: Cases.start(), Cases.start()),
    Broken("open before tune", "not due", early: Cases.start(), Cases.openOK),
    Broken("too few channels", "channel_max", early: Cases.start(), Cases.tune(2)),
    Broken("frames too small", "4096 must be possible", early: Cases.start(), Cases.tune(0, 4_095)),
    Broken(
      "a channel before the log-in", "channel 1, which is not open", early: Cases.start(), Cases.channelOpenOK(1)),
    Broken(
      "a frame over the agreed limit", "4096 are the limit",
      early: Cases.start(), Cases.tune(0, 4_096), [1, 0, 0, 0, 0, 0x0F, 0xF9]),
    Broken("blocked before the log-in", "not due", early: Cases.start(), Cases.method(0, 10, 61)),
  ]

  private static let late: [Broken] = [
    Broken("too long after its arguments", "not as it must be", Cases.method(0, 10, 61, [0])),
    Broken("unknown method", "class 999", Cases.method(1, 999, 1)),
    Broken("unknown frame", "unknown type 77", Cases.frame(77, 1, [])),
    Broken("another channel", "channel 9", Cases.method(9, 60, 80, [0, 0, 0, 0, 0, 0, 0, 1, 0])),
    Broken("a channel that is not open", "channel 2", Cases.method(2, 40, 11)),
    Broken("heartbeat on a channel", "heartbeat", Cases.frame(8, 1, [])),
    Broken("an answer that nobody asked for", "not due", Cases.method(1, 40, 11)),
    Broken("a delivery where messages are sent", "not due", Cases.deliver(1, channel: 1)),
    Broken("a method of the connection on a channel", "not due", Cases.method(1, 10, 61)),
    Broken("confirm of nothing", "not sent", Cases.ack(1)),
    Broken("header without a message", "that there is not", Cases.header(1, 3)),
    Broken("body without a message", "that there is not", Cases.body(1, [1])),
    Broken("a method in a message", "in the middle", Cases.returned, Cases.ack(1)),
    Broken(
      "another class", "must be", Cases.returned, Cases.frame(2, 1, [0, 85] + [UInt8](repeating: 0, count: 12))),
    Broken("an id longer than its frame", "id", Cases.returned, Cases.header(1, 1, [0, 0x80, 200])),
    Broken("properties longer than their frame", "properties", Cases.returned, Cases.header(1, 1, [0x80, 0])),
    Broken(
      "more than the header says", "longer than its header", Cases.returned, Cases.header(1, 1), Cases.body(1, [1, 2])),
    Broken("body on the connection", "that there is not", Cases.body(0, [1])),
  ]

  @Test("what breaks the protocol ends it, and the reason says what", arguments: early + late)
  func refuses(_ wanted: Broken) throws {
    var session = wanted.isEarly ? AMQPSession(AMQPSession.login) : try AMQPSession.ready()
    let failure = session.end(wanted.bytes)
    #expect(failure?.reason.contains(wanted.reason) == true, "\(failure?.reason ?? "no failure")")
  }

  @Test("of a message that is longer than the limit nothing is kept, and of a returned one nothing at all")
  func longMessages() throws {
    var session = try AMQPSession.ready()
    session.openChannel(3)
    _ = try session.all(Bytes.channelOpenOK(3))
    let part = [UInt8](repeating: 1, count: 16_000)
    for (count, isKept) in [(AMQPSession.bodyLimit, true), (AMQPSession.bodyLimit + 1, false)] {
      var events = try session.all(Bytes.deliver(1) + Bytes.header(3, UInt64(count)))
      var left = count
      while left > 0 {
        events += try session.all(Bytes.body(3, Array(part.prefix(left))))
        left -= min(left, part.count)
      }
      let body = isKept ? [UInt8](repeating: 1, count: count) : nil
      #expect(events == [.delivered(.init(tag: 1, consumer: "create", body: body))])
    }
    _ = try session.all(Bytes.returned + Bytes.header(1, UInt64(AMQPSession.bodyLimit)))
    for _ in 0..<3 {
      #expect(try session.all(Bytes.body(1, part)).isEmpty)
      #expect(session.waitingBytes == 0)
    }
  }

  @Test("random and changed bytes end it or are read, and never more waits than a frame")
  func random() throws {
    var random = SeededGenerator.printed("TEST_REGISPAY_AMQP_SEED")
    let (start, good, _) = try Self.everything()
    let early = Bytes.login
    for round in 0..<20_000 {
      var session = round % 2 == 0 ? start : AMQPSession(AMQPSession.login)
      var bytes = round % 2 == 0 ? good : early
      for _ in 0..<Int.random(in: 1...4, using: &random) {
        let place = Int.random(in: 0..<bytes.count, using: &random)
        switch Int.random(in: 0..<4, using: &random) {
        case 0: bytes[place] = .random(in: .min ... .max, using: &random)
        case 1: bytes.remove(at: place)
        case 2: bytes.insert(.random(in: .min ... .max, using: &random), at: place)
        default: bytes.replaceSubrange(place..., with: (0..<40).map { _ in .random(in: .min ... .max, using: &random) })
        }
      }
      // Its own promises, checked by the program itself: no trap.
      _ = session.end(bytes)
      #expect(session.waitingBytes <= bytes.count)
    }
  }

  @Test("a broker that gives no reason is quoted with none")
  func noReason() throws {
    var session = try AMQPSession.ready()
    #expect(session.end(AMQPBytes.close(0, 320, "")) == AMQPFailure(code: 320, reason: "it says no reason"))
  }

  @Test("what ends a line or turns it round is left out of a broker's text")
  func unseen() throws {
    var session = try AMQPSession.ready()
    #expect(
      session.end(AMQPBytes.close(0, 320, "a\u{2028}b\u{202E}c\n")) == AMQPFailure(code: 320, reason: "a b c "))
  }

  @Test(
    "a message comes back only if it can have been sent", arguments: [UInt64(64 << 10), (64 << 10) + 1, 1 << 63, .max])
  func longReturn(byteCount: UInt64) throws {
    var session = try AMQPSession.ready()
    let failure = session.end(AMQPBytes.returned + AMQPBytes.header(1, byteCount))
    #expect((failure != nil) == (byteCount > 64 << 10))
  }
}
