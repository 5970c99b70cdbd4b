import LogStore

/// Finds and records requests under idempotency keys, on the log.
///
/// Safe to use from any task.
struct IdempotencyStore: Sendable {
  /// A free key, to be recorded in the same append as the request's effect.
  struct Claim: Sendable {
    let stream: String
    /// The stream's version. Another version at the append means that another request was first.
    let version: UInt64
    let fingerprint: String
    /// When the request came, by ``LeastTime``.
    let leastMicroseconds: UInt64

    /// Adds the key's record, and the condition that the key is still free, to the append of the request's effect.
    func add(_ outcome: IdempotencyRecord.Outcome, to append: inout Append) {
      let record = IdempotencyRecord(fingerprint: fingerprint, outcome: outcome, leastMicroseconds: leastMicroseconds)
      append.events.append(NewEvent(stream: stream, type: IdempotencyRecord.eventType, payload: record.payload))
      append.conditions[stream] = version == 0 ? .noStream : .version(version)
    }
  }

  enum Found: Sendable {
    case free(Claim)
    case used(IdempotencyRecord)
  }

  let log: PaymentLog
  /// How long a key is remembered.
  let lifetime: Duration

  /// Finds the record of a key.
  ///
  /// - Parameter formerDigests: digests under which the key may have been recorded before. Nothing new is recorded under them.
  func find(keyDigest: String, formerDigests: [String] = [], fingerprint: String) throws -> Found {
    for digest in formerDigests {
      if let record = try last(digest).record { return .used(record) }
    }
    let (version, record) = try last(keyDigest)
    if let record { return .used(record) }
    return .free(
      Claim(
        stream: IdempotencyRecord.stream(keyDigest), version: version, fingerprint: fingerprint,
        leastMicroseconds: log.leastTime.microseconds()))
  }

  /// The last record of a key that is not too old, and the version of the key's stream.
  private func last(_ digest: String) throws -> (version: UInt64, record: IdempotencyRecord?) {
    let stream = IdempotencyRecord.stream(digest)
    let (version, last) = try log.follower.lookUp { reader throws(LogStoreError) in
      let version = try reader.streamVersion(stream)
      return (version, version > 0 ? try reader.stream(stream, from: version, limit: 1).first : nil)
    }
    guard let last else { return (version, nil) }
    let record = try IdempotencyRecord(last)
    return (version, log.leastAge(of: record, in: last) < lifetime ? record : nil)
  }
}
