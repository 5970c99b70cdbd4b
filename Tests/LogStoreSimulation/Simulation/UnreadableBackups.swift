@testable import LogStore

// Backups from a store with unreadable pages, and backups that can't be read: what is there stays, and is complete once the
// disk is well.

extension UnreadableDisk {
  static let backup = "saved"
  private static let restored = "again"
  static let backupFile = "saved.file"

  /// A backup in a directory, before anything is unreadable.
  func backUpWell() {
    do throws(LogStoreError) {
      backedUp = try BackupRun(directory: Self.directory, disk: process(), progress: nil)
        .run(to: .directory(Self.backup)).endOffset
    } catch {
      fail("a backup before: \(error)")
    }
  }

  /// From the store with unreadable pages, onto the earlier backup: the result is complete, or nothing changes.
  func backUp() {
    do throws(LogStoreError) {
      backedUp = try BackupRun(directory: Self.directory, disk: process(), progress: nil)
        .run(to: .directory(Self.backup)).endOffset
    } catch {
      expectDue(error, "backup")
    }
    if let backedUp { expectRestored(.directory(Self.backup), backedUp) }
  }

  private func expectRestored(_ location: BackupLocation, _ end: UInt64) {
    let model = Model(copying: model)
    defer { removeDirectory(Self.restored) }
    do throws(LogStoreError) {
      _ = try Restoration.run(from: location, to: Self.restored, until: nil, disk: process(), progress: nil)
      let (follower, commitPoint, recovery) = try Follower.open(Self.restored, disk: process(), follows: false)
      let reader = LogReader(commitPoint: commitPoint, follower: follower, recovery: recovery)
      defer { reader.close() }
      var count: UInt64 = 0
      try reader.forEach(from: 0) { event in
        if let problem = model.see(event) { self.fail("restored: \(problem)") }
        count += 1
        return true
      }
      if count != end { fail("\(count) of \(end) events are restored") }
    } catch {
      fail("restoring: \(error)")
    }
  }

  /// A backup with an unreadable file is refused by that file's name, and is complete once the file can be read.
  func loseBackup() {
    backUpWell()
    guard !hasFailed, let backedUp else { return }
    if generator.oneIn(2) {
      guard loseSight(.inBackup) else { return fail("a backup without files") }
      expectRefused(.directory(Self.backup))
      // It may not need the unreadable page, or be refused.
      backUpAgain(.directory(Self.backup))
    } else {
      backUpAgain(.file(Self.backupFile))
      guard !hasFailed, loseSight(.inBackupFile) else { return }
      expectRefused(.file(Self.backupFile))
      backUpAgain(.file(Self.backupFile))
    }
    machine.withState { state in for inode in state.names.files.values { inode.makeReadable() } }
    if hasFailed { return }
    expectRestored(.directory(Self.backup), backedUp)
    if machine.withState({ $0.names.files[Self.backupFile] != nil }) {
      expectRestored(.file(Self.backupFile), backedUp)
    }
  }

  private func backUpAgain(_ location: BackupLocation) {
    do throws(LogStoreError) {
      _ = try BackupRun(directory: Self.directory, disk: process(), progress: nil).run(to: location)
    } catch {
      expectDue(error, "a backup onto another one")
    }
  }

  private func expectRefused(_ location: BackupLocation) {
    do throws(LogStoreError) {
      _ = try Restoration.run(from: location, to: Self.restored, until: nil, disk: process(), progress: nil)
      fail("restored all the same")
    } catch {
      expectDue(error, "restoring")
    }
    if machine.withState({ $0.names.directories.contains(Self.restored) }) { fail("something is restored") }
  }
}
