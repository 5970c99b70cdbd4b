import CLZ4

@testable import LogStore

/// An index file around blocks whose insides are the input's: their lengths, columns and varints, compressed or not.
enum BlockTarget {
  private static let id = StoreID(first: 1, second: 2)
  private static let bases: [UInt64] = [0, 300, 1000]
  private static let endOffset: UInt64 = 5000

  static func run(_ input: inout InputReader) {
    let choices = input.byte()
    let selector = input.byte()
    let blocksPerSection = 1 + Int(choices & 1)
    var blocks: [[Block]] = []
    for section in 0..<3 {
      blocks.append(
        (0..<blocksPerSection).map { number in
          Block.read(&input, isFirst: number == 0, isLast: number == blocksPerSection - 1, section: section)
        })
    }
    let first = file(blocks, choices)
    let isSound = (try? first.check(missingEvents: 0)) != nil
    IndexProbe(first, isSound: isSound, selector: selector).run()
    merge(first, selector)
  }

  struct Block {
    var raw: [UInt8]
    var isCompressed: Bool
    /// What is written as the length before it was compressed, if it is not the truth.
    var rawByteCount: UInt16?

    /// A head that fits what follows as a rule, and columns as they come.
    static func read(_ input: inout InputReader, isFirst: Bool, isLast: Bool, section: Int) -> Block {
      let choices = input.byte()
      let lengths = [Int(input.byte()), section == 1 ? Int(input.byte()) : 0, Int(input.byte())]
      let columns = lengths.map { input.take($0 % 96) }
      var raw: [UInt8] = []
      raw.append(integer: isFirst ? 0 : input.number(bytes: 6))
      raw.append(integer: isLast ? UInt64.max : input.number(bytes: 6))
      raw.append(integer: choices & 1 == 0 ? UInt16(max(columns[2].count, 1)) : UInt16(input.byte()))
      raw.append(integer: UInt16(columns[0].count) &+ (choices & 2 == 0 ? 0 : UInt16(input.number(bytes: 2))))
      raw.append(integer: UInt16(columns[1].count) &+ (choices & 4 == 0 ? 0 : UInt16(input.number(bytes: 2))))
      raw.append(integer: choices & 8 == 0 ? UInt16(0) : 1)
      for column in columns { raw += column }
      return Block(
        raw: raw, isCompressed: choices & 16 != 0,
        rawByteCount: choices & 32 != 0 ? UInt16(truncatingIfNeeded: input.number(bytes: 2)) : nil)
    }

    var stored: [UInt8] {
      guard isCompressed else { return raw }
      var room = [CChar](repeating: 0, count: Int(LZ4_compressBound(Int32(raw.count))))
      let count = raw.withUnsafeBytes { raw in
        LZ4_compress_default(
          raw.bindMemory(to: CChar.self).baseAddress, &room, Int32(raw.count), Int32(room.count))
      }
      return room.prefix(Int(count)).map { UInt8(bitPattern: $0) }
    }
  }

  private static func file(_ blocks: [[Block]], _ choices: UInt8) -> IndexFile {
    var header = IndexHeader(
      storeID: id,
      segments: bases.map { IndexedSegment(baseOffset: $0, endPosition: 60_000, chain: 7) }, endOffset: endOffset)
    var bytes = [UInt8](repeating: 0, count: IndexLayout.blocksPosition(segmentCount: bases.count))
    var tables: [[(lowerBound: UInt64, position: Int)]] = []
    for section in IndexSection.allCases {
      header.sections[section.rawValue].blocksPosition = bytes.count
      header.sections[section.rawValue].blockCount = blocks[section.rawValue].count
      var table: [(lowerBound: UInt64, position: Int)] = []
      for block in blocks[section.rawValue] {
        table.append((block.raw.withUnsafeBytes { $0.integer(at: 0) }, bytes.count))
        let stored = block.stored
        bytes.append(integer: UInt32(0))
        bytes.append(integer: UInt16(stored.count))
        bytes.append(integer: block.rawByteCount ?? UInt16(block.raw.count))
        bytes += stored
      }
      tables.append(table)
    }
    while bytes.count % 8 != 0 { bytes.append(0) }
    for section in IndexSection.allCases {
      header.sections[section.rawValue].tablePosition = bytes.count
      for (lowerBound, position) in tables[section.rawValue] {
        bytes.append(integer: lowerBound)
        bytes.append(integer: UInt64(position))
      }
    }
    while bytes.count % 64 != 0 { bytes.append(0) }
    for section in IndexSection.allCases {
      header.sections[section.rawValue].filterPosition = bytes.count
      guard section != .frames else { continue }
      header.sections[section.rawValue].lineCount = 1
      bytes += [UInt8](repeating: 0xFF, count: IndexFilter.bitsByteCount)
      bytes.append(integer: UInt32(choices >> 6))
      bytes.append(integer: UInt32(tables[section.rawValue][0].position / IndexFilter.positionUnit))
      bytes.append(integer: UInt32(0))
    }
    header.fileByteCount = bytes.count
    bytes.replaceSubrange(0..<IndexLayout.blocksPosition(segmentCount: bases.count), with: header.encoded())
    Resealing.index(&bytes)
    let memory = GuardedMemory(bytes)
    do throws(Fault) {
      return try IndexFile(
        Mapping(bytes: UnsafeRawBufferPointer(memory.bytes)) { _ in withExtendedLifetime(memory) {} },
        path: "block.idx", storeID: id, baseOffset: 0, endOffset: endOffset)
    } catch {
      broken("the header is sound: \(error)")
    }
  }

  /// A sound file that follows on.
  private static let second: IndexFile = {
    let output = IndexOutput(nil)
    do throws(IndexFailure) {
      var writer = try IndexWriter(
        IndexHeader(
          storeID: id, segments: [IndexedSegment(baseOffset: endOffset, endPosition: 50_000, chain: 9)],
          endOffset: 6000), to: output)
      try writer.add(key: 0, address: 4096)
      try writer.begin(.streams)
      for key in stride(from: UInt64(5), to: 4000, by: 7) {
        let addresses: [UInt64] = [5000 + key, 9000 + key]
        let result = addresses.withUnsafeBufferPointer { addresses in
          Result { () throws(IndexFailure) in try writer.add(key: key, firstVersion: 1 + key % 3, addresses: addresses)
          }
        }
        try result.get()
      }
      try writer.begin(.eventIDs)
      try writer.add(key: 77, address: 4500)
      _ = try writer.finish()
    } catch {
      broken("an index can be written to memory: \(error)")
    }
    do throws(Fault) {
      return try IndexFile(
        output.takeMemory(), path: "second.idx", storeID: id, baseOffset: endOffset, endOffset: 6000)
    } catch {
      broken("what was just written is sound: \(error)")
    }
  }()

  /// A merge gives up, or makes a file that is sound by itself.
  private static func merge(_ first: IndexFile, _ selector: UInt8) {
    let output = IndexOutput(nil)
    do throws(IndexFailure) {
      _ = try IndexMerge.merge([first, second], to: output)
    } catch {
      if case .index(let file, _, _) = error {
        promise(file === first, "the sound file is not blamed")
      } else {
        broken("only a file can be wrong here: \(error)")
      }
      return
    }
    do throws(Fault) {
      let merged = try IndexFile(
        output.takeMemory(), path: "merged.idx", storeID: id, baseOffset: 0, endOffset: 6000)
      IndexProbe(merged, isSound: (try? merged.check(missingEvents: 0)) != nil, selector: selector).run()
    } catch {
      broken("a merged index can be opened: \(error)")
    }
  }
}
