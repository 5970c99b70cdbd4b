import CLZ4

/// A block of an index file, decompressed: its bounds and its columns, docs/FORMAT.md. Borrowed from whoever decompressed it.
struct IndexBlock {
  let lowerBound: UInt64
  let upperBound: UInt64
  let entryCount: Int
  let keys: UnsafeRawBufferPointer
  let versions: UnsafeRawBufferPointer
  let addresses: UnsafeRawBufferPointer

  /// nil if the columns don't fit.
  init?(_ raw: UnsafeRawBufferPointer) {
    guard raw.count >= IndexLayout.rawHeadByteCount else { return nil }
    lowerBound = raw.integer(at: 0)
    upperBound = raw.integer(at: 8)
    entryCount = Int(raw.integer(at: 16, as: UInt16.self))
    let keyByteCount = Int(raw.integer(at: 18, as: UInt16.self))
    let versionByteCount = Int(raw.integer(at: 20, as: UInt16.self))
    let addressStart = IndexLayout.rawHeadByteCount + keyByteCount + versionByteCount
    guard entryCount > 0, raw.integer(at: 22, as: UInt16.self) == 0, addressStart <= raw.count else { return nil }
    keys = raw.part(IndexLayout.rawHeadByteCount, keyByteCount)
    versions = raw.part(IndexLayout.rawHeadByteCount + keyByteCount, versionByteCount)
    addresses = raw.part(addressStart, raw.count - addressStart)
  }

  /// Reads what a stream's entry says beside its addresses: how many there are, and the version of the first.
  @inline(__always)
  static func readVersion(_ versions: inout VarintReader) -> (count: Int, firstVersion: UInt64)? {
    guard let packed = versions.read(), packed >> 1 < IndexLayout.eventsPerEntry else { return nil }
    let count = Int(truncatingIfNeeded: packed >> 1) + 1
    guard packed & 1 != 0 else { return (count, 1) }
    guard let version = versions.read(), version < .max - 2 - UInt64(IndexLayout.eventsPerEntry) else { return nil }
    return (count, version + 2)
  }

  /// Hands out the raw bytes of the block at a position whose head and checksum were checked, or were just written;
  /// decompressed on the stack where they are few enough. nil if it does not decompress to its length.
  static func withRaw<Value, Failure: Error>(
    _ bytes: UnsafeRawBufferPointer, at position: Int, _ body: (UnsafeRawBufferPointer) throws(Failure) -> Value
  ) throws(Failure) -> Value? {
    let storedByteCount = Int(bytes.integer(at: position + 4, as: UInt16.self))
    let rawByteCount = Int(bytes.integer(at: position + 6, as: UInt16.self))
    let stored = bytes.part(position + IndexLayout.blockHeadByteCount, storedByteCount)
    if storedByteCount == rawByteCount { return try body(stored) }
    let result = withUnsafeTemporaryAllocation(byteCount: max(rawByteCount, 1), alignment: 8) { raw in
      Result { () throws(Failure) -> Value? in
        let written = LZ4_decompress_safe(
          stored.bindMemory(to: CChar.self).baseAddress, raw.bindMemory(to: CChar.self).baseAddress,
          Int32(stored.count), Int32(rawByteCount))
        return written == rawByteCount ? try body(UnsafeRawBufferPointer(raw)) : nil
      }
    }
    return try result.get()
  }
}

/// Goes through a section's entries in order, for merging: decodes block after block into flat arrays. Not for more than
/// one thread.
final class IndexCursor {
  private let index: IndexFile
  private let section: IndexSection
  /// Added to keys, and to the number of the segment in an address.
  private let keyOffset: UInt64
  private let segmentOffset: UInt64
  private let shift: UInt32

  private let keys: UnsafeMutablePointer<UInt64>
  private let firstVersions: UnsafeMutablePointer<UInt64>
  private let starts: UnsafeMutablePointer<Int>
  private let places: UnsafeMutablePointer<UInt64>
  private var entry = 0
  private var entryCount = 0
  private var blocksLeft: Int
  private var position: Int
  private var nextLowerBound: UInt64 = 0
  /// Of the entry that it stands at; all ones at the end.
  private(set) var key: UInt64 = 0

  /// - Parameter shift: the merged file's address shift.
  init(
    _ index: IndexFile, _ section: IndexSection, keyOffset: UInt64, segmentOffset: Int, shift: UInt32
  ) throws(Fault) {
    self.index = index
    self.section = section
    self.keyOffset = keyOffset
    self.segmentOffset = UInt64(segmentOffset)
    self.shift = shift
    let place = index.header.sections[section.rawValue]
    blocksLeft = place.blockCount
    position = place.blocksPosition
    // A block has at most 65,535 bytes, so neither more entries nor more addresses. What is not used is not touched.
    let most = Int(UInt16.max)
    keys = .allocate(capacity: most)
    firstVersions = .allocate(capacity: most)
    starts = .allocate(capacity: most + 1)
    places = .allocate(capacity: most)
    try readBlock()
  }

  deinit {
    keys.deallocate()
    firstVersions.deallocate()
    starts.deallocate()
    places.deallocate()
  }

  var firstVersion: UInt64 { firstVersions[entry] }
  /// Good until ``advance()``.
  var addresses: UnsafeBufferPointer<UInt64> {
    UnsafeBufferPointer(start: places + starts[entry], count: starts[entry + 1] - starts[entry])
  }

  @inline(__always)
  func advance() throws(Fault) {
    entry += 1
    if entry < entryCount { key = keys[entry] } else { try readBlock() }
  }

  private func readBlock() throws(Fault) {
    guard blocksLeft > 0 else {
      key = .max
      return
    }
    let at = position
    var upperBound: UInt64 = 0
    position += try index.withBlock(section, at: at) { block throws(Fault) in
      guard block.lowerBound == nextLowerBound else {
        throw Fault(position: at, reason: "a block of the index does not continue the one before")
      }
      upperBound = block.upperBound
      try decode(block, at: at)
    }
    blocksLeft -= 1
    guard (upperBound == .max) == (blocksLeft == 0) else {
      throw Fault(position: at, reason: "the index's section of \(section.name) does not end where it should")
    }
    nextLowerBound = upperBound
    entry = 0
    key = keys[0]
  }

  private func decode(_ block: IndexBlock, at position: Int) throws(Fault) {
    var keyReader = VarintReader(block.keys)
    var versionReader = VarintReader(block.versions)
    var addressReader = VarintReader(block.addresses)
    let header = index.header
    let limit = UInt64(header.segments.count) << UInt64(header.addressShift)
    let oldShift = UInt64(header.addressShift)
    let mask = (1 as UInt64) << oldShift - 1
    let newShift = UInt64(shift)
    let greatestKey = section == .frames ? header.endOffset - header.baseOffset - 1 : IndexKey.greatest
    var key = block.lowerBound
    var at = 0
    guard key <= greatestKey else { throw Self.misfit(position) }
    entryCount = block.entryCount
    for entry in 0..<block.entryCount {
      guard let delta = keyReader.read(), delta <= greatestKey &- key else { throw Self.misfit(position) }
      key &+= delta
      keys[entry] = key &+ keyOffset
      var count = 1
      if section == .streams {
        guard let version = IndexBlock.readVersion(&versionReader) else { throw Self.misfit(position) }
        count = version.count
        firstVersions[entry] = version.firstVersion
      }
      starts[entry] = at
      var address: UInt64 = 0
      for _ in 0..<count {
        guard let delta = addressReader.read() else { throw Self.misfit(position) }
        address &+= delta
        guard address < limit else { throw Self.misfit(position) }
        places[at] = (address >> oldShift &+ segmentOffset) << newShift | address & mask
        at &+= 1
      }
    }
    starts[block.entryCount] = at
    guard keyReader.isAtEnd, addressReader.isAtEnd, section != .streams || versionReader.isAtEnd,
      key <= block.upperBound
    else { throw Self.misfit(position) }
  }

  private static func misfit(_ position: Int) -> Fault {
    Fault(position: position, reason: "the entries of a block of the index do not fit it")
  }
}
