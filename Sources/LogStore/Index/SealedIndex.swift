import CLZ4

/// An index file, opened. Everything in it is checked before it is used: the header, table and filter when it is opened,
/// each block when it is read. May be used from any thread.
final class SealedIndex: SegmentIndex {
  let path: String
  let byteCount: Int
  /// Made by this process from the segment, not read from a file.
  private let isBuilt: Bool
  private let mapping: Mapping
  private let tableStart = IndexFile.headerByteCount
  private let streamBlocks: Range<Int>
  private let idBlocks: Range<Int>
  private let frameBlocks: Range<Int>
  private let filterRange: Range<Int>

  private var bytes: UnsafeRawBufferPointer { mapping.bytes }

  /// - Parameter segment: the index must belong to it.
  /// - Parameter end: where the segment ends, if that is known; the index must agree.
  init(
    _ mapping: Mapping, path: String, segment: Segment, endOffset: UInt64?, isBuilt: Bool = false
  ) throws(Fault) {
    self.mapping = mapping
    self.isBuilt = isBuilt
    self.path = path
    let bytes = mapping.bytes
    byteCount = bytes.count
    guard bytes.count >= IndexFile.headerByteCount + 4 else {
      throw Fault(position: bytes.count, reason: "the index ends before its header does")
    }
    guard bytes.prefix(8).elementsEqual("LSINDEX1".utf8) else {
      throw Fault(position: 0, reason: "the index does not begin with LSINDEX1")
    }
    guard bytes.integer(at: 8, as: UInt32.self) == formatVersion else {
      throw Fault(position: 8, reason: "index version \(bytes.integer(at: 8, as: UInt32.self)) is not \(formatVersion)")
    }
    let blockCount = Int(bytes.integer(at: 52, as: UInt32.self))
    let filterByteCount = Int(bytes.integer(at: 56, as: UInt32.self))
    let tableEnd = IndexFile.headerByteCount + blockCount * IndexFile.blockEntryByteCount
    guard tableEnd + filterByteCount + 4 <= bytes.count else {
      throw Fault(position: 52, reason: "the index is too short for its table and filter")
    }
    guard bytes.integer(at: tableEnd + filterByteCount, as: UInt32.self) == checksum(bytes.part(0, tableEnd)) else {
      throw Fault(position: 0, reason: "the checksum of the index's header and table does not match")
    }
    guard filterByteCount & (filterByteCount - 1) == 0,
      bytes.integer(at: 60, as: UInt32.self) == checksum(bytes.part(tableEnd, filterByteCount))
    else {
      throw Fault(position: tableEnd, reason: "the checksum of the index's filter does not match")
    }
    guard StoreID(first: bytes.integer(at: 16), second: bytes.integer(at: 24)) == segment.header.storeID,
      bytes.integer(at: 32, as: UInt64.self) == segment.baseOffset
    else {
      throw Fault(position: 16, reason: "the index belongs to another segment")
    }
    if let endOffset, bytes.integer(at: 40, as: UInt64.self) != endOffset {
      throw Fault(position: 40, reason: "the index ends at another offset than its segment")
    }
    filterRange = tableEnd..<tableEnd + filterByteCount
    var kindStarts = [0, 0, 0, 0]
    var previousKind: UInt32 = 1
    for block in 0..<blockCount {
      let kind: UInt32 = bytes.integer(at: IndexFile.headerByteCount + block * IndexFile.blockEntryByteCount)
      guard kind >= previousKind, kind <= 3 else {
        throw Fault(
          position: IndexFile.headerByteCount + block * IndexFile.blockEntryByteCount, reason: "blocks out of order")
      }
      previousKind = kind
      kindStarts[Int(kind)] = block + 1
    }
    frameBlocks = 0..<kindStarts[1]
    streamBlocks = frameBlocks.upperBound..<max(kindStarts[2], frameBlocks.upperBound)
    idBlocks = streamBlocks.upperBound..<max(kindStarts[3], streamBlocks.upperBound)
  }

  /// Reads every block; for `verify`.
  func check() throws(Fault) {
    for block in 0..<idBlocks.upperBound { try withBlock(block) { _ in } }
  }

  func run(
    of stream: StreamKey, from version: UInt64, limit: Int, in segment: Segment
  ) throws(LogStoreError) -> StreamRun? {
    guard Filter.mayContain(stream.hash, in: UnsafeRawBufferPointer(rebasing: bytes[filterRange])) else { return nil }
    do throws(Fault) {
      var found: StreamRun?
      try forEachEntry(hash: stream.hash) { firstVersion, positions throws(Fault) in
        guard try leads(to: stream, positions, entry: 0, version: firstVersion, in: segment) else { return true }
        if found == nil {
          found = StreamRun(
            firstVersionInSegment: firstVersion, firstVersion: max(version, firstVersion), positions: [])
        }
        let count = positions.count / 4
        let skipped = version > firstVersion ? Int(clamping: version - firstVersion) : 0
        for entry in min(skipped, count)..<count {
          if found!.positions.count == limit { return false }  // Proof: set three lines above.
          found!.positions.append(positions.integer(at: 4 * entry))
        }
        return true
      }
      return found
    } catch {
      throw damage(error)
    }
  }

  func lastVersion(of stream: StreamKey, in segment: Segment) throws(LogStoreError) -> UInt64? {
    guard Filter.mayContain(stream.hash, in: UnsafeRawBufferPointer(rebasing: bytes[filterRange])) else { return nil }
    do throws(Fault) {
      var last: UInt64?
      try forEachEntry(hash: stream.hash) { firstVersion, positions throws(Fault) in
        let entry = positions.count / 4 - 1
        let version = firstVersion + UInt64(entry)
        if try leads(to: stream, positions, entry: entry, version: version, in: segment) { last = version }
        return true
      }
      return last
    } catch {
      throw damage(error)
    }
  }

  func candidates(for id: EventID) throws(LogStoreError) -> [UInt32] {
    guard Filter.mayContain(id.low, in: UnsafeRawBufferPointer(rebasing: bytes[filterRange])) else { return [] }
    do throws(Fault) {
      var positions: [UInt32] = []
      for block in blocks(idBlocks, from: id.low) {
        if firstKey(block) > id.low { break }
        try withBlock(block) { raw in
          var position = 0
          while position + 12 <= raw.count {
            if raw.integer(at: position, as: UInt64.self) == id.low { positions.append(raw.integer(at: position + 8)) }
            position += 12
          }
        }
      }
      return positions
    } catch {
      throw damage(error)
    }
  }

  func framePosition(atOrBefore relativeOffset: UInt32) throws(LogStoreError) -> Int {
    do throws(Fault) {
      let after = frameBlocks.partitionPoint { firstKey($0) > UInt64(relativeOffset) }
      guard after > frameBlocks.lowerBound else { return SegmentHeader.byteCount }
      return try withBlock(after - 1) { raw in
        let next = (0..<raw.count / 8).partitionPoint { raw.integer(at: 8 * $0, as: UInt32.self) > relativeOffset }
        return next == 0 ? SegmentHeader.byteCount : Int(raw.integer(at: 8 * (next - 1) + 4, as: UInt32.self))
      }
    } catch {
      throw damage(error)
    }
  }

  func newStreamCount(in segment: Segment) throws(LogStoreError) -> UInt64 {
    do throws(Fault) {
      var count: UInt64 = 0
      for block in streamBlocks {
        try forEachEntry(of: block) { _, firstVersion, _ in
          if firstVersion == 1 { count += 1 }
          return true
        }
      }
      return count
    } catch {
      throw damage(error)
    }
  }

  func damage(_ fault: Fault) -> LogStoreError {
    .damaged(Damage(file: path, position: UInt64(fault.position), reason: fault.reason))
  }

  /// Visits a hash's entries in order until `visit` returns false.
  private func forEachEntry(
    hash: UInt64, _ visit: (_ firstVersion: UInt64, _ positions: UnsafeRawBufferPointer) throws(Fault) -> Bool
  ) throws(Fault) {
    for block in blocks(streamBlocks, from: hash) {
      if firstKey(block) > hash { return }
      let goesOn = try forEachEntry(of: block) { entryHash, firstVersion, positions throws(Fault) in
        if entryHash > hash { return false }
        return entryHash < hash ? true : try visit(firstVersion, positions)
      }
      if !goesOn { return }
    }
  }

  /// Visits the stream entries of a block until `visit` returns false, and tells whether it got to the end.
  @discardableResult
  private func forEachEntry(
    of block: Int,
    _ visit: (_ hash: UInt64, _ firstVersion: UInt64, _ positions: UnsafeRawBufferPointer) throws(Fault) -> Bool
  ) throws(Fault) -> Bool {
    try withBlock(block) { raw throws(Fault) in
      var position = 0
      while position + 20 <= raw.count {
        let count = Int(raw.integer(at: position + 16, as: UInt32.self))
        guard count > 0, position + 20 + 4 * count <= raw.count else {
          throw Fault(position: entry(block).position, reason: "a stream entry of the index does not fit its block")
        }
        let goesOn = try visit(
          raw.integer(at: position), raw.integer(at: position + 8), raw.part(position + 20, 4 * count))
        if !goesOn { return false }
        position += 20 + 4 * count
      }
      return true
    }
  }

  /// Whether an entry's position has this stream's event of this version. Another stream there means that two streams
  /// share a hash, or that the file lies; the first is so rare that the file is not believed, but one made here is.
  private func leads(
    to stream: StreamKey, _ positions: UnsafeRawBufferPointer, entry: Int, version: UInt64, in segment: Segment
  ) throws(Fault) -> Bool {
    let position: UInt32 = positions.integer(at: 4 * entry)
    guard
      let record = Record(in: segment.bytes, at: Int(position), limit: segment.bytes.count, place: segment.place),
      record.kind == .event, record.version == version
    else {
      throw Fault(position: 0, reason: "the index leads to byte \(position) of its segment, where its event is not")
    }
    if stream.matches(record, in: segment.bytes) { return true }
    if isBuilt { return false }
    throw Fault(
      position: 0, reason: "the index leads to byte \(position) of its segment, where another stream's event is")
  }

  /// The blocks of a kind in which a key can be, and those after them.
  private func blocks(_ kind: Range<Int>, from key: UInt64) -> Range<Int> {
    let first = kind.partitionPoint { firstKey($0) >= key }
    return max(first - 1, kind.lowerBound)..<kind.upperBound
  }

  private func firstKey(_ block: Int) -> UInt64 {
    bytes.integer(at: tableStart + block * IndexFile.blockEntryByteCount + 8)
  }

  private func entry(_ block: Int) -> IndexFile.BlockEntry {
    let start = tableStart + block * IndexFile.blockEntryByteCount
    return IndexFile.BlockEntry(
      kind: bytes.integer(at: start), byteCount: Int(bytes.integer(at: start + 4, as: UInt32.self)),
      firstKey: bytes.integer(at: start + 8), position: Int(clamping: bytes.integer(at: start + 16, as: UInt64.self)),
      rawByteCount: Int(bytes.integer(at: start + 24, as: UInt32.self)), checksum: bytes.integer(at: start + 28))
  }

  /// Checks a block and hands out its content, decompressed on the stack where it is small enough: no allocation.
  private func withBlock<Value>(
    _ block: Int, _ body: (UnsafeRawBufferPointer) throws(Fault) -> Value
  ) throws(Fault) -> Value {
    let entry = entry(block)
    // A segment has at most 2^32 bytes, so no honest block comes near this; a dishonest one can't ask for more.
    guard entry.rawByteCount <= 64 << 10, entry.position <= bytes.count,
      entry.byteCount <= bytes.count - entry.position
    else {
      throw Fault(position: tableStart + block * IndexFile.blockEntryByteCount, reason: "a block that can't be there")
    }
    let stored = bytes.part(entry.position, entry.byteCount)
    guard checksum(stored) == entry.checksum else {
      throw Fault(position: entry.position, reason: "the checksum of a block of the index does not match")
    }
    if entry.byteCount == entry.rawByteCount { return try body(stored) }
    let result = withUnsafeTemporaryAllocation(byteCount: entry.rawByteCount, alignment: 8) { raw in
      Result { () throws(Fault) in
        let written = LZ4_decompress_safe(
          stored.bindMemory(to: CChar.self).baseAddress, raw.bindMemory(to: CChar.self).baseAddress,
          Int32(stored.count), Int32(raw.count))
        guard written == raw.count else {
          throw Fault(position: entry.position, reason: "a block of the index does not decompress")
        }
        return try body(UnsafeRawBufferPointer(raw))
      }
    }
    return try result.get()
  }
}
