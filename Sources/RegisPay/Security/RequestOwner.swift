/// The owner of a request's idempotency key. All API keys of an owner share its idempotency keys, so that a client whose API key is
/// replaced between two tries is recognised.
struct RequestOwner: Sendable, Hashable {
  /// The prefix that makes a client's key unique to the owner.
  let scope: String
  /// The prefixes under which the same client's requests may have been recorded before: those of earlier versions, which used the id
  /// of the API key, and that of the time before the first API key. Without the latter, a client that repeats a request after
  /// keys were introduced would pay twice.
  var formerScopes: [String] = []

  /// The owner of all requests while no API key exists.
  static let everybody = RequestOwner(scope: "")

  private init(scope: String) { self.scope = scope }

  init(_ key: StoredKey, in ring: KeyRing) {
    // No key's id has this form, and no name contains a line break.
    scope = "owner \(key.owner)"
    formerScopes = ring.formerIDs(of: key.owner) + [Self.everybody.scope]
  }
}
