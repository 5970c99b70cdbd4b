extension Segment {
  /// What is left of a segment without the event at an offset and everything behind it: where it ends, and the bytes of the
  /// last frame if that frame became shorter, empty otherwise.
  ///
  /// All records before that event stay, cursors too. The cursors of an append follow its events, so a cursor never stays
  /// without them. A frame does not record where its appends begin and end, so an append that lies across the offset is
  /// split.
  ///
  /// - Parameter limit: the event lies before this position.
  func cut(
    before offset: UInt64, limit: Int
  ) throws(LogStoreError) -> (next: FrameExpectation, frame: [UInt8]) {
    var next = start
    while next.position < limit {
      var rest = FrameRest()
      let header: FrameHeader
      do throws(Fault) {
        header = try checkFrame(next) { record in
          if record.kind == .event, baseOffset + UInt64(record.relativeOffset) >= offset { rest.isWhole = false }
          if rest.isWhole { rest.add(record) }
        }
      } catch {
        throw damage(error)
      }
      if rest.isWhole {
        next.advance(past: header)
        continue
      }
      if rest.recordCount == 0 { return (next, []) }
      let frame = encode(rest, of: header, at: next.position)
      // Proof that there is a header: it was just written, with its checksum.
      frame.withUnsafeBytes { next.advance(past: FrameHeader(trusted: $0, at: 0)) }
      return (next, frame)
    }
    throw damage(Fault(position: limit, reason: "the event at offset \(offset) should be before this place"))
  }

  /// A frame with the first records of another, at its position and with its time.
  private func encode(_ rest: FrameRest, of header: FrameHeader, at position: Int) -> [UInt8] {
    let used = FrameHeader.byteCount + rest.byteCount
    var frame = [UInt8](repeating: 0, count: used.roundedUp(to: 8))
    var body = rest.body
    frame.withUnsafeMutableBytes { frame in
      frame.copyMemory(from: bytes.part(position, used))
      body.add(UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(frame)[used...]))
      var cut = header
      cut.eventCount = rest.eventCount
      cut.recordCount = rest.recordCount
      cut.bodyChecksum = body.value
      cut.encode(into: frame, at: position, checksumSeed: checksumSeed)
    }
    return frame
  }
}

/// The first records of a frame, counted.
private struct FrameRest {
  var isWhole = true
  var recordCount = 0
  var eventCount = 0
  var byteCount = 0
  /// The running checksum of their checksums, without padding.
  var body = RunningChecksum()

  mutating func add(_ record: Record) {
    recordCount += 1
    if record.kind == .event { eventCount += 1 }
    byteCount += record.byteCount
    body.add(record.checksum)
  }
}
