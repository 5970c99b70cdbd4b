import Logging
import NIOCore
import NIOEmbedded

@testable import RegisPayParts

/// A server's HTTP/2 connection whose client sends the input: bytes, or frames that the input describes. A client that says nothing more is
/// not waited for for ever, and a closed connection leaves nothing behind.
enum FramesTarget {
  /// What an input says beside its frames.
  private struct Flags {
    let isRaw, closesInput, isPatient, stops: Bool

    init(_ byte: UInt8) {
      isRaw = byte & 1 != 0
      closesInput = byte & 2 != 0
      isPatient = byte & 4 != 0
      stops = byte & 8 != 0
    }
  }

  private static let limits: HTTPLimits = {
    var limits = HTTPLimits()
    (limits.headBytes, limits.headFields, limits.uriBytes, limits.bodyBytes) = (200, 10, 100, 100)
    return limits
  }()
  /// Longer than every limit together.
  private static let longTime = TimeAmount.seconds(300)
  private static let preface = Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8)

  static func run(_ input: inout InputReader) {
    let flags = Flags(input.byte())
    let step = Int(input.byte()) + 1
    let bytes = flags.isRaw ? input.takeRest() : frames(&input)
    // What is taken may depend on the pieces: a frame that breaks the protocol for a stream that is open does more where it is closed.
    serve(bytes, step: max(1, bytes.count), flags)
    serve(bytes, step: step, flags)
  }

  // MARK: - The client's bytes

  private static func frames(_ input: inout InputReader) -> [UInt8] {
    var bytes = preface + frame(4, 0, 0, [])
    while !input.isAtEnd, bytes.count < 4_000 {
      let kind = input.byte()
      let stream = UInt32(input.byte())
      switch kind % 16 {
      case 0...3: bytes += frame(1, kind & 0x40 == 0 ? 5 : 4, stream | 1, fields(&input))
      case 4...5: bytes += frame(0, kind & 0x40 == 0 ? 1 : 0, stream | 1, input.take(Int(input.byte() & 127)))
      case 6: bytes += frame(3, 0, stream | 1, [0, 0, 0, input.byte() & 15])
      case 7: bytes += frame(8, 0, stream, [0, 0, input.byte(), input.byte()])
      case 8: bytes += frame(4, 0, 0, [0, input.byte() & 7, 0, 0, input.byte(), input.byte()])
      case 9: bytes += frame(9, kind & 0x40 == 0 ? 4 : 0, stream | 1, input.take(Int(input.byte() & 31)))
      // Anything else, with a length that is right or wrong.
      default:
        let payload = input.take(Int(input.byte() & 63))
        bytes += frame(input.byte(), input.byte(), stream, payload, length: kind & 0x80 == 0 ? nil : Int(input.byte()))
      }
    }
    return bytes
  }

  private static func frame(_ kind: UInt8, _ flags: UInt8, _ stream: UInt32, _ payload: [UInt8], length: Int? = nil)
    -> [UInt8]
  {
    let length = length ?? payload.count
    return [0, UInt8(truncatingIfNeeded: length >> 8), UInt8(truncatingIfNeeded: length), kind, flags]
      + (0..<4).reversed().map { UInt8(truncatingIfNeeded: stream >> (8 * $0)) } + payload
  }

  /// The fields of a request, and some that the input has.
  private static func fields(_ input: inout InputReader) -> [UInt8] {
    let choice = input.byte()
    // Of HPACK's static table: GET or POST, https.
    var block: [UInt8] = [choice & 1 == 0 ? 0x82 : 0x83, 0x87]
    block += literal(1, "a")
    block += literal(4, ["/", "/l", "/s", "/e", "/n", "/r", "*", "x"][Int(choice >> 1) % 8])
    if choice & 0x10 != 0 { block += literal(28, "\(input.byte() & 127)") }
    if choice & 0x20 != 0 { block += literal(35, "100-continue") }
    if choice & 0x40 != 0 { block += input.take(Int(input.byte() & 31)) }
    if choice & 0x80 != 0 { block += [0x40, 1, input.byte(), 2, input.byte(), input.byte()] }
    return block
  }

  /// A field that is not indexed, whose name is.
  private static func literal(_ name: UInt8, _ value: String) -> [UInt8] {
    (name < 15 ? [name] : [15, name - 15]) + [UInt8(value.utf8.count)] + Array(value.utf8)
  }

  // MARK: - The server

  private static func serve(_ bytes: [UInt8], step: Int, _ flags: Flags) {
    let client = Client()
    for start in stride(from: 0, to: bytes.count, by: step) where client.channel.isActive {
      client.send(bytes[start..<min(start + step, bytes.count)])
    }
    if flags.stops {
      client.connection.stop()
      client.wait(.seconds(1))
    }
    if flags.closesInput { client.closeInput() }
    let hasEndless = client.server.exchanges.requests.contains(where: \.isEndless)
    if flags.isPatient || flags.closesInput { client.wait(longTime) }
    let isOver = flags.closesInput || (flags.isPatient && !hasEndless)
    promise(!isOver || !client.channel.isActive, "a client that says nothing more is not waited for")
    client.end()
  }

  private final class Client: EmbeddedPeer {
    let server = Server(exchanges: Exchanges(keepsRequests: true))
    let connection: HTTP2Connection
    private let streams = ConnectionTable(limit: 4, limitPerAddress: nil)

    init() {
      let channel = EmbeddedChannel()
      let table = ConnectionTable(limit: 4, limitPerAddress: nil)
      do {
        try channel.connect(to: try SocketAddress(unixDomainSocketPath: "/client")).wait()
        let entry = ConnectionTable.Connection(channel)
        promise(table.admit(entry), "there is room")
        let logger = Logger(label: "fuzz") { _ in ErrorsAreBroken() }
        connection = HTTP2Connection(limits: FramesTarget.limits, table: table, entry: entry, logger: logger)
        // A head with this path is refused before its body.
        let refusal = Problem.notFound("There is nothing here.")
        try connection.addHandlers(
          to: channel, streams: streams, checkHead: { head, _ in head.path?.hasPrefix("/r") == true ? refusal : nil },
          metrics: nil
        ) { [server] in
          HTTPServerHandler(responder: server, idleTime: TimeAmount(FramesTarget.limits.idleTime), logger: logger)
        }
      } catch {
        broken("the connection is made: \(error)")
      }
      super.init(channel, table)
      settle()
    }

    override func end() {
      super.end()
      promise(streams.count == 0, "a closed connection has no streams")
      promise(server.exchanges.running == 0, "no answer goes on without its connection")
    }
  }
}
