import Crypto
import HTTPTypes
import Hummingbird

/// A request's `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header). A repeat with the same key has no second effect and
/// gets the first response.
struct IdempotencyKey: Sendable, Hashable {
  /// Bytes of a key.
  static let byteLimit = 255

  /// The digest of the key and its owner: two clients may choose the same key.
  let digest: String
  /// The digests under which the key may have been recorded before: ``RequestOwner/formerScopes``.
  let formerDigests: [String]
  /// The digest of method, path and body.
  let fingerprint: String

  /// - Parameter owner: the owner of the request's API key.
  /// - Returns: nil for a request without a key.
  init?(_ request: Request, body: [UInt8], owner: RequestOwner) throws(Problem) {
    let values = request.headers[values: .idempotencyKey]
    guard let key = values.first else { return nil }
    guard values.count == 1, (1...Self.byteLimit).contains(key.utf8.count), key.utf8.allSatisfy({ 32...126 ~= $0 })
    else {
      throw .badRequest("Idempotency-Key must be one field of 1 to \(Self.byteLimit) printable ASCII characters.")
    }
    digest = Self.digest(Array("\(owner.scope)\n\(key)".utf8))
    formerDigests = owner.formerScopes.map { Self.digest(Array("\($0)\n\(key)".utf8)) }
    fingerprint = Self.digest(Array("\(request.method.rawValue) \(request.uri.path)\n".utf8) + body)
  }

  private static func digest(_ bytes: [UInt8]) -> String { hexadecimal(SHA256.hash(data: bytes)) }
}
