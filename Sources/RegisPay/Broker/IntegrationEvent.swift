import LogStore

/// What a payment's event tells other systems.
struct IntegrationEvent: Sendable, Hashable {
  let offset: UInt64
  let id: EventID
  let type: PaymentEvent.TypeName
  let payment: PaymentID
  let microseconds: UInt64
  /// Named by the request that led to the event.
  let trace: TraceContext?

  /// Nil for an event that is on no payment's stream, or of no type that this program knows.
  init?(_ event: Event) {
    guard let type = PaymentEvent.TypeName(rawValue: event.type), let payment = PaymentID(stream: event.stream) else {
      return nil
    }
    self.init(
      offset: event.offset, id: event.id, type: type, payment: payment, microseconds: event.timestampMicroseconds,
      trace: EventMetadata.trace(in: event.payload))
  }

  init(
    offset: UInt64, id: EventID, type: PaymentEvent.TypeName, payment: PaymentID, microseconds: UInt64,
    trace: TraceContext? = nil
  ) {
    (self.offset, self.id, self.type) = (offset, id, type)
    (self.payment, self.microseconds, self.trace) = (payment, microseconds, trace)
  }

  /// The same for every format: what the reference's consumers read.
  var data: JSONValue { ["aggregateId": .string(payment.stream)] }
}

/// The names at the broker. MassTransit has an exchange for each type of message, and sends a message on to the exchanges of the
/// types that its type inherits from or implements: all events can be had from one of these.
struct BrokerTopology: Sendable, Hashable {
  let prefix: String

  /// The name of the reference's base class of all integration events.
  private static let base = "IntegrationEventBase"

  func exchange(of type: PaymentEvent.TypeName) -> String { prefix + type.rawValue }

  /// The exchanges that get the messages of all types.
  var common: [String] {
    // The interface is in the namespace above.
    [prefix + Self.base] + (prefix == BrokerOptions.referencePrefix ? ["Regis.Pay.Domain:IIntegrationEvent"] : [])
  }

  /// The types of a message, the most special one first. MassTransit makes the names of exchanges and URNs in the same way of a
  /// namespace and a name.
  func urns(of type: PaymentEvent.TypeName) -> [String] { ([exchange(of: type)] + common).map { "urn:message:" + $0 } }
}
