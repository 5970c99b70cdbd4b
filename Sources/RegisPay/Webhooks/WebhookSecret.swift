import Crypto
import Foundation

/// The secret that signs an endpoint's messages. Only ``revealed`` shows it: printing, interpolation and reflection hide it, so
/// that it can't get into a log line or an error by accident.
struct WebhookSecret: Sendable, Hashable, CustomStringConvertible, CustomDebugStringConvertible, CustomReflectable {
  let bytes: [UInt8]

  /// The lengths that Standard Webhooks allows.
  static let byteCounts = 24...64
  private static let prefix = "whsec_"

  /// 32 bytes from the system's generator.
  static func random() -> WebhookSecret {
    WebhookSecret(SymmetricKey(size: .bits256).withUnsafeBytes { Array($0) })
  }

  private init(_ bytes: [UInt8]) { self.bytes = bytes }

  /// Nil if the length is not allowed.
  init?(bytes: [UInt8]) {
    guard Self.byteCounts.contains(bytes.count) else { return nil }
    self.init(bytes)
  }

  /// Reads the form of ``revealed``; nil for any other text.
  init?(_ text: String) {
    guard text.hasPrefix(Self.prefix), let data = Data(base64Encoded: String(text.dropFirst(Self.prefix.count))) else {
      return nil
    }
    self.init(bytes: Array(data))
  }

  /// The form in which the receiver gets the secret.
  var revealed: String { Self.prefix + Data(bytes).base64EncodedString() }

  var description: String { "whsec_(hidden)" }
  var debugDescription: String { description }
  var customMirror: Mirror { Mirror(self, children: [:]) }
}

/// The header fields that prove a message's sender and time to the receiver (Standard Webhooks 1.0.0, symmetric).
struct WebhookSignature: Sendable, Hashable {
  /// The same for every try of an event.
  let id: String
  /// The time of this try, in seconds since 1970-01-01 UTC.
  let timestamp: UInt64
  /// One entry for each secret.
  let field: String

  init(id: String, timestamp: UInt64, body: [UInt8], secrets: [WebhookSecret]) {
    self.id = id
    self.timestamp = timestamp
    let signed = Array("\(id).\(timestamp).".utf8) + body
    field = secrets.map { secret in
      let code = HMAC<SHA256>.authenticationCode(for: signed, using: SymmetricKey(data: secret.bytes))
      return "v1,\(Data(code).base64EncodedString())"
    }.joined(separator: " ")
  }
}
