import Glibc

/// A store that is made in a directory of its own beside its destination and gets its name when it is complete. Until then
/// there is nothing at the destination.
struct AsideStore {
  /// What the store is made for.
  enum Work {
    case restoring
    case repairing

    fileprivate var suffix: String {
      switch self {
      case .restoring: ".restoring"
      case .repairing: ".repairing"
      }
    }

    fileprivate func refusal(_ path: String, _ reason: String) -> LogStoreError {
      switch self {
      case .restoring: .backupRefused(path: path, reason: reason)
      case .repairing: .repairRefused(path: path, reason: reason)
      }
    }
  }

  /// The process that makes the store locks this file. A writer removes a file of this name if the work ended before it
  /// did.
  private static let lockName = FileName.restoring

  /// The destination.
  let directory: String
  /// The directory where it is made.
  let path: String
  private let work: Work
  private let disk: any Disk

  init(_ directory: String, doing work: Work, disk: any Disk) throws(LogStoreError) {
    // Follow links now: a rename would replace one.
    let isThere = try disk.kind(directory) != nil
    self.directory = isThere ? try disk.canonicalPath(directory) : directory.withoutTrailingSlashes
    path = self.directory + work.suffix
    self.work = work
    self.disk = disk
  }

  /// Makes the directory, and removes what a killed run left in it. Keep the lock until the end.
  func begin() throws(LogStoreError) -> any FileLock {
    switch try disk.kind(directory) {
    case nil:
      let above = parent(of: directory)
      if try disk.kind(above) == nil { try disk.makeDirectories(above) }
    case .directory:
      if let name = try disk.list(directory).first {
        throw work.refusal(directory, "the directory holds \(name); name one that is empty or not there yet")
      }
    case .file, .other: throw work.refusal(directory, "this is no directory; name another")
    }
    // Check after creation: another user may have made it first.
    _ = try disk.makeDirectory(path)
    if let reason = try disk.foreign(path) {
      throw work.refusal(
        path, "this name is needed for the unfinished store, but \(reason); remove it, or name another place")
    }
    guard try disk.kind(path) == .directory else {
      throw work.refusal(path, "this name is needed for the unfinished store; remove what is there")
    }
    // Before the lock, whose file would be made in another's directory.
    try refuseForeignContent()
    guard let lock = try disk.lock(join(path, Self.lockName), exclusive: true) else {
      throw work.refusal(directory, "a store is being made there already; wait for the end of that")
    }
    // The file shows what the directory is. So no power cut may leave others without it.
    try disk.syncDirectory(path)
    try refuseForeignContent()
    for name in try disk.list(path) where name != Self.lockName { try disk.remove(join(path, name)) }
    return lock
  }

  /// Refuses a directory that is not empty and was not left by a killed run, which makes its lock before anything else and
  /// only files of a store beside it.
  private func refuseForeignContent() throws(LogStoreError) {
    let names = try disk.list(path)
    guard !names.isEmpty else { return }
    if let name = names.first(where: { !Self.isKnown($0) }) {
      throw work.refusal(path, "the directory is needed for the unfinished store, but holds \(name); move it away")
    }
    guard names.contains(Self.lockName), try OwnFiles(directory: path, disk: disk).isUnfinished(Self.lockName) else {
      throw work.refusal(
        path, "the directory is needed for the unfinished store, but holds files of another one; move it away")
    }
  }

  private static func isKnown(_ name: String) -> Bool {
    name == FileName.store || name == FileName.clean || FileName.isAside(name)
      || FileName.baseOffset(name, suffix: ".log") != nil
  }

  /// Removes the unfinished store.
  func remove() throws(LogStoreError) {
    for name in try disk.list(path) where Self.isKnown(name) { try disk.remove(join(path, name)) }
    try disk.removeDirectory(path)
  }

  /// Removes the files of all segments but these.
  func removeSegments(but kept: Set<String>) throws(LogStoreError) {
    for name in try disk.list(path) where FileName.baseOffset(name, suffix: ".log") != nil && !kept.contains(name) {
      try disk.remove(join(path, name))
    }
  }

  /// Renames the directory to its destination, in one step.
  func appear() throws(LogStoreError) {
    try disk.syncDirectory(path)
    do throws(LogStoreError) {
      try disk.rename(path, to: directory)
    } catch .inputOutput(_, _, EBUSY) {
      throw work.refusal(directory, "this is a mount point; name a new directory in it")
    }
    // Only now: until the rename this file's lock keeps other processes out of the directory.
    try disk.remove(join(directory, Self.lockName))
    try disk.syncDirectory(directory)
    try disk.syncDirectory(parent(of: directory))
  }
}

extension String {
  fileprivate var withoutTrailingSlashes: String {
    var path = self[...]
    while path.count > 1, path.last == "/" { path.removeLast() }
    return String(path)
  }
}
