import Glibc
import LogStore

/// Writes messages as MassTransit 8 does with its default serializer. docs/INTEGRATION.md has each field and its source.
struct MassTransitEnvelope: Sendable {
  /// What is the same in all messages of a type.
  private struct Constants: Sendable {
    var exchange: String
    var destination: JSONValue
    var urns: JSONValue
  }

  private let constants: [PaymentEvent.TypeName: Constants]
  private let source: JSONValue
  private let host = MassTransitEnvelope.describeHost()

  static let contentType = "application/vnd.masstransit+json"
  /// The header of a W3C trace parent in MassTransit 8, in the envelope and beside it.
  static let traceHeader = "MT-Activity-Id"

  init(topology: BrokerTopology, broker: BrokerURL) {
    source = .string(broker.massTransitAddress(of: "regispay"))
    constants = PaymentEvent.TypeName.allCases.reduce(into: [:]) { constants, type in
      let exchange = topology.exchange(of: type)
      constants[type] = Constants(
        exchange: exchange, destination: .string(broker.massTransitAddress(of: exchange)),
        urns: .array(topology.urns(of: type).map { .string($0) }))
    }
  }

  /// - Parameter sentMicroseconds: the present time.
  func message(_ event: IntegrationEvent, sentMicroseconds: UInt64) -> AMQPMessage {
    guard let constants = constants[event.type] else { preconditionFailure("there are constants for each type") }
    let trace = event.trace.map { AMQPMessage.Header(name: Self.traceHeader, value: $0.parent.field) }
    let payment = JSONValue.string(event.payment.description)
    let body: JSONValue = [
      "messageId": .string(event.id.description), "requestId": .null, "correlationId": payment,
      "conversationId": payment, "initiatorId": .null,
      "sourceAddress": source, "destinationAddress": constants.destination, "responseAddress": .null,
      "faultAddress": .null, "messageType": constants.urns, "message": event.data, "expirationTime": .null,
      "sentTime": .string(timestamp(microseconds: sentMicroseconds)),
      "headers": .object(trace.map { [.init($0.name, .string($0.value))] } ?? []), "host": host,
    ]
    return AMQPMessage(
      exchange: constants.exchange, contentType: Self.contentType, id: event.id.description,
      correlationID: event.payment.description, headers: trace.map { [$0] } ?? [], body: body.bytes)
  }

  /// The members of MassTransit's `HostInfo`, without the versions of .NET and of MassTransit, which are not here.
  private static func describeHost() -> JSONValue {
    var name = utsname()
    // Fails only for an address that is not the process's.
    uname(&name)
    return [
      "machineName": .string(text(of: name.nodename)), "processName": "regispay", "processId": .integer(getpid()),
      "assembly": "regispay", "assemblyVersion": .string(LogStore.version), "frameworkVersion": .null,
      "massTransitVersion": .null,
      "operatingSystemVersion": .string("\(text(of: name.sysname)) \(text(of: name.release))"),
    ]
  }

  private static func text(of field: some Any) -> String {
    withUnsafeBytes(of: field) { bytes in String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self) }
  }
}
