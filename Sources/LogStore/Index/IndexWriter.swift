import CLZ4

/// Writes an index file section by section from sorted entries. Blocks are written as they fill, and a second pass over the
/// blocks writes tables and filters, so memory doesn't grow with the number of entries.
struct IndexWriter: ~Copyable {
  private var header: IndexHeader
  private let checksumSeed: IndexChecksumSeed
  private let output: IndexOutput

  private var section = IndexSection.frames
  private var keys = ByteColumn()
  private var versions = ByteColumn()
  private var addresses = ByteColumn()
  private var raw = ByteColumn()
  private var compressed = ByteColumn()
  private var entryCount = 0
  private var lowerBound: UInt64 = 0
  private var lastKey: UInt64 = 0
  /// The number of keys of each section, for its filter.
  private var keyCounts = [0, 0, 0]
  /// After a block that LZ4 did not shrink, LZ4 is tried on one block in this many.
  private static let compressionTrial = 16
  private var blocksUntilTrial = 0

  /// - Parameter header: contains the segments; the writer fills in the rest.
  init(_ header: IndexHeader, to output: IndexOutput) throws(IndexFailure) {
    self.header = header
    self.output = output
    checksumSeed = header.checksumSeed
    try output.append(
      [UInt8](repeating: 0, count: IndexLayout.blocksPosition(segmentCount: header.segments.count)))
    self.header.sections[0].blocksPosition = output.position
  }

  /// Ends the current section and begins the next. Sections begin in their order; `init` begins the first.
  mutating func begin(_ section: IndexSection) throws(IndexFailure) {
    precondition(section.rawValue == self.section.rawValue + 1)
    try finishBlock(upperBound: .max)
    self.section = section
    blocksUntilTrial = 0
    header.sections[section.rawValue].blocksPosition = output.position
  }

  /// Adds a frame or an event id.
  mutating func add(key: UInt64, address: UInt64) throws(IndexFailure) {
    try beginEntry(key, byteCount: 10)
    addresses.append(varint: address)
  }

  /// Adds consecutive events of one stream at ascending addresses, from 1 to ``IndexLayout/eventsPerEntry`` of them.
  mutating func add(
    key: UInt64, firstVersion: UInt64, addresses run: UnsafeBufferPointer<UInt64>
  ) throws(IndexFailure) {
    try beginEntry(key, byteCount: 6 + 3 * run.count)
    if firstVersion == 1 {
      versions.append(varint: UInt64(truncatingIfNeeded: run.count - 1) << 1)
      header.newStreamCount += 1
    } else {
      versions.append(varint: UInt64(truncatingIfNeeded: run.count - 1) << 1 | 1)
      versions.append(varint: firstVersion &- 2)
    }
    var before: UInt64 = 0
    for address in run {
      addresses.append(varint: address &- before)
      before = address
    }
  }

  @inline(__always)
  private mutating func beginEntry(_ key: UInt64, byteCount: Int) throws(IndexFailure) {
    if entryCount > 0,
      keys.count + versions.count + addresses.count + byteCount > IndexLayout.blockTargetByteCount
    {
      try finishBlock(upperBound: key)
      lowerBound = key
      keys.append(varint: 0)
    } else {
      keys.append(varint: key &- (entryCount == 0 ? lowerBound : lastKey))
    }
    if keyCounts[section.rawValue] == 0 || key != lastKey { keyCounts[section.rawValue] += 1 }
    lastKey = key
    entryCount += 1
  }

  private mutating func finishBlock(upperBound: UInt64) throws(IndexFailure) {
    guard entryCount > 0 else { return }
    raw.removeAll()
    raw.append(integer: lowerBound)
    raw.append(integer: upperBound)
    raw.append(integer: UInt16(entryCount))
    raw.append(integer: UInt16(keys.count))
    raw.append(integer: UInt16(versions.count))
    raw.append(integer: UInt16(0))
    raw.append(keys.bytes)
    raw.append(versions.bytes)
    raw.append(addresses.bytes)
    let isSmaller = compress()
    let stored = isSmaller ? compressed.bytes : raw.bytes
    let rawByteCount = UInt16(raw.count)
    let position = output.position
    let section = section
    let checksumSeed = checksumSeed
    let output = output
    // Copies the block behind its head: blocks are small.
    let result = withUnsafeTemporaryAllocation(byteCount: IndexLayout.blockHeadByteCount + stored.count, alignment: 8) {
      block in
      block.set(UInt16(stored.count), at: IndexLayout.BlockField.storedByteCount)
      block.set(rawByteCount, at: IndexLayout.BlockField.rawByteCount)
      UnsafeMutableRawBufferPointer(rebasing: block[IndexLayout.blockHeadByteCount...]).copyMemory(from: stored)
      let bytes = UnsafeRawBufferPointer(block)
      block.set(
        checksumSeed.checksum(
          of: bytes.part(IndexLayout.checksumByteCount, bytes.count - IndexLayout.checksumByteCount),
          kind: section.blockKind, at: position),
        at: IndexLayout.BlockField.checksum)
      return Result { () throws(IndexFailure) in try output.append(bytes) }
    }
    try result.get()
    header.sections[section.rawValue].blockCount += 1
    keys.removeAll()
    versions.removeAll()
    addresses.removeAll()
    entryCount = 0
    lowerBound = 0
  }

  /// Whether the block is worth compressing: every query has to decompress it again.
  private mutating func compress() -> Bool {
    guard blocksUntilTrial == 0 else {
      blocksUntilTrial -= 1
      return false
    }
    let bound = Int(LZ4_compressBound(Int32(raw.count)))
    compressed.removeAll()
    compressed.reserve(bound)
    let input = raw.bytes
    let count = compressed.withRoom { room in
      Int(
        LZ4_compress_default(
          input.bindMemory(to: CChar.self).baseAddress, room.bindMemory(to: CChar.self).baseAddress,
          Int32(input.count), Int32(bound)))
    }
    compressed.count = count
    if count > 0, count < raw.count - raw.count / 8 { return true }
    blocksUntilTrial = Self.compressionTrial - 1
    return false
  }

  /// Writes tables, filters and the header. Returns the file's length.
  consuming func finish() throws(IndexFailure) -> Int {
    precondition(section == .eventIDs)
    try finishBlock(upperBound: .max)
    let blocksEnd = output.position
    let written = try output.readBack()
    defer { withExtendedLifetime(written) {} }
    try output.pad(to: 8)
    for section in IndexSection.allCases {
      header.sections[section.rawValue].tablePosition = output.position
      try writeTable(section, written.bytes)
    }
    try output.pad(to: IndexFilter.lineByteCount)
    for section in IndexSection.allCases {
      header.sections[section.rawValue].filterPosition = output.position
      if section != .frames { try writeFilter(section, written.bytes) }
    }
    precondition(blocksEnd <= output.position)
    header.fileByteCount = output.position
    try output.finish(header: header.encoded())
    return header.fileByteCount
  }

  private func writeTable(_ section: IndexSection, _ written: UnsafeRawBufferPointer) throws(IndexFailure) {
    let found = header.sections[section.rawValue]
    var position = found.blocksPosition
    var entry = ByteColumn(capacity: IndexLayout.tableEntryByteCount)
    for _ in 0..<found.blockCount {
      let stored = IndexBlock.storedByteCount(in: written, at: position)
      let lower = Self.withRaw(written, at: position) {
        $0.integer(at: IndexLayout.RawField.lowerBound, as: UInt64.self)
      }
      entry.removeAll()
      entry.append(integer: lower)
      entry.append(integer: UInt64(position))
      try output.append(entry.bytes)
      position += IndexLayout.blockHeadByteCount + stored
    }
  }

  /// The raw bytes of a block that was just written.
  private static func withRaw<Value, Failure: Error>(
    _ written: UnsafeRawBufferPointer, at position: Int, _ body: (UnsafeRawBufferPointer) throws(Failure) -> Value
  ) throws(Failure) -> Value {
    guard let value = try IndexBlock.withRaw(written, at: position, body) else {
      preconditionFailure("a block that was just compressed does not decompress")
    }
    return value
  }

  private mutating func writeFilter(_ section: IndexSection, _ written: UnsafeRawBufferPointer) throws(IndexFailure) {
    let lineCount = IndexFilter.lineCount(keyCount: keyCounts[section.rawValue])
    let found = header.sections[section.rawValue]
    header.sections[section.rawValue].lineCount = lineCount
    guard lineCount > 0 else { return }
    var lines = FilterLines(count: lineCount, kind: section.lineKind, checksumSeed: checksumSeed, output: output)
    var position = found.blocksPosition
    for number in 0..<found.blockCount {
      let stored = IndexBlock.storedByteCount(in: written, at: position)
      lines.begin(block: number, at: position)
      try Self.withRaw(written, at: position) { raw throws(IndexFailure) in
        var key: UInt64 = raw.integer(at: IndexLayout.RawField.lowerBound)
        var deltas = VarintReader(
          raw.part(
            IndexLayout.rawHeadByteCount, Int(raw.integer(at: IndexLayout.RawField.keyByteCount, as: UInt16.self))))
        while let delta = deltas.read() {
          key &+= delta
          try lines.insert(key)
        }
      }
      position += IndexLayout.blockHeadByteCount + stored
    }
    try lines.finish()
  }
}

/// Writes filter lines in the order of their keys.
private struct FilterLines: ~Copyable {
  private let count: Int
  private let kind: UInt8
  private let checksumSeed: IndexChecksumSeed
  private let output: IndexOutput
  private let line = UnsafeMutableRawBufferPointer.allocate(byteCount: IndexFilter.lineByteCount, alignment: 64)
  private var number = 0
  /// The block that the current keys come from.
  private var block: (number: Int, position: Int) = (0, 0)
  /// Whether the line already says where its keys begin.
  private var hasBegun = false

  init(count: Int, kind: UInt8, checksumSeed: IndexChecksumSeed, output: IndexOutput) {
    self.count = count
    self.kind = kind
    self.checksumSeed = checksumSeed
    self.output = output
    line.initializeMemory(as: UInt8.self, repeating: 0)
  }

  deinit {
    line.deallocate()
  }

  /// Notes that the following keys come from this block.
  mutating func begin(block number: Int, at position: Int) {
    block = (number, position)
  }

  @inline(__always)
  mutating func insert(_ key: UInt64) throws(IndexFailure) {
    let wanted = IndexFilter.line(key, lineCount: count)
    while number < wanted { try finishLine() }
    if !hasBegun { beginLine() }
    // Proof: the buffer was allocated above and has 64 bytes.
    IndexFilter.insert(key, into: line.baseAddress.unsafelyUnwrapped.assumingMemoryBound(to: UInt8.self))
  }

  mutating func finish() throws(IndexFailure) {
    while number < count { try finishLine() }
  }

  private mutating func beginLine() {
    line.set(UInt32(truncatingIfNeeded: block.number), at: IndexFilter.blockNumberPosition)
    line.set(
      UInt32(clamping: block.position / IndexFilter.positionUnit), at: IndexFilter.blockPositionPosition)
    hasBegun = true
  }

  private mutating func finishLine() throws(IndexFailure) {
    if !hasBegun { beginLine() }
    hasBegun = false
    let checked = UnsafeRawBufferPointer(line).part(0, IndexFilter.checkedByteCount)
    line.set(checksumSeed.checksum(of: checked, kind: kind, at: output.position), at: IndexFilter.checkedByteCount)
    try output.append(UnsafeRawBufferPointer(line))
    line.initializeMemory(as: UInt8.self, repeating: 0)
    number += 1
  }
}

/// Bytes that grow at the end. Removing them keeps the memory.
struct ByteColumn: ~Copyable {
  private var memory: UnsafeMutablePointer<UInt8>
  private var capacity: Int
  fileprivate(set) var count = 0

  init(capacity: Int = 4096) {
    self.capacity = max(capacity, 16)
    memory = .allocate(capacity: self.capacity)
  }

  deinit {
    memory.deallocate()
  }

  /// Valid until the next change.
  var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: memory, count: count) }

  mutating func removeAll() {
    count = 0
  }

  @inline(__always)
  mutating func append(varint value: UInt64) {
    reserve(10)
    var value = value
    while value >= 0x80 {
      memory[count] = UInt8(truncatingIfNeeded: value) | 0x80
      count &+= 1
      value >>= 7
    }
    memory[count] = UInt8(truncatingIfNeeded: value)
    count &+= 1
  }

  mutating func append<T: FixedWidthInteger & BitwiseCopyable>(integer value: T) {
    reserve(MemoryLayout<T>.size)
    UnsafeMutableRawPointer(memory + count).storeBytes(of: value.littleEndian, as: T.self)
    count += MemoryLayout<T>.size
  }

  mutating func append(_ bytes: UnsafeRawBufferPointer) {
    guard let start = bytes.baseAddress else { return }
    reserve(bytes.count)
    UnsafeMutableRawPointer(memory + count).copyMemory(from: start, byteCount: bytes.count)
    count += bytes.count
  }

  @inline(__always)
  mutating func reserve(_ more: Int) {
    if capacity - count < more { grow(more) }
  }

  fileprivate mutating func withRoom(_ fill: (UnsafeMutableRawBufferPointer) -> Int) -> Int {
    fill(UnsafeMutableRawBufferPointer(start: memory + count, count: capacity - count))
  }

  private mutating func grow(_ more: Int) {
    capacity = max(2 * capacity, count + more)
    let larger = UnsafeMutablePointer<UInt8>.allocate(capacity: capacity)
    larger.update(from: memory, count: count)
    memory.deallocate()
    memory = larger
  }
}
