import CLinux

// The blocks of an index file: finding, checking and reading them.

extension IndexFile {
  /// As ``block(_:before:limit:)`` for a section with a filter: starts where the key's filter line says that its keys
  /// begin.
  func block(_ section: IndexSection, _ key: UInt64) -> Int {
    let found = header.sections[section.rawValue]
    guard found.lineCount > 0 else { return 0 }
    let line =
      found.filterPosition + IndexFilter.line(key, lineCount: found.lineCount) * IndexFilter.lineByteCount
    // This is usually the block's position. Its memory is fetched while the table is searched.
    let near = Int(bytes.integer(at: line + IndexFilter.blockPositionPosition, as: UInt32.self))
    prefetchBlock(at: near * IndexFilter.positionUnit)
    let number = Int(bytes.integer(at: line + IndexFilter.blockNumberPosition, as: UInt32.self))
    return block(found, before: key, from: min(number, found.blockCount - 1))
  }

  /// Asks the disk for the block that a key's filter line names, usually the block that a query will read.
  func readAheadBlock(_ section: IndexSection, _ key: UInt64) {
    let found = header.sections[section.rawValue]
    guard found.lineCount > 0 else { return }
    let line =
      found.filterPosition + IndexFilter.line(key, lineCount: found.lineCount) * IndexFilter.lineByteCount
    let near = Int(bytes.integer(at: line + IndexFilter.blockPositionPosition, as: UInt32.self))
    mapping.readAhead(at: near * IndexFilter.positionUnit, byteCount: IndexLayout.blockTargetByteCount)
  }

  /// The last block whose lower bound is less than a key, or the first block. Searches from a block on in both directions.
  private func block(_ found: IndexSectionLayout, before key: UInt64, from start: Int) -> Int {
    var (low, high) = (start, start)
    var step = 1
    if lowerBound(found, start) < key {
      high = found.blockCount
      while low + step < high, lowerBound(found, low + step) < key {
        low += step
        step *= 2
      }
      high = min(high, low + step)
    } else {
      low = 0
      while high - step > low, lowerBound(found, high - step) >= key {
        high -= step
        step *= 2
      }
      low = max(low, high - step)
    }
    // Invariant: the lower bound of block `low` is less than the key, or `low` is 0; that of block `high`, if it exists, is
    // not less.
    while high - low > 1 {
      let middle = low + (high - low) / 2
      if lowerBound(found, middle) < key { low = middle } else { high = middle }
    }
    return low
  }

  /// Prefetches the memory of a block at or near a position. The caller will read all of the block.
  @inline(__always)
  private func prefetchBlock(at position: Int) {
    guard let start = bytes.baseAddress else { return }
    // An address behind the mapping is harmless.
    for line in stride(from: 0, to: IndexLayout.blockTargetByteCount, by: 64) {
      clinux_prefetch(start + position + line)
    }
  }

  /// The last block whose lower bound is less than a key, or the first block. The table is unchecked, so the caller checks
  /// the block.
  func block(_ section: IndexSection, before key: UInt64, limit: UInt64) -> Int {
    let found = header.sections[section.rawValue]
    var low = 0
    var high = found.blockCount
    var lowKey: UInt64 = 0
    var highKey = max(limit, key)
    var last = 0
    // Keys are usually distributed evenly, so one or two guesses come close (interpolation search). A search from there
    // finds the block.
    for _ in 0..<2 where high - low > 16 && key > lowKey && highKey > lowKey {
      let part = Double(key - lowKey) / Double(highKey - lowKey)
      let guess = min(max(low + Int(part * Double(high - low)), low + 1), high - 1)
      let guessKey = lowerBound(found, guess)
      if guessKey < key { (low, lowKey) = (guess, guessKey) } else { (high, highKey) = (guess, guessKey) }
      last = guess
    }
    return block(found, before: key, from: last)
  }

  @inline(__always)
  private func lowerBound(_ section: IndexSectionLayout, _ number: Int) -> UInt64 {
    bytes.integer(at: section.tablePosition + number * IndexLayout.tableEntryByteCount)
  }

  func tablePosition(_ section: IndexSection, _ number: Int) -> Int {
    let table = header.sections[section.rawValue].tablePosition
    return Int(
      clamping: bytes.integer(
        at: table + number * IndexLayout.tableEntryByteCount + IndexLayout.TableField.position, as: UInt64.self))
  }

  /// Checks the block at a position and passes it to `body`. Allocates only for a large compressed block. Returns the
  /// number of bytes that the block takes in the file.
  @discardableResult
  func withBlock(
    _ section: IndexSection, at position: Int, _ body: (IndexBlock) throws(Fault) -> Void
  ) throws(Fault) -> Int {
    guard position >= IndexLayout.headerByteCount, position <= bytes.count - IndexLayout.blockHeadByteCount else {
      throw Fault(position: min(position, bytes.count), reason: "a block of the index that can't be there")
    }
    prefetchBlock(at: position)
    let byteCount = IndexLayout.blockHeadByteCount + IndexBlock.storedByteCount(in: bytes, at: position)
    guard byteCount <= bytes.count - position else {
      throw Fault(position: position, reason: "a block of the index that can't be there")
    }
    let checked = bytes.part(position + IndexLayout.checksumByteCount, byteCount - IndexLayout.checksumByteCount)
    guard
      bytes.integer(at: position, as: UInt32.self)
        == checksumSeed.checksum(of: checked, kind: section.blockKind, at: position)
    else { throw Fault(position: position, reason: "the checksum of a block of the index does not match") }
    let isSound: Bool? = try IndexBlock.withRaw(bytes, at: position) { raw throws(Fault) in
      guard let block = IndexBlock(raw) else { return false }
      try body(block)
      return true
    }
    guard isSound == true else { throw Fault(position: position, reason: "a block of the index is not sound") }
    return byteCount
  }
}
