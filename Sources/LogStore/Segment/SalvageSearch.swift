/// Looks for frames and records in a segment of which any byte may be damaged. Each is found by its own checksum, which
/// covers its place.
struct SalvageSearch {
  let segment: Segment
  /// Events have lower offsets.
  let bound: UInt64
  /// Bytes that may still be checked in looking for records byte by byte, so that no content makes it endless.
  private var scanByteCount: Int

  init(_ segment: Segment, bound: UInt64) {
    self.segment = segment
    self.bound = bound
    scanByteCount = 16 * segment.bytes.count + (1 << 20)
  }

  /// A frame's header that is sound by itself and can be the next.
  func header(at position: Int) -> FrameHeader? {
    guard let header = FrameHeader(in: segment.bytes, at: position, place: segment.place) else {
      return nil
    }
    return header.firstOffset >= segment.baseOffset && header.endOffset <= bound ? header : nil
  }

  /// A record that is sound by itself and can be one of those wanted.
  ///
  /// - Parameter frame: where its frame begins, if that is known.
  func record(at position: Int, before limit: Int, frame: Int?) -> Record? {
    guard position <= limit - Record.byteCount else { return nil }
    let bytes = segment.bytes
    let distance = Int(bytes.integer(at: position + 28, as: UInt32.self))
    // The cheap tests first.
    guard distance >= FrameHeader.byteCount, distance <= position - SegmentHeader.byteCount, bytes[position + 8] <= 4,
      frame.map({ position - distance == $0 }) ?? ((position - distance) % 8 == 0)
    else { return nil }
    let byteCount = Int(bytes.integer(at: position + 4, as: UInt32.self))
    guard byteCount >= Record.byteCount, byteCount <= limit - position else { return nil }
    return Record(in: bytes, at: position, limit: limit, place: segment.place)
  }

  /// As ``record(at:before:frame:)``, at the cost of the work that is left for such.
  mutating func isRecord(at position: Int, before limit: Int, frame: Int) -> Bool {
    guard position <= limit - Record.byteCount, scanByteCount > 0,
      Int(segment.bytes.integer(at: position + 28, as: UInt32.self)) == position - frame
    else { return false }
    let byteCount = Int(segment.bytes.integer(at: position + 4, as: UInt32.self))
    // A length that does not fit costs nothing.
    guard byteCount <= limit - position else { return false }
    scanByteCount -= byteCount
    return record(at: position, before: limit, frame: frame) != nil
  }

  /// The next frame's header or record behind a place where there is none.
  ///
  /// - Parameter frameFrom: no frame begins before it.
  /// - Parameter next: no event has a lower offset.
  mutating func search(from start: Int, frameFrom: Int, next: UInt64) -> (position: Int, isFrame: Bool)? {
    let bytes = segment.bytes
    var position = start + 1
    while position <= bytes.count - Record.byteCount {
      if position % 8 == 0 {
        // Neither begins with so many zeros, since a length is not zero.
        if bytes.integer(at: position, as: UInt64.self) == 0,
          position + 16 <= bytes.count, bytes.integer(at: position + 8, as: UInt64.self) == 0
        {
          position += 8
          continue
        }
        if header(at: position) != nil { return (position, true) }
      }
      let byteCount = Int(bytes.integer(at: position + 4, as: UInt32.self))
      let distance = Int(bytes.integer(at: position + 28, as: UInt32.self))
      let offset = segment.baseOffset + UInt64(bytes.integer(at: position + 24, as: UInt32.self))
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
