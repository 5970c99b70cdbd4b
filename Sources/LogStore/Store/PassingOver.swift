// Reading past damage: sound events are served, and what is left out is reported.

extension LogReader {
  /// As ``LogReader/forEach(from:endsWithTask:_:)``, but continues behind damaged places instead of throwing.
  ///
  /// A damaged place costs one read of its segment, once for all readers of the store. An event whose frame header is
  /// damaged has the time of the frame before.
  ///
  /// - Parameter offset: the offset of the first event to visit.
  /// - Parameter waitsForDisk: if false, unreadable bytes are passed over at once: for a response that is useful only now.
  /// - Parameter endsWithTask: if false, a cancelled task still visits all of them.
  /// - Parameter passed: called for every damaged place that was passed over, before the event behind it. For a place
  ///   without a missing event it may be called after that event.
  /// - Parameter body: visits one event; false ends the visit.
  /// - Returns: the offset to continue with, behind what was passed over; or before an unreadable place, if something was
  ///   reported before it.
  /// - Throws: ``LogStoreError/unreadable(_:)`` until the bytes have stayed unreadable for 30 seconds: then they are passed
  ///   over, too. Errors other than damage of the log's files: ``LogStoreError/cancelled``, ``LogStoreError/closed``,
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
    // What was reported so far ends at this offset, and every byte of it was sound.
    var reported = offset
    while goesOn, cursor.offset < end {
      var isGiven = false
      do throws(LogStoreError) {
        if let event = try cursor.next() {
          isGiven = true
          goesOn = body(event)
          // Bytes that became unreadable were zeros during the visit.
          try cursor.check()
        }
      } catch {
        // Events before an unreadable place are not delayed by it.
        if case .unreadable = error, !isGiven, reported > offset, cursor.offset == reported { return reported }
        throw error
      }
      reported = cursor.offset
      let ranges = cursor.takePassed()
      for range in ranges { passed(range) }
      if !isGiven { try cursor.checkEnding() }
      if !isGiven, ranges.isEmpty { break }
    }
    return cursor.offset
  }

  /// Every damaged place of one of the store's segment files, in order; empty if the file is sound, or belongs to no
  /// segment.
  ///
  /// Blocks. Reads all of the file the first time.
  ///
  /// - Parameter file: the segment file's name or path, as ``Damage/file`` has it.
  /// - Parameter again: reads the file again, whatever is known about it. After a good copy was put back, all of it is
  ///   served from then on.
  /// - Throws: ``LogStoreError/unreadable(_:)`` if the disk can't read it and 30 seconds have not passed yet.
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

  /// The events at offsets that can't be read, as far as an index file tells: all of them, if the segment has a sound one.
  /// Their ``LostEvent/stream`` is nil, since an index identifies streams only by their ``LostEvent/key``.
  ///
  /// Blocks. Reads the index of the segment, and needs memory for what it lists.
  public func lostEvents(in offsets: Range<UInt64>) throws(LogStoreError) -> [LostEvent] {
    if offsets.isEmpty { return [] }
    var lost = LostEvents(try commitPoint.segments.current().files)
    return lost.events(in: offsets, saved: [])
  }

  /// Identifies the store, and copies of it, by 16 hexadecimal digits: the half of its id that is no secret
  /// (docs/FORMAT.md, *What can pass for what*).
  public var storeID: String { commitPoint.segments.storeID.shown }
}

extension StoreID {
  /// See ``LogReader/storeID``.
  var shown: String {
    let digits = String(first, radix: 16)
    return String(repeating: "0", count: 16 - digits.count) + digits
  }
}
