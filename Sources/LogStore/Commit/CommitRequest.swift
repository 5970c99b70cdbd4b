/// A request that a caller waits for.
struct CommitRequest: Sendable {
  enum Kind: Sendable {
    /// The response comes once the append is durable.
    case append(EncodedAppend)
    /// The response comes once the append has its offsets.
    case appendBuffered(EncodedAppend)
    /// The response comes once everything before it is durable.
    case flush
  }

  typealias Response = Result<Appended, LogStoreError>

  /// Bytes of the request's records.
  var byteCount: Int {
    switch kind {
    case .append(let append), .appendBuffered(let append): append.recordByteCount
    case .flush: 0
    }
  }

  var kind: Kind
  /// An unsafe continuation saves an allocation for each append. The loop resumes each request that its mailbox accepted
  /// exactly once.
  var continuation: UnsafeContinuation<Response, Never>
}
