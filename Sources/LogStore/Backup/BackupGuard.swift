// The last check of a backup before it replaces another: what is written can be read again.

extension BackupManifest {
  /// The manifest's bytes, as ``encoded()`` gives them.
  ///
  /// - Parameter path: the backup's path, for the error.
  /// - Throws: ``LogStoreError/backupRefused(path:reason:)`` if a restoration would refuse these bytes.
  func checkedBytes(for path: String) throws(LogStoreError) -> [UInt8] {
    let bytes = encoded()
    try refuseUnreadable(bytes, path, parts) { (bytes) throws(HeaderFault) in
      try BackupManifest(bytes) == self
    }
    return bytes
  }
}

extension BackupPartHeader {
  /// As ``BackupManifest/checkedBytes(for:)``.
  func checkedBytes(for path: String) throws(LogStoreError) -> [UInt8] {
    let bytes = encoded()
    try refuseUnreadable(bytes, path, [part]) { (bytes) throws(HeaderFault) in
      try BackupPartHeader(bytes) == self
    }
    return bytes
  }
}

private func refuseUnreadable(
  _ bytes: [UInt8], _ path: String, _ parts: [BackupPart],
  _ isSame: (UnsafeRawBufferPointer) throws(HeaderFault) -> Bool
) throws(LogStoreError) {
  var reason = "a segment without its first frame"
  do throws(LogStoreError) {
    // A part with the header alone is read from old backups, and can't be restored completely.
    if try decode(bytes, of: path, isSame), !parts.contains(where: \.isHeaderOnly) { return }
  } catch {
    reason = error.finding?.reason ?? error.description
  }
  throw .backupRefused(
    path: path,
    reason: "the new backup could not be restored (\(reason)), so it was not finished, and the one before stays;"
      + " this is an error of this program: please report it, and copy the store's directory while nobody writes to it")
}
