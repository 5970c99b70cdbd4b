import LogStore

/// A payment's identity: a UUID, and with it the name of its stream.
public struct PaymentID: Sendable, Hashable, LosslessStringConvertible {
  private let uuid: EventID

  private static let streamPrefix = "pay:"

  private init(_ uuid: EventID) { self.uuid = uuid }

  /// A new UUID of version 7 (RFC 9562, 5.7): milliseconds since 1970, then 74 random bits. An index ordered by id grows at its
  /// end, where random ids would each touch a page anywhere among millions.
  public static func random() -> PaymentID {
    let random = EventID.random()
    let milliseconds = Clock.microseconds() / 1_000
    return PaymentID(EventID(high: milliseconds << 16 | 0x7000 | random.high & 0xFFF, low: random.low))
  }

  /// Reads a UUID's usual form, in upper or lower case; nil for any other text.
  public init?(_ text: String) {
    guard let uuid = EventID(text) else { return nil }
    self.uuid = uuid
  }

  /// The payment that a stream belongs to; nil for any other stream.
  public init?(stream: String) {
    guard stream.hasPrefix(Self.streamPrefix) else { return nil }
    self.init(String(stream.dropFirst(Self.streamPrefix.count)))
  }

  /// The payment with these 16 bytes; nil for any other number of bytes.
  init?(data: [UInt8]) {
    guard data.count == 16 else { return nil }
    func word(_ bytes: ArraySlice<UInt8>) -> UInt64 { bytes.reduce(0) { $0 << 8 | UInt64($1) } }
    self.init(EventID(high: word(data[..<8]), low: word(data[8...])))
  }

  /// The UUID's 16 bytes, in the order of its text.
  var data: [UInt8] {
    [uuid.high, uuid.low].flatMap { word in
      stride(from: 56, through: 0, by: -8).map { UInt8(truncatingIfNeeded: word >> $0) }
    }
  }

  /// The trace of a payment whose request named none. It has the same digits as the UUID, which has 122 random bits or, by
  /// ``random()``, 74.
  var traceID: TraceID { TraceID(high: uuid.high, low: uuid.low) }

  /// The lowest and the highest id whose text begins with this one; nil when none does.
  static func range(beginning text: String) -> (low: PaymentID, high: PaymentID)? {
    let form = "00000000-0000-0000-0000-000000000000"
    guard text.utf8.count <= form.utf8.count else { return nil }
    func filled(_ digit: Character) -> String {
      text + form.dropFirst(text.count).map { $0 == "-" ? "-" : String(digit) }.joined()
    }
    guard let low = PaymentID(filled("0")), let high = PaymentID(filled("f")) else { return nil }
    return (low, high)
  }

  /// The time of creation, in milliseconds since 1970. Meaningless for an id that ``random()`` did not make.
  var milliseconds: UInt64 { uuid.high >> 16 }

  /// The UUID in lower case.
  public var description: String { uuid.description }

  /// The stream with this payment's events.
  public var stream: String { Self.streamPrefix + description }

  /// The id of the payment's event with this content at this version. A repeated append gets the same id; other content gets
  /// another id, so that two different decisions are never taken for a repeat of one.
  func eventID(version: UInt64, type: String, payload: [UInt8]) -> EventID {
    // FNV-1a, 64 bits (http://www.isthe.com/chongo/tech/comp/fnv/): it only tells apart the few that race for a version.
    var hash: UInt64 = 0xCBF2_9CE4_8422_2325
    func add(_ byte: UInt8) { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01B3 }
    for byte in type.utf8 { add(byte) }
    add(0)
    for byte in payload { add(byte) }
    return EventID(high: uuid.high, low: uuid.low ^ (hash &+ version))
  }
}
