/// Searches for frames and records in a segment of which any byte may be damaged. It finds each by its own checksum, which
/// covers its position.
struct SalvageSearch {
  let segment: Segment
  /// Events have lower offsets.
  let bound: UInt64
  /// The number of bytes that the byte-by-byte search may still check, so that no content makes it endless.
  private var scanByteCount: Int

  init(_ segment: Segment, bound: UInt64) {
    self.segment = segment
    self.bound = bound
    scanByteCount = 16 * segment.bytes.count + (1 << 20)
  }

  /// The header at a position, if it is sound by itself and can be the next.
  func header(at position: Int) -> FrameHeader? {
    guard let header = FrameHeader(in: segment.bytes, at: position, checksumSeed: segment.checksumSeed) else {
      return nil
    }
    return header.firstOffset >= segment.baseOffset && header.endOffset <= bound ? header : nil
  }

  /// The record at a position, if it is sound by itself and can be a wanted one.
  ///
  /// - Parameter frame: the position of its frame, if known.
  func record(at position: Int, before limit: Int, frame: Int?) -> Record? {
    guard position <= limit - Record.byteCount else { return nil }
    let bytes = segment.bytes
    let distance = Record.frameDistance(in: bytes, at: position)
    // The cheap tests first.
    guard distance >= FrameHeader.byteCount, distance <= position - SegmentHeader.byteCount,
      bytes[position + RecordField.kind] <= RecordKind.lostStream.rawValue,
      frame.map({ position - distance == $0 }) ?? ((position - distance) % 8 == 0)
    else { return nil }
    let byteCount = Record.byteCount(in: bytes, at: position)
    guard byteCount >= Record.byteCount, byteCount <= limit - position else { return nil }
    return Record(in: bytes, at: position, limit: limit, checksumSeed: segment.checksumSeed)
  }

  /// As ``record(at:before:frame:)``, and counts the work against the search's limit.
  mutating func isRecord(at position: Int, before limit: Int, frame: Int) -> Bool {
    guard position <= limit - Record.byteCount, scanByteCount > 0,
      Record.frameDistance(in: segment.bytes, at: position) == position - frame
    else { return false }
    let byteCount = Record.byteCount(in: segment.bytes, at: position)
    // A length that does not fit costs nothing.
    guard byteCount <= limit - position else { return false }
    scanByteCount -= byteCount
    return record(at: position, before: limit, frame: frame) != nil
  }

  /// The next frame header or record behind a position.
  ///
  /// - Parameter frameFrom: no frame begins before it.
  /// - Parameter next: no event has a lower offset.
  mutating func search(from start: Int, frameFrom: Int, next: UInt64) -> (position: Int, isFrame: Bool)? {
    let bytes = segment.bytes
    var position = start + 1
    while position <= bytes.count - Record.byteCount {
      if position % 8 == 0 {
        // Neither a frame nor a record begins with 16 zeros, since its length is not zero.
        if bytes.integer(at: position, as: UInt64.self) == 0,
          position + 16 <= bytes.count, bytes.integer(at: position + 8, as: UInt64.self) == 0
        {
          position += 8
          continue
        }
        if header(at: position) != nil { return (position, true) }
      }
      let byteCount = Record.byteCount(in: bytes, at: position)
      let distance = Record.frameDistance(in: bytes, at: position)
      let offset =
        segment.baseOffset + UInt64(bytes.integer(at: position + RecordField.relativeOffset, as: UInt32.self))
      if distance >= FrameHeader.byteCount, distance <= position - frameFrom, (position - distance) % 8 == 0,
        offset >= next,
        offset <= bound, byteCount >= Record.byteCount, byteCount <= bytes.count - position, scanByteCount > 0
      {
        scanByteCount -= byteCount
        if record(at: position, before: bytes.count, frame: nil) != nil { return (position, false) }
      }
      position += 1
    }
    return nil
  }
}
