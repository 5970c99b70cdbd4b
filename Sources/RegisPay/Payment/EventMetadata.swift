import Glibc

/// What an event on a payment's stream says beside the event itself: the trace that it belongs to, who asked for it, and the calls
/// that led to it. The member `metadata` of the event's data.
struct EventMetadata: Sendable, Hashable {
  /// Where the request came from that led to the event; nil if it named no trace.
  var trace: TraceContext?
  /// The API key whose holder commanded it; nil for what the server does by itself, for the creation of a payment, and on a server
  /// without keys.
  var actor: KeyHolder?
  /// The calls of the step that the event ends or delays, in their order; the last ones, if there were many.
  var calls: [CallRecord] = []

  static let name = "metadata"

  /// An event's data with this as a further member.
  ///
  /// - Parameter payload: a JSON object that has none yet.
  func added(to payload: [UInt8]) -> [UInt8] {
    guard let object else { return payload }
    var bytes = payload
    bytes.removeLast()
    if bytes.count > 1 { bytes.append(UInt8(ascii: ",")) }
    bytes += "\"\(Self.name)\":".utf8
    object.write(to: &bytes)
    bytes.append(UInt8(ascii: "}"))
    return bytes
  }

  /// Nil for nothing to say.
  private var object: JSONValue? {
    guard trace != nil || actor != nil || !calls.isEmpty else { return nil }
    var members: [JSONValue.Member] = []
    if let trace {
      members.append(.init("traceparent", .string(trace.parent.field)))
      if let state = trace.state { members.append(.init("tracestate", .string(state))) }
    }
    if let actor {
      members.append(.init("actor", .string(actor.name)))
      members.append(.init("actorKey", .string(actor.keyID)))
    }
    if !calls.isEmpty { members.append(.init("calls", .array(calls.map(\.json)))) }
    return .object(members)
  }

  init(trace: TraceContext? = nil, actor: KeyHolder? = nil, calls: [CallRecord] = []) {
    (self.trace, self.actor, self.calls) = (trace, actor, calls)
  }

  /// What an event's data say. Ignores what it does not know: a trace is never a reason to refuse an event.
  init(payload: [UInt8]) {
    guard Self.contains(payload, Self.nameBytes), let data = (try? JSONReader.read(payload))?[Self.name] else { return }
    trace = data["traceparent"]?.text.flatMap(TraceParent.init).map {
      .init(parent: $0, state: data["tracestate"]?.text)
    }
    // Events of earlier versions have no id.
    actor = data["actor"]?.text.map { KeyHolder(keyID: data["actorKey"]?.text ?? "", name: $0) }
    if case .array(let elements)? = data["calls"] { calls = elements.compactMap(CallRecord.init) }
  }

  /// The trace that an event's data name. Costs little for an event that names none, as most do.
  static func trace(in payload: [UInt8]) -> TraceContext? {
    contains(payload, traceBytes) ? EventMetadata(payload: payload).trace : nil
  }

  private static let nameBytes = Array("\"metadata\"".utf8)
  private static let traceBytes = Array("\"traceparent\"".utf8)

  private static func contains(_ bytes: [UInt8], _ part: [UInt8]) -> Bool {
    bytes.withUnsafeBytes { bytes in
      part.withUnsafeBytes { part in
        // No address means no bytes.
        guard let start = bytes.baseAddress, let wanted = part.baseAddress else { return false }
        return stride(from: 0, through: bytes.count - part.count, by: 1).contains {
          memcmp(start + $0, wanted, part.count) == 0
        }
      }
    }
  }
}

/// Who has an API key, as far as the log tells. Keys may share a name; the id is one key's.
struct KeyHolder: Sendable, Hashable {
  var keyID: String
  var name: String
}

/// One call to the PSP or the notification service, as it is kept with the event that it led to.
struct CallRecord: Sendable, Hashable {
  /// By the log's clock, since 1970.
  var beganMicroseconds: UInt64
  var durationMicroseconds: UInt64
  /// Why the call had no success, in a word such as `timeout`; nil for a success.
  var error: String?

  /// The most of a step that are kept.
  static let limit = 8

  init(beganMicroseconds: UInt64, durationMicroseconds: UInt64, error: String?) {
    self.beganMicroseconds = beganMicroseconds
    self.durationMicroseconds = durationMicroseconds
    self.error = error
  }

  fileprivate var json: JSONValue {
    .object(
      [.init("began", .integer(beganMicroseconds)), .init("took", .integer(durationMicroseconds))]
        + (error.map { [.init("error", .string($0))] } ?? []))
  }

  fileprivate init?(_ json: JSONValue) {
    guard let began = json["began"]?.unsigned, let took = json["took"]?.unsigned else { return nil }
    self.init(beganMicroseconds: began, durationMicroseconds: took, error: json["error"]?.text)
  }
}
