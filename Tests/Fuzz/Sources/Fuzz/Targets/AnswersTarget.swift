import CSanitizer
import NIOCore
import NIOEmbedded
import NIOHTTP1

@testable import RegisPayParts

/// A client's connection whose peer answers with the input. Every call ends once, in an answer within the limits or in a
/// failure, the same however the bytes were cut into pieces; a connection that is kept for the next call holds nothing of
/// an answer that no call asked for; and what a peer sends without end takes no memory without end.
enum AnswersTarget {
  /// What an input says beside its bytes.
  private struct Flags {
    let cutsBody, validatesHeads, isHead, hasSink, waitsForCall, callsAgain, isFlood: Bool

    init(_ byte: UInt8) {
      cutsBody = byte & 1 != 0
      validatesHeads = byte & 2 != 0
      waitsForCall = byte & 4 != 0
      callsAgain = byte & 8 == 0
      hasSink = byte & 16 != 0
      isHead = byte & 32 != 0
      isFlood = byte & 192 == 192
    }
  }

  private static let limits = ResponseReader.Limits(bodyBytes: 100, headBytes: 200, headFields: 10, interimResponses: 3)
  private static let pieceLimit = 64
  /// Of an answer that goes on and on.
  private static let floodBytes = 64 << 10
  /// Far more than the limits allow, and far less than a flood.
  private static let memoryLimit = 24 << 10

  static func run(_ input: inout InputReader) {
    let flags = Flags(input.byte())
    let step = Int(input.byte()) % pieceLimit + 1
    let text = input.takeRest()
    guard !flags.isFlood else { return flood(text, step, flags) }
    calls(text, step, flags)
    let whole = outcome(of: text, step: text.count, flags)
    let inPieces = outcome(of: text, step: step, flags)
    promise(whole == inPieces, "a call ends alike however its answer is cut: \(whole), \(inPieces)")
  }

  /// Call after call, as long as the connection is there.
  private static func calls(_ text: [UInt8], _ step: Int, _ flags: Flags) {
    let peer = Peer(flags)
    if !flags.waitsForCall { peer.call() }
    for start in stride(from: 0, to: text.count, by: step) where peer.channel.isActive {
      let calls = peer.outcomes.count
      peer.send(text[start..<min(start + step, text.count)])
      promise(peer.outcomes.count <= calls + 1, "a call has one end")
      guard peer.channel.isActive, !peer.isInFlight else { continue }
      promise(peer.reader.isFree, "an open connection without a call is free")
      checkNothingIsLeft(peer.sentSinceCall, flags)
      if flags.callsAgain || peer.callCount == 0 { peer.call() }
    }
    peer.end()
    promise(peer.outcomes.count == peer.callCount, "every call ends")
  }

  /// A connection is free only if its peer has sent the answer and no byte more: an answer that has begun unasked would be
  /// taken for the next call's. Empty lines between answers are none's.
  private static func checkNothingIsLeft(_ bytes: [UInt8], _ flags: Flags) {
    guard let last = bytes.lastIndex(where: { $0 != 13 && $0 != 10 }) else { return }
    let peer = Peer(flags)
    peer.call()
    peer.send(bytes[..<last])
    promise(peer.outcomes.isEmpty, "a free connection holds nothing of another answer")
    peer.end()
  }

  /// What becomes of one call.
  private static func outcome(of text: [UInt8], step: Int, _ flags: Flags) -> Peer.Outcome {
    let peer = Peer(flags)
    peer.call()
    for start in stride(from: 0, to: text.count, by: max(step, 1)) where peer.isInFlight && peer.channel.isActive {
      peer.send(text[start..<min(start + step, text.count)])
    }
    peer.end()
    guard let outcome = peer.outcomes.first else { broken("a call ends with its connection") }
    return outcome
  }

  /// The input again and again.
  private static func flood(_ text: [UInt8], _ step: Int, _ flags: Flags) {
    guard !text.isEmpty else { return }
    let peer = Peer(flags)
    peer.call()
    // In pieces of the whole input's length, as a peer with much to say sends them.
    let piece = Array(repeatElement(text, count: 1 + step * 8 / text.count).joined())
    let before = csanitizer_allocated()
    var sent = 0
    while sent < floodBytes, peer.channel.isActive {
      peer.send(piece[...])
      sent += piece.count
      if flags.callsAgain, peer.channel.isActive, !peer.isInFlight { peer.call() }
      let grown = Int(csanitizer_allocated()) - Int(before)
      promise(grown < memoryLimit, "a flood takes no memory: \(grown) bytes after \(sent)")
    }
    peer.end()
  }

  /// One connection, with what became of the calls on it.
  private final class Peer: ResponseReaderDelegate {
    enum Outcome: Equatable {
      case answered(status: UInt, fields: [String], body: [UInt8])
      case failed(receivedNothing: Bool)
    }

    let channel = EmbeddedChannel()
    let reader: ResponseReader
    private(set) var isInFlight = false
    private(set) var callCount = 0
    /// The last few: a flood may be of answers.
    private(set) var outcomes: [Outcome] = []
    private(set) var sentSinceCall: [UInt8] = []
    private var hasFailed = false
    private var closeCount = 0
    private let flags: Flags

    init(_ flags: Flags) {
      self.flags = flags
      var limits = AnswersTarget.limits
      limits.truncatesBody = flags.cutsBody
      reader = ResponseReader(limits)
      reader.delegate = self
      do {
        try reader.addHandlers(to: channel.pipeline.syncOperations, validatesHeads: flags.validatesHeads)
        try channel.connect(to: try SocketAddress(unixDomainSocketPath: "/peer")).wait()
      } catch {
        broken("the connection is made: \(error)")
      }
    }

    func call() {
      isInFlight = true
      callCount += 1
      sentSinceCall = []
      let sink: @Sendable (ByteBuffer) -> Void = { _ in }
      reader.expect(sink: flags.hasSink ? sink : nil)
      let head = HTTPRequestHead(
        version: .http1_1, method: flags.isHead ? .HEAD : .POST, uri: "/",
        headers: ["Host": "peer", "Content-Length": "2"])
      channel.write(HTTPClientRequestPart.head(head), promise: nil)
      channel.write(HTTPClientRequestPart.body(.byteBuffer(ByteBuffer(string: "{}"))), promise: nil)
      channel.writeAndFlush(HTTPClientRequestPart.end(nil), promise: nil)
      dropWritten()
    }

    func send(_ bytes: ArraySlice<UInt8>) {
      if !flags.isFlood { sentSinceCall += bytes }
      do {
        try channel.writeInbound(ByteBuffer(bytes: bytes))
      } catch {
        // What goes wrong is the delegate's to know.
      }
      channel.embeddedEventLoop.run()
      dropWritten()
    }

    /// The peer closes.
    func end() {
      do {
        _ = try channel.finish(acceptAlreadyClosed: true)
      } catch {
        // As above.
      }
      channel.embeddedEventLoop.run()
      promise(!isInFlight, "a call ends with its connection")
      promise(closeCount == 1, "a connection is closed once: \(closeCount)")
    }

    private func dropWritten() {
      do {
        while try channel.readOutbound(as: ByteBuffer.self) != nil {}
      } catch {
        broken("bytes are written: \(error)")
      }
    }

    func received(_ head: HTTPResponseHead, _ body: [UInt8]) {
      promise(isInFlight, "an answer is to a call")
      promise(body.count <= AnswersTarget.limits.bodyBytes, "a body within the limit")
      promise(head.headers.count <= AnswersTarget.limits.headFields, "fields within the limit")
      if let field = head.headers.first(name: "Retry-After"),
        let wait = RetryAfter.wait(field, date: head.headers.first(name: "Date"), nowSeconds: 1_700_000_000)
      {
        promise(wait >= .zero && wait <= .seconds(400 * 86_400), "a wait within the limit: \(wait)")
      }
      _ = StatusMeaning(Int(head.status.code))
      note(.answered(status: head.status.code, fields: head.headers.map { "\($0.name): \($0.value)" }, body: body))
    }

    func failed(_ reason: String, receivedNothing: Bool) {
      promise(isInFlight, "a failure is of a call")
      promise(!hasFailed, "a connection fails once")
      hasFailed = true
      note(.failed(receivedNothing: receivedNothing))
    }

    private func note(_ outcome: Outcome) {
      isInFlight = false
      if flags.isFlood { outcomes = [] }
      outcomes.append(outcome)
    }

    func becameFree() {
      promise(!isInFlight && !hasFailed && closeCount == 0, "free is what has no call and is open")
    }

    func closed() { closeCount += 1 }
  }
}
