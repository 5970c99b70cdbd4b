@testable import LogStore

// Client data that looks like what the store writes about itself: records as long as a frame's header, and names, types and
// payloads made from the bytes of frames, records, snapshots and index blocks of the same store.

extension Simulation {
  /// The streams' names. Short ones make records of 48 bytes with few bytes of payload; one has the form of a header.
  static let names = [
    "s0", "s1", "s2", "A", "s4",
    "\u{1}\u{2}\u{3}\u{4}\u{30}\0\0\0" + String(repeating: "\0", count: 16) + "\u{1}\0\0\0\u{1}\0\0\0"
      + "\0\u{20}\0\0" + "\u{5}\u{6}\u{7}\u{8}" + String(repeating: "\0", count: 8),
  ]

  /// The name of a stream, by its number.
  func streamName(_ number: Int) -> String { plan.isHostile ? Self.names[number] : "s\(number)" }

  /// Events of one append whose records have the length, and much of the form, of a frame's header.
  func recordsLikeHeaders(attempt: Int, stream: String, type: String, count: Int) -> [NewEvent] {
    let byteCount = FrameHeader.byteCount - Record.byteCount - stream.utf8.count - type.utf8.count
    return (0..<count).map { ordinal in
      NewEvent(
        stream: stream, type: type,
        // Zeros, so that a header's flags are possible.
        payload: Payload.make(attempt: attempt, ordinal: ordinal, byteCount: byteCount, filler: 0))
    }
  }

  /// Fills the rest of a payload.
  func disguise(_ payload: inout [UInt8], _ generator: inout SeededGenerator) {
    let rest = payload.count - Payload.byteCount
    guard rest > 0 else { return }
    let filler = generator.oneIn(3) ? forgedHeaders(rest, &generator) : storedBytes(rest, &generator)
    guard !filler.isEmpty else { return }
    for index in 0..<rest { payload[Payload.byteCount + index] = filler[index % filler.count] }
  }

  /// Bytes of the store's own files, from any position in them, mostly from the start of something.
  private func storedBytes(_ count: Int, _ generator: inout SeededGenerator) -> [UInt8] {
    machine.withState { state in
      let paths = state.names.files.keys.sorted().filter { $0.hasSuffix(".log") || $0.hasSuffix(".idx") }
      guard !paths.isEmpty, let content = state.names.files[paths.drawn(&generator)]?.content else { return [] }
      let frames = content.count > 4096 ? FormatCheck(segment: content).frames().map(\.position) : []
      let used = content.count - content.reversed().prefix { $0 == 0 }.count
      let start: Int
      switch generator.below(4) {
      case 0 where !frames.isEmpty: start = frames.drawn(&generator)
      case 1 where !frames.isEmpty: start = frames.drawn(&generator) + FrameHeader.byteCount
      case 2: start = 0
      default: start = generator.below(max(used, 1))
      }
      // So that a copy sometimes starts at a multiple of 8, wherever the payload will be.
      return [UInt8](repeating: 0, count: generator.below(8)) + content[min(start, content.count)...].prefix(count)
    }
  }

  /// Headers of frames that could follow the end of the log, with checksums as far as a client can know them that has seen
  /// ids derived from offsets: half of the store's id.
  private func forgedHeaders(_ count: Int, _ generator: inout SeededGenerator) -> [UInt8] {
    guard let commitPoint = store?.reader.commitPoint, let segment = store?.reader.commitPoint.segments.open.segment
    else {
      return []
    }
    let known = StoreID(first: segment.checksumSeed.storeID.first, second: generator.next())
    let checksumSeed = ChecksumSeed(storeID: known, baseOffset: segment.baseOffset)
    let shift = generator.below(8)
    var bytes = [UInt8](repeating: 0, count: shift)
    let start = commitPoint.end.position + FrameHeader.byteCount + Record.byteCount + shift + 8
    while bytes.count < count {
      let position = (start + bytes.count) / 8 * 8
      var header = [UInt8](repeating: 0, count: FrameHeader.byteCount)
      header.withUnsafeMutableBytes { header in
        header.set(UInt32(FrameHeader.byteCount), at: 4)
        var fields = FrameHeader(
          firstOffset: commitPoint.end.offset + 1, timestamp: disk.now(), eventCount: 0, recordCount: 0,
          syncedPosition: position, chain: 0, bodyChecksum: RunningChecksum().value, isSnapshot: false)
        fields.encode(into: header, at: position, checksumSeed: checksumSeed)
      }
      bytes += header
    }
    return bytes
  }
}
