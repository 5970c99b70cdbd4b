import Glibc

/// The steps of a scrub, in order and at its pace. ``Scrub`` decides where it runs and who gets the findings.
struct ScrubRun {
  /// Bytes that are read before the pace is checked.
  static let pieceByteCount = 256 << 10

  let segments: SegmentSet
  let pause: (UInt64) -> Bool
  let found: (Damage) -> Void
  let read: (UInt64) -> Void

  private var directory: String { segments.directory }
  private var disk: any Disk { segments.disk }

  /// - Parameter pause: called with the number of bytes after each read; false ends the run.
  /// - Parameter found: called for each damaged place.
  /// - Parameter read: called with the number of bytes that were read and checked.
  init(
    _ segments: SegmentSet, pause: @escaping (UInt64) -> Bool, found: @escaping (Damage) -> Void,
    read: @escaping (UInt64) -> Void
  ) {
    self.segments = segments
    self.pause = pause
    self.found = found
    self.read = read
  }

  /// Reads the file `store` and the index files. Returns false if the run was ended.
  func readIndexes() -> Bool {
    _ = checking(join(directory, FileName.store)) { () throws(LogStoreError) in
      _ = try Catalog.readStore(directory, disk: disk)
    }
    guard let names = try? disk.list(directory) else { return true }
    for range in names.compactMap(FileName.indexRange).sorted(by: { $0.lowerBound < $1.lowerBound }) {
      let goesOn = read(join(directory, FileName.index(range))) { file, byteCount throws(LogStoreError) in
        do throws(Fault) {
          let mapping = try map(file, byteCount)
          let index = try IndexFile(
            mapping, path: file.path, storeID: segments.storeID, baseOffset: range.lowerBound,
            endOffset: range.upperBound)
          try index.check(missingEvents: segments.gaps.eventCount(in: range))
        } catch {
          throw .damaged(
            Damage(
              file: file.path, position: UInt64(error.position),
              reason: "\(error.reason) (the log is not affected; `logstore reindex` rebuilds the index)"))
        }
      }
      if !goesOn { return false }
    }
    return true
  }

  private func map(_ file: any File, _ byteCount: Int) throws(Fault) -> Mapping {
    do throws(LogStoreError) {
      return try file.map(byteCount: byteCount)
    } catch {
      throw Fault(position: 0, reason: error.description)
    }
  }

  /// Reads a finished segment. Returns false if the run was ended.
  func readSegment(_ base: UInt64) -> Bool {
    let path = join(directory, FileName.segment(base))
    return read(path) { _, _ throws(LogStoreError) in
      guard let end = try segments.end(of: base) else { return }
      let segment = try Segment.open(path, baseOffset: base, storeID: segments.storeID, disk: disk)
      var scan = RecoveryScan(segment)
      let goal = RecoveryScan.End.successor(endOffset: end.offset, chain: end.chain)
      if let fault = scan.go(to: goal, in: segment, adding: ActiveIndex(segment)) { throw segment.damage(fault) }
      if let fault = segment.faultBehind(scan.next.position) { throw segment.damage(fault) }
    }
  }

  /// Reads a file piece by piece, so that an unreadable place is found by its position, and then checks it. Pages that were
  /// not in memory before leave it again.
  private func read(
    _ path: String, check: (any File, Int) throws(LogStoreError) -> Void
  ) -> Bool {
    var goesOn = true
    _ = checking(path) { () throws(LogStoreError) in
      let file = try disk.open(path, .read)
      let byteCount = try file.byteCount()
      let piece = UnsafeMutableRawBufferPointer.allocate(byteCount: Self.pieceByteCount, alignment: 4096)
      defer { piece.deallocate() }
      var fresh: [UInt64] = []
      defer { for position in fresh { file.dropFromCache(at: position, byteCount: UInt64(piece.count)) } }
      var position: UInt64 = 0
      while position < byteCount, goesOn {
        if !file.isCached(at: position, byteCount: piece.count) { fresh.append(position) }
        let count = try file.read(into: piece, at: position)
        if count == 0 { break }
        position += UInt64(count)
        goesOn = pause(UInt64(count))
      }
      guard goesOn else { return }
      try check(file, Int(clamping: byteCount))
      read(byteCount)
    }
    return goesOn
  }

  /// Turns a thrown error into a finding. An index file that is gone was merged or replaced; if the log needs it, opening
  /// says so.
  private func checking(_ path: String, _ body: () throws(LogStoreError) -> Void) -> Bool {
    do throws(LogStoreError) {
      try body()
      return true
    } catch .damaged(let damage) {
      found(damage)
    } catch .unreadable(let damage) {
      found(damage)
    } catch .inputOutput(_, _, ENOENT) where path.hasSuffix(FileName.indexSuffix) {
      return true
    } catch {
      found(Damage(file: path, position: 0, reason: error.description))
    }
    return false
  }
}

extension Segment {
  /// The first byte that is not zero behind the last frame of a finished segment.
  func faultBehind(_ position: Int) -> Fault? {
    bytes.part(position, bytes.count - position).firstNonZero.map {
      Fault(position: position + $0, reason: "a byte that is not zero behind the segment's last frame")
    }
  }
}
