import LogStore

/// Writes messages as CloudEvents 1.0 (https://github.com/cloudevents/spec, *JSON Event Format*, *AMQP Protocol Binding*): in structured
/// mode, where the attributes are in the body beside the data, as JSON; or in binary mode, where they are headers and the body is the data.
struct CloudEvent: Sendable {
  let topology: BrokerTopology
  /// The log that the events are on.
  let source: String
  var isBinary = false

  static let contentType = "application/cloudevents+json; charset=utf-8"
  static let dataContentType = "application/json"
  /// Of a header's name. The binding prefers this one of its two, as it is possible in all clients.
  static let headerPrefix = "cloudEvents_"

  func message(_ event: IntegrationEvent) -> AMQPMessage {
    let attributes = attributes(of: event)
    var message = AMQPMessage(
      exchange: topology.exchange(of: event.type), contentType: Self.contentType, id: event.id.description,
      correlationID: event.payment.description, body: [])
    if isBinary {
      // The content type takes the place of the attribute.
      message.contentType = Self.dataContentType
      message.headers = attributes.map { .init(name: Self.headerPrefix + $0.name, value: $0.value) }
      message.body = event.data.bytes
    } else {
      var members = attributes.map { JSONValue.Member($0.name, .string($0.value)) }
      members.append(.init("datacontenttype", .string(Self.dataContentType)))
      members.append(.init("data", event.data))
      message.body = JSONValue.object(members).bytes
    }
    return message
  }

  private func attributes(of event: IntegrationEvent) -> [(name: String, value: String)] {
    var attributes = [
      ("specversion", "1.0"), ("id", event.id.description), ("source", source), ("type", event.type.publicName),
      ("subject", event.payment.description), ("time", timestamp(microseconds: event.microseconds)),
    ]
    // The extension *Distributed Tracing*.
    if let trace = event.trace {
      attributes.append(("traceparent", trace.parent.field))
      if let state = trace.state { attributes.append(("tracestate", state)) }
    }
    return attributes
  }
}
