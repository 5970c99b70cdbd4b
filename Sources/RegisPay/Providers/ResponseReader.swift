import NIOCore
import NIOHTTP1

/// Hears what becomes of the calls on one connection. Called on the connection's event loop.
protocol ResponseReaderDelegate: AnyObject {
  /// The response is complete, or as much of it as the limits take.
  func received(_ head: HTTPResponseHead, _ body: [UInt8])
  /// The call has no response, and the connection is closed.
  ///
  /// - Parameter receivedNothing: no byte of a response had come.
  func failed(_ reason: String, receivedNothing: Bool)
  /// The connection can take the next call.
  func becameFree()
  func closed()
}

/// Reads the responses on one client connection. Whatever the other side sends ends in a response or in a failure, within
/// the limits: the peer may be broken or hostile. It must not end the process, fill its memory, or have bytes that it sent
/// unasked taken for the response to a later call.
///
/// Lives on its connection's event loop, at the end of the pipeline that ``addHandlers(to:validatesHeads:)`` makes.
final class ResponseReader: ChannelInboundHandler {
  typealias InboundIn = HTTPClientResponsePart

  struct Limits: Sendable {
    /// Bytes of a response's body.
    var bodyBytes: Int
    /// A longer body is cut and the response counts; otherwise the call fails.
    var truncatesBody = false
    /// Bytes of a response's fields, trailers included.
    var headBytes = 64 << 10
    /// Fields of a response, trailers included.
    var headFields = 256
    /// Interim responses (1xx) before the response.
    var interimResponses = 16
  }

  private enum State {
    /// No call waits for a response: nothing may come.
    case free
    case waiting(interimResponses: Int)
    case reading(HTTPResponseHead, byteCount: Int)
    /// The response is complete. The connection is free once the bytes that came with it are checked.
    case complete(isKeptAlive: Bool)
    case closed
  }

  private let limits: Limits
  private let reason: @Sendable (any Error) -> String?
  private var state = State.free
  private var body: [UInt8] = []
  private var sink: (@Sendable (ByteBuffer) -> Void)?
  private var context: ChannelHandlerContext?
  /// The bytes that the decoder was given last, until they are checked.
  private var lastRead: ByteBuffer?
  /// What the decoder made of them: complete heads, and bytes of bodies.
  private var headsRead = 0
  private var bodyBytesRead = 0
  /// The last bytes read before those: the end of a head may span both.
  private var bytesBefore: [UInt8] = []
  /// Released when the connection is closed.
  var delegate: (any ResponseReaderDelegate)?

  /// - Parameter reason: puts an error of the handlers in front of this one into words; nil for the error's own text.
  init(_ limits: Limits, reason: @escaping @Sendable (any Error) -> String? = { _ in nil }) {
    self.limits = limits
    self.reason = reason
  }

  /// Adds the HTTP/1 client's handlers with this one as the last.
  ///
  /// - Parameter validatesHeads: refuses to send heads that HTTP does not allow.
  func addHandlers(to pipeline: ChannelPipeline.SynchronousOperations, validatesHeads: Bool) throws {
    var decoderLimits = NIOHTTPDecoderLimitConfiguration()
    decoderLimits.maxHeaderFieldSize = limits.headBytes
    decoderLimits.maxHeaderListSize = limits.headBytes
    decoderLimits.maxHeaderFieldCount = limits.headFields
    try pipeline.addHandler(StrayBytesGuard(self))
    try pipeline.addHandler(HTTPRequestEncoder())
    try pipeline.addHandler(
      ByteToMessageHandler(
        HTTPResponseDecoder(
          leftOverBytesStrategy: .dropBytes, informationalResponseStrategy: .forward,
          limitConfiguration: decoderLimits)))
    if validatesHeads { try pipeline.addHandler(NIOHTTPRequestHeadersValidator()) }
    try pipeline.addHandler(self)
  }

  /// Prepares for the response to a call that is about to be sent.
  ///
  /// - Parameter sink: receives the body of a 2xx piece by piece, of any length, instead of the delegate.
  func expect(sink: (@Sendable (ByteBuffer) -> Void)? = nil) {
    state = .waiting(interimResponses: 0)
    body = []
    self.sink = sink
  }

  /// Notes the bytes that the decoder is about to be given.
  fileprivate func willRead(_ bytes: ByteBuffer) {
    if let lastRead { bytesBefore = (bytesBefore + lastRead.readableBytesView.suffix(3)).suffix(3) }
    (lastRead, headsRead, bodyBytesRead) = (bytes, 0, 0)
  }

  var isFree: Bool { if case .free = state { true } else { false } }

  func handlerAdded(context: ChannelHandlerContext) { self.context = context }
  func handlerRemoved(context: ChannelHandlerContext) { end() }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    let part = unwrapInboundIn(data)
    switch part {
    case .head: headsRead += 1
    case .body(let bytes): bodyBytesRead += bytes.readableBytes
    case .end: break
    }
    switch (part, state) {
    case (.head(let head), .waiting(let count)) where Self.isInterim(head):
      guard count < limits.interimResponses else {
        return fail("more than \(limits.interimResponses) interim responses came before the response")
      }
      state = .waiting(interimResponses: count + 1)
    case (.head(let head), .waiting): state = .reading(head, byteCount: 0)
    case (.body(let part), .reading(let head, let count)): take(part, of: head, after: count)
    case (.end, .reading(let head, _)): finish(head)
    // The end of an interim response.
    case (.end, .waiting): break
    case (_, .closed): break
    // Bytes behind the response, which no call asked for: nothing that follows can be trusted to be a response.
    case (_, .free), (_, .complete): close()
    case (let part, .waiting), (let part, .reading): fail("its response is out of order: \(part)")
    }
  }

  func channelReadComplete(context: ChannelHandlerContext) {
    if case .complete(let isKeptAlive) = state {
      guard isKeptAlive, endsWithResponse else { return close() }
      (lastRead, bytesBefore) = (nil, [])
      state = .free
      delegate?.becameFree()
    }
    context.fireChannelReadComplete()
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    fail(reason(error) ?? "\(error)")
  }

  func channelInactive(context: ChannelHandlerContext) {
    fail("the connection was closed")
    end()
    context.fireChannelInactive()
  }

  /// Whether a head is one that precedes the response. A change of protocol (101) was not asked for: it is a wrong response.
  private static func isInterim(_ head: HTTPResponseHead) -> Bool {
    (100..<200).contains(head.status.code) && head.status.code != 101
  }

  private func take(_ part: ByteBuffer, of head: HTTPResponseHead, after count: Int) {
    if let sink, (200..<300).contains(head.status.code) { return sink(part) }
    let count = count + part.readableBytes
    state = .reading(head, byteCount: count)
    guard count > limits.bodyBytes else { return body.append(contentsOf: part.readableBytesView) }
    guard limits.truncatesBody else { return fail("its response has more than \(limits.bodyBytes) bytes") }
    body.append(contentsOf: part.readableBytesView.prefix(limits.bodyBytes - body.count))
    finish(head)
    close()
  }

  private func finish(_ head: HTTPResponseHead) {
    // After 101 the bytes are no HTTP; nothing below 200 ends an exchange.
    state = .complete(isKeptAlive: head.isKeepAlive && head.status.code >= 200)
    delegate?.received(head, body)
    sink = nil
  }

  /// Whether the bytes read last end where the response does. The decoder silently keeps the beginning of another response,
  /// which would become a part of the response to the next call.
  private var endsWithResponse: Bool {
    guard let lastRead else { return false }
    let bytes = lastRead.readableBytesView
    // The end of a head, of the last chunk or of trailers. The decoder skips empty lines before the next response.
    if (bytesBefore + bytes.suffix(4)).suffix(4).elementsEqual(Self.headEnd) { return true }
    // Otherwise the last byte of a body, which may be all that was read.
    guard headsRead > 0 else { return bytes.count == bodyBytesRead }
    // Lines that end in another way are not HTTP: a connection whose decoder accepts them is closed.
    var heads = 0
    var matched = 0
    for (position, byte) in (bytesBefore + bytes).enumerated() {
      matched = byte == Self.headEnd[matched] ? matched + 1 : byte == Self.headEnd[0] ? 1 : 0
      guard matched == Self.headEnd.count else { continue }
      (heads, matched) = (heads + 1, 0)
      if heads == headsRead { return bytesBefore.count + bytes.count - position - 1 == bodyBytesRead }
    }
    return false
  }

  private static let headEnd: [UInt8] = Array("\r\n\r\n".utf8)

  private func fail(_ reason: String) {
    let receivedNothing: Bool
    switch state {
    case .waiting(let count): receivedNothing = count == 0
    case .reading: receivedNothing = false
    case .free, .complete, .closed: return close()
    }
    state = .closed
    delegate?.failed(reason, receivedNothing: receivedNothing)
    close()
  }

  private func close() {
    state = .closed
    context?.close(promise: nil)
  }

  private func end() {
    state = .closed
    context = nil
    delegate?.closed()
    delegate = nil
  }
}

/// Closes the connection when bytes come while no call waits for a response, before the decoder sees them: the head of a
/// response that begins before a call would otherwise be taken for the response to that call.
private final class StrayBytesGuard: ChannelInboundHandler {
  typealias InboundIn = ByteBuffer

  private let reader: ResponseReader

  init(_ reader: ResponseReader) { self.reader = reader }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    guard !reader.isFree else { return context.close(promise: nil) }
    reader.willRead(unwrapInboundIn(data))
    context.fireChannelRead(data)
  }
}
