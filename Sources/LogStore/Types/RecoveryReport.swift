/// What the opening of a store found and did.
public struct RecoveryReport: Sendable, CustomStringConvertible {
  /// The store was closed cleanly, or is new, or its writer is running.
  public var wasClosedCleanly: Bool
  /// An unfinished write behind the end of the log. A writer has cut it off; a reader has left it as it is. For a reader
  /// without permission to write it may be the last events of a writer that died, complete but not proven to be on disk: its reason
  /// says so.
  public var tornTail: Damage?
  /// The offset after the last event that was found.
  public var endOffset: UInt64
  /// Finished segments whose file is missing, truncated or has a damaged header; see ``StoreOptions/servesDamaged``.
  /// Damage within a file is found when it is read.
  public var damagedFiles: [Damage] = []

  /// What was found at the end of the log, in one line.
  public var description: String {
    guard let tornTail else {
      return wasClosedCleanly
        ? "the log ends with offset \(endOffset)"
        : "the store was not closed; nothing is missing, the log ends with offset \(endOffset)"
    }
    return "\(tornTail.file) @\(tornTail.position): \(tornTail.reason); by what the log shows, it ends with offset"
      + " \(endOffset)"
  }
}
