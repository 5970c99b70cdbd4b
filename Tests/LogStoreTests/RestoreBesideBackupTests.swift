import Foundation
import Synchronization
import Testing

@testable import LogStore

@Suite("a restore while backups to the same directory end")
struct RestoreBesideBackupTests {
  let directory = TemporaryDirectory()
  var backup: String { directory.file("backup") }
  var restored: String { directory.file("restored") }

  /// Copies of one store, each with three events more than the one before, all in its last segment.
  private func states(_ count: Int) async throws -> [String] {
    let store = directory.file("store")
    let log = try LogStore.open(store, options: smallSegments())
    for number in 0..<300 { try await append(3, number, to: log) }
    try await log.close()
    var states: [String] = []
    for number in 0..<count {
      let log = try LogStore.open(store, options: smallSegments())
      try await append(3, number, to: log)
      try await log.close()
      states.append(directory.file("state\(number)"))
      try copyStore(store, to: directory.file("state\(number)"))
    }
    return states
  }

  private func append(_ count: Int, _ number: Int, to log: LogStore) async throws(LogStoreError) {
    _ = try await log.append(
      Append((0..<count).map { event("s\($0)", "\(number)/\($0) " + String(repeating: "p", count: 200)) }))
  }

  private func manifest() throws -> BackupManifest {
    try #require(try BackupDirectory(backup, disk: RealDisk()).manifest())
  }

  private func restore(_ disk: any Disk) throws(LogStoreError) -> RestoreReport {
    try Restoration.run(from: .directory(backup), to: restored, until: nil, disk: disk, progress: nil)
  }

  private func expectNoStore() {
    for path in [restored, restored + ".restoring"] { #expect(!FileManager.default.fileExists(atPath: path)) }
  }

  @Test("the restore continues with the new backup, and reads no segment again that both hold", arguments: 1...3)
  func continues(backups: Int) async throws {
    let states = try await states(backups + 1)
    _ = try LogStore.backup(states[0], to: .directory(backup))
    let segments = try manifest().parts.count
    #expect(segments > 2)
    let disk = BackedUpDisk(backup, states.dropFirst())
    #expect(try restore(disk).endOffset == 900 + 3 * UInt64(states.count))
    #expect(disk.left == 0, "each backup ended before the file was read that it removes")
    #expect(disk.readCount == segments)
    let (reader, original) = (try LogReader.open(restored), try LogReader.open(states[backups]))
    defer {
      reader.close()
      original.close()
    }
    #expect(try reader.events(from: 0, limit: .max) == original.events(from: 0, limit: .max))
    #expect(try LogStore.verify(restored).findings == [])
  }

  @Test("a restore that finds new backups again and again ends with an error that says so, and leaves nothing")
  func givesUp() async throws {
    let states = try await states(Restoration.manifestLimit + 1)
    _ = try LogStore.backup(states[0], to: .directory(backup))
    let disk = BackedUpDisk(backup, states.dropFirst())
    await expectThrows({
      guard case .backupRefused(backup, let reason) = $0 else { return false }
      return reason.contains("backups to it are running")
    }) { () throws(LogStoreError) in try restore(disk) }
    expectNoStore()
    #expect(try restore(RealDisk()).endOffset == 900 + 3 * UInt64(states.count))
  }

  @Test("a damaged segment that the new backup lists too is reported as damaged, with its file")
  func damaged() async throws {
    let states = try await states(2)
    _ = try LogStore.backup(states[0], to: .directory(backup))
    let disk = BackedUpDisk(backup, states.dropFirst()) { manifest in
      // Behind the backup, which would have replaced the copy.
      let path = BackupDirectory(backup, disk: RealDisk()).path(of: manifest.parts[manifest.parts.count - 1])
      try? edit(path) { $0[6000] ^= 1 }
    }
    await expectThrows({
      guard case .backupDamaged(let damage) = $0 else { return false }
      return damage.file.hasSuffix(".segment") && damage.reason.contains("checksum")
    }) { () throws(LogStoreError) in try restore(disk) }
    #expect(disk.left == 0)
    expectNoStore()
  }
}

/// A disk on which a backup to a directory ends just before its last segment is opened to be read.
private final class BackedUpDisk: RealDiskDouble {
  let real = RealDisk()
  private let backup: String
  private let states: Mutex<[String]>
  private let reads = Atomic<Int>(0)
  private let afterBackup: @Sendable (BackupManifest) -> Void

  /// - Parameter states: the stores that are backed up, one each time.
  init(
    _ backup: String, _ states: some Sequence<String>,
    afterBackup: @escaping @Sendable (BackupManifest) -> Void = { _ in }
  ) {
    self.backup = backup
    self.states = Mutex(Array(states))
    self.afterBackup = afterBackup
  }

  /// The stores that were not backed up yet.
  var left: Int { states.withLock { $0.count } }
  /// The segments of the backup that were opened.
  var readCount: Int { reads.load(ordering: .relaxed) }

  func open(_ path: String, _ mode: FileMode) throws(LogStoreError) -> any File {
    guard mode == .read, path.hasSuffix(BackupFileName.partSuffix) else { return try real.open(path, mode) }
    let directory = BackupDirectory(backup, disk: real)
    if let last = try directory.manifest()?.parts.last, path == directory.path(of: last),
      let state = states.withLock({ $0.isEmpty ? nil : $0.removeFirst() })
    {
      _ = try LogStore.backup(state, to: .directory(backup))
      if let manifest = try directory.manifest() { afterBackup(manifest) }
    }
    let file = try real.open(path, mode)
    reads.add(1, ordering: .relaxed)
    return file
  }
}
