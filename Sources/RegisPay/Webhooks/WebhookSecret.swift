import Crypto
import Foundation

/// What an endpoint's deliveries are signed with. It shows itself only by ``revealed``: printed, interpolated or reflected
/// it is hidden, so that it can't get into a log line or an error by accident.
struct WebhookSecret: Sendable, Hashable, CustomStringConvertible, CustomDebugStringConvertible, CustomReflectable {
  let bytes: [UInt8]

  /// What Standard Webhooks allows.
  static let byteCounts = 24...64
  private static let prefix = "whsec_"

  /// 32 bytes from the system's generator.
  static func random() -> WebhookSecret {
    WebhookSecret(SymmetricKey(size: .bits256).withUnsafeBytes { Array($0) })
  }

  private init(_ bytes: [UInt8]) { self.bytes = bytes }

  /// Nil for a number of bytes that is not allowed.
  init?(bytes: [UInt8]) {
    guard Self.byteCounts.contains(bytes.count) else { return nil }
    self.init(bytes)
  }

  /// Reads what ``revealed`` gives; nil for anything else.
  init?(_ text: String) {
    guard text.hasPrefix(Self.prefix), let data = Data(base64Encoded: String(text.dropFirst(Self.prefix.count))) else {
      return nil
    }
    self.init(bytes: Array(data))
  }

  /// The form in which the receiver gets it.
  var revealed: String { Self.prefix + Data(bytes).base64EncodedString() }

  var description: String { "whsec_(hidden)" }
  var debugDescription: String { description }
  var customMirror: Mirror { Mirror(self, children: [:]) }
}

/// The header fields that prove to the receiver who sent a message, and when (Standard Webhooks 1.0.0, symmetric).
struct WebhookSignature: Sendable, Hashable {
  /// The same for every try of an event.
  let id: String
  /// Of this try, in seconds since 1970-01-01 UTC.
  let timestamp: UInt64
  /// One entry a secret.
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
