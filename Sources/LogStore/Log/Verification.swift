import Glibc

/// Reads a whole store, and continues behind damage as far as possible.
struct Verification {
  let directory: String
  let disk: any Disk
  let progress: Progress?
  private(set) var report = VerificationReport()
  /// The first finding that the disk can't read something.
  private(set) var unreadable: Damage?
  private var bytesTotal: UInt64 = 0
  /// What the index of each finished, sound segment must list.
  private var sums: [UInt64: ContentSum] = [:]
  /// The greatest timestamp of all frames so far. No frame behind them is older.
  private var timestamp: UInt64 = 0

  init(directory: String, disk: any Disk, progress: Progress?) {
    self.directory = directory
    self.disk = disk
    self.progress = progress
  }

  mutating func run() throws(LogStoreError) {
    // The reason why opening refuses the store, if it does, is the first finding; then the segments are read one by one, by
    // their names. This verifies one moment of the log: what a writer appends, closes or replaces meanwhile is ignored.
    var commitPoint: CommitPoint?
    do throws(LogStoreError) {
      let opened = try Follower.open(directory, disk: disk, follows: false)
      commitPoint = opened.commitPoint
      report.tornTail = opened.recovery.tornTail
    } catch {
      try add(error)
    }
    let names = try disk.list(directory)
    let end = commitPoint?.end
    let bases = names.compactMap { FileName.baseOffset($0, suffix: ".log") }.sorted()
      .filter { $0 <= end?.baseOffset ?? .max }
    try readTail()
    guard let storeID = try storeID() else { return }
    for base in bases { bytesTotal += (try? disk.open(path(base), .read).byteCount()) ?? 0 }
    for (number, base) in bases.enumerated() {
      let successor = number + 1 < bases.count ? bases[number + 1] : nil
      try verify(base, successor: successor, commitPoint: commitPoint, storeID: storeID)
      progress?(report.bytes, bytesTotal)
    }
    for range in names.compactMap(FileName.indexRange).sorted(by: { $0.lowerBound < $1.lowerBound })
    where range.upperBound <= end?.baseOffset ?? .max {
      try verifyIndex(range, bases: bases, storeID: storeID)
    }
  }

  /// Opening does not need the writer's notice and so does not refuse the store for it, but an unreadable notice is a
  /// finding.
  private mutating func readTail() throws(LogStoreError) {
    do throws(LogStoreError) {
      _ = try disk.contents(join(directory, FileName.tail), limit: TailNotice.byteCount)
    } catch {
      try add(error)
    }
  }

  /// Adds an error that is a finding, and throws any other.
  private mutating func add(_ error: LogStoreError) throws(LogStoreError) {
    guard let damage = error.finding else { throw error }
    add(damage)
    if case .damaged = error { return }
    unreadable = unreadable ?? damage
  }

  private mutating func add(_ damage: Damage) {
    if !report.findings.contains(where: { $0.file == damage.file && $0.position == damage.position }) {
      report.findings.append(damage)
    }
  }

  private func path(_ base: UInt64) -> String { join(directory, FileName.segment(base)) }

  private mutating func storeID() throws(LogStoreError) -> StoreID? {
    let path = join(directory, FileName.store)
    do throws(LogStoreError) {
      guard let bytes = try disk.contents(path, limit: StoreHeader.byteCount + 1) else {
        add(Damage(file: path, position: 0, reason: "the file is missing"))
        return nil
      }
      return try decode(bytes, of: path, StoreHeader.init).storeID
    } catch {
      try add(error)
      return nil
    }
  }

  private mutating func verify(
    _ base: UInt64, successor: UInt64?, commitPoint: CommitPoint?, storeID: StoreID
  ) throws(LogStoreError) {
    report.segments += 1
    let end = commitPoint?.end
    let isLive = end?.baseOffset == base
    let segment: Segment
    if isLive, let open = commitPoint?.segments.open.segment {
      // The file that the end is in. A file without events may have been replaced since by another of the same name.
      segment = open
    } else {
      do throws(LogStoreError) {
        segment = try Segment.open(
          path(base), baseOffset: base, storeID: storeID, disk: disk, mayBeShort: successor == nil)
      } catch {
        try add(error)
        return
      }
    }
    try verify(segment, successor: successor, commitPoint: commitPoint, storeID: storeID)
    try addUnreadable(in: segment)
  }

  private mutating func verify(
    _ segment: Segment, successor: UInt64?, commitPoint: CommitPoint?, storeID: StoreID
  ) throws(LogStoreError) {
    let base = segment.baseOffset
    let end = commitPoint?.end
    let isLive = end?.baseOffset == base
    report.bytes += UInt64(segment.bytes.count)
    let index = ActiveIndex(segment)
    var scan = RecoveryScan(segment)
    scan.next.timestamp = timestamp
    defer { timestamp = max(timestamp, scan.next.timestamp) }
    var fault: Fault?
    if let successor {
      let next = try? Segment.readHeader(of: disk.open(path(successor), .read), baseOffset: successor, storeID: storeID)
      if let gap = next?.gap { report.gaps.append(gap) }
      if let next, next.previousBaseOffset == base {
        fault = scan.go(
          to: .successor(endOffset: next.previousEndOffset, chain: next.chain), in: segment, adding: index)
      } else {
        // Without the next segment, whose damage or absence is a finding already, the end of this one is unknown. Every
        // frame that is there is checked.
        _ = scan.go(to: .firstInvalid, in: segment, adding: index)
        report.events += scan.next.offset - base
        addFurther(in: segment, after: scan.next.position)
        return
      }
    } else if let end, isLive {
      fault = scan.go(to: .position(end.position), in: segment, adding: index)
    } else {
      // Opening has reported what is wrong with the last segment.
      _ = scan.go(to: .firstInvalid, in: segment, adding: index)
    }
    report.events += scan.next.offset - base
    if let fault {
      add(fault, in: segment)
      addFurther(in: segment, after: fault.position)
      return
    }
    if successor != nil {
      let faults = segment.mapping.faultCount
      let sum = ContentSum(index)
      if segment.mapping.faultCount == faults { sums[base] = sum }
      if let fault = segment.faultBehind(scan.next.position) { add(fault, in: segment) }
    } else if isLive, report.tornTail == nil, let end {
      let rest = segment.bytes.part(end.position, segment.bytes.count - end.position)
      // Checked after the read: a writer removes the file `clean` before it writes, and later writes one with another end.
      if let position = rest.firstNonZero, try isClosed(at: end) {
        add(
          Damage(
            file: segment.path, position: UInt64(end.position + position),
            reason: "a byte that is not zero behind the end of the log"))
      }
    }
  }

  /// Whether the store is closed with this end.
  private func isClosed(at end: DurableEnd) throws(LogStoreError) -> Bool {
    let path = join(directory, FileName.clean)
    do throws(LogStoreError) {
      guard let bytes = try disk.contents(path, limit: CleanEnd.byteCount + 1) else { return false }
      let clean = try decode(bytes, of: path, CleanEnd.init)
      return clean.baseOffset == end.baseOffset && clean.endPosition == UInt64(end.position)
    } catch {
      // Opening has reported it.
      guard error.finding != nil else { throw error }
      return false
    }
  }

  /// Searches for more damage behind the first: finds the next frame that is sound by itself and continues from there.
  private mutating func addFurther(in segment: Segment, after position: Int) {
    var position = position.roundedUp(to: 8)
    while position <= segment.bytes.count - FrameHeader.byteCount {
      guard let header = FrameHeader(in: segment.bytes, at: position, checksumSeed: segment.checksumSeed) else {
        position += 8
        continue
      }
      let expected = FrameExpectation(
        position: position, offset: header.firstOffset, chain: header.chain, timestamp: header.timestamp)
      do throws(Fault) {
        _ = try segment.checkFrame(expected) { _ in }
        report.events += UInt64(header.eventCount)
      } catch {
        add(error, in: segment)
      }
      position += max(header.byteCount, 8)
    }
  }

  private mutating func add(_ fault: Fault, in segment: Segment) {
    let error = segment.damage(fault)
    if let damage = error.finding { add(damage) }
    if case .unreadable(let damage) = error { unreadable = unreadable ?? damage }
  }

  /// Adds every range of a segment that the disk can't read, if one was met. They are searched for separately, since frames
  /// behind the first of them may not be found any more.
  private mutating func addUnreadable(in segment: Segment) throws(LogStoreError) {
    guard segment.mapping.faultCount > 0 else { return }
    let file: any File
    do throws(LogStoreError) {
      file = try disk.open(segment.path, .read)
    } catch {
      return try add(error)
    }
    let ranges = try file.unreadableRanges(byteCount: UInt64(segment.bytes.count))
    // Reports a range once, with its start, and not again for each frame in it.
    report.findings.removeAll { finding in
      finding.file == segment.path && ranges.contains { $0.range.contains(finding.position) }
    }
    for found in ranges {
      let damage = Damage(file: segment.path, position: found.range.lowerBound, reason: found.reason)
      add(damage)
      unreadable = unreadable ?? damage
    }
  }

  private mutating func verifyIndex(
    _ range: Range<UInt64>, bases: [UInt64], storeID: StoreID
  ) throws(LogStoreError) {
    let path = join(directory, FileName.index(range))
    let mapping: Mapping
    do throws(LogStoreError) {
      let file = try disk.open(path, .read)
      mapping = try file.map(byteCount: Int(clamping: try file.byteCount()))
    } catch .inputOutput(_, _, ENOENT) {
      // A writer has merged the index file since the directory was listed.
      return
    } catch {
      return try add(error)
    }
    report.bytes += UInt64(mapping.bytes.count)
    do throws(Fault) {
      let index = try IndexFile(
        mapping, path: path, storeID: storeID, baseOffset: range.lowerBound, endOffset: range.upperBound)
      guard bases.contains(range.upperBound), index.header.segments.map(\.baseOffset) == bases.filter(range.contains)
      else { throw Fault(position: 0, reason: "an index whose segments are not there") }
      let gaps = report.gaps.reduce(0) { $0 + $1.clamped(to: range).length }
      try index.check(missingEvents: gaps)
      for (segment, sum) in zip(index.header.segments, try index.contentSums()) {
        guard let expected = sums[segment.baseOffset], expected != sum else { continue }
        throw Fault(
          position: 0, reason: "the index lists other events than the segment of offset \(segment.baseOffset) has")
      }
    } catch {
      let fault = mapping.explained(error)
      add(
        Damage(
          file: path, position: UInt64(fault.position),
          reason: "\(fault.reason) (the log is not affected; `logstore reindex` rebuilds the index)"))
    }
  }
}
