import CLZ4

/// The bytes of an index file, docs/FORMAT.md: encoding. Reading is ``SealedIndex``.
enum IndexFile {
  static let headerByteCount = 64
  static let blockEntryByteCount = 32
  /// What a block holds before it is compressed, about. Small, since a look-up decompresses one whole.
  static let blockTargetByteCount = 2 << 10
  static let eventsPerEntry = 1024

  enum BlockKind: UInt32 {
    case frames = 1
    case streams = 2
    case eventIDs = 3
  }

  struct BlockEntry {
    static let kinds = 1...3

    var kind: UInt32
    var byteCount: Int
    var firstKey: UInt64
    var position: Int
    var rawByteCount: Int
    var checksum: UInt32
  }

  /// Encodes what an ``OpenIndex`` knows of a segment that has ended at `end`. About 60 ns an event.
  static func encode(_ state: borrowing SegmentTable, of segment: Segment, end: FrameExpectation) -> [UInt8] {
    var blocks = Blocks()
    blocks.begin(.frames)
    for frame in state.frames {
      blocks.add(key: UInt64(frame.relativeOffset), entryByteCount: 8) { raw in
        raw.append(integer: frame.relativeOffset)
        raw.append(integer: frame.position)
      }
    }

    var filter = Filter(keyCount: state.heads.count + state.ids.count)
    blocks.begin(.streams)
    let streams = state.heads.sorted {
      ($0.hash, $0.firstVersion, $0.lastOrdinal) < ($1.hash, $1.firstVersion, $1.lastOrdinal)
    }
    var positions: [UInt32] = []
    for stream in streams {
      filter.insert(stream.hash)
      positions.removeAll(keepingCapacity: true)
      var ordinal = stream.lastOrdinal
      while true {
        positions.append(state.positions[Int(ordinal)])
        let before = state.previous[Int(ordinal)]
        if before == 0 { break }
        ordinal = before - 1
      }
      positions.reverse()
      var start = 0
      while start < positions.count {
        let count = min(eventsPerEntry, positions.count - start)
        blocks.add(key: stream.hash, entryByteCount: 20 + 4 * count) { raw in
          raw.append(integer: stream.hash)
          raw.append(integer: stream.firstVersion + UInt64(start))
          raw.append(integer: UInt32(count))
          for position in positions[start..<start + count] { raw.append(integer: position) }
        }
        start += count
      }
    }

    blocks.begin(.eventIDs)
    let ids = state.ids.map { id -> (key: UInt64, position: UInt32) in
      let position = state.positions[Int(id.ordinal)]
      // The key in memory may be a neighbour of the id; the record has the id itself.
      return (segment.bytes.integer(at: Int(position) + Record.byteCount + 8, as: UInt64.self).byteSwapped, position)
    }
    for id in ids.sorted(by: { ($0.key, $0.position) < ($1.key, $1.position) }) {
      filter.insert(id.key)
      blocks.add(key: id.key, entryByteCount: 12) { raw in
        raw.append(integer: id.key)
        raw.append(integer: id.position)
      }
    }
    blocks.finish()
    return assemble(blocks, filter, segment: segment, end: end)
  }

  private static func assemble(
    _ blocks: Blocks, _ filter: Filter, segment: Segment, end: FrameExpectation
  ) -> [UInt8] {
    var bytes = Array("LSINDEX1".utf8)
    bytes.append(integer: formatVersion)
    bytes.append(integer: end.chain)
    bytes.append(integer: segment.header.storeID.first)
    bytes.append(integer: segment.header.storeID.second)
    bytes.append(integer: segment.baseOffset)
    bytes.append(integer: end.offset)
    bytes.append(integer: UInt32(end.position))
    bytes.append(integer: UInt32(blocks.entries.count))
    bytes.append(integer: UInt32(filter.bytes.count))
    bytes.append(integer: filter.bytes.withUnsafeBytes(checksum))
    let tableByteCount = blocks.entries.count * blockEntryByteCount
    let blocksStart = headerByteCount + tableByteCount + filter.bytes.count + 4
    for entry in blocks.entries {
      bytes.append(integer: entry.kind)
      bytes.append(integer: UInt32(entry.byteCount))
      bytes.append(integer: entry.firstKey)
      bytes.append(integer: UInt64(blocksStart + entry.position))
      bytes.append(integer: UInt32(entry.rawByteCount))
      bytes.append(integer: entry.checksum)
    }
    let tableChecksum = bytes.withUnsafeBytes(checksum)
    bytes.append(contentsOf: filter.bytes)
    bytes.append(integer: tableChecksum)
    bytes.append(contentsOf: blocks.bytes)
    return bytes
  }

  /// Sorted entries, cut into blocks and compressed.
  private struct Blocks {
    var entries: [BlockEntry] = []
    var bytes: [UInt8] = []
    private var kind = BlockKind.frames
    private var raw: [UInt8] = []
    private var firstKey: UInt64 = 0

    mutating func begin(_ kind: BlockKind) {
      finish()
      self.kind = kind
    }

    mutating func add(key: UInt64, entryByteCount: Int, _ write: (inout [UInt8]) -> Void) {
      if !raw.isEmpty, raw.count + entryByteCount > blockTargetByteCount { finish() }
      if raw.isEmpty { firstKey = key }
      write(&raw)
    }

    mutating func finish() {
      guard !raw.isEmpty else { return }
      let stored = compress(raw)
      entries.append(
        BlockEntry(
          kind: kind.rawValue, byteCount: stored.count, firstKey: firstKey, position: bytes.count,
          rawByteCount: raw.count, checksum: stored.withUnsafeBytes(checksum)))
      bytes.append(contentsOf: stored)
      raw.removeAll(keepingCapacity: true)
    }

    /// Left as it is where LZ4 does not make it smaller.
    private func compress(_ raw: [UInt8]) -> [UInt8] {
      let bound = Int(LZ4_compressBound(Int32(raw.count)))
      let compressed = [UInt8](unsafeUninitializedCapacity: bound) { output, count in
        count = raw.withUnsafeBytes { input in
          output.withMemoryRebound(to: CChar.self) { output in
            Int(
              LZ4_compress_default(
                input.bindMemory(to: CChar.self).baseAddress, output.baseAddress, Int32(input.count), Int32(bound)))
          }
        }
      }
      return compressed.isEmpty || compressed.count >= raw.count ? raw : compressed
    }
  }
}

/// A Bloom filter with four probes (B. H. Bloom, 1970; double hashing after Kirsch and Mitzenmacher, 2006): about ten
/// bits a key, so that one absent key in a hundred costs a read.
struct Filter {
  private(set) var bytes: [UInt8]

  init(keyCount: Int) {
    var byteCount = 8
    while byteCount * 8 < keyCount * 10 { byteCount *= 2 }
    bytes = keyCount == 0 ? [] : [UInt8](repeating: 0, count: byteCount)
  }

  mutating func insert(_ key: UInt64) {
    for bit in Self.probes(key, bits: UInt64(bytes.count) * 8) {
      bytes[Int(bit >> 3)] |= 1 << UInt8(bit & 7)
    }
  }

  static func mayContain(_ key: UInt64, in bytes: UnsafeRawBufferPointer) -> Bool {
    guard !bytes.isEmpty else { return false }
    return probes(key, bits: UInt64(bytes.count) * 8).allSatisfy { bytes[Int($0 >> 3)] & 1 << UInt8($0 & 7) != 0 }
  }

  private static func probes(_ key: UInt64, bits: UInt64) -> some Sequence<UInt64> {
    let step = key >> 32 | 1
    return (0..<4).lazy.map { (key &+ UInt64($0) &* step) & (bits - 1) }
  }
}
