import Foundation
import Synchronization

/// The keys in memory, as last read from disk. Requests are checked against it. Immutable, except for the times of last use.
final class KeyRing: Sendable {
  /// A key and the time of its last use.
  final class Entry: Sendable {
    let key: StoredKey
    let lastUsedSeconds: Atomic<Int64>

    init(_ key: StoredKey, lastUsedSeconds: Int64) {
      self.key = key
      self.lastUsedSeconds = Atomic(lastUsedSeconds)
    }
  }

  enum Refusal: Error, Sendable, Hashable {
    /// Mistyped or truncated.
    case malformed
    /// Unknown, revoked or expired; the client does not learn which.
    case invalid
  }

  let entries: [String: Entry]
  /// By owner, the ids of keys under which an earlier version stored idempotency records. They never expire here: each record has its
  /// own age, and the calendar may be set while the server runs.
  private let formerIDs: [String: [String]]

  init(_ keys: [StoredKey] = [], after former: KeyRing? = nil) {
    entries = Dictionary(
      keys.map { key in
        let former = former?.entries[key.id]?.lastUsedSeconds.load(ordering: .relaxed) ?? 0
        return (key.id, Entry(key, lastUsedSeconds: max(former, key.lastUsedSeconds ?? 0)))
      }, uniquingKeysWith: { first, _ in first })
    formerIDs = Dictionary(grouping: keys.filter { $0.ownerSinceSeconds > $0.createdSeconds }, by: \.owner)
      .mapValues { keys in keys.map(\.id) }
  }

  /// The ids of an owner's keys under which idempotency records may still be stored.
  func formerIDs(of owner: String) -> [String] { formerIDs[owner] ?? [] }

  /// No key was ever created, so none is required. A revoked or expired key still counts.
  var isEmpty: Bool { entries.isEmpty }

  func find(_ token: some StringProtocol, atSeconds now: Int64) throws(Refusal) -> StoredKey {
    guard let given = APIKey(token) else { throw .malformed }
    guard let entry = entries[given.id], equalInConstantTime(entry.key.hash, given.hash),
      entry.key.isValid(atSeconds: now)
    else { throw .invalid }
    entry.lastUsedSeconds.store(now, ordering: .relaxed)
    return entry.key
  }
}
