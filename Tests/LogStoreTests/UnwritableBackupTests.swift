import Synchronization
import Testing

@testable import LogStore

/// Backups by a process that can't write to the store, whose last writer was killed: as on a disk that went read-only.
@Suite struct UnwritableBackupTests {
  enum Target: String, CaseIterable, Sendable {
    case directory, file

    var location: BackupLocation {
      switch self {
      case .directory: .directory("backup")
      case .file: .file("backup")
      }
    }
  }

  /// Dies at the first write after a number of segments got their names.
  private final class Death: Sendable {
    private let segmentsLeft: Atomic<Int>
    init(segments: Int) { segmentsLeft = Atomic(segments) }

    func decide(_ operation: SimulatedDisk.Operation, _ path: String) -> SimulatedDisk.Fault? {
      if operation == .rename, path.hasSuffix(".log") { segmentsLeft.subtract(1, ordering: .relaxed) }
      return operation == .write && segmentsLeft.load(ordering: .relaxed) <= 0 ? .death : nil
    }
  }

  /// A store whose writer was killed after it had begun a segment and before the segment's first event, as a process sees it that
  /// can't write to it.
  ///
  /// - Parameter segments: segments before that one.
  private func killedStore(segments: Int = 0) async throws -> (disk: SimulatedDisk, endOffset: UInt64) {
    let disk = SimulatedDisk()
    let log = try LogStore.open("store", options: smallSegments(), disk: disk)
    let death = Death(segments: segments)
    disk.setFault { _, operation, path in death.decide(operation, path) }
    var end: UInt64 = 0
    do throws(LogStoreError) {
      while segments > 0 {
        let cursors = end > 0 ? [CursorCommit(name: "c", checkpoint: end)] : []
        _ = try await log.append(Append([event("s", String(repeating: "p", count: 9_000))], cursors: cursors))
        end += 1
      }
    } catch {
      #expect(disk.isDead, "\(error)")
    }
    let copy = disk.afterKill()
    log.abandon()
    copy.forbidWriting(in: "store")
    return (copy, end)
  }

  private func backUp(_ disk: SimulatedDisk, _ target: Target) throws(LogStoreError) -> BackupReport {
    try BackupRun(directory: "store", disk: disk, progress: nil).run(to: target.location)
  }

  /// What a restored store holds.
  private func restored(_ disk: SimulatedDisk, _ target: Target) throws -> (events: Int, cursor: UInt64?) {
    let directory = "restored\(disk.operationCount)"
    _ = try Restoration.run(from: target.location, to: directory, until: nil, disk: disk, progress: nil)
    let (follower, commitPoint, recovery) = try Follower.open(directory, disk: disk)
    let reader = LogReader(commitPoint: commitPoint, follower: follower, recovery: recovery)
    defer { reader.close() }
    return (try reader.events(from: 0, limit: .max).count, try reader.cursor("c"))
  }

  private func content(_ path: String, _ disk: SimulatedDisk) throws -> [UInt8] {
    try #require(disk.machine.withState { $0.names.files[path]?.content })
  }

  @Test(
    "a store whose writer was killed before the first event is backed up as by a process that can write, and restored",
    arguments: Target.allCases)
  func empty(target: Target) async throws {
    let (disk, _) = try await killedStore()
    #expect(try backUp(disk, target).endOffset == 0)
    #expect(try restored(disk, target).events == 0)
    #expect(try backUp(disk, target).endOffset == 0)
    // A process that can write makes the same backup.
    let writing = SimulatedDisk(disk.machine)
    let image = try LogImage.open("store", disk: writing)
    let unwritable = try LogImage.open("store", disk: disk)
    #expect(try unwritable.read(0).part == image.read(0).part)
    #expect(unwritable.recovery.tornTail == nil)
  }

  @Test(
    "a last segment without an event is backed up with its cursors, and restored", arguments: Target.allCases)
  func laterSegment(target: Target) async throws {
    let (disk, end) = try await killedStore(segments: 2)
    let report = try backUp(disk, target)
    #expect(report.endOffset == end && report.segments == 3 && report.tornTail == nil)
    let found = try restored(disk, target)
    #expect(found.events == Int(end) && found.cursor == end - 1)
    // A reader sees the cursors, too.
    let (follower, commitPoint, _) = try Follower.open("store", disk: disk, follows: false)
    defer { follower.stop() }
    #expect(commitPoint.cursors[Array("c".utf8)] == end - 1)
  }

  // MARK: - Backups by early programs

  /// Makes a backup as early programs did: the last part is a header alone.
  private func spoil(
    _ target: Target, _ disk: SimulatedDisk, end: UInt64, changing change: (inout [BackupPart]) -> Void = { _ in }
  ) throws {
    let image = try LogImage.open("store", disk: disk)
    var parts: [BackupPart] = []
    var contents: [[UInt8]] = []
    for base in image.bases {
      let (segment, part) = try image.read(base)
      contents.append(Array(segment.bytes.prefix(Int(part.contentByteCount))))
      parts.append(part)
    }
    let last = parts.count - 1
    contents[last].removeLast(contents[last].count - SegmentHeader.byteCount)
    parts[last].contentByteCount = UInt64(SegmentHeader.byteCount)
    parts[last].endOffset = end
    parts[last].checksum = contents[last].withUnsafeBytes(checksum)
    parts[last].chain = last == 0 ? 0 : parts[last - 1].chain
    change(&parts)
    let manifest = BackupManifest(
      store: image.store, endOffset: parts[last].endOffset, createdMicroseconds: 1, parts: parts)
    switch target {
    case .directory:
      _ = try disk.makeDirectory("backup")
      for (part, content) in zip(parts, contents) {
        try disk.open("backup/" + BackupFileName.part(part), .create).write(content)
      }
      try disk.open("backup/manifest", .create).write(manifest.encoded())
    case .file:
      var bytes = BackupStreamHeader(store: image.store).encoded()
      for (number, content) in contents.enumerated() {
        let isBehindGap = number > 0 && parts[number].isBehindGap(after: parts[number - 1])
        bytes += BackupPartHeader(part: parts[number], isBehindGap: isBehindGap).encoded() + content
      }
      try disk.open("backup", .create).write(bytes + manifest.encoded())
    }
  }

  @Test(
    "a backup whose last segment is a header alone, by an early program, is restored, continued and replaced",
    arguments: Target.allCases, [0, 2])
  func headerAlone(target: Target, segments: Int) async throws {
    let (disk, end) = try await killedStore(segments: segments)
    try spoil(target, disk, end: end)
    let found = try restored(disk, target)
    #expect(found.events == Int(end))
    // The last cursor was committed with the segment's last event.
    #expect(found.cursor == (segments == 0 ? nil : end - 1))
    #expect(try backUp(disk, target).endOffset == end)
    #expect(try restored(disk, target).events == Int(end))
    if target == .directory {
      #expect(try disk.list("backup").filter { $0.hasSuffix(".segment") }.count == segments + 1)
    }
    let writing = SimulatedDisk(disk.machine)
    let log = try LogStore.open("store", options: smallSegments(), disk: writing)
    _ = try await log.append(Append(event("s")))
    try await log.close()
    #expect(try backUp(disk, target).endOffset == end + 1)
    #expect(try restored(disk, target).events == Int(end) + 1)
  }

  @Test("such a segment behind a gap is refused with what to do", arguments: Target.allCases)
  func behindGap(target: Target) async throws {
    let (disk, end) = try await killedStore(segments: 1)
    try spoil(target, disk, end: end) { parts in
      parts[1].baseOffset += 5
      parts[1].endOffset += 5
    }
    #expect {
      try restored(disk, target)
    } throws: {
      guard case LogStoreError.backupDamaged(let damage) = $0 else { return false }
      return damage.reason.contains("back up the store again, or restore with --until \(end)")
    }
    let report = try Restoration.run(from: target.location, to: "until", until: end, disk: disk, progress: nil)
    #expect(report.endOffset == end)
  }

  @Test("a manifest or a part's head that could not be read again is not written")
  func guarded() throws {
    let sound = BackupPart(baseOffset: 0, endOffset: 3, contentByteCount: 5_000, checksum: 1, chain: 2)
    let store = StoreHeader(storeID: .random(), createdMicroseconds: 1)
    func isRefused(_ parts: [BackupPart], endOffset: UInt64) -> Bool {
      let manifest = BackupManifest(store: store, endOffset: endOffset, createdMicroseconds: 1, parts: parts)
      do throws(LogStoreError) {
        return try manifest.checkedBytes(for: "backup") != manifest.encoded()
      } catch {
        guard case .backupRefused("backup", let reason) = error else { return false }
        return reason.contains("could not be restored")
      }
    }
    #expect(!isRefused([sound], endOffset: 3))
    #expect(isRefused([sound], endOffset: 4))
    #expect(isRefused([], endOffset: 0))
    var next = sound
    (next.baseOffset, next.endOffset) = (3, 3)
    #expect(!isRefused([sound, next], endOffset: 3))
    #expect(isRefused([sound, next, next], endOffset: 3))
    #expect(isRefused([next], endOffset: 3))
    for contentByteCount: UInt64 in [0, 4_095, 4_096, 1 << 32] {
      var part = next
      part.contentByteCount = contentByteCount
      #expect(isRefused([sound, part], endOffset: 3), "\(contentByteCount)")
      #expect(throws: LogStoreError.self) {
        try BackupPartHeader(part: part, isBehindGap: false).checkedBytes(for: "backup")
      }
    }
  }
}
