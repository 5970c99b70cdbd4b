import Foundation
import LogStore

/// A type of event whose payload is a `Codable` value, stored as JSON.
///
/// ```swift
/// struct Deposited: Codable, Sendable { var cents: Int }
/// let deposited = EventType("Deposited", of: Deposited.self)
/// try await store.append(Append(try deposited.event(Deposited(cents: 500), stream: "account-7")))
/// ```
///
/// The JSON has its keys sorted, dates in ISO 8601 and data in base64, so equal values give equal bytes. An append that is
/// repeated under the same event ids is therefore recognised: see ``LogStore/LogStore/append(_:endsWithTask:)``.
///
/// Payloads change over the years, and a log keeps the old ones. Give a changed payload a new version, and decode the old
/// version too: see ``EventDecoder``.
public struct EventType<Payload: Codable & Sendable>: Sendable, Hashable {
  /// The type's name in the log: the name alone for version 1, and `NAME.vVERSION` for later versions.
  public let name: String

  /// - Parameters:
  ///   - name: with its version at most ``LogStore/Limits/nameBytes`` bytes, which `append` checks.
  ///   - version: of the payload's form, from 1.
  ///   - payload: the payload's type.
  public init(_ name: String, version: Int = 1, of payload: Payload.Type = Payload.self) {
    precondition(version >= 1, "the version of an event type begins at 1")
    self.name = version == 1 ? name : "\(name).v\(version)"
  }

  /// An event of this type, to be appended.
  ///
  /// - Throws: ``EventCodingError/notEncodable(type:reason:)``, such as for a number that is not finite.
  public func event(
    _ payload: Payload, stream: String, metadata: [UInt8] = [], id: EventID? = nil
  ) throws(EventCodingError) -> NewEvent {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    encoder.dateEncodingStrategy = .iso8601
    do {
      let bytes = [UInt8](try encoder.encode(payload))
      return NewEvent(stream: stream, type: name, payload: bytes, metadata: metadata, id: id)
    } catch {
      throw .notEncodable(type: name, reason: "\(error)")
    }
  }

  /// The payload of an event of this type.
  ///
  /// - Throws: ``EventCodingError/otherType(expected:found:offset:)``, and
  ///   ``EventCodingError/notDecodable(type:stream:offset:reason:)`` where the payload is no JSON or lacks a field.
  public func payload(of event: Event) throws(EventCodingError) -> Payload {
    guard event.type == name else { throw .otherType(expected: name, found: event.type, offset: event.offset) }
    let decoder = JSONDecoder()
    decoder.dateDecodingStrategy = .iso8601
    do {
      return try decoder.decode(Payload.self, from: Data(event.payload))
    } catch {
      throw .notDecodable(type: name, stream: event.stream, offset: event.offset, reason: "\(error)")
    }
  }
}
