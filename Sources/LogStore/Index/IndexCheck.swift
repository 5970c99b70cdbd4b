// The check of a whole index file, for `verify`.

extension IndexFile {
  /// Checks every byte, and that the file's fields agree with each other and with the number of events in its segments.
  ///
  /// Memory doesn't grow with the file. Takes about 20 ns an event.
  ///
  /// - Parameter missingEvents: the number of offsets between the file's first and its end that have no event.
  func check(missingEvents: UInt64) throws(Fault) {
    var position = IndexLayout.blocksPosition(segmentCount: segmentCount)
    try checkZeros(
      from: IndexLayout.headerByteCount + segmentCount * IndexLayout.segmentByteCount + IndexLayout.checksumByteCount,
      to: position)
    try checkZeros(from: IndexLayout.Field.reserved, to: IndexLayout.sectionsPosition)
    for section in IndexSection.allCases { position = try checkBlocks(section, at: position) }
    let tables = position.roundedUp(to: 8)
    try checkZeros(from: position, to: tables)
    position = tables
    for section in IndexSection.allCases {
      position = try checkPosition(position, header.sections[section.rawValue].tablePosition, section)
      position += header.sections[section.rawValue].blockCount * IndexLayout.tableEntryByteCount
    }
    let filters = position.roundedUp(to: IndexFilter.lineByteCount)
    try checkZeros(from: position, to: filters)
    position = filters
    for section in IndexSection.allCases {
      let layout = header.sections[section.rawValue]
      position = try checkPosition(position, layout.filterPosition, section)
      for line in 0..<layout.lineCount {
        guard isSound(line: line, section) else {
          throw Fault(
            position: position + line * IndexFilter.lineByteCount,
            reason: "the checksum of a filter line of the index does not match")
        }
        let at = position + line * IndexFilter.lineByteCount
        let number = Int(bytes.integer(at: at + IndexFilter.blockNumberPosition, as: UInt32.self))
        let found = bytes.integer(at: at + IndexFilter.blockPositionPosition, as: UInt32.self)
        guard number < layout.blockCount,
          found == UInt32(clamping: tablePosition(section, number) / IndexFilter.positionUnit)
        else {
          throw Fault(
            position: at + IndexFilter.blockNumberPosition,
            reason: "a filter line of the index does not lead to a block")
        }
      }
      position += layout.lineCount * IndexFilter.lineByteCount
    }
    guard position == bytes.count else { throw Fault(position: position, reason: "bytes behind the end of the index") }
    try checkEntries(missingEvents: missingEvents)
  }

  private func checkPosition(_ position: Int, _ said: Int, _ section: IndexSection) throws(Fault) -> Int {
    guard position == said else {
      throw Fault(
        position: IndexLayout.sectionsPosition + section.rawValue * IndexLayout.sectionByteCount,
        reason: "the index's section of \(section.name) is not where it should be")
    }
    return position
  }

  private func checkZeros(from start: Int, to end: Int) throws(Fault) {
    guard end <= bytes.count else { throw Fault(position: bytes.count, reason: "the index ends too early") }
    if let found = bytes.part(start, end - start).firstNonZero {
      throw Fault(position: start + found, reason: "a byte of the index that should be zero")
    }
  }

  /// Checks the blocks and their table. Returns the end of the blocks.
  private func checkBlocks(_ section: IndexSection, at start: Int) throws(Fault) -> Int {
    let layout = header.sections[section.rawValue]
    var position = try checkPosition(start, layout.blocksPosition, section)
    for number in 0..<layout.blockCount {
      let entry = layout.tablePosition + number * IndexLayout.tableEntryByteCount
      let at = position
      position += try withBlock(section, at: at) { block throws(Fault) in
        guard bytes.integer(at: entry + IndexLayout.TableField.lowerBound, as: UInt64.self) == block.lowerBound,
          bytes.integer(at: entry + IndexLayout.TableField.position, as: UInt64.self) == UInt64(at)
        else { throw Fault(position: entry, reason: "the index's table does not lead to its block") }
      }
    }
    return position
  }

  private func checkEntries(missingEvents: UInt64) throws(Fault) {
    var events: UInt64 = 0
    var newStreams: UInt64 = 0
    for section in IndexSection.allCases {
      let cursor = try IndexCursor(
        self, section, keyOffset: 0, segmentOffset: 0, shift: header.addressShift)
      let filter = filter(section)
      while cursor.key != .max {
        for address in cursor.addresses {
          let (segment, position) = try split(address)
          guard position >= SegmentHeader.byteCount, position < Int(header.segments[segment].endPosition) else {
            throw Fault(position: 0, reason: "the index leads to byte \(position), where its segment has no frames")
          }
        }
        if section != .frames, filter.probe(cursor.key) == .absent {
          throw Fault(position: 0, reason: "the index's filter of \(section.name) lacks a key")
        }
        if section == .streams {
          events += UInt64(cursor.addresses.count)
          if cursor.firstVersion == 1 { newStreams += 1 }
        }
        try cursor.advance()
      }
    }
    guard events == endOffset - baseOffset - missingEvents else {
      throw Fault(
        position: 0,
        reason: "the index has \(events) events, its segments have \(endOffset - baseOffset - missingEvents)")
    }
    guard newStreams == header.newStreamCount else {
      throw Fault(
        position: IndexLayout.Field.newStreamCount,
        reason: "the index says that \(header.newStreamCount) streams begin, \(newStreams) do")
    }
  }
}
