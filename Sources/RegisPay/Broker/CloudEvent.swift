import LogStore

/// Writes messages as CloudEvents 1.0 (https://github.com/cloudevents/spec, *JSON Event Format*, *AMQP Protocol Binding*): JSON in
/// structured mode, where all attributes are in the body.
struct CloudEvent: Sendable {
  let topology: BrokerTopology
  /// The log that the events are on.
  let source: String

  static let contentType = "application/cloudevents+json; charset=utf-8"

  func message(_ event: IntegrationEvent) -> BrokerMessage {
    var members: [JSONValue.Member] = [
      .init("specversion", "1.0"), .init("id", .string(event.id.description)), .init("source", .string(source)),
      .init("type", .string(event.type.publicName)), .init("subject", .string(event.payment.description)),
      .init("time", .string(timestamp(microseconds: event.microseconds))),
      .init("datacontenttype", "application/json"),
    ]
    if let trace = event.trace {
      // The extension *Distributed Tracing*.
      members.append(.init("traceparent", .string(trace.parent.field)))
      if let state = trace.state { members.append(.init("tracestate", .string(state))) }
    }
    members.append(.init("data", event.data))
    return BrokerMessage(
      exchange: topology.exchange(of: event.type), contentType: Self.contentType, id: event.id.description,
      correlationID: event.payment.description, body: JSONValue.object(members).bytes)
  }
}
