import LogStore

/// Makes events of several types into values of one Swift type, usually an enum with a case for each type of event and one for
/// types that this program doesn't know.
///
/// ```swift
/// enum AccountEvent { case deposited(Deposited), withdrawn(Withdrawn), unknown(Event) }
///
/// let decoder = EventDecoder(unknown: AccountEvent.unknown)
///   .decoding(deposited, AccountEvent.deposited)
///   .decoding(withdrawn, AccountEvent.withdrawn)
///   // Version 1 had no currency.
///   .decoding(depositedBefore) { .deposited(Deposited(cents: $0.cents, currency: "EUR")) }
///
/// for event in try store.reader.stream("account-7") { balance.apply(try decoder.decode(event)) }
/// ```
///
/// An unknown type is no error: an older program may read the log of a newer one. A known type whose payload does not decode is
/// one.
///
/// Safe to use from any task. A look-up in a dictionary and one decoding for each event.
public struct EventDecoder<Value>: Sendable {
  private typealias Decoding = @Sendable (Event) -> Result<Value, EventCodingError>

  private let unknown: @Sendable (Event) -> Value
  private var decodings: [String: Decoding] = [:]

  /// - Parameter unknown: the value of an event whose type is not among those that are decoded.
  public init(unknown: @escaping @Sendable (Event) -> Value) {
    self.unknown = unknown
  }

  /// This decoder with one more type of event.
  ///
  /// - Parameters:
  ///   - type: a type of event; each type and version once.
  ///   - value: the value of a payload. For the payload of an earlier version it returns what the present version would say.
  public func decoding<Payload>(
    _ type: EventType<Payload>, _ value: @escaping @Sendable (Payload) -> Value
  ) -> EventDecoder {
    precondition(decodings[type.name] == nil, "the event type \(type.name) is decoded twice")
    var decoder = self
    decoder.decodings[type.name] = { event in
      do throws(EventCodingError) {
        let payload = try type.payload(of: event)
        return .success(value(payload))
      } catch {
        return .failure(error)
      }
    }
    return decoder
  }

  /// The value of an event.
  ///
  /// - Throws: ``EventCodingError/notDecodable(type:stream:offset:reason:)``.
  public func decode(_ event: Event) throws(EventCodingError) -> Value {
    guard let decoding = decodings[event.type] else { return unknown(event) }
    return try decoding(event).get()
  }
}
