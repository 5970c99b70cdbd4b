import Crypto

/// What a key may do. No scope holds another: a key has those that it was made with and nothing else, so that one that
/// watches can't pay, and one that pushes stuck payments on can't make new ones.
public enum KeyScope: String, Sendable, Hashable, CaseIterable {
  /// See payments, events and the simulator's ledger.
  case read
  /// Create, cancel and refund payments.
  case write
  /// Retry payments, and let the simulators fail.
  case operate
}

/// A key in clear, as its owner sends it:
///
///     rp_ 12 digits _ 64 digits 8 digits
///         the id      secret    checksum
///
/// all digits hexadecimal and lower-case. The secret is 256 random bits; the checksum is the beginning of the SHA-256 of
/// all before it. So a scanner finds keys that were committed somewhere, and a typing error is told from a revoked key.
public struct APIKey: Sendable, Hashable, CustomStringConvertible, CustomDebugStringConvertible {
  /// Tells the key in lists and logs; no secret.
  public let id: String
  /// The whole key: a secret.
  public let text: String

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

  /// Nil when it is no key, or not a whole one.
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

  /// What is kept of it. A single SHA-256 is right for this and would be wrong for a password: nobody can try 2^256
  /// secrets, however fast each try, while a slow hash would be paid for with every request.
  var hash: [UInt8] { Array(SHA256.hash(data: Array(text.utf8))) }

  /// Without the secret, so that no log line or error can hold it.
  public var description: String { "\(Self.prefix)\(id)_…" }
  public var debugDescription: String { description }
}
