// Maps files again after the disk could not read them.

extension SegmentSet {
  /// Maps again what can be read again, and drops index files that can't be read completely.
  ///
  /// - Parameter count: the current fault count of the process.
  func remapUnreadable(_ count: UInt64) throws(LogStoreError) {
    guard wellAt.load(ordering: .acquiring) != count else { return }
    let now = disk.monotonicMilliseconds()
    let due = rests.load(ordering: .relaxed)
    guard now >= due,
      rests.compareExchange(expected: due, desired: now + Self.restMilliseconds, ordering: .relaxed).exchanged
    else { return }
    let (snapshot, scanned) = state.withLock { ($0.snapshot, $0.scanned) }
    var isWell = true
    for segment in snapshot.mappedSegments + scanned where segment.mapping.faultCount > 0 {
      if segment.mapping.heal() { continue }
      isWell = false
      if segment.mapping.isOfOtherFile { unmap(segment.baseOffset) }
    }
    for file in snapshot.files where file.hasFaults {
      try distrust(file, Fault(position: 0, reason: "the index can't be read"), segment: nil)
    }
    if isWell { wellAt.store(count, ordering: .releasing) }
  }

  /// Drops the mapping of a finished segment whose file has changed. The next reader opens the file as it is now, as after
  /// a restart.
  func unmap(_ baseOffset: UInt64) {
    state.withLock { state in
      guard baseOffset != state.snapshot.open.segment.baseOffset else { return }
      state.scanned.removeAll { $0.baseOffset == baseOffset }
      state.faulty.removeAll { $0.segment.baseOffset == baseOffset }
      guard let ordinal = state.snapshot.ordinal(of: baseOffset), state.snapshot.slot(ordinal).mapped != nil
      else { return }
      state.snapshot = state.snapshot.withoutMappings()
      state.mappedCount = 0
    }
  }
}
