import CChecksum

// The layout of index files (docs/FORMAT.md): values ↔ bytes. `IndexWriter` writes index files, `IndexFile` reads them.

enum IndexLayout {
  static let magic: StaticString = "LSINDEX3"
  static let headerByteCount = 168
  static let sectionsPosition = 72
  static let sectionByteCount = 32
  static let segmentByteCount = 16
  static let blockHeadByteCount = 8
  static let rawHeadByteCount = 24
  static let tableEntryByteCount = 16
  static let checksumByteCount = 4

  /// Byte positions in the header.
  enum Field {
    static let segmentCount = 12
    static let baseOffset = 32
    static let endOffset = 40
    static let fileByteCount = 48
    static let newStreamCount = 56
    static let addressShift = 64
    static let reserved = 68
  }

  /// Byte positions in a section's part of the header.
  enum SectionField {
    static let blocksPosition = 0
    static let tablePosition = 8
    static let filterPosition = 16
    static let blockCount = 24
    static let lineCount = 28
  }

  /// Byte positions in the entry of a segment.
  enum SegmentField {
    static let baseOffset = 0
    static let endPosition = 8
    static let chain = 12
  }

  /// Byte positions in the head of a block.
  enum BlockField {
    static let checksum = 0
    static let storedByteCount = 4
    static let rawByteCount = 6
  }

  /// Byte positions in a decompressed block.
  enum RawField {
    static let lowerBound = 0
    static let upperBound = 8
    static let entryCount = 16
    static let keyByteCount = 18
    static let versionByteCount = 20
    static let reserved = 22
  }

  /// Byte positions in an entry of a table.
  enum TableField {
    static let lowerBound = 0
    static let position = 8
  }

  /// The approximate size of a block before compression. Small, because a query reads a whole block.
  static let blockTargetByteCount = 1536
  static let eventsPerEntry = 1024
  /// The index leaves out frames that are closer to the one before than this. A query reads the frames in between.
  static let frameStrideByteCount = 16 << 10
  /// More than any disk could hold, and few enough that no sum of them overflows.
  static let segmentsPerFile = 1 << 20

  /// Bytes before the first block.
  static func blocksPosition(segmentCount: Int) -> Int {
    (headerByteCount + segmentCount * segmentByteCount + checksumByteCount).roundedUp(to: 8)
  }

  static func addressShift(endPosition: UInt32) -> UInt32 {
    max(12, UInt32(UInt32.bitWidth - endPosition.leadingZeroBitCount))
  }
}

/// A section of an index file. The checksums of its blocks and of its filter lines include different kind numbers.
enum IndexSection: Int, CaseIterable, Sendable {
  case frames = 0
  case streams = 1
  case eventIDs = 2

  var blockKind: UInt8 { UInt8(rawValue + 1) }
  var lineKind: UInt8 { UInt8(rawValue + 3) }
  var name: String {
    switch self {
    case .frames: "frames"
    case .streams: "streams"
    case .eventIDs: "event ids"
    }
  }
}

/// A segment as an index file names it.
struct IndexedSegment: Equatable, Sendable {
  var baseOffset: UInt64
  /// The position behind the last frame.
  var endPosition: UInt32
  /// The last frame's header checksum: the index belongs to exactly this content.
  var chain: UInt32
}

/// The positions of a section's parts.
struct IndexSectionLayout: Equatable, Sendable {
  var blocksPosition = 0
  var tablePosition = 0
  var filterPosition = 0
  var blockCount = 0
  var lineCount = 0

  init() {}

  /// Reads a section's part of the header, and checks that its parts fit into the file.
  init(_ bytes: UnsafeRawBufferPointer, _ section: IndexSection) throws(Fault) {
    let at = IndexLayout.sectionsPosition + section.rawValue * IndexLayout.sectionByteCount
    blocksPosition = Int(clamping: bytes.integer(at: at + IndexLayout.SectionField.blocksPosition, as: UInt64.self))
    tablePosition = Int(clamping: bytes.integer(at: at + IndexLayout.SectionField.tablePosition, as: UInt64.self))
    filterPosition = Int(clamping: bytes.integer(at: at + IndexLayout.SectionField.filterPosition, as: UInt64.self))
    blockCount = Int(bytes.integer(at: at + IndexLayout.SectionField.blockCount, as: UInt32.self))
    lineCount = Int(bytes.integer(at: at + IndexLayout.SectionField.lineCount, as: UInt32.self))
    guard blocksPosition <= bytes.count, tablePosition <= bytes.count,
      filterPosition <= bytes.count, filterPosition % IndexFilter.lineByteCount == 0,
      blockCount <= (bytes.count - tablePosition) / IndexLayout.tableEntryByteCount,
      lineCount <= (bytes.count - filterPosition) / IndexFilter.lineByteCount,
      section == .frames || (blockCount == 0) == (lineCount == 0)
    else { throw Fault(position: at, reason: "the index's section of \(section.name) can't be there") }
  }
}

/// The header of an index file.
struct IndexHeader: Sendable {
  var storeID: StoreID
  var segments: [IndexedSegment]
  var endOffset: UInt64
  var fileByteCount = 0
  var newStreamCount: UInt64 = 0
  var sections = [IndexSectionLayout](repeating: IndexSectionLayout(), count: IndexSection.allCases.count)

  var baseOffset: UInt64 { segments[0].baseOffset }
  /// Bits of an address that hold the position.
  var addressShift: UInt32

  /// - Parameter segments: at least one, in order.
  init(storeID: StoreID, segments: [IndexedSegment], endOffset: UInt64) {
    self.storeID = storeID
    self.segments = segments
    self.endOffset = endOffset
    addressShift = IndexLayout.addressShift(endPosition: segments.map(\.endPosition).max() ?? 0)
  }

  var checksumSeed: IndexChecksumSeed {
    IndexChecksumSeed(storeID: storeID, baseOffset: baseOffset, endOffset: endOffset)
  }

  /// Reads the header, and checks that its fields agree with each other and with the file's length.
  init(_ bytes: UnsafeRawBufferPointer) throws(Fault) {
    guard bytes.count >= IndexLayout.headerByteCount + IndexLayout.segmentByteCount + IndexLayout.checksumByteCount
    else {
      throw Fault(position: bytes.count, reason: "the index ends before its header does")
    }
    guard IndexLayout.magic.withUTF8Buffer({ $0.elementsEqual(bytes.prefix($0.count)) }) else {
      throw Fault(position: EnvelopeField.magic, reason: "the index does not begin with \(IndexLayout.magic)")
    }
    let version: UInt32 = bytes.integer(at: EnvelopeField.version)
    guard version == formatVersion else {
      throw Fault(position: EnvelopeField.version, reason: "index version \(version) is not \(formatVersion)")
    }
    let segmentCount = Int(bytes.integer(at: IndexLayout.Field.segmentCount, as: UInt32.self))
    guard (1...IndexLayout.segmentsPerFile).contains(segmentCount),
      IndexLayout.blocksPosition(segmentCount: segmentCount) <= bytes.count
    else {
      throw Fault(
        position: IndexLayout.Field.segmentCount, reason: "an index of \(segmentCount) segments is not possible here")
    }
    let checked = IndexLayout.headerByteCount + segmentCount * IndexLayout.segmentByteCount
    guard bytes.integer(at: checked, as: UInt32.self) == checksum(bytes.part(0, checked)) else {
      throw Fault(position: checked, reason: "the checksum of the index's header does not match")
    }
    storeID = StoreID(bytes, at: EnvelopeField.storeID)
    endOffset = bytes.integer(at: IndexLayout.Field.endOffset)
    fileByteCount = Int(clamping: bytes.integer(at: IndexLayout.Field.fileByteCount, as: UInt64.self))
    newStreamCount = bytes.integer(at: IndexLayout.Field.newStreamCount)
    addressShift = bytes.integer(at: IndexLayout.Field.addressShift)
    segments = (0..<segmentCount).map { number in
      let at = IndexLayout.headerByteCount + number * IndexLayout.segmentByteCount
      return IndexedSegment(
        baseOffset: bytes.integer(at: at + IndexLayout.SegmentField.baseOffset),
        endPosition: bytes.integer(at: at + IndexLayout.SegmentField.endPosition),
        chain: bytes.integer(at: at + IndexLayout.SegmentField.chain))
    }
    guard fileByteCount == bytes.count else {
      throw Fault(
        position: IndexLayout.Field.fileByteCount,
        reason: "the index says it has \(fileByteCount) bytes, it has \(bytes.count)")
    }
    guard bytes.integer(at: IndexLayout.Field.baseOffset, as: UInt64.self) == baseOffset,
      zip(segments, segments.dropFirst()).allSatisfy({ $0.baseOffset < $1.baseOffset }),
      segments[segments.count - 1].baseOffset < endOffset,
      addressShift == IndexLayout.addressShift(endPosition: segments.map(\.endPosition).max() ?? 0)
    else { throw Fault(position: IndexLayout.Field.baseOffset, reason: "the index's segments are not in order") }
    // Each begins with an event of its own.
    guard newStreamCount <= endOffset - baseOffset else {
      throw Fault(
        position: IndexLayout.Field.newStreamCount,
        reason: "\(newStreamCount) streams can't begin with \(endOffset - baseOffset) events")
    }
    for section in IndexSection.allCases {
      sections[section.rawValue] = try IndexSectionLayout(bytes, section)
    }
  }

  func encoded() -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(IndexLayout.blocksPosition(segmentCount: segments.count))
    IndexLayout.magic.withUTF8Buffer { bytes.append(contentsOf: $0) }
    bytes.append(integer: formatVersion)
    bytes.append(integer: UInt32(segments.count))
    bytes.append(integer: storeID.first)
    bytes.append(integer: storeID.second)
    bytes.append(integer: baseOffset)
    bytes.append(integer: endOffset)
    bytes.append(integer: UInt64(fileByteCount))
    bytes.append(integer: newStreamCount)
    bytes.append(integer: addressShift)
    bytes.append(integer: UInt32(0))
    for section in sections {
      bytes.append(integer: UInt64(section.blocksPosition))
      bytes.append(integer: UInt64(section.tablePosition))
      bytes.append(integer: UInt64(section.filterPosition))
      bytes.append(integer: UInt32(section.blockCount))
      bytes.append(integer: UInt32(section.lineCount))
    }
    for segment in segments {
      bytes.append(integer: segment.baseOffset)
      bytes.append(integer: segment.endPosition)
      bytes.append(integer: segment.chain)
    }
    bytes.append(integer: bytes.withUnsafeBytes(checksum))
    while bytes.count % 8 != 0 { bytes.append(0) }
    return bytes
  }
}

/// Every checksum in an index file starts from this, so that a block of another store, file or position never passes.
struct IndexChecksumSeed: Sendable {
  private let register: UInt32

  init(storeID: StoreID, baseOffset: UInt64, endOffset: UInt64) {
    var prefix: [UInt8] = []
    prefix.append(integer: storeID.first)
    prefix.append(integer: storeID.second)
    prefix.append(integer: baseOffset)
    prefix.append(integer: endOffset)
    register = cchecksum_crc32c(~0, prefix, prefix.count)
  }

  @inline(__always)
  func checksum(of bytes: UnsafeRawBufferPointer, kind: UInt8, at position: Int) -> UInt32 {
    ~cchecksum_crc32c_prefixed(register, UInt64(position) | UInt64(kind) << 56, bytes.baseAddress, bytes.count)
  }
}
