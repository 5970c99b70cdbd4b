import LogStore

/// A request that was made under an idempotency key, as the log keeps it: with what it did, in the same append, so that a
/// crash leaves either both or neither. Each key has a stream; its last event is the one that counts.
///
/// There is no moment at which a key is taken and its answer is not there yet: of requests at once one is appended first,
/// and the others find its record.
struct IdempotencyRecord: Sendable, Hashable {
  /// What was done for it.
  enum Outcome: Sendable, Hashable {
    /// A payment began.
    case created(PaymentID)
    /// A payment was changed, up to this version of its stream; how it stood then is the answer.
    case changed(PaymentID, version: UInt64)
    /// The payment's state forbade it; nothing was changed.
    case refused(name: String, detail: String)
  }

  static let eventType = "RequestAnswered"
  private static let streamPrefix = "request:"

  /// A digest of the request, by which a repeat is told from another request with the same key.
  var fingerprint: String
  var outcome: Outcome

  /// The stream of a key.
  ///
  /// - Parameter digest: of the key, which itself is a client's business and stays out of the log.
  static func stream(_ digest: String) -> String { streamPrefix + digest }

  var payload: [UInt8] {
    let result: JSONValue =
      switch outcome {
      case .created(let id): ["created": .string(id.description)]
      case .changed(let id, let version): ["changed": .string(id.description), "version": .integer(version)]
      case .refused(let name, let detail): ["refused": .string(name), "detail": .string(detail)]
      }
    return (["request": .string(fingerprint), "outcome": result] as JSONValue).bytes
  }

  /// - Throws: when the event is none of ours.
  init(_ event: Event) throws(IdempotencyRecordError) {
    let unreadable = IdempotencyRecordError(offset: event.offset)
    guard event.type == Self.eventType, let json = try? JSONReader.read(event.payload),
      let fingerprint = json["request"]?.text, let outcome = json["outcome"]
    else { throw unreadable }
    self.fingerprint = fingerprint
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

  init(fingerprint: String, outcome: Outcome) {
    self.fingerprint = fingerprint
    self.outcome = outcome
  }
}

/// The record of a key can't be read; a newer program may have written it.
struct IdempotencyRecordError: Error, CustomStringConvertible {
  var offset: UInt64

  var description: String { "the record of a request at offset \(offset) can't be read" }
}
