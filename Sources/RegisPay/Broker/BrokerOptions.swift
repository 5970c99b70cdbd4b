/// Where and how integration events are published.
public struct BrokerOptions: Sendable {
  /// How a message is written.
  public enum Format: String, Sendable, CaseIterable {
    /// The envelope of MassTransit 8.
    case masstransit
    /// CloudEvents 1.0, JSON in structured mode.
    case cloudevents
    /// CloudEvents 1.0, in binary mode.
    case cloudeventsBinary = "cloudevents-binary"
  }

  /// What becomes of a message that no queue gets.
  public enum Unroutable: String, Sendable, CaseIterable {
    /// It is sent again until a queue gets it; the later events of its payment wait.
    case wait
    /// It counts as published.
    case skip
  }

  /// Tried in turn; never empty.
  let urls: [BrokerURL]
  /// Of each host its look-ups in flight.
  let lookUps: [String: LookUpShare]
  public var password = "guest"
  /// What the name of an exchange begins with; an event's type follows.
  public var exchangePrefix = BrokerOptions.referencePrefix
  public var format = Format.masstransit
  public var unroutable = Unroutable.wait
  /// The types that are published; nil for all, empty for none.
  var types: Set<PaymentEvent.TypeName>?
  /// Certificates that may vouch for a broker, in PEM.
  public var roots = "/etc/ssl/certs/ca-certificates.crt"

  /// The queues of steps are declared, and bound.
  private(set) var hasStepQueues = false
  /// Between two looks at these queues.
  var queueInterval = Duration.seconds(5)

  /// Messages that are sent and not confirmed.
  var inFlightLimit = 256
  /// Events in memory, in flight or waiting.
  var eventLimit = 2_048
  /// For one wait for the broker: to connect, to log in, to declare an exchange.
  var waitLimit = Duration.seconds(5)
  var heartbeatSeconds: UInt16 = 10
  /// Between two connections, and before a message that the broker has not taken is sent again.
  var backoff = Backoff(base: .milliseconds(250), cap: .seconds(15))
  /// An exchange is declared and bound again after this time, as somebody may have deleted it or a binding. One that the broker has
  /// refused is declared again after the longest backoff.
  var declarationLifetime = Duration.seconds(60)
  /// How long a stop waits for confirms of what is in flight.
  var stopLimit = Duration.seconds(1)

  /// Namespace of the reference's integration events, as MassTransit makes the name of an exchange of it.
  public static let referencePrefix = "Regis.Pay.Domain.IntegrationEvents:"
  /// AMQP's limit for a name is 255 bytes; the longest type name is shorter than the rest.
  private static let prefixBytes = 0...200

  /// - Parameter urls: each may name several, separated by commas.
  /// - Throws: a ``BrokerOptionsError`` that says which.
  public init(_ urls: [String]) throws(BrokerOptionsError) {
    var parsed: [BrokerURL] = []
    for text in urls.flatMap({ $0.split(separator: ",", omittingEmptySubsequences: false) }) {
      do throws(BrokerURL.Refusal) {
        parsed.append(try BrokerURL(String(text)))
      } catch {
        throw BrokerOptionsError(description: "--broker: \(error)")
      }
    }
    guard !parsed.isEmpty else { throw BrokerOptionsError(description: "--broker names no URL") }
    self.urls = parsed
    lookUps = Dictionary(parsed.map { ($0.host, LookUpShare()) }) { first, _ in first }
  }

  public mutating func setExchangePrefix(_ prefix: String) throws(BrokerOptionsError) {
    guard Self.prefixBytes.contains(prefix.utf8.count), prefix.utf8.allSatisfy(Self.isOfName), !prefix.hasPrefix("amq.")
    else {
      throw BrokerOptionsError(
        description: "--broker-exchange-prefix must be at most \(Self.prefixBytes.upperBound) letters, digits and -_.:"
          + " and must not begin with amq., which is the broker's own")
    }
    exchangePrefix = prefix
  }

  /// The word for no type.
  public static let noTypes = "none"

  /// Whether any integration event is published.
  var publishesEvents: Bool { types?.isEmpty != true }

  /// How what requests a step is published to the queues of workers: with exchanges of its own, see ``StepQueue``.
  var forSteps: BrokerOptions {
    var options = self
    options.exchangePrefix = StepQueue.exchangePrefix
    // It has no exchanges that get the messages of several types.
    options.format = .cloudevents
    options.types = StepQueue.types
    options.unroutable = .wait
    options.hasStepQueues = true
    return options
  }

  /// - Parameter names: of types, such as `PaymentCompleted`; empty for all, or ``noTypes`` alone.
  public mutating func setTypes(_ names: [String]) throws(BrokerOptionsError) {
    guard names != [Self.noTypes] else { return types = [] }
    var types: Set<PaymentEvent.TypeName> = []
    for name in names.flatMap({ $0.split(separator: ",") }) {
      guard let type = PaymentEvent.TypeName(rawValue: String(name)) else {
        let all = PaymentEvent.TypeName.allCases.map(\.rawValue).joined(separator: ", ")
        throw BrokerOptionsError(description: "--broker-event must be \(Self.noTypes) alone, or some of \(all)")
      }
      types.insert(type)
    }
    self.types = types.isEmpty ? nil : types
  }

  /// As MassTransit's own check of names (`RabbitMqEntityNameValidator`).
  private static func isOfName(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "a")...UInt8(ascii: "z"),
      UInt8(ascii: "A")...UInt8(ascii: "Z"):
      true
    default: "-_.:".utf8.contains(byte)
    }
  }
}

/// Why a setting of the broker can't be used.
public struct BrokerOptionsError: Error, Sendable, Hashable, CustomStringConvertible {
  public var description: String
}
