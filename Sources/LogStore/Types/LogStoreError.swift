/// What can go wrong. Each case carries what a person needs to act on it. `description` is one line.
public enum LogStoreError: Error, Sendable, Hashable {
  /// An argument that the caller could have known to be wrong. Nothing was written.
  case invalidArgument(String)
  /// A value exceeds one of the ``Limits``. Nothing was written.
  case limitExceeded(what: String, actual: UInt64, limit: UInt64)
  /// A condition of the append does not hold. Nothing was written. `actual` is the stream's last version, 0 if it is new.
  case conflict(stream: String, expected: StreamCondition, actual: UInt64)
  /// The log has an event with one of the append's ids, and not as the same append. Nothing was written.
  indirect case eventIDReused(EventIDReuse)
  /// A cursor was to move back without ``CursorCommit/isReset``. Nothing was written. `present` is its checkpoint.
  case cursorBehind(name: String, checkpoint: UInt64, present: UInt64)
  /// Requested versions of the stream are lost in a gap of the log (``LogReader/gaps``).
  case streamIncomplete(stream: String, missing: ClosedRange<UInt64>)
  /// There is no store in this directory, and none can be created, since it holds another program's file. Nothing was
  /// changed.
  case foreignFile(directory: String, name: String)
  /// There is no store in this directory.
  case notAStore(directory: String)
  /// Another process, or another part of this one, has the store open for writing, or keeps writers out while it reads.
  case locked(directory: String, holder: String)
  /// Acknowledged bytes are not what was written. Nothing was changed.
  case damaged(Damage)
  /// The disk can't read some bytes: a bad sector, a wrong checksum of the file system, a file that was truncated while it
  /// was read. Nothing was changed. Everything else can be read, and these bytes too once the disk can read them again.
  case unreadable(Damage)
  /// A backup's bytes are not what was written. Nothing was restored, and the backup was not changed.
  case backupDamaged(Damage)
  /// A backup or a restored store can't be made there. Nothing was changed. The reason says what to do.
  case backupRefused(path: String, reason: String)
  /// Nothing can be repaired there. Nothing was changed. The reason says what to do.
  case repairRefused(path: String, reason: String)
  /// The store's files are of several histories, and nothing tells which is its own. Nothing was made or changed. Repair
  /// again and name a file of the history to keep.
  case repairUndecided(path: String, histories: [RepairHistory])
  /// The file was written by a newer program.
  case unsupportedFormat(file: String, version: UInt32, supported: UInt32)
  /// The directory of an open store, or its lock file, was moved away, replaced or removed. Nothing more is acknowledged,
  /// and nothing under the path is touched: another store may be there by now.
  case moved(directory: String, reason: String)
  /// The segment file that an open store writes to was removed or replaced by another program. Nothing more is
  /// acknowledged. What the file held, all of it acknowledged, may be lost with it.
  case segmentLost(file: String, reason: String)
  /// No space left. What was acknowledged is untouched, and reading continues.
  case diskFull(operation: String, path: String)
  /// The operating system refused; `code` is its `errno`.
  case inputOutput(operation: String, path: String, code: Int32)
  /// An earlier write or sync failed, so nothing more is acknowledged until the store is opened again.
  case stopped(cause: String)
  /// The store or reader was closed.
  case closed
  /// The task was cancelled before it had read everything, or before what it waited for came. An append that has its
  /// offsets already is still made; with event ids it can be sent again.
  case cancelled
}

/// Where a file is not what was written, and how that is known.
public struct Damage: Sendable, Hashable, CustomStringConvertible {
  /// The file's path.
  public var file: String
  /// Bytes from the file's start.
  public var position: UInt64
  /// What was found, against what was expected.
  public var reason: String

  /// A finding at a byte of a file.
  public init(file: String, position: UInt64, reason: String) {
    self.file = file
    self.position = position
    self.reason = reason
  }

  /// `damaged FILE @BYTE: reason`.
  public var description: String { "damaged \(file) @\(position): \(reason)" }
}

extension LogStoreError: CustomStringConvertible {
  /// What failed, where, and what to do, in one line.
  public var description: String {
    switch self {
    case .invalidArgument(let reason):
      return reason
    case .limitExceeded(let what, let actual, let limit):
      return "\(what) is \(actual), the limit is \(limit)"
    case .conflict(let stream, let expected, let actual):
      let expectation =
        switch expected {
        case .any: "any"
        case .noStream: "no stream"
        case .streamExists: "an existing stream"
        case .version(let version): "\(version)"
        }
      return actual == 0
        ? "conflict: stream \(stream) does not exist, expected \(expectation)"
        : "conflict: stream \(stream) is at version \(actual), expected \(expectation)"
    case .eventIDReused(let reuse):
      return reuse.description
    case .cursorBehind(let name, let checkpoint, let present):
      return
        "cursor \(name) is at offset \(present) and can't be moved back to \(checkpoint); commit a later offset, or"
        + " reset it"
    case .streamIncomplete(let stream, let missing):
      return
        "stream \(stream) is incomplete: version\(missing.count == 1 ? "" : "s") \(missing.text) could not be saved"
        + " when the store was repaired; ask for what is left explicitly"
    case .foreignFile(let directory, let name):
      return
        "\(directory) holds no LogStore, but \(name); nothing was changed, name a directory that is empty or not there yet"
    case .notAStore(let directory):
      return "\(directory) holds no LogStore; name a store's directory, or append to create one"
    case .locked(let directory, let holder):
      return "\(directory) is locked by \(holder); stop that process first, or only read"
    case .damaged(let damage):
      return "\(damage); nothing was changed, run `logstore verify` for all findings and restore a backup, or save the"
        + " rest with `logstore repair`"
    case .unreadable(let damage):
      return
        "\(damage); nothing was changed, look into the kernel's log (dmesg); `logstore verify` lists every such place,"
        + " and if they stay, restore a backup or save the rest with `logstore repair`"
    case .backupDamaged(let damage):
      return "\(damage); this is in the backup, which was not changed: use another copy of it"
    case .backupRefused(let path, let reason), .repairRefused(let path, let reason):
      return "\(path): \(reason)"
    case .repairUndecided(let path, let histories):
      return
        "\(path) holds files of \(histories.count) histories of this store, and nothing tells which is its own: name a file"
        + " of the one to keep, \(histories.map { fileName(of: $0.keeping) }.joined(separator: " or ")); nothing was made"
    case .unsupportedFormat(let file, let version, let supported):
      return "\(file) has format version \(version), this program knows up to \(supported); use a newer program"
    case .moved(let directory, let reason):
      return "\(directory) was moved away, replaced or removed while it was open: \(reason); close this, and open the"
        + " store where it is now"
    case .segmentLost(let file, let reason):
      return
        "\(file) was removed or replaced while the store wrote to it: \(reason); nothing more is acknowledged:"
        + " close this, and put the file back, restore a backup, or save the rest with `logstore repair`"
    case .diskFull(let operation, let path):
      return "disk full: \(operation) \(path); free some space, what was acknowledged is safe"
    case .inputOutput(let operation, let path, let code):
      return "\(operation) \(path) failed: \(systemMessage(code)); \(systemAdvice(code))"
    case .stopped(let cause):
      return "stopped after an earlier failure (\(cause)); close the store and open it again"
    case .closed:
      return "the store is closed; open it again"
    case .cancelled:
      return "the task was cancelled; go on in another one"
    }
  }
}

extension LogStoreError {
  /// The damaged or unreadable place in a file, if the error is about one.
  var finding: Damage? {
    switch self {
    case .damaged(let damage), .unreadable(let damage): damage
    case .inputOutput(let operation, let path, let code) where isUnreadable(code):
      Damage(file: path, position: 0, reason: "can't be read: \(operation): \(systemMessage(code))")
    case .inputOutput(_, let path, let code):
      noFileReason(code).map { Damage(file: path, position: 0, reason: $0) }
    default: nil
    }
  }
}

extension ClosedRange<UInt64> {
  /// `7`, or `7..9`.
  var text: String { lowerBound == upperBound ? "\(lowerBound)" : "\(lowerBound)..\(upperBound)" }
}
