import Glibc

/// One run of a repair: from a damaged store to a new one beside it.
struct RepairRun {
  let directory: String
  let disk: any Disk
  /// Files of the history that the operator wants, if there are several.
  var keeping: [String] = []
  let progress: Progress?

  func run(to target: String) throws(LogStoreError) -> RepairReport {
    guard try disk.kind(directory) != nil else { throw .notAStore(directory: directory) }
    try refuseTargetInStore(target)
    let lock = try keepWriterOut()
    defer { lock?.release() }
    guard let source = try SalvageSource(directory, disk: disk, checksHistory: true, keeping: try wanted()) else {
      throw .repairRefused(
        path: directory, reason: "nothing in it tells which store it was, so nothing can be saved; use a backup")
    }
    let asideStore = try AsideStore(target, doing: .repairing, disk: disk)
    let targetLock = try asideStore.begin()
    defer { targetLock.release() }
    do throws(LogStoreError) {
      var report = try copy(source, to: asideStore.path)
      try verify(&report, at: asideStore.path)
      try asideStore.appear()
      return report
    } catch {
      // Free the space; the first error is the one to throw.
      try? asideStore.remove()
      throw error
    }
  }

  private func wanted() throws(LogStoreError) -> SalvageAnchors.Keeping {
    var wanted = SalvageAnchors.Keeping()
    for file in keeping {
      let name = fileName(of: file)
      let path = join(directory, name)
      guard try disk.kind(path) == .file else {
        throw .repairRefused(
          path: path, reason: "there is no such file to keep; name one of those in the store's directory")
      }
      switch name {
      case FileName.clean: wanted.clean = true
      case FileName.tail: wanted.tail = true
      default: wanted.paths.insert(path)
      }
    }
    return wanted
  }

  /// The damaged store is not written to.
  private func refuseTargetInStore(_ target: String) throws(LogStoreError) {
    let store = try disk.canonicalPath(directory)
    let resolved = try disk.resolved(target)
    if resolved == store || resolved.hasPrefix(store == "/" ? store : store + "/") {
      throw .repairRefused(
        path: target, reason: "this is inside the store that is to be repaired; name a place outside")
    }
  }

  /// Takes the lock that readers hold for a moment, so that no writer changes what is read. nil if the store was never
  /// locked.
  private func keepWriterOut() throws(LogStoreError) -> (any FileLock)? {
    do throws(LogStoreError) {
      if let lock = try disk.lockFromWriters(directory) { return lock }
    } catch .inputOutput(_, _, ENOENT) {
      return nil
    }
    throw .repairRefused(path: directory, reason: "a writer has the store open; stop it first")
  }

  private func copy(_ source: SalvageSource, to path: String) throws(LogStoreError) -> RepairReport {
    let output = Output(SalvageWriter(path, store: source.store, disk: disk))
    var scan = SalvageScan(source, progress: progress) { (item) throws(LogStoreError) in
      try output.add(item)
      return true
    }
    try scan.go()
    guard scan.soundRuns > 0 else {
      throw .repairRefused(path: directory, reason: nothingSaved(source))
    }
    let end = try output.writer.finish()
    var report = output.report
    report.endOffset = end.endOffset
    report.segments = output.writer.segmentCount
    report.bytes = output.writer.byteCount
    report.cursors = output.writer.cursors.count
    report.findings = scan.findings
    report.leftOut = source.leftOut
    report.tornTail = scan.tornTail
    report.isEndUnknown = scan.isEndUnknown
    // A run whose events continue without a gap on both sides has lost none.
    let edges = Set(report.missing.flatMap { [$0.offsets.lowerBound, $0.offsets.upperBound] })
    report.partial = scan.partial.filter { edges.contains($0.lowerBound) || edges.contains($0.upperBound) }
    return report
  }

  /// Why nothing was saved. A file that was left out may be all that is sound.
  private func nothingSaved(_ source: SalvageSource) -> String {
    let reason = "no event, frame or cursor in it is sound, so nothing can be saved; use a backup"
    guard let other = source.leftOut.first(where: { $0.events > 0 }) else { return reason }
    return reason + ", or keep a file that was left out: \(fileName(of: other.file)): \(other.reason)"
  }

  /// Collects the scan's items. A class, so that the scan's closure can write to it.
  private final class Output {
    var writer: SalvageWriter
    var report = RepairReport()

    init(_ writer: consuming SalvageWriter) {
      self.writer = writer
    }

    func add(_ item: SalvageScan.Item) throws(LogStoreError) {
      switch item {
      case .run(let run):
        let first = writer.next
        try writer.add(run)
        report.events += writer.next - first
        if !run.hasOwnTimestamp, writer.next > first { report.addGuessedTime(first..<writer.next) }
      case .gap(let gap):
        try writer.add(gap)
        report.missing.append(
          RepairReport.Missing(offsets: gap.offsets, damage: gap.damage, events: gap.events))
      }
    }
  }

  // MARK: - Checking what was made

  /// Reads all of the new store, as `verify` does, and finds the names of streams that lost events.
  private func verify(_ report: inout RepairReport, at path: String) throws(LogStoreError) {
    var verification = Verification(directory: path, disk: disk, progress: progress)
    try verification.run()
    let found = verification.report
    if let damage = found.findings.first { throw .damaged(damage) }
    let missing = report.missing.map(\.offsets)
    guard found.events == report.events, found.gaps == missing, report.events + report.missingEvents == report.endOffset
    else {
      throw .damaged(
        Damage(
          file: path, position: 0,
          reason: "\(found.events) of \(report.events) events and \(found.gaps.count) of \(missing.count) gaps were"
            + " found in what was made"))
    }
    try nameStreams(&report, at: path)
  }

  private func nameStreams(_ report: inout RepairReport, at path: String) throws(LogStoreError) {
    var names: [UInt64: String?] = [:]
    for part in report.missing { for event in part.events { names[event.key] = .some(nil) } }
    guard !names.isEmpty else { return }
    let opened = try Follower.open(path, disk: disk, follows: false)
    var cursor = EventCursor(opened.commitPoint, from: 0, endsWithTask: false)
    while let event = try cursor.next() {
      let key = event.stream.withUnsafeBytes { IndexKey.stream(hash: streamHash($0)) }
      if let known = names[key], known == nil {
        names[key] = event.stream.withUnsafeBytes { String(decoding: $0, as: UTF8.self) }
      }
    }
    for part in report.missing.indices {
      for event in report.missing[part].events.indices {
        report.missing[part].events[event].stream = names[report.missing[part].events[event].key] ?? nil
      }
    }
  }
}
