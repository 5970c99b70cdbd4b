import Crypto

/// What a key may do. No scope includes another: a key has only the scopes that it was created with, so that a monitoring key can't
/// create payments, and an operator's key can retry payments but not create them.
public enum KeyScope: String, Sendable, Hashable, CaseIterable {
  /// Read payments, events and the simulator's ledger.
  case read
  /// Create, cancel and refund payments.
  case write
  /// Retry payments, resolve unknown outcomes, manage webhooks and keys, and inject faults into the simulators.
  case operate
  /// Make the calls of steps, as `regispay worker` does: be told the payments that are due, and say how their calls ended.
  case work
}

/// A key in clear text, as a client sends it:
///
///     rp_ 12 digits _ 64 digits 8 digits
///         the id      secret    checksum
///
/// All digits are lower-case hexadecimal. The secret is 256 random bits; the checksum is the beginning of the SHA-256 of everything
/// before it. So a secret scanner finds leaked keys, and a typing error is distinguished from a revoked key.
public struct APIKey: Sendable, Hashable, CustomStringConvertible, CustomDebugStringConvertible {
  /// Identifies the key in lists and logs; not secret.
  public let id: String
  /// The whole key: a secret.
  public let text: String

  /// What a key's name and owner must be.
  public static let nameRule =
    "1 to 100 bytes of text, without a space at an end, without characters that can't be seen, and no key itself"

  /// Whether a text can be a key's name or owner: it stands in lists, beside others.
  public static func isName(_ text: String) -> Bool {
    guard (1...100).contains(text.utf8.count), text.withoutKeys == text, text.first?.isWhitespace == false,
      text.last?.isWhitespace == false
    else { return false }
    return text.unicodeScalars.allSatisfy { scalar in
      switch scalar.properties.generalCategory {
      case .control, .format, .lineSeparator, .paragraphSeparator, .surrogate, .privateUse, .unassigned: false
      default: true
      }
    }
  }

  private static let prefix = "rp_"
  private static let idLength = 12
  private static let secretLength = 64
  private static let checksumLength = 8
  private static let length = prefix.utf8.count + idLength + 1 + secretLength + checksumLength

  /// A new key.
  init() {
    id = hexadecimal(randomBytes(Self.idLength / 2))
    let body = "\(Self.prefix)\(id)_\(hexadecimal(randomBytes(Self.secretLength / 2)))"
    text = body + Self.checksum(body.utf8)
  }

  /// Nil if the text is not a complete key.
  public init?(_ text: some StringProtocol) {
    let bytes = Array(text.utf8)
    let isDigit = { (byte: UInt8) in (48...57).contains(byte) || (97...102).contains(byte) }
    let idStart = Self.prefix.utf8.count
    let idEnd = idStart + Self.idLength
    guard bytes.count == Self.length, bytes.starts(with: Self.prefix.utf8),
      bytes[idStart..<idEnd].allSatisfy(isDigit), bytes[idEnd] == UInt8(ascii: "_"),
      bytes[(idEnd + 1)...].allSatisfy(isDigit),
      bytes.suffix(Self.checksumLength).elementsEqual(Self.checksum(bytes.dropLast(Self.checksumLength)).utf8)
    else { return nil }
    id = String(decoding: bytes[idStart..<idEnd], as: UTF8.self)
    self.text = String(text)
  }

  private static func checksum(_ body: some Sequence<UInt8>) -> String {
    hexadecimal(SHA256.hash(data: Array(body)).prefix(checksumLength / 2))
  }

  /// The stored form. One SHA-256 is right for this and would be wrong for a password: nobody can try 2^256 secrets, however fast
  /// each try is, while every request would pay for a slow hash.
  var hash: [UInt8] { Array(SHA256.hash(data: Array(text.utf8))) }

  /// Omits the secret, so that no log line or error can contain it.
  public var description: String { "\(Self.prefix)\(id)_…" }
  public var debugDescription: String { description }
}
