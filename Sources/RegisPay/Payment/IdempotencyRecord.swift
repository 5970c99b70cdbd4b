import LogStore

/// The record of a request under an idempotency key, on the log. One append holds the record and the request's effect, so that a
/// crash leaves both or neither. Each key has a stream, whose last event counts.
///
/// A key is never taken without an outcome: of concurrent requests one is appended first, and the others find its record.
struct IdempotencyRecord: Sendable, Hashable {
  /// What the request did.
  enum Outcome: Sendable, Hashable {
    /// It created a payment.
    case created(PaymentID)
    /// It changed a payment, up to this version of its stream. The response shows the payment at that version.
    case changed(PaymentID, version: UInt64)
    /// The payment's state forbade it; nothing changed.
    case refused(name: String, detail: String)
  }

  static let eventType = "RequestAnswered"
  private static let streamPrefix = "request:"

  /// A digest of the request. It tells a repeat from another request with the same key.
  var fingerprint: String
  var outcome: Outcome
  /// When the request came, by ``LeastTime``; nil in a record of an earlier version.
  var leastMicroseconds: UInt64?

  /// The stream of a key.
  ///
  /// - Parameter digest: of the key. The key itself belongs to the client and stays out of the log.
  static func stream(_ digest: String) -> String { streamPrefix + digest }

  var payload: [UInt8] {
    let result: JSONValue =
      switch outcome {
      case .created(let id): ["created": .string(id.description)]
      case .changed(let id, let version): ["changed": .string(id.description), "version": .integer(version)]
      case .refused(let name, let detail): ["refused": .string(name), "detail": .string(detail)]
      }
    var members: [JSONValue.Member] = [.init("request", .string(fingerprint)), .init("outcome", result)]
    if let leastMicroseconds { members.append(.init("leastMicroseconds", .integer(leastMicroseconds))) }
    return JSONValue.object(members).bytes
  }

  /// - Throws: when the event is not such a record.
  init(_ event: Event) throws(IdempotencyRecordError) {
    let unreadable = IdempotencyRecordError(offset: event.offset)
    guard event.type == Self.eventType, let json = try? JSONReader.read(event.payload),
      let fingerprint = json["request"]?.text, let outcome = json["outcome"]
    else { throw unreadable }
    self.fingerprint = fingerprint
    if case .number(let text)? = json["leastMicroseconds"] { leastMicroseconds = UInt64(text) }
    if let id = outcome["created"]?.text.flatMap({ PaymentID($0) }) {
      self.outcome = .created(id)
    } else if let id = outcome["changed"]?.text.flatMap({ PaymentID($0) }), case .number(let text) = outcome["version"],
      let version = UInt64(text)
    {
      self.outcome = .changed(id, version: version)
    } else if let name = outcome["refused"]?.text, let detail = outcome["detail"]?.text {
      self.outcome = .refused(name: name, detail: detail)
    } else {
      throw unreadable
    }
  }

  init(fingerprint: String, outcome: Outcome, leastMicroseconds: UInt64?) {
    self.fingerprint = fingerprint
    self.outcome = outcome
    self.leastMicroseconds = leastMicroseconds
  }
}

/// The record of a key can't be read. A newer program may have written it.
struct IdempotencyRecordError: Error, CustomStringConvertible {
  var offset: UInt64

  var description: String { "the record of a request at offset \(offset) can't be read" }
}
