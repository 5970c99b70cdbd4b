import NIOCore
import NIOHTTP1

/// What comes of the calls on one connection. Called on the connection's event loop.
protocol AnswerReaderDelegate: AnyObject {
  /// The whole answer, or as much of it as is wanted.
  func answered(_ head: HTTPResponseHead, _ body: [UInt8])
  /// The call has no answer, and the connection is closed.
  ///
  /// - Parameter isUnanswered: nothing of an answer had come.
  func failed(_ reason: String, isUnanswered: Bool)
  /// The connection can take the next call.
  func becameFree()
  func closed()
}

/// Reads the answers on one client connection. Whatever the other side sends ends in an answer or in a failure, within
/// these limits: the peer may be broken or hostile, and must not end the process, fill its memory or have what it sent
/// unasked taken for the answer to a later call.
///
/// Lives on its connection's event loop, at the end of the pipeline that ``addHandlers(to:validatesHeads:)`` makes.
final class AnswerReader: ChannelInboundHandler {
  typealias InboundIn = HTTPClientResponsePart

  struct Limits: Sendable {
    /// Bytes of an answer's body.
    var bodyBytes: Int
    /// An answer with a longer body is an answer too, without the rest; otherwise the call fails.
    var cutsBody = false
    /// Bytes of an answer's fields, trailers included.
    var headBytes = 64 << 10
    /// Fields of an answer, trailers included.
    var headFields = 256
    /// Interim answers (1xx) before the answer.
    var interimAnswers = 16
  }

  private enum State {
    /// No call waits for an answer: nothing may come.
    case free
    case waiting(interimAnswers: Int)
    case reading(HTTPResponseHead, byteCount: Int)
    /// The answer is whole. The connection is free once what came with it has been looked at.
    case answered(isKept: Bool)
    case closed
  }

  private let limits: Limits
  private let reason: @Sendable (any Error) -> String?
  private var state = State.free
  private var body: [UInt8] = []
  private var sink: (@Sendable (ByteBuffer) -> Void)?
  private var context: ChannelHandlerContext?
  /// The bytes that the decoder was given last, until they have been looked at.
  private var lastRead: ByteBuffer?
  /// What it made of them: heads that were whole, and bytes of bodies.
  private var headsRead = 0
  private var bodyBytesRead = 0
  /// The last bytes of what was read before those, as the end of a head may be in both.
  private var bytesBefore: [UInt8] = []
  /// Released when the connection is closed.
  var delegate: (any AnswerReaderDelegate)?

  /// - Parameter reason: says in words what an error of the handlers in front of this one means; nil for the error's own text.
  init(_ limits: Limits, reason: @escaping @Sendable (any Error) -> String? = { _ in nil }) {
    self.limits = limits
    self.reason = reason
  }

  /// Adds the HTTP/1 client's handlers with this one as the last.
  ///
  /// - Parameter validatesHeads: refuses to send heads with what HTTP does not allow.
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

  /// A call is about to be sent: its answer may come.
  ///
  /// - Parameter sink: gets the body of a 2xx piece by piece, of any length, instead of the delegate.
  func expect(sink: (@Sendable (ByteBuffer) -> Void)? = nil) {
    state = .waiting(interimAnswers: 0)
    body = []
    self.sink = sink
  }

  /// The decoder is about to be given these bytes.
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
      guard count < limits.interimAnswers else {
        return fail("more than \(limits.interimAnswers) interim answers came before the answer")
      }
      state = .waiting(interimAnswers: count + 1)
    case (.head(let head), .waiting): state = .reading(head, byteCount: 0)
    case (.body(let part), .reading(let head, let count)): take(part, of: head, after: count)
    case (.end, .reading(let head, _)): finish(head)
    // The end of an interim answer.
    case (.end, .waiting): break
    // After the connection was given up.
    case (_, .closed): break
    // Bytes behind the answer, which no call asked for: what else comes here can't be trusted to be an answer.
    case (_, .free), (_, .answered): close()
    case (let part, .waiting), (let part, .reading): fail("its answer is out of order: \(part)")
    }
  }

  func channelReadComplete(context: ChannelHandlerContext) {
    if case .answered(let isKept) = state {
      guard isKept, endsWithAnswer else { return close() }
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

  /// Something to come before the answer. A change of protocol was not asked for: it is a wrong answer.
  private static func isInterim(_ head: HTTPResponseHead) -> Bool {
    (100..<200).contains(head.status.code) && head.status.code != 101
  }

  private func take(_ part: ByteBuffer, of head: HTTPResponseHead, after count: Int) {
    if let sink, (200..<300).contains(head.status.code) { return sink(part) }
    let count = count + part.readableBytes
    state = .reading(head, byteCount: count)
    guard count > limits.bodyBytes else { return body.append(contentsOf: part.readableBytesView) }
    guard limits.cutsBody else { return fail("its answer has more than \(limits.bodyBytes) bytes") }
    body.append(contentsOf: part.readableBytesView.prefix(limits.bodyBytes - body.count))
    finish(head)
    close()
  }

  private func finish(_ head: HTTPResponseHead) {
    // After 101 the bytes are no HTTP; nothing below 200 ends an exchange.
    state = .answered(isKept: head.isKeepAlive && head.status.code >= 200)
    delegate?.answered(head, body)
    sink = nil
  }

  /// Whether what was read last ends where the answer does. The decoder keeps the beginning of another answer to itself,
  /// which would become a part of the answer to the next call.
  private var endsWithAnswer: Bool {
    guard let lastRead else { return false }
    let bytes = lastRead.readableBytesView
    // The end of a head, of the last chunk or of trailers. The decoder passes over empty lines before the next answer.
    if (bytesBefore + bytes.suffix(4)).suffix(4).elementsEqual(Self.headEnd) { return true }
    // Or else the last byte of a body, which may be all that was read.
    guard headsRead > 0 else { return bytes.count == bodyBytesRead }
    // Lines that end otherwise are no HTTP: a connection on which they are taken for it is not kept.
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
    let isUnanswered: Bool
    switch state {
    case .waiting(let count): isUnanswered = count == 0
    case .reading: isUnanswered = false
    case .free, .answered, .closed: return close()
    }
    state = .closed
    delegate?.failed(reason, isUnanswered: isUnanswered)
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

/// Closes the connection when bytes come while no call waits for an answer, before the decoder makes something of them:
/// the head of an answer that begins before its call would otherwise be taken for that call's answer.
private final class StrayBytesGuard: ChannelInboundHandler {
  typealias InboundIn = ByteBuffer

  private let reader: AnswerReader

  init(_ reader: AnswerReader) { self.reader = reader }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    guard !reader.isFree else { return context.close(promise: nil) }
    reader.willRead(unwrapInboundIn(data))
    context.fireChannelRead(data)
  }
}
