// Reading on behind damage: what is sound is served, and what is left out is told.

extension LogReader {
  /// As ``LogReader/forEach(from:endsWithTask:_:)``, going on behind damaged places instead of throwing.
  ///
  /// A damaged place costs one read of its segment, for all readers of the store together. An event whose frame's header is
  /// damaged has the time of the frame before.
  ///
  /// - Parameter offset: the offset of the first event to visit.
  /// - Parameter waitsForDisk: without, what the disk can't read is passed over at once: for an answer that is of use at the
  ///   moment only.
  /// - Parameter endsWithTask: without, also a cancelled task visits all of them.
  /// - Parameter passed: called for every damaged place that was passed over, before the event behind it; for one without a
  ///   missing event it may be called after that.
  /// - Parameter body: visits one event; false ends the visit.
  /// - Returns: the offset to go on with, behind what was passed over; before a place that the disk can't read, if there was
  ///   anything to tell before it.
  /// - Throws: ``LogStoreError/unreadable(_:)`` until that has lasted for 30 seconds: then it is passed over, too. What is no
  ///   damage of the log's files: ``LogStoreError/cancelled``, ``LogStoreError/closed``,
  ///   ``LogStoreError/inputOutput(operation:path:code:)``.
  @discardableResult
  public func forEach(
    from offset: UInt64, waitsForDisk: Bool = true, endsWithTask: Bool = true,
    passingOver passed: (DamagedRange) -> Void, _ body: (borrowing EventView) -> Bool
  ) throws(LogStoreError) -> UInt64 {
    try commitPoint.checkReading(endsWithTask: endsWithTask)
    var cursor = cursor(from: offset, passingOverDamage: true, endsWithTask: endsWithTask)
    cursor.waitsForDisk = waitsForDisk
    let end = endOffset
    var goesOn = true
    // What was told so far ends here, and every byte of it was sound.
    var told = offset
    while goesOn, cursor.offset < end {
      var isGiven = false
      do throws(LogStoreError) {
        if let event = try cursor.next() {
          isGiven = true
          goesOn = body(event)
          // What was visited was zeros if it could not be read meanwhile.
          try cursor.check()
        }
      } catch {
        // What stands before a place that can't be read is not held up by it.
        if case .unreadable = error, !isGiven, told > offset, cursor.offset == told { return told }
        throw error
      }
      told = cursor.offset
      let ranges = cursor.takePassed()
      for range in ranges { passed(range) }
      if !isGiven { try cursor.checkEnding() }
      if !isGiven, ranges.isEmpty { break }
    }
    return cursor.offset
  }

  /// Every damaged place of one of the store's segment files, in order; empty if the file is sound, or is none of them.
  ///
  /// Blocks. Reads all of the file the first time.
  ///
  /// - Parameter file: the segment file's name or path, as ``Damage/file`` has it.
  /// - Parameter again: reads the file again as it is now, whatever is known of it: after it was put back, all of it is
  ///   served from then on.
  /// - Throws: ``LogStoreError/unreadable(_:)`` where that is the disk's fault and has not lasted for 30 seconds yet.
  public func damagedRanges(file: String, again: Bool = false) throws(LogStoreError) -> [DamagedRange] {
    try commitPoint.check()
    let segments = commitPoint.segments
    guard let name = file.split(separator: "/").last, let base = FileName.baseOffset(String(name), suffix: ".log"),
      segments.bases.contains(base)
    else { return [] }
    let known = again ? segments.damageMaps[base] : nil
    let found = try segments.damageMap(of: base, upTo: commitPoint.end, insteadOf: known)
    if again { segments.unmap(base) }
    guard let map = found else { return [] }
    if map.isOfUnreadable, !segments.damageMaps.isPatienceOver(base), let error = map.firstUnreadable { throw error }
    return map.ranges
  }

  /// Which events stood at offsets that can't be read, as far as an index file tells: all of them, if the segment has a
  /// sound one. Their ``LostEvent/stream`` is nil, since an index has streams by their ``LostEvent/key`` only.
  ///
  /// Blocks. Reads the index of the segment, and needs memory for what it lists.
  public func lostEvents(in offsets: Range<UInt64>) throws(LogStoreError) -> [LostEvent] {
    if offsets.isEmpty { return [] }
    var lost = LostEvents(try commitPoint.segments.current().files)
    return lost.events(in: offsets, saved: [])
  }

  /// Names the store, and copies of it, in 16 hexadecimal digits: the half of its id that is no secret (docs/FORMAT.md, *What can
  /// pass for what*).
  public var storeID: String {
    let digits = String(commitPoint.segments.storeID.first, radix: 16)
    return String(repeating: "0", count: 16 - digits.count) + digits
  }
}
