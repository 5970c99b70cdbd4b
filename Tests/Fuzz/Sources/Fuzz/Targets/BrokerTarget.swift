import NIOCore

@testable import RegisPayParts

/// A broker that sends what the input says, in pieces of any length, while messages are published and questions asked. Whatever it
/// sends, the session says something that is true of it or ends with a reason, and keeps no more than one frame and one message.
enum BrokerTarget {
  private static let login = AMQPSession.Login(
    user: "u", password: "p", vhost: "/", name: "regispay", version: "1", heartbeatSeconds: 10)
  private static let message = AMQPMessage(
    exchange: "x", contentType: "text/plain", id: "1", correlationID: "2", body: Array("body".utf8))
  /// Class and method, as brokers send them.
  private static let methods: [(UInt16, UInt16)] = [
    (10, 10), (10, 30), (10, 41), (10, 50), (10, 51), (10, 60), (10, 61), (20, 11), (20, 40), (20, 41), (40, 11),
    (40, 31),
    (50, 11), (50, 21), (60, 11), (60, 30), (60, 50), (60, 60), (60, 80), (60, 120), (85, 11),
  ]

  static func run(_ input: inout InputReader) {
    var session = AMQPSession(login)
    let flags = input.byte()
    let pieceLength = flags & 2 == 0 ? Int.max : 1 + Int(flags >> 3)
    if flags & 1 == 0 {
      guard take(loginOfBroker, pieceLength, &session) else { broken("a good log-in is refused") }
    }
    while !input.isAtEnd {
      if flags & 1 == 0, ask(&session, &input) { continue }
      guard take(bytes(&input), pieceLength, &session) else { return end(&session) }
    }
  }

  /// - Returns: whether the client has done something; it asks no second question before the first is answered.
  private static func ask(_ session: inout AMQPSession, _ input: inout InputReader) -> Bool {
    let operation = input.byte()
    switch operation % 16 {
    case 0: promise(session.publish(message) == session.lastTag, "the tag is the last one")
    case 1: session.openChannel(operation & 16 == 0 ? AMQPSession.declaring : AMQPSession.consuming)
    case 2: session.declareExchange("x", type: "fanout")
    case 3: session.countQueue("q")
    case 4: session.consume("q", as: "create")
    case 5: session.closeChannel(AMQPSession.consuming)
    case 6: session.settle(UInt64(operation), requeues: nil)
    case 7: session.close()
    default: return false
    }
    promise((session.takeOutput()?.readableBytes ?? 0) > 0, "what is done is sent")
    return true
  }

  /// - Returns: whether the connection goes on.
  private static func take(_ bytes: [UInt8], _ pieceLength: Int, _ session: inout AMQPSession) -> Bool {
    var rest = bytes[...]
    while !rest.isEmpty {
      let piece = rest.prefix(pieceLength)
      rest = rest.dropFirst(pieceLength)
      session.receive(ByteBuffer(bytes: piece))
      do throws(AMQPFailure) {
        while let event = try session.next() { check(event, session) }
      } catch {
        promise(!error.reason.isEmpty && !error.reason.contains("\n"), "an end has a reason, in one line")
        return false
      }
      promise(session.waitingBytes < AMQPSession.frameLimit, "less than a frame waits")
    }
    return true
  }

  private static func check(_ event: AMQPSession.Event, _ session: AMQPSession) {
    switch event {
    case .acknowledged(let tag, _), .rejected(let tag, _):
      promise(tag > 0 && tag <= session.lastTag, "only messages that were sent are confirmed")
    case .delivered(let delivery):
      promise((delivery.body?.count ?? 0) <= AMQPSession.bodyLimit, "a body is within its limit")
    case .refused(let failure): promise(failure.code != nil, "a refusal has a code")
    case .returned(_, let reason), .blocked(let reason): promise(!reason.contains("\n"), "a reason is one line")
    default: break
    }
  }

  private static func end(_ session: inout AMQPSession) { _ = session.takeOutput() }

  // MARK: - What the broker sends

  private static func bytes(_ input: inout InputReader) -> [UInt8] {
    let operation = input.byte()
    let length = Int(input.byte())
    switch operation & 3 {
    case 0: return input.take(length)
    case 1:
      let (classID, methodID) = methods[input.index(below: methods.count)]
      return frame(1, UInt16(operation >> 2 & 3), big(classID) + big(methodID) + input.take(length))
    case 2:
      let size = operation & 128 == 0 ? UInt64(input.byte()) : input.number(bytes: 8)
      return frame(2, UInt16(operation >> 2 & 3), big(UInt16(60)) + [0, 0] + big(size) + input.take(length))
    default:
      // A long one, too.
      let body = input.take(length)
      return frame(
        operation & 128 == 0 ? 3 : 8, UInt16(operation >> 2 & 3),
        operation & 64 == 0 ? body : Array(repeating: 7, count: 64 * length))
    }
  }

  private static let loginOfBroker =
    frame(
      1, 0,
      big(UInt16(10)) + big(UInt16(10)) + [0, 9] + big(UInt32(0)) + big(UInt32(5)) + Array("PLAIN".utf8)
        + big(UInt32(0)))
    + frame(1, 0, big(UInt16(10)) + big(UInt16(30)) + big(UInt16(2047)) + big(UInt32(131_072)) + big(UInt16(60)))
    + frame(1, 0, big(UInt16(10)) + big(UInt16(41)) + [0])
    + frame(1, 1, big(UInt16(20)) + big(UInt16(11)) + big(UInt32(0)))
    + frame(1, 1, big(UInt16(85)) + big(UInt16(11)))

  private static func frame(_ type: UInt8, _ channel: UInt16, _ payload: [UInt8]) -> [UInt8] {
    [type] + big(channel) + big(UInt32(payload.count)) + payload + [0xCE]
  }

  private static func big(_ number: some FixedWidthInteger) -> [UInt8] {
    withUnsafeBytes(of: number.bigEndian) { Array($0) }
  }
}
