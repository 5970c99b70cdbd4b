import Glibc

/// Makes a store from a backup, in a directory of its own beside the destination. The directory gets its name when
/// everything is written and checked; until then there is no store at the destination.
struct Restoration {
  /// A segment that was restored.
  private struct RestoredSegment {
    var part: BackupPart
    var fileByteCount: UInt64
    /// The file that its bytes came from.
    var source: String
    var sourcePosition: UInt64
  }

  /// How many manifests are read before the restoration gives up.
  static let manifestLimit = 5

  let until: UInt64?
  let disk: any Disk
  let progress: Progress?
  private let asideStore: AsideStore
  private var directory: String { asideStore.directory }
  private var aside: String { asideStore.path }
  private var restored: [RestoredSegment] = []
  private let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: BackupRun.pieceByteCount, alignment: 16)

  static func run(
    from location: BackupLocation, to directory: String, until: UInt64?, disk: any Disk, progress: Progress?
  ) throws(LogStoreError) -> RestoreReport {
    if case .directory(let backup) = location { try refuse(directory, inBackup: backup, disk) }
    let asideStore = try AsideStore(directory, doing: .restoring, disk: disk)
    var restoration = Restoration(until: until, disk: disk, progress: progress, asideStore: asideStore)
    defer { restoration.buffer.deallocate() }
    let lock = try asideStore.begin()
    defer { lock.release() }
    do throws(LogStoreError) {
      return try restoration.restore(from: location)
    } catch {
      // Free the space; the first error is the one to throw.
      try? asideStore.remove()
      throw error
    }
  }

  private init(until: UInt64?, disk: any Disk, progress: Progress?, asideStore: AsideStore) {
    self.until = until
    self.disk = disk
    self.progress = progress
    self.asideStore = asideStore
  }

  /// The next backup to the directory would be refused, since it holds something else than a backup.
  private static func refuse(
    _ directory: String, inBackup backup: String, _ disk: any Disk
  ) throws(LogStoreError) {
    guard try disk.kind(backup) == .directory else { return }
    let backup = try disk.canonicalPath(backup)
    if try disk.resolved(directory).hasPrefix(backup == "/" ? backup : backup + "/") {
      throw .backupRefused(path: directory, reason: "this is inside the backup; name a place outside")
    }
  }

  // MARK: - Reading the backup

  private mutating func restore(from location: BackupLocation) throws(LogStoreError) -> RestoreReport {
    let manifest: BackupManifest
    let name: String
    switch location {
    case .directory(let path):
      name = join(path, BackupFileName.manifest)
      manifest = try readDirectory(BackupDirectory(path, disk: disk))
    case .file(let path):
      name = path
      if let kind = try disk.kind(path), kind != .file {
        throw .backupRefused(path: path, reason: "this is no ordinary file; give - and redirect standard input from it")
      }
      let file = try disk.open(path, .read)
      manifest = try readStream(FileStream(file), byteCount: try file.byteCount())
    case .descriptor(let number, let label):
      name = label
      manifest = try readStream(DescriptorStream(number, name: label), byteCount: nil)
    }
    let end = try finish(manifest)
    try verify(end, name: name)
    try asideStore.appear()
    return RestoreReport(
      endOffset: end.endOffset, segments: restored.count, bytes: restored.reduce(0) { $0 + $1.part.contentByteCount })
  }

  /// Reads what the manifest lists. A backup to the directory that ends meanwhile replaces the manifest and then removes files that
  /// the old one lists, or replaces bad ones. So what is missing or bad is damage only if the manifest is still the same; otherwise
  /// the new one counts.
  private mutating func readDirectory(_ backup: BackupDirectory) throws(LogStoreError) -> BackupManifest {
    for _ in 0..<Self.manifestLimit {
      let manifest = try backup.finishedManifest()
      try checkHolds(manifest)
      do throws(LogStoreError) {
        try readParts(of: manifest, in: backup)
        return manifest
      } catch .backupDamaged(let damage) {
        guard try backup.manifest() != manifest else { throw .backupDamaged(damage) }
      }
    }
    throw .backupRefused(
      path: backup.path,
      reason: "backups to it are running, and replaced its files \(Self.manifestLimit) times while they were read;"
        + " wait for their end")
  }

  private mutating func readParts(of manifest: BackupManifest, in backup: BackupDirectory) throws(LogStoreError) {
    let wanted = manifest.parts.filter(isWanted)
    try dropRestored(notIn: wanted)
    let total = wanted.reduce(0) { $0 + $1.contentByteCount }
    var done = restored.reduce(0) { $0 + $1.part.contentByteCount }
    for part in wanted.dropFirst(restored.count) {
      let path = backup.path(of: part)
      let file = try backup.open(part)
      let stream = FileStream(file)
      try add(part, from: path, at: 0) { (piece) throws(LogStoreError) in
        guard try stream.read(into: piece) == piece.count else {
          throw .backupDamaged(Damage(file: path, position: 0, reason: "the file became shorter while it was read"))
        }
      }
      done += part.contentByteCount
      progress?(done, total)
    }
  }

  /// Keeps the segments that a new manifest lists as well, and removes the files of all others, also one that was not finished.
  private mutating func dropRestored(notIn wanted: [BackupPart]) throws(LogStoreError) {
    restored = zip(restored, wanted).prefix { $0.part == $1 }.map { $0.0 }
    try asideStore.removeSegments(but: Set(restored.map { FileName.segment($0.part.baseOffset) }))
  }

  private mutating func readStream(
    _ stream: any ByteStream, byteCount: UInt64?
  ) throws(LogStoreError) -> BackupManifest {
    var reader = try BackupStreamReader(stream)
    while true {
      switch try reader.next() {
      case .part(let part):
        try add(part, from: stream.path, at: reader.position) { (piece) throws(LogStoreError) in
          try reader.read(into: piece)
        }
        if let byteCount { progress?(reader.position, byteCount) }
      case .end(let manifest):
        try checkHolds(manifest)
        return manifest
      }
    }
  }

  private func checkHolds(_ manifest: BackupManifest) throws(LogStoreError) {
    if let until, until > manifest.endOffset {
      throw .backupRefused(
        path: directory,
        reason: "the backup ends with offset \(manifest.endOffset), before \(until); name that offset or a lower one")
    }
  }

  /// Whether some of it is to be restored. If the log is to end where the segment begins, only its cursors are.
  private func isWanted(_ part: BackupPart) -> Bool {
    part.baseOffset <= until ?? .max
  }

  /// Reads a segment, checks its bytes, and writes its file if it is wanted.
  private mutating func add(
    _ part: BackupPart, from source: String, at position: UInt64,
    read: (UnsafeMutableRawBufferPointer) throws(LogStoreError) -> Void
  ) throws(LogStoreError) {
    let isLeftOut = try isLeftOut(part, source: source, at: position)
    let path = join(aside, FileName.segment(part.baseOffset))
    let file = isWanted(part) && !isLeftOut ? try disk.open(path, .create) : nil
    var sum = RunningChecksum()
    var head: [UInt8] = []
    var done = 0
    while done < Int(part.contentByteCount) {
      let piece = UnsafeMutableRawBufferPointer(
        rebasing: buffer[..<min(buffer.count, Int(part.contentByteCount) - done)])
      try read(piece)
      // No part is shorter than a header.
      if done == 0 { head = Array(piece[..<SegmentHeader.byteCount]) }
      sum.add(UnsafeRawBufferPointer(piece))
      try file?.write(UnsafeRawBufferPointer(piece), at: UInt64(done))
      done += piece.count
    }
    guard sum.value == part.checksum else {
      throw .backupDamaged(
        Damage(
          file: source, position: position,
          reason: "the \(part.contentByteCount) bytes of the segment from here on do not match their checksum"))
    }
    let header = try inBackup(at: position) { () throws(LogStoreError) in
      try decode(head, of: source, SegmentHeader.init)
    }
    guard header.fileByteCount >= part.contentByteCount else {
      throw .backupDamaged(
        Damage(file: source, position: position + 48, reason: "the segment's file is shorter than what is in it"))
    }
    guard let file else { return }
    var part = part
    if part.isHeaderOnly { try complete(&part, header, in: file) }
    try file.resize(to: header.fileByteCount)
    try file.sync()
    restored.append(
      RestoredSegment(part: part, fileByteCount: header.fileByteCount, source: source, sourcePosition: position))
  }

  // MARK: - A last segment without its first frame

  /// Whether a part is left out of the store: one with a header alone (``BackupPart/isHeaderOnly``), behind another part. The
  /// log then ends with that other part, which has all events and the cursors.
  private func isLeftOut(_ part: BackupPart, source: String, at position: UInt64) throws(LogStoreError) -> Bool {
    guard part.isHeaderOnly, isWanted(part), let last = restored.last else { return false }
    guard !part.isBehindGap(after: last.part) else {
      throw .backupDamaged(
        Damage(
          file: source, position: position + UInt64(SegmentHeader.byteCount),
          reason: "an older program left out the first frame of this segment, which tells what the gap before it lost;"
            + " back up the store again, or restore with --until \(last.part.endOffset) what is before the gap"))
    }
    return true
  }

  /// Adds the first frame to the first segment of a store without events. A cursor of such a log can only be at offset 0,
  /// where a new one begins, too.
  private func complete(
    _ part: inout BackupPart, _ header: SegmentHeader, in file: any File
  ) throws(LogStoreError) {
    let (frame, chain) = header.emptySnapshot
    try file.write(frame, at: part.contentByteCount)
    part.contentByteCount += UInt64(frame.count)
    part.chain = chain
  }

  // MARK: - Finishing the store

  /// Ends the last segment where the log is to end, and writes the small files.
  private func finish(_ manifest: BackupManifest) throws(LogStoreError) -> CleanEnd {
    // Proof for the index: a manifest has a segment with base offset 0, and that one is always wanted.
    let last = restored[restored.count - 1]
    let path = join(aside, FileName.segment(last.part.baseOffset))
    let file = try disk.open(path, .readWrite)
    let next = try endOfLog(in: last, file)
    // As a writer expects it: the space is allocated and zero.
    try file.writeZeros(from: next.position, to: Int(last.fileByteCount))
    try file.sync()
    let end = CleanEnd(
      storeID: manifest.store.storeID, endOffset: next.offset, baseOffset: last.part.baseOffset,
      endPosition: UInt64(next.position), chain: next.chain)
    try disk.replace(join(aside, FileName.clean), with: end.encoded())
    // Last, since this file makes the directory a store.
    try disk.replace(join(aside, FileName.store), with: manifest.store.encoded())
    return end
  }

  /// Where the log is to end: at the end of the segment's bytes, or before the first event that is left out.
  private func endOfLog(in last: RestoredSegment, _ file: any File) throws(LogStoreError) -> FrameExpectation {
    let part = last.part
    guard let until, until < part.endOffset else {
      return FrameExpectation(
        position: Int(part.contentByteCount), offset: part.endOffset, chain: part.chain, timestamp: 0)
    }
    do throws(LogStoreError) {
      let header = try decode(
        try file.read(count: SegmentHeader.byteCount, at: 0), of: file.path, SegmentHeader.init)
      let segment = try Segment.open(
        file.path, baseOffset: part.baseOffset, storeID: header.storeID, disk: disk)
      let (next, cut) = try segment.cut(before: until, limit: Int(part.contentByteCount))
      try file.write(cut, at: UInt64(next.position - cut.count))
      return next
    } catch .damaged(let damage) {
      throw inSource(of: last, damage)
    }
  }

  /// Reads everything that was written, as `verify` does.
  private func verify(_ end: CleanEnd, name: String) throws(LogStoreError) {
    var verification = Verification(directory: aside, disk: disk, progress: progress)
    try verification.run()
    let report = verification.report
    // This is a fault of the disk that was restored to, not of the backup.
    if let damage = verification.unreadable { throw .unreadable(damage) }
    if let damage = report.findings.first {
      let base = damage.file.split(separator: "/").last.flatMap { FileName.baseOffset(String($0), suffix: ".log") }
      guard let source = restored.first(where: { $0.part.baseOffset == base }) else {
        throw .backupDamaged(Damage(file: name, position: 0, reason: "what it lists is no sound log: \(damage.reason)"))
      }
      throw inSource(of: source, damage)
    }
    let expected = restored.dropLast().reduce(end.endOffset - end.baseOffset) {
      $0 + $1.part.endOffset - $1.part.baseOffset
    }
    guard report.events == expected, report.segments == restored.count else {
      throw .backupDamaged(
        Damage(file: name, position: 0, reason: "\(report.events) events were restored, expected \(expected)"))
    }
  }

  /// A segment's bytes are the same in the backup as in its file.
  private func inSource(of segment: RestoredSegment, _ damage: Damage) -> LogStoreError {
    .backupDamaged(
      Damage(file: segment.source, position: segment.sourcePosition + damage.position, reason: damage.reason))
  }
}
