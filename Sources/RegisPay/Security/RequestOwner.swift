/// Whose idempotency keys a request's are: of one owner, whichever of its API keys it comes with, so that a client whose key
/// is replaced between two tries is known again.
struct RequestOwner: Sendable, Hashable {
  /// What is put before a client's key to make it the owner's own.
  let scope: String
  /// What was put there for some of the owner's API keys by programs that told keys apart by the id of the API key.
  var formerScopes: [String] = []

  /// While there are no API keys.
  static let everybody = RequestOwner(scope: "")

  private init(scope: String) { self.scope = scope }

  init(_ key: StoredKey, in ring: KeyRing) {
    // No id of a key can look like this, and no name has a line break.
    scope = "owner \(key.owner)"
    formerScopes = ring.formerIDs(of: key.owner)
  }
}
