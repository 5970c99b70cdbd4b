import CSanitizer
import Logging
import NIOCore
import NIOHTTP1

@testable import RegisPayParts

/// A server's connection whose client sends the input. Requests are taken whole, one after another and within the limits,
/// the same ones however the bytes were cut into pieces; each has one answer, in order, and what is no request at most one
/// more, the last; a client that says nothing more is not waited for for ever; and what a client sends without end takes
/// no memory without end.
enum RequestsTarget {
  /// What an input says beside its bytes.
  private struct Flags {
    let closesInput, isPatient, isFlood: Bool

    init(_ byte: UInt8) {
      closesInput = byte & 1 != 0
      isPatient = byte & 3 == 2
      isFlood = byte & 192 == 192
    }
  }

  private static let limits: HTTPLimits = {
    var limits = HTTPLimits()
    (limits.headBytes, limits.headFields, limits.uriBytes, limits.bodyBytes) = (200, 10, 100, 100)
    return limits
  }()
  /// How many requests may wait for one that is answered late.
  private static let fewRequests = 3
  /// More than an input has.
  private static let manyRequests = 100
  private static let floodBytes = 64 << 10
  /// Far more than the limits allow, and far less than a flood.
  private static let memoryLimit = 40 << 10
  /// Longer than every limit together.
  private static let longTime = TimeAmount.seconds(300)

  static func run(_ input: inout InputReader) {
    let flags = Flags(input.byte())
    let step = Int(input.byte()) + 1
    let text = input.takeRest()
    guard !flags.isFlood else { return flood(text, step, flags) }
    let whole = serve(text, step: max(1, text.count), pipelined: manyRequests, flags)
    let inPieces = serve(text, step: step, pipelined: manyRequests, flags)
    promise(whole == inPieces, "the same requests however they are cut: \(whole), \(inPieces)")
    _ = serve(text, step: step, pipelined: fewRequests, flags)
  }

  private static func serve(_ text: [UInt8], step: Int, pipelined: Int, _ flags: Flags) -> Served {
    let client = Client(pipelined: pipelined, keepsRequests: true)
    for start in stride(from: 0, to: text.count, by: step) where client.channel.isActive {
      client.send(text[start..<min(start + step, text.count)])
    }
    if flags.closesInput {
      client.closeInput()
    } else if flags.isPatient {
      client.wait(longTime)
    }
    if flags.closesInput { client.wait(longTime) }
    let exchanges = client.server.exchanges
    let isEndless = exchanges.requests.last?.isEndless ?? false
    let isOver = flags.closesInput || (flags.isPatient && !isEndless)
    promise(!isOver || !client.channel.isActive, "a client that says nothing more is not waited for")
    let answers = SentAnswers(client.written, to: exchanges.requests)
    client.end()
    if isOver && !isEndless {
      promise(answers.count == exchanges.requests.count, "each request is answered: \(answers), \(exchanges.requests)")
    }
    // How long a head has been waited for depends on when its first byte was seen.
    return Served(requests: exchanges.requests, saysEnd: flags.isPatient ? nil : answers.saysEnd)
  }

  private struct Served: Equatable {
    var requests: [Exchanges.Taken]
    /// The client is told that what else it sent was not taken. Nil if it depends on the time.
    var saysEnd: Bool?
  }

  private static func flood(_ text: [UInt8], _ step: Int, _ flags: Flags) {
    guard !text.isEmpty else { return }
    let client = Client(pipelined: fewRequests, keepsRequests: false)
    let piece = Array(repeatElement(text, count: 1 + step * 2 / text.count).joined())
    let before = csanitizer_allocated()
    var sent = 0
    while sent < floodBytes, client.channel.isActive {
      client.send(piece[...])
      client.written = []
      sent += piece.count
      let grown = Int(csanitizer_allocated()) - Int(before)
      promise(grown < memoryLimit, "a flood takes no memory: \(grown) bytes after \(sent)")
    }
    client.end()
  }

  /// The server's side of one connection, and what it writes.
  private final class Client: EmbeddedPeer {
    let server: Server

    init(pipelined: Int, keepsRequests: Bool) {
      server = Server(exchanges: Exchanges(keepsRequests: keepsRequests))
      super.init()
      var limits = RequestsTarget.limits
      limits.pipelinedRequests = pipelined
      do {
        let pipeline = channel.pipeline.syncOperations
        try pipeline.addHandler(HalfClosing())
        // A head with this path is refused before its body.
        let refusal = Problem.notFound("There is nothing here.")
        try ConnectionGuard(limits: limits, table: table, internalToken: RequestsTarget.internalToken) { head, _ in
          head.path?.hasPrefix("/r") == true ? refusal : nil
        }.addHandlers(to: pipeline)
        try pipeline.addHandler(
          HTTPServerHandler(
            responder: server, idleTime: TimeAmount(limits.idleTime),
            logger: Logger(label: "fuzz") { _ in ErrorsAreBroken() }))
        try channel.connect(to: try SocketAddress(unixDomainSocketPath: "/client")).wait()
      } catch {
        broken("the connection is made: \(error)")
      }
    }

    override func end() {
      super.end()
      promise(server.exchanges.running == 0, "no answer goes on without its connection")
    }
  }

  private static let internalToken = InternalToken()
}

/// An embedded channel knows no closing of one side: here it goes on reading after its output is closed, as a socket does.
private final class HalfClosing: ChannelOutboundHandler {
  typealias OutboundIn = ByteBuffer

  private var isClosed = false

  func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
    if isClosed { broken("nothing is written behind the last answer") }
    context.write(data, promise: promise)
  }

  func close(context: ChannelHandlerContext, mode: CloseMode, promise: EventLoopPromise<Void>?) {
    guard mode == .output else { return context.close(mode: mode, promise: promise) }
    isClosed = true
    promise?.succeed()
  }
}
