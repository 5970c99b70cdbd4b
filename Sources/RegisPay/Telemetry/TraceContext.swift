import HTTPTypes
import NIOHTTP1

/// The trace that a request belongs to, from its fields `traceparent` and `tracestate`.
struct TraceContext: Sendable, Hashable {
  var parent: TraceParent
  /// What other systems want to be handed on with the trace; not looked at.
  var state: String?

  /// Bytes of `tracestate` that are kept: what the specification asks for at least.
  static let stateLimit = 512
}

extension TraceContext {
  /// Hands the trace on.
  func add(to headers: inout HTTPHeaders) {
    headers.add(name: "traceparent", value: parent.field)
    if let state { headers.add(name: "tracestate", value: state) }
  }

  /// The trace that a request names; nil if it names none, or not as the specification has it: then a new trace begins.
  init?(_ fields: HTTPFields) {
    let parents = fields[values: .traceParent]
    guard parents.count == 1, let parent = TraceParent(parents[0]) else { return nil }
    let state = fields[values: .traceState].joined(separator: ",")
    // What does not fit may be dropped, not cut.
    let isUsable =
      !state.isEmpty && state.utf8.count <= Self.stateLimit && state.utf8.allSatisfy { (0x20..<0x7F).contains($0) }
      && state.withoutKeys == state
    self.init(parent: parent, state: isUsable ? state : nil)
  }
}

extension HTTPField.Name {
  // Tokens by RFC 9110, which is all that the initialiser asks.
  static let traceParent = HTTPField.Name("traceparent")!
  static let traceState = HTTPField.Name("tracestate")!
}
