@testable import LogStore

// Backups of the store, while it is written, cut short, and restored: the last one that was finished is always whole.

extension Simulation {
  private static let backup = "backup"

  func backUp(_ generator: inout SeededGenerator) {
    restoreLast()
    let disk = process()
    // Half of them die on the way.
    if generator.oneIn(2) {
      let dieAt = 1 + generator.below(30)
      disk.setFault { number, _, _ in number >= dieAt ? .death : nil }
    }
    do throws(LogStoreError) {
      let report = try BackupRun(directory: Self.directory, disk: disk, progress: nil).run(to: .directory(Self.backup))
      model.require(report.endOffset)
      backedUp = report.endOffset
      let until = generator.oneIn(2) ? nil : Optional(generator.next() % (report.endOffset + 1))
      let count = try restored(until: until)
      let expected = until ?? report.endOffset
      if count != expected { fail("\(count) events were restored, expected \(expected)") }
    } catch {
      if disk.isDead { disk.die() } else if !isStopped(error) { fail("backup: \(error)") }
    }
  }

  /// What was backed up before, in an earlier life perhaps, is still there: and where there is a manifest, all that it lists.
  func restoreLast() {
    let manifest = Self.backup + "/" + BackupFileName.manifest
    guard backedUp != nil || machine.withState({ $0.names.files[manifest] != nil }) else { return }
    do throws(LogStoreError) {
      let count = try restored(until: nil)
      if let backedUp, count < backedUp { fail("\(count) events in the backup, there were \(backedUp)") }
    } catch {
      fail("restoring the last backup: \(error)")
    }
  }

  /// Without a writer, a process that can't write to the store backs it up: it gets what is proven to be on disk, and what it
  /// gets can be restored, also where that is nothing. On a copy of the machine: the history goes on as without it.
  func backUpUnwritable() {
    let disk = SimulatedDisk(machine.copy())
    disk.forbidWriting(in: Self.directory)
    do throws(LogStoreError) {
      let proven = try events(Self.directory, disk)
      let target = BackupLocation.directory("unwritable")
      let report = try BackupRun(directory: Self.directory, disk: disk, progress: nil).run(to: target)
      _ = try Restoration.run(from: target, to: "restored", until: nil, disk: disk, progress: nil)
      let restored = try events("restored", disk)
      if report.endOffset != UInt64(proven.count) || restored != proven {
        fail("a backup without the right to write has other events than the log")
      }
    } catch {
      if !isOfUnfinished(error, isAlone: true) { fail("a backup without the right to write: \(error)") }
    }
  }

  private func events(_ directory: String, _ disk: SimulatedDisk) throws(LogStoreError) -> [Event] {
    let (follower, commitPoint, recovery) = try Follower.open(directory, disk: disk, follows: false)
    let reader = LogReader(commitPoint: commitPoint, follower: follower, recovery: recovery)
    defer { reader.close() }
    return try reader.events(from: 0, limit: .max)
  }

  /// Restores the backup, reads everything that is restored, and removes it. Returns the number of events.
  private func restored(until: UInt64?) throws(LogStoreError) -> UInt64 {
    let disk = process()
    let directory = "restored\(disk.number)"
    defer { removeDirectory(directory) }
    _ = try Restoration.run(from: .directory(Self.backup), to: directory, until: until, disk: disk, progress: nil)
    let (follower, commitPoint, recovery) = try Follower.open(directory, disk: disk)
    let reader = LogReader(commitPoint: commitPoint, follower: follower, recovery: recovery)
    defer { reader.close() }
    var count: UInt64 = 0
    try reader.forEach(from: 0) { event in
      if event.offset != count { self.fail("restored: offset \(event.offset) as number \(count)") }
      if let problem = self.model.see(event) { self.fail("restored: \(problem)") }
      count += 1
      return true
    }
    return count
  }

  private func removeDirectory(_ directory: String) {
    machine.withState { state in
      let prefix = directory + "/"
      state.names.files = state.names.files.filter { !$0.key.hasPrefix(prefix) }
      state.durableNames.files = state.durableNames.files.filter { !$0.key.hasPrefix(prefix) }
      state.nameChanges.removeAll { $0.path.hasPrefix(directory) }
    }
  }
}
