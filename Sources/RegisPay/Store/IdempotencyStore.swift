import LogStore

/// The requests that were made under idempotency keys, on the log.
///
/// Safe to use from any task.
struct IdempotencyStore: Sendable {
  /// A key that may be used: to be kept with what is done for it.
  struct Claim: Sendable {
    let stream: String
    /// The stream's version; another one means that somebody was first.
    let version: UInt64
    let fingerprint: String

    /// The record to be appended with what was done, on its condition.
    func add(_ outcome: IdempotencyRecord.Outcome, to append: inout Append) {
      let record = IdempotencyRecord(fingerprint: fingerprint, outcome: outcome)
      append.events.append(NewEvent(stream: stream, type: IdempotencyRecord.eventType, payload: record.payload))
      append.conditions[stream] = version == 0 ? .noStream : .version(version)
    }
  }

  enum Found: Sendable {
    case free(Claim)
    case kept(IdempotencyRecord)
  }

  let follower: LogFollower
  /// How long a key is kept.
  let lifetime: Duration

  /// What is known of a key now.
  ///
  /// - Parameter age: how long ago an event was appended.
  func find(keyDigest: String, fingerprint: String, age: (Event) -> Duration) throws -> Found {
    let stream = IdempotencyRecord.stream(keyDigest)
    let (version, last) = try follower.look { reader throws(LogStoreError) in
      let version = try reader.streamVersion(stream)
      return (version, version > 0 ? try reader.stream(stream, from: version, limit: 1).first : nil)
    }
    if let last, age(last) < lifetime { return .kept(try IdempotencyRecord(last)) }
    return .free(Claim(stream: stream, version: version, fingerprint: fingerprint))
  }
}
