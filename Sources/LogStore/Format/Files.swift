// The small fixed files and headers of docs/FORMAT.md: bytes ↔ values, no I/O.

/// The version of the format that this program writes. It reads no other, except ``gapFormatVersion``.
let formatVersion: UInt32 = 1
/// The version of what a program without support for gaps would misread: the header of a segment behind a gap, and the
/// manifest of a backup with a gap.
let gapFormatVersion: UInt32 = 2

enum HeaderFault: Error, Equatable {
  case fault(Fault)
  case newerVersion(UInt32, supported: UInt32)
}

/// Byte positions of the fields that the files `store` and `clean`, segments, backups and index files have in common.
enum EnvelopeField {
  static let magic = 0
  static let version = 8
  static let storeID = 16
}

extension StoreID {
  static let byteCount = 16

  /// Reads an id at a position.
  init(_ bytes: UnsafeRawBufferPointer, at position: Int) {
    self.init(first: bytes.integer(at: position), second: bytes.integer(at: position + 8))
  }

  /// Writes the id at a position.
  func encode(into bytes: UnsafeMutableRawBufferPointer, at position: Int) {
    bytes.set(first, at: position)
    bytes.set(second, at: position + 8)
  }
}

/// Checks the magic bytes and the version that all files begin with, and the checksum that their header ends with. Returns the
/// version.
@discardableResult
func checkEnvelope(
  _ bytes: UnsafeRawBufferPointer, magic: StaticString, byteCount: Int, upTo supported: UInt32 = formatVersion
) throws(HeaderFault) -> UInt32 {
  guard bytes.count >= byteCount else {
    throw .fault(Fault(position: bytes.count, reason: "the file ends before its \(byteCount) bytes of header"))
  }
  guard magic.withUTF8Buffer({ $0.elementsEqual(bytes.prefix($0.count)) }) else {
    throw .fault(Fault(position: EnvelopeField.magic, reason: "it does not begin with \(magic)"))
  }
  let version: UInt32 = bytes.integer(at: EnvelopeField.version)
  // The checksum first: every version has it at the same position, so a flipped bit of the version is reported as damage and
  // not as a newer file.
  guard bytes.integer(at: byteCount - 4, as: UInt32.self) == checksum(bytes.part(0, byteCount - 4)) else {
    throw .fault(Fault(position: byteCount - 4, reason: "the header's checksum does not match its bytes"))
  }
  if version > supported { throw .newerVersion(version, supported: supported) }
  guard version >= formatVersion else {
    throw .fault(Fault(position: EnvelopeField.version, reason: "format version \(version) was never used"))
  }
  return version
}

/// Refuses reserved bytes that are not zero, whatever the checksum says.
func checkZeros(_ bytes: UnsafeRawBufferPointer, _ ranges: Range<Int>...) throws(HeaderFault) {
  for range in ranges {
    guard let other = bytes.part(range.lowerBound, range.count).firstNonZero else { continue }
    throw .fault(Fault(position: range.lowerBound + other, reason: "a byte that is to be zero is not"))
  }
}

/// Encodes a header: magic bytes, version, what `fill` writes, and the checksum.
func envelope(
  _ magic: StaticString, byteCount: Int, version: UInt32 = formatVersion,
  _ fill: (UnsafeMutableRawBufferPointer) -> Void
) -> [UInt8] {
  var bytes = [UInt8](repeating: 0, count: byteCount)
  bytes.withUnsafeMutableBytes { buffer in
    magic.withUTF8Buffer { buffer.copyBytes(from: $0) }
    buffer.set(version, at: EnvelopeField.version)
    fill(buffer)
    buffer.set(checksum(UnsafeRawBufferPointer(buffer).part(0, byteCount - 4)), at: byteCount - 4)
  }
  return bytes
}

/// The file `store`.
struct StoreHeader: Equatable, Sendable {
  static let byteCount = 64

  var storeID: StoreID
  var createdMicroseconds: UInt64

  init(storeID: StoreID, createdMicroseconds: UInt64) {
    self.storeID = storeID
    self.createdMicroseconds = createdMicroseconds
  }

  init(_ bytes: UnsafeRawBufferPointer) throws(HeaderFault) {
    try checkEnvelope(bytes, magic: "LOGSTORE", byteCount: Self.byteCount)
    guard bytes.count == Self.byteCount else {
      throw .fault(Fault(position: Self.byteCount, reason: "the file should end here"))
    }
    try checkZeros(bytes, 12..<16, 40..<60)
    storeID = StoreID(bytes, at: EnvelopeField.storeID)
    createdMicroseconds = bytes.integer(at: 32)
  }

  func encoded() -> [UInt8] {
    envelope("LOGSTORE", byteCount: Self.byteCount) { bytes in
      storeID.encode(into: bytes, at: EnvelopeField.storeID)
      bytes.set(createdMicroseconds, at: 32)
    }
  }
}

/// The first page of a segment.
struct SegmentHeader: Equatable, Sendable {
  static let byteCount = 4096

  /// Byte positions of the fields.
  enum Field {
    static let headerByteCount = 12
    static let baseOffset = 32
    static let previousBaseOffset = 40
    static let fileByteCount = 48
    static let created = 56
    static let chain = 64
    static let reserved = 68
    static let gapStart = 72
    static let gapEnd = 80
  }

  /// The previous base offset of a store's first segment.
  static let noPrevious = UInt64.max
  /// An offset is less than this plus the number of events of a segment, so that counting on from it cannot overflow.
  static let baseOffsetLimit = Limits.countLimit

  var storeID: StoreID
  var baseOffset: UInt64
  var previousBaseOffset: UInt64
  var fileByteCount: UInt64
  var createdMicroseconds: UInt64
  /// The header checksum of the last frame of the segment before.
  var chain: UInt32
  /// The end offset of the segment before, if that is not the base offset: the offsets between them are a gap.
  var gapStart: UInt64?

  /// The end offset of the segment before.
  var previousEndOffset: UInt64 { gapStart ?? baseOffset }
  /// The offsets between the segment before and this one, whose events a repair could not save.
  var gap: Range<UInt64>? { gapStart.map { $0..<baseOffset } }

  init(
    storeID: StoreID, baseOffset: UInt64, previousBaseOffset: UInt64, fileByteCount: UInt64,
    createdMicroseconds: UInt64, chain: UInt32, gapStart: UInt64? = nil
  ) {
    self.storeID = storeID
    self.baseOffset = baseOffset
    self.previousBaseOffset = previousBaseOffset
    self.fileByteCount = fileByteCount
    self.createdMicroseconds = createdMicroseconds
    self.chain = chain
    self.gapStart = gapStart
  }

  init(_ bytes: UnsafeRawBufferPointer) throws(HeaderFault) {
    let version = try checkEnvelope(
      bytes, magic: "LSSEGMNT", byteCount: Self.byteCount, upTo: gapFormatVersion)
    guard bytes.integer(at: Field.headerByteCount, as: UInt32.self) == UInt32(Self.byteCount) else {
      throw .fault(Fault(position: Field.headerByteCount, reason: "the header length is not \(Self.byteCount)"))
    }
    try checkZeros(
      bytes, Field.reserved..<Field.gapStart,
      (version == gapFormatVersion ? Field.gapEnd : Field.gapStart)..<Self.byteCount - 4)
    storeID = StoreID(bytes, at: EnvelopeField.storeID)
    baseOffset = bytes.integer(at: Field.baseOffset)
    previousBaseOffset = bytes.integer(at: Field.previousBaseOffset)
    fileByteCount = bytes.integer(at: Field.fileByteCount)
    createdMicroseconds = bytes.integer(at: Field.created)
    chain = bytes.integer(at: Field.chain)
    guard baseOffset < Self.baseOffsetLimit else {
      throw .fault(
        Fault(position: Field.baseOffset, reason: "a segment that begins with offset \(baseOffset) is not possible"))
    }
    guard fileByteCount % 4096 == 0, fileByteCount > 4096, fileByteCount <= UInt64(UInt32.max) else {
      throw .fault(Fault(position: Field.fileByteCount, reason: "a segment of \(fileByteCount) bytes is not possible"))
    }
    guard version == gapFormatVersion else { return }
    let start: UInt64 = bytes.integer(at: Field.gapStart)
    guard start < baseOffset, previousBaseOffset <= start else {
      throw .fault(
        Fault(position: Field.gapStart, reason: "a gap from offset \(start) to \(baseOffset) is not possible"))
    }
    gapStart = start
  }

  func encoded() -> [UInt8] {
    envelope(
      "LSSEGMNT", byteCount: Self.byteCount, version: gapStart == nil ? formatVersion : gapFormatVersion
    ) { bytes in
      bytes.set(UInt32(Self.byteCount), at: Field.headerByteCount)
      storeID.encode(into: bytes, at: EnvelopeField.storeID)
      bytes.set(baseOffset, at: Field.baseOffset)
      bytes.set(previousBaseOffset, at: Field.previousBaseOffset)
      bytes.set(fileByteCount, at: Field.fileByteCount)
      bytes.set(createdMicroseconds, at: Field.created)
      bytes.set(chain, at: Field.chain)
      if let gapStart { bytes.set(gapStart, at: Field.gapStart) }
    }
  }
}

/// The file `clean`: the end of the log after a clean close.
struct CleanEnd: Equatable, Sendable {
  static let byteCount = 64

  /// Byte positions of the fields.
  enum Field {
    static let chain = 12
    static let endOffset = 32
    static let baseOffset = 40
    static let endPosition = 48
    static let reserved = 56
  }

  var storeID: StoreID
  var endOffset: UInt64
  var baseOffset: UInt64
  var endPosition: UInt64
  var chain: UInt32

  init(storeID: StoreID, endOffset: UInt64, baseOffset: UInt64, endPosition: UInt64, chain: UInt32) {
    self.storeID = storeID
    self.endOffset = endOffset
    self.baseOffset = baseOffset
    self.endPosition = endPosition
    self.chain = chain
  }

  init(_ bytes: UnsafeRawBufferPointer) throws(HeaderFault) {
    try checkEnvelope(bytes, magic: "LSCLEAN1", byteCount: Self.byteCount)
    guard bytes.count == Self.byteCount else {
      throw .fault(Fault(position: Self.byteCount, reason: "the file should end here"))
    }
    try checkZeros(bytes, Field.reserved..<Self.byteCount - 4)
    chain = bytes.integer(at: Field.chain)
    storeID = StoreID(bytes, at: EnvelopeField.storeID)
    endOffset = bytes.integer(at: Field.endOffset)
    baseOffset = bytes.integer(at: Field.baseOffset)
    endPosition = bytes.integer(at: Field.endPosition)
    guard baseOffset < SegmentHeader.baseOffsetLimit, endOffset >= baseOffset,
      endOffset - baseOffset <= UInt64(UInt32.max)
    else {
      throw .fault(
        Fault(
          position: Field.endOffset,
          reason: "a log whose last segment holds the offsets \(baseOffset) to \(endOffset) is not possible"))
    }
  }

  func encoded() -> [UInt8] {
    envelope("LSCLEAN1", byteCount: Self.byteCount) { bytes in
      bytes.set(chain, at: Field.chain)
      storeID.encode(into: bytes, at: EnvelopeField.storeID)
      bytes.set(endOffset, at: Field.endOffset)
      bytes.set(baseOffset, at: Field.baseOffset)
      bytes.set(endPosition, at: Field.endPosition)
    }
  }
}

/// How far the log is durable.
struct DurableEnd: Equatable, Sendable {
  /// Every event with a lower offset is on disk.
  var offset: UInt64
  /// The segment that the end is in, and the position in it.
  var baseOffset: UInt64
  var position: Int
}

/// The file `tail`: what a running writer tells other processes.
struct TailNotice: Equatable, Sendable {
  static let byteCount = 40

  /// Byte positions of the fields.
  enum Field {
    static let endOffset = 0
    static let writer = 8
    static let segment = 12
    static let baseOffset = 16
    static let endPosition = 24
    static let state = 28
    static let version = 32
    static let checksum = 36
  }

  enum State: UInt32, Sendable {
    case opening = 1
    case open = 2
    case closed = 3
  }

  var end: DurableEnd
  var writer: UInt32
  /// The header checksum of the segment's file: one without events may be replaced by another of the same name.
  var segment: UInt32
  var state: State

  init(end: DurableEnd, writer: UInt32, segment: UInt32, state: State) {
    self.end = end
    self.writer = writer
    self.segment = segment
    self.state = state
  }

  /// Returns nil if the bytes are not a whole notice. The caller then reads them again.
  init?(_ bytes: UnsafeRawBufferPointer) {
    guard bytes.count >= Self.byteCount,
      bytes.integer(at: Field.checksum, as: UInt32.self) == checksum(bytes.part(0, Field.checksum)),
      bytes.integer(at: Field.version, as: UInt32.self) == formatVersion,
      let state = State(rawValue: bytes.integer(at: Field.state))
    else { return nil }
    end = DurableEnd(
      offset: bytes.integer(at: Field.endOffset), baseOffset: bytes.integer(at: Field.baseOffset),
      position: Int(bytes.integer(at: Field.endPosition, as: UInt32.self)))
    writer = bytes.integer(at: Field.writer)
    segment = bytes.integer(at: Field.segment)
    self.state = state
  }

  func encoded() -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: Self.byteCount)
    bytes.withUnsafeMutableBytes { buffer in
      buffer.set(end.offset, at: Field.endOffset)
      buffer.set(writer, at: Field.writer)
      buffer.set(segment, at: Field.segment)
      buffer.set(end.baseOffset, at: Field.baseOffset)
      buffer.set(UInt32(end.position), at: Field.endPosition)
      buffer.set(state.rawValue, at: Field.state)
      buffer.set(formatVersion, at: Field.version)
      buffer.set(checksum(UnsafeRawBufferPointer(buffer).part(0, Field.checksum)), at: Field.checksum)
    }
    return bytes
  }
}

/// The names of a store's files.
enum FileName {
  static let store = "store"
  static let clean = "clean"
  static let tail = "tail"
  static let lock = "lock"
  static let aside = ".tmp"
  /// The next segment while it is prepared.
  static let next = "next" + aside
  /// The lock of a process that builds a whole store aside.
  static let restoring = "restore" + aside
  private static let asides: Set<String> = [
    next, restoring, store + aside, clean + aside, tail + aside, lock + aside,
  ]

  /// Whether this is the name of an unfinished file of a store.
  static func isAside(_ name: String) -> Bool {
    asides.contains(name)
      || name.hasSuffix(indexSuffix + aside) && indexRange(String(name.dropLast(aside.utf8.count))) != nil
  }

  static func segment(_ baseOffset: UInt64) -> String { digits(baseOffset) + ".log" }
  static func index(_ range: Range<UInt64>) -> String {
    digits(range.lowerBound) + "-" + digits(range.upperBound) + indexSuffix
  }
  static let indexSuffix = ".idx"

  /// The base offset in a segment's name; nil for other names.
  static func baseOffset(_ name: String, suffix: String) -> UInt64? {
    guard name.hasSuffix(suffix), name.utf8.count == 20 + suffix.utf8.count else { return nil }
    return number(name.utf8.prefix(20))
  }

  /// The offsets in an index file's name; nil for other names.
  static func indexRange(_ name: String) -> Range<UInt64>? {
    guard name.hasSuffix(indexSuffix), name.utf8.count == 41 + indexSuffix.utf8.count,
      name.utf8.dropFirst(20).first == UInt8(ascii: "-"),
      let base = number(name.utf8.prefix(20)), let end = number(name.utf8.dropFirst(21).prefix(20)), base < end
    else { return nil }
    return base..<end
  }

  private static func number(_ digits: Substring.UTF8View) -> UInt64? {
    guard digits.allSatisfy({ (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }) else { return nil }
    return UInt64(String(decoding: digits, as: UTF8.self))
  }

  private static func digits(_ value: UInt64) -> String {
    let text = String(value)
    return String(repeating: "0", count: 20 - text.utf8.count) + text
  }
}
