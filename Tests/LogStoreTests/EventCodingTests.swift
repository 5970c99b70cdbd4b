import LogStoreCodable
import Testing

@testable import LogStore

/// Payloads as `Codable` values: the product LogStoreCodable.
@Suite struct EventCodingTests {
  struct DepositedBefore: Codable, Sendable { var cents: Int }
  struct Deposited: Codable, Sendable, Hashable {
    var cents: Int
    var currency: String
  }
  struct Withdrawn: Codable, Sendable, Hashable { var cents: Int }

  enum AccountEvent: Hashable {
    case deposited(Deposited)
    case withdrawn(Withdrawn)
    case unknown(Event)
  }

  static let depositedBefore = EventType("Deposited", of: DepositedBefore.self)
  static let deposited = EventType("Deposited", version: 2, of: Deposited.self)
  static let withdrawn = EventType("Withdrawn", of: Withdrawn.self)
  static let decoder = EventDecoder(unknown: AccountEvent.unknown)
    .decoding(deposited, AccountEvent.deposited)
    .decoding(withdrawn, AccountEvent.withdrawn)
    .decoding(depositedBefore) { .deposited(Deposited(cents: $0.cents, currency: "EUR")) }

  func stored(_ events: [NewEvent]) async throws -> [Event] {
    let directory = TemporaryDirectory()
    let store = try LogStore.open(directory.path)
    try await store.append(Append(events))
    let read = try store.reader.events(from: 0, limit: events.count)
    try await store.close()
    return read
  }

  @Test("what was appended is decoded, an earlier version as the present one, an unknown type as it is")
  func decodes() async throws {
    let events = try await stored([
      try Self.depositedBefore.event(DepositedBefore(cents: 1), stream: "a"),
      try Self.deposited.event(Deposited(cents: 2, currency: "CHF"), stream: "a"),
      try Self.withdrawn.event(Withdrawn(cents: 3), stream: "a"),
      NewEvent(stream: "a", type: "Deposited.v3", payload: bytes("?")),
    ])
    #expect(events.map(\.type) == ["Deposited", "Deposited.v2", "Withdrawn", "Deposited.v3"])
    #expect(
      try events.map(Self.decoder.decode) == [
        .deposited(Deposited(cents: 1, currency: "EUR")), .deposited(Deposited(cents: 2, currency: "CHF")),
        .withdrawn(Withdrawn(cents: 3)), .unknown(events[3]),
      ])
  }

  @Test("equal values are equal bytes, with sorted keys")
  func equalBytes() throws {
    let event = try Self.deposited.event(Deposited(cents: 2, currency: "a/b"), stream: "a")
    #expect(String(decoding: event.payload, as: UTF8.self) == #"{"cents":2,"currency":"a/b"}"#)
  }

  @Test("a payload that does not decode says which event it is and what to do")
  func notDecodable() async throws {
    let event = try await stored([NewEvent(stream: "a", type: "Withdrawn", payload: bytes(#"{"cent":3}"#))])[0]
    do throws(EventCodingError) {
      _ = try Self.decoder.decode(event)
      Issue.record("a payload without its field was decoded")
    } catch {
      let text = "\(error)"
      #expect(text.contains("offset 0") && text.contains(#""a""#) && text.contains("cents"), "\(text)")
    }
    #expect(throws: EventCodingError.otherType(expected: "Deposited", found: "Withdrawn", offset: 0)) {
      try Self.depositedBefore.payload(of: event)
    }
  }

  @Test("a value that JSON has no form for is refused")
  func notEncodable() {
    let type = EventType("Measured", of: [Double].self)
    #expect(throws: EventCodingError.self) { try type.event([.infinity], stream: "a") }
  }
}
