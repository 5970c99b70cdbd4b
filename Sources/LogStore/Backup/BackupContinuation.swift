/// Checks that the log continues from what was backed up: a backup is never replaced by a worse one.
struct BackupContinuation {
  let image: LogImage
  /// The backup's path.
  let path: String
  /// What the error tells the operator to do instead.
  let advice: String

  func check(_ previous: BackupManifest) throws(LogStoreError) {
    guard previous.store == image.store else {
      throw .backupRefused(path: path, reason: "this is the backup of another store; \(advice)")
    }
    guard previous.endOffset <= image.end.offset else {
      throw .backupRefused(
        path: path,
        reason: "the log ends with offset \(image.end.offset), but was backed up to \(previous.endOffset); something is"
          + " missing from the log, or it is an older copy: restore this backup, or \(advice)")
    }
    let bases = image.bases
    for (number, part) in previous.parts.enumerated() {
      guard number < bases.count, bases[number] == part.baseOffset else { throw diverged(at: part.baseOffset) }
      // Frames are chained by their checksums, so equal values at the end of a segment prove that everything before is the
      // same.
      if number + 1 < previous.parts.count {
        let finish = try image.finish(of: part.baseOffset)
        guard finish?.offset == part.endOffset, finish?.chain == part.chain else {
          throw diverged(at: part.baseOffset)
        }
      }
    }
  }

  /// Checks what was backed up of the last segment by reading the segment.
  func checkOpen(_ old: BackupPart) throws(LogStoreError) {
    let (segment, part) = try image.read(old.baseOffset)
    try check(segment, part, continues: old)
  }

  /// Checks that a segment begins with what was backed up of it.
  func check(_ segment: Segment, _ part: BackupPart, continues old: BackupPart) throws(LogStoreError) {
    // A segment without events may have been replaced by another file of the same name.
    if old.baseOffset == old.endOffset { return }
    guard part.contentByteCount >= old.contentByteCount else { throw diverged(at: old.baseOffset) }
    let faults = segment.mapping.faultCount
    let sum = checksum(segment.bytes.part(0, Int(old.contentByteCount)))
    try segment.checkReadable(0..<Int(old.contentByteCount), since: faults)
    guard sum == old.checksum else { throw diverged(at: old.baseOffset) }
  }

  private func diverged(at offset: UInt64) -> LogStoreError {
    .backupRefused(
      path: path,
      reason:
        "the log's segment of offset \(offset) does not go on from what was backed up, though it is the same store:"
        + " the store was repaired since, or restored from an earlier state of the backup, or two copies of it were written to;"
        + " \(advice)")
  }
}
