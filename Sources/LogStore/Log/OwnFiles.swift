import Glibc

/// Decides which files in a directory belong to a store. Where the file `store` exists, those with the names that
/// docs/FORMAT.md lists; before that, those whose content shows it, since a name such as `lock` could be anybody's. Nothing
/// else is ever overwritten or removed.
struct OwnFiles {
  /// The length of the magic bytes of all kinds of files. They lie in one sector of a disk.
  private static let magicByteCount = 8
  /// A lock file has at most the words `process N`.
  private static let lockByteCount = 64

  let directory: String
  let disk: any Disk

  /// Refuses a directory in which no store can be created, because it holds something else than what an interrupted
  /// creation leaves. Changes nothing. Returns if another process has created a store there meanwhile.
  ///
  /// Ignores what file systems put into directories: `lost+found`, and `.nfs…`, a removed file that is still open.
  func checkFree() throws(LogStoreError) {
    guard try disk.kind(directory) != nil else { return }
    let names = try disk.list(directory)
    if names.contains(FileName.store) { return }
    for name in names.sorted() {
      if try isOwn(name) { continue }
      // Segments without the file `store` are damage, whatever else is in the directory.
      let segments = names.filter { FileName.baseOffset($0, suffix: ".log") != nil }
      for segment in segments {
        if try isOwn(segment) { throw Catalog.storeMissing(directory) }
      }
      // Also a segment whose first bytes are lost.
      if !segments.isEmpty, try !Catalog.isNothingLost(directory, disk: disk) { throw Catalog.storeMissing(directory) }
      throw .foreignFile(directory: directory, name: name)
    }
  }

  /// Removes what unfinished work has left in a store's directory.
  func removeUnfinished() throws(LogStoreError) {
    for name in try disk.list(directory) where FileName.isAside(name) { try removeUnfinished(name) }
  }

  /// Removes an unfinished file. What has the name of such a file but other content, or is a directory, is moved aside
  /// within the store's directory: after a power cut a file system may show anything in a file that was not synced, and
  /// that must not keep the store from working.
  func removeUnfinished(_ name: String) throws(LogStoreError) {
    let path = join(directory, name)
    var isForeign = false
    do throws(LogStoreError) {
      switch try disk.kind(path) {
      case .file: isForeign = try !isUnfinished(name)
      case .directory: isForeign = true
      case .other, nil: break
      }
    } catch {
      // It can't be read, so its owner is unknown.
      isForeign = true
    }
    if isForeign {
      try disk.rename(path, to: try freePath(path))
    } else {
      try disk.remove(path)
    }
  }

  private func freePath(_ path: String) throws(LogStoreError) -> String {
    var number = 1
    while try disk.exists("\(path).kept-\(number)") { number += 1 }
    return "\(path).kept-\(number)"
  }

  // MARK: - By content

  /// Whether the creation of a store may have left a file.
  private func isOwn(_ name: String) throws(LogStoreError) -> Bool {
    let path = join(directory, name)
    if name == "lost+found" || name.hasPrefix(".nfs") { return true }
    switch try disk.kind(path) {
    // The file is gone, or a link leads nowhere: nothing is written through it.
    case nil: return try disk.foreign(path) == nil
    case .directory, .other: return false
    case .file: break
    }
    switch name {
    case FileName.lock: return try isLockText(path)
    case FileName.tail: return try isTail(path)
    case FileName.clean: return try begins(path, with: "LSCLEAN1")
    case _ where FileName.indexRange(name) != nil: return try begins(path, with: IndexLayout.magic)
    case _ where FileName.baseOffset(name, suffix: ".log") != nil: return try begins(path, with: "LSSEGMNT")
    case _ where FileName.isAside(name): return try isUnfinished(name)
    default: return false
    }
  }

  /// Whether an unfinished file begins as it should, as far as it was written: the process may have died during any write,
  /// and after a power cut any part of what was not synced may be there.
  func isUnfinished(_ name: String) throws(LogStoreError) -> Bool {
    let path = join(directory, name)
    let head = try disk.contents(path, limit: Self.magicByteCount) ?? []
    if head.allSatisfy({ $0 == 0 }) { return true }
    switch name {
    case FileName.next: return Self.isPart(head, of: "LSSEGMNT")
    case FileName.store + FileName.aside: return Self.isPart(head, of: "LOGSTORE")
    case FileName.clean + FileName.aside: return Self.isPart(head, of: "LSCLEAN1")
    case FileName.tail + FileName.aside: return try isTail(path)
    case FileName.lock + FileName.aside, FileName.restoring: return try isLockText(path)
    default: return Self.isPart(head, of: IndexLayout.magic)
    }
  }

  /// Whether a file begins with a part of the magic bytes, and with zeros from there on.
  private static func isPart(_ head: [UInt8], of magic: StaticString) -> Bool {
    magic.withUTF8Buffer { magic in
      let sameCount = zip(head, magic).prefix { $0 == $1 }.count
      return head.dropFirst(sameCount).allSatisfy { $0 == 0 }
    }
  }

  private func begins(_ path: String, with magic: StaticString) throws(LogStoreError) -> Bool {
    let head = try disk.contents(path, limit: magic.utf8CodeUnitCount) ?? []
    return magic.withUTF8Buffer { $0.elementsEqual(head) }
  }

  private func isTail(_ path: String) throws(LogStoreError) -> Bool {
    let bytes = try disk.contents(path, limit: TailNotice.byteCount + 1) ?? []
    return bytes.count == TailNotice.byteCount && bytes.withUnsafeBytes { TailNotice($0) } != nil
  }

  /// The words of ``FileLock/describe(_:)`` as far as they were written, and zeros where a power cut has left no bytes.
  private func isLockText(_ path: String) throws(LogStoreError) -> Bool {
    let bytes = try disk.contents(path, limit: Self.lockByteCount) ?? []
    guard bytes.count < Self.lockByteCount else { return false }
    let word = Array("process ".utf8)
    let sameCount = zip(bytes, word).prefix { $0 == $1 }.count
    var rest = bytes.dropFirst(sameCount)
    if sameCount == word.count {
      rest = rest.drop { (48...57).contains($0) }
      if rest.first == UInt8(ascii: "\n") { rest = rest.dropFirst() }
    }
    return rest.allSatisfy { $0 == 0 }
  }
}
