import CLZ4

/// A decompressed block of an index file: its bounds and its columns (docs/FORMAT.md). It borrows the memory of the caller
/// that decompressed it.
struct IndexBlock {
  let lowerBound: UInt64
  let upperBound: UInt64
  let entryCount: Int
  let keys: UnsafeRawBufferPointer
  let versions: UnsafeRawBufferPointer
  let addresses: UnsafeRawBufferPointer

  /// Returns nil if the columns don't fit the block.
  init?(_ raw: UnsafeRawBufferPointer) {
    guard raw.count >= IndexLayout.rawHeadByteCount else { return nil }
    lowerBound = raw.integer(at: IndexLayout.RawField.lowerBound)
    upperBound = raw.integer(at: IndexLayout.RawField.upperBound)
    entryCount = Int(raw.integer(at: IndexLayout.RawField.entryCount, as: UInt16.self))
    let keyByteCount = Int(raw.integer(at: IndexLayout.RawField.keyByteCount, as: UInt16.self))
    let versionByteCount = Int(raw.integer(at: IndexLayout.RawField.versionByteCount, as: UInt16.self))
    let addressStart = IndexLayout.rawHeadByteCount + keyByteCount + versionByteCount
    guard entryCount > 0, raw.integer(at: IndexLayout.RawField.reserved, as: UInt16.self) == 0,
      addressStart <= raw.count
    else { return nil }
    keys = raw.part(IndexLayout.rawHeadByteCount, keyByteCount)
    versions = raw.part(IndexLayout.rawHeadByteCount + keyByteCount, versionByteCount)
    addresses = raw.part(addressStart, raw.count - addressStart)
  }

  /// The stored length of the block at a position, without its head.
  @inline(__always)
  static func storedByteCount(in bytes: UnsafeRawBufferPointer, at position: Int) -> Int {
    Int(bytes.integer(at: position + IndexLayout.BlockField.storedByteCount, as: UInt16.self))
  }

  /// Reads the number of addresses of a stream's entry, and the version of the first.
  @inline(__always)
  static func readVersion(_ versions: inout VarintReader) -> (count: Int, firstVersion: UInt64)? {
    guard let packed = versions.read(), packed >> 1 < IndexLayout.eventsPerEntry else { return nil }
    let count = Int(truncatingIfNeeded: packed >> 1) + 1
    guard packed & 1 != 0 else { return (count, 1) }
    guard let version = versions.read(), version < .max - 2 - UInt64(IndexLayout.eventsPerEntry) else { return nil }
    return (count, version + 2)
  }

  /// Passes `body` the raw bytes of the block at a position. The block's head and checksum were checked, or were just
  /// written. Small blocks are decompressed on the stack. Returns nil if the block does not decompress to its length.
  static func withRaw<Value, Failure: Error>(
    _ bytes: UnsafeRawBufferPointer, at position: Int, _ body: (UnsafeRawBufferPointer) throws(Failure) -> Value
  ) throws(Failure) -> Value? {
    let storedByteCount = Self.storedByteCount(in: bytes, at: position)
    let rawByteCount = Int(bytes.integer(at: position + IndexLayout.BlockField.rawByteCount, as: UInt16.self))
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

/// Reads a section's entries in order, for merging: decodes one block at a time into flat arrays. Not thread-safe.
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
  private let addressMemory: UnsafeMutablePointer<UInt64>
  private var entry = 0
  private var entryCount = 0
  private var blocksLeft: Int
  private var position: Int
  private var nextLowerBound: UInt64 = 0
  /// The key of the current entry; all ones at the end.
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
    let layout = index.header.sections[section.rawValue]
    blocksLeft = layout.blockCount
    position = layout.blocksPosition
    // A block has at most 65,535 bytes, so it has at most as many entries and addresses. Memory that is not used is never
    // touched.
    let most = Int(UInt16.max)
    keys = .allocate(capacity: most)
    firstVersions = .allocate(capacity: most)
    starts = .allocate(capacity: most + 1)
    addressMemory = .allocate(capacity: most)
    try readBlock()
  }

  deinit {
    keys.deallocate()
    firstVersions.deallocate()
    starts.deallocate()
    addressMemory.deallocate()
  }

  var firstVersion: UInt64 { firstVersions[entry] }
  /// Valid until ``advance()``.
  var addresses: UnsafeBufferPointer<UInt64> {
    UnsafeBufferPointer(start: addressMemory + starts[entry], count: starts[entry + 1] - starts[entry])
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
        addressMemory[at] = (address >> oldShift &+ segmentOffset) << newShift | address & mask
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
